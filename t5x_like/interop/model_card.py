"""Model cards (Mitchell et al. 2019): what a checkpoint and its work directory record of a model, and nothing else."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from t5x_like.checkpoint import evaluation
from t5x_like.checkpoint.layout import Commit
from t5x_like.experiment import Experiment
from t5x_like.program import flops_per_step
from t5x_like.sections import flatten

FILE = "README.md"
_NOT_RECORDED = "not recorded"
# Measurements that a run may have made of what it used, by their names among its metrics.
_USED = {"energy/kwh": "Energy (kWh)", "energy/co2_kg": "CO₂ (kg)"}


def model_card(commit: Commit, parameters: int, *, license_: str = "", intended_use: str = "") -> str:
    """The card of a commit's model, as Markdown with the metadata that model hubs read.

    Args:
      commit: the checkpoint.
      parameters: how many numbers are exported.
      license_: an identifier such as `apache-2.0`; empty where none was given.
      intended_use: a sentence; empty where none was given.
    """
    meta = commit.manifest().meta
    experiment = Experiment.from_dict(meta["experiment"])
    sections = [
        _front(license_),
        [f"# {experiment.name or commit.workdir.name}"],
        ["## Intended use", "", intended_use or f"{_NOT_RECORDED.capitalize()}."],
        _table("Model", _model(experiment, commit, parameters)),
        *([_imported(meta["imported"])] if "imported" in meta else []),
        _table("Training", _training(experiment, commit, meta)),
        _table("Data", _data(experiment, meta)),
        _table("Evaluation", _evaluation(commit)),
        ["## License", "", license_ or f"{_NOT_RECORDED.capitalize()}."],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _front(license_: str) -> list[str]:
    return ["---", "library_name: transformers", *([f"license: {license_}"] if license_ else []), "---"]


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return [f"## {title}", "", f"{_NOT_RECORDED.capitalize()}."]
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows.items())]


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _model(experiment: Experiment, commit: Commit, parameters: int) -> dict[str, Any]:
    model = experiment.model
    return {
        "Architecture": " ".join(part for part in (model.family, model.size) if part),
        "Parameters": parameters,
        "Vocabulary": model.vocab_size,
        "Longest row": model.max_length,
        "Checkpoint": f"step {commit.step}",
    }


def _imported(imported: Mapping[str, Any]) -> list[str]:
    return [
        "## Origin",
        "",
        f"Imported from `{imported['name']}` ({imported['format']}). What it was trained on before that is not recorded"
        " here.",
    ]


def _training(experiment: Experiment, commit: Commit, meta: Mapping[str, Any]) -> dict[str, Any]:
    if not commit.step:
        return {}
    optimizer = experiment.optimizer
    found = evaluation.metrics(commit)
    rows = {
        "Objective": experiment.objective.name,
        "Steps": commit.step,
        "Tokens": int(meta["totals"]["tokens"]),
        "Rows a step": experiment.data.batch_size,
        "Tokens a row": experiment.data.sequence_length,
        "Optimizer": f"{optimizer.name}, learning rate {optimizer.learning_rate:g}",
        "Model FLOPs": f"{flops_per_step(experiment) * commit.step:.3e}",
        "Seconds": f"{meta['totals']['seconds']:,.0f}",
        "Seed": str(experiment.seed),
    }
    if first := experiment.initialize.checkpoint:
        rows["Started from"] = f"`{first}`"
    return rows | {name: found.get(key) or _NOT_RECORDED for key, name in _USED.items()}


def _data(experiment: Experiment, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The corpus as the experiment names it, with its mixture and filters, and fingerprints of its content."""
    if not meta["data"]:
        return {}
    task = experiment.to_dict()["data"]["task"] or {}
    rows = {f"`{path}`": f"`{json.dumps(value)}`" for path, value in _options(task)}
    return rows | {f"fingerprint of `{path}`": f"`{value}`" for path, value in sorted(meta["data"].items())}


def _options(task: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a task says of what is trained on: its corpus, mixture, filters and splits."""
    for path, value in flatten(task, "data.task.").items():
        if value not in ("", [], {}, None) and path.split(".")[-1] not in ("max_line_bytes", "max_window_bytes"):
            yield path, value


def _evaluation(commit: Commit) -> dict[str, Any]:
    return {
        f"`{name}`": _NOT_RECORDED if value is None else f"{value:.4f}"
        for name, value in sorted(evaluation.metrics(commit).items())
        if name not in _USED
    }
