"""Modules of output heads besides a table: transforms before it, and the pooler of a text's first token.

Shapes: b batch, t length, d width, c classes, v vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models.linear import Embedding, Linear
from t5x_like.models.norm import Norm
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer import config, encoder_heads
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.models.transformer.feed_forward import FUNCTIONS


class MaskedLMTransform(nnx.Module):
    """The layer between the last states and a masked language model's table: linear, activation, norm (BERT's code)."""

    def __init__(self, model: config.Transformer, options: encoder_heads.MaskedLMHead, rngs: nnx.Rngs) -> None:
        """Builds the parts; norm and bias are as in the layers."""
        norm, width = model.main.layer.norm, model.table_width
        self.activation = FUNCTIONS[options.activation]
        self.dense = Linear(model.embed, width, ("embed", "mlp"), bias=norm.bias, std=model.init_std, rngs=rngs)
        self.norm = Norm(norm, width, rngs)
        self.bias = parameter(rngs, (model.vocab_size,), ("vocab",), "bias")

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        """[batch, length, embed] → [batch, length, width of the table]."""
        return stream.constrain(self.norm(self.activation(self.dense(x_btd))))


class TableBias(nnx.Module):
    """A bias for each row of a head's table, and nothing before it."""

    def __init__(self, model: config.Transformer, rngs: nnx.Rngs) -> None:
        """Builds the biases."""
        self.bias = parameter(rngs, (model.vocab_size,), ("vocab",), "bias")

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        """[batch, length, embed] as it is."""
        return x_btd


class TokenClassesTransform(nnx.Module):
    """The layer between the last states and the rows of tokens' classes: linear and activation (ELECTRA's code)."""

    def __init__(self, model: config.Transformer, options: encoder_heads.TokenClasses, rngs: nnx.Rngs) -> None:
        """Builds the layer, and the classes' biases."""
        self.activation = FUNCTIONS[options.activation]
        self.dense = Linear(model.embed, model.embed, ("embed", "mlp"), bias=True, std=model.init_std, rngs=rngs)
        self.bias = parameter(rngs, (options.classes,), (None,), "bias")

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        """[batch, length, embed] → the same."""
        return stream.constrain(self.activation(self.dense(x_btd)))


class Pooler(nnx.Module):
    """A linear layer and a tanh on the state of a text's first token, and perhaps a classifier of texts after it.

    It is BERT's (Devlin et al. 2019, section 3.1, task 2, as released) and ALBERT's.
    """

    def __init__(self, model: config.Transformer, classes: int, rngs: nnx.Rngs) -> None:
        """Builds the layer, and the classifier where there are classes."""
        self.dense = Linear(model.embed, model.embed, ("embed", "mlp"), bias=True, std=model.init_std, rngs=rngs)
        self.classes = Embedding(classes, model.embed, None, std=model.head_std(), rngs=rngs) if classes else None
        self.bias = parameter(rngs, (classes,), (None,), "bias") if classes else None

    def __call__(self, x_bd: jax.Array) -> jax.Array:
        """States of texts' first tokens, [..., embed], to the texts' vectors, [..., embed]."""
        return jnp.tanh(self.dense(x_bd))

    def scores(self, x_bd: jax.Array) -> jax.Array:
        """float32 [..., classes], from the same states.

        Raises:
          ValueError: where the head has no classes of texts.
        """
        if self.classes is None or self.bias is None:
            raise ValueError("the head has no classes of texts; set model.head.classes")
        table_cd = self.classes.table[...].astype(x_bd.dtype)
        return jnp.einsum("...d,cd->...c", self(x_bd), table_cd, preferred_element_type=jnp.float32) + self.bias[...]
