"""Options of the kinds of attention whose scores have a bias from each layer."""

from dataclasses import dataclass
from typing import ClassVar

from t5x_like.errors import ExperimentError
from t5x_like.models.transformer.ends_options import require_buckets
from t5x_like.models.transformer.layer_options import DotProduct

_FOLDER = "t5x_like.models.transformer"


@dataclass(frozen=True, kw_only=True)
class RelativeBuckets(DotProduct):
    """Dot-product attention with T5's learned bias by distance in every layer (umT5, Chung et al. 2023, section 4).

    Attributes:
      buckets: as of positions `relative`, which are one bias for all layers of a stack.
      distance: likewise.
    """

    module: ClassVar[str] = f"{_FOLDER}.relative_attention:RelativeAttention"
    has_content_bias: ClassVar[bool] = True

    name: str = "relative"
    buckets: int = 32
    distance: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require_buckets(self)


@dataclass(frozen=True, kw_only=True)
class Disentangled(DotProduct):
    """DeBERTa's attention (He et al. 2021, section 3.1), beside positions `disentangled`; each head has its own keys.

    Attributes:
      shared_projections: whether the vectors of distances pass the projections of queries and keys (He et al. 2021b,
        version 2), or others of their own.
      key_bias: whether the projection of keys has a bias where the others have.
    """

    module: ClassVar[str] = f"{_FOLDER}.disentangled_attention:DisentangledAttention"
    has_content_bias: ClassVar[bool] = True

    name: str = "disentangled"
    shared_projections: bool = True
    key_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kv_heads != self.heads:
            raise ExperimentError("kv_heads", f"{self.kv_heads} differs from heads={self.heads}; use as many")

    def operations(self, embed: int) -> tuple[int, int, int]:
        """See `DotProduct.operations`; a pair has a product by its distance with the query, and one with the key."""
        queries, keys, pair = super().operations(embed)
        return queries, keys, 2 * pair


@dataclass(frozen=True, kw_only=True)
class TwoStream(DotProduct):
    """XLNet's attention (Yang et al. 2019, section 2.3 and appendix A.2): distances, offsets and types in every layer.

    Places are told by `positions_bt`, so that queries of a second stream may stand behind the tokens of a row, with a
    mask that says what they see; and keys may reach into a memory of earlier rows (`segment_recurrence`).
    """

    module: ClassVar[str] = f"{_FOLDER}.two_stream_attention:TwoStreamAttention"
    has_content_bias: ClassVar[bool] = True

    name: str = "two_stream"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kv_heads != self.heads:
            raise ExperimentError("kv_heads", f"{self.kv_heads} differs from heads={self.heads}; use as many")

    def operations(self, embed: int) -> tuple[int, int, int]:
        """See `DotProduct.operations`; a pair has a product by its distance."""
        queries, keys, pair = super().operations(embed)
        return queries, keys, pair + self.heads * self.head_dim
