"""Options of further kinds of attention: with normed queries and keys, and with sinks."""

from dataclasses import dataclass
from typing import ClassVar

from t5x_like.checks import require_above, require_one_of
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
