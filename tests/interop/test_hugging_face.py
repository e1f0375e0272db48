"""Import and export of Hugging Face folders: the same bits there and back, and one sentence for what cannot be read."""

import json
import struct

import numpy as np
import pytest
from interop import folders
from models.families import cases
from models.families.here import Family

from t5x_like.__main__ import main
from t5x_like.checkpoint.layout import find
from t5x_like.checkpoint.reading import restore_leaves


def imported(path, output, *flags):
    return main(["import", "--from=hf", f"--path={path}", f"--output={output}", *flags])


def exported(checkpoint, output, *flags):
    return main(["export", "--to=hf", f"--checkpoint={checkpoint}", f"--output={output}", *flags])


@pytest.mark.parametrize("name, code", [("llama", "BF16"), ("gpt2", "F16"), ("t5", "F32"), ("bert", "BF16")])
def test_there_and_back_is_the_same_to_the_bit(tmp_path, name, code):
    written = folders.write_folder(tmp_path / "there", name, code)
    assert imported(tmp_path / "there", tmp_path / "run") == 0
    assert exported(tmp_path / "run", tmp_path / "back") == 0
    back = folders.read_folder(tmp_path / "back")
    assert back == {key: (code, array.shape, array.tobytes()) for key, (_, array) in written.items()}
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    given = cases.read(name)["config"]
    assert {key: config[key] for key in given if key in config} == given


@pytest.mark.parametrize("name", cases.names())
def test_the_layout_of_every_tensor_there_and_back(name):
    for tensor in Family(cases.read(name)["config"]).tensors.values():
        values = cases.weights(tensor.key, tensor.shape)
        np.testing.assert_array_equal(tensor.theirs(tensor.ours(values)), values)


def test_an_import_is_what_its_checkpoint_restores(tmp_path):
    folders.write_folder(tmp_path / "there", "llama", files=1)
    assert imported(tmp_path / "there", tmp_path / "run") == 0
    commit = find(tmp_path / "run")
    saved = {path: leaf for path, leaf in commit.manifest().leaves.items() if path.startswith("parameters.")}
    import jax

    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in saved.items()}
    got = restore_leaves(commit, shapes)
    from t5x_like import variables

    flat = {
        ".".join(path): leaf for path, leaf in variables.flatten(Family(cases.read("llama")["config"]).tree).items()
    }
    for path, leaf in flat.items():
        np.testing.assert_array_equal(got[f"parameters.{path}"], leaf)


def test_a_dtype_and_a_size_of_files_can_be_asked_for(tmp_path):
    written = folders.write_folder(tmp_path / "there", "gpt2", files=1)
    assert imported(tmp_path / "there", tmp_path / "run") == 0
    assert exported(tmp_path / "run", tmp_path / "back", "--dtype=bfloat16") == 0
    back = folders.read_folder(tmp_path / "back")
    bf16 = folders.CODES["BF16"]
    assert back == {k: ("BF16", a.shape, a.astype(bf16).tobytes()) for k, (_, a) in written.items()}
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_table_that_is_there_twice_is_one(tmp_path, capsys):
    written = folders.write_folder(tmp_path / "there", "gpt2", files=1)
    table = written["transformer.wte.weight"]
    folders.write_file(tmp_path / "there/model.safetensors", {**written, "lm_head.weight": table})
    assert imported(tmp_path / "there", tmp_path / "run") == 0
    folders.write_file(tmp_path / "there/model.safetensors", {**written, "lm_head.weight": (table[0], table[1] + 1)})
    assert imported(tmp_path / "there", tmp_path / "again") == 2
    assert "are one table" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


# --- What cannot be read ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "there"
    return path, folders.write_folder(path, "llama", files=1)


def _config(**changes):
    def change(path, tensors):
        config = {**cases.read("llama")["config"], **changes}
        (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))

    return change


def _file(change):
    def changed(path, tensors):
        folders.write_file(path / "model.safetensors", *change(dict(tensors)))

    return changed


def _bytes(change):
    def changed(path, tensors):
        file = path / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return changed


def _index(weight_map):
    def changed(path, tensors):
        (path / "model.safetensors").rename(path / "a.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return changed


def _entry(**values):
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **values}
    return _file(lambda tensors: (tensors, {"model.norm.weight": entry}))


