"""CLIP (Radford et al. 2021, figure 3): which caption belongs to which picture of the batch?

Shapes: b batch, c captions of the batch, t length, d width, j width of the joint space.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from objectives.sketches.blocks import as_encoder, build_stack, patches, run

from t5x_like.models.linear import Embedding, Linear
from t5x_like.models.parameters import parameter
from t5x_like.objectives.base import Loss, Objective


class Tower(nnx.Module):
    """Embedded tokens or patches → a unit vector of the joint space."""

    def __init__(self, options, embed: nnx.Module, joint: int, rngs: nnx.Rngs):
        self.embed = embed
        self.encoder = build_stack(as_encoder(options), rngs)
        self.project = Linear(options.embed, joint, ("embed", None), bias=False, std=0.0, rngs=rngs)

    def __call__(self, x_btd, real_bt):
        x_btd = run(self.encoder, x_btd, segment_ids_bt=real_bt.astype(jnp.int32)) * real_bt[..., None]
        x_bj = self.project(x_btd.sum(1) / jnp.maximum(real_bt.sum(1, keepdims=True), 1))
        return x_bj * jax.lax.rsqrt(jnp.square(x_bj).sum(-1, keepdims=True) + 1e-12)


@dataclass(frozen=True, kw_only=True)
class CLIP(Objective):
    name: str = "clip"
    image_size: int = 8
    patch_size: int = 4
    joint: int = 8
    temperature: float = 0.07

    couples_batch: ClassVar = True

    def features(self, length):
        return {
            "image": jax.ShapeDtypeStruct((self.image_size, self.image_size, 1), np.float32),
            "caption": jax.ShapeDtypeStruct((length,), np.int32),
            "weight": jax.ShapeDtypeStruct((), np.float32),
        }

    def example(self, record, rng):
        flip = rng.random() < 0.5
        image = record["image"][:, ::-1] if flip else record["image"]
        return {"image": image, "caption": record["caption"], "weight": np.float32(1)}

    def flops(self, architecture, shapes):
        rows, length = shapes["caption"]
        lengths = (self.image_size // self.patch_size) ** 2, length
        return sum(as_encoder(architecture).flops({"encoder": (rows, size)}, head=False) for size in lengths)

    def build(self, architecture, rngs):
        o, values = architecture, self.patch_size**2
        patch = Linear(values, o.embed, (None, "embed"), bias=True, std=0.0, rngs=rngs)
        tokens = Embedding(o.vocab_size, o.embed, "vocab", std=0.02, rngs=rngs)
        return nnx.Dict(
            picture=Tower(o, patch, self.joint, rngs),
            text=Tower(o, tokens, self.joint, rngs),
            log_scale=parameter(rngs, (), (), "bias", fill=-math.log(self.temperature)),
        )

    def denominators(self, batch):
        return {"contrastive": batch["weight"].sum()}

    def loss(self, model, batch, rngs, mode):
        weight_b, real_bt = batch["weight"], (batch["caption"] > 0).astype(jnp.float32)
        x_btp = patches(batch["image"], self.patch_size)
        picture_bj = model.picture(model.picture.embed(x_btp), jnp.ones(x_btp.shape[:2]))
        text_cj = model.text(model.text.embed(batch["caption"], jnp.float32), real_bt)
        logits_bc = jnp.exp(model.log_scale[...]) * picture_bj @ text_cj.T
        # An empty row is nobody's wrong answer.
        by_picture_bc = jnp.where(weight_b[None, :] > 0, logits_bc, -1e30)
        by_text_bc = jnp.where(weight_b[:, None] > 0, logits_bc, -1e30)
        right_b = jnp.diagonal(jax.nn.log_softmax(by_picture_bc, 1) + jax.nn.log_softmax(by_text_bc, 0)) / 2
        total = -jnp.where(weight_b > 0, right_b, 0).sum()
        found_b = by_picture_bc.argmax(1) == jnp.arange(len(weight_b))
        accuracy = (weight_b * found_b).sum(), weight_b.sum()
        return Loss({"contrastive": total}, {"accuracy": accuracy})
