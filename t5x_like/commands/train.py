"""`t5x_like train`: pre-train, from the start or from the last commit of the workdir."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "train",
        help="pre-train a model",
        description="Pre-train a model. Run the same command again to go on from the last committed checkpoint.",
        epilog="example: t5x_like train --config=configs/quickstart.py --workdir=runs/a"
        " --config.optimizer.learning_rate=1e-3",
        allow_abbrev=False,
    )
    common.add_config(parser)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where everything is written; gs:// or s3:// too"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what the run would begin with, such as which variables a checkpoint gives, and stop; write nothing",
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on with another learning rate, schedule, clipping or weight decay than the last commit's",
    )
    add_job(parser)
    common.add_modules(parser)
    common.add_json(parser)
    common.add_processes(parser)


def add_job(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how a run is run; none of them changes what is trained."""
    parser.add_argument(
        "--profile", default="", metavar="FIRST:END", help="write a trace of steps FIRST to END - 1 into DIR/profile"
    )
    parser.add_argument(
        "--executable",
        default="",
        metavar="PATH",
        help="take the compiled step from here, where preflight --save wrote it: a pickle, so give only what you wrote",
    )


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from t5x_like.frontends import configdict

    common.import_modules(options.module)
    experiment = configdict.load(options.config, rest)
    command = f"t5x_like {shlex.join(sys.argv[1:])}"
    return common.run_processes(
        options,
        lambda: (
            run_experiment(
                experiment,
                options.workdir,
                json_output=options.json,
                modules=options.module,
                profile=options.profile,
                executable=options.executable,
                accept_changes=options.accept_changes,
                command=command,
            )
            if not options.dry_run
            else show_start(experiment, options.workdir, json_output=options.json)
        ),
    )


def show_start(experiment: Any, workdir: str, *, json_output: bool = False) -> int:
    """Prints what a run would begin with; see `run_reports.dry_run`."""
    from etils import epath

    from t5x_like.distributed.processes import is_first
    from t5x_like.run_reports import dry_run

    common.require_given("--workdir", workdir)
    lines = dry_run(experiment, epath.Path(workdir).expanduser())
    if is_first() and json_output:
        common.print_json({"start": lines})
    elif is_first():
        print("\n".join(lines))
    return 0


def run_experiment(
    experiment: Any,
    workdir: str,
    *,
    json_output: bool = False,
    modules: Sequence[str] = (),
    profile: str = "",
    executable: str = "",
    accept_changes: bool = False,
    command: str = "",
) -> int:
    """Trains, writes the summary and the report, and prints the summary block.

    Args:
      experiment: what to do.
      workdir: where.
      json_output: print the summary as JSON.
      modules: the user's modules, already imported.
      profile: what `--profile` says.
      executable: what `--executable` says.
      accept_changes: what `--accept-changes` says.
      command: what the user typed, to be told how to go on with.

    Returns:
      0, or 128 + the signal that ended the run early.
    """
    from etils import epath

    from t5x_like.distributed.processes import is_first
    from t5x_like.telemetry.profile import parse
    from t5x_like.train import RunOptions, train

    common.require_given("--workdir", workdir)
    directory = epath.Path(workdir).expanduser()
    job = RunOptions(modules=modules, profile=parse(profile), executable=executable, accept_changes=accept_changes)
    outcome = train(experiment, directory, job)
    if outcome.interrupted:
        if is_first():
            print(
                f"{outcome.interrupted.name} at step {outcome.step} of {experiment.steps}: saved. To go on, run again:"
                f"\n  {command}",
                file=sys.stderr,
            )
        return 128 + outcome.interrupted
    if not is_first():
        return 0
    from t5x_like import summary

    written = summary.write(experiment, directory, outcome)
    if json_output:
        common.print_json(written)
    else:
        summary.show(written, directory)
    return 0
