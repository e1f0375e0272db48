"""Checkpoints of T5X in both layouts, and Flax models of transformers 4: the parameters that they are here."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from flax import serialization
from interop import folders
from models.families import cases
from models.families.here import Family

from t5x_like import variables
from t5x_like.__main__ import main
from t5x_like.checkpoint.layout import find
from t5x_like.checkpoint.reading import restore_leaves

CONFIG = """
import ml_collections
def get_config():
    layer = {"attention": {"heads": 4, "kv_heads": 4, "head_dim": 8}, "feed_forward": {"hidden": 44}}
    stack = {"layers": 2, "layer": layer, "positions": {"buckets": 8, "distance": 20}}
    return ml_collections.ConfigDict({"model": {"family": "t5_1_1", "vocab_size": 67, "embed": 32, "max_length": 512,
        "encoder": stack, "decoder": stack}, "objective": "seq2seq"})
"""


@pytest.fixture(scope="module")
def family():
    return Family(cases.read("t5_1_1")["config"])


def parameters(run):
    """What a commit holds, by path."""
    commit = find(run)
    saved = {path: leaf for path, leaf in commit.manifest().leaves.items() if path.startswith("parameters.")}
    got = restore_leaves(commit, {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in saved.items()})
    return {path.removeprefix("parameters."): np.asarray(leaf) for path, leaf in got.items()}


def flat(tree):
    return {".".join(path): np.asarray(leaf) for path, leaf in variables.flatten(tree).items()}


def minimal(tree):
    """T5X's tree of a module a layer, from parameters here."""
    ours = flat(tree)
    found = {
        "token_embedder.embedding": ours["tokens.table"],
        "decoder.logits_dense.kernel": ours["head.table"].T,
    }
    for side, prefix in (("encoder", "encoder."), ("decoder", "")):
        found[f"{side}.relpos_bias.rel_embedding"] = ours[f"{prefix}bias.table"].T
        found[f"{side}.{side}_norm.scale"] = ours[f"{prefix}norm.scale"]
        for layer in range(2):
            own = {
                p.removeprefix(f"{prefix}blocks.layer."): a[layer]
                for p, a in ours.items()
                if p.startswith(f"{prefix}blocks.")
            }
            found |= {f"{side}.layers_{layer}.{_name(side, path)}": array for path, array in own.items()}
    return found


def _name(side, path):
    part, *rest = path.split(".")
    own = "attention" if side == "encoder" else "self_attention"
    if part.endswith("_norm"):
        norms = {"attention_norm": own, "cross_norm": "cross_attention", "mlp_norm": "mlp"}
        return f"pre_{norms[part]}_layer_norm.scale"
    part = {"attention": own, "cross": "encoder_decoder_attention", "mlp": "mlp"}[part]
    names = {"output": "out", "gate": "wi_0", "up": "wi_1", "down": "wo"}
    return ".".join([part, names.get(rest[0], rest[0]), rest[1]])


def scalable(tree):
    """The same with stacked layers, which are counted along the second axis."""
    found = {}
    for key, array in minimal(tree).items():
        side, layer, *rest = key.split(".")
        if layer.startswith("layers_"):
            found.setdefault(".".join([side, side, *rest]), []).append(array)
        else:
            found[key] = array
    return {key: np.stack(each, 1) if isinstance(each, list) else each for key, each in found.items()}


