"""Leaves of a state as one flat dict, {dotted path: array}, and whether what was saved fits what is asked for.

A state is nested dicts with optax's tuples inside. Its flat form, `optimizer.0.mu.blocks.mlp.up`, is what a commit
holds: it does not depend on Python classes, a part of it can be read without the rest, and errors can name a leaf.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from t5x_like.checkpoint.manifest import Leaf

_SHOWN = 8

# Which field of the experiment sets the number of rows of a table, by a name in its path.
_ROWS = {"tokens": "model.vocab_size", "head": "model.vocab_size", "positions": "model.max_length"}


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by dotted path, in the tree's order.

    Raises:
      ValueError: when two leaves have the same path, as `{"a.b": x, "a": {"b": y}}` does.
    """
    flat: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        if path in flat:
            raise ValueError(f"two leaves of the tree have the path {path!r}")
        flat[path] = leaf
    return flat


def unflatten(structure: Any, flat: Mapping[str, Any]) -> Any:
    """A tree of the same structure as `structure` whose leaves come from `flat`, by path."""
    return jax.tree.unflatten(jax.tree.structure(structure), [flat[path] for path in flatten(structure)])


def misfits(wanted: Mapping[str, Any], saved: Mapping[str, Leaf]) -> list[str]:
    """The differences between saved and wanted leaves, one line a leaf; empty when they fit.

    Args:
      wanted: what is asked for, with `.shape` and `.dtype`.
      saved: what the commit holds.

    Returns:
      Lines that start with `-` (asked for, not saved), `+` (saved, not asked for) or `~` (saved differently).
    """
    lines = [f"- {path} {text(leaf)}: not in the checkpoint" for path, leaf in wanted.items() if path not in saved]
    lines += [f"+ {path} {text(leaf)}: only in the checkpoint" for path, leaf in saved.items() if path not in wanted]
    for path, leaf in wanted.items():
        if path in saved and text(leaf) != text(saved[path]):
            field = hint(path, tuple(leaf.shape), tuple(saved[path].shape))
            lines.append(f"~ {path} is {text(saved[path])} in the checkpoint and {text(leaf)} here{field}")
    return lines


def summary(lines: Sequence[str]) -> str:
    """The first few lines and how many more there are."""
    rest = len(lines) - _SHOWN
    return "\n".join(f"  {line}" for line in [*lines[:_SHOWN], *([f"… and {rest} more"] if rest > 0 else [])])


def text(leaf: Any) -> str:
    """Dtype and shape of a leaf, such as `float32[4096, 256]`."""
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"


def hint(path: str, here: tuple[int, ...], there: tuple[int, ...]) -> str:
    """Half a sentence where only the rows of an embedding or a head differ: the field that sets them."""
    if len(here) != len(there) or not here or here[1:] != there[1:] or here[0] == there[0]:
        return ""
    fields = [field for name, field in _ROWS.items() if name in path.split(".")]
    return f": {fields[0]} was {there[0]}" if fields else ""
