"""A user's own modules: where they are looked for, and what is said of those that cannot be imported."""

import sys

import pytest

from t5x_like.commands.modules import import_modules
from t5x_like.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory, with everything about imports put back afterwards."""
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    monkeypatch.setattr("sys.meta_path", list(sys.meta_path))
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)


@pytest.mark.parametrize("spelling", ["mine_for_test", "mine_for_test.py", "./mine_for_test.py"])
def test_the_working_directory_is_looked_in(place, spelling):
    write(place, mine_for_test="import neighbour_for_test\n", neighbour_for_test="SEEN = 1\n")
    import_modules([spelling])
    assert sys.modules["mine_for_test"].neighbour_for_test.SEEN == 1


def test_a_file_finds_its_neighbours_and_search_paths_are_looked_in(place):
    write(place / "a", mine_for_test="import neighbour_for_test\n", neighbour_for_test="SEEN = 2\n")
    write(place / "b", other_for_test="SEEN = 3\n")
    import_modules(["a/mine_for_test.py", "other_for_test"], ["b"])
    assert sys.modules["mine_for_test"].neighbour_for_test.SEEN == 2
    assert sys.modules["other_for_test"].SEEN == 3


def test_nothing_installed_is_shadowed(place):
    write(place, colorsys="raise ValueError\n", mine_for_test="import colorsys\n")
    sys.modules.pop("colorsys", None)
    import_modules(["mine_for_test"])
    assert sys.modules["colorsys"].rgb_to_hsv


def test_what_is_named_twice_runs_once(place):
    write(place, mine_for_test="import sys\nsys.modules['runs_for_test'] = sys.modules.get('runs_for_test', 0) + 1\n")
    import_modules(["mine_for_test.py", "mine_for_test", "./mine_for_test.py"])
    assert sys.modules.pop("runs_for_test") == 1


@pytest.mark.parametrize(
    ("spelling", "sentence"),
    [
        ("gone.py", "--module: there is no file gone.py; give a Python file or a module's dotted name"),
        ("gone", "--module: there is no module 'gone'; give a Python file or a module's dotted name"),
        (
            "wants.py",
            "--module: wants.py imports 'gone', and there is no module 'gone'; give a Python file or a module's dotted"
            " name",
        ),
        ("raises.py", "--module: raises.py cannot be imported: {place}/raises.py:2: ValueError: on purpose"),
        ("raises", "--module: raises cannot be imported: {place}/raises.py:2: ValueError: on purpose"),
        ("unread.py", "--module: unread.py cannot be imported: {place}/unread.py:1: SyntaxError: invalid syntax"),
        ("silent.py", "--module: silent.py cannot be imported: {place}/silent.py:1: KeyError: no reason given"),
        ("t5.models", "--module: there is no module 't5.models'; give a Python file or a module's dotted name"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(place, spelling, sentence):
    write(
        place,
        wants="import gone\n",
        raises="\nraise ValueError('on purpose')\n",
        unread="a b\n",
        silent="raise KeyError\n",
    )
    for _ in range(2):  # and is no longer there at the second time
        with pytest.raises(UserError) as caught:
            import_modules([spelling])
        assert str(caught.value) == sentence.format(place=place.resolve())
