"""`t5x_like supervise`: runs a bundle on this machine until it is done; what `submit --launcher=local` starts."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common
from t5x_like.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "supervise",
        help="run a submitted bundle on this machine",
        description="Run a bundle that submit has made, and start it again as its retry policy says.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="WORKDIR/bundles/DIGEST")
    common.add_patience(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from t5x_like.distributed import code
    from t5x_like.launch import bundle as bundles
    from t5x_like.launch.supervisor import Supervisor
    from t5x_like.telemetry.environment import versions

    common.refuse(rest, "supervise")
    bundle = bundles.load(options.bundle)
    before, now = json.loads(bundle.code), code.identity(versions(), ())
    changed = [name for name in now if name in before and before[name] != now[name] and not name.isupper()]
    if changed:
        raise UserError(f"{options.bundle}: {changed[0]} is another one than when it was submitted; submit again")
    ended = Supervisor(bundle, options.patience).run()
    print(f"the job {ended.meaning}; see {bundle.workdir}/events.jsonl", file=sys.stderr)
    return ended.status
