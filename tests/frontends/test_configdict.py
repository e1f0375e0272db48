"""The Python spelling: where files are found, what they may return, and overrides over them."""

import textwrap

import pytest

from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment
from t5x_like.frontends import configdict, shipped

SHIPPED = shipped.listing("configs", ".py")


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    """Writes a config file into an empty working directory and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "mine.py").write_text(textwrap.dedent(text))
        return "mine.py"

    return write


MINE = """
    import ml_collections
    MODEL = {"family": "gpt2", "size": "124m"}
    def get_config(argument=None):
        return ml_collections.ConfigDict({"name": argument or "mine", "steps": 40, "model": MODEL}).lock()
"""


def test_defaults_fill_what_the_file_leaves_out(config_file):
    values = {"name": "mine", "steps": 40, "model": {"family": "gpt2", "size": "124m"}}
    assert configdict.load(config_file(MINE)) == Experiment.from_dict(values)


def test_overrides_win_and_the_last_one_most(config_file):
    flags = [
        "--config.steps=50",
        "--config.optimizer=lion",
        "--config.optimizer.learning_rate",
        "1e-4",
        "--config.steps=60",
    ]
    experiment = configdict.load(config_file(MINE), flags)
    assert (experiment.steps, experiment.optimizer.name, experiment.optimizer.learning_rate) == (60, "lion", 1e-4)


def test_the_argument_reaches_get_config(config_file):
    assert configdict.load(config_file(MINE) + ":small: 1").name == "small: 1"


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_files_resolve_from_any_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(configdict.load(path), Experiment)


def test_a_file_in_the_working_directory_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.py").write_text(textwrap.dedent(MINE))
    assert configdict.load("configs/quickstart.py").name == "mine"


@pytest.mark.parametrize("path", ["configs/quikstart.py", "quickstart.py", "config/quickstart.py"])
def test_a_missing_file_suggests_the_nearest_shipped_one(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        configdict.load(path)
    assert str(caught.value) == f"there is no experiment file {path!r}; did you mean 'configs/quickstart.py'?"


def test_a_missing_file_like_no_other_lists_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^there is no experiment file 'zzz'; these are shipped: .*configs/quickstart.py"
    ):
        configdict.load("zzz")


def test_what_refers_to_an_overridden_field_follows_it(config_file):
    path = config_file("""
        import ml_collections
        from ml_collections import config_dict
        def get_config():
            config = ml_collections.ConfigDict({"model": {"family": "gpt2", "size": "124m"}})
            config.seed = config_dict.required_placeholder(int)
            config.steps = 50
            config.checkpoint = ml_collections.ConfigDict({"every": config.get_ref("steps") // 5})
            return config
    """)
    assert configdict.load(path, ["--config.seed=3"]).checkpoint.every == 10
    assert configdict.load(path, ["--config.seed=3", "--config.steps=100"]).checkpoint.every == 20
    overridden = configdict.load(path, ["--config.steps=100", "--config.checkpoint.every=7", "--config.seed=3"])
    assert (overridden.steps, overridden.checkpoint.every, overridden.seed) == (100, 7, 3)
    with pytest.raises(ExperimentError) as caught:
        configdict.load(path)
    assert str(caught.value) == "seed: mine.py leaves it open; set it with --config.seed=VALUE"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "mine.py: it has no get_config(argument=None); add one that returns an ml_collections.ConfigDict"),
        ("x = 1\ny = nothing", "mine.py:2: NameError: name 'nothing' is not defined"),
        ("def get_config(:", "mine.py:1: SyntaxError: invalid syntax"),
        ("def get_config():\n    return {}['a']", "mine.py:2: KeyError: 'a'"),
        (
            "def get_config():\n    return 3",
            "mine.py: get_config returned int; it must return an ml_collections.ConfigDict",
        ),
    ],
)
def test_a_broken_file_is_one_sentence(config_file, text, sentence):
    with pytest.raises(UserError) as caught:
        configdict.load(config_file(text))
    assert str(caught.value) == sentence


def test_an_argument_that_nothing_takes_is_an_error(config_file):
    path = config_file("def get_config():\n    return {}")
    with pytest.raises(UserError) as caught:
        configdict.load(path + ":x")
    assert str(caught.value) == "mine.py: its get_config takes no argument, so 'x' cannot be handed to it"


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--config.stpes=3", "stpes: there is no such field; did you mean 'steps'?"),
        ("--config.optimizer=adamv", "optimizer.name: there is no optimizer 'adamv'; did you mean 'adamw'?"),
        ("--config.data.task=sotv", "data.task.name: there is no task 'sotv'; did you mean 'sotu'?"),
        ("--config.data.batch_size=big", "data.batch_size: 'big' is not int"),
        ("--config.data=3", "data: 3 is one value; it must be a section with fields of its own"),
        (
            "--config.data.batch_size=12",
            "data.batch_size: 12 rows cannot be shared by 8 lanes; make it a multiple of data.lanes",
        ),
    ],
)
def test_a_wrong_override_names_its_field(config_file, flag, sentence):
    with pytest.raises(ExperimentError) as caught:
        configdict.load(config_file(MINE), [flag])
    assert str(caught.value) == sentence


HABITS = """
import ml_collections
from ml_collections import config_dict

def get_config():
    return ml_collections.ConfigDict({
        "model": {
            "family": "gpt2",
            "size": "124m",
            "decoder": {"pattern": [{"attention": {"window": 64}}, {}]},
        },
        "data": {"batch_size": config_dict.placeholder(int), "seed": 3},
        "seed": config_dict.placeholder(int),
        "steps": ml_collections.FieldReference(7),
        "evaluators": {"a": {"name": "loss"}, "b": {"name": "samples"}},
    })
"""


@pytest.mark.parametrize(
    ("flag", "path", "value"),
    [
        ("--config.steps=8", "steps", 8),
        ("--config.data.seed=None", "data.seed", None),  # a field that allows it
        ("--config.steps=8", "seed", 0),  # nobody has filled the placeholder
        ("--config.data.batch_size=16", "data.batch_size", 16),
        ("--config.evaluators.b=None", "evaluators", ["a"]),  # one dropped
        ("--config.evaluators.c.name=loss", "evaluators", ["a", "b", "c"]),  # one added
        ("--config.evaluators.b.prompts=('x', 'y')", "evaluators.b.prompts", ("x", "y")),
        ("--config.model.decoder.pattern[0].attention.window=32", "model.decoder.pattern[0].attention.window", 32),
    ],
)
def test_a_habit_of_ml_collections(tmp_path, flag, path, value):
    (tmp_path / "habits.py").write_text(HABITS)
    found = configdict.load(str(tmp_path / "habits.py"), [flag]).to_dict()
    for step in path.replace("[0]", ".0").split("."):
        found = found[int(step)] if step.isdigit() else found[step]
    assert (list(found) if isinstance(value, list | tuple) else found) == (
        list(value) if isinstance(value, tuple) else value
    )


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--config.steps=None", "steps: None is not int; leave it out for the default"),
        ("--config.evaluators.b.prompts=x, y", "evaluators.b.prompts: 'x, y' is not a list; write ['x', 'y']"),
        (
            "--config.model.decoder.pattern[2]={}",
            "model.decoder.pattern[2]: model.decoder.pattern has 2 items, so the last is model.decoder.pattern[1]",
        ),
        (
            "--config.model.decoder.pattern[a]={}",
            "model.decoder.pattern[a]: 'pattern[a]' has an index that is no number; write it as pattern[0]",
        ),
        (
            "--config.evaluators.b.prompts[0]=x",
            "evaluators.b.prompts[0]: evaluators.b.prompts is no list in the config that this changes; give the whole"
            " list",
        ),
    ],
)
def test_a_habit_that_does_not_work_says_what_does(tmp_path, flag, sentence):
    (tmp_path / "habits.py").write_text(HABITS)
    with pytest.raises(ExperimentError) as caught:
        configdict.load(str(tmp_path / "habits.py"), [flag])
    assert str(caught.value) == sentence
