"""`t5x_like models`: the model families and their sizes, with parameters, FLOPs a token and memory."""

import argparse
import types
from collections.abc import Iterator, Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common

# Of a row of tokens; far above any model, and few enough for exact products.
LONGEST = 1 << 30


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "models",
        help="list model families and sizes, with parameters, FLOPs and memory",
        description="List every size of every model family: its exact number of parameters; floating-point operations a"
        " token, forward and backward, in rows of the model's max_length; and the memory of the parameters in float32,"
        " alone and with AdamW's state. Nothing is allocated. Of an encoder-decoder both stacks read such rows,"
        " and the tokens of both count.",
        epilog="example: t5x_like models --family=llama --length=2048",
        allow_abbrev=False,
    )
    parser.add_argument("--family", metavar="NAME", help="this family alone")
    parser.add_argument(
        "--length",
        type=whole("--length", 1, LONGEST),
        metavar="TOKENS",
        help="of a row, in place of each model's max_length; FLOPs are left out where a model has no room for it",
    )
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from t5x_like import registry

    common.refuse(rest, "models")
    common.import_modules(options.module)
    known = registry.names("model")
    families = known if options.family is None else (registry.check("model", options.family, "--family"),)
    found = [
        describe(model, options.length)
        for family in families
        for model in architectures(family, alone=options.family is not None)
    ]
    if options.json:
        common.print_json({"models": found})
    else:
        _show(found)
    return 0


def architectures(family: str, *, alone: bool = False) -> Iterator[Any]:
    """The options of every size of a family; of one without sizes its defaults, where they make a model.

    Args:
      family: its name in the registry.
      alone: whether it is an error that there is nothing to show.
    """
    from t5x_like import registry
    from t5x_like.errors import ExperimentError
    from t5x_like.sections import Choice, choose

    entry = registry.load("model", family)
    for size in getattr(entry, "sizes", {}) or [""]:
        try:
            yield choose(
                Choice("model", family, "family"), {"family": family, **({"size": size} if size else {})}, "model"
            )
        except ExperimentError:
            if size or alone:
                raise


def describe(model: Any, length: int | None = None) -> dict[str, Any]:
    """The size and cost of a model, from shapes alone.

    Args:
      model: an architecture.
      length: tokens of a row; None takes the model's `max_length`.

    Returns:
      `family`, `size`, `parameters`, `length`, `flops_per_token` (forward and backward; None where the model has no
      room for such rows), `parameter_bytes` (float32), and `adamw_bytes`, of parameters and AdamW's state.
    """
    import jax
    from flax import nnx

    from t5x_like import variables
    from t5x_like.sections import Choice, choose

    structure, shapes = variables.abstract(lambda: model.build(nnx.Rngs(params=0)))
    trained = {path for path, kind in structure.kinds().items() if issubclass(kind, nnx.Param)}

    def of_trained(tree: Any) -> Any:
        return variables.unflatten({path: leaf for path, leaf in variables.flatten(tree).items() if path in trained})

    infos, shapes = of_trained(structure.infos()), of_trained(shapes)
    adamw = choose(Choice("optimizer", "adamw"), "adamw").direction(infos)
    length = (length or getattr(model, "max_length", 0)) if model.vocab_size else 0  # 0 without tokens
    return {
        "family": model.family,
        "size": model.size,
        "parameters": sum(shape.size for shape in jax.tree.leaves(shapes)),
        "length": length or None,
        "flops_per_token": _flops_per_token(model, length) if length else None,
        "parameter_bytes": _bytes(shapes),
        "adamw_bytes": _bytes(shapes) + _bytes(jax.eval_shape(adamw.init, shapes)),
    }


def _flops_per_token(model: Any, length: int) -> float | None:
    from t5x_like.errors import ExperimentError

    try:
        model.check(None, types.SimpleNamespace(sequence_length=length), 1)
    except ExperimentError:
        return None
    return model.flops(dict.fromkeys(model.stacks, (1, length))) / (length * len(model.stacks))


def _bytes(shapes: Any) -> int:
    import jax

    return sum(shape.size * shape.dtype.itemsize for shape in jax.tree.leaves(shapes))


def _show(found: Sequence[dict[str, Any]]) -> None:
    """Prints a table; in a pipe it is as wide as it has to be."""
    from rich.console import Console
    from rich.table import Table

    from t5x_like.parallel.chips import GIB

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("family", "size"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "length", "GFLOP a token", "GiB", "GiB with AdamW"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found:
        flops, length = row["flops_per_token"], row["length"]
        table.add_row(
            row["family"],
            row["size"],
            f"{row['parameters']:,}",
            f"{length:,}" if length else "–",
            f"{flops / 1e9:,.2f}" if flops is not None else "–",
            f"{row['parameter_bytes'] / GIB:,.2f}",
            f"{row['adamw_bytes'] / GIB:,.2f}",
        )
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(table)
