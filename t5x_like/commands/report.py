"""`t5x_like report`: a run as one self-contained web page."""

import argparse
import threading
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.errors import UserError


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
    parser.add_argument(
        "--serve",
        type=whole("--serve", 0, 65535),
        metavar="PORT",
        help="serve the page on this machine while the run goes on, until Ctrl-C; 0 for any free port",
    )
    parser.add_argument("--alarm", default="", metavar="COMMAND", help="with --serve: run for each alarming event")
    parser.add_argument("--webhook", default="", metavar="URL", help="with --serve: gets each alarming event as JSON")
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "report")
    if options.serve is not None:
        return serve(options.workdir, options.serve, options.alarm, options.webhook)
    if options.alarm or options.webhook:
        raise UserError("--alarm and --webhook are of --serve; give it a port")
    return run_report(options.workdir, output=options.output, json_output=options.json)


def serve(workdir: str, port: int, alarm: str, webhook: str) -> int:
    """Serves the page until Ctrl-C.

    Raises:
      UserError: when the workdir holds no run, or the port cannot be used.
    """
    from etils import epath

    from t5x_like.telemetry.live import LiveReport, watch_events

    common.require_given("WORKDIR", workdir)
    place, ended = epath.Path(workdir).expanduser(), threading.Event()
    report = LiveReport(place, port)
    print(f"the page is {report.address}; Ctrl-C ends it", flush=True)
    threading.Thread(target=watch_events, args=(place, alarm, webhook, ended), daemon=True).start()
    try:
        report.serve()
    except KeyboardInterrupt:
        return 0
    finally:
        ended.set()
    return 0


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
