"""`t5x_like config show`: the resolved experiment and what it amounts to, without training it."""

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from t5x_like import migrations
from t5x_like.commands import common
from t5x_like.distributed import startup


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "config",
        help="look at an experiment",
        description="Look at an experiment without running it.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    show = actions.add_parser(
        "show",
        help="print every field, and the parameters, tokens and FLOPs",
        description="Print every field of the resolved experiment as --config.FIELD takes it, and the parameter count,"
        " training tokens and FLOPs. Nothing is trained, and no parameter is allocated.",
        epilog="example: t5x_like config show --config=configs/gpt2_124m.py --config.data.batch_size=64",
        allow_abbrev=False,
    )
    common.add_config(show)
    common.add_modules(show)
    common.add_json(show)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from t5x_like.frontends import configdict

    common.import_modules(options.module)
    return _show(configdict.load(options.config, rest), json_output=options.json)


def _show(experiment: Any, *, json_output: bool) -> int:
    from t5x_like.data.packing import places_of
    from t5x_like.program import describe

    length = experiment.data.sequence_length
    length = places_of(experiment.objective.features(length), length)
    tokens = experiment.steps * experiment.data.batch_size * length
    described = dict(describe(experiment))
    totals = {**described, "train_tokens": tokens, "train_flops": described["flops_per_step"] * experiment.steps}
    flags = {"here": os.environ.get("XLA_FLAGS", ""), "nvidia": startup.xla_flags(os.environ.get("XLA_FLAGS", ""))}
    if json_output:
        common.print_json(
            {migrations.KEY: migrations.newest(), "experiment": experiment.to_dict(), **totals, "xla_flags": flags}
        )
        return 0
    from rich.console import Console

    console = Console()
    for section in _sections(experiment.to_dict()):
        # Never wrapped, so that a pipe gets one field a line.
        console.print(section, markup=False, highlight=console.is_terminal, soft_wrap=True)
        console.print()
    console.print(
        f"XLA_FLAGS here            {flags['here'] or '(none)'}\nXLA_FLAGS on NVIDIA GPUs  {flags['nvidia']}\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    _print_totals(totals, experiment, length)
    return 0


def _sections(values: dict[str, Any]) -> list[str]:
    """One text a section: its fields as dotted paths with their values as JSON, aligned; what has no section first."""
    from t5x_like.sections import flatten

    groups: dict[str, dict[str, Any]] = {}
    for path, value in flatten(values).items():
        groups.setdefault(path.partition(".")[0] if "." in path else "", {})[path] = value
    width = max(len(path) for group in groups.values() for path in group)
    order = sorted(groups, key=bool)  # stable: only the fields of no section move
    return ["\n".join(f"{path:{width}}  {json.dumps(value)}" for path, value in groups[key].items()) for key in order]


def _print_totals(totals: dict[str, Any], experiment: Any, length: int) -> None:
    from t5x_like.telemetry.progress import summary_table

    batch = experiment.data.batch_size
    rows = {name: f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for name, value in totals.items()}
    rows["train_tokens"] += f"  ({experiment.steps:,} steps × {batch:,} rows × {length:,} tokens)"
    summary_table(f"{experiment.name}: what it amounts to", rows)
