"""`t5x_like evaluate`: a checkpoint's own evaluators, or tasks in context; one commit, or each of a running job's."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.errors import UserError

if TYPE_CHECKING:
    from etils import epath

    from t5x_like.evaluation.restored import Restored

OWN = "evaluators"  # the name of the results of a checkpoint's own evaluators


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a checkpoint",
        description="Run the evaluators of a checkpoint's own experiment on it, or ask it the questions of tasks, and"
        " print what they found.",
        epilog="example: t5x_like evaluate --checkpoint=runs/a --task=capitals.toml --shots=0,5",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    parser.add_argument(
        "--task", action="append", default=[], metavar="FILE", help="a task in context (TOML); may be repeated"
    )
    parser.add_argument("--shots", default="0", metavar="N,N", help="examples in front of a question (default 0)")
    parser.add_argument(
        "--seeds", type=whole("--seeds", 1), default=1, metavar="N", help="draws of examples a question (default 1)"
    )
    parser.add_argument(
        "--limit", type=whole("--limit", 1), default=0, metavar="N", help="the first N questions of a task alone"
    )
    parser.add_argument(
        "--watch", action="store_true", help="follow a running job, and measure each of its commits once"
    )
    common.add_quantize(parser)
    common.add_modules(parser)
    common.add_json(parser)
    common.add_processes(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "evaluate")
    shots = shots_of(options.shots)
    if options.watch and options.json:
        raise UserError("--json is one object at the end, and --watch goes on; leave one out")
    measure = _measure(options, shots)
    if options.watch:
        return common.run_processes(options, lambda: _watch(options, measure))
    return common.run_processes(
        options,
        lambda: run_evaluate(
            options.checkpoint,
            json_output=options.json,
            modules=options.module,
            measure=measure,
            save=bool(options.task),
            quantize=options.quantize,
        ),
    )


def shots_of(text: str) -> list[int]:
    """The numbers in `--shots`.

    Raises:
      UserError: where they are none.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [-1]
    if min(found) < 0:
        raise UserError(f"--shots is {text!r}; it must be numbers from 0 on with commas between, such as 0,1,5")
    return found


Measured = tuple[dict[str, str], dict[str, Any]]
Measure = Callable[["Restored", "epath.Path | None"], Measured]


def _measure(options: argparse.Namespace, shots: Sequence[int]) -> Measure:
    """The function that measures a model: lines for a person, and values for a program."""
    from t5x_like.evaluation.in_context.task import open_task

    tasks = [open_task(path) for path in options.task]
    if not tasks:
        return _own_evaluators

    def measure(restored: "Restored", where: "epath.Path | None") -> Measured:
        from t5x_like.distributed.processes import is_first
        from t5x_like.evaluation.in_context import report
        from t5x_like.evaluation.in_context.asking import Examiner

        examiner = Examiner(restored)
        lines: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for task in tasks:
            results = {
                count: examiner.ask(task, shots=count, seeds=range(options.seeds), limit=options.limit)
                for count in shots
            }
            name = task.options.name
            lines |= report.lines(name, results)
            values[name] = {
                str(count): {metric: estimate._asdict() for metric, estimate in metrics.items()}
                for count, metrics in results.items()
            }
            if where is not None and is_first():
                about = {"checkpoint": str(restored.path), "step": restored.step, "seeds": options.seeds}
                report.write(where, name, results, about)
        return lines, values

    return measure


def _own_evaluators(restored: "Restored", where: "epath.Path | None") -> Measured:
    """What the evaluators of the checkpoint's own experiment find."""
    from t5x_like.distributed.processes import is_first
    from t5x_like.io import files

    metrics, samples = restored.evaluate()
    lines = {name: f"{value:.4f}" for name, value in metrics.items()}
    lines |= {f"{key}: {sample.prompt}": sample.text for key, sample in samples}
    if where is not None and is_first():
        where.mkdir(parents=True, exist_ok=True)
        files.write_json(where / f"{OWN}.json", {"step": restored.step, **metrics})
    return lines, dict(metrics)


def run_evaluate(
    checkpoint: str,
    *,
    json_output: bool = False,
    modules: Sequence[str] = (),
    measure: Measure = _own_evaluators,
    save: bool = False,
    quantize: str = "",
) -> int:
    """Restores the parameters, measures them once and prints what was found.

    Args:
      checkpoint: a run's workdir, or one step inside it.
      json_output: prints one JSON object.
      modules: imported first.
      measure: what is measured.
      save: whether results are kept beside the checkpoint.
      quantize: see `Restored`.
    """
    common.import_modules(modules)
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation.in_context.report import directory
    from t5x_like.evaluation.restored import Restored
    from t5x_like.telemetry.progress import summary_table

    common.require_given("--checkpoint", checkpoint)
    restored = Restored(checkpoint, quantize=quantize)
    lines, values = measure(restored, directory(restored.path) if save else None)
    if is_first() and json_output:
        common.print_json({"checkpoint": str(restored.path), "step": restored.step, **values})
    elif is_first():
        summary_table(f"{restored.path} at step {restored.step}", lines)
    return 0


def _watch(options: argparse.Namespace, measure: Measure) -> int:
    """Measures each commit of a job once, and returns when the job has ended."""
    common.import_modules(options.module)
    from t5x_like.checkpoint.layout import absolute
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation import watching
    from t5x_like.evaluation.in_context import report
    from t5x_like.evaluation.in_context.task import open_task
    from t5x_like.evaluation.restored import Restored
    from t5x_like.telemetry.progress import summary_table

    common.require_given("--checkpoint", options.checkpoint)
    names = [open_task(path).options.name for path in options.task] or [OWN]
    for commit in watching.commits_of(
        absolute(options.checkpoint), lambda commit: report.is_done(report.directory(commit.path), names)
    ):
        try:
            restored = Restored(str(commit.path), quantize=options.quantize)
        except UserError:
            if commit.path.exists():
                raise
            continue  # the job has removed it meanwhile
        lines, _ = measure(restored, report.directory(commit.path))
        if is_first():
            summary_table(f"{restored.path} at step {restored.step}", lines)
    return 0
