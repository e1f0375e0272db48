"""Evaluation of one checkpoint or several with SeqIO's metrics, as T5X's `eval.py` does it.

The output directory gets `inference_eval/`, where SeqIO writes predictions and metrics, and `eval.MIXTURE.ckpt`, which
lists the checkpoints that are done: begun anew over all checkpoints of a run, an evaluation leaves those out.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from t5x_like.distributed.processes import is_first
from t5x_like.evaluation.given import GivenModel, checkpoints_in
from t5x_like.experiment import Experiment
from t5x_like.io import files

_LOGS = "inference_eval"


def evaluate(
    experiment: Experiment, checkpoints: Sequence[str], output: str, *, every: bool
) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Runs the experiment's evaluators on each checkpoint.

    Args:
      experiment: the model, and evaluators of SeqIO's mixtures.
      checkpoints: paths, each a run, whose latest checkpoint counts, or one of its checkpoints.
      output: a directory.
      every: whether a path stands for all of its checkpoints that are not done yet.

    Yields:
      The checkpoint, its step, and the metrics by full name.

    Raises:
      UserError: for a checkpoint that is not there, or that has not each variable.
    """
    directory = epath.Path(output).expanduser()
    files.make_directory(directory / _LOGS)
    paths = [path for given in checkpoints for path in (checkpoints_in(given) if every else [given])]
    model = GivenModel(_logging(experiment, directory))
    evaluators = {key: options.start(model.context) for key, options in model.experiment.evaluators.items()}
    lists = {key: directory / f"eval.{experiment.evaluators[key].mixture}.ckpt" for key in evaluators}
    for path in paths:
        due = [key for key in evaluators if not (every and path in _done(lists[key]))]
        if not due:
            continue
        state, step = model.restore(path)
        metrics: dict[str, float] = {}
        for key in due:
            found = evaluators[key].run(state, step)
            metrics |= {f"{key}/{name}": value for name, value in found.metrics.items()}
            if is_first():
                done = sorted({*_done(lists[key]), path})
                files.write(lists[key], "".join(f"{each}\n" for each in done).encode())
        yield path, step, metrics


def _done(file: epath.Path) -> list[str]:
    return file.read_text().split("\n")[:-1] if file.exists() else []


def _logging(experiment: Experiment, directory: epath.Path) -> Experiment:
    """The experiment with evaluators that write what SeqIO finds; of several processes the first one writes."""
    place = str(directory / _LOGS) if is_first() else ""
    evaluators: dict[str, Any] = {
        key: dataclasses.replace(options, log_dir=place) for key, options in experiment.evaluators.items()
    }
    return dataclasses.replace(experiment, evaluators=evaluators)
