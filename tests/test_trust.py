"""Trust: where the package runs code that it did not come with, and that it does so nowhere else."""

import ast
import os
from pathlib import Path

import pytest
from etils import epath

from t5x_like.io import files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "t5x_like"

# Calls that can run code out of data, and the only files that may have them, with the reason.
DANGEROUS = {
    "pickle.loads": {
        "parallel/executables.py": "a step compiled ahead: only under --executable, by the key of the program itself",
        "preflight/child.py": "the answer of a process that this one has started",
        "data/prepare_steps.py": "the plan that this program hands to its own workers",
        "data/prepare.py": "the same",
        "data/cleaning/corpus.py": "the cleaner that this program hands to its own workers",
        "data/prepare_beam.py": "what Beam carries between this program's own workers",
    },
    "pickle.load": {"data/prepare.py": "what a worker of this program has spooled, in a directory of its own"},
    "exec": {"frontends/configdict.py": "a config file that the user names"},
}
FORBIDDEN = (
    "marshal.load",
    "marshal.loads",
    "eval",
    "os.system",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "joblib.load",
    "shelve.open",
    "cloudpickle.loads",
    "dill.loads",
)


def calls():
    """Every call in the package: its file, its dotted name, and the call."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield file.relative_to(PACKAGE).as_posix(), ast.unparse(node.func), node


def test_what_can_run_code_out_of_data_is_where_the_table_says():
    found = {name: set() for name in DANGEROUS}
    for file, name, _ in calls():
        if name in DANGEROUS:
            found[name].add(file)
    assert found == {name: set(places) for name, places in DANGEROUS.items()}


def test_nothing_else_that_can_is_called():
    assert [(file, name) for file, name, _ in calls() if name in FORBIDDEN] == []
    for file, name, call in calls():
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        for option in ("allow_pickle", "shell"):
            assert option not in named or ast.unparse(named[option]) == "False", f"{file}: {name}({option}=…)"


def test_reading_a_checkpoint_imports_nothing_that_it_names(tmp_path):
    """An experiment in a commit is data: a module that it names is not imported, an unknown name is an error."""
    from t5x_like.errors import ExperimentError
    from t5x_like.frontends import configdict

    values = configdict.load("configs/quickstart.py").to_dict()
    for hostile in ("os:system", "__main__", "../evil.py", "builtins.eval"):
        with pytest.raises(ExperimentError, match="there is no"):
            configdict.Experiment.from_dict({**values, "objective": {"name": hostile}})


@pytest.mark.parametrize(
    ("mode", "of", "expected"),
    [(0o644, "file", ""), (0o666, "file", "can be written by every user"), (0o777, "directory", "by every user")],
)
def test_a_place_that_others_can_write_is_known(tmp_path, mode, of, expected):
    place = tmp_path / "mine"
    place.mkdir(mode=0o755)
    (place / "file").write_text("")
    (place / "file").chmod(0o644)
    (place if of == "directory" else place / "file").chmod(mode)
    found = files.writable_by_others(epath.Path(place / "file"))
    assert bool(found) == bool(expected) and expected in found


@pytest.mark.skipif(os.getuid() != 0, reason="not run here: only root gives a file away")
def test_a_file_of_another_user_is_known(tmp_path):
    (tmp_path / "file").write_text("")
    os.chown(tmp_path / "file", 12345, 12345)
    assert "belongs to another user" in files.writable_by_others(epath.Path(tmp_path / "file"))


def test_an_executable_that_others_can_write_is_not_loaded(tmp_path):
    import jax

    from t5x_like.parallel import executables

    (tmp_path / "step.executable").write_bytes(b"")
    file = tmp_path / f"step{executables.SUFFIX}"
    file.write_bytes(b"x")
    file.chmod(0o666)
    loaded, sentence = executables.find(epath.Path(tmp_path), {"program": "p"}, {}, jax.devices()[:1])
    assert loaded is None and "can be written by every user" in sentence and "it holds a pickle" in sentence
