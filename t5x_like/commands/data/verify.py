"""`t5x_like data verify`: whether every file of a prepared corpus, or of the token cache, is as it was written."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(actions: Any) -> None:
    """Describes the command's flags."""
    parser = actions.add_parser(
        "verify",
        help="read a prepared corpus and compare every file with its manifest",
        description="Read every file of a corpus that data prepare wrote and compare its digest with the manifest's;"
        " or, with --cache, everything in the user's token cache. Training looks at sizes and times alone, because"
        " reading takes as long as the corpus is large.",
        epilog="example: t5x_like data verify --input=prepared",
        allow_abbrev=False,
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--input", metavar="DIRECTORY", help="what data prepare wrote")
    group.add_argument("--cache", action="store_true", help="the tokens that training keeps for its next start")
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "data verify")
    if options.cache:
        return _verify_cache(options)
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


def _verify_cache(options: argparse.Namespace) -> int:
    """Names every entry that is damaged."""
    from t5x_like.data import cache
    from t5x_like.errors import UserError

    entries = list(cache.verify())
    total = sum(size for _, size, _ in entries)
    if damaged := [str(place) for place, _, is_whole in entries if not is_whole]:
        raise UserError(f"{', '.join(damaged)} is damaged; remove it, and it is made again")
    if options.json:
        common.print_json({"directory": str(cache.directory() or ""), "entries": len(entries), "bytes": total})
    else:
        print(f"{cache.directory()}: {len(entries):,} entries of {total:,} bytes are as they were written")
    return 0
