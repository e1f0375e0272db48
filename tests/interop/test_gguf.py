"""GGUF files: the model that a Hugging Face folder of the same weights is, and one sentence for what cannot be read."""

import json
import struct

import numpy as np
import pytest
from interop import folders
from models.families import cases
from models.families.here import Family

from t5x_like.__main__ import main

CASE = "llama"
CONFIG = cases.read(CASE)["config"]
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": CONFIG["num_hidden_layers"],
    "llama.context_length": CONFIG["max_position_embeddings"],
    "llama.embedding_length": CONFIG["hidden_size"],
    "llama.feed_forward_length": CONFIG["intermediate_size"],
    "llama.attention.head_count": CONFIG["num_attention_heads"],
    "llama.attention.head_count_kv": CONFIG["num_key_value_heads"],
    "llama.attention.layer_norm_rms_epsilon": CONFIG["rms_norm_eps"],
    "llama.rope.freq_base": CONFIG["rope_theta"],
    "llama.rope.dimension_count": 8,
    "llama.vocab_size": CONFIG["vocab_size"],
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def value(found):
    if isinstance(found, str):
        return struct.pack("<I", 8) + text(found)
    return struct.pack("<If", 6, found) if isinstance(found, float) else struct.pack("<II", 4, found)


def tensors():
    """The case's weights under llama.cpp's names, pairs of rotary positions side by side."""
    found = {}
    for key, (_, array) in folders.tensors(CASE).items():
        name = key.removesuffix(".weight").replace("model.layers.", "blk.")
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        heads = {"attn_q": CONFIG["num_attention_heads"], "attn_k": CONFIG["num_key_value_heads"]}
        if (count := heads.get(name.split(".")[-1])) is not None:
            # As llama.cpp's converter permutes Hugging Face's weights.
            array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        found[f"{name}.weight"] = array
    return found


def write(path, metadata, arrays, change=None):
    """A GGUF file; `change` may give a tensor other dimensions, kind or offset than it has."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(arrays), len(metadata))
    header += b"".join(text(key) + value(found) for key, found in metadata.items())
    offset, content = 0, b""
    for name, array in arrays.items():
        dimensions, kind, place = (change or {}).get(name, (array.shape[::-1], 0, offset))
        header += text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, place)
        data = np.asarray(array, np.float32).tobytes()
        content += data + b"\0" * (-len(data) % 32)
        offset = len(content)
    path.write_bytes(header + b"\0" * (-len(header) % 32) + content)


def imported(path, output, *flags):
    return main(["import", "--from=gguf", f"--path={path}", f"--output={output}", *flags])


def test_the_model_is_that_of_the_same_weights_in_a_folder(tmp_path):
    write(tmp_path / "a.gguf", METADATA, tensors())
    assert imported(tmp_path / "a.gguf", tmp_path / "run") == 0
    assert main(["export", "--to=hf", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'back'}"]) == 0
    back = folders.read_folder(tmp_path / "back")
    assert back == {k: ("F32", a.shape, a.tobytes()) for k, (_, a) in folders.tensors(CASE).items()}
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert Family({**written}).options.decoder == Family(CONFIG).options.decoder


def test_a_head_that_is_the_table(tmp_path):
    arrays = tensors()
    del arrays["output.weight"]
    write(tmp_path / "a.gguf", METADATA, arrays)
    assert imported(tmp_path / "a.gguf", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "experiment.json").read_text())["model"]["head"]["name"] == "tied"


def _with(**changes):
    changed = {key.replace("__", "."): found for key, found in changes.items()}
    return lambda path: write(path, {**METADATA, **changed}, tensors())


def _entry(*described):
    return lambda path: write(path, METADATA, tensors(), {"output_norm.weight": described})


def _bytes(change):
    def changed(path):
        write(path, METADATA, tensors())
        path.write_bytes(change(path.read_bytes()))

    return changed


HUGE = struct.pack("<Q", 1 << 62)
BAD = {
    "another format": (_bytes(lambda content: b"GGML" + content[4:]), "is no GGUF file"),
    "another version": (_bytes(lambda content: content[:4] + struct.pack("<I", 9) + content[8:]), "of version 9"),
    "huge counts": (_bytes(lambda content: content[:8] + HUGE * 2 + content[24:]), "would have"),
    "a huge string": (_bytes(lambda content: content[:24] + HUGE + content[32:]), "past its end"),
    "cut off in its header": (_bytes(lambda content: content[:1200]), "past its end"),
    "cut off in its tensors": (_bytes(lambda content: content[:-64]), "would end past its end"),
    "an unknown kind of value": (
        _bytes(lambda content: content.replace(text("llama.vocab_size") + b"\4", text("llama.vocab_size") + b"\77")),
        "no kind of value 63",
    ),
    "an unknown model": (_with(general__architecture="lama"), "did you mean 'llama'"),
    "metadata that may matter": (_with(llama__attention__sinks=1), "llama.attention.sinks=1"),
    "a part of a head that is rotated": (_with(llama__rope__dimension_count=4), "heads of 8"),
    "an alignment that is none": (_with(general__alignment=3), "power of two"),
    "a huge shape": (_entry((1 << 40, 1 << 20), 0, 0), "past its end"),
    "many dimensions": (_entry((1,) * 9, 0, 0), "9 dimensions"),
    "an overlap": (_entry((32,), 0, 0), "share byte"),
    "another shape": (_entry((31,), 0, 0), "share byte"),
    "no tensors": (lambda path: write(path, METADATA, {}), "not there"),
}


@pytest.mark.parametrize("make, sentence", BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_one_sentence(tmp_path, capsys, make, sentence):
    make(tmp_path / "a.gguf")
    assert imported(tmp_path / "a.gguf", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error, error
    assert not (tmp_path / "run").exists()
