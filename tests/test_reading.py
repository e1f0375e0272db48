"""`docs/reading.md`: its files are those that a train step runs, and the path through them stays short."""

import json
import re
import subprocess
import sys
from pathlib import Path

import t5x_like

PACKAGE = Path(t5x_like.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "reading.md"

# Of the path, what a run of the step itself does not call: the program around it, the examples, the table of options.
BEFORE = {"train.py", "objectives/causal_lm.py", "models/families/llama.py"}
# Files and lines: of the path, and of all that decides anything. The aim is that the first bound holds for both.
PATH, ALL = (18, 3_000), (26, 4_200)

# Prints the files of the package of which a function is called while a train step of Llama is traced.
TRACE = """
import functools, json, sys
from pathlib import Path
import jax
import t5x_like
from t5x_like.frontends import configdict
from t5x_like.parallel import layout
from t5x_like.parallel.placement import batch_shapes
from t5x_like.program import program
from t5x_like.step import train_step

experiment = configdict.load("configs/llama_1b.py", ["--config.parallelism.fsdp=1", "--config.model.dtype=float32"])
placed = layout.make(experiment.parallelism, jax.devices()[:1])
run = program(experiment, placed)
state, batch = run.abstract_state(), batch_shapes(experiment, placed)
package, seen = str(Path(t5x_like.__file__).parent) + "/", set()

def called(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package) and code.co_name != "<module>":
        seen.add(code.co_filename[len(package):])

sys.setprofile(called)
jax.eval_shape(functools.partial(train_step, run), state, batch)
sys.setprofile(None)
print(json.dumps(sorted(seen)))
"""


def tables():
    """The files of each table of the page, by its heading."""
    sections = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    rows = {
        title: re.findall(r"^\| \[`(.*?)`\]\((.*?)\) \| (.*?) \|$", text, re.MULTILINE)
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert len(rows) == 3 and all(rows.values())
    return rows


def test_every_file_is_there_once_and_said_to_decide_something():
    rows = [row for table in tables().values() for row in table]
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names))
    for name, link, decides in rows:
        assert link == f"../t5x_like/{name}" and (PACKAGE / name).is_file(), name
        assert len(decides) > 5, name


def lines(names):
    return sum((PACKAGE / name).read_text().count("\n") for name in names)


def test_what_decides_is_short_enough_to_be_read():
    path, looked_up, _ = ([name for name, _, _ in table] for table in tables().values())
    assert path[:3] == ["train.py", "program.py", "step.py"]
    assert len(path) <= PATH[0] and lines(path) <= PATH[1], f"the path has {lines(path):,} lines"
    everything = [*path, *looked_up]
    assert len(everything) <= ALL[0] and lines(everything) <= ALL[1], f"together it is {lines(everything):,} lines"


def test_the_page_has_every_file_that_a_step_runs(hasty_environment):
    done = subprocess.run(
        [sys.executable, "-c", TRACE], capture_output=True, text=True, timeout=120, env=dict(hasty_environment)
    )
    assert done.returncode == 0, done.stderr
    named = {name for table in tables().values() for name, _, _ in table}
    assert named - BEFORE == set(json.loads(done.stdout.splitlines()[-1]))
