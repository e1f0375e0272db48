"""Fitting an array to another shape: tables with more or fewer rows than the checkpoint's."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def cut_or_pad(old: jax.Array, fresh: jax.Array) -> jax.Array:
    """The part that both shapes have in common from `old`, the rest as it is in `fresh`."""
    common = tuple(slice(min(sizes)) for sizes in zip(old.shape, fresh.shape, strict=True))
    return fresh.at[common].set(old[common])


def mean(old: jax.Array, fresh: jax.Array) -> jax.Array:
    """As `cut_or_pad`, with the mean over the old rows in each new one (Hewitt 2021, "Initializing New Embeddings")."""
    for axis, size in enumerate(fresh.shape):
        added = size - old.shape[axis]
        average = jnp.mean(old, axis, keepdims=True).astype(old.dtype)
        if added > 0:
            old = jnp.concatenate([old, jnp.repeat(average, added, axis)], axis)
    return cut_or_pad(old, fresh)


def interpolate(old: jax.Array, fresh: jax.Array) -> jax.Array:
    """`old` stretched linearly along every axis that differs, as is done for positions (Dosovitskiy et al. 2021)."""
    return jax.image.resize(old.astype(jnp.float32), fresh.shape, "linear", antialias=False).astype(old.dtype)


# By the name that `initialize.reshaped` calls it. Each takes the checkpoint's array and a freshly initialised one.
KINDS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "cut_or_pad": cut_or_pad,
    "mean": mean,
    "interpolate": interpolate,
}
