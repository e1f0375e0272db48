"""Options of a transformer's layer: attention, the feed-forward half and norms, kinds by name."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from flax import nnx

from t5x_like import registry
from t5x_like.checks import require_above, require_at_least, require_below, require_one_of, require_size
from t5x_like.errors import ExperimentError
from t5x_like.sections import Choice

NORMS = ("layernorm", "rmsnorm")
NORM_POSITIONS = ("pre", "post", "inside", "around")
ARRANGEMENTS = ("sequential", "parallel", "parallel_two_norms")
ACTIVATIONS = ("gelu", "gelu_exact", "relu", "silu")


@dataclass(frozen=True, kw_only=True)
class NormOptions:
    """Normalisation of the residual stream.

    Attributes:
      kind: `layernorm` (Ba et al. 2016) or `rmsnorm` (Zhang & Sennrich 2019).
      epsilon: added under the root.
      bias: whether there is a learned bias beside the learned scale.
      position: `pre`, before each part of a layer and once after the last layer; `post`, after each part is added to
        the stream (Vaswani et al. 2017, section 3.1), and not again at the end; `inside`, of what a part gives, before
        it is added (OLMo 2, 2025, section 3.1); or `around`, before a part and of what it gives (Gemma 2, 2024, section
        2). The last two have a norm after the last layer too.
      unit_offset: whether the scale is stored as its difference from one (Gemma's code), which weight decay then draws
        to one.
    """

    kind: str = "rmsnorm"
    epsilon: float = 1e-6
    bias: bool = False
    position: str = "pre"
    unit_offset: bool = False

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
      bias: whether the projections of queries, keys and values have biases.
      output_bias: whether the output's has; nothing is the same as `bias`.
      scaled: whether the products of queries and keys are divided by √head_dim; without, the queries' first weights
        are.
      scale: what the products are multiplied by in place of that; 0 leaves it to `scaled`.
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
    output_bias: bool | None = None
    scaled: bool = True
    scale: float = 0.0
    window: int = 0
    soft_cap: float = 0.0

    def __post_init__(self) -> None:
        require_size(self, "heads", "kv_heads", "head_dim")
        require_at_least(self, 0, "window", "soft_cap", "scale")
        require_below(self, 1 << 31, "window")
        if self.heads % self.kv_heads:
            raise ExperimentError(
                "kv_heads", f"{self.heads} heads cannot share {self.kv_heads} key-value heads; use a divisor of heads"
            )

    def operations(self, embed: int) -> tuple[int, int, int]:
        """Matrix entries by which a token is multiplied for queries and output, and for keys and values; and by a pair.

        A pair of a query and a key costs a product and a sum for each number of its key and of its value.
        """
        return (
            2 * embed * self.head_dim * self.heads,
            2 * embed * self.head_dim * self.kv_heads,
            2 * self.heads * self.head_dim,
        )

    def build(self, model: Any, rngs: nnx.Rngs, *, causal: bool, cross: bool = False) -> nnx.Module:
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

    def build(self, model: Any, rngs: nnx.Rngs) -> nnx.Module:
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

    def build(self, model: Any, rngs: nnx.Rngs) -> nnx.Module:
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
      arrangement: `sequential`, where feed_forward reads what attention has added; or `parallel`, where both read the
        same and are added at once (GPT-J, 2021), by way of one norm, or with `parallel_two_norms` of one each.
      attention_norm: whether there is a norm before attention; without, attention reads the stream as it is, as in the
        first layer of ModernBERT, whose embeddings have a norm (Warner et al. 2024, section 2.1.1).
      convolution: tokens of a convolution of what the layer reads, an odd number, whose result is added to what the
        layer gives, with a norm after it (DeBERTa's version 2, He et al. 2021, as released); 0 for none.
    """

    attention: Annotated[Any, Choice("attention", default="dot_product")]
    feed_forward: Annotated[Any, Choice("feed_forward", default="dense")]
    norm: NormOptions
    arrangement: str = "sequential"
    attention_norm: bool = True
    convolution: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "convolution")
        require_below(self, 1 << 31, "convolution")
        require_one_of(self, "arrangement", ARRANGEMENTS)
        if self.arrangement != "sequential" and self.norm.position != "pre":
            raise ExperimentError(
                "norm.position", f"{self.norm.position!r} is of sequential layers; with parallel parts use 'pre'"
            )
        if self.convolution and (self.convolution % 2 == 0 or self.norm.position != "post"):
            raise ExperimentError(
                "convolution",
                f"{self.convolution} tokens with norm.position={self.norm.position!r} cannot be; it is odd, and of"
                " layers with norms after their parts ('post')",
            )
        if not self.attention_norm and (self.arrangement != "sequential" or self.norm.position != "pre"):
            raise ExperimentError(
                "attention_norm", "it is left out before attention of sequential layers alone; set it to True"
            )

    def build(self, model: Any, rngs: nnx.Rngs, *, causal: bool, cross: bool, mask_number: int) -> nnx.Module:
        """The module; see `Layer`."""
        kinds = {"inside": "layer_kinds:NormInside", "around": "layer_kinds:NormAround"}
        kind = kinds.get(self.norm.position, "layer:Layer")
        kind = kind if self.arrangement == "sequential" else "layer_kinds:Parallel"
        kind = "convolved_layer:ConvolvedLayer" if self.convolution else kind
        kind = kind if self.attention_norm else "layer_kinds:NoAttentionNorm"
        layer = registry.imported(f"t5x_like.models.transformer.{kind}")
        return layer(model, self, rngs, causal=causal, cross=cross, mask_number=mask_number)
