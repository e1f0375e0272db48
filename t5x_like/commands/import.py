"""`t5x_like import`: a model of another format as a checkpoint."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common

FORMATS = ("hf", "gguf", "t5x", "flax")


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "import",
        help="make a checkpoint of a model in another format",
        description="Read a model of another format, a tensor at a time, and write it as the checkpoint of step 0 of a"
        " work directory, for --checkpoint of every command and for initialize.checkpoint. Nothing is guessed: what"
        " cannot be translated is named, and nothing is written.",
        epilog="example: t5x_like import --from=hf --path=SmolLM2-135M --output=runs/smol",
        allow_abbrev=False,
    )
    parser.add_argument("--from", required=True, choices=FORMATS, dest="source", help="the format")
    parser.add_argument("--path", required=True, metavar="PATH", help="the folder or file of the model")
    parser.add_argument("--output", required=True, metavar="DIR", help="a work directory that is missing or empty")
    parser.add_argument(
        "--config",
        metavar="FILE[:ARGUMENT]",
        help="of --from=t5x, whose checkpoints do not say of which model they are: an experiment, with"
        " --config.FIELD=VALUE over it",
    )
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="KEY",
        help="pass over this entry of config.json, of which nothing is known here; may be repeated",
    )
    parser.add_argument(
        "--unused",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave tensors that mean nothing here, such as pooler.**; may be repeated",
    )
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    if not options.config:
        common.refuse(rest, "import")
    common.require_given("--path", options.path)
    common.require_given("--output", options.output)
    common.import_modules(options.module)
    from t5x_like.checkpoint.layout import absolute
    from t5x_like.interop.importing import import_model

    began = time.perf_counter()
    source = _open(options, rest, absolute(options.path))
    done = import_model(source, absolute(options.output), unused=options.unused)
    seconds = time.perf_counter() - began
    if options.json:
        common.print_json(
            {
                "checkpoint": str(done.path),
                "family": source.model.family,
                "parameters": done.parameters,
                "tensors": done.tensors,
                "left": list(done.left),
                "bytes_read": done.bytes_read,
                "seconds": seconds,
            }
        )
        return 0
    for key in done.left:
        print(f"left: {key}")
    print(
        f"{done.path}: {source.model.family}, {done.parameters:,} parameters from {done.tensors:,} tensors,"
        f" {done.bytes_read / 1e6:,.0f} MB in {seconds:.1f} s"
    )
    return 0


def _open(options: argparse.Namespace, rest: Sequence[str], path: Any) -> Any:
    """The model at the path, of which nothing but headers is read."""
    from t5x_like.errors import UserError
    from t5x_like.interop import flax, gguf, hugging_face, t5x

    if options.source != "t5x":
        if options.config:
            raise UserError(f"--config is for --from=t5x; a model from {options.source!r} says itself what it is")
        openers = {"hf": hugging_face.open_folder, "gguf": gguf.open_file, "flax": flax.open_folder}
        return openers[options.source](path, options.accept)
    if not options.config:
        raise UserError("--config is not given; name an experiment with the model, such as configs/t5_1_1_small.py")
    from t5x_like.frontends import configdict

    return t5x.open_checkpoint(path, configdict.load(options.config, rest).model)
