"""Quantisation after training: the kernels of linear layers in four or eight bits, which nothing trains any more.

With a LoRA beside it this is QLoRA (Dettmers et al. 2023): `nf4` in groups of 64, scales compressed, under adapters.
"""

from dataclasses import dataclass

from flax import nnx

from t5x_like.adaptations.base import Adaptation, chosen, modules_by_path
from t5x_like.checks import require_at_least, require_one_of
from t5x_like.errors import ExperimentError
from t5x_like.models.compressed import BITS, CompressedKernel, CompressedVariable, Compression
from t5x_like.models.linear import Linear
from t5x_like.objectives.roles import Frozen, Roles


@dataclass(frozen=True, kw_only=True)
class Quantize(Adaptation):
    """Options.

    Attributes:
      paths: globs of the linear layers.
      format: `nf4`, `int4` or `int8`; see `models.compressed`.
      group: inputs of a column that share a scale; 0 for all of them.
      double: whether the scales are compressed too.
    """

    name: str = "quantize"
    paths: tuple[str, ...] = ("**/attention/*", "**/mlp/*")
    format: str = "nf4"
    group: int = 64
    double: bool = True

    def __post_init__(self) -> None:
        require_one_of(self, "format", tuple(BITS))
        require_at_least(self, 0, "group")

    @property
    def derives(self) -> bool:
        """What it adds is the model's kernels."""
        return True

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Puts a compressed kernel in the place of each that is meant."""
        compression = Compression(self.format, self.group, self.double)
        for number, glob in enumerate(self.paths):
            where = f"paths[{number}]"
            for linear in chosen(model, glob, Linear, where, "linear layer"):
                if isinstance(linear.kernel, CompressedKernel):
                    raise ExperimentError(where, f"{glob!r} takes a layer that is compressed already; leave one out")
                axes = (*("layers",) * (linear.kernel[...].ndim - 2), *linear.axes)
                kernel_io = linear.kernel[...]
                linear.kernel = nnx.data(CompressedKernel(kernel_io, axes, compression))

    @property
    def roles(self) -> Roles:
        """Compressed kernels are frozen."""
        return ((CompressedVariable, Frozen()),)

    def merge(self, model: nnx.Module) -> None:
        """Puts matrices in the place of compressed kernels, with the values that those have."""
        for _, linear in modules_by_path(model):
            if isinstance(linear, Linear) and isinstance(linear.kernel, CompressedKernel):
                kernel_io = linear.kernel[...]
                axes = (*("layers",) * (kernel_io.ndim - 2), *linear.axes)
                linear.kernel = nnx.data(nnx.Param(kernel_io, out_sharding=axes, kind="matrix", eager_sharding=False))
