"""The figures of a compiled step; docs/preflight.md explains each by its name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_like.data.packing import places_of
from t5x_like.experiment import Experiment
from t5x_like.parallel import ragged
from t5x_like.parallel import schedule as schedules
from t5x_like.parallel.compiled import collectives, hlo, kernels, memory, products, roofline, times
from t5x_like.parallel.compiled.collectives import Collective
from t5x_like.parallel.compiled.compile_size import compile_size
from t5x_like.parallel.topologies import Chip, Topology
from t5x_like.preflight import prices
from t5x_like.preflight.build import Built
from t5x_like.program import describe

CHINCHILLA = 20  # tokens a parameter (Hoffmann et al. 2022, table 3)
DAY = 86_400


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The analysis of a compiled step's text."""

    moved: list[Collective]
    kernels: list[kernels.Kernel]
    estimate: times.Estimate
    products: float
    per_chip: dict[str, int]
    oversized: list[memory.Oversized]
    size: dict[str, int]


def report(built: Built, prices_file: str = "") -> dict[str, Any]:
    """Every figure, as plain values.

    Args:
      built: the compiled step.
      prices_file: a table to use in place of the package's.
    """
    experiment, topology = built.experiment, built.topology
    rates = prices.read(topology.chip.name, prices_file)
    reading = _read(built)
    described = describe(experiment)
    step_flops = described["flops_per_step"] / topology.size
    ideal = step_flops / topology.chip.peak_flops
    seconds = reading.estimate.total
    executed = reading.products + sum(kernel.flops for kernel in reading.kernels)
    forward = sum(kernel.count for kernel in reading.kernels if kernel.forward)
    schedule = _schedule(built)
    # How often a chip runs some layer forward: in a pipeline in every turn a group of its own.
    turns = 1 if schedule is None else schedule.turns / (schedule.stages * schedule.rounds)
    layers = built.sizes.layers * experiment.parallelism.microbatches * turns
    figures = {
        "name": experiment.name,
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "devices": topology.size,
        "mesh": dict(built.layout.mesh.shape),  # type: ignore[union-attr]
        "remat": experiment.parallelism.remat,
        "microbatches": experiment.parallelism.microbatches,
        "stage_idle": 0.0 if schedule is None else schedule.bubble,
        "rows_per_chip": experiment.data.batch_size / topology.size,
        "sequence_length": experiment.data.sequence_length,
        "per_chip": reading.per_chip,
        "fits": reading.per_chip["peak_bytes"] <= reading.per_chip["hbm_bytes"],
        "recompute_ratio": executed / step_flops,
        "all_gather_overlap": collectives.gather_overlap(reading.moved),
        "ideal_step_seconds": ideal,
        "estimated_step_seconds": seconds,
        "estimated_over_ideal": seconds / ideal,
        "mfu_estimate": ideal / seconds if seconds else 0.0,
        "time": _time(reading, topology, ideal, executed),
        "attention_kernel_calls_per_layer": forward / layers if layers else 0.0,
        "oversized_tensors": [dataclasses.asdict(item) for item in reading.oversized],
        "donation_complete": reading.per_chip["alias_bytes"] >= memory.state_bytes(built.state),
        "collective_bytes": _totals(reading.moved),
        "gradient_axes": ["fsdp", *_further(built)],
        "collectives": [collective.to_json() for collective in reading.moved],
        "kernels": [dataclasses.asdict(kernel) for kernel in reading.kernels],
        "run": _run(experiment, topology, described, seconds, rates),
        "compile_seconds": built.seconds,
        "compile": {**reading.size, "core_seconds": built.core_seconds},
    }
    return {**figures, "problems": problems(figures)}


