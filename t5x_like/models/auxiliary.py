"""The auxiliary channel: losses, metrics and statistics that a module reports beside its output.

A router's balance loss, a probe's metric or the sums of a batch norm do not pass through the layers' outputs, and an
objective does not know which model reports them. The program opens the channel with `collect` around the objective's
loss; any module below calls `add_loss`, `add_metric` or `add_statistics`. A loop over layers opens `nested` in its
body, returns what was reported as one of the body's results, and reports it again outside with `absorb`. Where
nothing is open, as in decoding, a report is dropped and nothing is computed for it.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

Path = tuple[str, ...]


@dataclasses.dataclass
class Reports:
    """Sums that modules have reported; a pytree.

    Attributes:
      losses: float32 sums over the real positions of the batch, by name, with their weights in them. The step divides
        each by the number of real positions of the global batch and adds it to the loss.
      metrics: by name, a sum and the weight it is divided by.
      statistics: by the path of the module that reported it, any tree of sums; after the step that module's
        `update_statistics` gets their total over the batch.
    """

    losses: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    metrics: dict[str, tuple[jax.Array, jax.Array]] = dataclasses.field(default_factory=dict)
    statistics: dict[Path, Any] = dataclasses.field(default_factory=dict)


jax.tree_util.register_dataclass(Reports, ["losses", "metrics", "statistics"], [])


@dataclasses.dataclass
class _Channel:
    reports: Reports = dataclasses.field(default_factory=Reports)
    # The modules that reported statistics, and the path below each of them; their own paths are not known yet.
    owners: list[tuple[nnx.Module, Path, Any]] = dataclasses.field(default_factory=list)

    def close(self, root: nnx.Module | None) -> None:
        """Writes statistics under the paths that their owners have below `root`."""
        if not self.owners:
            return
        if root is None:
            raise ValueError("statistics were reported where no module was given to look up their owners in")
        paths = {id(node): tuple(map(str, path)) for path, node in nnx.iter_graph(root)}
        for owner, below, sums in self.owners:
            if id(owner) not in paths:
                raise ValueError(f"{type(owner).__name__} reported statistics and is no part of the model")
            path = (*paths[id(owner)], *below)
            known = self.reports.statistics.get(path)
            self.reports.statistics[path] = sums if known is None else jax.tree.map(jax.numpy.add, known, sums)


_CURRENT: contextvars.ContextVar[_Channel | None] = contextvars.ContextVar("auxiliary", default=None)


@contextlib.contextmanager
def collect(root: nnx.Module | None = None) -> Iterator[Reports]:
    """Opens the channel.

    Args:
      root: the module whose paths statistics are reported under.

    Yields:
      What is reported, complete when the block ends.
    """
    channel = _Channel()
    token = _CURRENT.set(channel)
    try:
        yield channel.reports
        channel.close(root)
    finally:
        _CURRENT.reset(token)


@contextlib.contextmanager
def nested(root: nnx.Module) -> Iterator[Reports]:
    """Collects apart from what is around, for the body of a loop; nothing where no channel is open.

    Args:
      root: the module that the body calls.
    """
    if _CURRENT.get() is None:
        yield Reports()
        return
    with collect(root) as reports:
        yield reports


def absorb(reports: Reports, owner: nnx.Module) -> None:
    """Reports what a loop's bodies have reported: losses and metrics added up, statistics stacked.

    Args:
      reports: with a leading axis of layers on statistics alone.
      owner: the module whose layers reported, with stacked variables.
    """
    for name, value in reports.losses.items():
        add_loss(name, value)
    for name, (total, weight) in reports.metrics.items():
        add_metric(name, total, weight)
    for path, sums in reports.statistics.items():
        add_statistics(owner, sums, below=path)


def summed_over_layers(reports: Reports) -> Reports:
    """Reports with a leading axis of layers, summed over it but for statistics, which belong to one layer each."""
    return Reports(
        jax.tree.map(lambda x: x.sum(0), reports.losses),
        jax.tree.map(lambda x: x.sum(0), reports.metrics),
        reports.statistics,
    )


def is_open() -> bool:
    """Whether anything that is reported now is collected."""
    return _CURRENT.get() is not None


def add_loss(name: str, value: jax.Array) -> None:
    """Adds a float32 scalar, a sum over real positions with its weight in it, to the loss of this name."""
    if (channel := _CURRENT.get()) is not None:
        known = channel.reports.losses.get(name)
        channel.reports.losses[name] = value if known is None else known + value


def add_metric(name: str, total: jax.Array, weight: jax.Array) -> None:
    """Adds a sum and its weight, float32 scalars without gradients, to the metric of this name."""
    if (channel := _CURRENT.get()) is not None:
        total, weight = jax.lax.stop_gradient((total, weight))
        known = channel.reports.metrics.get(name)
        channel.reports.metrics[name] = (total, weight) if known is None else (known[0] + total, known[1] + weight)


def add_statistics(module: nnx.Module, sums: Any, below: Path = ()) -> None:
    """Reports sums over this part of the batch for `module.update_statistics`.

    The module has `update_statistics(sums)`, which writes its variables of role `Statistics` after the step. It is
    called on the module as the model holds it: in a stack of layers, variables and sums have a leading axis of layers.

    Args:
      module: that reports.
      sums: any tree of arrays; they get no gradient.
      below: the path of the module that they are for, below `module`.
    """
    if (channel := _CURRENT.get()) is not None:
        channel.owners.append((module, below, jax.lax.stop_gradient(sums)))
