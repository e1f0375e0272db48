"""`t5x_like report`: a run as one self-contained web page."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "report",
        help="write a run's report.html",
        description="Write one self-contained report.html from what a run left in its workdir: curves, samples, the "
        "resolved experiment, parameters and environment. It works while the run is going on, too.",
        allow_abbrev=False,
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="the run's directory, on a disk or an object store")
    parser.add_argument("--output", metavar="FILE", help="where to write the page; WORKDIR/report.html by default")
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "report")
    return run_report(options.workdir, output=options.output, json_output=options.json)


def run_report(workdir: str, *, output: str | None = None, json_output: bool = False) -> int:
    """Writes the page and prints where it is.

    Raises:
      UserError: when the workdir holds no run, or the page cannot be written.
    """
    from etils import epath

    from t5x_like.telemetry.report import write_report

    common.require_given("WORKDIR", workdir)
    path = write_report(epath.Path(workdir), epath.Path(output) if output else None)
    if json_output:
        common.print_json({"report": str(path)})
    else:
        print(f"the report is {path}")
    return 0
