"""A power cut: a disk as it is at one moment, with what was never synced lost.

The work directory is on a file system in an image. The image is copied while everything goes on, and the copy is
mounted: that is what a machine finds when it starts again.
"""

import functools
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.checkpoint import arrays
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.experiment import Checkpoint
from t5x_like.io import files

POSITION = np.arange(4, dtype=np.uint64)


@pytest.fixture
def disk(tmp_path):
    """A mounted ext4 file system that writes nothing back by itself, and a function that mounts its state of now."""
    mounted = []

    def mount(image, place):
        place.mkdir()
        done = subprocess.run(["mount", "-o", "loop,commit=900", image, place], capture_output=True, text=True)
        if done.returncode:
            sentence = f"not run here: mounting an image needs root and loop devices ({done.stderr.strip()})"
            pytest.fail(sentence) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(sentence)
        mounted.append(place)
        return place

    image = tmp_path / "disk"
    subprocess.run(["truncate", "--size=48M", image], check=True)
    subprocess.run([shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4", "-q", "-F", image], check=True)
    here = mount(image, tmp_path / "here")

    def after_a_cut():
        number = len(mounted)
        subprocess.run(["cp", "--sparse=always", image, tmp_path / f"copy{number}"], check=True)
        return mount(tmp_path / f"copy{number}", tmp_path / f"then{number}")

    yield here, after_a_cut
    for place in reversed(mounted):
        subprocess.run(["umount", "--lazy", place], check=True)


def state(step):
    return {"parameters": {"w": jnp.full((64, 64), float(step))}, "step": jnp.int32(step)}


def test_a_commit_that_is_complete_survives_and_older_ones_go_only_after_it(disk):
    here, after_a_cut = disk
    os.sync()
    with CheckpointStore(here / "run" / "checkpoints", Checkpoint(keep=1)) as store:
        for step in (1, 2, 3):
            store.save(step, state(step), {"seed": step}, POSITION)
            store.wait()
            found = CheckpointStore(after_a_cut() / "run" / "checkpoints", Checkpoint())
            assert found.latest() == step, "what was said to be durable is there"
            restored = found.restore(step, jax.eval_shape(functools.partial(state, step)))
            jax.tree.map(np.testing.assert_array_equal, restored.state, state(step))
            assert restored.meta == {"seed": step}


def test_at_any_moment_of_a_save_a_cut_leaves_a_commit_that_can_be_read(disk, monkeypatch):
    here, after_a_cut = disk
    with CheckpointStore(here / "run" / "checkpoints", Checkpoint(keep=1)) as store:
        store.save(1, state(1), {}, POSITION)
        store.wait()
        moments, sync, sync_directory = [], arrays.sync, files.sync_directory

        def look(moment):
            found = CheckpointStore(after_a_cut() / "run" / "checkpoints", Checkpoint())
            step = found.latest()
            restored = found.restore(step, jax.eval_shape(functools.partial(state, step)))
            jax.tree.map(np.testing.assert_array_equal, restored.state, state(step))
            moments.append((moment, step))

        def watched_sync(path):
            look("before")
            sync(path)
            look("after")

        def watched_directory(path):
            sync_directory(path)
            if path.name == "1":  # whose marker has just gone
                look("removed")

        monkeypatch.setattr(arrays, "sync", watched_sync)
        monkeypatch.setattr(files, "sync_directory", watched_directory)
        store.save(2, state(2), {}, POSITION)
        store.wait()
    assert moments == [("before", 1), ("after", 1), ("before", 1), ("after", 2), ("removed", 2)]
