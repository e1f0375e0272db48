"""Whether a mesh divides a model's dimensions and a row's length, said before anything is laid out."""

from typing import Any

from t5x_like.errors import ExperimentError
from t5x_like.parallel.layout import Layout

# Of the model: a field, the logical axis that cuts it, and the fields of `parallelism` that say into how many.
_CUT = (
    ("heads", "heads", "tensor"),
    ("kv_heads", "kv", "tensor"),
    ("mlp", "mlp", "tensor"),
    ("vocab_size", "vocab", "tensor"),
    ("experts", "expert", "expert"),
    ("heads", "attention_heads", "sequence"),
    ("embed", "embed", "fsdp"),
)


def require(layout: Layout, model: Any, length: int) -> None:
    """Raises ExperimentError where the layout does not divide what it cuts.

    Args:
      layout: mesh and rules.
      model: the architecture.
      length: tokens of a row.
    """
    for field, axis, option in _CUT:
        size, parts = getattr(model, field), layout.divisor(axis)
        if size % parts:
            axes = [name for name in layout.rules[axis] if layout.mesh and layout.mesh.shape[name] > 1]
            several = f" of {' × '.join(axes)}" if len(axes) > 1 else ""
            raise ExperimentError(
                f"parallelism.{option}", f"{parts} devices{several} do not divide model.{field}={size}"
            )
    if length % layout.divisor("length"):
        raise ExperimentError(
            "parallelism.sequence",
            f"{layout.divisor('length')} devices do not divide data.sequence_length={length}; use a multiple of"
            f" {layout.divisor('length')} tokens",
        )
