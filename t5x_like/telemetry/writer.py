"""The measurements of a run as files: `metrics.jsonl`, `samples.jsonl` and TensorBoard events."""

import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_like.telemetry.lines import JsonLinesFile, read_lines
from t5x_like.telemetry.tensorboard import TensorBoardWriter

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
TENSORBOARD = "tensorboard"

# The first parts of the names of the run's own metrics, such as `train/loss`; evaluators have others.
METRIC_PREFIXES = ("train", "data", "memory")


class MetricsWriter:
    """Writes a run's measurements into its workdir; one process of a run has one.

    A run that is killed and resumed leaves the lines of an uninterrupted run, provided that `flush` is called before
    the checkpoint of a step is committed.

    Args:
      workdir: the run's directory, on a disk or an object store; made when missing.
      tensorboard: also write TensorBoard events, into `tensorboard/`.
      resume_step: the step of the checkpoint the run resumes from: what was written beyond it is removed. None starts
        afresh and removes everything.
      evaluated: whether the evaluation of that checkpoint is finished; if not, what is there of it is removed too.
    """

    def __init__(self, workdir: epath.Path, *, tensorboard: bool, resume_step: int | None, evaluated: bool = True):
        def stays(record: Mapping[str, Any]) -> bool:
            return evaluated or any(name.partition("/")[0] in METRIC_PREFIXES for name in record)

        self._metrics = JsonLinesFile(workdir / METRICS_FILE, resume_step=resume_step, stays=stays)
        self._samples = JsonLinesFile(workdir / SAMPLES_FILE, resume_step=resume_step, stays=stays)
        self._tensorboard = TensorBoardWriter(workdir / TENSORBOARD, resume_step=resume_step) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line, `{"step": step, "train/loss": …}`, with names in alphabetical order.

        Args:
          step: updates done when the metrics were taken.
          metrics: numbers by name. JSON has no NaN and no infinity: they are written as null.
        """
        values = {name: metrics[name] for name in sorted(metrics)}
        self._metrics.append({"step": step} | {name: _plain(value) for name, value in values.items()})
        if self._tensorboard:
            self._tensorboard.scalars(step, values)

    def write_text(self, step: int, texts: Mapping[str, str]) -> None:
        """Appends one line, `{"step": step, "prompt": …, "text": …}`, for each text.

        Args:
          step: updates done when the texts were sampled.
          texts: the texts by `PREFIX/PROMPT`, such as `samples/Fellow citizens`; the prompt is all that follows the
            first slash.
        """
        for position, (name, text) in enumerate(texts.items(), start=1):
            prefix, slash, prompt = name.partition("/")
            if not slash:
                raise ValueError(f"{name!r} has no prefix; a text is named PREFIX/PROMPT")
            self._samples.append({"step": step, "prompt": prompt, "text": text})
            if self._tensorboard:
                self._tensorboard.text(step, f"{prefix}/{position}", f"{prompt}\n---\n{text}")

    def flush(self) -> None:
        """Makes everything written so far durable; call it before a checkpoint is committed."""
        self._metrics.flush()
        self._samples.flush()
        if self._tensorboard:
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and lets go of the files; safe to call twice."""
        self._metrics.close()
        self._samples.close()
        if self._tensorboard:
            self._tensorboard.close()


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, oldest first: `step`, then numbers by name, None where one was not finite."""
    return read_lines(workdir / METRICS_FILE)


def read_samples(workdir: epath.Path) -> list[dict[str, Any]]:
    """The lines of `samples.jsonl`, oldest first: `step`, `prompt`, `text`."""
    return read_lines(workdir / SAMPLES_FILE)


def _plain(value: float) -> float | int | None:
    """A number as JSON can hold it."""
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None
