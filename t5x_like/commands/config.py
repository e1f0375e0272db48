"""`t5x_like config show`: the resolved experiment, its size and cost, and its mesh and kernels on this machine."""

import argparse
import dataclasses
import functools
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
    here = _here(experiment)
    if json_output:
        shown = {migrations.KEY: migrations.newest(), "experiment": experiment.to_dict(), **totals}
        common.print_json({**shown, "here": here, "xla_flags": flags})
        return 0
    from rich.console import Console

    console = Console()
    for section in _sections(experiment.to_dict()):
        # Never wrapped, so that a pipe gets one field a line.
        console.print(section, markup=False, highlight=console.is_terminal, soft_wrap=True)
        console.print()
    lines = [
        *_lines(here),
        f"XLA_FLAGS here            {flags['here'] or '(none)'}",
        f"XLA_FLAGS on NVIDIA GPUs  {flags['nvidia']}",
        "",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    _print_totals(totals, experiment, length)
    return 0


def _here(experiment: Any) -> dict[str, Any]:
    """The mesh and the attention backends of a run on this machine's devices.

    Returns:
      `platform`, `kind` and `devices`; `mesh`, the devices along each axis, or `mesh_error`; `attention`, an entry for
      each kind of call: `backend`, `passed_over` (by backend, why not) and `call`. `error` alone where there are no
      devices to ask.
    """
    import jax

    from t5x_like.distributed import cluster
    from t5x_like.errors import ExperimentError, explain
    from t5x_like.kernels import attention
    from t5x_like.parallel import layout
    from t5x_like.parallel.placement import batch_shapes
    from t5x_like.program import program
    from t5x_like.step import train_step

    if (several := cluster.find()) and several.processes > 1:  # whose devices wait for each other when they start
        return {"error": f"those of {several.processes} processes, which only a run of all of them sees"}
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:
        if (sentence := explain(error)) is None:
            raise
        return {"error": sentence}
    found: dict[str, Any] = {"platform": devices[0].platform, "kind": devices[0].device_kind, "devices": len(devices)}
    try:
        placed = layout.make(experiment.parallelism, devices)
        run = program(experiment, placed)
        found["mesh"] = dict(placed.mesh.shape)  # type: ignore[union-attr]
    except ExperimentError as error:
        found["mesh_error"] = str(error)
        placed = layout.make(type(experiment.parallelism)(), devices[:1])
        run = program(experiment, placed)
    state, batch = run.abstract_state(), batch_shapes(experiment, placed)
    calls = attention.calls(lambda: jax.eval_shape(functools.partial(train_step, run), state, batch))
    with placed.use():
        reasons = [dict(attention.explain(call)) for call in calls]
    found["attention"] = [
        {
            "backend": next(name for name, reason in why.items() if not reason),
            "passed_over": {name: reason for name, reason in why.items() if reason},
            "call": dataclasses.asdict(call),
        }
        for call, why in zip(calls, reasons, strict=True)
    ]
    return found


def _lines(here: dict[str, Any]) -> list[str]:
    """`_here` in words."""
    if "error" in here:
        return [f"devices here              {here['error']}"]
    mesh = " × ".join(f"{axis} {size}" for axis, size in here.get("mesh", {}).items() if size > 1) or "one device"
    lines = [
        f"devices here              {here['devices']} × {here['kind']}",
        f"mesh here                 {here.get('mesh_error') or mesh}",
    ]
    for item in here["attention"]:
        call = item["call"]
        kind = " ".join(word for word in ("causal", "packed") if call[word])
        passed = "".join(f"; not {name}: {reason}" for name, reason in item["passed_over"].items())
        lines.append(
            f"attention here            {item['backend']}, for {call['heads']} heads of {call['head_dim']} over"
            f" {call['queries']} × {call['keys']} tokens{', ' if kind else ''}{kind}{passed}"
        )
    return lines


def _sections(values: dict[str, Any]) -> list[str]:
    """A text for each section: dotted paths and values as JSON, aligned; fields outside of sections come first."""
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
