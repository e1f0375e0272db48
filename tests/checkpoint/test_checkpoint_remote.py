import os

import jax
import pytest
from etils import epath

from t5x_like.checkpoint import layout, leaves, remote
from t5x_like.checkpoint.sources import CheckpointSource
from t5x_like.checkpoint.store import CheckpointStore, open_checkpoint
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint


def test_commits_in_an_object_store(bucket, states, tmp_path):
    with CheckpointStore(bucket / "checkpoints", Checkpoint(keep=2)) as store:
        for step in (1, 2, 3):
            store.save(step, states.make(step), {"step": step}, states.position)
        store.wait()
        assert store.steps() == [2, 3]
        restored = store.restore(3, states.abstract(states.make()))
        states.assert_equal(restored.state, states.make(3))
        assert restored.meta == {"step": 3}
    assert open_checkpoint("s3://bucket/run") == (bucket, 3)
    source = CheckpointSource(path="s3://bucket/run/checkpoints/2").open()
    wanted = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in source.leaves.items()}
    states.assert_equal(source.read(wanted), leaves.flatten(states.make(2)["parameters"]))
    assert os.listdir(tmp_path) == []


def test_a_failed_copy_is_no_commit(bucket, states, tmp_path, monkeypatch):
    with CheckpointStore(bucket / "checkpoints", Checkpoint()) as store:
        store.save(1, states.make(1), {}, states.position)
        store.wait()
        with monkeypatch.context() as patch:
            patch.setattr("shutil.copyfileobj", _refuse)
            store.save(2, states.make(2), {}, states.position)
            with pytest.raises(UserError, match="step 2 could not be written to s3://bucket.*quota.*step 1 is safe"):
                store.wait()
        assert store.steps() == [1]
        store.save(2, states.make(2), {}, states.position)
        store.wait()
        assert store.steps() == [1, 2]
    assert os.listdir(tmp_path) == []


def test_the_file_that_makes_it_a_commit_is_copied_last(bucket, tmp_path, monkeypatch):
    source = epath.Path(tmp_path) / "source"
    (source / "state").mkdir(parents=True)
    for name in ("z", layout.COMMITTED, "a", f"state/{layout.COMMITTED}"):
        (source / name).write_text(name)
    copied = []
    monkeypatch.setattr("shutil.copyfileobj", lambda reader, *_: copied.append(reader.read().decode()))
    remote.copy_commit(source, bucket)
    assert sorted(copied) == sorted(["z", layout.COMMITTED, "a", f"state/{layout.COMMITTED}"])
    assert copied[-1] == layout.COMMITTED


def _refuse(*_):
    raise OSError("the quota is used up")
