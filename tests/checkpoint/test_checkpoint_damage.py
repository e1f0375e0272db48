"""Every file of a commit, and of the frozen leaves that it refers to, missing or damaged."""

import jax
import numpy as np
import pytest
from checkpoint.test_checkpoint_frozen import FROZEN, POSITION, abstract, state

from t5x_like.checkpoint import damage, layout, reading
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint

HARMS = {
    "removed": lambda file, content: file.unlink(),
    "empty": lambda file, content: file.write_bytes(b""),
    "cut": lambda file, content: file.write_bytes(content[: len(content) // 2]),
    "zeros": lambda file, content: file.write_bytes(bytes(len(content))),
    "junk": lambda file, content: file.write_bytes(b"\xff{]" * 20),
}


@pytest.fixture
def workdir(tmp_path):
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint()) as store:
        for step in (1, 2):
            store.save(step, state(step), {}, POSITION, FROZEN)
    return tmp_path


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("part", ["2", "frozen"])
def test_what_cannot_be_read_is_one_sentence_and_nothing_wrong_is_read(workdir, part, harm):
    refused = set()
    for file in [path for path in sorted((workdir / "checkpoints" / part).rglob("*")) if path.is_file()]:
        whole = file.read_bytes()
        HARMS[harm](file, whole)
        try:
            commit = layout.find(workdir)
            found = reading.restore(commit, abstract()).state
            jax.tree.map(np.testing.assert_array_equal, found, state(commit.step))
        except UserError as error:
            sentence = str(error)
            assert "\n" not in sentence
            assert len(sentence) < 400 + 4 * len(str(workdir))
            assert "tensorstore_spec" not in sentence
            advice = f"before it, {workdir}/checkpoints/1" if part == "2" else f"put back {workdir}/checkpoints/frozen/"
            assert advice in sentence
            refused.add(sentence)
        file.write_bytes(whole)
    named = ("base.table",) if part == "frozen" else ("parameters.adapter", "model_state.count")
    assert any(leaf in sentence for sentence in refused for leaf in named), refused


def test_an_error_that_is_not_of_the_files_is_no_damage(workdir, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(reading.arrays, "read", exhausted)
    with pytest.raises(jax.errors.JaxRuntimeError):
        reading.restore(layout.find(workdir), abstract())
    assert damage.is_damage(Exception("Encountered error while reading"))
    assert not damage.is_damage(TypeError("a mistake of the program's"))
