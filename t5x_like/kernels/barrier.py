"""Optimization barriers between matrix products."""

from typing import TypeVar

import jax

from t5x_like.parallel import layout

_Arrays = TypeVar("_Arrays")


def materialize(arrays: _Arrays) -> _Arrays:
    """An optimization barrier on TPU: the arrays, and later their gradients, are in memory before their users start.

    XLA for TPUs fuses what stands between two matrix products into the second, where it is computed again for every
    tile: for the gradient of a gated activation that takes longer than a pass through memory on most chips. Where it
    does not (see `parallel.tuning`), and for other platforms, whose compilers do not, this is the identity.

    Args:
      arrays: a tree of arrays.

    Returns:
      The same tree.
    """
    setting = layout.current()
    return jax.lax.optimization_barrier(arrays) if setting.platform == "tpu" and setting.tuning.barriers else arrays
