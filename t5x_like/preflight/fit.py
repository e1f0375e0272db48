"""The memory estimate of a step before it is compiled, and a proposal that fits where the step does not.

The state's size is exact. Activations are estimated, so that a proposal takes no time; only a compilation knows.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from t5x_like.data.packing import groups_of
from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.parallel import layout, strategies, topologies
from t5x_like.parallel.schedule import Schedule
from t5x_like.parallel.topologies import Topology
from t5x_like.parallelism import Parallelism

# Gradients have the parameters' shapes; they are whole when the update begins. A share of the memory for what a layer
# needs while it runs and is not estimated.
_MARGIN = 0.05


class DoesNotFitError(UserError):
    """A step that needs more memory than a chip has.

    Attributes:
      missing_bytes: by which it does not fit.
    """

    def __init__(self, topology: Topology, missing_bytes: int, needed: int, proposal: str):
        chip = topology.chip
        super().__init__(
            f"--topology: the step needs {needed:,} bytes on each chip of {topology} and does not fit in the"
            f" {chip.usable_hbm_bytes:,} that a program can have, by {missing_bytes:,} bytes"
            f" ({missing_bytes / topologies.GIB:.2f} GiB); {proposal}"
        )
        self.missing_bytes = missing_bytes


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes on one chip.

    Attributes:
      state: parameters, optimizer state and whatever else the step takes and gives; exact.
      gradients: one for each trained parameter.
      activations: what the forward pass keeps for the backward pass; an estimate.
      layer: what one layer and the head need while they run; an estimate.
    """

    state: int
    gradients: int
    activations: int
    layer: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.state + self.gradients + self.activations + self.layer


