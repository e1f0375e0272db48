"""Masked autoencoders (He et al. 2022, section 3): the hidden patches of a picture from the visible ones.

Shapes: b batch, n patches, k visible patches, p values of a patch, d width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from objectives.sketches.blocks import as_encoder, build_stack, patches, run

from t5x_like.models.dropout import row_keys
from t5x_like.models.linear import Linear
from t5x_like.models.parameters import parameter
from t5x_like.objectives.base import Loss, Objective


class Autoencoder(nnx.Module):
    """Positions are rotary: a visible patch keeps its place in the whole picture."""

    def __init__(self, options, values: int, rngs: nnx.Rngs):
        self.embed = Linear(values, options.embed, (None, "embed"), bias=True, std=0.0, rngs=rngs)
        self.encoder = build_stack(as_encoder(options), rngs)
        self.hidden = parameter(rngs, (options.embed,), (None,), "embedding", std=0.02)
        self.decoder = build_stack(as_encoder(options, layers=1), rngs)
        self.predict = Linear(options.embed, values, ("embed", None), bias=True, std=0.0, rngs=rngs)

    def __call__(self, patches_bnp, visible_bk):
        """Predicts every patch from the numbered ones."""
        b, n, _ = patches_bnp.shape
        seen_bkp = jnp.take_along_axis(patches_bnp, visible_bk[..., None], 1)
        seen_bkd = run(self.encoder, self.embed(seen_bkp), visible_bk)
        hidden_bnd = jnp.broadcast_to(self.hidden[...], (b, n, seen_bkd.shape[-1]))
        all_bnd = jax.vmap(lambda x_nd, places_k, seen_kd: x_nd.at[places_k].set(seen_kd))(
            hidden_bnd, visible_bk, seen_bkd
        )
        return self.predict(run(self.decoder, all_bnd))


@dataclass(frozen=True, kw_only=True)
class MAE(Objective):
    name: str = "mae"
    image_size: int = 8
    patch_size: int = 2
    mask_rate: float = 0.75

    @property
    def _patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def _masked(self) -> int:
        return round(self._patches * self.mask_rate)

    def features(self, length):
        image = jax.ShapeDtypeStruct((self.image_size, self.image_size, 1), np.float32)
        return {"image": image, "weight": jax.ShapeDtypeStruct((), np.float32)}

    def example(self, record, rng):
        flip = rng.random() < 0.5
        return {"image": record["image"][:, ::-1] if flip else record["image"], "weight": np.float32(1)}

    def flops(self, architecture, shapes):
        rows = shapes["image"][0]
        seen = as_encoder(architecture).flops({"encoder": (rows, self._patches - self._masked)}, head=False)
        return seen + as_encoder(architecture, layers=1).flops({"encoder": (rows, self._patches)}, head=False)

    def build(self, architecture, rngs):
        return Autoencoder(architecture, self.patch_size**2, rngs)

    def denominators(self, batch):
        return {"reconstruction": self._masked * batch["weight"].sum()}

    def loss(self, model, batch, rngs, mode):
        patches_bnp = patches(batch["image"], self.patch_size)
        order_bn = jax.vmap(lambda key: jax.random.uniform(key, (self._patches,)).argsort())(row_keys(rngs))
        masked_bm, visible_bk = order_bn[:, : self._masked], order_bn[:, self._masked :]
        predicted_bnp = model(patches_bnp, visible_bk)
        mean, variance = patches_bnp.mean(-1, keepdims=True), patches_bnp.var(-1, keepdims=True)
        errors_bn = jnp.square(predicted_bnp - (patches_bnp - mean) / jnp.sqrt(variance + 1e-6)).mean(-1)
        sums_b = jnp.take_along_axis(errors_bn, masked_bm, 1).sum(1)
        total, count = (batch["weight"] * sums_b).sum(), self._masked * batch["weight"].sum()
        return Loss({"reconstruction": total}, {"squared_error": (total, count)})
