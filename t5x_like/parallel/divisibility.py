"""Checks that a mesh divides a model's dimensions, its layers and a row's length, before anything compiles."""

from collections.abc import Mapping

from t5x_like.errors import ExperimentError
from t5x_like.parallel.dimensions import Dimensions
from t5x_like.parallel.layout import Layout
from t5x_like.parallel.parameters import ParameterInfo


def require(layout: Layout, sizes: Dimensions, length: int) -> None:
    """Raises ExperimentError where the mesh does not divide a dimension that it shards.

    Args:
      layout: mesh and rules.
      sizes: of the architecture.
      length: tokens of a row.
    """
    for cut in sizes.cuts:
        parts = layout.divisor(cut.axis)
        if cut.axis == "attention_heads" and layout.passes_keys(cut.size):
            _require_ring(layout, length)
        elif cut.size % parts:
            axes = layout.cut(cut.axis)
            option = cut.option if cut.option in axes else axes[0]
            several = f" of {' × '.join(axes)}" if len(axes) > 1 else ""
            raise ExperimentError(
                f"parallelism.{option}", f"{parts} devices{several} do not divide model.{cut.field}={cut.size}"
            )
    for axis in ("length", "stream_length"):
        if length % (parts := layout.divisor(axis)):
            raise ExperimentError(
                f"parallelism.{layout.cut(axis)[0]}",
                f"{parts} devices do not divide data.sequence_length={length}; use a multiple of {parts} tokens",
            )


def _require_ring(layout: Layout, length: int) -> None:
    """Raises ExperimentError where the devices that share a row cannot have two equal chunks of it each."""
    chunks = 2 * layout.divisor("length")
    if length % chunks:
        raise ExperimentError(
            f"parallelism.{layout.cut('length')[0]}",
            f"a ring of {chunks // 2} devices does not divide data.sequence_length={length} into two chunks for each;"
            f" use a multiple of {chunks} tokens",
        )


def require_parameters(layout: Layout, infos: Mapping[tuple[str, ...], ParameterInfo]) -> None:
    """Raises ExperimentError, with its name, for a parameter that cannot be sharded.

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


def require_vocabulary(sizes: Dimensions, pieces: int) -> None:
    """Raises ExperimentError where the token table has fewer rows than there are ids.

    Args:
      sizes: of the architecture; one that reads no tokens has no table, and takes none.
      pieces: ids of the task and the objective.
    """
    rows = sizes.vocab
    if pieces > rows:
        raise ExperimentError(
            "model.vocab_size",
            f"{rows} rows cannot hold the {pieces} ids of task and objective; use at least {pieces}",
        )


def require_stages(layout: Layout, sizes: Dimensions, rows: int) -> None:
    """Raises ExperimentError where the stages do not divide the layers, or a microbatch's rows do not fill them.

    Args:
      layout: mesh, rules and schedule.
      sizes: of the architecture.
      rows: that pass through the stages at once: of a microbatch.
    """
    if layout.stages == 1:
        return
    groups = layout.stages * layout.stage_rounds
    for field, size in sizes.stacks:
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
