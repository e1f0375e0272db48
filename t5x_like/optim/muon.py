"""Muon: orthogonalised momentum for matrices, AdamW for other parameters."""

import math
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from t5x_like.checks import require_at_least, require_below, require_one_of, require_positive
from t5x_like.optim.base import Optimizer
from t5x_like.optim.per_matrix import per_matrix
from t5x_like.parallel.parameters import ParameterInfo

# The quintic a·x + b·x³ + c·x⁵ that takes singular values to about 1 in five rounds (Jordan 2024, "Newton-Schulz").
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

SCALINGS = ("width", "adam_rms")


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon); AdamW for the rest.

    Parameters of kind `matrix` take Muon's steps. Embeddings (the output head among them), norms and biases take
    AdamW's at a learning rate of their own, on the same schedule.

    Attributes:
      momentum: decay of the sum of past gradients.
      nesterov: look one step of momentum ahead.
      newton_schulz_steps: rounds of the iteration that orthogonalises.
      scaling: a step's size by the matrix's shape [inputs, outputs]: `width`, √max(1, outputs / inputs), the post's;
        `adam_rms`, 0.2 √max(inputs, outputs), which gives updates AdamW's usual root mean square, so that AdamW's
        learning rate and weight decay fit (Liu et al. 2025, equation 4).
      adam_learning_rate: the peak for parameters that are not matrices.
      b1, b2, eps: AdamW's, for the same.
    """

    name: str = "muon"
    learning_rate: float = 2e-2
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5
    scaling: str = "width"
    adam_learning_rate: float = 3e-3
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "adam_learning_rate", "momentum", "b1", "b2", "eps")
        require_below(self, 1, "momentum", "b1", "b2")
        require_positive(self, "newton_schulz_steps")
        require_one_of(self, "scaling", SCALINGS)

    def direction(self, infos: Any) -> optax.GradientTransformation:
        """Orthogonalised momentum for matrices, Adam's direction for the rest.

        Raises:
          ValueError: when a parameter of kind `matrix` has not two dimensions beneath its stack.
        """
        for path, info in jax.tree.leaves_with_path(infos):
            if info.kind == "matrix" and len(info.shape) - info.stack != 2:
                where = jax.tree_util.keystr(path, simple=True, separator=".")
                raise ValueError(f"{where}: Muon needs matrices [inputs, outputs], but one here has {info.axes}")
        muon = optax.chain(
            optax.trace(self.momentum, self.nesterov, accumulator_dtype=jnp.float32),
            per_matrix(optax.stateless_with_tree_map(lambda update, _: self._orthogonal(update)), infos),
        )
        adam = optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps, mu_dtype=jnp.float32)
        labels = jax.tree.map(lambda info: "muon" if info.kind == "matrix" else "adam", infos)
        return optax.partition({"muon": muon, "adam": adam}, labels)

    def peak(self, info: ParameterInfo) -> float:
        """The peak learning rate of one parameter."""
        return self.learning_rate if info.kind == "matrix" else self.adam_learning_rate

    def _orthogonal(self, momentum: jax.Array) -> jax.Array:
        inputs, outputs = momentum.shape
        size = (
            0.2 * math.sqrt(max(inputs, outputs)) if self.scaling == "adam_rms" else math.sqrt(max(1, outputs / inputs))
        )
        return size * orthogonalize(momentum, self.newton_schulz_steps)


def orthogonalize(matrix: jax.Array, steps: int) -> jax.Array:
    """The matrix with its singular values taken near 1: a Newton-Schulz iteration for U Vᵀ of its decomposition U S Vᵀ.

    The coefficients trade exactness for speed: after five rounds the values lie between about 0.7 and 1.2.

    Args:
      matrix: float32 [m, n].
      steps: rounds.

    Returns:
      float32 [m, n]; zeros for a matrix of zeros.
    """
    chex.assert_rank(matrix, 2)
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x_mn = matrix.T if tall else matrix  # the Gram matrix on the shorter side is the cheaper one
    x_mn = x_mn / (jnp.linalg.norm(x_mn) + 1e-7)
    for _ in range(steps):
        gram_mm = x_mn @ x_mn.T
        x_mn = a * x_mn + (b * gram_mm + c * gram_mm @ gram_mm) @ x_mn
    return x_mn.T if tall else x_mn
