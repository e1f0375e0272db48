"""NNX modules as plain nested dicts of arrays, and back: the one place where they become either.

Modules are defined in NNX; steps are `jax.jit` functions over dicts of arrays, which cost a third of `nnx.jit`'s Python
time a step, checkpoint without NNX's metadata, and can be differentiated in any part.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from t5x_like.parallel.parameters import ParameterInfo

Tree = dict[str, Any]
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Functional:
    """A module's structure without its arrays.

    Attributes:
      definition: NNX's graph definition.
      variables: the module's variables without values, by path.
    """

    definition: Any
    variables: tuple[tuple[tuple[Any, ...], nnx.Variable], ...]

    def merge(self, *trees: Tree) -> Any:
        """The module again, its variables taken from the trees that together hold them all.

        The module is fresh: writing to it leaves the trees as they are.

        Raises:
          KeyError: when no tree holds a variable.
        """
        values: dict[Path, Any] = {}
        for tree in trees:
            values |= flatten(tree)
        flat = [(path, variable.replace(values[_strings(path)])) for path, variable in self.variables]
        return nnx.merge(self.definition, nnx.from_flat_state(flat), copy=True)

    def unstacked(self) -> "Functional":
        """The structure of one of the equal modules that this is a stack of: no variable has the leading axis."""
        return Functional(self.definition, tuple((path, _one_of(variable)) for path, variable in self.variables))

    def infos(self) -> Tree:
        """Shape, dtype and logical axes of each variable, as a tree of `ParameterInfo`."""
        return unflatten({_strings(path): _info(variable) for path, variable in self.variables})

    def kinds(self) -> dict[Path, type[nnx.Variable]]:
        """The class of each variable, such as `nnx.Param`, by path."""
        return {_strings(path): type(variable) for path, variable in self.variables}


def split(module: nnx.Module) -> tuple[Functional, Tree]:
    """A module as its structure and one nested dict of its arrays, keyed by attribute names."""
    definition, state = nnx.split(module)
    flat = list(nnx.to_flat_state(state))
    tree = unflatten({_strings(path): variable.get_raw_value() for path, variable in flat})
    templates = tuple((tuple(path), _template(variable)) for path, variable in flat)
    return Functional(definition, templates), tree


def values(module: nnx.Module) -> Tree:
    """The module's arrays alone, such as those a loss has updated while it ran."""
    return split(module)[1]


def at(module: nnx.Module, path: Path) -> Any:
    """The module at a path below another; parts of an `nnx.List` are named by their number."""
    found: Any = module
    for key in path:
        found = found[int(key)] if isinstance(found, nnx.List) else getattr(found, key)
    return found


def abstract(build: Callable[[], nnx.Module]) -> tuple[Functional, Tree]:
    """Like `split(build())` with shapes in place of arrays: nothing is computed or allocated."""
    functional: list[Functional] = []

    def run() -> Tree:
        found, tree = split(build())
        functional.append(found)
        return tree

    shapes = jax.eval_shape(run)
    return functional[0], shapes


def flatten(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """Nested dicts as {path: leaf}."""
    flat: dict[Path, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {(key, *path): leaf for path, leaf in flatten(value).items()}
        else:
            flat[(key,)] = value
    return flat


def unflatten(flat: Mapping[Path, Any]) -> Tree:
    """{path: leaf} as nested dicts."""
    tree: Tree = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _strings(path: tuple[Any, ...]) -> Path:
    return tuple(str(key) for key in path)  # members of an nnx.List are keyed by number


def _template(variable: nnx.Variable) -> nnx.Variable:
    value = variable.get_raw_value()
    return variable.replace(jax.ShapeDtypeStruct(value.shape, value.dtype))


def _one_of(variable: nnx.Variable) -> nnx.Variable:
    value, axes = variable.get_raw_value(), variable.get_metadata().get("out_sharding")
    one = variable.replace(jax.ShapeDtypeStruct(value.shape[1:], value.dtype))
    if axes:
        one.set_metadata("out_sharding", axes[1:])
    return one


def _info(variable: nnx.Variable) -> ParameterInfo:
    value = variable.get_raw_value()
    metadata = variable.get_metadata()
    axes = metadata.get("out_sharding") or (None,) * len(value.shape)
    return ParameterInfo(tuple(value.shape), value.dtype, tuple(axes), metadata.get("kind", "matrix"))
