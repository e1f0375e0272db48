"""The log of a training run: a line of metrics a logged step, samples, the progress bar, and the alarm for NaN.

Every process keeps one, and the first one's goes into the work directory.

Results are read late. A step's metrics stay on the devices until `IN_FLIGHT` further steps have been dispatched, so
that the host never makes the devices wait for it.
"""

import collections
import math
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from t5x_like.data.batches import BatchCounts
from t5x_like.distributed import startup
from t5x_like.distributed.host_sync import StepReport
from t5x_like.distributed.waiting import watch
from t5x_like.errors import DivergedError
from t5x_like.evaluation.base import Evaluation
from t5x_like.evaluation.schedule import full_names
from t5x_like.experiment import Experiment
from t5x_like.io.events import Events
from t5x_like.program import flops_per_step
from t5x_like.telemetry.devices import memory_metrics, mfu
from t5x_like.telemetry.goodput import Goodput
from t5x_like.telemetry.progress import Progress, format_seconds
from t5x_like.telemetry.spikes import SpikeDetector
from t5x_like.telemetry.stragglers import Stragglers
from t5x_like.telemetry.throughput import Throughput
from t5x_like.telemetry.writer import MetricsWriter

IN_FLIGHT = 2


class Journal:
    """One process's log of a run.

    Args:
      experiment: the run's.
      workdir: where `metrics.jsonl` and `samples.jsonl` are.
      start: updates made before this process began; 0 at the start of a run.
      show: whether to show progress on stderr.
      evaluated: whether the evaluation of step `start` is finished; if not, what is there of it is removed.

    Attributes:
      first_step_seconds: from the start of the process to the end of its first step; None before that.
      flops_per_step: the model's own floating-point operations.
      throughput: the clock.
      tokens: trained on since `start`, by all processes.
    """

    def __init__(self, experiment: Experiment, workdir: epath.Path, start: int, show: bool, evaluated: bool = True):
        self.flops_per_step = flops_per_step(experiment)
        self.experiment = experiment
        self.throughput = Throughput()
        self.tokens = 0
        self.first_step_seconds: float | None = None
        self._dtype = experiment.model.dtype
        first = jax.process_index() == 0
        resume_step = start if start else None
        # Before the metrics are opened, whose last change says how long the process before was at work.
        self._goodput = Goodput(workdir, watch().accounts.seconds, fresh=not start) if first else None
        self._writer = (
            MetricsWriter(
                workdir,
                tensorboard=experiment.telemetry.tensorboard,
                resume_step=resume_step,
                evaluated=evaluated,
            )
            if first
            else None
        )
        self._progress = Progress(experiment.steps, start) if show and first else None
        self._events = Events(workdir, "run") if first else None
        self._stragglers = Stragglers()
        self._spikes = SpikeDetector(experiment.health.spike_factor, experiment.health.spike_steps)
        self._news: dict[str, float] = {}  # what the next line tells once
        self._in_flight: collections.deque[tuple[int, Mapping[str, Any], StepReport]] = collections.deque()

    def step(self, number: int, results: Mapping[str, jax.Array], report: StepReport) -> None:
        """Takes a step that was dispatched to the devices.

        Args:
          number: updates done after it.
          results: what `Program.train_step` gave.
          report: what the processes sent with it.

        Raises:
          DivergedError: when too many steps in a row were not finite, or the loss has spiked.
        """
        self._in_flight.append((number, results, report))
        if self.first_step_seconds is None:
            jax.block_until_ready(results)
            self.first_step_seconds = self._news["train/first_step_seconds"] = startup.seconds()
            self.message(f"the first step is done, {format_seconds(self.first_step_seconds)} after the start")
        while len(self._in_flight) > IN_FLIGHT:
            self._complete_oldest()

    def compiled(self, seconds: Mapping[str, float], peak_bytes: int) -> None:
        """Takes the seconds of the step's compilation, by phase, and the memory that it needs on one device."""
        self._news |= {f"startup/{phase}_seconds": taken for phase, taken in seconds.items()}
        self._news["memory/device_predicted_bytes"] = float(peak_bytes)
        phases = ", ".join(f"{phase} {taken:.1f} s" for phase, taken in seconds.items())
        self.message(f"the step is compiled: {phases}; it needs {peak_bytes / 2**30:.3g} GiB a device")

    def drain(self) -> None:
        """Waits for the steps in flight and writes their lines."""
        while self._in_flight:
            self._complete_oldest()

    def flush(self) -> None:
        """Makes everything written so far durable, as it must be before the step is committed."""
        if self._writer:
            self._writer.flush()

    def evaluations(self, number: int, evaluations: Mapping[str, Evaluation]) -> None:
        """Writes the metrics and samples of step `number`, by the evaluators' keys."""
        metrics = full_names(evaluations)
        if self._writer and metrics:
            self._writer.write(number, metrics)
        for key, found in evaluations.items():
            if self._writer:
                self._writer.write_text(number, {f"{key}/{sample.prompt}": sample.text for sample in found.samples})
        if metrics:
            self.message(f"step {number}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def goodput_written(self) -> None:
        """Writes where the time went so far, as it is done with each commit."""
        if self._goodput:
            self._goodput.write()

    def message(self, text: str) -> None:
        """Says something to the person watching."""
        if self._progress:
            self._progress.message(text)

    def close(self) -> None:
        """Lets go of the files and the terminal."""
        if self._writer:
            self._writer.close()
        if self._progress:
            self._progress.close()

    def _complete_oldest(self) -> None:
        """Reads the results of the oldest step in flight."""
        number, results, report = self._in_flight.popleft()
        counts = BatchCounts.combined(report.counts)
        if slow := self._stragglers.look(report.own_seconds):
            self.message(slow)
            if self._events:
                self._events.say("straggler", slow, step=number)
        row = int(results["skipped_in_a_row"])
        if row >= self.experiment.optimizer.nonfinite_limit:
            raise DivergedError(self._why_skipped(number, results), number, number - row + 1, counts.examples)
        if self.experiment.health.spike_factor and self._spikes.look(number, float(results["loss"])):
            first, usual = self._spikes.first or number, self._spikes.usual
            loss = float(results["loss"])
            sentence = f"the loss has spiked: it is {loss:.4f} at step {number} and was {usual:.4f} before step {first}"
            raise DivergedError(sentence, number, first, counts.examples)
        self.throughput.step_done(counts.tokens)
        self.tokens += counts.tokens
        if number == 1 or number % self.experiment.telemetry.every == 0 or number == self.experiment.steps:
            self._log(number, jax.device_get(results), counts)

    def _why_skipped(self, number: int, results: Mapping[str, Any]) -> str:
        """The sentence that ends a run after too many skipped steps; the last of them says what was wrong."""
        row = int(results["skipped_in_a_row"])
        if all(math.isfinite(results[name]) for name in ("loss", "gradient_norm")):
            return (
                f"{row} steps in a row, up to step {number}, were skipped, the last because its batch had no target for"
                " a term of the loss; see with t5x_like data inspect what data.task makes of its examples, or raise"
                " optimizer.nonfinite_limit"
            )
        return (
            f"the loss or its gradients were not finite in {row} steps in a row, up to step {number}, and none of those"
            f" was applied; lower optimizer.learning_rate (it is {self.experiment.optimizer.learning_rate:g}) or"
            " optimizer.clip_norm and go on with --accept-changes, from an older commit if need be (t5x_like checkpoint"
            " prune --after=STEP), or set health.rollbacks"
        )

    def _log(self, number: int, results: Mapping[str, Any], counts: BatchCounts) -> None:
        rates = self.throughput.since_last()
        line = {f"train/{name}": _number(value) for name, value in results.items()}
        line |= {
            "data/fill_fraction": counts.fill_fraction,
            "data/dropped_fraction": counts.dropped_fraction,
            "data/epoch": counts.epoch,
            "data/examples": counts.examples,
        }
        if self.experiment.data.documents_per_row:
            line["data/rows_closed_early"] = counts.closed_early
        if counts.cleaned_fraction is not None:
            line["data/cleaned_fraction"] = counts.cleaned_fraction
        if counts.broken:
            line["data/broken_records"] = counts.broken
        if rates.steps:
            speed = self.flops_per_step * rates.steps_per_second
            share = mfu(speed, jax.devices(), self._dtype)
            line |= {
                "train/tokens_per_second": rates.tokens_per_second,
                "train/step_seconds": 1 / rates.steps_per_second,
                "train/data_wait_share": rates.data_wait_share,
                "train/flops_per_second": speed,
            }
            if share is not None:
                line["train/mfu"] = share
        line |= memory_metrics(jax.local_devices()) | self._news
        self._news.clear()
        if self._writer:
            self._writer.write(number, line)
        if self._progress:
            shown = {"loss": line["train/loss"]}
            if rates.steps:
                shown["tokens/s"] = rates.tokens_per_second
            self._progress.update(number, shown)


def _number(value: Any) -> float | int:
    """A scalar array as a Python number that prints and parses to the same bits."""
    number = value.item()
    return number if isinstance(number, int) or not math.isfinite(number) else float(number)
