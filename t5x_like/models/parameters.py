"""Creation of variables: shape, logical axes, kind and first values."""

import jax
import jax.numpy as jnp
from flax import nnx


def parameter(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    kind: str,
    *,
    std: float = 0.0,
    fill: float = 0.0,
) -> nnx.Param:
    """A float32 parameter.

    Args:
      rngs: the stream its values are drawn from; untouched when `std` is 0.
      shape: its shape.
      axes: logical axis names, one a dimension.
      kind: `matrix`, `embedding`, `norm` or `bias`; optimizers choose by it.
      std: standard deviation of normal first values.
      fill: the first value where `std` is 0.
    """
    if std:
        value = std * jax.random.normal(rngs.params(), shape, jnp.float32)
    else:
        value = jnp.full(shape, fill, jnp.float32)
    # Placement is the layout's business: NNX would look for a mesh here and fail without one.
    return nnx.Param(value, out_sharding=axes, kind=kind, eager_sharding=False)


def statistic(shape: tuple[int, ...], axes: tuple[str | None, ...], *, fill: float = 0.0) -> nnx.BatchStat:
    """A float32 variable that no optimizer moves, but its module's `update_statistics` or the objective's `update`.

    Args:
      shape: its shape.
      axes: logical axis names, one a dimension.
      fill: its first value.
    """
    return nnx.BatchStat(jnp.full(shape, fill, jnp.float32), out_sharding=axes, kind="bias", eager_sharding=False)
