"""`t5x_like infer`: predictions, scores or embeddings of every record of a file."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import real, whole
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
    parser.add_argument(
        "--tokens", type=whole("--tokens", 1), default=100, metavar="N", help="new tokens at most (default 100)"
    )
    parser.add_argument(
        "--temperature", type=real("--temperature", 0), default=0.0, metavar="T", help="0 is greedy (default)"
    )
    parser.add_argument("--top-k", type=whole("--top-k", 0), default=0, metavar="K", help="as in generate")
    parser.add_argument("--top-p", type=real("--top-p", 0, 1), default=1.0, metavar="P", help="as in generate")
    parser.add_argument("--min-p", type=real("--min-p", 0, 1), default=0.0, metavar="P", help="as in generate")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="a text to end at; may be repeated")
    parser.add_argument("--seed", type=whole("--seed"), default=0, metavar="N", help="of the random choices")
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
    from t5x_like.inference.sampling import Sampling

    common.require_given("--checkpoint", options.checkpoint)
    common.require_given("--output", options.output)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.min_p)
    chosen = InferenceOptions(options.mode, options.tokens, sampling, options.seed, tuple(options.stop))
    count = infer(options.checkpoint, chosen, options.input, pathlib.Path(options.output), quantize=options.quantize)
    if is_first() and options.json:
        common.print_json({"records": count, "output": options.output})
    elif is_first():
        print(f"{count} records in {options.output}")
    return 0
