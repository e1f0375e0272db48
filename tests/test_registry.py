"""The table of names: what is in it loads, what is not is suggested, and users may add to it."""

from dataclasses import dataclass, fields, is_dataclass

import pytest

from t5x_like import registry
from t5x_like.errors import ExperimentError

ENTRIES = [(kind, name) for kind in registry.kinds() for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_name_stands_for_options(kind, name):
    entry = registry.load(kind, name)
    options = entry.options if isinstance(entry, registry.Preset) else entry
    assert is_dataclass(options)
    tag = "family" if kind == "model" else "name"
    assert tag in {field.name for field in fields(options)}


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_a_preset_sets_only_fields_that_there_are(kind, name):
    entry = registry.load(kind, name)
    if isinstance(entry, registry.Preset):
        known = {field.name for field in fields(entry.options)}
        assert set(entry.values) <= known
        assert all(set(values) <= known for values in entry.sizes.values())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adamv", "a.b: there is no optimizer 'adamv'; did you mean 'adamw'?"),
        ("zzz", "a.b: there is no optimizer 'zzz'; it must be one of adamw, adafactor, lion, muon, sgd"),
        (3, "a.b: there is no optimizer 3; it must be one of adamw, adafactor, lion, muon, sgd"),
    ],
)
def test_an_unknown_name_is_an_error(name, sentence):
    with pytest.raises(ExperimentError) as caught:
        registry.check("optimizer", name, "a.b")
    assert str(caught.value) == sentence


def test_checking_a_name_imports_nothing(monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    assert registry.check("optimizer", "adamw", "optimizer") == "adamw"


def test_a_user_s_own_name(monkeypatch):
    table = {kind: dict(registry._TABLE[kind]) for kind in registry.kinds()}
    monkeypatch.setattr(registry, "_TABLE", table)
    registry.register("task", "mine", "pathlib:Path")
    registry.register("task", "mine", "pathlib:Path")  # a module imported again
    assert registry.names("task")[-1] == "mine"
    assert registry.load("task", "mine").__name__ == "Path"
    with pytest.raises(ValueError, match="task 'mine' is already pathlib:Path"):
        registry.register("task", "mine", "pathlib:PurePath")


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str
    size: str = ""
    width: int = 0
    depth: int = 0


PRESET = registry.Preset(
    Shape,
    values={"width": 1, "depth": 1},
    sizes={"small": {"width": 2}, "large": {"width": 8, "depth": 8}},
)


@pytest.mark.parametrize(
    ("given", "width", "depth"),
    [({}, 1, 1), ({"size": "small"}, 2, 1), ({"size": "large", "depth": 3}, 8, 3), ({"size": "", "width": 5}, 5, 1)],
)
def test_a_preset_s_values_give_way_to_its_size_and_both_to_what_is_given(given, width, depth):
    values = {**PRESET.values, **PRESET.of_size({**PRESET.values, **given}, "model"), **given}
    assert (values["width"], values["depth"]) == (width, depth)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ("smal", "model.size: there is no size 'smal'; did you mean 'small'?"),
        (7, "model.size: there is no size 7; it must be one of small, large"),
    ],
)
def test_an_unknown_size_is_an_error(size, sentence):
    with pytest.raises(ExperimentError) as caught:
        PRESET.of_size({"size": size}, "model")
    assert str(caught.value) == sentence
