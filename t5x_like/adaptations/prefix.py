"""Prefix tuning: trained keys and values in front of every row, in each layer (Li & Liang 2021, section 4).

Shapes: b batch, p prefix, k key-value heads, e head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.adaptations.base import Adaptation, chosen, modules_by_path
from t5x_like.checks import require_at_least, require_positive
from t5x_like.errors import ExperimentError
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.stack import TransformerStack
from t5x_like.objectives.roles import Roles, Trained, matches_path
from t5x_like.variables import Path


@dataclass(frozen=True, kw_only=True)
class Prefix(Adaptation):
    """Options.

    Attributes:
      path: glob of the attention modules.
      length: keys and values that every query sees in front of its own.
      std: standard deviation of their first values.
      takes_positions: whether positions of the text begin after those of the prefix, as in `peft`; keys of the prefix
        are not rotated in either case.
    """

    name: str = "prefix"
    path: str = "**/attention"
    length: int = 16
    std: float = 0.02
    takes_positions: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "length")
        require_at_least(self, 0, "std")

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Gives each self-attention that is meant a `KeyValuePrefix`."""
        for attention in chosen(model, self.path, Attention, "path", "attention"):
            if attention.is_cross:
                raise ExperimentError("path", f"{self.path!r} takes attention to an encoder, which has no prefix")
            if attention.prefix is not None:
                raise ExperimentError("path", f"{self.path!r} takes attention that has a prefix already; leave one out")
            attention.prefix = nnx.data(KeyValuePrefix(attention, self, rngs))
        for path, stack in modules_by_path(model) if self.takes_positions else ():
            if isinstance(stack, TransformerStack):
                meant = any(matches_path(self.path, each) for each in _layers_below(path, stack))
                stack.first_position = self.length if meant else 0

    @property
    def roles(self) -> Roles:
        """Keys and values are trained."""
        return (("**/prefix/*", Trained()),)


def _layers_below(path: Path, stack: TransformerStack) -> Iterator[Path]:
    """The paths of the modules in the layers of a stack, and in no stack inside it."""
    own = ("leading", "blocks", "trailing")
    return ((*path, *rest) for rest, _ in modules_by_path(stack) if rest and rest[0] in own)


class KeyValuePrefix(nnx.Module):
    """Keys and values of one layer, the same for all rows."""

    def __init__(self, attention: Any, options: Prefix, rngs: nnx.Rngs) -> None:
        """Draws both."""
        self.length = options.length
        stack = attention.key.kernel.shape[:-2]
        shape = (*stack, options.length, attention.options.kv_heads, attention.options.head_dim)
        axes = (*("layers",) * len(stack), None, "kv", None)
        self.keys = parameter(rngs, shape, axes, "embedding", std=options.std)
        self.values = parameter(rngs, shape, axes, "embedding", std=options.std)

    def __call__(self, rows: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """[rows, prefix, key-value heads, head width] each."""

        def for_rows(values_pke: jax.Array) -> jax.Array:
            return jnp.broadcast_to(values_pke.astype(dtype), (rows, *values_pke.shape))

        return for_rows(self.keys[...]), for_rows(self.values[...])
