"""Options of further kinds of attention: with normed queries and keys, with sinks, and latent."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx

from t5x_like import registry
from t5x_like.checks import require_above, require_at_least, require_one_of, require_size
from t5x_like.errors import ExperimentError
from t5x_like.models.transformer.layer_options import DotProduct

NORMED = ("head", "heads")


@dataclass(frozen=True, kw_only=True)
class NormedDotProduct(DotProduct):
    """Dot-product attention with an RMSNorm of queries and keys, before they are rotated (Dehghani et al. 2023).

    Attributes:
      over: `head`, each head by itself with one scale for all (Qwen3, 2025, section 2); or `heads`, all heads of a
        token at once (OLMo 2, 2025, section 3.1).
      epsilon: added under the root.
      unit_offset: as of the norms of a layer.
    """

    module: ClassVar[str] = "t5x_like.models.transformer.attention_kinds:NormedAttention"

    name: str = "normed"
    over: str = "head"
    epsilon: float = 1e-6
    unit_offset: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of(self, "over", NORMED)
        require_above(self, 0, "epsilon")


@dataclass(frozen=True, kw_only=True)
class Sinks(DotProduct):
    """Dot-product attention with a learned score of each head that takes weight and gives nothing (gpt-oss, 2025)."""

    module: ClassVar[str] = "t5x_like.models.transformer.attention_kinds:SinkAttention"

    name: str = "sinks"


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, 2024, section 2.1): keys and values are made of a short vector a token.

    A cache holds that vector and one rotated key for all heads. A head's queries and keys are a part without position
    and a rotated part, and its values are as wide as they like.

    Attributes:
      heads: of queries, keys and values.
      query_rank: width of the vector that queries are made of; 0 makes them of the stream itself.
      key_value_rank: width of the vector that keys and values are made of.
      plain_dim: of a head's queries and keys, how wide the part without position is.
      rotary_dim: how wide the rotated part is.
      value_dim: width of a head's values.
      epsilon: of the norms of both vectors.
      scale: what scores are multiplied by; 0 is 1/√(plain_dim + rotary_dim).
    """

    module: ClassVar[str] = "t5x_like.models.transformer.latent_attention:LatentAttention"
    has_content_bias: ClassVar[bool] = False
    window: ClassVar[int] = 0
    soft_cap: ClassVar[float] = 0.0

    name: str = "latent"
    heads: int
    query_rank: int = 0
    key_value_rank: int
    plain_dim: int
    rotary_dim: int
    value_dim: int
    epsilon: float = 1e-6
    scale: float = 0.0

    def __post_init__(self) -> None:
        require_size(self, "heads", "key_value_rank", "plain_dim", "rotary_dim", "value_dim")
        require_at_least(self, 0, "query_rank", "scale")
        require_above(self, 0, "epsilon")
        if self.rotary_dim % 2:
            raise ExperimentError(
                "rotary_dim", f"{self.rotary_dim} is odd; rotary positions turn pairs, so make it even"
            )

    @property
    def kv_heads(self) -> int:
        """Every head has keys and values of its own."""
        return self.heads

    @property
    def head_dim(self) -> int:
        """Width of a head's queries and keys."""
        return self.plain_dim + self.rotary_dim

    def build(self, model: Any, rngs: nnx.Rngs, *, causal: bool, cross: bool = False) -> nnx.Module:
        """The module of one layer."""
        if cross:
            raise ExperimentError("model.decoder.layer.attention", "an encoder's states are no latent attention's")
        return registry.imported(self.module)(model, self, rngs, causal=causal)

    def operations(self, embed: int) -> tuple[int, int, int]:
        """See `DotProduct.operations`."""
        queries = self.query_rank * embed + (self.query_rank or embed) * self.heads * self.head_dim
        latent = embed * (self.key_value_rank + self.rotary_dim)
        keys = latent + self.key_value_rank * self.heads * (self.plain_dim + self.value_dim)
        return queries + embed * self.heads * self.value_dim, keys, self.heads * (self.head_dim + self.value_dim)


@dataclass(frozen=True, kw_only=True)
class Distances(DotProduct):
    """Transformer-XL's attention in a decoder (Dai et al. 2019, section 3.3); each head has its own keys."""

    module: ClassVar[str] = "t5x_like.models.transformer.distance_attention:DistanceAttention"
    has_content_bias: ClassVar[bool] = True

    name: str = "distances"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kv_heads != self.heads:
            raise ExperimentError("kv_heads", f"{self.kv_heads} differs from heads={self.heads}; use as many")
