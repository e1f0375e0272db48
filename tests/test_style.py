"""Rules of style that a program can check; import cycles are the linter's, under `tool.importlinter` in pyproject.toml.

`tests/golden/style.txt` lists what broke a rule when the rule came, a line each. Nothing is added to it.
"""

import ast
import collections
from pathlib import Path

import t5x_like

PACKAGE = Path(t5x_like.__file__).parent
DEBTS = {*(Path(__file__).parent / "golden" / "style.txt").read_text().splitlines()}

# A module docstring begins with the thing itself: "Retention of checkpoints", not "Which checkpoints are kept".
QUESTIONS = ("How", "What", "When", "Where", "Whether", "Which", "Who", "Why")

# Directories of many modules of one kind, of which one may be short: a family of models, a rule, a format.
SHORT_ONES = ("models/families/", "data/cleaning/", "data/sources/", "data/records/", "adaptations/")
SHORTEST = 25


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), file.read_text()


def new(found):
    """Of what breaks a rule, the part that did not do so from the beginning."""
    return {line: where for line, where in found.items() if line not in DEBTS}


def test_a_module_docstring_begins_with_the_thing():
    firsts = {(ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]: name for name, text in modules()}
    assert len(firsts) > 100
    assert not new({f"docstring: {first}": name for first, name in firsts.items() if first.startswith(QUESTIONS)})


def test_a_public_class_has_a_name_of_its_own():
    homes = collections.defaultdict(list)
    for name, text in modules():
        for item in ast.parse(text).body:
            if isinstance(item, ast.ClassDef) and not item.name.startswith("_"):
                homes[item.name].append(name)
    assert len(homes) > 100
    assert not new({f"class: {name}": where for name, where in homes.items() if len(where) > 1})


def test_a_module_is_worth_its_file():
    short = {
        f"short: {Path(name).name}": name
        for name, text in modules()
        if not name.endswith("__init__.py") and not name.startswith(SHORT_ONES) and text.count("\n") < SHORTEST
    }
    assert not new(short)
