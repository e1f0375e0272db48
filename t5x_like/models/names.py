"""Names of variables in another format: which of its tensors holds which part of which variable here, and laid out how.

A family writes down entries: a path here, a key there, and what lies between them. A path may have `{layer}`, which
stands for each layer of a stack in turn, wherever the stack keeps it, and a key `{layer}` and `{expert}`:

    linear("blocks.{layer}.attention.query", "model.layers.{layer}.self_attn.q_proj")

Entries of variables that a model lacks, such as biases, are passed over; a variable that no entry has is an error.
Expanded over a model they are its tensors there, each of which is read, laid out and written by itself.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from t5x_like.models.tensor_steps import Arrays, Fused, Shape, Step, Transposed
from t5x_like.path_rules import Pattern

# --- Entries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One tensor there, or one for each layer or expert, and what it is here.

    Attributes:
      paths: of the variables here; several where the tensor is several in one.
      key: there.
      steps: from here to there; backwards they lead from there to here.
      aliases: other keys under which a file may hold the same tensor again, as some do for tied tables.
    """

    paths: tuple[str, ...]
    key: str
    steps: tuple[Step, ...] = ()
    aliases: tuple[str, ...] = ()


def same(path: str, key: str, *steps: Step, aliases: Iterable[str] = ()) -> list[Entry]:
    """A variable that is a tensor as it is, but for `steps`."""
    return [Entry((path,), key, steps, tuple(aliases))]


def linear(path: str, key: str, *steps: Step) -> list[Entry]:
    """A linear layer as PyTorch's: `.weight` [outputs, inputs] and `.bias`; `steps` are along axis 0, the outputs."""
    return [
        Entry((f"{path}.kernel",), f"{key}.weight", (Transposed(), *steps)),
        Entry((f"{path}.bias",), f"{key}.bias", steps),
    ]


def norm(path: str, key: str) -> list[Entry]:
    """A norm: `.weight` and `.bias`."""
    return [Entry((f"{path}.scale",), f"{key}.weight"), Entry((f"{path}.bias",), f"{key}.bias")]


def fused(paths: Sequence[str], key: str, *, groups: int = 1, transposed: bool = True) -> list[Entry]:
    """Linear layers in one: `.weight` and `.bias` of all their outputs, see `Fused`.

    Args:
      paths: of the layers.
      key: there.
      groups: see `Fused`.
      transposed: whether `.weight` is [outputs, inputs]; GPT-2's is [inputs, outputs], as here.
    """
    kernels = tuple(f"{path}.kernel" for path in paths)
    steps: tuple[Step, ...] = (Transposed(), Fused(groups)) if transposed else (Fused(groups, axis=-1),)
    return [
        Entry(kernels, f"{key}.weight", steps),
        Entry(tuple(f"{path}.bias" for path in paths), f"{key}.bias", (Fused(groups),)),
    ]


