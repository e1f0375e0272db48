"""The evaluation of a commit: `evaluation.json`, a file of its own beside the arrays.

The state is committed first, and evaluators run after. When all that were due are done, their metrics join the commit
here, in one atomic write. A commit whose evaluation is due and has no whole file is evaluated again when the run is
resumed. Commits made before there was such a file hold their metrics in the manifest.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from t5x_like.checkpoint.layout import Commit
from t5x_like.checkpoint.manifest import finite
from t5x_like.errors import UserError
from t5x_like.io import files

EVALUATION_FILE = "evaluation.json"
DUE = "evaluations_due"  # of a manifest's meta: the keys of the evaluators that run after the commit

Metrics = Mapping[str, float | None]


def write(commit: Commit, metrics: Mapping[str, float]) -> None:
    """Joins metrics to a commit.

    Args:
      commit: a complete one.
      metrics: by full name, such as `validation/loss`; those that are not finite are written as null.

    Raises:
      UserError: when the file cannot be written.
    """
    content = {"step": commit.step, "metrics": finite(metrics)}
    files.write_json(commit.path / EVALUATION_FILE, {**content, "sha256": _fingerprint(content)})


def read(commit: Commit) -> Metrics | None:
    """The metrics that joined a commit; None where there are none, or the file is not what was written."""
    values = files.read_json(commit.path / EVALUATION_FILE, dict) or {}
    content = {name: value for name, value in values.items() if name != "sha256"}
    whole = content.get("step") == commit.step and values.get("sha256") == _fingerprint(content)
    return content["metrics"] if whole else None


def metrics(commit: Commit) -> Metrics:
    """The metrics of a commit, wherever they are kept; empty where nothing was measured, or it cannot be read."""
    try:
        manifest = commit.manifest()
    except UserError:
        return {}
    joined = read(commit)
    return manifest.metrics if joined is None else joined


def unfinished(commit: Commit, meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The evaluators that were due at a commit and whose metrics never joined it.

    Args:
      commit: the latest one.
      meta: of its manifest.
    """
    return tuple(meta.get(DUE, ())) if read(commit) is None else ()


def _fingerprint(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
