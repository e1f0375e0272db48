"""T5X's native checkpoints, of version 2 and later: a msgpack file, and a zarr directory for each large array.

Both layouts of its T5 are read: a module a layer, as in `examples/t5`, and stacked layers, as in
`examples/scalable_t5`. A checkpoint does not say of which model it is: that is taken from an experiment.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

from t5x_like.errors import UserError
from t5x_like.interop.foreign import ForeignModel, ForeignTensor
from t5x_like.interop.msgpack_file import read_tree
from t5x_like.models.names import Entry, NameMap, same
from t5x_like.models.tensor_steps import MovedAxis, Transposed

FILE = "checkpoint"
_OLDEST = 2


@dataclasses.dataclass(frozen=True)
class ZarrTensor:
    """An array in a zarr directory, written by one host or by several.

    Attributes:
      directory: the array's.
      shape: its shape.
      dtype: its dtype.
    """

    directory: epath.Path
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def stored_bytes(self) -> int:
        """Without the compression that it may have."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Its values.

        Raises:
          UserError: where they cannot be read.
        """
        try:
            return np.asarray(_open(self.directory).read().result())
        except Exception as error:  # TensorStore raises nothing more special
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{self.directory} cannot be read ({reason}); copy it anew") from error


def open_checkpoint(path: epath.Path, model: Any) -> ForeignModel:
    """The model in `checkpoint_STEP`, or in a file `checkpoint` of its own.

    Args:
      path: the checkpoint's directory.
      model: its architecture, which the checkpoint does not say.

    Raises:
      UserError: where it is no such checkpoint, or is damaged.
    """
    file = path / FILE if path.is_dir() else path
    if not file.exists():
        raise UserError(f"--path: {path} has no file {FILE!r}; give the directory checkpoint_STEP of a T5X run")
    content = read_tree(file)
    version = content.get("version") if isinstance(content, dict) else None
    if type(version) is not int or version < _OLDEST:
        raise UserError(f"{file} is no T5X checkpoint of version {_OLDEST} or later; save it with a later T5X")
    target = (content.get("optimizer") or {}).get("target")
    if not isinstance(target, dict):
        raise UserError(f"{file} has no optimizer.target, where T5X keeps parameters; copy it anew")
    tensors = dict(_tensors(file.parent, target, ""))
    stacked = any(key.startswith(("encoder.encoder.", "decoder.decoder.")) for key in tensors)
    return ForeignModel(
        path=path,
        format="t5x",
        model=model,
        names=NameMap(tuple(_entries(model, stacked)), model.locate_layer),
        tensors=tensors,
    )


def _tensors(directory: epath.Path, tree: Mapping[str, Any], prefix: str) -> Any:
    """(key, tensor) of all arrays below a node: those in the file itself, and those that it refers to."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if hasattr(value, "read"):
            yield key, value
        elif isinstance(value, dict) and {"driver", "kvstore"} <= value.keys():
            yield key, _referred(directory, key, value)
        elif isinstance(value, dict):
            yield from _tensors(directory, value, f"{key}.")


def _referred(directory: epath.Path, key: str, spec: Mapping[str, Any]) -> ForeignTensor:
    kvstore = spec["kvstore"] if isinstance(spec["kvstore"], dict) else {}
    name = kvstore.get("path", spec.get("path"))
    if spec["driver"] != "zarr" or not isinstance(name, str):
        raise UserError(f"{directory} keeps {key} as {str(spec['driver'])[:40]!r}; arrays in zarr are read")
    parts = name.strip("/").split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{directory} refers to {name!r} for {key}, which is not inside it; copy it anew")
    place = directory / name.strip("/")
    if not (place / ".zarray").exists():
        raise UserError(f"{place} is missing, where {key} is; copy the whole directory")
    try:
        store = _open(place)
        dtype = np.dtype(store.dtype.numpy_dtype)
    except Exception as error:  # TensorStore raises nothing more special
        raise UserError(f"{place} is no zarr array ({str(error).splitlines()[0][:200]}); copy it anew") from error
    return ZarrTensor(place, tuple(store.shape), dtype)


def _open(directory: epath.Path) -> Any:
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{directory}/"}}
    return ts.open(spec, open=True, read=True).result()


# --- Names ------------------------------------------------------------------------------------------------------------


def _entries(model: Any, stacked: bool) -> list[Entry]:
    """Names of T5X's T5, minimal and scalable."""
    if not (model.encoder and model.decoder):
        return [*_stack(model, "", "decoder", stacked, cross=False), *_ends()]
    return [
        *_stack(model, "encoder.", "encoder", stacked, cross=False),
        *_stack(model, "", "decoder", stacked, cross=True),
        *_ends(),
    ]


def _ends() -> list[Entry]:
    return [
        *same("tokens.table", "token_embedder.embedding"),
        *same("head.table", "decoder.logits_dense.kernel", Transposed()),
    ]


def _stack(model: Any, ours: str, theirs: str, stacked: bool, *, cross: bool) -> list[Entry]:
    own = "attention" if theirs == "encoder" else "self_attention"
    before = "pre_attention_layer_norm" if theirs == "encoder" else "pre_self_attention_layer_norm"
    attentions = {"attention": (own, before)}
    if cross:
        attentions["cross"] = ("encoder_decoder_attention", "pre_cross_attention_layer_norm")
    gated = model.main.layer.feed_forward.gated
    layer = f"{ours}blocks.layer" if stacked else f"{ours}blocks.{{layer}}"
    there = f"{theirs}.{theirs}" if stacked else f"{theirs}.layers_{{layer}}"
    names = {}
    for part, (attention, norm) in attentions.items():
        names[f"{part}_norm.scale"] = f"{norm}.scale"
        for projection in ("query", "key", "value"):
            names[f"{part}.{projection}.kernel"] = f"{attention}.{projection}.kernel"
        names[f"{part}.output.kernel"] = f"{attention}.out.kernel"
    names["mlp_norm.scale"] = "pre_mlp_layer_norm.scale"
    names |= {"mlp.gate.kernel": "mlp.wi_0.kernel", "mlp.down.kernel": "mlp.wo.kernel"}
    names["mlp.up.kernel"] = "mlp.wi_1.kernel" if gated else "mlp.wi.kernel"
    # Stacked layers are counted along the second axis there.
    steps = (MovedAxis(0, 1),) if stacked else ()
    return [
        *(entry for path, key in names.items() for entry in same(f"{layer}.{path}", f"{there}.{key}", *steps)),
        *same(f"{ours}bias.table", f"{theirs}.relpos_bias.rel_embedding", Transposed()),
        *same(f"{ours}norm.scale", f"{theirs}.{theirs}_norm.scale"),
    ]
