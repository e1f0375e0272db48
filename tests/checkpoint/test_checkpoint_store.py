import dataclasses
import json
import logging
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5x_like.checkpoint import evaluation, layout
from t5x_like.checkpoint.store import CheckpointStore, remove
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint


def save(store, states, step, **metrics):
    store.save(step, states.make(step), {"seed": step}, states.position)
    if metrics:
        store.evaluated(step, metrics)


@pytest.fixture
def directory(tmp_path) -> epath.Path:
    return epath.Path(tmp_path) / "checkpoints"


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_is_restored_to_the_bit(directory, states, asynchronous):
    meta = {"experiment": {"steps": 5}, "seed": 7}
    with CheckpointStore(directory, Checkpoint(), asynchronous=asynchronous) as store:
        assert (store.steps(), store.latest(), store.best()) == ([], None, None)
        store.save(4, states.make(4), meta, states.position)
        store.wait()
        assert (store.steps(), store.latest()) == ([4], 4)
    with CheckpointStore(directory, Checkpoint()) as store:
        restored = store.restore(4, states.abstract(states.make()))
        states.assert_equal(restored.state, states.make(4))
        np.testing.assert_array_equal(restored.position, states.position, strict=True)
        assert restored.meta == store.read_meta(4) == meta


def test_a_synchronous_save_is_complete_when_it_returns(directory, states):
    with CheckpointStore(directory, Checkpoint(), asynchronous=False) as store:
        save(store, states, 1)
        assert store.latest() == 1


def test_parts_are_restored_without_the_rest(directory, states):
    state = states.make(3)
    abstract = states.abstract(state)
    with CheckpointStore(directory, Checkpoint(), asynchronous=False) as store:
        save(store, states, 3)
        states.assert_equal(store.restore_parameters(3, abstract["parameters"]), state["parameters"])
        parts = store.restore_parts(3, {name: abstract[name] for name in ("parameters", "model_state")})
        states.assert_equal(parts, {"parameters": state["parameters"], "model_state": {}})


def test_a_state_may_be_donated_as_soon_as_it_is_saved(directory, states):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    with CheckpointStore(directory, Checkpoint(keep=5)) as store:
        for step in range(1, 4):
            state = {**states.make(step), "large": jnp.full((1000, 1000), float(step))}
            store.save(step, state, {}, states.position)
            jax.block_until_ready(overwrite(state))
        store.wait()
        for step in store.steps():
            expected = {**states.make(step), "large": jnp.full((1000, 1000), float(step))}
            states.assert_equal(store.restore(step, states.abstract(expected)).state, expected)


@pytest.mark.parametrize(
    ("shape", "spec"), [((8, 1), ("a",)), ((2, 4), ("b", "a")), ((1, 1), ("a",)), ((4, 1), (None, "a"))]
)
def test_a_state_is_restored_on_another_mesh(directory, shape, spec):
    def place(shape, *spec):
        devices = jax.devices()[: np.prod(shape)]
        mesh = jax.make_mesh(shape, ("a", "b"), devices=devices, axis_types=(AxisType.Auto,) * 2)
        return NamedSharding(mesh, PartitionSpec(*spec))

    values = jax.random.normal(jax.random.key(0), (16, 8))
    before, after = place((4, 2), "a", "b"), place(shape, *spec)
    with CheckpointStore(directory, Checkpoint(), asynchronous=False) as store:
        store.save(1, {"x": jax.device_put(values, before), "step": jnp.int32(1)}, {}, np.zeros(0, np.uint64))
        abstract = {
            "x": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=after),
            "step": jax.ShapeDtypeStruct((), jnp.int32),
        }
        state = store.restore(1, abstract).state
    assert state["x"].sharding == after
    assert state["step"].sharding.device_set == after.device_set
    assert np.asarray(state["x"]).tobytes() == np.asarray(values).tobytes()


def test_a_step_that_is_not_later_is_refused(directory, states):
    with CheckpointStore(directory, Checkpoint(), asynchronous=False) as store:
        save(store, states, 5)
        for step in (5, 4):
            with pytest.raises(UserError, match=f"step 5 already, so step {step} cannot be saved"):
                save(store, states, step)
        save(store, states, 6)
        assert store.steps() == [5, 6]


def test_a_step_that_is_not_there_is_said_in_a_sentence(directory, states):
    with CheckpointStore(directory, Checkpoint()) as store:
        with pytest.raises(UserError, match="no checkpoint of step 3 in .*; it has no step"):
            store.restore(3, {})
        save(store, states, 5)
        store.wait()
        with pytest.raises(UserError, match="no checkpoint of step 3 in .*; it has 5"):
            store.read_meta(3)


# --- Retention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "stay", "best"),
    [
        ({"keep": 2}, [5, 6], None),
        ({"keep": 1, "keep_every": 2}, [2, 4, 6], None),
        ({"keep": 1, "best_metric": "loss"}, [3, 6], 3),
        ({"keep": 1, "best_metric": "loss", "best_mode": "max"}, [2, 6], 2),
        ({"keep": 1, "best_metric": "unknown"}, [6], None),
    ],
)
def test_the_policy_decides_what_stays(directory, states, options, stay, best):
    losses = {1: 3.0, 2: 9.0, 3: 1.0, 4: float("nan"), 5: 2.0, 6: float("-inf")}
    with CheckpointStore(directory, Checkpoint(**options)) as store:
        for step, loss in losses.items():
            save(store, states, step, loss=loss)
        store.wait()
        assert store.steps() == stay
        assert store.best() == best
        assert sorted(path.name for path in directory.iterdir()) == [str(step) for step in stay]
        states.assert_equal(store.restore(stay[0], states.abstract(states.make())).state, states.make(stay[0]))


