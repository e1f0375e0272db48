"""`t5x_like data`: preparation and inspection of corpora, one module an action."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common
from t5x_like.commands.data import clean, inspect, prepare, tokenizer, verify

_ACTIONS = {
    "train-tokenizer": tokenizer,
    "clean": clean,
    "prepare": prepare,
    "verify": verify,
    "inspect": inspect,
}


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "data", help="prepare a corpus", description="Prepare a corpus for training.", allow_abbrev=False
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    for action in _ACTIONS.values():
        action.add_parser(actions)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.import_modules(options.module)
    return _ACTIONS[options.action].run(options, rest)
