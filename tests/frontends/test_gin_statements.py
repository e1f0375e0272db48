"""gin text as statements: syntax, includes, and what is said of text that is not gin."""

import pytest

from t5x_like.errors import UserError
from t5x_like.frontends.gin.statements import Binding, Import, Macro, Reference, read_files, read_flags


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes files, given by relative path, into an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / (name.replace("__", "/") + ".gin")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_statements_keep_their_lines(files):
    files(a="import seqio\nfrom t5x import utils as u\n\nX = 3  # three\nscope/utils.Config:\n  a = %X\n  b = @f()\n")
    assert read_files(["a.gin"], []) == [
        Import("seqio", "seqio", "a.gin:1"),
        Import("t5x.utils", "u", "a.gin:2"),
        Binding("", "X", "", 3, "a.gin:4"),
        Binding("scope", "utils.Config", "a", Macro("X"), "a.gin:6"),
        Binding("scope", "utils.Config", "b", Reference("f", True), "a.gin:7"),
    ]


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("--gin.TRAIN_STEPS=200", "TRAIN_STEPS", 200),
        ('--gin.MODEL_DIR="runs/b"', "MODEL_DIR", "runs/b"),
        ("--gin.train/utils.DatasetConfig.batch_size=4", "train/utils.DatasetConfig.batch_size", 4),
        ("--gin.TASK_FEATURE_LENGTHS={'targets': 8}", "TASK_FEATURE_LENGTHS", {"targets": 8}),
        ("A.b = (1, 'x')", "A.b", (1, "x")),
    ],
)
def test_flags_are_bindings(flag, name, value):
    (binding,) = read_flags([flag])
    assert (binding.name, binding.value) == (name, value)


@pytest.mark.parametrize(("name", "short"), [("f", "f"), ("a.b.f", "f"), ("train/a.b.f", "train/f")])
def test_a_reference_has_a_short_name(name, short):
    assert Reference(name, False).short_name == short


def test_includes_are_looked_for_beside_the_file_then_on_the_search_path_then_among_the_shipped(files):
    files(
        runs__a="include 'near.gin'\ninclude 'far.gin'\ninclude 'gin/tasks/sotu.gin'\ninclude 'tasks/sotu.gin'\nX = 1",
        runs__near="X = 2",
        elsewhere__near="X = 3",
        elsewhere__far="X = 4",
    )
    found = read_files(["runs/a.gin"], ["elsewhere"])
    assert [(s.selector, s.value) for s in found] == [
        ("X", 2),
        ("X", 4),
        ("data", "sotu"),
        ("data", "sotu"),
        ("X", 1),
    ]
    assert [s.where for s in found][:3] == ["near.gin:1", "far.gin:1", "gin/tasks/sotu.gin:3"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("t5x/configs/runs/pretrain.gin", "gin/runs/pretrain.gin"),
        ("t5x/examples/t5/mt5/xl.gin", "gin/models/mt5/xl.gin"),
    ],
)
def test_shipped_files_stand_in_for_t5xs_unless_the_user_has_those(name, ours, files):
    files(a=f"include '{name}'")
    found = [(statement.name, statement.value) for statement in read_files(["a.gin"], [])]
    assert found == [(statement.name, statement.value) for statement in read_files([ours], [])]
    files(**{f"tree__{name.removesuffix('.gin').replace('/', '__')}": "X = 1"})
    assert [statement.value for statement in read_files(["a.gin"], ["tree"])] == [1]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"a": "X = 1 2"}, "a.gin:1: this is not gin: Expected newline"),
        ({"a": "Y = 1\nX = foo\n"}, "a.gin:2: this is not gin: the value is not a literal"),
        ({"a": "Y = 1\nX 3\n"}, "a.gin:2: this is not gin: Couldn't parse statement, expected ':' or '='"),
        (
            {"a": "include 'b.gin'", "b": "include 'a.gin'"},
            "b.gin:1: include: a.gin includes itself, through a.gin and b.gin",
        ),
        (
            {"a": "include 'gin/runs/pretain.gin'"},
            "a.gin:1: include: there is no gin file 'gin/runs/pretain.gin'; did you mean 'gin/runs/pretrain.gin'?",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(files, texts, sentence):
    files(**texts)
    with pytest.raises(UserError) as caught:
        read_files(["a.gin"], [])
    assert str(caught.value) == sentence


def test_a_bracket_that_stays_open_is_one_sentence(files):
    files(a="X = (1,")
    with pytest.raises(UserError, match=r"^a.gin:\d: this is not gin: .*multi-line statement$"):
        read_files(["a.gin"], [])


@pytest.mark.parametrize("name", ["t5x/examples/scalable_t5/mt5/base.gin", "t5x/contrib/moe/runs/pretrain.gin"])
def test_a_file_of_t5x_that_nothing_stands_in_for_is_named(name, files):
    files(a=f"X = 1\ninclude '{name}'")
    problem = (
        rf"^a.gin:2: include: there is no file '{name}'; give .* --gin_search_paths=DIR, and see docs/from-t5x.md$"
    )
    with pytest.raises(UserError, match=problem):
        read_files(["a.gin"], [])


def test_bytes_that_are_no_text_are_one_sentence(tmp_path):
    (tmp_path / "a.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="it cannot be read: 'utf-8' codec"):
        read_files([str(tmp_path / "a.gin")], [])


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        (
            "--gin.MODEL_DIR=runs/b",
            "--gin.MODEL_DIR: this is not gin: the value is not a literal; text needs quotes of its own:"
            " --gin.MODEL_DIR='\"runs/b\"'",
        ),
        ("--gin.X", "--gin.X: this is not gin: Couldn't parse statement, expected ':' or '='"),
        ("include 'a.gin'", "include 'a.gin': a flag cannot include a file; give it with --gin_file"),
    ],
)
def test_a_wrong_flag_is_one_sentence(flag, sentence):
    with pytest.raises(UserError) as caught:
        read_flags([flag])
    assert str(caught.value) == sentence
