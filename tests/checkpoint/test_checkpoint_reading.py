import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.checkpoint import layout, reading
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint


@pytest.fixture
def workdir(tmp_path, states):
    """A workdir with commits of steps 1 and 2."""
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint()) as store:
        for step in (1, 2):
            store.save(step, states.make(step), {}, states.position)
    return tmp_path


def cast(tree, dtype):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)


# --- What does not fit ----------------------------------------------------------------------------------------------


def test_another_shape_is_refused(workdir, states):
    wider = states.abstract(states.make(width=7))
    with pytest.raises(
        UserError, match=r"tokens\.embedding is float32\[16, 6\] in the checkpoint and float32\[16, 7\]"
    ):
        reading.restore(layout.find(workdir), wider)


def test_float32_is_never_read_as_bfloat16(workdir, states):
    abstract = states.abstract(states.make())
    abstract["parameters"]["tokens"] = cast(abstract["parameters"]["tokens"], jnp.bfloat16)
    with pytest.raises(UserError, match=r"is float32\[16, 6\] in the checkpoint and bfloat16\[16, 6\] here"):
        reading.restore(layout.find(workdir), abstract)
    with pytest.raises(UserError, match=r"and bfloat16\[16, 6\] here"):
        reading.restore_parameters(layout.find(workdir), abstract["parameters"])


def test_another_optimizer_is_refused(workdir, states):
    abstract = states.abstract(states.make())
    abstract["optimizer"] = {"momentum": abstract["parameters"]}
    with pytest.raises(UserError, match=r"another model or optimizer.*\n  - optimizer\.momentum\.blocks.*not in the"):
        reading.restore(layout.find(workdir), abstract)


def test_missing_parameters_are_refused(workdir, states):
    abstract = states.abstract(states.make())
    del abstract["parameters"]["blocks"]
    with pytest.raises(UserError, match=r"\+ parameters\.blocks\.mlp\.up bfloat16\[2, 6, 8\]: only in the checkpoint"):
        reading.restore_parameters(layout.find(workdir), abstract["parameters"])


# --- Some leaves ----------------------------------------------------------------------------------------------------


def test_some_leaves_are_read_by_their_paths(workdir, states):
    path = "parameters.blocks.mlp.up"
    saved = states.make(2)["parameters"]["blocks"]["mlp"]["up"]
    found = reading.restore_leaves(layout.find(workdir), {path: jax.ShapeDtypeStruct(saved.shape, saved.dtype)})
    assert [*found] == [path]
    states.assert_equal(found[path], saved)
    with pytest.raises(UserError, match=r"- parameters\.none float32\[3\]: not in the checkpoint"):
        reading.restore_leaves(layout.find(workdir), {"parameters.none": jax.ShapeDtypeStruct((3,), jnp.float32)})


def test_a_step_can_be_copied_to_another_workdir(workdir, states, tmp_path):
    shutil.copytree(workdir / "checkpoints" / "1", tmp_path / "other" / "checkpoints" / "1")
    shutil.rmtree(workdir / "checkpoints")
    restored = reading.restore(layout.find(tmp_path / "other"), states.abstract(states.make()))
    states.assert_equal(restored.state, states.make(1))


# --- What is damaged ------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path, states):
    """As `workdir`, with arrays that are too large to be stored inside an index."""
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint()) as store:
        for step in (1, 2):
            store.save(step, states.make(step, width=64), {}, states.position)
    return tmp_path


def data_files(workdir, step):
    return [path for path in sorted((workdir / "checkpoints" / str(step)).rglob("*")) if path.parent.name == "d"]


def test_a_flipped_bit_names_the_leaf_and_the_checkpoint_before(large, states):
    target = np.asarray(states.make(2, width=64)["parameters"]["tokens"]["embedding"]).tobytes()
    (file,) = [path for path in data_files(large, 2) if target in path.read_bytes()]
    content = bytearray(file.read_bytes())
    content[content.find(target) + 17] ^= 1 << 3
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        reading.restore(layout.find(large), states.abstract(states.make(width=64)))
    assert "the checkpoint of step 2 is damaged: parameters.tokens.embedding in" in str(caught.value)
    assert str(caught.value).endswith(f"the checkpoint before it, {large}/checkpoints/1")


def test_no_flipped_bit_goes_unnoticed(large, states):
    abstract, expected = states.abstract(states.make(width=64)), states.make(2, width=64)
    generator = np.random.default_rng(0)
    refused = 0
    for file in data_files(large, 2):
        whole = file.read_bytes()
        for bit in generator.integers(0, 8 * len(whole), 6).tolist():
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            try:
                found = reading.restore(layout.find(large), abstract)
            except UserError:
                refused += 1
            else:  # the bit is of a copy that is not read
                states.assert_equal(found.state, expected)
        file.write_bytes(whole)
    assert refused


@pytest.mark.parametrize("harm", ["truncate", "remove", "remove all"])
def test_missing_bytes_are_refused_in_a_sentence(large, states, harm):
    if harm == "remove all":
        shutil.rmtree(large / "checkpoints" / "2" / "state")
    for file in data_files(large, 2):
        file.write_bytes(file.read_bytes()[:-9]) if harm == "truncate" else file.unlink()
    with pytest.raises(UserError, match=r"the checkpoint .*/2 cannot be read \(.*\); remove it to go on from"):
        reading.restore(layout.find(large), states.abstract(states.make(width=64)))
