"""`t5x_like export`: the model of a checkpoint in another format."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "export",
        help="write a checkpoint's model in another format",
        description="Write the model of a checkpoint as a folder that transformers reads: safetensors, config.json,"
        " generation_config.json, the tokenizer and a model card. A tensor is in memory at a time.",
        epilog="example: t5x_like export --checkpoint=runs/a --to=hf --output=exported/a",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or one step inside it")
    parser.add_argument("--to", required=True, choices=("hf",), help="the format")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder that is missing or empty")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="",
        help="of the tensors; by default what each had where it was imported from, and float32 after training",
    )
    parser.add_argument(
        "--shard-mb",
        type=whole("--shard-mb", 1),
        default=5120,
        metavar="N",
        help="MiB of a file at most (default 5120)",
    )
    parser.add_argument("--license", default="", metavar="ID", help="for the model card, such as apache-2.0")
    parser.add_argument("--intended-use", default="", metavar="TEXT", help="for the model card, a sentence")
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "export")
    common.require_given("--checkpoint", options.checkpoint)
    common.require_given("--output", options.output)
    common.import_modules(options.module)
    return run_export(
        options.checkpoint,
        options.output,
        json_output=options.json,
        dtype=options.dtype,
        shard_bytes=options.shard_mb << 20,
        license_=options.license,
        intended_use=options.intended_use,
    )


def run_export(checkpoint: str, output: str, *, json_output: bool = False, **options: Any) -> int:
    """Exports a checkpoint as a folder of Hugging Face's, and says what is in it.

    Args:
      checkpoint: a run's work directory, or one step inside it.
      output: a folder that is missing or empty.
      json_output: print one JSON object.
      options: further ones of `exporting.export_model`.
    """
    from t5x_like.checkpoint.layout import absolute
    from t5x_like.interop.exporting import export_model

    began = time.perf_counter()
    done = export_model(checkpoint, absolute(output), **options)
    seconds = time.perf_counter() - began
    if json_output:
        common.print_json(
            {
                "output": str(done.path),
                "parameters": done.parameters,
                "tensors": done.tensors,
                "files": done.files,
                "bytes_written": done.bytes_written,
                "seconds": seconds,
            }
        )
        return 0
    print(
        f"{done.path}: {done.parameters:,} parameters in {done.tensors:,} tensors, {done.files} file(s),"
        f" {done.bytes_written / 1e6:,.0f} MB in {seconds:.1f} s"
    )
    return 0
