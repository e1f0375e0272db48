"""The Experiment: types, choices by name, errors that name a field, and JSON there and back."""

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from typing import Annotated, Any

import pytest

from t5x_like import migrations, registry
from t5x_like.checks import real, require_at_least, require_below, require_one_of, require_positive, whole
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment, differences
from t5x_like.sections import Choice, Choices, flatten, section

MODEL = {"family": "gpt2", "size": "124m"}
NAN = types.SimpleNamespace(nan=float("nan"))


def experiment(**values):
    return Experiment.from_dict({"model": MODEL, **values})


# A small tree of every kind of field, so that the rules are tested apart from what the experiment happens to have.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    number: int = 1

    def __post_init__(self):
        require_positive(self, "number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circle:
    name: str = "circle"
    radius: float = 1.0
    inner: Annotated[Any, Choice("shape", default="square")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square:
    name: str = "square"
    side: int = 1
    size: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    integer: int = 0
    real: float = 0.0
    flag: bool = False
    text: str = ""
    texts: tuple[str, ...] = ()
    table: Mapping[str, int] = dataclasses.field(default_factory=dict)
    maybe: int | None = None
    either: float | str = 0.0
    parts: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
    inner: Inner
    shape: Annotated[Any, Choice("shape", default="circle")]
    shapes: Annotated[Mapping[str, Any], Choices("shape")]


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    """A kind of its own in the registry."""
    module = types.ModuleType("shapes_for_tests")
    module.Circle = Circle
    module.SQUARE = registry.Preset(Square, {"side": 2}, {"big": {"side": 9}})
    monkeypatch.setitem(sys.modules, "shapes_for_tests", module)
    entries = {"circle": "shapes_for_tests:Circle", "square": "shapes_for_tests:SQUARE"}
    monkeypatch.setitem(registry._TABLE, "shape", entries)


def build(**values):
    return section(Outer, values, "")


@pytest.mark.parametrize(
    ("field", "given", "value"),
    [
        ("integer", 3, 3),
        ("integer", 3.0, 3),  # 1e6 is how people write a million
        ("real", 3, 3.0),
        ("flag", True, True),
        ("text", "a", "a"),
        ("texts", ["a", "b"], ("a", "b")),
        ("texts", (), ()),
        ("table", {"a": 1.0}, {"a": 1}),
        ("maybe", None, None),
        ("maybe", 3, 3),
        ("either", 2, 2.0),
        ("either", "a", "a"),
        ("inner", {"number": 2}, Inner(number=2)),
        ("parts", {"a": {"number": 2}}, {"a": Inner(number=2)}),
        ("shape", "square", Square(side=2)),
        ("shape", {"name": "square", "size": "big"}, Square(side=9, size="big")),
        ("shape", {"name": "square", "size": "big", "side": 3}, Square(side=3, size="big")),
        ("shape", {"radius": 2}, Circle(radius=2.0)),
        ("shape", {"inner": "square"}, Circle(inner=Square(side=2))),
        ("shapes", {"circle": {"radius": 2}}, {"circle": Circle(radius=2.0)}),
        ("shapes", {"first": "circle", "second": {"name": "square"}}, {"first": Circle(), "second": Square(side=2)}),
    ],
)
def test_values_become_what_the_field_declares(field, given, value):
    built = getattr(build(**{field: given}), field)
    assert built == value
    assert type(built) is type(value)


def test_sections_that_are_not_given_have_their_defaults():
    built = build()
    assert (built.inner, built.shape, built.shapes) == (Inner(), Circle(), {})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"intger": 3}, "intger: there is no such field; did you mean 'integer'?"),
        ({"integer": 3.5}, "integer: 3.5 is not int"),
        ({"integer": True}, "integer: True is not int"),
        ({"integer": "3"}, "integer: '3' is not int"),
        ({"integer": None}, "integer: None is not int; leave it out for the default"),
        ({"integer": float("nan")}, "integer: nan is not int"),
        ({"integer": float("inf")}, "integer: inf is not int"),
        ({"integer": 1 << 63}, "integer: it does not fit in 64 bits; it must be at least -2^63 and below 2^63"),
        ({"integer": 1e30}, "integer: it does not fit in 64 bits; it must be at least -2^63 and below 2^63"),
        ({"integer": -(10**5000)}, "integer: it does not fit in 64 bits; it must be at least -2^63 and below 2^63"),
        ({"real": True}, "real: True is not float"),
        ({"real": float("nan")}, "real: nan is not a finite number"),
        ({"real": float("inf")}, "real: inf is not a finite number"),
        ({"flag": 1}, "flag: 1 is not bool"),
        ({"text": 1}, "text: 1 is not str"),
        ({"texts": "ab"}, "texts: 'ab' is not a list; write ['ab']"),
        ({"texts": ["a", 1]}, "texts[1]: 1 is not str"),
        ({"table": {"a": "b"}}, "table.a: 'b' is not int"),
        ({"table": 3}, "table: 3 is one value; it must be a section with fields of its own"),
        ({"shapes": 3}, "shapes: 3 is one value; it must be a section with fields of its own"),
        ({"table": {3: 3}}, "table: 3 names no field; names are text"),
        ({"inner": {3: 3}}, "inner: 3 names no field; names are text"),
        ({"maybe": "a"}, "maybe: 'a' is not int or nothing"),
        ({"inner": 3}, "inner: 3 is one value; it must be a section with fields of its own"),
        ({"inner": {"number": 0}}, "inner.number: 0 is too small; it must be at least 1"),
        ({"parts": {"a": {"number": 0}}}, "parts.a.number: 0 is too small; it must be at least 1"),
        ({"shape": "circel"}, "shape.name: there is no shape 'circel'; did you mean 'circle'?"),
        ({"shape": 3}, "shape: 3 is neither a name nor a section with a 'name'"),
        ({"shape": {"name": 3}}, "shape.name: there is no shape 3; it must be one of circle, square"),
        ({"shape": {"sides": 3}}, "shape.sides: there is no such field; it must be one of name, radius, inner"),
        (
            {"shape": {"side": 3}},
            "shape.side: it is an option of 'square', and name here is 'circle'; choose 'square' or leave it out",
        ),
        ({"shape": {"name": "square", "size": "bigg"}}, "shape.size: there is no size 'bigg'; did you mean 'big'?"),
        ({"shape": {"inner": {"sid": 3}}}, "shape.inner.sid: there is no such field; did you mean 'side'?"),
        ({"shapes": {"mine": {}}}, "shapes.mine.name: there is no shape 'mine'; it must be one of circle, square"),
    ],
)
def test_a_value_that_cannot_be_is_named(values, sentence):
    with pytest.raises(ExperimentError) as caught:
        build(**values)
    assert str(caught.value) == sentence


