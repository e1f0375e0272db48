"""Classification of pictures. Shapes: b batch, k classes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.objectives.base import Loss, Objective


@dataclass(frozen=True, kw_only=True)
class Classification(Objective):
    """Cross-entropy of a picture's class, for an architecture that scores classes by `model(images, weight, mode)`."""

    name: str = "classification"
    image_size: int = 8

    def features(self, length):
        image = jax.ShapeDtypeStruct((self.image_size, self.image_size, 1), np.float32)
        one = jax.ShapeDtypeStruct((), np.float32)
        return {"image": image, "label": jax.ShapeDtypeStruct((), np.int32), "weight": one}

    def example(self, record, rng):
        image = record["image"][:, ::-1] if rng.random() < 0.5 else record["image"]
        return {"image": image, "label": np.int32(record["caption"][0] - 1), "weight": np.float32(1)}

    def flops(self, architecture, shapes):
        return architecture.flops({"image": shapes["image"]})

    def denominators(self, batch):
        return {"classification": batch["weight"].sum()}

    def loss(self, model, batch, rngs, mode):
        weight_b, label_b = batch["weight"], batch["label"]
        scores_bk = model(batch["image"], weight_b, mode)
        log_p_b = jnp.take_along_axis(jax.nn.log_softmax(scores_bk), label_b[:, None], 1)[:, 0]
        right = (weight_b * (scores_bk.argmax(1) == label_b)).sum()
        total, count = -(weight_b * log_p_b).sum(), weight_b.sum()
        return Loss({"classification": total}, {"cross_entropy": (total, count), "accuracy": (right, count)})