def test_the_best_commit_of_an_earlier_process_stays(directory, states):
    policy = Checkpoint(keep=1, best_metric="loss")
    for step, loss in {1: 1.0, 2: 5.0, 3: 4.0, 4: float("nan")}.items():
        with CheckpointStore(directory, policy) as store:
            save(store, states, step, loss=loss)
    assert CheckpointStore(directory, policy).steps() == [1, 4]


def test_a_damaged_manifest_of_an_old_commit_does_not_stop_a_run(directory, states):
    policy = Checkpoint(keep=1, best_metric="loss")
    with CheckpointStore(directory, policy) as store:
        save(store, states, 1, loss=1.0)
    (directory / "1" / layout.MANIFEST_ITEM / layout.MANIFEST_FILE).write_text("{")
    with CheckpointStore(directory, policy) as store:
        save(store, states, 2, loss=2.0)
        store.wait()
        assert (store.steps(), store.best()) == ([2], 2)


def test_a_linked_step_is_unlinked_not_emptied(directory, states, tmp_path):
    with CheckpointStore(directory, Checkpoint(keep=1)) as store:
        save(store, states, 1)
    elsewhere = tmp_path / "elsewhere"
    (directory / "1").rename(elsewhere)
    os.symlink(elsewhere, directory / "1")
    with CheckpointStore(directory, Checkpoint(keep=1)) as store:
        save(store, states, 2)
        store.wait()
        assert store.steps() == [2]
    assert not os.path.lexists(directory / "1")
    assert (elsewhere / layout.COMMITTED).exists()


def test_a_commit_loses_its_marker_before_its_files(directory, states, monkeypatch):
    with CheckpointStore(directory, Checkpoint()) as store:
        save(store, states, 1)
    seen = []
    monkeypatch.setattr(type(directory), "rmtree", lambda path, **_: seen.append((path / layout.COMMITTED).exists()))
    remove(directory / "1")
    assert seen == [False]
    assert CheckpointStore(directory, Checkpoint()).steps() == []


def test_an_evaluation_joins_a_commit_when_it_is_done(directory, states):
    with CheckpointStore(directory, Checkpoint(keep=1, best_metric="loss")) as store:
        save(store, states, 1, loss=1.0)
        store.save(2, states.make(2), {evaluation.DUE: ["validation"]}, states.position)
        store.wait()
        commit = store.commit(2)
        assert store.steps() == [1, 2], "the best one stays while the new one is not measured"
        assert evaluation.unfinished(commit, store.read_meta(2)) == ("validation",)
        store.evaluated(2, {"loss": 0.5, "accuracy": math.nan})
        store.wait()
        assert evaluation.unfinished(commit, store.read_meta(2)) == ()
        assert evaluation.metrics(commit) == {"loss": 0.5, "accuracy": None}
        assert (store.steps(), store.best()) == ([2], 2), (
            "the policy is applied when it is measured, not a commit later"
        )


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"step": 2, "metrics": {"loss": 0.1}}'])
def test_a_damaged_evaluation_counts_as_not_finished(directory, states, damage):
    with CheckpointStore(directory, Checkpoint()) as store:
        store.save(2, states.make(2), {evaluation.DUE: ["validation"]}, states.position)
        store.evaluated(2, {"loss": 0.5})
        store.wait()
        (store.commit(2).path / evaluation.EVALUATION_FILE).write_text(damage)
        assert evaluation.unfinished(store.commit(2), store.read_meta(2)) == ("validation",)
        assert evaluation.metrics(store.commit(2)) == {}


def test_commits_that_hold_their_metrics_in_the_manifest_keep_their_rank(directory, states):
    """As they were written before there was an evaluation of its own."""
    policy = Checkpoint(keep=1, best_metric="loss")
    with CheckpointStore(directory, policy) as store:
        save(store, states, 1)
        store.wait()
        file = directory / "1" / layout.MANIFEST_ITEM / layout.MANIFEST_FILE
        before = dataclasses.replace(store.commit(1).manifest(), metrics={"loss": 1.0})
        file.write_text(json.dumps(before.to_json()))
    with CheckpointStore(directory, policy) as store:
        assert evaluation.unfinished(store.commit(1), store.read_meta(1)) == ()
        save(store, states, 2, loss=2.0)
        save(store, states, 3, loss=3.0)
        store.wait()
        assert (store.steps(), store.best()) == ([1, 3], 1)


# --- Readers, start-up ----------------------------------------------------------------------------------------------


def test_a_reader_leaves_what_is_being_written_alone(directory, states):
    (directory / "7" / "state").mkdir(parents=True)
    with CheckpointStore(directory, Checkpoint()) as reader:
        assert reader.latest() is None
    assert (directory / "7" / "state").exists()


def test_what_was_left_half_written_goes_at_the_next_save_and_nothing_else_does(directory, states):
    (directory / "7" / "state").mkdir(parents=True)
    (directory / "notes").mkdir()
    with CheckpointStore(directory, Checkpoint()) as store:
        save(store, states, 3)
        store.wait()
        assert sorted(path.name for path in directory.iterdir()) == ["3", "notes"]


@pytest.mark.parametrize("warm", [True, False])
def test_warm_up_leaves_nothing_to_compile(directory, caplog, warm):
    shape = (3, 5, 7 + warm)  # one that no other test has compiled
    with CheckpointStore(directory, Checkpoint()) as store:
        if warm:
            store.warm_up({"x": jax.ShapeDtypeStruct(shape, jnp.float32)})
            store.wait()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            store.save(1, {"x": jnp.asarray(np.zeros(shape, np.float32))}, {}, np.zeros(0, np.uint64))
    compiled = [record for record in caplog.records if "compilation of jit(_sums)" in record.getMessage()]
    assert bool(compiled) != warm
