"""Modules for multi-token prediction (DeepSeek-V3, 2024, section 2.2): one more layer for each further token.

Shapes: b batch, t length, d width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.models.linear import Embedding, Linear
from t5x_like.models.norm import Norm
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.stack import TransformerStack
from t5x_like.sections import changed, plain


def one_layer(model: Transformer) -> Transformer:
    """The options of a decoder with a model's last layer alone, for rows that are embedded already."""
    stack = plain(model.main)
    layer = plain(model.main.every_layer[-1])
    stack.update(
        layers=1,
        layer=layer,
        pattern=[],
        leading=[],
        embeddings={"name": "tokens", "types": 0, "norm": False, "width": 0},
    )
    if stack["positions"]["name"] in ("learned", "sinusoidal"):  # which the states have
        stack["positions"] = {"name": "none"}
    return changed(model, {"decoder": stack})


class MultiTokenModule(nnx.Module):
    """One further token: the states before it and the embedding of the token between, through a layer of its own.

    Embeddings and output head are the model's.
    """

    def __init__(self, model: Transformer, rngs: nnx.Rngs) -> None:
        """Builds norms, projection and layer for a decoder's options."""
        layer = one_layer(model)
        norm, width = model.main.layer.norm, model.embed
        self.states_norm, self.tokens_norm = Norm(norm, width, rngs), Norm(norm, width, rngs)
        self.project = Linear(2 * width, width, (None, "embed"), bias=False, std=model.init_std, rngs=rngs)
        self.stack = TransformerStack(layer, layer.main, rngs, causal=True)

    def __call__(
        self,
        states_btd: jax.Array,
        tokens_bt: jax.Array,
        table: Embedding,
        positions_bt: jax.Array,
        segment_ids_bt: jax.Array,
        rngs: RowRngs | None,
    ) -> jax.Array:
        """States for the token after `tokens_bt`, [batch, length, embed] (equations 21 and 22).

        Args:
          states_btd: of the model, or of the module before this one.
          tokens_bt: int32 [batch, length], of each state the token that it was to predict.
          table: the model's tokens.
          positions_bt: int32 [batch, length].
          segment_ids_bt: int32 [batch, length].
          rngs: of dropout; None for none.
        """
        embedded_btd = stream.gather_lookup(table(tokens_bt, states_btd.dtype))
        both = jnp.concatenate([self.states_norm(states_btd), self.tokens_norm(embedded_btd)], -1)
        return self.stack(stream.constrain(self.project(both)), positions_bt, segment_ids_bt, rngs)