# --- Tensors of one model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A variable here, or the part of it that belongs to one layer, or to one expert of a layer.

    Attributes:
      path: of the variable.
      index: of the part along the variable's first axes; empty for the whole.
      shape: of the part.
    """

    path: str
    index: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Tensor:
    """One tensor there, and the parts of variables here that it holds.

    Attributes:
      key: there.
      parts: here.
      steps: see `Entry`.
      aliases: see `Entry`.
    """

    key: str
    parts: tuple[Part, ...]
    steps: tuple[Step, ...]
    aliases: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape:
        """The shape there."""
        return self._shapes()[-1][0]

    def theirs(self, ours: Iterable[np.ndarray]) -> np.ndarray:
        """The tensor, from its parts in order."""
        arrays = tuple(ours)
        for step in self.steps:
            arrays = step.theirs(arrays)
        return arrays[0]

    def ours(self, theirs: np.ndarray) -> Arrays:
        """The parts, in order, from the tensor."""
        arrays: Arrays = (theirs,)
        for step, shapes in reversed(list(zip(self.steps, self._shapes(), strict=False))):
            arrays = step.ours(arrays, shapes)
        return arrays

    def _shapes(self) -> list[tuple[Shape, ...]]:
        """The shapes before each step and after the last."""
        found = [tuple(part.shape for part in self.parts)]
        for step in self.steps:
            found.append(step.shapes(found[-1]))
        return found


# From the path of a stack's blocks and a layer's number to what the paths of the layer's variables begin with, and its
# place along their first axis, which is empty where a layer has variables of its own; None past the last layer.
Locate = Callable[[str, int], tuple[str, tuple[int, ...]] | None]

_LAYER = "{layer}"
_EXPERT = "{expert}"


@dataclass(frozen=True)
class NameMap:
    """A model's variables as another format names them.

    Attributes:
      entries: of the family.
      locate: where a stack, by what stands before `blocks` in a path, keeps a layer.
      ignored: patterns of keys there that hold nothing learned.
      prefix: of keys there that a file of the model without its head lacks.
    """

    entries: tuple[Entry, ...]
    locate: Locate
    ignored: tuple[str, ...] = ()
    prefix: str = ""

    def tensors(self, shapes: Mapping[str, Shape]) -> tuple[Tensor, ...]:
        """The tensors there of variables here with these shapes, in the order of the entries and layers.

        Args:
          shapes: of each variable by path.

        Raises:
          ValueError: where the entries leave a variable out or have a part twice, which is a fault of the family's.
        """
        found = [tensor for entry in self.entries for tensor in self._expanded(entry, shapes)]
        parts = [(part.path, part.index) for tensor in found for part in tensor.parts]
        if len({*parts}) < len(parts):
            twice = sorted({part for part in parts if parts.count(part) > 1})
            raise ValueError(f"several entries have {twice[0]}")
        held = dict.fromkeys(shapes, 0)
        for tensor in found:
            for part in tensor.parts:
                held[part.path] += prod(part.shape)
        left = [path for path, values in held.items() if values != prod(shapes[path])]
        if left:
            raise ValueError(f"no entry has all of {', '.join(left)}")
        return tuple(found)

    def is_ignored(self, key: str) -> bool:
        """Whether a tensor there holds nothing learned."""
        return any(Pattern(pattern).match(key) is not None for pattern in self.ignored)

    def _expanded(self, entry: Entry, shapes: Mapping[str, Shape]) -> Iterable[Tensor]:
        if _LAYER not in entry.paths[0]:
            yield from self._of_layer(entry, [(path, ()) for path in entry.paths], {}, shapes)
            return
        layer = 0
        while (places := self._places(entry.paths, layer)) is not None:
            yield from self._of_layer(entry, places, {_LAYER: str(layer)}, shapes)
            layer += 1

    def _places(self, paths: Sequence[str], layer: int) -> list[tuple[str, tuple[int, ...]]] | None:
        places: list[tuple[str, tuple[int, ...]]] = []
        for path in paths:
            before, after = path.split(f".{_LAYER}.")
            found = self.locate(before, layer)
            if found is None:
                return None
            places.append((f"{found[0]}.{after}", found[1]))
        return places

    def _of_layer(
        self,
        entry: Entry,
        places: Sequence[tuple[str, tuple[int, ...]]],
        names: Mapping[str, str],
        shapes: Mapping[str, Shape],
    ) -> Iterable[Tensor]:
        known = [path in shapes for path, _ in places]
        if not any(known):
            return
        if not all(known):
            raise ValueError(f"{entry.key} is several variables, of which there are only some: {entry.paths}")
        experts = shapes[places[0][0]][len(places[0][1])] if _EXPERT in entry.key else 0
        for expert in range(experts or 1):
            inner = (expert,) if experts else ()
            parts = [Part(path, (*index, *inner), shapes[path][len(index) + len(inner) :]) for path, index in places]
            given = {**names, _EXPERT: str(expert)}
            keys = [_filled(key, given) for key in (entry.key, *entry.aliases)]
            yield Tensor(keys[0], tuple(parts), entry.steps, tuple(keys[1:]))


def _filled(key: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\{\w+\}", lambda found: names[found[0]], key)
