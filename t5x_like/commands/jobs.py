"""`t5x_like jobs`: lists the jobs that were submitted, follows their logs, stops them."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common
from t5x_like.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "jobs",
        help="list, follow and stop submitted jobs",
        description="List the jobs that submit has started here, show the log of one, or ask one to save and end.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="all jobs, their states, and what happened last", allow_abbrev=False)
    common.add_json(listing)
    logs = actions.add_parser("logs", help="the end of a job's newest log", allow_abbrev=False)
    logs.add_argument("job", metavar="NAME")
    logs.add_argument("--follow", action="store_true", help="go on until the job has ended")
    stop = actions.add_parser("stop", help="ask a job to save and end", allow_abbrev=False)
    stop.add_argument("job", metavar="NAME")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from t5x_like.launch import jobs

    common.refuse(rest, "jobs")
    if options.action == "stop":
        print(jobs.find(options.job).stop())
    elif options.action == "logs":
        _show_log(jobs.find(options.job), options.follow)
    elif options.json:
        common.print_json([{**vars(job), "state": job.state(), "last": job.last_event()} for job in jobs.known()])
    else:
        for job in jobs.known():
            print(f"{job.name:<24} {job.launcher:<7} {job.state():<10} {job.workdir}  {job.last_event()}")
    return 0


def _show_log(job: Any, follow: bool) -> None:
    from t5x_like.launch.jobs import tail

    log = job.log()
    if log is None and not follow:
        raise UserError(f"{job.name} has no log yet; see {job.workdir}/events.jsonl")
    if log is not None:
        print("\n".join(tail(log)), flush=True)
    place = log.stat().st_size if log else 0
    while follow:
        ended, newest = job.state() not in ("running", "pending"), job.log()
        if newest is not None and newest != log:
            log, place = newest, 0
        if log is not None and log.stat().st_size > place:
            with log.open("rb") as stream:
                stream.seek(place)
                new = stream.read()
            place += len(new)
            print(new.decode(errors="replace"), end="", flush=True)
        if ended:
            return
        time.sleep(0.5)
