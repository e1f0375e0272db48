"""What is said of processes that are about to do different things."""

import importlib

import pytest
from etils import epath

from t5x_like.distributed import agreement, code

ADVICE = {"experiment": "start alike", "data": "copy it"}
SAME = {"experiment": {"seed": 0, "steps": 5}, "data": {"the fingerprint of data.task.path": "ab"}}


def changed(section, **fields):
    return SAME | {section: SAME[section] | fields}


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ([SAME, SAME], []),
        (
            [SAME, changed("experiment", seed=7)],
            ["seed is 7 for process 1 on b and 0 for process 0 on a; start alike"],
        ),
        (
            [changed("experiment", seed=7), SAME, SAME],
            ["seed is 7 for process 0 on a and 0 for process 1 on b; start alike"],
        ),
        (
            [SAME, SAME, changed("data", **{"the fingerprint of data.task.path": "cd"})],
            ['the fingerprint of data.task.path is "cd" for process 2 on c and "ab" for process 0 on a; copy it'],
        ),
        (
            [SAME, changed("experiment", seed=1, extra="x"), changed("data", other=1)],
            [
                'extra is "x" for process 1 on b and null for process 0 on a,'
                " and seed is 1 for process 1 on b and 0 for process 0 on a; start alike",
                "other is 1 for process 2 on c and null for process 0 on a; copy it",
            ],
        ),
        (
            [SAME, *(changed("experiment", seed=n) for n in range(1, 5))],
            [
                "seed is 1 for process 1 on b, 2 for process 2 on c, 3 for process 3 on d and 1 more and 0 for process"
                " 0 on a; start alike"
            ],
        ),
        (
            [SAME, changed("experiment", a=1, b=1, c=1, d=1, e=1)],
            [
                "a is 1 for process 1 on b and null for process 0 on a, and b is 1 for process 1 on b and null for"
                " process 0 on a, and c is 1 for process 1 on b and null for process 0 on a (and 2 more);"
                " start alike"
            ],
        ),
    ],
    ids=["none", "one of two", "the first", "data", "two sections", "many processes", "many fields"],
)
def test_the_field_and_the_process_are_named(tables, expected):
    assert agreement.disagreements(tables, "abcdefgh", ADVICE) == expected


def test_a_process_alone_agrees_with_itself():
    agreement.require(SAME, advice=ADVICE)
    agreement.require_shared(epath.Path("/nowhere/at/all"), "--workdir")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that is taken for this one."""
    (tmp_path / "t5x_like" / "parallel").mkdir(parents=True)
    monkeypatch.setattr(code, "_PACKAGE", tmp_path / "t5x_like")
    return tmp_path / "t5x_like"


def test_the_code_is_known_by_its_source(package):
    seen = []
    for name, text in [("a.py", "x"), ("a.py", "y"), ("b.py", ""), ("parallel/a.py", "y"), ("notes.txt", "z")]:
        (package / name).write_text(text)
        seen.append(code.identity({})["t5x_like's source"])
    assert len(set(seen[:4])) == 4 and seen[3] == seen[4] == code.identity({})["t5x_like's source"]


def test_the_code_is_that_of_the_users_modules_too(package, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tasks").mkdir()
    for name in ("tasks/__init__.py", "tasks/more.py", "one.py", "by_name.py"):
        (tmp_path / name).write_text("")
    modules = (str(tmp_path / "one.py"), "by_name", "tasks")
    importlib.import_module("by_name")
    importlib.import_module("tasks")
    before = code.identity({}, modules)
    for module, changed in zip(modules, ("one.py", "by_name.py", "tasks/more.py"), strict=True):
        (tmp_path / changed).write_text("1")
        now = code.identity({}, modules)
        assert [field for field in now if now[field] != before[field]] == [f"the source of --module={module}"]
        before = now


def test_the_code_is_its_packages_and_the_compilers_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1  --xla_dump_to=/tmp/of-this-host --xla_b=2")
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    found = code.identity({"flax": "1.2", "t5x_like": "0"})
    assert found["the version of flax"] == "1.2" and "the version of t5x_like" not in found
    assert found["XLA_FLAGS"] == "--xla_a=1 --xla_b=2" and found["LIBTPU_INIT_ARGS"] is None
