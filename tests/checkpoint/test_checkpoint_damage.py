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
    "deep": lambda file, content: file.write_bytes(b'{"a":[' * 50_000),
    "directory": lambda file, content: (file.unlink(), file.mkdir()),
    "link loop": lambda file, content: (file.unlink(), file.symlink_to(file.name)),
    "one bit": lambda file, content: file.write_bytes(_flipped(content, len(content) // 3)),
}


def _flipped(content, place):
    """The content with one bit of one byte changed, if there is any."""
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :] if content else content


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
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(whole)
    named = ("base.table",) if part == "frozen" else ("parameters.adapter", "model_state.count")
    assert any(leaf in sentence for sentence in refused for leaf in named), refused


@pytest.mark.parametrize("pattern", ["2/state/_METADATA", "2/state/array_metadatas/*", "2/manifest/manifest.json"])
def test_one_bit_anywhere_in_what_describes_the_arrays(workdir, pattern):
    [file] = (workdir / "checkpoints").glob(pattern)
    whole = file.read_bytes()
    for place in range(0, len(whole), max(len(whole) // 25, 1)):
        file.write_bytes(_flipped(whole, place))
        said = None
        try:
            found = reading.restore(layout.find(workdir), abstract()).state
        except UserError as error:
            said = str(error)
        if said is None:
            jax.tree.map(np.testing.assert_array_equal, found, state(2))
        else:
            assert "\n" not in said and f"before it, {workdir}/checkpoints/1" in said


def test_an_error_that_is_not_of_the_files_is_no_damage(workdir, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(reading.arrays, "read", exhausted)
    with pytest.raises(jax.errors.JaxRuntimeError):
        reading.restore(layout.find(workdir), abstract())
    assert damage.is_damage(Exception("Encountered error while reading"))


def test_a_mistake_of_the_program_is_no_damage(workdir, monkeypatch):
    monkeypatch.setattr(reading.arrays.ocp, "ArrayRestoreArgs", dict)
    monkeypatch.setattr(reading.arrays, "install_filters", "no function")
    with pytest.raises(TypeError):
        reading.restore(layout.find(workdir), abstract())