def problems(figures: dict[str, Any]) -> list[str]:
    """The rules of a good step that this one breaks, each named; empty for none."""
    found = [
        f"oversized tensor: {item['shape']} holds a whole {item['rule']} ({item['where']})"
        for item in figures["oversized_tensors"]
    ]
    if not figures["donation_complete"]:
        found.append("donation: part of the state is copied and not written in place")
    if not figures["fits"]:
        found.append("memory: the step needs more than a chip has")
    if figures["all_gather_overlap"] < 0.9:
        found.append(f"overlap: only {figures['all_gather_overlap']:.0%} of the all-gathered bytes are hidden by work")
    axes = set(figures["gradient_axes"])
    summed = sum(item["bytes"] for item in figures["collectives"] if _sums_whole_gradients(item, axes))
    if summed > figures["run"]["parameters"]:  # half of them in the computation's two bytes
        found.append(f"gradients: {summed / 1e9:.3g} GB are summed whole on every chip, which keeps but its part")
    if figures["attention_kernel_calls_per_layer"] > 1:
        calls = figures["attention_kernel_calls_per_layer"]
        found.append(f"recompute: the attention kernel's forward pass runs {calls:g} times a layer")
    return found


def _sums_whole_gradients(collective: dict[str, Any], axes: set[str]) -> bool:
    return collective["kind"] == "all-reduce" and bool(axes & {*collective["axis"].split(",")})


def _further(built: Built) -> list[str]:
    """The axes along which a device keeps a part of a gradient and the whole parameter."""
    return [axis for axis in built.layout.of_state.cut("embed") if axis not in built.layout.cut("embed")]


def _read(built: Built) -> _Reading:
    module = hlo.parse(built.text)
    sizes, chip = built.sizes, built.topology.chip
    visible = kernels.Visible(sizes.causal, sizes.window)
    if chip.platform == "cuda":
        module = roofline.annotated(module, chip, visible)
    mesh = dict(built.layout.mesh.shape)  # type: ignore[union-attr]
    moved = collectives.collectives(
        module, mesh, slices=built.topology.slices, per_host=built.topology.fast if chip.per_host else 0
    )
    called = kernels.kernels(module, visible=visible, grouped_share=_grouped_share(built))
    dcn = ("data",) if built.topology.slices > 1 else ()
    return _Reading(
        moved=moved,
        kernels=called,
        estimate=times.estimate(module, built.topology, moved, called, dcn),
        products=products.flops(module),
        per_chip=_memory(built, module, chip),
        oversized=memory.oversized(
            module,
            vocab=sizes.vocab,
            embed=sizes.embed,
            length=built.experiment.data.sequence_length,
            allowed=_layer_shapes(built),
            stacks=_stacks(built),
        ),
        size=compile_size(module),
    )


