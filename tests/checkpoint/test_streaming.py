"""Commits that are written and read part by part are the commits that Orbax writes and reads."""

import jax
import numpy as np
import pytest
from etils import epath

from t5x_like.checkpoint import streaming
from t5x_like.checkpoint.layout import find
from t5x_like.checkpoint.reading import restore_parts
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.checkpoint.streaming import StreamedCommit, StreamedLeaves
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint

RNG = np.random.default_rng(0)
VALUES = {
    "table": RNG.standard_normal((7, 3)).astype(np.float32),
    "blocks": {"kernel": RNG.standard_normal((2, 5, 4)).astype(np.float32)},
    "experts": RNG.standard_normal((2, 3, 4, 2)).astype(np.float32),
    "scalar": np.float32(3.5),
}
PARTS = {"table": 0, "blocks.kernel": 1, "experts": 2, "scalar": 0}


def flat():
    return {
        "table": VALUES["table"],
        "blocks.kernel": VALUES["blocks"]["kernel"],
        **{k: VALUES[k] for k in ("experts", "scalar")},
    }


def indices(path):
    return [*np.ndindex(flat()[path].shape[: PARTS[path]])]


@pytest.fixture(params=[1 << 20, 24])
def written(request, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", request.param)
    leaves = {f"parameters.{path}": (leaf.shape, "float32", PARTS[path]) for path, leaf in flat().items()}
    with StreamedCommit(epath.Path(tmp_path), 4, leaves) as commit:
        for path, leaf in reversed(flat().items()):
            for index in reversed(indices(path)):
                commit.write(f"parameters.{path}", index, leaf[index])
        commit.finish({"experiment": {}})
    return tmp_path


def test_orbax_reads_what_was_written_in_parts(written):
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), VALUES)
    commit = find(written)
    assert commit.step == 4
    got = restore_parts(commit, {"parameters": abstract})["parameters"]  # compares digests
    jax.tree.map(np.testing.assert_array_equal, got, VALUES)


def test_parts_of_what_orbax_wrote(tmp_path):
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint(), asynchronous=False) as store:
        store.save(1, {"parameters": jax.tree.map(jax.numpy.asarray, VALUES)}, {}, np.zeros(0))
    leaves = StreamedLeaves(find(tmp_path))
    for path, leaf in flat().items():
        for index in indices(path):
            np.testing.assert_array_equal(leaves.read(f"parameters.{path}", index), leaf[index])


def test_a_damaged_part_is_found(written):
    needle = VALUES["experts"][1, 2].tobytes()[:8]
    for path in (written / "checkpoints/4/state/d").iterdir():
        path.write_bytes(path.read_bytes().replace(needle, needle[::-1]))
    leaves = StreamedLeaves(find(written))

    def read():
        for index in indices("experts"):
            leaves.read("parameters.experts", index)

    with pytest.raises(UserError, match="experts"):
        read()


def test_what_is_not_finished_is_no_commit(tmp_path):
    with StreamedCommit(epath.Path(tmp_path), 0, {"a": ((2,), "float32", 0)}) as commit:
        commit.write("a", (), np.zeros(2, np.float32))
    assert not [*(tmp_path / "checkpoints").iterdir()]
