"""Options of a transformer: the tree below `model` in an experiment, without any array or module.

`Transformer` holds up to two stacks, an encoder and a decoder. A stack is a number of equal layers, or of a repeated
pattern of layers that differ; a layer is attention, a feed-forward half and norms. Parts that come in kinds with
options of their own are choices by name: attention, positions, feed_forward, embeddings, head. The class of a kind
that has a module names it in `module`, and imports it when it is built.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from flax import nnx

from t5x_like import registry, schema1_model
from t5x_like.checks import (
    require_above,
    require_at_least,
    require_below,
    require_one_of,
    require_positive,
    require_size,
)
from t5x_like.errors import ExperimentError
from t5x_like.models.transformer import operations
from t5x_like.parallel import divisibility
from t5x_like.parallel.dimensions import Cut, Dimensions
from t5x_like.parallel.layout import Layout
from t5x_like.sections import Choice, merged, plain, section

NORMS = ("layernorm", "rmsnorm")
NORM_POSITIONS = ("pre", "post")
ACTIVATIONS = ("gelu", "gelu_exact", "relu", "silu")
DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("none", "int8", "fp8")
ROPE_SCALINGS = ("none", "linear", "llama3")

_MOST_VALUES = 1 << 62


# --- Parts of a layer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NormOptions:
    """Normalisation of the residual stream.

    Attributes:
      kind: `layernorm` (Ba et al. 2016) or `rmsnorm` (Zhang & Sennrich 2019).
      epsilon: added under the root.
      bias: whether there is a learned bias beside the learned scale.
      position: `pre`, before each part of a layer and once after the last layer; or `post`, after each part is added to
        the stream (Vaswani et al. 2017, section 3.1), and not again at the end.
    """

    kind: str = "rmsnorm"
    epsilon: float = 1e-6
    bias: bool = False
    position: str = "pre"

    def __post_init__(self) -> None:
        require_one_of(self, "kind", NORMS)
        require_one_of(self, "position", NORM_POSITIONS)
        require_above(self, 0, "epsilon")


@dataclass(frozen=True, kw_only=True)
class DotProduct:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2) with grouped heads (Ainslie et al. 2023).

    Attributes:
      heads: query heads.
      kv_heads: key and value heads; a divisor of `heads`.
      head_dim: width of a head.
      bias: whether the four projections have biases.
      scaled: whether the products of queries and keys are divided by √head_dim; without, the queries' first weights
        are.
      window: how many tokens before itself a token sees in self-attention, and where later ones are seen, as many of
        those (Beltagy et al. 2020, section 3.1; Mistral 7B, Jiang et al. 2023, section 2); 0 for all.
      soft_cap: c of c·tanh(score / c), which keeps the scores between −c and c (Gemma 2, 2024, section 2); 0 for none.
    """

    module: ClassVar[str] = "t5x_like.models.transformer.attention:Attention"
    has_content_bias: ClassVar[bool] = False  # whether the module adds a `content_bias` to the scores

    name: str = "dot_product"
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    scaled: bool = True
    window: int = 0
    soft_cap: float = 0.0

    def __post_init__(self) -> None:
        require_size(self, "heads", "kv_heads", "head_dim")
        require_at_least(self, 0, "window", "soft_cap")
        require_below(self, 1 << 31, "window")
        if self.heads % self.kv_heads:
            raise ExperimentError(
                "kv_heads", f"{self.heads} heads cannot share {self.kv_heads} key-value heads; use a divisor of heads"
            )

    def build(self, model: "Transformer", rngs: nnx.Rngs, *, causal: bool, cross: bool = False) -> nnx.Module:
        """The module of one layer: self-attention, or attention to an encoder's states with `cross`."""
        return registry.imported(self.module)(model, self, rngs, causal=causal, cross=cross)


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Feed-forward half of a layer: two linear layers with an activation in between, or three when gated.

    Attributes:
      hidden: width of the hidden layer.
      activation: `gelu` (tanh form), `gelu_exact`, `relu` or `silu`.
      gated: whether the hidden layer is multiplied by a second projection (Shazeer 2020; SwiGLU is a gated silu).
      bias: whether the linear layers have biases.
    """

    module: ClassVar[str] = "t5x_like.models.transformer.feed_forward:FeedForward"

    name: str = "dense"
    hidden: int
    activation: str = "gelu"
    gated: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        require_size(self, "hidden")
        require_one_of(self, "activation", ACTIVATIONS)

    def build(self, model: "Transformer", rngs: nnx.Rngs) -> nnx.Module:
        """The module of one layer."""
        return registry.imported(self.module)(model, self, rngs)


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Mixture of experts: feed-forward halves of which a router chooses some for each token (Jiang et al. 2024).

    Attributes:
      hidden: width of one expert's hidden layer.
      activation: as of `dense`.
      gated: as of `dense`.
      experts: how many there are.
      experts_per_token: how many the router chooses.
      balance_loss: weight of the loss that evens out the experts' shares of the tokens (Fedus et al. 2022, eq. 4).
      z_loss: weight of log²Z of the router's softmax, which keeps its scores small (Zoph et al. 2022, eq. 5).
    """

    module: ClassVar[str] = "t5x_like.models.transformer.experts:MixtureOfExperts"

    name: str = "experts"
    hidden: int
    activation: str = "silu"
    gated: bool = True
    experts: int
    experts_per_token: int = 2
    balance_loss: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        require_size(self, "hidden", "experts", "experts_per_token")
        require_one_of(self, "activation", ACTIVATIONS)
        require_at_least(self, 0, "balance_loss", "z_loss")
        if self.experts_per_token > self.experts:
            raise ExperimentError(
                "experts_per_token",
                f"{self.experts_per_token} cannot be chosen of {self.experts}; choose at most those",
            )

    def build(self, model: "Transformer", rngs: nnx.Rngs) -> nnx.Module:
        """The module of one layer."""
        if model.dropout_inside:
            raise ExperimentError("model.dropout_inside", "no hidden unit of an expert is dropped; set it to False")
        return registry.imported(self.module)(model, self, rngs)


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """One layer of a stack.

    Attributes:
      attention: how tokens look at each other.
      feed_forward: what is computed of each token by itself.
      norm: of the residual stream.
    """

    attention: Annotated[Any, Choice("attention", default="dot_product")]
    feed_forward: Annotated[Any, Choice("feed_forward", default="dense")]
    norm: NormOptions


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
        `factor`, the short ones as they are, and a passage between (Grattafiori et al. 2024, as released).
      factor: of the wavelengths.
      low: wavelengths above original_length / low are long.
      high: wavelengths below original_length / high are short.
      original_length: that the model was first trained on.
    """

    kind: str = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        require_one_of(self, "kind", ROPE_SCALINGS)
        require_positive(self, "factor", "original_length")
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
    """

    name: str = "rope"
    theta: float = 10000.0
    fraction: float = 1.0
    scaling: RopeScaling

    def __post_init__(self) -> None:
        require_positive(self, "theta")
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
    """

    name: str = "tokens"
    types: int = 0
    norm: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "types")
        require_below(self, 1 << 31, "types")

    def build(self, model: "Transformer", rngs: nnx.Rngs) -> None:
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


# --- Stacks and the whole ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack of layers.

    Attributes:
      layers: how many.
      layer: what they have in common.
      pattern: how the layers of a repeated group differ from `layer`, one entry a layer of the group with the options
        that it changes: `[{"attention": {"window": 4096}}, {}]` for local and global layers in turn. Empty for equal
        layers. The length of the pattern divides `layers`.
      positions: how a token's place in its row is told.
      embeddings: what goes into the first layer.
    """

    layers: int
    layer: LayerOptions
    pattern: tuple[Mapping[str, Any], ...] = ()
    positions: Annotated[Any, Choice("positions", default="rope")]
    embeddings: Annotated[Any, Choice("embeddings", default="tokens")]

    def __post_init__(self) -> None:
        require_size(self, "layers")
        if self.pattern and self.layers % len(self.pattern):
            raise ExperimentError(
                "pattern",
                f"a group of {len(self.pattern)} layers does not divide the {self.layers} layers; use a multiple of"
                f" {len(self.pattern)} layers",
            )
        for number, layer in enumerate(self.group):
            self._check_shared(number, layer)
        if self.positions.name == "rope":
            self._check_rope()

    def _check_shared(self, number: int, layer: LayerOptions) -> None:
        """Raises ExperimentError where a layer of a pattern has its own of what all layers of a stack share."""
        shared = ["norm.position"]
        if self.positions.name == "rope":
            shared.append("attention.head_dim")
        if self.positions.name in ("relative", "alibi"):
            shared.append("attention.heads")
        for path in shared:
            section, field = path.split(".")
            own, common = (getattr(getattr(each, section), field, None) for each in (layer, self.layer))
            if own != common:
                raise ExperimentError(
                    f"pattern[{number}].{path}",
                    f"{own!r} differs from layer.{path}={common!r}, which the layers of a stack share with"
                    f" {self.positions.name} positions; leave it out, and set layer.{path}",
                )

    def _check_rope(self) -> None:
        head_dim, fraction = getattr(self.layer.attention, "head_dim", 0), self.positions.fraction
        rotated = round(head_dim * fraction)
        if rotated % 2:
            part = "" if fraction == 1 else f", as {fraction} of {head_dim} is,"
            where = "layer.attention.head_dim" if fraction == 1 else "positions.fraction"
            raise ExperimentError(where, f"{rotated}{part} is odd; rotary positions turn pairs, so make it even")
        if head_dim and not rotated:
            raise ExperimentError(
                "positions.fraction",
                f"{fraction} of layer.attention.head_dim={head_dim} is nothing; it must be {2 / head_dim:g} or more",
            )

    def __hash__(self) -> int:
        return hash((self.layers, self.layer, self.positions, self.embeddings, repr(self.pattern)))

    @cached_property
    def group(self) -> tuple[LayerOptions, ...]:
        """The layers of one repetition of the pattern: one where all layers are equal."""
        if not self.pattern:
            return (self.layer,)
        common = plain(self.layer)
        return tuple(
            section(LayerOptions, merged(LayerOptions, common, changes), f"pattern[{number}]")
            for number, changes in enumerate(self.pattern)
        )


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A transformer: a decoder, an encoder, or a decoder that looks at what an encoder has read.

    A decoder's tokens see none that is later; an encoder's see all of their row.

    Attributes:
      family: the table the other fields were taken from.
      size: the row of that table; empty when all fields are given.
      vocab_size: rows of the embedding table; at least the tokenizer's pieces.
      embed: width of the residual stream.
      max_length: rows of a table of learned positions; with other positions, the length the model is meant for, which
        bounds what is generated.
      encoder: the encoder's stack; none for a decoder alone.
      decoder: the decoder's stack; none for an encoder alone, such as BERT.
      head: what the last states are scored with.
      dropout: rate after the embeddings and on each residual branch.
      dropout_inside: whether the same rate drops attention's weights (a key for all queries of a head at once), hidden
        units, and the last hidden states too.
      init_std: standard deviation of the first weights; 0 is 1/√inputs for matrices, and 0.02 for tables.
      embedding_std: of the token table's first values; 0 leaves it to `init_std`.
      residual_init: whether matrices that write to the residual stream start smaller by √(2 layers).
      dtype: of the computation; parameters and their gradients are float32.
      quantization: `none`, or `int8` or `fp8` for the layers' products against parameters (models/quantized.py).
    """

    family: str
    size: str = ""
    vocab_size: int
    embed: int
    max_length: int
    encoder: Stack | None = None
    decoder: Stack | None = None
    head: Annotated[Any, Choice("head", default="untied")]
    dropout: float = 0.0
    dropout_inside: bool = False
    init_std: float = 0.02
    embedding_std: float = 0.0
    residual_init: bool = True
    dtype: str = "float32"
    quantization: str = "none"

    def __post_init__(self) -> None:
        require_size(self, "vocab_size", "embed", "max_length")
        require_one_of(self, "dtype", DTYPES)
        require_one_of(self, "quantization", QUANTIZATIONS)
        require_at_least(self, 0, "init_std", "embedding_std")
        if not 0.0 <= self.dropout < 1.0:
            raise ExperimentError("dropout", f"{self.dropout} is not a rate; it must be at least 0 and below 1")
        if self.encoder is None and self.decoder is None:
            raise ExperimentError("decoder", "there is neither a decoder nor an encoder; give one of them")
        for name, stack in self._stacks().items():
            self._check_stack(name, stack)

    def _check_stack(self, name: str, stack: Stack) -> None:
        if stack.positions.name == "sinusoidal" and self.embed % 2:
            raise ExperimentError(
                "embed", f"{self.embed} is odd; a sinusoid is a pair of sine and cosine, so make it even"
            )
        for layer in stack.group:
            attention, half = layer.attention, layer.feed_forward
            widest = max(
                getattr(attention, "heads", 0) * getattr(attention, "head_dim", 0),
                getattr(half, "hidden", 0) * getattr(half, "experts", 1),
            )
            if stack.layers * self.embed * widest >= _MOST_VALUES:
                raise ExperimentError(
                    f"{name}.layers",
                    f"{stack.layers} layers of {self.embed} by {widest} are more values than an array can have; the"
                    " product must be below 2^62",
                )

    @staticmethod
    def former_field(name: str, values: Mapping[str, Any], where: str) -> str:
        """The place of an option of schema 1; see `sections.section`."""
        return schema1_model.moved(name, values, where)

    # --- The protocol of an architecture (models/base.py) -------------------------------------------------------------

    couples_batch: ClassVar[bool] = False

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model with its first parameters."""
        kind = "EncoderDecoder" if self.encoder and self.decoder else "LanguageModel"
        return registry.imported(f"t5x_like.models.transformer.model:{kind}")(self, rngs)

    def check(self, layout: Layout | None, data: Any, rows: int) -> None:
        """See `Architecture.check`."""
        learned = [stack for stack in (self.encoder, self.decoder) if stack and stack.positions.name == "learned"]
        bounded = [stack for stack in (self.main, *learned) if stack.positions.name not in ("relative", "alibi")]
        if bounded and data.sequence_length > self.max_length:
            raise ExperimentError(
                "data.sequence_length",
                f"{data.sequence_length} tokens exceed model.max_length={self.max_length}; raise that or cut",
            )
        if layout is None:
            return
        divisibility.require(layout, self.dimensions(), data.sequence_length)
        divisibility.require_stages(layout, self.dimensions(), rows)

    def dimensions(self) -> Dimensions:
        """See `Architecture.dimensions`; of layers that differ, the largest sizes."""
        layers = [layer for stack in (self.encoder, self.decoder) if stack for layer in stack.group]
        attentions, halves = [layer.attention for layer in layers], [layer.feed_forward for layer in layers]
        mixed = [half for half in halves if isinstance(half, Experts)]
        main = self.main
        windows = {layer.attention.window for layer in main.group}
        return Dimensions(
            vocab=self.vocab_size,
            embed=self.embed,
            heads=max(each.heads for each in attentions),
            kv_heads=max(each.kv_heads for each in attentions),
            head_dim=max(each.head_dim for each in attentions),
            mlp=max(each.hidden for each in halves),
            gated=any(each.gated for each in halves),
            experts=max((each.experts for each in mixed), default=0),
            experts_per_token=max((each.experts_per_token for each in mixed), default=0),
            layers=main.layers,
            encoder_layers=self.encoder.layers if self.encoder and self.decoder else 0,
            causal=self.causal,
            window=windows.pop() if len(windows) == 1 else 0,
            attention_bias=any(stack.positions.name in ("relative", "alibi") for stack in self._stacks().values())
            or any(each.has_content_bias for each in attentions),
            itemsize=2 if self.dtype == "bfloat16" else 4,
            cuts=tuple(self._cuts()),
            stacks=tuple(
                (f"{name}.layers", stack.layers // len(stack.group)) for name, stack in self._stacks().items()
            ),
        )

    @property
    def stacks(self) -> tuple[str, ...]:
        """Which stacks there are: `encoder`, `decoder` or both."""
        return tuple(self._stacks())

    def _stacks(self) -> dict[str, Stack]:
        both = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: stack for name, stack in both.items() if stack is not None}

    def _cuts(self) -> Iterator[Cut]:
        """Every size that a mesh may cut, once."""
        for name, stack in self._stacks().items():
            for number, layer in enumerate(stack.group):
                where = f"{name}.pattern[{number}]" if stack.pattern else f"{name}.layer"
                attention, half = layer.attention, layer.feed_forward
                yield Cut(f"{where}.attention.heads", attention.heads, "heads", "tensor")
                yield Cut(f"{where}.attention.kv_heads", attention.kv_heads, "kv", "tensor")
                yield Cut(f"{where}.feed_forward.hidden", half.hidden, "mlp", "tensor")
                if isinstance(half, Experts):
                    yield Cut(f"{where}.feed_forward.experts", half.experts, "expert", "expert")
                yield Cut(f"{where}.attention.heads", attention.heads, "attention_heads", "sequence")
        yield Cut("vocab_size", self.vocab_size, "vocab", "tensor")
        yield Cut("embed", self.embed, "embed", "fsdp")

    def flops(self, shapes: Mapping[str, tuple[int, ...]], *, head: bool = True) -> float:
        """See `Architecture.flops`; `shapes` has `encoder` or `decoder`, or both."""
        return operations.flops(self, shapes, head=head)

    # --- Shared by the parts ------------------------------------------------------------------------------------------

    @property
    def main(self) -> Stack:
        """The stack whose last states the head scores: the decoder's, or the encoder's where there is no decoder."""
        stack = self.decoder or self.encoder
        assert stack is not None  # __post_init__
        return stack

    @property
    def causal(self) -> bool:
        """Whether the main stack's tokens see none that is later."""
        return self.decoder is not None

    def residual_std(self, inputs: int) -> float:
        """Standard deviation of the matrices that write to the residual stream (GPT-2, section 2.3: ÷ √(2 layers))."""
        return (self.init_std or inputs**-0.5) * ((2 * self.main.layers) ** -0.5 if self.residual_init else 1.0)

    def table_std(self) -> float:
        """Standard deviation of the token table."""
        return self.embedding_std or self.init_std or 0.02

    def head_std(self) -> float:
        """Standard deviation of a head of its own; where `embedding_std` sets the table's apart, that of a matrix."""
        return self.init_std or (self.embed**-0.5 if self.embedding_std else 0.02)