def estimate(experiment: Experiment, chips: int, state_bytes: int, parameter_bytes: int) -> Need:
    """The estimate of the bytes that a step needs on each chip.

    Args:
      experiment: whose `parallelism` has no -1.
      chips: on which it runs.
      state_bytes: of the whole state.
      parameter_bytes: of its trained parameters.
    """
    p, sizes, data = experiment.parallelism, experiment.model.dimensions(), experiment.data
    shards = p.fsdp * _beside(p)
    further = p.data if strategies.STRATEGIES[p.strategy].state else 1  # that the optimizer's state is cut into
    # Outside the layers stages share the rows. Inside, each has all of them in a share of the layers, and keeps
    # something in every turn, also of those without work.
    idle = Schedule(p.stage, p.stage_microbatches or p.stage, p.stage_rounds).bubble
    rows = data.batch_size / p.microbatches / (chips / p.tensor)
    lengths = [group.length for group in groups_of(experiment.objective.features(data.sequence_length))]
    read, written = (lengths[0], lengths[-1]) if len(lengths) > 1 else (0, data.sequence_length)
    tokens = math.ceil(rows * max(read, written))
    width = sizes.itemsize
    heads, kv = sizes.heads * sizes.head_dim / p.tensor, sizes.kv_heads * sizes.head_dim / p.tensor
    mlp = (3 if sizes.gated else 2) * sizes.mlp / p.tensor
    here = max(sizes.experts / p.expert, 1)  # experts of a layer on a device
    copies = min(sizes.experts_per_token, here) * p.expert if sizes.experts else 1  # that there must be room for
    shared = "tensor" in strategies.table(p, layout.RULES, layout.MESH_AXES)["stream_length"]
    stream = sizes.embed / p.tensor if shared else sizes.embed
    kept = {
        "full": stream,
        "offload_qkv_attention": stream,
        "save_attention": stream + heads,
        "save_qkv_attention": stream + 2 * heads + 2 * kv,
        "save_dots": 3 * sizes.embed + 2 * heads + 2 * kv + mlp,
        "none": 6 * sizes.embed + 3 * heads + 3 * kv + 1.5 * mlp,
    }[p.remat]
    layer = tokens * ((3 + copies) * sizes.embed + 2 * copies * mlp + 2 * heads + 2 * kv) * width
    weights = 2 * (here * mlp * sizes.embed + 2 * sizes.embed * (heads + kv)) * width
    # A kernel has no scores, and none adds a bias to them: of one layer, in float32 and as weights, there and back.
    scores = 2 * tokens * max(read, written) * sizes.heads / p.tensor * (4 + width)
    head = min(2 * math.ceil(rows * written) * sizes.vocab / p.tensor * 4, 1 << 30)
    return Need(
        state=(parameter_bytes + (state_bytes - parameter_bytes) // further) // shards,
        gradients=parameter_bytes // (shards * further),
        activations=int(rows * (sizes.layers * written + sizes.encoder_layers * read) * kept * width / (1 - idle)),
        layer=int(layer + weights + head + (scores if sizes.attention_bias else 0)),
    )


def proposal(
    experiment: Experiment, topology: Topology, state_bytes: int, parameter_bytes: int, compiled_over_guess: float = 1.0
) -> str:
    """The nearest change of the experiment that fits by `estimate`, as half a sentence.

    Args:
      experiment: what does not fit.
      topology: where.
      state_bytes: of the whole state.
      parameter_bytes: of its trained parameters.
      compiled_over_guess: what a compilation needed ÷ the estimate; the proposal is expected to need as much more.
    """
    for change, changed, place in _changes(experiment, topology):
        need = estimate(changed, place.size, state_bytes, parameter_bytes).total * max(compiled_over_guess, 1.0)
        if need <= place.chip.usable_hbm_bytes * (1 - _MARGIN):
            return f"by estimate {change} would fit, with {need / topologies.GIB:.2f} GiB"
    return "nothing that is like it would; use a smaller model or shorter rows"


def with_parallelism(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with other fields of `parallelism`."""
    parallelism = dataclasses.replace(experiment.parallelism, **changes)
    return dataclasses.replace(experiment, parallelism=parallelism)


def resolved(experiment: Experiment, chips: int, slices: int = 1) -> Experiment:
    """The experiment with every axis of its mesh spelled out for so many chips.

    Raises:
      ExperimentError: when its numbers do not multiply to them.
    """
    return with_parallelism(experiment, **strategies.resolve(experiment.parallelism, layout.MESH_AXES, chips, slices))


def _changes(experiment: Experiment, topology: Topology) -> Iterator[tuple[str, Experiment, Topology]]:
    """Other layouts of an experiment, the cheapest first: as flags, as an experiment, and on which topology."""
    p = experiment.parallelism
    sharded: Parallelism = dataclasses.replace(
        p, data=topology.slices, fsdp=topology.size // topology.slices // _beside(p)
    )
    options = {"": p}
    if sharded.fsdp > p.fsdp:
        options[f"--config.parallelism.data={sharded.data} --config.parallelism.fsdp={sharded.fsdp}"] = sharded
    steps = [(remat, parts) for parts in _parts(experiment, topology) for remat in _remats(p.remat)]
    for spelled, options_now in options.items():
        for remat, parts in steps:
            flags = [spelled] if spelled else []
            flags += [f"--config.parallelism.remat={remat}"] if remat != p.remat else []
            flags += [f"--config.parallelism.microbatches={parts}"] if parts != p.microbatches else []
            if flags:
                changed = dataclasses.replace(options_now, remat=remat, microbatches=parts)
                yield " ".join(flags), dataclasses.replace(experiment, parallelism=changed), topology
    for place in _larger(topology):
        for remat in _remats(p.remat):
            fsdp = place.size // place.slices // _beside(p)
            changed = dataclasses.replace(p, data=place.slices, fsdp=fsdp, remat=remat)
            slices = f" --slices={place.slices}" if place.slices > 1 else ""
            flags = [f"--topology={place.name}{slices} --config.parallelism.fsdp={fsdp}"]
            flags += [f"--config.parallelism.remat={remat}"] if remat != p.remat else []
            yield " ".join(flags), dataclasses.replace(experiment, parallelism=changed), place


def _beside(p: Parallelism) -> int:
    """The number of devices along the axes that are left as they are."""
    return p.stage * p.sequence * p.tensor * p.expert


def _remats(now: str) -> list[str]:
    """The policies that keep no more than this one, from the one that keeps most."""
    order = ["none", "save_dots", "save_qkv_attention", "save_attention", "full"]
    return order[order.index(now) :] if now in order else [now, "full"]


def _parts(experiment: Experiment, topology: Topology) -> list[int]:
    """Microbatches, from those there are up, with a row or more on each chip."""
    p, rows = experiment.parallelism, experiment.data.batch_size
    found, parts = [], p.microbatches
    wide = topology.size // (p.tensor * p.sequence * p.stage) * (p.stage_microbatches or p.stage)
    while parts * wide <= rows and rows % parts == 0:
        found.append(parts)
        parts *= 2
    return found or [p.microbatches]


def _larger(topology: Topology) -> Iterator[Topology]:
    """Larger slices of the same chip, then slices of as many larger chips, and larger yet."""
    chip = topology.chip
    for place in map(topologies.parse, topologies.slices_of(chip)):
        if place.size > topology.size:
            yield place
    for other in sorted(topologies.CHIPS.values(), key=lambda c: c.usable_hbm_bytes):
        if other.platform == chip.platform and other.usable_hbm_bytes > chip.usable_hbm_bytes:
            larger = map(topologies.parse, topologies.slices_of(other))
            yield from (place for place in larger if place.size >= topology.size)
