"""The fields of the one transformer stack; a model family is a table of them.

`Transformer` is what `experiment.model` holds. It builds the model, counts its parameters and its floating-point
operations, and knows nothing of data.
"""

from dataclasses import dataclass

from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.experiment import require_at_least, require_one_of, require_positive

NORMS = ("layernorm", "rmsnorm")
POSITIONS = ("learned", "rope")
ACTIVATIONS = ("gelu", "gelu_exact", "relu", "silu")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A decoder-only transformer.

    Attributes:
      family: the table the other fields were taken from.
      size: the row of that table; empty when all fields are given.
      vocab_size: rows of the embedding table; at least the tokenizer's pieces.
      layers: blocks.
      embed: width of the residual stream.
      heads: query heads.
      kv_heads: key and value heads; a divisor of `heads`.
      head_dim: width of a head.
      mlp: width of the hidden layer of the feed-forward half; of one expert's, where there are experts.
      experts: feed-forward halves of a layer, of which a router chooses some for each token; 0 for one and no router.
      experts_per_token: how many it chooses.
      router_balance_loss: weight of the loss that evens out the experts' shares of the tokens.
      router_z_loss: weight of log²Z of the router's softmax, which keeps its scores small.
      max_length: rows of the table of learned positions; with rotary positions, the length the model is meant for.
      norm: `layernorm` or `rmsnorm`.
      norm_epsilon: added under the root.
      positions: `learned` or `rope`.
      rope_theta: base of the rotary wavelengths.
      activation: `gelu` (tanh form), `gelu_exact`, `relu` or `silu`.
      gated: whether the hidden layer is multiplied by a second projection (SwiGLU is a gated silu).
      bias: whether linear layers and norms have biases.
      tied_head: whether the embedding table is the output head too.
      dropout: rate after the embeddings and on each residual branch.
      init_std: standard deviation of the first weights; 0 is 1/√inputs for matrices, and 0.02 for tables.
      dtype: of the computation; parameters and their gradients are float32.
    """

    family: str
    size: str = ""
    vocab_size: int
    layers: int
    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    experts: int = 0
    experts_per_token: int = 2
    router_balance_loss: float = 0.0
    router_z_loss: float = 0.0
    max_length: int
    norm: str
    norm_epsilon: float
    positions: str
    rope_theta: float = 10000.0
    activation: str
    gated: bool
    bias: bool
    tied_head: bool
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "layers", "embed", "heads", "kv_heads", "head_dim", "mlp", "max_length")
        require_one_of(self, "norm", NORMS)
        require_one_of(self, "positions", POSITIONS)
        require_one_of(self, "activation", ACTIVATIONS)
        require_one_of(self, "dtype", DTYPES)
        if self.heads % self.kv_heads:
            raise ExperimentError(
                "kv_heads", f"{self.heads} heads cannot share {self.kv_heads} key-value heads; use a divisor of heads"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ExperimentError("head_dim", f"{self.head_dim} is odd; rotary positions turn pairs, so make it even")
        self._check_experts()
        if not 0.0 <= self.dropout < 1.0:
            raise ExperimentError("dropout", f"{self.dropout} is not a rate; it must be at least 0 and below 1")

    def _check_experts(self) -> None:
        require_at_least(self, 0, "experts", "router_balance_loss", "router_z_loss")
        require_positive(self, "experts_per_token")
        if self.experts and self.experts_per_token > self.experts:
            raise ExperimentError(
                "experts_per_token",
                f"{self.experts_per_token} cannot be chosen of {self.experts}; choose at most those",
            )
        if self.experts and self.bias:
            raise ExperimentError("bias", "experts have no biases; set it to False")

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model with its first parameters."""
        from t5x_like.models.decoder import Decoder  # the parts read these options, so they cannot come first

        return Decoder(self, rngs)

    def residual_std(self, inputs: int) -> float:
        """Standard deviation of the matrices that write to the residual stream (GPT-2, section 2.3: ÷ √(2 layers))."""
        return (self.init_std or inputs**-0.5) * (2 * self.layers) ** -0.5

    def check_length(self, length: int) -> None:
        """Raises ExperimentError when rows are longer than the model's positions."""
        if length > self.max_length:
            raise ExperimentError(
                "data.sequence_length", f"{length} tokens exceed model.max_length={self.max_length}; raise that or cut"
            )

    def flops(self, rows: int, length: int, *, causal: bool = True, head: bool = True) -> float:
        """Floating-point operations of one training step: forward, and twice that backward, nothing recomputed.

        Six for each matrix parameter and token, of experts those that a token is sent to, and attention's two products
        (Narayanan et al. 2021, appendix; the input embedding is a lookup and costs nothing).

        Args:
          rows: sequences.
          length: tokens of each.
          causal: whether a token attends to those before it alone, which is half of the products.
          head: whether every token's logits over the vocabulary are computed.
        """
        projections = 2 * self.embed * self.head_dim * (self.heads + self.kv_heads)
        mlp = (3 if self.gated else 2) * self.embed * self.mlp
        if self.experts:
            mlp = self.experts_per_token * mlp + self.embed * self.experts
        matrices = self.layers * (projections + mlp) + (self.vocab_size * self.embed if head else 0)
        attention = (6 if causal else 12) * self.layers * self.heads * self.head_dim * length
        return float(rows * length * (6 * matrices + attention))
