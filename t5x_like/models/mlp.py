"""The feed-forward half of a block, gated or not."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
from flax import nnx

from t5x_like.kernels.barrier import materialize
from t5x_like.models.architecture import Transformer
from t5x_like.models.dropout import Noise, dropout
from t5x_like.models.linear import Linear
from t5x_like.parallel import layout

FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=True),
    "gelu_exact": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class MLP(nnx.Module):
    """down(f(up(x))), or down(f(gate(x)) · up(x)) when gated (Shazeer 2020, eq. 6: SwiGLU is a gated silu)."""

    def __init__(self, options: Transformer, rngs: nnx.Rngs) -> None:
        """Builds the projections of one layer."""
        o = options
        self.activation = o.activation
        self.dropout = o.dropout if o.dropout_inside else 0.0
        linear = partial(Linear, bias=o.bias, quantization=o.quantization, rngs=rngs)
        self.up = linear(o.embed, o.mlp, ("embed", "mlp"), std=o.init_std)
        self.gate = linear(o.embed, o.mlp, ("embed", "mlp"), std=o.init_std) if o.gated else None
        self.down = linear(o.mlp, o.embed, ("mlp", "embed"), std=o.residual_std(o.mlp))

    def __call__(self, x_btd: jax.Array, noise: Noise | None = None) -> jax.Array:
        """[batch, length, embed] → [batch, length, embed]; `noise` drops hidden units, where the model has that."""
        function = FUNCTIONS[self.activation]
        if self.gate is None:
            hidden_btf = function(materialize(self.up(x_btd)))
        else:
            gate_btf, up_btf = materialize((self.gate(x_btd), self.up(x_btd)))
            hidden_btf = function(gate_btf) * up_btf
        hidden_btf = layout.current().constrain(hidden_btf, ("batch", "length", "act_mlp"))
        return materialize(self.down(dropout(hidden_btf, self.dropout, noise)))
