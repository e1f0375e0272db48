"""`t5x_like adapters`: merge adapters into a model, take them out again, and exchange them with `peft`."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.commands import common


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "adapters",
        help="merge adapters, or exchange them with peft",
        description="Merge the adapters of a checkpoint into its model, or exchange them with peft's folders.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    merge = actions.add_parser("merge", help="a checkpoint without adapters that computes the same", allow_abbrev=False)
    unmerge = actions.add_parser("unmerge", help="a merged checkpoint with its adapters apart", allow_abbrev=False)
    out = actions.add_parser("export", help="an adapter as a folder of peft's", allow_abbrev=False)
    into = actions.add_parser("import", help="a folder of peft's on a checkpoint", allow_abbrev=False)
    for action in (merge, unmerge, out, into):
        action.add_argument("--checkpoint", required=True, metavar="DIR", help="a workdir, or one step inside it")
        action.add_argument("--output", required=True, metavar="DIR", help="what is written; missing, or empty")
        common.add_modules(action)
        common.add_json(action)
    unmerge.add_argument("--adapters", required=True, metavar="DIR", help="the checkpoint whose adapters were merged")
    out.add_argument("--adaptation", default="", metavar="KEY", help="which one, where there are several")
    out.add_argument("--base", default="", metavar="NAME", help="of the base model, for adapter_config.json")
    into.add_argument("--path", required=True, metavar="DIR", help="the folder of peft's")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "adapters")
    common.require_given("--checkpoint", options.checkpoint)
    common.require_given("--output", options.output)
    common.import_modules(options.module)
    from etils import epath

    from t5x_like.interop import merging, peft

    output = epath.Path(options.output)
    if options.action == "merge":
        count, what = merging.merge(options.checkpoint, output), "parameters"
    elif options.action == "unmerge":
        count, what = merging.unmerge(options.checkpoint, options.adapters, output), "parameters"
    elif options.action == "export":
        count = peft.export_adapter(options.checkpoint, output, options.adaptation, options.base)
        what = "tensors"
    else:
        count, what = peft.import_adapter(epath.Path(options.path), options.checkpoint, output), "tensors"
    if options.json:
        common.print_json({"output": options.output, what: count})
    else:
        print(f"{count:,} {what} in {options.output}")
    return 0
