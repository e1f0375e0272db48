"""Options of the kinds of attention whose scores have a bias from each layer."""

from dataclasses import dataclass
from typing import ClassVar

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
