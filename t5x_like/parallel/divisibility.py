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


def require_stages(layout: Layout, model: Any, rows: int) -> None:
    """Raises ExperimentError where the stages do not divide the layers, or a microbatch's rows do not fill them.

    Args:
      layout: mesh, rules and schedule.
      model: the architecture.
      rows: that pass through the stages at once: of a microbatch.
    """
    if layout.stages == 1:
        return
    groups = layout.stages * layout.stage_rounds
    for field in ("layers", "encoder_layers"):
        size = getattr(model, field)
        if size % groups:
            several = f" in {layout.stage_rounds} rounds" if layout.stage_rounds > 1 else ""
            raise ExperimentError(
                "parallelism.stage",
                f"{layout.stages} stages{several} do not divide model.{field}={size}; use a divisor of it",
            )
    here = layout.divisor_in_stage("batch")
    parts = here * layout.stage_microbatches
    if rows % parts:
        raise ExperimentError(
            "parallelism.stage_microbatches",
            f"{layout.stage_microbatches} microbatches on {here} devices of each stage do not divide the {rows} rows"
            " that pass through the stages at once; make data.batch_size / parallelism.microbatches a multiple of"
            f" {parts}",
        )
