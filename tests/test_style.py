"""Rules of style that a program can check; import cycles are the linter's, under `tool.importlinter`."""

import ast
import collections
from pathlib import Path

import t5x_like

PACKAGE = Path(t5x_like.__file__).parent

# A module docstring begins with the thing itself: "Retention of checkpoints", not "Which checkpoints are kept".
QUESTIONS = ("How", "What", "When", "Where", "Whether", "Which", "Who", "Why")

# Directories of many modules of one kind, of which one may be short: a family of models, a rule, an objective.
SHORT_ONES = ("models/families/", "objectives/", "data/cleaning/", "data/sources/", "data/records/", "adaptations/")
SHORTEST = 25


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), file.read_text()


def public_classes():
    """The name of the module and the node of every public class."""
    for name, text in modules():
        for item in ast.parse(text).body:
            if isinstance(item, ast.ClassDef) and not item.name.startswith("_"):
                yield name, item


def first_line(node):
    return (ast.get_docstring(node) or "").partition("\n")[0]


def test_a_module_docstring_begins_with_the_thing():
    firsts = {name: first_line(ast.parse(text)) for name, text in modules()}
    assert len(firsts) > 100
    assert not {name: first for name, first in firsts.items() if first.startswith(QUESTIONS)}


def test_a_public_class_is_described_as_the_thing():
    firsts = {f"{name}:{item.name}": first_line(item) for name, item in public_classes()}
    assert len(firsts) > 100
    assert not {name: first for name, first in firsts.items() if first.startswith(QUESTIONS)}


def test_a_public_class_has_a_name_of_its_own():
    homes = collections.defaultdict(list)
    for name, item in public_classes():
        homes[item.name].append(name)
    assert len(homes) > 100
    assert not {name: where for name, where in homes.items() if len(where) > 1}


def test_a_module_is_worth_its_file():
    lines = {name: text.count("\n") for name, text in modules() if not name.endswith("__init__.py")}
    assert len(lines) > 100
    assert not {name: n for name, n in lines.items() if n < SHORTEST and not name.startswith(SHORT_ONES)}
