"""`t5x_like sweep`: many runs of one experiment, each a job of its own, and one page that compares them."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.errors import UserError

if TYPE_CHECKING:
    from t5x_like.launch.sweep import SweptRun


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "sweep",
        help="train with several values and seeds, and compare",
        description="Train one experiment with every combination of some values and with several seeds. Run the same"
        " command again to go on; what is done is not done again.",
        epilog="example: t5x_like sweep --config=configs/quickstart.py --workdir=runs/s"
        " --set=optimizer.learning_rate=1e-2,2e-2 --seeds=3",
        allow_abbrev=False,
    )
    common.add_config(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="each run gets a directory below it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE,VALUE", help="values to try; may be repeated"
    )
    parser.add_argument("--seeds", type=whole("--seeds", 1, 10_000), default=1, metavar="N", help="0 to N − 1")
    parser.add_argument("--at-once", type=whole("--at-once", 1, 1000), default=1, metavar="N", help="local jobs")
    parser.add_argument("--metric", default="", metavar="NAME", help="that decides, such as validation/loss; less wins")
    parser.add_argument("--launcher", choices=("local", "slurm", "jobset", "xpk", "gcloud"), default="local")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    parser.add_argument(
        "--submit",
        action="append",
        default=[],
        metavar="FLAG",
        help="a flag for each submit, as --submit=--processes=2",
    )
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from etils import epath

    from t5x_like.frontends import configdict
    from t5x_like.launch import sweep

    common.require_given("--workdir", options.workdir)
    runs = sweep.grid(options.set, options.seeds)
    common.import_modules(options.module)
    experiments = [
        configdict.load(options.config, [*rest, *each.flags()]) for each in runs
    ]  # all can be, or none is run
    directory, steps = epath.Path(options.workdir).expanduser(), experiments[0].steps
    if len({experiment.steps for experiment in experiments}) > 1:
        raise UserError("--set: the runs of a sweep have one number of steps, so that they can be compared")
    if options.dry_run:
        print("\n".join(f"{each.name}: {each.setting}" for each in runs))
        return 0
    failed = _run_all(options, rest, runs, steps)
    rows = sweep.write(directory, experiments[0].name, runs, steps, options.metric)
    page = str(directory / sweep.PAGE_FILE)
    if options.json:
        settings = [{"setting": row.setting, "done": row.done, "values": dict(row.values)} for row in rows]
        common.print_json({"page": page, "settings": settings, "failed": failed})
    else:
        for row in rows:
            cells = "  ".join(f"{metric} {row.cell(metric)}" for metric in sorted(row.values))
            print(f"{row.setting:<32} {row.done} of {row.seeds}  {cells}")
        print(f"the page is {page}")
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed; the first is {failed[0]}: see its events.jsonl")
    return 0


def _run_all(options: argparse.Namespace, rest: Sequence[str], runs: "Sequence[SweptRun]", steps: int) -> list[str]:
    """Submits what is not done, so many at once where they are local; gives the names of those that failed."""
    from etils import epath

    from t5x_like.launch import sweep

    directory = epath.Path(options.workdir).expanduser()
    waiting = [each for each in runs if not sweep.is_done(directory / each.name, steps)]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    while waiting or running:
        while waiting and len(running) < options.at_once:
            each = waiting.pop(0)
            print(f"{each.name}: started, {len(waiting)} wait", file=sys.stderr, flush=True)
            running.append((each.name, _submit(options, rest, each)))
        name, process = running.pop(0)
        if process.wait():
            failed.append(name)
    return failed


def _submit(options: argparse.Namespace, rest: Sequence[str], each: "SweptRun") -> subprocess.Popen[bytes]:
    flags = [
        f"--config={options.config}",
        f"--workdir={options.workdir}/{each.name}",
        f"--launcher={options.launcher}",
        *(["--foreground"] if options.launcher == "local" else []),
        *(f"--module={module}" for module in options.module),
        *options.submit,
        *rest,
        *each.flags(),
    ]
    return subprocess.Popen([sys.executable, "-m", "t5x_like", "submit", *flags], stdout=subprocess.DEVNULL)
