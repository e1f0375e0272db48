"""DINO (Caron et al. 2021, algorithm 1): a student matches its own average across crops of a picture.

The centre that the loss subtracts is that of earlier batches, so the loss is a sum over rows all the same.

Shapes: b batch, g global crops, v all crops, n = b · crops, t patches, p values of a patch, k prototypes.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from objectives.sketches.blocks import as_encoder, build_stack, patches, run

from t5x_like.models.linear import Linear
from t5x_like.objectives.base import Loss, Objective
from t5x_like.objectives.roles import Ema, Statistics


class Network(nnx.Module):
    """Crops of one size, [batch, crops, height, width, channels] → scores of the prototypes, [batch, crops, k]."""

    def __init__(self, options, patch: int, prototypes: int, rngs: nnx.Rngs):
        self.patch = patch
        self.embed = Linear(patch**2, options.embed, (None, "embed"), bias=True, std=0.0, rngs=rngs)
        self.encoder = build_stack(as_encoder(options), rngs)
        self.head = Linear(options.embed, prototypes, ("embed", None), bias=False, std=0.0, rngs=rngs)

    def __call__(self, crops):
        patches_ntp = patches(crops.reshape(-1, *crops.shape[2:]), self.patch)
        return self.head(run(self.encoder, self.embed(patches_ntp)).mean(1)).reshape(*crops.shape[:2], -1)


@dataclass(frozen=True, kw_only=True)
class DINO(Objective):
    name: str = "dino"
    global_size: int = 6
    local_size: int = 4
    patch_size: int = 2
    prototypes: int = 16
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup_temperature: float = 0.07
    warmup_steps: int = 2
    centre_decay: float = 0.9
    teacher_decay: float = 0.9

    @property
    def roles(self):
        average = Ema(of="student", decay=lambda step: jnp.minimum(self.teacher_decay, (1 + step) / (2 + step)))
        return (("teacher/**", average), ("centre", Statistics()), ("temperature", Statistics()))

    def features(self, length):
        crops = [(2, size, size, 1) for size in (self.global_size, self.local_size)]
        shapes = {"global": crops[0], "local": crops[1], "weight": ()}
        return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}

    def example(self, record, rng):
        def crops(size):
            corners = rng.integers(0, np.array(record["image"].shape[:2]) - size, (2, 2), endpoint=True)
            return np.stack([record["image"][top : top + size, left : left + size] for top, left in corners])

        return {"global": crops(self.global_size), "local": crops(self.local_size), "weight": np.float32(1)}

    def flops(self, architecture, shapes):
        def network(crops):
            rows, views, size = shapes[crops][:3]
            sizes = rows * views, (size // self.patch_size) ** 2
            return as_encoder(architecture).flops({"encoder": sizes}, head=False)

        return 4 / 3 * network("global") + network("local")  # the teacher goes forward alone, and sees the large crops

    def build(self, architecture, rngs):
        student, teacher = (Network(architecture, self.patch_size, self.prototypes, rngs) for _ in range(2))
        return nnx.Dict(
            student=student,
            teacher=teacher,
            centre=nnx.Variable(jnp.zeros(self.prototypes)),
            temperature=nnx.Variable(jnp.float32(self.warmup_temperature)),
        )

    def denominators(self, batch):
        return {"distillation": batch["weight"].sum()}

    def loss(self, model, batch, rngs, mode):
        weight_b, views = batch["weight"], (batch["global"], batch["local"])
        student_bvk = jnp.concatenate([model.student(crops) for crops in views], 1)
        teacher_bgk = model.teacher(views[0])
        p_bgk = jax.nn.softmax((teacher_bgk - model.centre[...]) / model.temperature[...])
        log_p_bvk = jax.nn.log_softmax(student_bvk / self.student_temperature)
        other_gv = 1 - jnp.eye(2, student_bvk.shape[1])  # no crop is compared with itself
        total = -jnp.einsum("b,bgk,gv,bvk->", weight_b, p_bgk, other_gv / other_gv.sum(), log_p_bvk)
        seen = {"teacher": jnp.einsum("b,bgk->k", weight_b, teacher_bgk), "count": 2 * weight_b.sum()}
        return Loss({"distillation": total}, {"cross_entropy": (total, weight_b.sum())}, seen)

    def update(self, model, statistics, step):
        mean_k = statistics["teacher"] / jnp.maximum(statistics["count"], 1)
        model.centre[...] = self.centre_decay * model.centre[...] + (1 - self.centre_decay) * mean_k
        warm = jnp.minimum((step + 1) / self.warmup_steps, 1)
        model.temperature[...] = self.warmup_temperature + warm * (self.teacher_temperature - self.warmup_temperature)
