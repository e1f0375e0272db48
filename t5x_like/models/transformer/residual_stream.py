"""Sharding of the residual stream between a layer's parts, the sequence parallelism of Megatron.

It is that of Korthikanti et al. 2022, section 4.2.2. Tensor parallelism splits the products of a part; norms, dropout
and sums in between would be the same on all of its devices, and so would what is kept for the backward pass. Each
device has a share of the tokens there instead: an all-gather before a part and a reduce-scatter after it move what
the all-reduce after it alone would. The rule `stream_length` says so; where it is that of `length`, every function
here is the identity or a plain constraint.

Shapes: b batch, t length, d width.
"""

import jax

from t5x_like.parallel import layout

WHOLE, SHARED = ("batch", "length", "act_embed"), ("batch", "stream_length", "act_embed")


def constrain(x_btd: jax.Array) -> jax.Array:
    """The stream, or what a part adds to it, [batch, length, embed], sharded as it is between parts."""
    return layout.current().constrain(x_btd, SHARED if _is_shared(x_btd) else WHOLE)


def gather(x_btd: jax.Array) -> jax.Array:
    """All-gather before a part: the normed stream, [batch, length, embed], with all tokens of the part's devices."""
    return _gather(x_btd) if _is_shared(x_btd) else x_btd


def scatter(mixed_btd: jax.Array) -> jax.Array:
    """Reduce-scatter after a part: the sum of what its devices computed, [batch, length, embed]."""
    return constrain(mixed_btd) if _is_shared(mixed_btd) else mixed_btd


def gather_lookup(x_btd: jax.Array) -> jax.Array:
    """Rows of a table, [batch, length, embed], before the devices share their tokens.

    Asked for its own tokens only, a device would get the table whole, and its gradient.
    """
    return layout.current().constrain(x_btd, WHOLE) if _is_shared(x_btd) else x_btd


def _is_shared(x_btd: jax.Array) -> bool:
    """Whether the stream is cut further than rows are; of other lengths than the data's, one may not be divided."""
    setting = layout.current()
    return setting.cut("stream_length") != setting.cut("length") and not x_btd.shape[1] % setting.divisor(
        "stream_length"
    )


@jax.custom_vjp
def _gather(x_btd: jax.Array) -> jax.Array:
    return layout.current().constrain(x_btd, WHOLE)


def _gather_backward(_: None, grad_btd: jax.Array) -> tuple[jax.Array]:
    """A constraint's own gradient would be summed whole on every device."""
    return (layout.current().constrain(grad_btd, SHARED),)


_gather.defvjp(lambda x_btd: (_gather(x_btd), None), _gather_backward)
