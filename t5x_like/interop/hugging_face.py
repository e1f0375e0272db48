"""Hugging Face folders: `config.json`, safetensors in one file or several with an index, and a tokenizer."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from t5x_like.errors import UserError
from t5x_like.interop import tokenizer_files
from t5x_like.interop.foreign import ForeignModel, Generation
from t5x_like.interop.tensor_file import StoredTensor, stored_tensors
from t5x_like.io.files import size_of
from t5x_like.models import hugging_face

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
GENERATION = "generation_config.json"

# What belongs to a tokenizer or to generation, and is written again with an export.
KEPT = (
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)

_MOST = 64 << 20  # bytes of a JSON or tokenizer file


def open_folder(path: epath.Path, accepted: Iterable[str] = ()) -> ForeignModel:
    """The model in a folder; nothing but headers and small files is read.

    Args:
      path: the folder.
      accepted: entries of `config.json` that may be passed over though nothing is known of them.

    Raises:
      UserError: where something is missing, damaged, or of a kind that is not known here.
    """
    return dataclasses.replace(described(path, accepted), tensors=_tensors(path))


def described(path: epath.Path, accepted: Iterable[str] = ()) -> ForeignModel:
    """The model that a folder describes, without its tensors; see `open_folder`."""
    if not path.is_dir():
        raise UserError(f"--path: there is no folder {path}; give one with a config.json and safetensors")
    config = _json(path / CONFIG)
    model = hugging_face.read_model(config, accepted)
    found = {name: content for name in KEPT if (content := _content(path / name)) is not None}
    vocabulary = tokenizer_files.vocabulary(found, str(path))
    return ForeignModel(
        path=path,
        format="hf",
        model=model,
        names=model.names(),
        tensors={},
        vocabulary=vocabulary,
        generation=_generation(config, found, vocabulary, bool(model.encoder and model.decoder)),
        files=found,
    )


def _tensors(path: epath.Path) -> Mapping[str, StoredTensor]:
    if (path / WEIGHTS).exists():
        return stored_tensors(path / WEIGHTS)
    if not (path / INDEX).exists():
        pickled = [file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        hint = f"{pickled[0]} is pickled, and nothing is unpickled here" if pickled else "there is none"
        raise UserError(f"{path} has no {WEIGHTS} and no {INDEX}: {hint}; save it with safetensors")
    index = _json(path / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise UserError(f"{path / INDEX} has no weight_map from tensors to files; copy it anew")
    found: dict[str, StoredTensor] = {}
    for name in sorted({*index.values()}):
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise UserError(f"{path / INDEX} names the file {name!r}, which is not one of its own folder; copy it anew")
        if not (path / name).exists():
            raise UserError(f"{path / name} is missing, and {INDEX} names it; copy it anew")
        found |= {key: tensor for key, tensor in stored_tensors(path / name).items() if index.get(key) == name}
    lost = [key for key in index if key not in found]
    if lost:
        raise UserError(f"{path / index[lost[0]]} does not hold {lost[0]!r}, which {INDEX} says it does; copy it anew")
    return found


def _generation(
    config: Mapping[str, Any], found: Mapping[str, bytes], vocabulary: bytes | None, starts_decoder: bool
) -> Generation:
    said = {**config, **(json.loads(found[GENERATION]) if GENERATION in found else {})}
    end = said.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    begin = (said.get("decoder_start_token_id"),) if starts_decoder else tokenizer_files.beginning(vocabulary)
    return Generation(begin=tuple(each for each in begin if type(each) is int), end=end if type(end) is int else -1)


def _json(path: epath.Path) -> dict[str, Any]:
    content = _content(path)
    if content is None:
        raise UserError(f"{path} is missing; give a folder with a {CONFIG} and safetensors")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object; copy it anew")
    return value


def _content(path: epath.Path) -> bytes | None:
    """A small file's content; None where there is none."""
    if not path.exists():
        return None
    if (size := size_of(path)) > _MOST:
        raise UserError(f"{path} has {size:,} bytes, and no such file is larger than {_MOST:,}; copy it anew")
    return path.read_bytes()
