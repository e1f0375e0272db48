"""Flax models of `transformers` 4: a folder with `config.json` and `flax_model.msgpack`."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epath

from t5x_like.errors import UserError
from t5x_like.interop import hugging_face
from t5x_like.interop.foreign import ForeignModel, ForeignTensor
from t5x_like.interop.msgpack_file import flat, read_tree

WEIGHTS = "flax_model.msgpack"

# Last parts of names, and what they are called beside PyTorch's tensors.
_RENAMED = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


@dataclasses.dataclass(frozen=True)
class TransposedTensor:
    """A kernel, [inputs, outputs] in the file, as the [outputs, inputs] that the names are for."""

    stored: ForeignTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """With the last two axes swapped."""
        *rest, inputs, outputs = self.stored.shape
        return (*rest, outputs, inputs)

    @property
    def dtype(self) -> np.dtype:
        """As in the file."""
        return self.stored.dtype

    @property
    def stored_bytes(self) -> int:
        """As in the file."""
        return self.stored.stored_bytes

    def read(self) -> np.ndarray:
        """A view of the file's values."""
        return self.stored.read().swapaxes(-1, -2)


def open_folder(path: epath.Path, accepted: Iterable[str] = ()) -> ForeignModel:
    """The model in a folder; of arrays only the place is read.

    Args:
      path: the folder.
      accepted: entries of `config.json` that may be passed over though nothing is known of them.

    Raises:
      UserError: where something is missing, damaged, or of a kind that is not known here.
    """
    if not (path / WEIGHTS).exists():
        raise UserError(f"{path} has no {WEIGHTS}; give a folder that transformers' Flax classes have saved")
    tree = read_tree(path / WEIGHTS)
    if not isinstance(tree, dict):
        raise UserError(f"{path / WEIGHTS} holds no parameters by name; copy it anew")
    found = hugging_face.described(path, accepted)
    return dataclasses.replace(found, format="flax", tensors=_tensors(path, tree))


def _tensors(path: epath.Path, tree: Mapping[str, object]) -> dict[str, ForeignTensor]:
    found: dict[str, ForeignTensor] = {}
    for name, stored in flat(tree).items():
        *rest, last = name.split(".")
        if not hasattr(stored, "read"):
            raise UserError(f"{path / WEIGHTS}: {name} is no array")
        key = ".".join([*rest, _RENAMED.get(last, last)])
        # GPT-2's are [inputs, outputs] in PyTorch, and the other way round in Flax.
        found[key] = TransposedTensor(stored) if last == "kernel" and len(stored.shape) > 1 else stored
    return found
