"""The fields of the one transformer stack; a model family is a table of them.

`Transformer` is what `experiment.model` holds. It builds the model, counts its parameters and its floating-point
operations, and knows nothing of data.
"""

from dataclasses import dataclass

from flax import nnx

from t5x_like.checks import require_at_least, require_one_of, require_positive
from t5x_like.errors import ExperimentError

NORMS = ("layernorm", "rmsnorm")
NORM_POSITIONS = ("pre", "post")
POSITIONS = ("learned", "rope", "relative")
ACTIVATIONS = ("gelu", "gelu_exact", "relu", "silu")
DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("none", "int8", "fp8")


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A transformer: a decoder, and an encoder for it to look at where `encoder_layers` asks for one.

    Attributes:
      family: the table the other fields were taken from.
      size: the row of that table; empty when all fields are given.
      vocab_size: rows of the embedding table; at least the tokenizer's pieces.
      causal: whether a token of the decoder sees none that is later. A model that sees all of a text, as BERT does, is
        such a stack without; it reads, and generates nothing.
      layers: blocks of the decoder.
      encoder_layers: blocks of the encoder; 0 for a decoder alone.
      embed: width of the residual stream.
      heads: query heads.
      kv_heads: key and value heads; a divisor of `heads`.
      head_dim: width of a head.
      mlp: width of the hidden layer of the feed-forward half; of one expert's, where there are experts.
      experts: feed-forward halves of a layer, of which a router chooses some for each token; 0 for one and no router.
      experts_per_token: how many it chooses.
      router_balance_loss: weight of the loss that evens out the experts' shares of the tokens.
      router_z_loss: weight of log²Z of the router's softmax, which keeps its scores small.
      max_length: rows of the table of learned positions; with rotary ones, the length the model is meant for; with
        relative ones it bounds nothing but what is generated.
      norm: `layernorm` or `rmsnorm`.
      norm_epsilon: added under the root.
      norm_position: `pre`, before each part and after the last block, or `post`, after each part is added to what it
        read (Vaswani et al. 2017, section 3.1), and not again at the end.
      embedding_norm: whether there is a norm after the embeddings.
      token_types: kinds of token that have an embedding of their own beside the piece's, such as BERT's two for the
        first and the second of two texts; 0 for none.
      positions: `learned`, `rope`, or `relative`: a bias for each head and bucket of distances, shared by all layers
        (Raffel et al. 2020, section 2.1).
      rope_theta: base of the rotary wavelengths.
      relative_buckets: of distances, half of them for what comes later where that is seen.
      relative_distance: from which on all distances share a bucket.
      window: how many tokens before itself a token sees in self-attention, and where later ones are seen, as many of
        those (Beltagy et al. 2020, section 3.1; Mistral 7B, Jiang et al. 2023, section 2); 0 for all.
      soft_cap: c of c·tanh(score / c), which keeps attention's scores between −c and c (Gemma 2, 2024, section 2); 0
        leaves them as they are.
      head_soft_cap: c of c·tanh(logit / c), the same for the head's; 0 leaves them as they are.
      scaled_attention: whether the products of queries and keys are divided by √head_dim; without, the queries' first
        weights are.
      activation: `gelu` (tanh form), `gelu_exact`, `relu` or `silu`.
      gated: whether the hidden layer is multiplied by a second projection (SwiGLU is a gated silu).
      bias: whether linear layers and norms have biases.
      tied_head: whether the embedding table is the output head too.
      head_transform: whether the head's products are of a linear layer, an activation and a norm on top of the last
        hidden states, and have a bias for each piece: BERT's masked-language-model head.
      rescaled_head: whether the logits are divided by √embed, which suits a tied table of entries near 1.
      dropout: rate after the embeddings and on each residual branch.
      dropout_inside: whether the same rate drops attention's weights (a key for all queries of a head at once), hidden
        units, and the last hidden states too.
      init_std: standard deviation of the first weights; 0 is 1/√inputs for matrices, and 0.02 for tables.
      embedding_std: of the token table's first values; 0 leaves it to `init_std`.
      residual_init: whether matrices that write to the residual stream start smaller by √(2 layers).
      dtype: of the computation; parameters and their gradients are float32.
      quantization: `none`, or `int8` or `fp8` for the blocks' products against parameters (models/quantized.py).
    """

    family: str
    size: str = ""
    vocab_size: int
    causal: bool = True
    layers: int
    encoder_layers: int = 0
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
    norm_position: str = "pre"
    embedding_norm: bool = False
    token_types: int = 0
    positions: str
    rope_theta: float = 10000.0
    relative_buckets: int = 32
    relative_distance: int = 128
    window: int = 0
    soft_cap: float = 0.0
    head_soft_cap: float = 0.0
    scaled_attention: bool = True
    activation: str
    gated: bool
    bias: bool
    tied_head: bool
    head_transform: bool = False
    rescaled_head: bool = False
    dropout: float = 0.0
    dropout_inside: bool = False
    init_std: float = 0.02
    embedding_std: float = 0.0
    residual_init: bool = True
    dtype: str = "float32"
    quantization: str = "none"

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "layers", "embed", "heads", "kv_heads", "head_dim", "mlp", "max_length")
        require_one_of(self, "norm", NORMS)
        require_one_of(self, "norm_position", NORM_POSITIONS)
        require_one_of(self, "positions", POSITIONS)
        require_one_of(self, "activation", ACTIVATIONS)
        require_one_of(self, "dtype", DTYPES)
        require_one_of(self, "quantization", QUANTIZATIONS)
        if self.heads % self.kv_heads:
            raise ExperimentError(
                "kv_heads", f"{self.heads} heads cannot share {self.kv_heads} key-value heads; use a divisor of heads"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ExperimentError("head_dim", f"{self.head_dim} is odd; rotary positions turn pairs, so make it even")
        self._check_experts()
        require_at_least(
            self, 0, "encoder_layers", "embedding_std", "window", "soft_cap", "head_soft_cap", "token_types"
        )
        if self.encoder_layers and not self.causal:
            raise ExperimentError("causal", "a decoder with an encoder writes from left to right; set it to True")
        if self.relative_buckets < 4 or self.relative_buckets % 4:
            raise ExperimentError("relative_buckets", f"{self.relative_buckets} is no multiple of 4, which it must be")
        if self.relative_distance <= self.relative_buckets // 2:
            raise ExperimentError(
                "relative_distance",
                f"{self.relative_distance} leaves no distances for half of the {self.relative_buckets} buckets; it must"
                f" be above {self.relative_buckets // 2}",
            )
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
        if self.experts and self.dropout_inside:
            raise ExperimentError("dropout_inside", "no hidden unit of an expert is dropped; set it to False")
        if self.experts and self.encoder_layers:
            raise ExperimentError("experts", "a model with an encoder has none; set it to 0")

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model with its first parameters."""
        # The parts read these options, so they cannot come first.
        from t5x_like.models.decoder import Decoder
        from t5x_like.models.encoder_decoder import EncoderDecoder

        return EncoderDecoder(self, rngs) if self.encoder_layers else Decoder(self, rngs)

    def residual_std(self, inputs: int) -> float:
        """Standard deviation of the matrices that write to the residual stream (GPT-2, section 2.3: ÷ √(2 layers))."""
        return (self.init_std or inputs**-0.5) * ((2 * self.layers) ** -0.5 if self.residual_init else 1.0)

    def query_std(self) -> float:
        """Standard deviation of the queries' matrices; it holds the scale that the products do without."""
        return (self.init_std or self.embed**-0.5) * (1.0 if self.scaled_attention else self.head_dim**-0.5)

    def table_std(self) -> float:
        """Standard deviation of the token table."""
        return self.embedding_std or self.init_std or 0.02

    def head_std(self) -> float:
        """Standard deviation of a head of its own; where `embedding_std` sets the table's apart, that of a matrix."""
        return self.init_std or (self.embed**-0.5 if self.embedding_std else 0.02)

    def check_length(self, length: int) -> None:
        """Raises ExperimentError when rows are longer than the model's positions."""
        if length > self.max_length and self.positions != "relative":
            raise ExperimentError(
                "data.sequence_length", f"{length} tokens exceed model.max_length={self.max_length}; raise that or cut"
            )

    def flops(self, rows: int, length: int, *, inputs: int = 0, causal: bool = True, head: bool = True) -> float:
        """Floating-point operations of one training step: forward, and twice that backward, nothing recomputed.

        Six for each matrix parameter and token, of experts those that a token is sent to, and attention's two products
        (Narayanan et al. 2021, appendix; the input embedding is a lookup and costs nothing).

        Args:
          rows: sequences.
          length: tokens of each.
          inputs: tokens of each that the encoder reads, where there is one.
          causal: whether a token attends to those before it alone, which is half of the products, unless the model's
            tokens see all anyway. A window leaves out more of them.
          head: whether every token's logits over the vocabulary are computed.
        """
        queries = 2 * self.embed * self.head_dim * self.heads
        keys = 2 * self.embed * self.head_dim * self.kv_heads
        mlp = (3 if self.gated else 2) * self.embed * self.mlp
        if self.experts:
            mlp = self.experts_per_token * mlp + self.embed * self.experts
        pair = 12 * self.heads * self.head_dim  # of a query and a key
        block = 6 * (queries + keys + mlp)
        decoder = length * block + pair * self._pairs(length, causal and self.causal)
        if not self.encoder_layers:
            inputs = 0
        else:
            decoder += length * (6 * queries + pair * inputs) + inputs * 6 * keys
        encoder = inputs * block + pair * self._pairs(inputs, causal=False)
        logits = length * 6 * (self.vocab_size + self.head_transform * self.embed) * self.embed if head else 0
        return float(rows * (self.layers * decoder + self.encoder_layers * encoder + logits))

    def _pairs(self, length: int, causal: bool) -> float:
        """How many pairs of a query and a key a row has, whatever is packed into it: of a causal mask half."""
        window = min(self.window or length, length)
        earlier = window * length - window**2 / 2
        return earlier if causal else 2 * earlier
