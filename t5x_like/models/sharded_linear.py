"""Matrix products with parameters of which each device holds a part: gathered to multiply, their gradients scattered.

These are the products of `linear` as TPUs want them. A parameter's gradient is summed by a reduce-scatter that the
compiler leaves one (see `parallel.scatter`), and attention heads come and go as the kernel has them, [b, h, t, e]: the
forward product writes that layout for nothing, and the backward ones read it without a transposed copy.

Shapes: b batch, t length, n = b·t, i inputs, o outputs, d width, h heads, e head width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from t5x_like.kernels.barrier import materialize
from t5x_like.parallel import layout, scatter

Axes = tuple[str, str]


def gathered(kernel: jax.Array, axes: Axes) -> jax.Array:
    """The parameter whole in every dimension that is split over devices that hold other rows of the batch."""
    setting = layout.current()
    rows = set(setting.cut("batch"))
    return setting.constrain(kernel, tuple(None if rows & set(setting.cut(axis)) else axis for axis in axes))


def gradient(equation: str, left: jax.Array, right: jax.Array, axes: Axes, dtype: DTypeLike | None = None) -> jax.Array:
    """A parameter's gradient, the product of two arrays whose first dimension is of the batch.

    Args:
      equation: einsum's; its result has the dimension `embed` first.
      left: [b or n, ...].
      right: likewise.
      axes: the parameter's.
      dtype: of the result and the sum, by default the arrays'.

    Returns:
      [embed, ...], each device having summed its part where the devices lie in several lines.
    """
    setting = layout.current().of_state
    rows = setting.cut("batch")
    split = [axis for axis in setting.cut("embed") if axis in rows]
    plain = setting.mesh is None or len(split) != 1 or setting.size != setting.divisor("batch")
    sizes = () if plain or setting.mesh is None else scatter.stages(setting.mesh, split[0])
    # Where devices are few the compiler scatters by itself, and where they lie in no lines not at all.
    if len(sizes) < 2:
        summed = jnp.einsum(equation, left, right, preferred_element_type=dtype)
        if setting.mesh is None or (setting.size == setting.mesh.size and setting.rules == layout.current().rules):
            return summed
        # In a stage's loops, and of a state that is cut further than the parameter, the compiler learns too late how
        # the sum lies, behind a transposition.
        other = axes[1] if axes[0] == "embed" else axes[0]
        return setting.constrain(summed, ("embed", other, *(None for _ in summed.shape[2:])))

    def local(left: jax.Array, right: jax.Array) -> jax.Array:
        mine = scatter.reduce_scatter(jnp.einsum(equation, left, right, preferred_element_type=dtype), split[0], sizes)
        return jax.lax.psum(mine, tuple(axis for axis in rows if axis not in split))

    batch = PartitionSpec(rows)
    return setting.on_each(local, (batch, batch), PartitionSpec(split[0]))(left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x_bti: jax.Array, kernel_io: jax.Array, axes: Axes) -> jax.Array:
    """X @ kernel, [b, t, inputs] × [inputs, outputs]; one of `axes` is `embed`."""
    return x_bti @ gathered(kernel_io, axes)


def _product_backward(axes: Axes, kept: Any, grad_bto: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_bti, kernel_io = kept
    grad_bti = grad_bto @ gathered(kernel_io, axes).T
    if axes[0] == "embed":
        return _together(grad_bti, gradient("bti,bto->io", x_bti, grad_bto, axes))
    return _together(grad_bti, gradient("bti,bto->oi", x_bti, grad_bto, axes).T)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def to_heads(x_btd: jax.Array, kernel_do: jax.Array, axes: Axes, heads: int) -> jax.Array:
    """X @ kernel, [b, t, d] × [d, h·e] → [b, h, t, e]; the first of `axes` is `embed`."""
    b, t, d = x_btd.shape
    kernel_do, x_btd = jax.lax.optimization_barrier((kernel_do, x_btd))
    y_no = x_btd.reshape(-1, d) @ gathered(kernel_do, axes)
    return y_no.reshape(b, t, heads, -1).transpose(0, 2, 1, 3)


def _to_heads_backward(axes: Axes, heads: int, kept: Any, grad_bhte: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_btd, kernel_do = kept
    kernel_do, grad_bhte = jax.lax.optimization_barrier((kernel_do, grad_bhte))
    kernel_dhe = gathered(kernel_do, axes).reshape(x_btd.shape[-1], heads, -1)
    grad_dhe = gradient("btd,bhte->dhe", x_btd, grad_bhte, axes)
    return _together(jnp.einsum("bhte,dhe->btd", grad_bhte, kernel_dhe), grad_dhe.reshape(kernel_do.shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def from_heads(x_bhte: jax.Array, kernel_od: jax.Array, axes: Axes) -> jax.Array:
    """X @ kernel, [b, h, t, e] × [h·e, d] → [b, t, d]; the second of `axes` is `embed`."""
    _, h, _, e = x_bhte.shape
    return jnp.einsum("bhte,hed->btd", x_bhte, gathered(kernel_od, axes).reshape(h, e, -1))


def _from_heads_backward(axes: Axes, kept: Any, grad_btd: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_bhte, kernel_od = kept
    b, h, t, e = x_bhte.shape
    grad_no = grad_btd.reshape(b * t, -1) @ gathered(kernel_od, axes).T
    grad_dhe = gradient("bhte,btd->dhe", x_bhte, grad_btd, axes)
    return _together(grad_no.reshape(b, t, h, e).transpose(0, 2, 1, 3), grad_dhe.reshape(kernel_od.shape[::-1]).T)


def _together(grad_x: jax.Array, grad_kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients, neither to be used before both are there: else the compiler leaves all parameters' for the end.

    Until then it would keep what they are computed from.
    """
    return materialize((grad_x, grad_kernel))


# Forward, the functions themselves: a remat policy that saves products sees none in a call that can be differentiated
# once more.
product.defvjp(lambda x, kernel, axes: (product.__wrapped__(x, kernel, axes), (x, kernel)), _product_backward)
to_heads.defvjp(
    lambda x, kernel, axes, heads: (to_heads.__wrapped__(x, kernel, axes, heads), (x, kernel)), _to_heads_backward
)
from_heads.defvjp(lambda x, kernel, axes: (from_heads.__wrapped__(x, kernel, axes), (x, kernel)), _from_heads_backward)
