"""Options of what comes before and after a transformer's layers: positions, embeddings and output heads."""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from t5x_like import registry
from t5x_like.checks import require_at_least, require_below, require_one_of, require_positive, require_size
from t5x_like.errors import ExperimentError

ROPE_SCALINGS = ("none", "linear", "llama3", "yarn")

# --- Positions --------------------------------------------------------------------------------------------------------


class Positions:
    """Base of the kinds of positions."""

    def build_bias(self, heads: int, rngs: nnx.Rngs, *, causal: bool) -> nnx.Module | None:
        """The module that makes a stack's bias of the scores by distance; None for kinds that have none."""
        return None

    def build_vectors(self, model: Any, norm: Any, rngs: nnx.Rngs) -> nnx.Module | None:
        """The module that has a vector for each distance; None for kinds that have none."""
        return None


@dataclass(frozen=True, kw_only=True)
class NoPositions(Positions):
    """No positions at all, for a stack whose attention or embeddings have their own."""

    name: str = "none"


@dataclass(frozen=True, kw_only=True)
class Learned(Positions):
    """A learned vector for each position, added to the embeddings; there are `model.max_length` of them.

    Attributes:
      offset: rows of the table before the first position's, which nothing reads; RoBERTa and BART have two, one of them
        for padding (as released).
    """

    name: str = "learned"
    offset: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "offset")
        require_below(self, 1 << 31, "offset")


@dataclass(frozen=True, kw_only=True)
class Sinusoidal(Positions):
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
class Rope(Positions):
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
class Relative(Positions):
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
        require_buckets(self)

    def build_bias(self, heads: int, rngs: nnx.Rngs, *, causal: bool) -> nnx.Module:
        """See `Positions.build_bias`."""
        return registry.imported("t5x_like.models.transformer.position_bias:RelativeBias")(
            self, heads, rngs, causal=causal
        )


def require_buckets(options: Any) -> None:
    """Raises ExperimentError unless `buckets` can share the distances up to `distance`."""
    buckets, distance = options.buckets, options.distance
    require_below(options, 1 << 31, "buckets", "distance")
    if buckets < 4 or buckets % 4:
        raise ExperimentError("buckets", f"{buckets} is no multiple of 4, which it must be")
    if distance <= buckets // 2:
        raise ExperimentError(
            "distance",
            f"{distance} leaves no distances for half of the {buckets} buckets; it must be above {buckets // 2}",
        )


@dataclass(frozen=True, kw_only=True)
class Alibi(Positions):
    """A fixed bias of the scores, falling with the distance, of another slope in each head (Press et al. 2022)."""

    name: str = "alibi"

    def build_bias(self, heads: int, rngs: nnx.Rngs, *, causal: bool) -> nnx.Module:
        """See `Positions.build_bias`."""
        return registry.imported("t5x_like.models.transformer.position_bias:AlibiBias")(self, heads)


@dataclass(frozen=True, kw_only=True)
class DisentangledPositions(Positions):
    """A learned vector for each distance, for attention of the kind `disentangled` (DeBERTa, He et al. 2021, eq. 3).

    Attributes:
      distance: from which on, before and after a token, all distances share a vector.
      buckets: of distances, in each direction: the nearer half a distance each, the others of growing length (He et al.
        2021b); 0 for a vector for each distance.
      norm: whether the vectors pass a norm like that of the layers.
    """

    name: str = "disentangled"
    distance: int = 512
    buckets: int = 0
    norm: bool = False

    def __post_init__(self) -> None:
        require_size(self, "distance")
        require_at_least(self, 0, "buckets")
        if self.buckets and (self.buckets % 2 or not self.buckets // 2 < self.distance - 1):
            raise ExperimentError(
                "buckets",
                f"{self.buckets} do not share {self.distance} distances; it must be even and below"
                f" {2 * self.distance - 2}",
            )

    def build_vectors(self, model: Any, norm: Any, rngs: nnx.Rngs) -> nnx.Module:
        """See `Positions.build_vectors`."""
        module = registry.imported("t5x_like.models.transformer.distance_vectors:DistanceVectors")
        return module(self, model, norm, rngs)


# --- Both ends of a model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A table of token embeddings.

    Attributes:
      types: kinds of token that have an embedding of their own beside the token's, such as BERT's two for the first and
        the second of two texts; 0 for none.
      norm: whether there is a norm after the embeddings.
      width: of the tables, with a linear layer from there to `model.embed` (ALBERT, Lan et al. 2020, section 3.1); 0
        for tables of `model.embed` and no such layer.
      asked: whether there is a vector of its own, under the id −1, for a token that is asked for by its place alone
        (XLNet's w, Yang et al. 2019, section 2.3).
      scaled: whether the tokens' embeddings are multiplied by √embed (Vaswani et al. 2017, section 3.4).
    """

    name: str = "tokens"
    types: int = 0
    norm: bool = False
    width: int = 0
    asked: bool = False
    scaled: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "types", "width")
        require_below(self, 1 << 31, "types", "width")

    def build(self, model: Any, rngs: nnx.Rngs) -> None:
        """No module of its own: the model's table is shared by its stacks and perhaps its head."""


class Head:
    """Base of the kinds of output heads: which of a language model's parts there are, as modules or None."""

    soft_cap: float = 0.0

    def build_transform(self, model: Any, rngs: nnx.Rngs) -> nnx.Module | None:
        """What the last states pass before the table, with the bias of each row."""
        return None

    def build_table(self, model: Any, rngs: nnx.Rngs) -> nnx.Module | None:
        """A table of the head's own."""
        return None

    def build_bias(self, model: Any, rngs: nnx.Rngs) -> nnx.Param | None:
        """A bias of each token, where no transform has it."""

    def build_pooler(self, model: Any, rngs: nnx.Rngs) -> nnx.Module | None:
        """What reads a text from the last state of its first token."""
        return None

    def products(self, model: Any) -> int:
        """Of the parameters that each token's last state is multiplied with, how many there are."""
        return int(model.vocab_size * model.embed)


@dataclass(frozen=True, kw_only=True)
class Tied(Head):
    """The token table as output head.

    Attributes:
      soft_cap: c of c·tanh(logit / c) (Gemma 2, 2024, section 2); 0 for none.
      rescaled: whether the logits are divided by √embed, which suits a table of entries near 1.
      bias: whether each token has a bias.
    """

    name: str = "tied"
    soft_cap: float = 0.0
    rescaled: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "soft_cap")

    def build_transform(self, model: Any, rngs: nnx.Rngs) -> nnx.Module | None:
        """See `Head.build_transform`."""
        return registry.imported("t5x_like.models.transformer.heads:TableBias")(model, rngs) if self.bias else None


@dataclass(frozen=True, kw_only=True)
class Untied(Head):
    """An output head with a table of its own.

    Attributes:
      soft_cap: as of `tied`.
      bias: whether each token has a bias.
    """

    name: str = "untied"
    soft_cap: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "soft_cap")

    def build_table(self, model: Any, rngs: nnx.Rngs) -> nnx.Module:
        """See `Head.build_table`."""
        table = registry.imported("t5x_like.models.linear:Embedding")
        return table(model.vocab_size, model.embed, "vocab", std=model.head_std(), rngs=rngs)

    def build_bias(self, model: Any, rngs: nnx.Rngs) -> nnx.Param | None:
        """See `Head.build_bias`."""
        bias = registry.imported("t5x_like.models.parameters:parameter")
        return bias(rngs, (model.vocab_size,), ("vocab",), "bias") if self.bias else None
