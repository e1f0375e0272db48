"""Feed-forward half of a layer, gated or not."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
from flax import nnx

from t5x_like.kernels.barrier import materialize
from t5x_like.models.dropout import RowRngs, dropout
from t5x_like.models.linear import Linear
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.layer_options import Dense
from t5x_like.parallel import layout

FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=True),
    "gelu_exact": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class FeedForward(nnx.Module):
    """down(f(up(x))), or down(f(gate(x)) · up(x)) when gated (Shazeer 2020, eq. 6: SwiGLU is a gated silu)."""

    def __init__(self, model: Transformer, options: Dense, rngs: nnx.Rngs) -> None:
        """Builds the projections of one layer."""
        o = options
        self.activation = o.activation
        self.dropout = model.dropout if model.dropout_inside else 0.0
        linear = partial(Linear, bias=o.bias, quantization=model.quantization, rngs=rngs)
        self.up = linear(model.embed, o.hidden, ("embed", "mlp"), std=model.init_std)
        self.gate = linear(model.embed, o.hidden, ("embed", "mlp"), std=model.init_std) if o.gated else None
        self.down = linear(o.hidden, model.embed, ("mlp", "embed"), std=model.residual_std(o.hidden))

    def __call__(self, x_btd: jax.Array, real_bt: jax.Array | None, rngs: RowRngs | None = None) -> jax.Array:
        """[batch, length, embed] → the same; `rngs` drops hidden units, and padding is computed like any token."""
        function = FUNCTIONS[self.activation]
        if self.gate is None:
            hidden_btf = function(materialize(self.up(x_btd)))
        else:
            gate_btf, up_btf = materialize((self.gate(x_btd), self.up(x_btd)))
            hidden_btf = function(gate_btf) * up_btf
        hidden_btf = layout.current().constrain(hidden_btf, ("batch", "length", "act_mlp"))
        return materialize(self.down(dropout(hidden_btf, self.dropout, rngs)))
