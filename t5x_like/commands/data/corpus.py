"""Flags that the commands on a corpus share, and the printing of counts."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from t5x_like.commands import common


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name a corpus of text."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--input", metavar="PATH", help="a file or a glob of files in any format that data.task reads")
    group.add_argument("--task", metavar="NAME", help="a task that ships with the program, such as sotu")
    group.add_argument(
        "--config",
        metavar="FILE[:ARGUMENT]",
        help="an experiment whose data.task to read; --config.FIELD=VALUE overrides any of its fields",
    )
    parser.add_argument("--field", default="text", help="with --input: the key or column of the text (default text)")


def task(options: argparse.Namespace, rest: Sequence[str], command: str, **fields: Any) -> Any:
    """The task whose texts to read.

    Args:
      options: with the flags of `add_flags`.
      rest: arguments that the parser did not know.
      command: which is asked, for errors.
      fields: further fields of the task, where no experiment gives them.

    Raises:
      UserError: when it is not a corpus of text.
    """
    from t5x_like.data.tasks import TextTask
    from t5x_like.errors import UserError
    from t5x_like.experiment import Data
    from t5x_like.sections import section

    if options.config:
        from t5x_like.frontends import configdict

        found = configdict.load(options.config, rest).data.task
    else:
        common.refuse(rest, command)
        given = {"name": options.task} if options.task else {"name": "text", "path": options.input}
        if options.input:
            given["field"] = options.field
        found = section(Data, {"task": {**given, **fields}}, "data").task
    if not isinstance(found, TextTask):
        raise UserError(f"data.task: {found.name!r} is no corpus of text; give --input=PATH")
    return found


def add_stages(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds `--stages`."""
    parser.add_argument(
        "--stages",
        required=required,
        default="",
        metavar="NAMES|FILE",
        help="names of stages with commas between them, or a .json file with a list of names and of objects with a"
        " name and options" + ("" if required else "; by default those of data.task.cleaning"),
    )


def print_counts(counts: Any) -> None:
    """Prints what every stage dropped and took out, rule by rule; see `lines_of_counts`."""
    for line in lines_of_counts(counts):
        print(line)


def lines_of_counts(counts: Any) -> Iterator[str]:
    """Lines that say what every stage dropped and took out, rule by rule.

    Args:
      counts: a `cleaning.counts.Counts`.
    """
    for stage in counts.stages:
        yield (
            f"{stage.stage}: {stage.given.documents:,} of {stage.taken.documents:,} documents and"
            f" {stage.given.bytes:,} of {stage.taken.bytes:,} bytes are left"
        )
        for rule, amount in sorted(stage.dropped.items()):
            yield f"  dropped by {rule}: {amount.documents:,} ({amount.bytes:,} bytes)"
        for rule, edits in sorted(stage.edited.items()):
            yield f"  taken out by {rule}: {edits.pieces:,} (documents: {edits.documents:,})"