def test_an_error_knows_where_it_is():
    error = ExperimentError("number", "it is odd").under("inner").under("shape")
    assert (error.where, error.problem, str(error)) == (
        "shape.inner.number",
        "it is odd",
        "shape.inner.number: it is odd",
    )
    assert str(ExperimentError("", "all of it is odd").under("shape")) == "shape: all of it is odd"


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (lambda o: require_positive(o, "integer"), "integer: 0 is too small; it must be at least 1"),
        (lambda o: require_one_of(o, "text", ("full", "none")), "text: 'ful' is not known; did you mean 'full'?"),
        (lambda o: require_at_least(o, 2, "real"), "real: 1.5 is too small; it must be at least 2"),
        (lambda o: require_below(o, 1, "real"), "real: 1.5 is too large; it must be below 1"),
        (lambda o: require_at_least(NAN, 2, "nan"), "nan: nan is too small; it must be at least 2"),
        (lambda o: require_positive(NAN, "nan"), "nan: nan is too small; it must be at least 1"),
        (lambda o: require_below(NAN, 1, "nan"), "nan: nan is too large; it must be below 1"),
    ],
)
def test_checks_name_the_field_and_what_would_be_right(check, sentence):
    with pytest.raises(ExperimentError) as caught:
        check(build(text="ful", real=1.5))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("parser", "text", "sentence"),
    [
        (whole("--n"), "x", "--n: 'x' is no whole number; give one such as 0"),
        (whole("--n", 1), "1.5", "--n: '1.5' is no whole number; give one such as 1"),
        (whole("--n"), str(1 << 63), "--n: 9223372036854775808 is too large; it must be at most 9223372036854775807"),
        (whole("--n", 1), "0", "--n: 0 is too small; it must be at least 1"),
        (whole("--n", 0, 7), "8", "--n: 8 is too large; it must be at most 7"),
        (real("--t"), "warm", "--t: 'warm' is no finite number; give one such as 1"),
        (real("--t", 0), "nan", "--t: 'nan' is no finite number; give one such as 1"),
        (real("--t", 0), "1e999", "--t: '1e999' is no finite number; give one such as 1"),
        (real("--t", 0), "-0.5", "--t: -0.5 is too small; it must be at least 0"),
        (real("--t", 0, 1), "1.5", "--t: 1.5 is too large; it must be at most 1"),
    ],
)
def test_a_flag_s_number_is_refused_in_one_sentence(parser, text, sentence):
    with pytest.raises(UserError) as caught:
        parser(text)
    assert str(caught.value) == sentence


def test_a_flag_s_number_is_read():
    assert [whole("--n", 1)("7"), whole("--n")("-9223372036854775808"), real("--t", 0, 1)("0.5")] == [
        7,
        -(1 << 63),
        0.5,
    ]


