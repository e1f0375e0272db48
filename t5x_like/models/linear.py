"""Linear layers and embedding tables: every product of activations and a parameter goes through here.

Shapes: b batch, t length, n = b·t, i inputs, o outputs.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.models import quantized, ring_embedding, sharded_linear
from t5x_like.models.adapters import LinearAdapter, Rescale
from t5x_like.models.parameters import parameter
from t5x_like.parallel import layout


def linear(
    x_bti: jax.Array, kernel_io: jax.Array, bias_o: jax.Array | None = None, quantization: str = "none"
) -> jax.Array:
    """`x @ kernel + bias` in the dtype of `x`, accumulated in float32.

    Args:
      x_bti: [..., inputs] activations.
      kernel_io: [inputs, outputs], cast to the activations' dtype.
      bias_o: [outputs] or None.
      quantization: the eight bits of `quantized.FORMATS` to multiply in; `none` for none.

    Returns:
      [..., outputs].
    """
    exact = quantization == "none"
    setting = layout.current()
    # Where devices share a row, before the product or after it, b·t would be no even cut of what they have.
    if exact and max(setting.divisor("length"), setting.divisor("stream_length")) > 1:
        y_bto = jnp.einsum("...i,io->...o", x_bti, kernel_io.astype(x_bti.dtype))
        return y_bto if bias_o is None else y_bto + bias_o.astype(y_bto.dtype)
    # With more than one leading dimension the kernel's gradient would contract over several, which XLA's CPU compiler
    # answers with transposed copies of both operands.
    x_ni, kernel_io = x_bti.reshape(-1, x_bti.shape[-1]), kernel_io.astype(x_bti.dtype)
    y_no = product(x_ni, kernel_io) if exact else quantized.product(x_ni, kernel_io, quantization)
    if bias_o is not None:
        y_no = y_no + bias_o.astype(y_no.dtype)
    return y_no.reshape(*x_bti.shape[:-1], kernel_io.shape[-1])


@jax.custom_vjp
def product(x_ni: jax.Array, kernel_io: jax.Array) -> jax.Array:
    """X @ kernel, [n, inputs] × [inputs, outputs], whose kernel gradient is computed the quicker way round."""
    return x_ni @ kernel_io


def _forward(x_ni: jax.Array, kernel_io: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x_ni @ kernel_io, (x_ni, kernel_io)


def _backward(kept: tuple[jax.Array, jax.Array], grad_no: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_ni, kernel_io = kept
    grad_ni = grad_no @ kernel_io.T
    if x_ni.shape[1] <= grad_no.shape[1]:
        return grad_ni, x_ni.T @ grad_no
    # The product with the narrower operand first; the barrier keeps XLA from turning it round again.
    return grad_ni, jax.lax.optimization_barrier(grad_no.T @ x_ni).T


product.defvjp(_forward, _backward)


class Linear(nnx.Module):
    """A kernel [inputs, outputs] and perhaps a bias [outputs].

    An adaptation may set `adapter`, a `LinearAdapter` that changes the layer's output; `rescale`, a `Rescale` around
    that; and put a `models.compressed.CompressedKernel` in the kernel's place, which is read like one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        axes: tuple[str | None, str | None],
        *,
        bias: bool,
        std: float,
        rngs: nnx.Rngs,
        quantization: str = "none",
    ) -> None:
        """Draws the kernel, with logical `axes`, from a normal of `std`; 0 stands for 1/√inputs."""
        self.axes, self.quantization = axes, quantization
        self.kernel = parameter(rngs, (inputs, outputs), axes, "matrix", std=std or inputs**-0.5)
        self.bias = parameter(rngs, (outputs,), axes[1:], "bias") if bias else None
        self.adapter: LinearAdapter | None = None
        self.rescale: Rescale | None = None

    def __call__(self, x_bti: jax.Array) -> jax.Array:
        """[batch, length, inputs] → [batch, length, outputs]."""
        if self.rescale is not None:
            x_bti = self.rescale.before(x_bti)
        y_bto = self._product(x_bti)
        if self.adapter is not None:
            y_bto = self.adapter(x_bti, y_bto, self)
        return y_bto if self.rescale is None else self.rescale.after(y_bto)

    @property
    def is_adapted(self) -> bool:
        """Whether the output is more than `x @ kernel + bias`."""
        return self.adapter is not None or self.rescale is not None

    def _product(self, x_bti: jax.Array) -> jax.Array:
        if not self.is_shared():
            bias = None if self.bias is None else self.bias[...]
            return linear(x_bti, self.kernel[...], bias, self.quantization)
        return self._biased(sharded_linear.product(x_bti, self.kernel[...].astype(x_bti.dtype), self.axes))

    def is_shared(self) -> bool:
        """Whether the products are those of `shared`: on TPUs, of whole rows, in the computation's dtype."""
        whole = layout.current().divisor("length") == 1
        return layout.current().platform == "tpu" and whole and self.quantization == "none"

    def to_heads(self, x_btd: jax.Array, heads: int) -> jax.Array:
        """[batch, length, inputs] → [batch, heads, length, outputs / heads], for an attention kernel."""
        if not self.is_shared() or self.is_adapted:
            return self(x_btd).reshape(*x_btd.shape[:2], heads, -1).swapaxes(1, 2)
        y_bhte = sharded_linear.to_heads(x_btd, self.kernel[...].astype(x_btd.dtype), self.axes, heads)
        bias = None if self.bias is None else self.bias[...].astype(y_bhte.dtype).reshape(heads, 1, -1)
        return y_bhte if bias is None else y_bhte + bias

    def from_heads(self, x_bhte: jax.Array) -> jax.Array:
        """[batch, heads, length, head width] → [batch, length, outputs]."""
        if not self.is_shared() or self.is_adapted:
            x_bthe = x_bhte.swapaxes(1, 2)
            return self(x_bthe.reshape(*x_bthe.shape[:2], -1))
        return self._biased(sharded_linear.from_heads(x_bhte, self.kernel[...].astype(x_bhte.dtype), self.axes))

    def _biased(self, y_bto: jax.Array) -> jax.Array:
        return y_bto if self.bias is None else y_bto + self.bias[...].astype(y_bto.dtype)


class Embedding(nnx.Module):
    """A table [rows, embed]: token embeddings, learned positions, or an output head."""

    def __init__(self, rows: int, embed: int, axis: str | None, *, std: float, rngs: nnx.Rngs) -> None:
        """Draws the table from a normal of `std`; `axis` is the logical name of its rows."""
        self.axis = axis
        self.table = parameter(rngs, (rows, embed), (axis, "embed"), "embedding", std=std)

    def __call__(self, ids_bt: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Integer ids [batch, length] → [batch, length, embed] in `dtype`."""
        if ring_embedding.is_suited(self.table.shape, (self.axis, "embed"), jnp.dtype(dtype)):
            return ring_embedding.take(self.table[...], ids_bt, dtype)
        # Whole rows are gathered: of a table split along its width too, every device would get every row of the batch.
        table = layout.current().constrain(self.table[...].astype(dtype), (self.axis, None))
        return table[ids_bt]
