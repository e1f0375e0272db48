"""The static description of an attention call, by which a backend is chosen, and the interface of a backend."""

import dataclasses
from typing import Any, Protocol

import jax

# The name that every backend's residuals carry for `jax.checkpoint`: the output and, of a kernel, the logarithms of the
# softmax's sums. A remat policy that saves it spares the backward pass the forward kernel. A kernel names its output
# itself; named a second time it would be kept twice.
RESIDUAL = "attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One attention call without its arrays: all that is static.

    Of the keys of `packed` or causal attention, those after the prefix stand at the places of the queries.

    Attributes:
      queries: tokens of a row that ask.
      keys: tokens of a row that are looked at, the prefix not counted.
      heads: query heads.
      kv_heads: key-value heads, a divisor of `heads`.
      head_dim: width of a head's queries and keys.
      value_dim: width of its values; 0 is `head_dim`.
      dtype: of queries, keys and values.
      scale: what the products of queries and keys are multiplied by, 1/√head_dim as a rule.
      causal: whether no query sees a key later in the row.
      window: how far from its own place in the row a query sees; 0 for any distance.
      soft_cap: c, where the scores, bias included, become c·tanh(score / c) before the mask; 0 for no such c.
      packed: self-attention within the segments of packed rows, from which `Backend.prepare` makes the mask.
      mask: whether an array says who sees whom; `causal` and `window` then say what it is known to leave out.
      bias: whether an array is added to the scores.
      sinks: whether each head has a score besides those of its keys, that takes weight and gives nothing.
      prefix: keys and values in front of the others that every query sees, whatever its segment and its place.
      rows: rows of the call, over all devices that share them; 0 where unknown.
      documents_per_row: the most segments that a row holds, padding not counted; 0 where there is no such bound.
    """

    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int = 0
    dtype: str
    scale: float
    causal: bool = False
    window: int = 0
    soft_cap: float = 0.0
    packed: bool = False
    mask: bool = False
    bias: bool = False
    sinks: bool = False
    prefix: int = 0
    rows: int = 0
    documents_per_row: int = 0


class Backend(Protocol):
    """An implementation of attention; it has no state.

    Attributes:
      name: as logs and `config show` have it.
      heads_first: whether arrays are [batch, heads, length, head width], the queries already multiplied by the
        specification's scale; else [batch, length, heads, head width], and the backend multiplies.
      whole_rows: whether a device gives it whole rows of some heads, where devices share rows; else all heads of the
        device's own tokens.
    """

    name: str
    heads_first: bool
    whole_rows: bool

    def supports(self, spec: AttentionSpec) -> str:
        """Why this backend cannot compute the call on the current layout's devices, in a few words; "" if it can."""
        ...

    def prepare(self, spec: AttentionSpec, segment_ids_bt: jax.Array, positions_bt: jax.Array) -> Any:
        """The part that is computed once a batch and used in every layer, for packed rows.

        Args:
          spec: of the call.
          segment_ids_bt: int32 [batch, length]; tokens attend within their own segment. 0 is padding.
          positions_bt: int32 [batch, length], each token's place in its segment.

        Returns:
          A tree of arrays.
        """
        ...

    def by_row(self, prepared: Any) -> Any:
        """The part of what `prepare` gave that belongs to single rows: arrays with a leading axis of them."""
        ...

    def again(self, spec: AttentionSpec, rows: Any) -> Any:
        """The result of `prepare` for some rows only, from their part of `by_row`."""
        ...

    def attend(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        prepared: Any,
        bias: jax.Array | None = None,
        sinks_h: jax.Array | None = None,
    ) -> jax.Array:
        """Dot-product attention (Vaswani et al. 2017, eq. 1) with grouped heads (Ainslie et al. 2023).

        Args:
          spec: of the call.
          q: queries; see `heads_first` for the order of dimensions.
          k: keys, those of the prefix first; the query heads are a multiple of the key-value heads.
          v: values, likewise.
          prepared: from `prepare`, or bool [batch, queries, keys] where the specification has a mask.
          bias: float32 [heads, queries, keys] or [batch, heads, queries, keys], added to the scores of all keys but the
            prefix's; None adds nothing.
          sinks_h: float32 [heads], a score of each head that the softmax is over too (gpt-oss, 2025, section 2); where
            the specification has sinks.

        Returns:
          An array of the shape and dtype of `q`, but for the width of a head's values.
        """
        ...