def write(directory, arrays, version=3, apart=lambda key: "kernel" in key):
    """A checkpoint of T5X; what is `apart` is a zarr directory."""
    tree = {}
    for key, array in arrays.items():
        value = jnp.asarray(array)
        if apart(key):
            spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"target.{key}"}}
            place = {**spec, "kvstore": {"driver": "file", "path": f"{directory}/target.{key}/"}}
            metadata = {"shape": list(array.shape), "chunks": [max(1, n // 2) for n in array.shape], "dtype": "<f4"}
            ts.open({**place, "metadata": {**metadata, "compressor": {"id": "gzip"}}}, create=True).result()[...] = (
                array
            )
            value = {**spec, "dtype": "float32", "metadata": metadata}
        node = tree
        *parts, last = key.split(".")
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    state = {"step": 1000, "param_states": {"m": jnp.zeros(3)}}
    content = {"version": version, "optimizer": {"target": tree, "state": state}}
    directory.mkdir(exist_ok=True)
    (directory / "checkpoint").write_bytes(serialization.msgpack_serialize(content))


def imported(tmp_path, *flags):
    (tmp_path / "config.py").write_text(CONFIG)
    path, run = tmp_path / "checkpoint_1000", tmp_path / "run"
    return main(
        ["import", "--from=t5x", f"--path={path}", f"--output={run}", f"--config={tmp_path / 'config.py'}", *flags]
    )


@pytest.mark.parametrize("layout", [minimal, scalable])
def test_a_checkpoint_of_t5x(tmp_path, family, layout):
    write(tmp_path / "checkpoint_1000", layout(family.tree))
    assert imported(tmp_path) == 0
    got = parameters(tmp_path / "run")
    expected = flat(family.tree)
    assert got.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(got[path], array, err_msg=path)


BAD = {
    "an old version": (lambda path, arrays: write(path, arrays, version=0), "version 2 or later"),
    "a missing array": (
        lambda path, arrays: write(path, {k: a for k, a in arrays.items() if k != "decoder.decoder_norm.scale"}),
        "decoder.decoder_norm.scale [32]: not there",
    ),
    "another shape": (
        lambda path, arrays: write(path, {**arrays, "token_embedder.embedding": np.ones((3, 32))}),
        "is [3, 32] there",
    ),
    "an array that is gone": (
        lambda path, arrays: (write(path, arrays), (path / "target.decoder.logits_dense.kernel/.zarray").unlink()),
        "is missing, where decoder.logits_dense.kernel is",
    ),
    "cut off": (
        lambda path, arrays: (
            write(path, arrays),
            (path / "checkpoint").write_bytes((path / "checkpoint").read_bytes()[:-9]),
        ),
        "past its end",
    ),
    "no msgpack": (
        lambda path, arrays: (path.mkdir(), (path / "checkpoint").write_bytes(b"\xdf\xff\xff\xff\xff")),
        "past its end",
    ),
    "a pickle": (
        lambda path, arrays: (path.mkdir(), (path / "checkpoint").write_bytes(b"\xc7\x05\x63cos\n.")),
        "no extension type",
    ),
    "deep": (
        lambda path, arrays: (path.mkdir(), (path / "checkpoint").write_bytes(b"\x81\xa1a" * 9999)),
        "nested too deep",
    ),
    "a path out of the directory": (
        lambda path, arrays: (
            path.mkdir(),
            (path / "checkpoint").write_bytes(
                serialization.msgpack_serialize(
                    {"version": 3, "optimizer": {"target": {"a": {"driver": "zarr", "kvstore": {"path": "../b"}}}}}
                )
            ),
        ),
        "is not inside it",
    ),
}


@pytest.mark.parametrize("make, sentence", BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_one_sentence(tmp_path, family, capsys, make, sentence):
    make(tmp_path / "checkpoint_1000", minimal(family.tree))
    assert imported(tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error, error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_a_flax_model_is_that_of_the_same_weights_in_safetensors(tmp_path, name):
    written = folders.tensors(name)
    tree = {}
    for key, (_, array) in written.items():
        *parts, last = key.split(".")
        is_table = any(word in key for word in ("wte", "wpe", "shared", "embeddings.", "relative")) and array.ndim == 2
        if last == "weight" and is_table:
            last = "embedding"
        elif last == "weight" and array.ndim == 2:
            last, array = "kernel", array.T
        elif last == "weight" and name != "t5":
            last = "scale"
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = array
    (tmp_path / "there").mkdir()
    (tmp_path / "there/config.json").write_text(json.dumps(cases.read(name)["config"]))
    (tmp_path / "there/flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    assert main(["import", "--from=flax", f"--path={tmp_path / 'there'}", f"--output={tmp_path / 'run'}"]) == 0
    got, expected = parameters(tmp_path / "run"), flat(Family(cases.read(name)["config"]).tree)
    for path, array in expected.items():
        np.testing.assert_array_equal(got[path], array, err_msg=path)


def test_arrays_in_chunks(tmp_path, monkeypatch):
    from t5x_like.interop.msgpack_file import read_tree

    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 40)
    arrays = {"a": np.arange(24, dtype=np.float32).reshape(4, 6), "b": {"c": np.ones(3, np.float16)}}
    (tmp_path / "file").write_bytes(serialization.msgpack_serialize(arrays, in_place=False))
    from etils import epath

    found = read_tree(epath.Path(tmp_path / "file"))
    np.testing.assert_array_equal(found["a"].read(), arrays["a"])
    np.testing.assert_array_equal(found["b"]["c"].read(), arrays["b"]["c"])