TABLE = "model.embed_tokens.weight"
BAD = {
    "an unknown model": (_config(model_type="lama"), "did you mean 'llama'"),
    "an unknown class": (_config(architectures=["LlamaForCausalLm"]), "did you mean 'LlamaForCausalLM'"),
    "no size": (_config(hidden_size="gone"), "has no hidden_size"),
    "an entry that may matter": (_config(attn_temperature=2.0), "attn_temperature=2.0"),
    "a value that means nothing": (_config(hidden_act="mish"), "hidden_act='mish'"),
    "a scaling": (_config(rope_scaling={"rope_type": "spiral", "factor": 2.0}), "rope_type='spiral'"),
    "a size that is none": (_config(hidden_size=-3), "head_dim: -1 is too small"),
    "a size that is text": (_config(hidden_size="wide"), "holds what no 'llama' model has"),
    "no object": (lambda path, tensors: (path / "config.json").write_text("[" * 100_000), "is no JSON object"),
    "a missing tensor": (_file(lambda t: (t, t.pop("model.norm.weight"))[:1]), "- model.norm.weight [32]: not there"),
    "an extra tensor": (_file(lambda t: ({**t, "more": ("F32", [1.0])},)), "+ more [1]"),
    "another shape": (_file(lambda t: ({**t, "model.norm.weight": ("F32", np.ones(31))},)), "is [31] there and [32]"),
    "integers": (_file(lambda t: ({**t, "model.norm.weight": ("I64", np.ones(32))},)), "is int64"),
    "cut off": (_bytes(lambda content: content[:-1]), "would end at byte"),
    "nothing": (_bytes(lambda content: b""), "is no sound safetensors file"),
    "a huge header": (_bytes(lambda content: struct.pack("<Q", 1 << 60) + content[8:]), "bytes long, and the file is"),
    "a header that is none": (_bytes(lambda content: content[:8] + b"?" + content[9:]), "is no JSON"),
    "a deep header": (_bytes(lambda content: struct.pack("<Q", 200_000) + b"[" * 200_000), "no JSON"),
    "an unknown dtype": (_entry(dtype="Q4"), "'Q4'"),
    "a huge shape": (_entry(shape=[1 << 40, 1 << 40]), "would be 16 bytes"),
    "a negative size": (_entry(shape=[-4]), "does not say shape"),
    "an end before its beginning": (_entry(data_offsets=[16, 0]), "would be -16 bytes"),
    "an overlap": (_entry(), "overlap"),
    "a path out of the folder": (_index({TABLE: "../there/a.safetensors"}), "not one of its own folder"),
    "a missing file": (_index({TABLE: "b.safetensors"}), "b.safetensors is missing"),
    "an index that is wrong": (_index({"other": "a.safetensors"}), "does not hold 'other'"),
    "pickled weights": (
        lambda path, tensors: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
        "nothing is unpickled",
    ),
}


@pytest.mark.parametrize("change, sentence", BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_one_sentence(sound, tmp_path, capsys, change, sentence):
    source, tensors = sound
    path = tmp_path / "there"
    path.mkdir()
    for file in source.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    change(path, tensors)
    assert imported(path, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error, error
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_size(sound, tmp_path, capsys):
    path, _ = sound
    import tokenizers

    pieces = {f"piece{number}": number for number in range(100)} | {"</s>": 100}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="piece0"))
    (path / "tokenizer.json").write_text(tokenizer.to_str())
    try:
        assert imported(path, tmp_path / "run") == 2
    finally:
        (path / "tokenizer.json").unlink()
    assert "has 101 ids, and the model 67" in capsys.readouterr().err


def test_what_is_left_is_listed(sound, tmp_path, capsys):
    path, tensors = sound
    folders.write_file(path / "model.safetensors", {**tensors, "extra.a": ("F32", [1.0])})
    try:
        assert imported(path, tmp_path / "run", "--unused=extra.*") == 0
        assert "left: extra.a" in capsys.readouterr().out
        assert imported(path, tmp_path / "other", "--unused=extras.*") == 2
    finally:
        folders.write_file(path / "model.safetensors", tensors)
    assert "matches no tensor" in capsys.readouterr().err


def test_nothing_is_overwritten(sound, tmp_path, capsys):
    path, _ = sound
    assert imported(path, path) == 2
    assert "is there already" in capsys.readouterr().err
