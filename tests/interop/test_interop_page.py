"""The commands of docs/interop.md, on a folder as they name it."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from interop import folders
from models.families import cases

from t5x_like.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def commands():
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / "interop.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("t5x_like ")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a model that has a tokenizer, and the configs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    folders.write_with_tokenizer(tmp_path / "models" / "tiny")
    return tmp_path


def test_the_commands_of_the_page(here, capsys):
    found = commands()
    assert [command[1] for command in found] == ["import", "generate", "export", "config", "export"]
    for command in found:
        assert main(command[1:]) == 0, command
    assert "The capital of France is" in capsys.readouterr().out
    exported = here / "exported"
    before, after = ((exported / name / "tokenizer.json").read_bytes() for name in ("tiny", "half"))
    assert before == after == (here / "models/tiny/tokenizer.json").read_bytes()
    halves = folders.read_folder(exported / "half")
    assert {code for code, _, _ in halves.values()} == {"BF16"}
    assert "license: apache-2.0" in (exported / "half" / "README.md").read_text()
    wholes = folders.read_folder(exported / "tiny")
    table = "model.embed_tokens.weight"
    np.testing.assert_array_equal(
        np.frombuffer(wholes[table][2], np.float32).reshape(67, 32), cases.weights(table, (67, 32))
    )
