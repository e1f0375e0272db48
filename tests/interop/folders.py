"""Tiny Hugging Face folders, written byte by byte, so that nothing here reads what it has written itself."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import tokenizers
from models.families import cases
from models.families.here import Family

CODES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16, "I64": np.int64}


def write_file(path, tensors, header=None):
    """A safetensors file; `header` replaces entries of what is said of tensors."""
    described, content = {}, b""
    for key, (code, array) in tensors.items():
        data = np.asarray(array, CODES[code]).tobytes()
        described[key] = {
            "dtype": code,
            "shape": list(np.shape(array)),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    text = json.dumps({**described, **(header or {})}).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + content)


def tensors(name, code="F32"):
    """Of a family's case: by key the code of a dtype and values that it has room for."""
    family = Family(cases.read(name)["config"])
    return {key: (code, cases.weights(key, tensor.shape).astype(CODES[code])) for key, tensor in family.tensors.items()}


def write_folder(path, name, code="F32", files=2, **config):
    """The folder of a family's case; its tensors, in `files` files, are returned."""
    path.mkdir(parents=True)
    written = tensors(name, code)
    (path / "config.json").write_text(json.dumps({**cases.read(name)["config"], **config}))
    if files == 1:
        write_file(path / "model.safetensors", written)
        return written
    parts = [dict(list(written.items())[part::files]) for part in range(files)]
    names = [f"model-{part + 1:05d}-of-{files:05d}.safetensors" for part in range(files)]
    for part, file in zip(parts, names, strict=True):
        write_file(path / file, part)
    index = {key: file for part, file in zip(parts, names, strict=True) for key in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return written


def read_folder(path):
    """By key the code of a dtype and the bytes of every tensor of a folder."""
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        content = file.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        for key, entry in json.loads(content[8 : 8 + length]).items():
            if key != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                found[key] = entry["dtype"], tuple(entry["shape"]), content[begin:end]
    return found


def write_with_tokenizer(place):
    """A Llama's folder with a tokenizer of a few words, as the pages assume it."""
    write_folder(place, "llama")
    words = ["the", "capital", "of", "france", "is", "paris", "and", "rome", "a"]
    pieces = {word: number for number, word in enumerate(["<unk>", "</s>", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="<unk>"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(place / "tokenizer.json"))