def test_checks_let_pass_what_is_right():
    options = build(integer=1, real=0.5, text="full")
    require_positive(options, "integer")
    require_one_of(options, "text", ("full", "none"))
    require_at_least(options, 0.5, "real")
    require_below(options, 2, "real", "integer")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 0}, "steps: 0 is too small; it must be at least 1"),
        ({"steps": 1 << 31}, "steps: 2147483648 is too large; it must be below 2147483648"),
        ({"seed": 1 << 64}, "seed: it does not fit in 64 bits; it must be at least -2^63 and below 2^63"),
        ({"data": {"batch_size": float("nan")}}, "data.batch_size: nan is not int"),
        (
            {"data": {"batch_size": 8, "lanes": 3}},
            "data.batch_size: 8 rows cannot be shared by 3 lanes; make it a multiple of data.lanes",
        ),
        (
            {"parallelism": {"microbatches": 3}},
            "parallelism.microbatches: 3 microbatches do not divide data.batch_size=8; use a divisor of it",
        ),
        ({"parallelism": {"data": 0}}, "parallelism.data: 0 devices; it must be at least 1, or -1 for the rest"),
        (
            {"parallelism": {"stage_rounds": 2}},
            "parallelism.stage_rounds: 2 is for several stages; set parallelism.stage, or leave it at 1",
        ),
        (
            {"parallelism": {"stage_microbatches": 4}},
            "parallelism.stage_microbatches: 4 is for several stages; set parallelism.stage, or leave it at 0",
        ),
        (
            {"parallelism": {"stage": 4, "stage_rounds": 2, "stage_microbatches": 6}},
            "parallelism.stage_microbatches: 6 microbatches cannot go round 4 stages together; in several rounds make"
            " it a multiple of parallelism.stage=4",
        ),
        ({"parallelism": {"remat": "ful"}}, "parallelism.remat: 'ful' is not known; did you mean 'full'?"),
        ({"checkpoint": {"every": -1}}, "checkpoint.every: -1 is too small; it must be at least 0"),
        (
            {"checkpoint": {"best_mode": "lowest"}},
            "checkpoint.best_mode: 'lowest' is not known; it must be one of min, max",
        ),
        ({"telemetry": {"every": 0}}, "telemetry.every: 0 is too small; it must be at least 1"),
        ({"model": {"family": "gpt2"}}, "model.embed: it is not given, and has no default"),
        ({"model": {"family": "gtp2"}}, "model.family: there is no model 'gtp2'; did you mean 'gpt2'?"),
        (
            {"data": {"sequence_length": 2048}},
            "data.sequence_length: 2048 tokens exceed model.max_length=1024; raise that or cut",
        ),
        (
            {"optimizer": {"schedule": {"name": "cosin"}}},
            "optimizer.schedule.name: there is no schedule 'cosin'; did you mean 'cosine'?",
        ),
        (
            {"evaluators": {"validation": "los"}},
            "evaluators.validation.name: there is no evaluator 'los'; did you mean 'loss'?",
        ),
    ],
)
def test_an_experiment_that_cannot_be_is_named_before_anything_runs(values, sentence):
    with pytest.raises(ExperimentError) as caught:
        experiment(**values)
    assert str(caught.value) == sentence


def test_microbatches_need_an_objective_that_is_a_sum_over_examples(monkeypatch):
    plain = experiment(parallelism={"microbatches": 2})
    monkeypatch.setattr(type(plain.objective), "couples_batch", True)
    with pytest.raises(ExperimentError) as caught:
        experiment(parallelism={"microbatches": 2})
    assert str(caught.value) == (
        "parallelism.microbatches: objective 'causal_lm' couples the examples of a batch, so it must be 1"
    )


FULL = {
    "name": "full",
    "seed": 3,
    "steps": 20,
    "model": {**MODEL, "dropout": 0.5},
    "optimizer": {"name": "muon", "weight_decay_kinds": ["matrix"], "schedule": {"name": "wsd", "warmup_steps": 2}},
    "objective": {"normalization": 100},
    "evaluators": {"validation": {"name": "loss", "every": 5}, "samples": {"prompts": ["a", "b"]}},
}


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "full"])
def test_json_there_and_back_is_the_same_experiment(values):
    built = experiment(**values)
    assert Experiment.from_json(built.to_json()) == built
    plain = built.to_dict()
    assert {"schema": migrations.newest(), **plain} == json.loads(built.to_json())
    assert Experiment.from_dict(plain).to_dict() == plain
    # Every default is spelled out, those of choices and presets too.
    assert plain["model"]["decoder"]["layers"] == 12
    assert plain["optimizer"]["schedule"]["warmup_steps"] == built.optimizer.schedule.warmup_steps


def test_json_holds_nothing_but_json():
    def check(value):
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            list(map(check, value.values()))
        elif isinstance(value, list):
            list(map(check, value))
        else:
            assert value is None or type(value) in (str, int, float, bool)

    check(experiment(**FULL).to_dict())


def test_an_experiment_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment().steps = 3


def test_differences_name_what_differs():
    a = experiment(steps=3)
    b = experiment(steps=4, optimizer={"name": "sgd"}, evaluators={"loss": {}})
    found = differences(a, b)
    assert found["steps"] == (3, 4)
    assert found["optimizer.name"] == ("adamw", "sgd")
    assert found["optimizer.b1"] == (a.optimizer.b1, None)
    assert found["evaluators.loss.split"] == (None, "validation")
    assert "seed" not in found
    assert differences(a, experiment(steps=3)) == {}


def test_flatten_spells_paths_as_they_are_typed():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
