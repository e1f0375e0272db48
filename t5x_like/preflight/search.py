"""The search for a layout: meshes, remat policies and microbatches, compiled and ranked."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.kernels import splash
from t5x_like.parallel import tuning
from t5x_like.parallel.topologies import Topology
from t5x_like.parallelism import REMAT_POLICIES, Parallelism
from t5x_like.preflight import build, fit
from t5x_like.preflight.report import report
from t5x_like.program import program

# Nothing here knows what the way to the host's memory costs.
_PRICED = tuple(name for name in REMAT_POLICIES if not name.startswith("offload"))


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout of the step.

    Attributes:
      experiment: with its `parallelism`.
      need: bytes on a chip, by estimate.
    """

    experiment: Experiment
    need: int

    @property
    def flags(self) -> str:
        """The flags that a user gives for it."""
        p = self.experiment.parallelism
        fields = ["data", "fsdp", "tensor", "remat", "microbatches"]
        fields += [name for name in ("barriers", "attention_backward") if getattr(p, name) != "auto"]
        return " ".join(f"--config.parallelism.{field}={getattr(p, field)}" for field in fields)


def candidates(experiment: Experiment, topology: Topology) -> list[Candidate]:
    """Meshes × rematerialisation × microbatches × `parallel.tuning` that by estimate fit, the likely fast ones first.

    Fast is: few microbatches, little tensor parallelism, little recomputed, few copies of the parameters.
    """
    shapes = jax.eval_shape(program(experiment).init)
    whole, parameters = build.whole_bytes(shapes), build.whole_bytes(shapes["parameters"])
    found = []
    for changed in _ways(experiment, topology):
        need = fit.estimate(changed, topology.size, whole, parameters).total
        if need <= topology.chip.usable_hbm_bytes:
            found.append(Candidate(changed, need))
    return sorted(found, key=_slowness)


def search(
    experiment: Experiment,
    topology: Topology,
    limit: int,
    tell: Callable[[str], None],
    prices_file: str = "",
    run: Callable[[Callable[[], Any]], Any] = lambda work: work(),
) -> list[dict[str, Any]]:
    """Compiles the most promising candidates.

    Args:
      experiment: whose step.
      topology: for which.
      limit: how many to compile.
      tell: called with a line before each compilation and after what came of it.
      prices_file: as `report` takes it.
      run: calls a function that asks JAX for something, perhaps in another process, and gives its result; one call a
        compilation.

    Returns:
      The reports of those that fit, the fastest first, each with `flags`.

    Raises:
      UserError: when none fits.
    """
    ranked = []
    chosen = run(lambda: candidates(experiment, topology)[:limit])
    for number, candidate in enumerate(chosen, 1):
        tell(f"[{number}/{len(chosen)}] {candidate.flags}")
        try:
            figures = run(functools.partial(_report, candidate.experiment, topology, prices_file))
        except UserError as error:
            tell(f"    {error}")
            continue
        tell(f"    {figures['estimated_step_seconds']:.3f} s a step, MFU {figures['mfu_estimate']:.1%}")
        ranked.append({"flags": candidate.flags, **figures})
    if not ranked:
        raise UserError(f"--search: nothing that was tried fits {topology}; use a larger one, or a smaller model")
    return sorted(ranked, key=lambda figures: figures["estimated_step_seconds"])


def _report(experiment: Experiment, topology: Topology, prices_file: str) -> dict[str, Any]:
    return report(build.build(experiment, topology), prices_file)


def _ways(experiment: Experiment, topology: Topology) -> Iterator[Experiment]:
    p, rows, sizes = experiment.parallelism, experiment.data.batch_size, experiment.model.dimensions()
    per_slice = topology.size // topology.slices // (p.stage * p.sequence * p.expert)
    for tensor in _powers(per_slice):
        if not sizes.divided_by("tensor", tensor):
            continue
        for copies in _powers(per_slice // tensor):
            fsdp, data = per_slice // tensor // copies, copies * topology.slices
            width = fsdp * p.sequence * p.expert * (p.stage if p.stage_rounds > 1 else 1)
            if not sizes.divided_by("fsdp", width):
                continue
            together = math.lcm(p.stage, p.stage_microbatches or p.stage)
            for parts in _powers(rows):
                if rows % (data * fsdp * p.expert * parts * together):
                    break
                for remat, other in itertools.product(_PRICED, _otherwise(p, topology, experiment)):
                    changed = dataclasses.replace(
                        other, data=data, fsdp=fsdp, tensor=tensor, microbatches=parts, remat=remat
                    )
                    yield dataclasses.replace(experiment, parallelism=changed)


def _otherwise(p: Parallelism, topology: Topology, experiment: Experiment) -> list[Parallelism]:
    """The choices of `parallel.tuning` as they are, then each the other way, where the experiment leaves them open."""
    ways = [p]
    if topology.chip.platform == "tpu":
        measured = tuning.choose(p, topology.chip.device_kind)
        if p.barriers == "auto":
            ways.append(dataclasses.replace(p, barriers="off" if measured.barriers else "on"))
        length = experiment.data.sequence_length
        if p.attention_backward == "auto" and length > splash.BACKWARD_KEYS:
            other = "split" if measured.fuses_backward(length) else "fused"
            ways.append(dataclasses.replace(p, attention_backward=other))
    return ways


def _powers(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        if most % power == 0:
            yield power
        power *= 2


def _slowness(candidate: Candidate) -> tuple[float, ...]:
    p = candidate.experiment.parallelism
    changed = (p.barriers, p.attention_backward) != ("auto", "auto")
    return (p.microbatches, p.tensor, REMAT_POLICIES.index(p.remat), p.data, changed)
