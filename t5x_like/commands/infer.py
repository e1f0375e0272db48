"""`t5x_like infer`: predictions, scores or embeddings of every record of a file."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "infer",
        help="answer a file of records with a checkpoint",
        description="Continue, score or embed every record of a file of JSON lines. A command that was killed goes on"
        " where it was when it is given again.",
        epilog="example: t5x_like infer --checkpoint=runs/a --mode=predict --input=a.jsonl --output=b.jsonl",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    parser.add_argument(
        "--mode",
        required=True,
        choices=("predict", "score", "embed"),
        help="predict: prompt -> text; score: prompt and continuation -> log_probability, tokens and"
        " token_log_probabilities; embed: prompt -> embedding",
    )
    parser.add_argument("--input", required=True, metavar="FILE", help="JSON lines, an object each")
    parser.add_argument("--output", required=True, metavar="FILE", help="the objects with what was found, in order")
    common.add_sampling(parser, tokens=100, temperature=0.0, top_p=1.0)
    common.add_quantize(parser)
    common.add_modules(parser)
    common.add_json(parser)
    common.add_processes(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "infer")
    return common.run_processes(options, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    common.import_modules(options.module)
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation.batch_inference import InferenceOptions, infer

    common.require_given("--checkpoint", options.checkpoint)
    common.require_given("--output", options.output)
    chosen = InferenceOptions(options.mode, options.tokens, common.sampling(options), options.seed, tuple(options.stop))
    count = infer(options.checkpoint, chosen, options.input, pathlib.Path(options.output), quantize=options.quantize)
    if is_first() and options.json:
        common.print_json({"records": count, "output": options.output})
    elif is_first():
        print(f"{count} records in {options.output}")
    return 0
