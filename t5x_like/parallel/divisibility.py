"""Whether a mesh divides a model's dimensions and a row's length, said before anything is laid out."""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import ExperimentError
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.parameters import ParameterInfo

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
            axes = layout.cut(axis)
            option = option if option in axes else axes[0]
            several = f" of {' × '.join(axes)}" if len(axes) > 1 else ""
            raise ExperimentError(
                f"parallelism.{option}", f"{parts} devices{several} do not divide model.{field}={size}"
            )
    for axis in ("length", "stream_length"):
        if length % (parts := layout.divisor(axis)):
            raise ExperimentError(
                f"parallelism.{layout.cut(axis)[0]}",
                f"{parts} devices do not divide data.sequence_length={length}; use a multiple of {parts} tokens",
            )


def require_parameters(layout: Layout, infos: Mapping[tuple[str, ...], ParameterInfo]) -> None:
    """Raises ExperimentError where a parameter cannot be laid out, naming it.

    Args:
      layout: mesh and rules.
      infos: what is known of each variable of the model, by its path.
    """
    if layout.state_rules is not None:
        require_parameters(layout.of_state, infos)
    for path, info in infos.items():
        name = ".".join(path)
        try:
            layout.spec(info.axes)
        except ExperimentError as error:
            raise ExperimentError(error.where, f"{name}: {error.problem}") from None
        for size, axis in zip(info.shape, info.axes, strict=True):
            if axis is not None and size % layout.divisor(axis):
                raise ExperimentError(
                    f"parallelism.{layout.cut(axis)[0]}",
                    f"{layout.divisor(axis)} devices do not divide the {axis!r} axis of {name}, which is {size}; use a"
                    f" divisor of {size}",
                )
        # A device's share of an expert's hidden units is summed over those that have the others, for the same tokens.
        elsewhere = {*layout.cut("batch"), *layout.cut("length")}
        if "expert" in info.axes and (shared := sorted(elsewhere & {*layout.cut("mlp")})):
            raise ExperimentError(
                "parallelism.rules.mlp",
                f"{name}: the devices along {' and '.join(shared)} hold other tokens and cannot share an expert's"
                " hidden units; give axes that cut neither 'batch' nor 'length'",
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
