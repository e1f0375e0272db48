"""Options of what comes before and after a transformer's layers: positions, embeddings and output heads."""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from t5x_like.checks import require_at_least, require_below, require_one_of, require_positive
from t5x_like.errors import ExperimentError
from t5x_like.models.transformer.layer_options import ACTIVATIONS

ROPE_SCALINGS = ("none", "linear", "llama3", "yarn")

# --- Positions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoPositions:
    """No positions at all, for a stack whose attention or embeddings have their own."""

    name: str = "none"


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A learned vector for each position, added to the embeddings; there are `model.max_length` of them."""

    name: str = "learned"


@dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, section 3.5).

    Attributes:
      longest: the longest wavelength is 2π times this.
    """

    name: str = "sinusoidal"
    longest: float = 10000.0

    def __post_init__(self) -> None:
        require_positive(self, "longest")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Longer rotary wavelengths, for rows longer than a model was first trained on.

    Attributes:
      kind: `none`; `linear`, all wavelengths times `factor` (Chen et al. 2023); or `llama3`, the long ones times
        `factor`, the short ones as they are, and a passage between (Grattafiori et al. 2024, as released); or `yarn`,
        likewise, with a passage that is linear in the number of the wavelength (Peng et al. 2023, section 3.2).
      factor: of the wavelengths.
      low: wavelengths above original_length / low are long.
      high: wavelengths below original_length / high are short; 4 is Llama's, YaRN's is 32.
      original_length: that the model was first trained on.
      rounded: whether YaRN's passage begins and ends at a whole number of a wavelength.
      attention_factor: what YaRN multiplies rotated queries and keys by, as a rule 0.1 · ln(factor) + 1 (section 3.4).
    """

    kind: str = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192
    rounded: bool = True
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        require_one_of(self, "kind", ROPE_SCALINGS)
        require_positive(self, "factor", "original_length", "attention_factor")
        if self.kind != "yarn" and (self.attention_factor != 1 or not self.rounded):
            field = "rounded" if self.attention_factor == 1 else "attention_factor"
            raise ExperimentError(field, f"it does nothing with kind={self.kind!r}; choose 'yarn' or leave it out")
        if not 0 < self.low < self.high:
            raise ExperimentError("low", f"{self.low} must be above 0 and below high={self.high}")
        if self.kind == "none" and self.factor != 1:
            raise ExperimentError("factor", f"{self.factor} does nothing with kind='none'; choose 'linear' or 'llama3'")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary positions (Su et al. 2021, section 3.2).

    Attributes:
      theta: base of the wavelengths.
      fraction: of a head's width that is rotated, from its beginning; the rest carries no position.
      scaling: of the wavelengths.
      local_theta: base of the wavelengths in layers with a window, where nothing is scaled (Gemma 3, 2025, section 2);
        0 for the same as in the others.
    """

    name: str = "rope"
    theta: float = 10000.0
    fraction: float = 1.0
    scaling: RopeScaling
    local_theta: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "theta")
        require_at_least(self, 0, "local_theta")
        if not 0 < self.fraction <= 1:
            raise ExperimentError("fraction", f"{self.fraction} is no part of a head; it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Relative:
    """A learned bias of the scores for each head and bucket of distances, shared by the layers of a stack.

    It is T5's (Raffel et al. 2020, section 2.1).

    Attributes:
      buckets: of distances, half of them for what comes later where that is seen.
      distance: from which on all distances share a bucket.
    """

    name: str = "relative"
    buckets: int = 32
    distance: int = 128

    def __post_init__(self) -> None:
        require_below(self, 1 << 31, "buckets", "distance")
        if self.buckets < 4 or self.buckets % 4:
            raise ExperimentError("buckets", f"{self.buckets} is no multiple of 4, which it must be")
        if self.distance <= self.buckets // 2:
            raise ExperimentError(
                "distance",
                f"{self.distance} leaves no distances for half of the {self.buckets} buckets; it must be above"
                f" {self.buckets // 2}",
            )


@dataclass(frozen=True, kw_only=True)
class Alibi:
    """A fixed bias of the scores, falling with the distance, of another slope in each head (Press et al. 2022)."""

    name: str = "alibi"


# --- Both ends of a model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A table of token embeddings.

    Attributes:
      types: kinds of token that have an embedding of their own beside the token's, such as BERT's two for the first and
        the second of two texts; 0 for none.
      norm: whether there is a norm after the embeddings.
      scaled: whether the tokens' embeddings are multiplied by √embed (Vaswani et al. 2017, section 3.4).
    """

    name: str = "tokens"
    types: int = 0
    norm: bool = False
    scaled: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "types")
        require_below(self, 1 << 31, "types")

    def build(self, model: Any, rngs: nnx.Rngs) -> None:
        """No module of its own: the model's table is shared by its stacks and perhaps its head."""


@dataclass(frozen=True, kw_only=True)
class Tied:
    """The token table as output head.

    Attributes:
      soft_cap: c of c·tanh(logit / c) (Gemma 2, 2024, section 2); 0 for none.
      rescaled: whether the logits are divided by √embed, which suits a table of entries near 1.
    """

    name: str = "tied"
    soft_cap: float = 0.0
    rescaled: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "soft_cap")


@dataclass(frozen=True, kw_only=True)
class Untied:
    """An output head with a table of its own.

    Attributes:
      soft_cap: as of `tied`.
    """

    name: str = "untied"
    soft_cap: float = 0.0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "soft_cap")


@dataclass(frozen=True, kw_only=True)
class MaskedLMHead:
    """BERT's head: a linear layer, an activation and a norm before the token table, and a bias for each token.

    Attributes:
      activation: of the linear layer.
      soft_cap: as of `tied`.
    """

    name: str = "masked_lm"
    activation: str = "gelu_exact"
    soft_cap: float = 0.0

    def __post_init__(self) -> None:
        require_one_of(self, "activation", ACTIVATIONS)
