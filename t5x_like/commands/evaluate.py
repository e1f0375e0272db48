"""`t5x_like evaluate`: the evaluators' metrics again, from a checkpoint alone."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a checkpoint again",
        description="Run the evaluators of a checkpoint's own experiment on it, and print their metrics.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    common.add_modules(parser)
    common.add_json(parser)
    common.add_processes(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "evaluate")
    return common.run_processes(
        options, lambda: run_evaluate(options.checkpoint, json_output=options.json, modules=options.module)
    )


def run_evaluate(checkpoint: str, *, json_output: bool = False, modules: Sequence[str] = ()) -> int:
    """Restores the parameters, runs every evaluator once and prints what they found."""
    common.import_modules(modules)
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation.restored import Restored
    from t5x_like.telemetry.progress import summary_table

    common.require_given("--checkpoint", checkpoint)
    restored = Restored(checkpoint)
    metrics, samples = restored.evaluate()
    if not is_first():
        return 0
    if json_output:
        common.print_json({"checkpoint": str(restored.path), "step": restored.step, **metrics})
        return 0
    rows = {name: f"{value:.4f}" for name, value in metrics.items()}
    rows |= {f"{key}: {sample.prompt}": sample.text for key, sample in samples}
    summary_table(f"{restored.path} at step {restored.step}", rows)
    return 0
