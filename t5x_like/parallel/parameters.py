"""Metadata of parameters: shape, dtype, logical axes, kind."""

import dataclasses
from typing import Any

KINDS = ("matrix", "embedding", "norm", "bias")

# Leading axes that stack parameters of equal shape: one entry a layer, one an expert.
STACKED = ("layers", "expert")


@dataclasses.dataclass(frozen=True)
class ParameterInfo:
    """The metadata of a parameter.

    Attributes:
      shape: its shape.
      dtype: its dtype.
      axes: logical axis names, one a dimension; a leading `layers` axis makes it a stack of per-layer parameters.
      kind: `matrix`, `embedding`, `norm` or `bias`; optimizers and weight decay choose by it.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str | None, ...]
    kind: str

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.shape):
            raise ValueError(f"the axes {self.axes} do not name each dimension of the shape {self.shape}")
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of parameter; it must be one of {', '.join(KINDS)}")

    @property
    def stack(self) -> int:
        """The number of leading dimensions that stack parameters of the same shape; 0 for a single parameter."""
        own = [i for i, name in enumerate(self.axes) if name not in STACKED]
        return own[0] if own else len(self.axes)
