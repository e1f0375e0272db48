"""`t5x_like preflight` as a user runs it: a process of its own, which compiles in a child."""

import json
import subprocess
import sys

import pytest

from t5x_like.errors import UserError
from t5x_like.preflight import golden

TINY = [
    f"--config.model.{field}={size}"
    for field, size in {
        "decoder.layers": 1,
        "embed": 256,
        "decoder.layer.feed_forward.hidden": 256,
        "vocab_size": 512,
    }.items()
]


def preflight(topology, *flags):
    command = [sys.executable, "-m", "t5x_like", "preflight", "--config=configs/quickstart.py", *TINY]
    return subprocess.run(
        [*command, f"--topology={topology}", *flags], capture_output=True, text=True, timeout=300, check=False
    )


def test_a_compiler_that_aborts_is_one_sentence_with_a_topology_that_compiles():
    process = preflight("v4:1x2x2", "--json")
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: --topology: the compilation for v4:1x2x2 ended with SIGABRT inside the compiler (")
    assert "Check failed" in line and line.endswith("did you mean --topology=v4:2x2x1?")


def test_the_child_s_figures_are_the_command_s_and_its_executable_is_kept(tmp_path):
    golden_file = str(tmp_path / "golden.json")
    flags = f"--save={tmp_path}", f"--page={tmp_path / 'page.html'}", f"--record={golden_file}"
    process = preflight("v5e:1x1", "--json", *flags, f"--golden={golden_file}")
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout)
    assert figures["moved"] == {}
    larger = {**figures, "per_chip": {**figures["per_chip"], "peak_bytes": 2 * figures["per_chip"]["peak_bytes"]}}
    assert list(golden.moved(larger, golden_file, TINY)) == ["per_chip.peak_bytes"]
    with pytest.raises(UserError, match="has no figures of 'quickstart v5e:1x1'; "):
        golden.moved(figures, golden_file)
    with pytest.raises(UserError, match="holds no figures; write them with t5x_like preflight"):
        golden.moved(figures, str(tmp_path / "page.html"))
    assert figures["fits"] and figures["topology"] == "v5e:1x1" and figures["chips"] == 1
    assert (tmp_path / "page.html").read_text().count("v5e:1x1")
    with open(figures["executable"], "rb") as executable:
        assert executable.readline().startswith(b"t5x_like executable ")


def test_a_table_of_prices_that_is_no_table_is_refused_before_the_compilation(tmp_path):
    (tmp_path / "prices.json").write_text("{}")
    process = preflight("v5e:16x16", f"--prices={tmp_path / 'prices.json'}")
    assert process.returncode == 2 and "--prices" in process.stderr
