"""ELECTRA (Clark et al. 2020, section 2): which tokens did a small generator replace?

Shapes: b batch, t length, v vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from objectives.sketches.blocks import as_encoder, build_stack, run

from t5x_like.models.dropout import row_keys
from t5x_like.models.linear import Embedding, Linear
from t5x_like.objectives.base import Loss, Mode, Objective


class Generator(nnx.Module):
    """A narrow encoder between the shared embeddings and the same table as its head."""

    def __init__(self, options, tokens: Embedding, narrow: int, rngs: nnx.Rngs):
        self.tokens = tokens
        self.narrow = Linear(options.embed, narrow, ("embed", None), bias=True, std=0.0, rngs=rngs)
        self.encoder = build_stack(as_encoder(options, embed=narrow, hidden=2 * narrow), rngs)
        self.widen = Linear(narrow, options.embed, (None, "embed"), bias=True, std=0.0, rngs=rngs)

    def __call__(self, inputs_bt, positions_bt, segment_ids_bt):
        x = self.narrow(self.tokens(inputs_bt, jnp.float32))
        return self.widen(run(self.encoder, x, positions_bt, segment_ids_bt)) @ self.tokens.table[...].T


class Discriminator(nnx.Module):
    """A score for each token of having been replaced."""

    def __init__(self, options, tokens: Embedding, rngs: nnx.Rngs):
        self.tokens = tokens
        self.encoder = build_stack(as_encoder(options), rngs)
        self.head = Linear(options.embed, 1, ("embed", None), bias=True, std=0.0, rngs=rngs)

    def __call__(self, inputs_bt, positions_bt, segment_ids_bt):
        return self.head(run(self.encoder, self.tokens(inputs_bt, jnp.float32), positions_bt, segment_ids_bt))[..., 0]


@dataclass(frozen=True, kw_only=True)
class Electra(Objective):
    name: str = "electra"
    mask_token: int = 1
    mask_rate: float = 0.15
    generator_embed: int = 8
    discriminator_weight: float = 50.0

    def features(self, length):
        names = ("inputs", "targets", "masked", "segment_ids", "positions")
        return {name: jax.ShapeDtypeStruct((length,), np.int32) for name in names}

    def example(self, record, rng):
        tokens = record["tokens"]
        masked = rng.random(len(tokens)) < self.mask_rate
        inputs = np.where(masked, np.int32(self.mask_token), tokens)
        return {"inputs": inputs, "targets": tokens, "masked": masked.astype(np.int32)}

    def flops(self, architecture, shapes):
        rows, length = shapes["inputs"]
        narrow = as_encoder(architecture, embed=self.generator_embed, hidden=2 * self.generator_embed)
        sizes = {"encoder": (rows, length)}
        head = 6 * rows * length * architecture.vocab_size * architecture.embed
        return narrow.flops(sizes, head=False) + head + as_encoder(architecture).flops(sizes, head=False)

    def build(self, architecture, rngs):
        tokens = Embedding(architecture.vocab_size, architecture.embed, "vocab", std=0.02, rngs=rngs)
        generator = Generator(architecture, tokens, self.generator_embed, rngs)
        return nnx.Dict(generator=generator, discriminator=Discriminator(architecture, tokens, rngs))

    def denominators(self, batch):
        real_bt = batch["segment_ids"] > 0
        return {"generator": batch["masked"].sum(dtype=np.float32), "discriminator": real_bt.sum(dtype=np.float32)}

    def loss(self, model, batch, rngs, mode):
        where = batch["positions"], batch["segment_ids"]
        targets_bt, masked_bt, real_bt = batch["targets"], batch["masked"] > 0, batch["segment_ids"] > 0
        logits_btv = model.generator(batch["inputs"], *where)
        if mode is Mode.EVALUATE:
            sampled_bt = logits_btv.argmax(-1)
        else:
            sampled_bt = jax.vmap(jax.random.categorical)(row_keys(rngs), jax.lax.stop_gradient(logits_btv))
        corrupted_bt = jnp.where(masked_bt, sampled_bt.astype(jnp.int32), targets_bt)
        scores_bt = model.discriminator(corrupted_bt, *where)
        replaced_bt = corrupted_bt != targets_bt
        log_p_bt = jnp.take_along_axis(jax.nn.log_softmax(logits_btv), targets_bt[..., None], -1)[..., 0]
        generator = -(masked_bt * log_p_bt).sum()
        discriminator = (real_bt * jax.nn.softplus(jnp.where(replaced_bt, -scores_bt, scores_bt))).sum()
        right_bt = real_bt & ((scores_bt > 0) == replaced_bt)
        return Loss(
            {"generator": generator, "discriminator": self.discriminator_weight * discriminator},
            {"accuracy": (right_bt.sum(dtype=np.float32), real_bt.sum(dtype=np.float32))},
        )
