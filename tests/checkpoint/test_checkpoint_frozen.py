"""Leaves that nothing moves are stored once for all commits of a run."""

import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_like.checkpoint import layout, reading
from t5x_like.checkpoint.sources import CheckpointSource
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint
from t5x_like.objectives.dpo import DPO
from t5x_like.program import program

POSITION = np.zeros(2, np.uint64)
ROWS = 20_000
FROZEN = {"model_state.base.table"}


def state(step):
    """A small trained part beside a large frozen one."""
    return {
        "parameters": {"adapter": jnp.full(3, float(step))},
        "model_state": {"base": {"table": jnp.arange(4.0 * ROWS).reshape(ROWS, 4)}, "count": jnp.float32(step)},
    }


def abstract():
    return jax.eval_shape(lambda: state(0))


def assert_restored(store, step):
    found = store.restore(step, abstract()).state
    jax.tree.map(np.testing.assert_array_equal, found, state(step))


def size(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.fixture
def workdir(tmp_path):
    """A workdir with commits of steps 2 and 3, after retention has taken that of step 1 away."""
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint(keep=2)) as store:
        for step in (1, 2, 3):
            store.save(step, state(step), {}, POSITION, FROZEN)
    return tmp_path


def frozen_place(workdir):
    (place,) = (workdir / "checkpoints" / "frozen").iterdir()
    return place


def test_they_are_stored_once_and_retention_leaves_them(workdir):
    checkpoints = workdir / "checkpoints"
    assert sorted(os.listdir(checkpoints)) == ["2", "3", "frozen"]
    assert size(frozen_place(workdir)) > 4 * 4 * ROWS
    assert all(size(checkpoints / str(step)) < 0.1 * 4 * 4 * ROWS for step in (2, 3))
    with CheckpointStore(checkpoints, Checkpoint(keep=2)) as store:
        assert store.steps() == [2, 3]
        for step in (2, 3):
            assert_restored(store, step)
        before = frozen_place(workdir).stat().st_mtime_ns
        store.save(4, state(4), {}, POSITION, FROZEN)
        store.wait()
        assert_restored(store, 4)
    assert frozen_place(workdir).stat().st_mtime_ns == before


def test_other_values_are_stored_elsewhere(workdir):
    changed = state(4)
    changed["model_state"]["base"]["table"] += 1
    with CheckpointStore(workdir / "checkpoints", Checkpoint(keep=2)) as store:
        store.save(4, changed, {}, POSITION, FROZEN)
        store.wait()
        assert_restored(store, 3)
        found = store.restore(4, abstract()).state
    jax.tree.map(np.testing.assert_array_equal, found, changed)
    assert len(os.listdir(workdir / "checkpoints" / "frozen")) == 2


def test_some_leaves_are_read_from_both_places(workdir):
    source = CheckpointSource(path=str(workdir)).open()
    wanted = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in source.leaves.items()}
    found = source.read(wanted)
    np.testing.assert_array_equal(found["adapter"], np.full(3, 3.0))
    np.testing.assert_array_equal(found["base.table"], np.arange(4.0 * ROWS).reshape(ROWS, 4))
    assert [*source.read({"adapter": wanted["adapter"]})] == ["adapter"]


def test_a_flipped_bit_is_found_and_the_place_is_named(workdir):
    place = frozen_place(workdir)
    target = np.asarray(state(0)["model_state"]["base"]["table"]).tobytes()[:64]
    (file,) = [path for path in place.rglob("*") if path.is_file() and target in path.read_bytes()]
    content = bytearray(file.read_bytes())
    content[content.find(target) + 40] ^= 4
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"model_state\.base\.table in {place} is not what was written; the checkpoints"
    ):
        reading.restore(layout.find(workdir), abstract())


def test_a_step_that_was_copied_without_them_says_what_is_missing(workdir, tmp_path):
    other = tmp_path / "other" / "checkpoints"
    shutil.copytree(workdir / "checkpoints" / "3", other / "3")
    with pytest.raises(UserError, match=rf"cannot be read .* put back {other}/frozen/\w+ as it was beside them"):
        reading.restore(layout.find(other), abstract())
    shutil.copytree(workdir / "checkpoints" / "frozen", other / "frozen")
    reading.restore(layout.find(other), abstract())


KILLED = """
import os, pathlib, signal, sys
import jax.numpy as jnp, numpy as np
sys.path.insert(0, sys.argv[2])
from checkpoint import test_checkpoint_frozen as here
from t5x_like.checkpoint import arrays
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.experiment import Checkpoint

start, calls = arrays.Writer.start, []
def counted(self, path, *rest):
    calls.append(path)
    if sys.argv[3] == "between" and len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    start(self, path, *rest)
    if sys.argv[3] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
arrays.Writer.start = counted
CheckpointStore(pathlib.Path(sys.argv[1]), Checkpoint()).save(1, here.state(1), {}, here.POSITION, here.FROZEN)
"""


@pytest.mark.parametrize("moment", ["within", "between"])
def test_a_kill_before_the_commit_loses_nothing(tmp_path, program_environment, moment):
    environment = {**program_environment, "JAX_PLATFORMS": "cpu"}
    tests = os.path.dirname(os.path.dirname(__file__))
    command = [sys.executable, "-c", KILLED, tmp_path, tests, moment]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (place,) = (tmp_path / "frozen").iterdir()
    assert (place / layout.COMMITTED).exists() == (moment == "between")
    with CheckpointStore(tmp_path, Checkpoint()) as store:
        assert store.steps() == []
        store.save(1, state(1), {}, POSITION, FROZEN)
        store.wait()
        assert_restored(store, 1)
    assert sorted(os.listdir(tmp_path)) == ["1", "frozen"]
    assert [*(tmp_path / "frozen").iterdir()] == [place]


def test_a_full_disk_is_one_sentence(small_disk):
    def large(step):  # of 6 MB
        return {"moving": jnp.float32(step), "kept": jnp.full(1_500_000, 2.0)}

    with CheckpointStore(small_disk / "checkpoints", Checkpoint()) as store:
        with pytest.raises(UserError, match="step 1 could not be written .*: no space is left there.*nothing was comm"):
            store.save(1, large(1), {}, POSITION, {"kept"})
        assert store.steps() == []


def test_a_reference_model_is_stored_once(tmp_path):
    run = program(tiny.experiment(DPO()))
    first = tiny.initial(run)
    frozen = run.frozen_paths()
    assert frozen
    assert all(path.startswith("model_state.reference.") for path in frozen)
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint()) as store:
        store.save(1, jax.tree.map(jnp.asarray, first), {}, POSITION, frozen)
        store.wait()
        tiny.assert_same_bits(jax.device_get(store.restore(1, run.abstract_state()).state), first)
        leaves = store.commit(1).manifest().leaves
    assert {path for path, leaf in leaves.items() if leaf.frozen} == set(frozen)
