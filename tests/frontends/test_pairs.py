"""Overrides: how a typed value is read, and what a path replaces."""

import pytest

from t5x_like.errors import ExperimentError, UserError
from t5x_like.frontends import pairs


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3", 3),
        ("-1", -1),
        ("1_000", 1000),
        ("0.5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("none", "none"),  # a remat policy
        ("adamw", "adamw"),
        ("gs://bucket/a.jsonl", "gs://bucket/a.jsonl"),
        ("'3'", "3"),
        ('["a", 1]', ["a", 1]),
        ("(1, 2)", (1, 2)),
        ('{"every": 20}', {"every": 20}),
        ("", ""),
        ("007", "007"),
        (r"'C:\data'", "C:\\data"),
        ("1+2j", "1+2j"),
        ("b'x'", "b'x'"),
        ("{1: 2}", "{1: 2}"),
        ("{[]: 1}", "{[]: 1}"),
        ("(" * 300, "(" * 300),
    ],
)
def test_a_typed_value_is_a_literal_or_the_text_itself(text, value):
    parsed = pairs.parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_flags_have_two_spellings():
    given = ["--config.a.b=1", "--config.a.c", "x", "--config.d", "-1", "--config.e=k=v"]
    assert pairs.parse_flags(given) == [("a.b", 1), ("a.c", "x"), ("d", -1), ("e", "k=v")]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--confg.steps=3"], "'--confg.steps=3' is not understood; a field is set with --config.FIELD=VALUE"),
        (["steps=3"], "'steps=3' is not understood; a field is set with --config.FIELD=VALUE"),
        (["--config.steps"], "--config.steps has no value; write --config.steps=VALUE"),
        (["--config.steps", "--config.seed=1"], "--config.steps has no value; write --config.steps=VALUE"),
        (["--config.=3"], "'--config.=3' names no field; a field is set with --config.FIELD=VALUE"),
        (["--config.data..x=3"], "'--config.data..x=3' names no field; a field is set with --config.FIELD=VALUE"),
    ],
)
def test_what_is_no_override_is_named(flags, sentence):
    with pytest.raises(UserError) as caught:
        pairs.parse_flags(flags)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("values", "given", "result"),
    [
        ({}, [("steps", 3), ("steps", 4)], {"steps": 4}),
        ({}, [("optimizer.schedule.warmup_steps", 5)], {"optimizer": {"schedule": {"warmup_steps": 5}}}),
        # A bare name replaces the section; what follows refines it.
        (
            {"optimizer": {"name": "muon", "momentum": 0.9}},
            [("optimizer", "adamw"), ("optimizer.b2", 0.95)],
            {"optimizer": {"name": "adamw", "b2": 0.95}},
        ),
        # The tag keeps the other fields.
        (
            {"optimizer": {"name": "muon", "learning_rate": 0.1}},
            [("optimizer.name", "lion")],
            {"optimizer": {"name": "lion", "learning_rate": 0.1}},
        ),
        # Names given bare by a config file can be refined too, whatever their tag.
        ({"model": "gpt2"}, [("model.size", "124m")], {"model": {"family": "gpt2", "size": "124m"}}),
        ({"data": {"task": "sotu"}}, [("data.task.name", "text")], {"data": {"task": {"name": "text"}}}),
        (
            {"optimizer": {"schedule": "linear"}},
            [("optimizer.schedule.warmup_steps", 1)],
            {"optimizer": {"schedule": {"name": "linear", "warmup_steps": 1}}},
        ),
        (
            {"data": {"task": {"name": "text", "path": "a"}}},
            [("data.task", {"name": "sotu"})],
            {"data": {"task": {"name": "sotu"}}},
        ),
    ],
)
def test_pairs_are_laid_over_in_order(values, given, result):
    before = repr(values)
    assert pairs.apply(values, given) == result
    assert repr(values) == before


def test_a_section_that_was_given_as_a_value_is_not_shared():
    given = {"name": "text"}
    pairs.apply({}, [("data.task", given), ("data.task.path", "a")])
    assert given == {"name": "text"}


def test_a_path_through_a_plain_value_is_an_error():
    with pytest.raises(ExperimentError) as caught:
        pairs.apply({"steps": 3}, [("steps.every", 4)])
    assert str(caught.value) == "steps.every: steps is 3, which has no fields"
