"""`t5x_like data verify`: whether every file of a prepared corpus is as it was written."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(actions: Any) -> None:
    """Describes the command's flags."""
    parser = actions.add_parser(
        "verify",
        help="read a prepared corpus and compare every file with its manifest",
        description="Read every file of a corpus that data prepare wrote and compare its digest with the manifest's."
        " Training looks at sizes alone, because reading takes as long as the corpus is large.",
        epilog="example: t5x_like data verify --input=prepared",
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, metavar="DIRECTORY", help="what data prepare wrote")
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "data verify")
    from t5x_like.data.token_shards import verify
    from t5x_like.telemetry.progress import Progress

    files = total = 0
    progress = None
    for done, total in verify(options.input):
        files += 1
        progress = progress or Progress(total, unit="verify: bytes")
        progress.update(done)
    if progress is not None:
        progress.close()
    if options.json:
        common.print_json({"directory": options.input, "files": files, "bytes": total})
    else:
        print(f"{options.input}: {files:,} files of {total:,} bytes are as they were written")
    return 0
