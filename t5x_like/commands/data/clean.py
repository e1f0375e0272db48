"""`t5x_like data clean`: the documents that stages of cleaning leave of a corpus."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.commands.data import corpus


def add_parser(actions: Any) -> None:
    """Describes the command's flags."""
    parser = actions.add_parser(
        "clean",
        help="drop and edit documents by rules, and count what each rule did",
        description="Clean a corpus by stages, one after the other, and count what each rule dropped and edited."
        " Stopped, it goes on where it was when it is started again. The result does not depend on --processes.",
        epilog="example: t5x_like data clean --input='corpus/*.jsonl.zst' --stages=c4,exact_duplicates --output=clean",
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="a file or a glob of JSON lines")
    parser.add_argument("--field", default="text", help="the key of the text (default text)")
    corpus.add_stages(parser, required=True)
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="where the documents and the counts go")
    parser.add_argument(
        "--processes", type=whole("--processes", 1), default=1, metavar="N", help="that work at once (default 1)"
    )
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "data clean")
    from pathlib import Path

    from t5x_like.data.cleaning.cleaner import from_flag
    from t5x_like.data.cleaning.corpus import CleaningInput, clean_corpus

    found, stages = CleaningInput(path=options.input, field=options.field), from_flag(options.stages)
    counts = clean_corpus(found, stages, Path(options.output).expanduser(), options.processes)
    if options.json:
        common.print_json(counts.to_dict())
        return 0
    corpus.print_counts(counts)
    print(f"{options.output}: the documents that are left, and counts.json")
    return 0
