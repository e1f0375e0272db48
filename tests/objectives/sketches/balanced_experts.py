"""Experts balanced by a bias of the router's choice in place of a loss (Wang et al. 2024; DeepSeek-V3, section 2.1.2).

Shapes: b batch, t length, e experts, k chosen.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from t5x_like.errors import ExperimentError
from t5x_like.models import auxiliary
from t5x_like.models.parameters import statistic
from t5x_like.models.transformer.experts import MixtureOfExperts
from t5x_like.models.transformer.layer_options import Experts
from t5x_like.models.transformer.router import Router


@dataclass(frozen=True, kw_only=True)
class BalancedExperts(Experts):
    """Experts of which those that got more than their share of a batch are chosen less in the next.

    Attributes:
      rate: by which an expert's bias rises or falls after a batch.
    """

    module: ClassVar[str] = "objectives.sketches.balanced_experts:BalancedMixture"

    name: str = "balanced_experts"
    rate: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate <= 0:
            raise ExperimentError("rate", f"{self.rate} moves no bias the right way; it must be above 0")


class BalancedRouter(Router):
    """Chooses by score plus bias, and weighs the chosen by their scores alone."""

    def __init__(self, embed, experts, chosen, **options):
        super().__init__(embed, experts, chosen, **options)
        self.rate, self.bias = 0.0, statistic((experts,), (None,))

    def _choose(self, scores_bte, real_bt):
        _, chosen_btk = jax.lax.top_k(scores_bte + self.bias[...], self.chosen)
        if real_bt is not None:
            sent_bte = jax.nn.one_hot(chosen_btk, self.experts).sum(2)
            auxiliary.add_statistics(self, jnp.einsum("bte,bt->e", sent_bte, real_bt))
        return jnp.take_along_axis(scores_bte, chosen_btk, -1), chosen_btk

    def update_statistics(self, counts_e):
        """Of a stack of layers counts and biases have a leading axis."""
        self.bias[...] += self.rate * jnp.sign(counts_e.mean(-1, keepdims=True) - counts_e)


class BalancedMixture(MixtureOfExperts):
    router_type = BalancedRouter

    def __init__(self, model, options, rngs):
        super().__init__(model, options, rngs)
        self.router.rate = options.rate
