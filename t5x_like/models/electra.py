"""ELECTRA's generator and the head of its discriminator (Clark et al. 2020, section 2).

Shapes: b batch, t length, d width, w narrow width.
"""

from typing import Any

import jax
from flax import nnx

from t5x_like.models.dropout import RowRngs
from t5x_like.models.linear import Linear
from t5x_like.models.norm import Norm
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.model import LanguageModel, OutputHead
from t5x_like.models.transformer.stack import TransformerStack
from t5x_like.sections import changed, plain


def narrowed(model: Transformer, share: float) -> Transformer:
    """An encoder's options with a share of its width, heads and hidden units, for rows that are embedded already."""
    stack = plain(model.main)
    attention, half = stack["layer"]["attention"], stack["layer"]["feed_forward"]

    def less(size: int) -> int:
        return max(round(size * share), 1)

    attention.update(heads=less(attention["heads"]), kv_heads=less(attention["kv_heads"]))
    half["hidden"] = less(half["hidden"])
    stack["embeddings"] = {"name": "tokens", "types": 0, "norm": False}
    if stack["positions"]["name"] in ("learned", "sinusoidal"):  # which the embedded rows have
        stack["positions"] = {"name": "none"}
    return changed(model, {"embed": less(model.embed), "encoder": stack})


class Generator(nnx.Module):
    """A narrow encoder between a discriminator's embeddings and its token table (section 3.2)."""

    def __init__(self, model: Transformer, narrow: Transformer, discriminator: LanguageModel, rngs: nnx.Rngs) -> None:
        """Builds what is not shared.

        Args:
          model: the discriminator's options.
          narrow: the generator's, from `narrowed`.
          discriminator: whose embeddings, with positions, types and norm, are the generator's too.
          rngs: first weights are drawn from.
        """
        std = model.init_std
        self.shared = discriminator
        self.project = Linear(model.embed, narrow.embed, ("embed", None), bias=True, std=std, rngs=rngs)
        self.stack = TransformerStack(narrow, narrow.main, rngs, causal=False)
        self.dense = Linear(narrow.embed, model.embed, (None, "embed"), bias=True, std=std, rngs=rngs)
        self.norm = Norm(model.main.layer.norm, model.embed, rngs)
        self.bias = parameter(rngs, (model.vocab_size,), ("vocab",), "bias")

    def __call__(
        self, tokens_bt: jax.Array, positions_bt: jax.Array, segment_ids_bt: jax.Array, rngs: RowRngs | None
    ) -> jax.Array:
        """Hidden states for the table, [batch, length, embed], of packed rows."""
        x_btd = self.shared.embed(tokens_bt, self.shared.tokens, positions_bt, rngs)
        x_btw = self.stack(self.project(x_btd), positions_bt, segment_ids_bt, rngs and rngs.fold(1))
        return self.norm(jax.nn.gelu(self.dense(x_btw), approximate=False))

    def output_head(self) -> OutputHead:
        """The shared table, and a bias of its own."""
        return OutputHead(self.shared.tokens.table[...], self.bias[...])


class ReplacedTokenHead(nnx.Module):
    """Linear, GELU, linear: a score of each token, above 0 for one that was replaced."""

    def __init__(self, model: Any, rngs: nnx.Rngs) -> None:
        """Builds both layers for a transformer's options."""
        std = model.init_std
        self.dense = Linear(model.embed, model.embed, ("embed", "mlp"), bias=True, std=std, rngs=rngs)
        self.score = Linear(model.embed, 1, ("embed", None), bias=True, std=std, rngs=rngs)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        """float32 [batch, length]."""
        return self.score(jax.nn.gelu(self.dense(x_btd), approximate=False))[..., 0].astype("float32")
