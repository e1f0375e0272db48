"""Results of tasks beside a checkpoint: JSON, a page, and lines for a terminal."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5x_like.evaluation.in_context.metrics import BootstrapMean
from t5x_like.io import files
from t5x_like.telemetry import pages

EVALUATIONS = "evaluations"
_PAGE = pathlib.Path(__file__).with_name("page.html.jinja")

Results = Mapping[int, Mapping[str, BootstrapMean]]


def directory(commit: epath.Path) -> epath.Path:
    """Where the results of a commit lie: `<workdir>/evaluations/<step>`.

    Args:
      commit: the commit's directory, `<workdir>/checkpoints/<step>`.
    """
    return commit.parent.parent / EVALUATIONS / commit.name


def write(where: epath.Path, task: str, results: Results, about: Mapping[str, Any]) -> None:
    """Writes a task's results as JSON and as a page.

    Args:
      where: from `directory`.
      task: its name.
      results: metrics by number of examples.
      about: what else the JSON says, such as the checkpoint.

    Raises:
      UserError: when the files cannot be written.
    """
    where.mkdir(parents=True, exist_ok=True)
    shots = {
        str(count): {name: estimate._asdict() for name, estimate in metrics.items()}
        for count, metrics in results.items()
    }
    files.write_json(where / f"{task}.json", {**about, "task": task, "shots": shots})
    page = pages.render(_PAGE, task=task, about=about, results=results)
    pages.write(page, where / f"{task}.html")


def lines(task: str, results: Results) -> dict[str, str]:
    """A line for each metric and number of examples."""
    return {
        f"{task} {count}-shot {name}": f"{e.mean:.4f} ± {e.error:.4f} [{e.low:.4f}, {e.high:.4f}]"
        for count, metrics in results.items()
        for name, e in metrics.items()
    }


def is_done(where: epath.Path, names: Sequence[str]) -> bool:
    """Whether results of all these names are there."""
    return all((where / f"{name}.json").exists() for name in names)
