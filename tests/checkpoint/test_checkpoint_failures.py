"""A kill in the midst of a save and a disk that is full, for real."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint

POSITION = np.zeros(1, np.uint64)

KILLED = """
import os, pathlib, signal, sys
import jax.numpy as jnp, numpy as np
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.experiment import Checkpoint

directory = pathlib.Path(sys.argv[1])
store = CheckpointStore(directory, Checkpoint())
state = {"x": jnp.arange(4_000_000.0)}
store.save(1, state, {}, np.zeros(1, np.uint64))
store.wait()
store.save(2, {"x": jnp.concatenate([state["x"]] * 8)}, {}, np.zeros(1, np.uint64))
while not any(path.is_file() for path in (directory / "2").rglob("d/*")):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_midst_of_a_save_loses_nothing(tmp_path, program_environment):
    environment = {**program_environment, "JAX_PLATFORMS": "cpu"}
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "2").exists()
    state = {"x": jnp.arange(4_000_000.0)}
    with CheckpointStore(tmp_path, Checkpoint()) as store:
        assert store.steps() == [1]
        np.testing.assert_array_equal(store.restore(1, jax.eval_shape(lambda: state)).state["x"], state["x"])
        store.save(3, state, {}, POSITION)
        store.wait()
        assert store.steps() == [1, 3]
    assert sorted(os.listdir(tmp_path)) == ["1", "3"]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_is_one_sentence_and_loses_nothing(small_disk: Path, asynchronous, caplog):
    directory = small_disk / "checkpoints"

    def state(step):  # of 2 MB; many leaves, so that many writes fail at once
        return {f"x{i}": jnp.full(25_000, float(step * i)) for i in range(20)}

    def assert_restored(step):
        restored = store.restore(step, jax.eval_shape(lambda: state(step))).state
        jax.tree.map(np.testing.assert_array_equal, restored, state(step))

    with CheckpointStore(directory, Checkpoint(keep=9), asynchronous=asynchronous) as store:
        store.save(1, state(1), {}, POSITION)
        store.save(2, state(2), {}, POSITION)
        with pytest.raises(UserError) as caught:  # noqa: PT012, asynchronous failures come with the wait
            store.save(3, state(3), {}, POSITION)
            store.wait()
        assert str(caught.value) == (
            f"the checkpoint of step 3 could not be written to {directory}: no space is left there; free some, or lower"
            " checkpoint.keep; step 2 is safe, and can be resumed from"
        )
        assert sorted(os.listdir(directory)) == ["1", "2"]
        assert_restored(1)
        assert_restored(2)
        subprocess.run(["rm", "-r", directory / "1"], check=True)
        store.save(3, state(3), {}, POSITION)
        store.wait()
        assert store.steps() == [2, 3]
        assert_restored(3)
    assert caplog.records == []


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    store = CheckpointStore(tmp_path / "file" / "checkpoints", Checkpoint())
    with pytest.raises(UserError, match="step 1 could not be written.*Not a directory.*nothing was committed before"):  # noqa: PT012
        store.save(1, {"x": jnp.zeros(3)}, {}, POSITION)
        store.wait()
    store.close()
