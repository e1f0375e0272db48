"""Sources of initial values: where a new run's variables may come from, other than their own initialisers.

A source is a dataclass of options, registered under the kind `source`; `open` finds what it holds without reading any
array. Checkpoints of this program are one; another format gives its variables the paths that they have here.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax

from t5x_like.checkpoint import reading
from t5x_like.checkpoint.layout import find
from t5x_like.checkpoint.manifest import Leaf
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment, NoSource
from t5x_like.sections import flatten

# The parts of a state that hold a model's variables.
_MODEL = ("parameters", "model_state")
_OPTIMIZER = "optimizer."


class OpenSource(NamedTuple):
    """A source that was found and whose variables are known.

    Attributes:
      name: what messages call it, such as a checkpoint's path.
      leaves: shape and dtype of each variable by its path in the model, such as `blocks.mlp.up`.
      options: by dotted path in an experiment, such as `model.head.name`, the options that it was trained with; and
      under
        `data.`, fingerprints of what decides what its tokens mean. Empty where nothing is known.
      read: the values of some variables, from path to shape, dtype and sharding; shape and dtype are those of `leaves`.
      step: updates that the variables have had; 0 where nothing is known.
      optimizer: the leaves of the optimizer's state by path in it, where the source is a run that has one.
      read_optimizer: their values, like `read`.
    """

    name: str
    leaves: Mapping[str, Leaf]
    options: Mapping[str, Any]
    read: Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]
    step: int = 0
    optimizer: Mapping[str, Leaf] = {}
    read_optimizer: Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]] | None = None


class VariableSource(Protocol):
    """Options that say where initial values come from."""

    @property
    def name(self) -> str:
        """The name in the registry."""

    def open(self) -> OpenSource:
        """Finds what there is.

        Raises:
          UserError: when there is nothing, or it cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """A run of this program: its latest checkpoint, or one of its steps.

    Attributes:
      path: a work directory, or `WORKDIR/checkpoints/STEP`; on a disk or an object store.
    """

    name: str = "checkpoint"
    path: str

    def __post_init__(self) -> None:
        if not self.path:
            raise ExperimentError("path", "it is empty; give a work directory or the directory of a checkpoint")

    def open(self) -> OpenSource:
        """Reads the manifest.

        Raises:
          UserError: when there is no checkpoint, or its manifest is damaged or of a newer schema.
        """
        commit = find(self.path)
        manifest = commit.manifest()
        stored = {
            path.removeprefix(f"{part}."): path
            for part in _MODEL
            for path in manifest.leaves
            if path.startswith(f"{part}.")
        }

        def read(wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
            found = reading.restore_leaves(commit, {stored[path]: shape for path, shape in wanted.items()})
            return {path: found[stored[path]] for path in wanted}

        def read_optimizer(wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
            found = reading.restore_leaves(commit, {f"{_OPTIMIZER}{path}": shape for path, shape in wanted.items()})
            return {path: found[f"{_OPTIMIZER}{path}"] for path in wanted}

        return OpenSource(
            name=str(commit.path),
            leaves={path: manifest.leaves[name] for path, name in stored.items()},
            options=_options(manifest.meta),
            read=read,
            step=commit.step,
            optimizer={
                path.removeprefix(_OPTIMIZER): leaf
                for path, leaf in manifest.leaves.items()
                if path.startswith(_OPTIMIZER)
            },
            read_optimizer=read_optimizer,
        )


def of(initialize: Any) -> tuple[VariableSource | None, str]:
    """The source that an experiment's `initialize` names, if any, and the field that names it.

    Args:
      initialize: the section, `experiment.Initialize`.
    """
    if initialize.checkpoint:
        return CheckpointSource(path=initialize.checkpoint), "initialize.checkpoint"
    return (None if isinstance(initialize.source, NoSource) else initialize.source), "initialize.source"


def _options(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The flat options of the run that wrote a commit, defaults spelled out where its experiment can be read here."""
    values = meta.get("experiment", {})
    with contextlib.suppress(UserError):  # it names a module of the user's that was not given now
        values = Experiment.from_dict(values).to_dict()
    return {**flatten(values), **meta.get("data", {})}