def _schedule(built: Built) -> schedules.Schedule | None:
    """The pipeline schedule of the step; None without stages."""
    experiment = built.experiment
    return schedules.of(built.layout, experiment.data.batch_size // experiment.parallelism.microbatches)


def _stacks(built: Built) -> set[tuple[int, ...]]:
    """The leading dimensions of kept activations: layers, or the turns and layers of a stage."""
    schedule, layers = _schedule(built), [count for _, count in built.sizes.stacks]
    if schedule is None:
        return {(count,) for count in layers}
    parts, stages, rounds = schedule.microbatches, schedule.stages, schedule.rounds
    stacks: set[tuple[int, ...]] = {(parts,), (schedule.turns,), (parts * rounds,)}
    if rounds > 1:  # those that go round together, of which the last round's are the result
        stacks |= {(parts // stages, rounds, stages), (parts // stages, stages), (rounds, stages)}
    for count in layers:
        group = count // (stages * rounds)
        stacks |= {(group,), (schedule.turns, group)}
    return stacks


def _grouped_share(built: Built) -> float:
    """The filled share of the rows of grouped products when tokens are spread evenly over the experts."""
    sizes, p = built.sizes, built.experiment.parallelism
    if not sizes.experts or p.expert == 1:
        return 1.0
    room = p.expert * min(sizes.experts_per_token, sizes.experts // p.expert) / sizes.experts_per_token
    return 1 / min(room, ragged.EVEN_ROOM)


def _memory(built: Built, module: hlo.Module, chip: Chip) -> dict[str, int]:
    stats = built.compiled.memory_analysis()
    argument, output = int(stats.argument_size_in_bytes), int(stats.output_size_in_bytes)
    alias, temp = int(stats.alias_size_in_bytes), int(stats.temp_size_in_bytes)
    stacked = memory.stacked_bytes(module)
    parameters = memory.state_bytes(built.state["parameters"])
    optimizer = memory.state_bytes(built.state["optimizer"])
    peak = argument + output - alias + temp
    return {
        "argument_bytes": argument,
        "output_bytes": output,
        "alias_bytes": alias,
        "temp_bytes": temp,
        "peak_bytes": peak,
        "host_bytes": int(stats.host_temp_size_in_bytes),
        "parameters_bytes": parameters,
        "optimizer_bytes": optimizer,
        "other_state_bytes": memory.state_bytes(built.state) - parameters - optimizer,
        "batch_bytes": memory.state_bytes(built.batch),
        "activations_bytes": stacked["activations"],
        "gradients_bytes": stacked["gradients"],
        "temporary_bytes": max(temp - stacked["activations"] - stacked["gradients"], 0),
        "hbm_bytes": chip.usable_hbm_bytes,
        "free_bytes": chip.usable_hbm_bytes - peak,
    }


def _layer_shapes(built: Built) -> Sequence[tuple[int, ...]]:
    """The shapes of the parameters, without the leading axis of a stack, and without sizes of 1."""
    import jax

    shapes = [leaf.shape for leaf in jax.tree.leaves(built.state["parameters"])]
    stacks = [count for _, count in built.sizes.stacks]
    return [tuple(n for n in (s[1:] if len(s) > 2 and s[0] in stacks else s) if n != 1) for s in shapes]


def _time(reading: _Reading, topology: Topology, ideal: float, executed: float) -> dict[str, Any]:
    """The terms of the estimate, and the lower bounds that each resource sets by itself."""
    chip, spent = topology.chip, reading.estimate
    dcn = ("data",) if topology.slices > 1 else ()
    bounds = {
        "products": executed / chip.peak_flops,
        "collectives": sum(times.collective_seconds(collective, chip, dcn) for collective in reading.moved),
        "state_in_memory": 2 * reading.per_chip["alias_bytes"] / chip.hbm_bandwidth,
    }
    rest = spent.scheduled + spent.kernels - bounds["products"]
    candidates = {**bounds, "vector_work_and_waiting": rest}
    return {
        "method": "roofline" if chip.platform == "cuda" else "the compiler's cycles",
        "scheduled_seconds": spent.scheduled,
        "kernel_seconds": spent.kernels,
        "exposed_collective_seconds": spent.exposed_collectives,
        "collective_latency_seconds": spent.latency,
        "scheduled_over_ideal": spent.scheduled / ideal,
        "bounds_seconds": bounds,
        "bound_by": max(candidates, key=lambda name: candidates[name]),
    }


def _totals(moved: Sequence[Collective]) -> dict[str, int]:
    """Bytes by kind of collective, the asynchronous ones apart."""
    totals: dict[str, int] = {}
    for collective in moved:
        name = f"{collective.kind}/{'async' if collective.asynchronous else 'sync'}"
        totals[name] = totals.get(name, 0) + collective.bytes
    return totals


def _run(
    experiment: Experiment, topology: Topology, described: dict[str, Any], seconds: float, rates: prices.Prices
) -> dict[str, Any]:
    """The whole run: time, money, energy, and its tokens beside Chinchilla's."""
    length = experiment.data.sequence_length
    batch = experiment.data.batch_size * places_of(experiment.objective.features(length), length)
    tokens = experiment.steps * batch
    chip_hours = experiment.steps * seconds * topology.chips / 3600
    parameters = int(described["parameters"])
    return {
        "parameters": parameters,
        "steps": experiment.steps,
        "tokens": tokens,
        "flops": described["flops_per_step"] * experiment.steps,
        "tokens_per_second": batch / seconds if seconds else 0.0,
        "tokens_per_day": batch / seconds * DAY if seconds else 0.0,
        "days": experiment.steps * seconds / DAY,
        "chip_hours": chip_hours,
        **rates.of(chip_hours),
        "tokens_per_parameter": tokens / parameters,
        "chinchilla_tokens": CHINCHILLA * parameters,
        "tokens_over_chinchilla": float(np.float64(tokens) / (CHINCHILLA * parameters)),
    }
