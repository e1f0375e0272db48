"""Two-way changes of layout between variables here and tensors of another format; none rounds but `Added`."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]
Arrays = tuple[np.ndarray, ...]


class Step(Protocol):
    """A two-way change of layout between variables here and a tensor there."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        """The shapes there of arrays with these shapes here."""

    def theirs(self, ours: Arrays) -> Arrays:
        """Arrays as they are there."""

    def ours(self, theirs: Arrays, shapes: Sequence[Shape]) -> Arrays:
        """Arrays as they are here, where they have these shapes."""


class _OfEach:
    """A step that changes each array by itself."""

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        """See `Step`."""
        return tuple(map(self._shape, ours))

    def theirs(self, ours: Arrays) -> Arrays:
        """See `Step`."""
        return tuple(map(self._theirs, ours))

    def ours(self, theirs: Arrays, shapes: Sequence[Shape]) -> Arrays:
        """See `Step`."""
        return tuple(map(self._ours, theirs, shapes))

    def _shape(self, ours: Shape) -> Shape:
        return ours

    def _theirs(self, ours: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class Transposed(_OfEach):
    """The last two axes swapped: [inputs, outputs] here, [outputs, inputs] there, as PyTorch's linear layers are."""

    def _shape(self, ours: Shape) -> Shape:
        return (*ours[:-2], ours[-1], ours[-2])

    def _theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.swapaxes(-1, -2)

    def _ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return theirs.swapaxes(-1, -2)


@dataclass(frozen=True)
class Reshaped(_OfEach):
    """The same numbers in the same order, in another shape.

    Attributes:
      shape: there.
    """

    shape: Shape

    def _shape(self, ours: Shape) -> Shape:
        if prod(ours) != prod(self.shape):
            raise ValueError(f"{ours} cannot be reshaped to {self.shape}")
        return self.shape

    def _theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(self.shape)

    def _ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return theirs.reshape(shape)


@dataclass(frozen=True)
class InterleavedPairs(_OfEach):
    """Rotary pairs side by side there, (0, 1), (2, 3), …, where here a pair is j and j + half of the rotated width.

    Attributes:
      heads: along the axis.
      rotated: width of a head that is rotated, from its beginning; 0 for all of it.
      start: where in a head the rotated part begins.
      axis: of the heads' outputs.
    """

    heads: int
    rotated: int = 0
    start: int = 0
    axis: int = 0

    def _theirs(self, ours: np.ndarray) -> np.ndarray:
        return np.take(ours, self._order(ours.shape[self.axis]), self.axis)

    def _ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return np.take(theirs, np.argsort(self._order(theirs.shape[self.axis])), self.axis)

    def _order(self, size: int) -> np.ndarray:
        """The place here of each place there."""
        width = size // self.heads
        rotated = self.rotated or width - self.start
        pairs = self.start + np.arange(rotated).reshape(2, -1).T.ravel()
        of_head = np.concatenate([np.arange(self.start), pairs, np.arange(self.start + rotated, width)])
        return (np.arange(self.heads)[:, None] * width + of_head).ravel()


@dataclass(frozen=True)
class Added(_OfEach):
    """A constant added there, as GGUF has Gemma's norms; exact only as far as the sum is.

    Attributes:
      constant: what is added.
    """

    constant: float

    def _theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours + ours.dtype.type(self.constant)

    def _ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return theirs - theirs.dtype.type(self.constant)


@dataclass(frozen=True)
class Fused:
    """Several variables here in one tensor there, side by side along an axis.

    With several groups, the axis has one group after the other, each with a share of every variable: with as many
    groups as key-value heads the queries of a group, its key and its value; with as many as hidden units gate and up
    in turn.

    Attributes:
      groups: how many.
      axis: of the shares.
    """

    groups: int = 1
    axis: int = 0

    def shapes(self, ours: Sequence[Shape]) -> tuple[Shape, ...]:
        """See `Step`."""
        whole = list(ours[0])
        whole[self.axis] = sum(shape[self.axis] for shape in ours)
        return (tuple(whole),)

    def theirs(self, ours: Arrays) -> Arrays:
        """See `Step`."""
        parts = [self._grouped(each) for each in ours]
        joined = np.concatenate(parts, self._at(ours[0]) + 1)
        return (joined.reshape(self.shapes([each.shape for each in ours])[0]),)

    def ours(self, theirs: Arrays, shapes: Sequence[Shape]) -> Arrays:
        """See `Step`."""
        at = self._at(theirs[0]) + 1
        ends = np.cumsum([shape[self.axis] // self.groups for shape in shapes])
        parts = np.split(self._grouped(theirs[0]), ends[:-1], at)
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))

    def _at(self, array: np.ndarray) -> int:
        return self.axis % array.ndim

    def _grouped(self, array: np.ndarray) -> np.ndarray:
        at = self._at(array)
        return array.reshape(*array.shape[:at], self.groups, -1, *array.shape[at + 1 :])


@dataclass(frozen=True)
class MovedAxis(_OfEach):
    """An axis in another place.

    Attributes:
      here: its place here.
      there: its place there.
    """

    here: int
    there: int

    def _shape(self, ours: Shape) -> Shape:
        moved = list(ours)
        moved.insert(self.there, moved.pop(self.here))
        return tuple(moved)

    def _theirs(self, ours: np.ndarray) -> np.ndarray:
        return np.moveaxis(ours, self.here, self.there)

    def _ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return np.moveaxis(theirs, self.there, self.here)
