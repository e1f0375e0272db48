"""A task that cleans its texts while they are read: by index, as a stream, and the same as `prepare`."""

import dataclasses
import itertools
import json
import types

import numpy as np
import pytest
from etils import epath

from t5x_like.data import cache, inspection
from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.prepare import prepare
from t5x_like.data.prepare_steps import Plan, cleaner_of
from t5x_like.data.token_shards import TokensTask
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Data
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.sections import section

STAGES = [{"name": "c4", "min_sentences": 2}, {"name": "refined_web_lines", "max_edited": 1.0}]
SHAPE = {"sequence_length": 16, "batch_size": 8, "lanes": 4, "seed": 3, "shuffle_window": 4}


def texts(first, count=40):
    """Pages with lines to take out, and every third to be dropped."""
    for i in range(first, first + count):
        sentences = [f"This is sentence {j} of the page {i}." for j in range(1 if i % 3 == 1 else 2 + i % 4)]
        yield "\n".join(["Home | About", *sentences, "12 likes"])


@pytest.fixture
def pages(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in range(3):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts(100 * file))
        (tmp_path / f"{file}.jsonl").write_text(rows)
    return tmp_path


def task_of(pages, cleaning=STAGES, **fields):
    given = {"name": "text", "path": f"{pages}/*.jsonl", "tokenizer": "package:sotu/vocabulary.model"}
    return section(Data, {"task": {**given, "cleaning": cleaning, **fields}}, "data").task


def left_of(task, split, stages=STAGES):
    """The texts of a split, cleaned by hand."""
    raw, cleaner = dataclasses.replace(task, cleaning=()), Cleaner.of(stages)
    counts = cleaner.counts()
    found = [cleaner.clean(text, counts).text for text in raw.texts(split)]
    return [text for text in found if text is not None], counts


def take(count, corpus, **options):
    pipeline = Pipeline(corpus, CausalLM(), **{**SHAPE, **options})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


def pieces_of(batches, eos):
    """The pieces of documents in the batches, as token ids without an end."""
    for prepared in batches:
        for targets, segments in zip(prepared.batch["targets"], prepared.batch["segment_ids"], strict=True):
            for segment in range(1, segments.max() + 1):
                yield tuple(i for i in targets[segments == segment].tolist() if i != eos)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_indexed_split_is_what_the_stages_leave(pages, split):
    task = task_of(pages)
    expected, counts = left_of(task, split)
    assert 0 < len(expected) < len(list(dataclasses.replace(task, cleaning=()).texts(split)))
    assert list(task.texts(split)) == expected
    for _ in range(2):  # made, and from the cache
        corpus = task_of(pages).open(split)
        (documents,) = corpus.shards
        assert [task.vocabulary().decode(documents.document(i)) for i in range(len(documents))] == expected
        assert documents.byte_lengths.tolist() == [len(text.encode()) for text in expected]
        assert corpus.components[0].counts == counts


def test_a_note_that_cannot_be_kept_costs_the_counts_alone(pages, monkeypatch):
    first = task_of(pages).open("train")
    for note in cache.directory().glob("*.json"):
        note.unlink()
    again = task_of(pages).open("train")
    np.testing.assert_array_equal(first.shards[0].tokens, again.shards[0].tokens)
    monkeypatch.setattr(cache.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(OSError("full")))
    assert task_of(pages, ["c4"]).open("train").components[0].counts.taken.documents == 114


def test_an_epoch_of_a_stream_is_what_the_stages_leave(pages):
    task = task_of(pages)
    expected = {tuple(ids) for ids in task.vocabulary().encode_many(left_of(task, "train")[0])}
    read = set(pieces_of(take(12, task.stream("train"), sequence_length=512), task.vocabulary().eos_id))
    assert expected <= read
    # Whatever else there is was cut at the edge of a row.
    whole = [f" {' '.join(map(str, ids))} " for ids in expected]
    assert all(any(f" {' '.join(map(str, ids))} " in text for text in whole) for ids in read - expected if ids)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_and_count_one_stream_together(pages, hosts):
    whole = take(20, task_of(pages).stream("train"))
    parts = [take(20, task_of(pages).stream("train"), host_index=h, host_count=hosts) for h in range(hosts)]
    for step, expected in enumerate(whole):
        of_hosts = [part[step] for part in parts]
        for name, values in expected.batch.items():
            np.testing.assert_array_equal(np.concatenate([p.batch[name] for p in of_hosts]), values)
        for name in ("tokens", "bytes_read", "bytes_left"):
            assert sum(getattr(p.counts, name) for p in of_hosts) == getattr(expected.counts, name)
        assert 0.2 < expected.counts.cleaned_fraction < 0.8


@pytest.mark.parametrize("after", [0, 3, 11, 24])
def test_a_resumed_stream_goes_on_with_the_same_batches_and_counts(pages, after):
    whole = take(28, task_of(pages).stream("train"))
    for resumed, expected in zip(
        take(3, task_of(pages).stream("train"), state=whole[after].state), whole[after + 1 :], strict=False
    ):
        np.testing.assert_array_equal(resumed.batch["targets"], expected.batch["targets"])
        np.testing.assert_array_equal(resumed.state, expected.state)
        assert resumed.counts == expected.counts


def test_a_mixture_cleans_the_components_that_say_so(pages):
    raw = task_of(pages, [])
    part = {"name": "text", "path": f"{pages}/*.jsonl", "tokenizer": raw.tokenizer}
    values = {"a": {**part, "cleaning": STAGES}, "b": part}
    rates = {"sampling": "explicit", "values": {"a": 1, "b": 1}}
    task = section(Data, {"task": {"name": "mixture", "components": values, "rates": rates}}, "data").task
    a, b = task.open("train").components
    assert a.counts == left_of(raw, "train")[1] and b.counts is None
    assert a.documents < b.documents
    assert [stream.cleaner is None for stream in task.stream("train").components] == [False, True]
    assert "data.task.components.a.cleaning[0].min_sentences" in task.fingerprint("train", streamed=True)
    values["a"]["cleaning"] = ["exact_duplicates"]
    broken = section(Data, {"task": {"name": "mixture", "components": values, "rates": rates}}, "data").task
    with pytest.raises(ExperimentError, match=r"^data.task.components.a.cleaning\[0\]: exact_duplicates must see"):
        broken.open("train")


@pytest.mark.parametrize("streamed", [False, True])
def test_the_fingerprint_names_the_option_that_differs(pages, streamed, monkeypatch):
    def changed(cleaning):
        before, after = (task_of(pages, c).fingerprint("train", streamed=streamed) for c in (STAGES, cleaning))
        return {field for field in before | after if before.get(field) != after.get(field)}

    assert not changed(STAGES)
    assert changed([{"name": "c4", "min_sentences": 3}, STAGES[1]]) == {"data.task.cleaning[0].min_sentences"}
    assert {"data.task.cleaning[1]", "data.task.cleaning[1].max_edited"} <= changed(STAGES[:1])
    assert "data.task.cleaning[0]" in changed(STAGES[::-1])
    assert not any("cleaning" in field for field in task_of(pages, []).fingerprint("train", streamed=streamed))
    before = task_of(pages).fingerprint("train")
    monkeypatch.setattr("t5x_like.data.cleaning.c4.C4.version", lambda self: "other rules")
    after = task_of(pages).fingerprint("train")
    assert {field for field in before if before[field] != after[field]} == {"data.task.cleaning[0]"}


@pytest.mark.parametrize("stage", ["exact_duplicates", "duplicate_spans", "near_duplicates"])
def test_what_must_see_the_whole_corpus_is_refused(pages, stage):
    task = task_of(pages, ["c4", stage])
    for use in (task.open, task.stream, task.texts, task.fingerprint):
        with pytest.raises(ExperimentError) as error:
            use("train")
        assert str(error.value) == (
            f"data.task.cleaning[1]: {stage} must see the whole corpus first, and training reads one document after the"
            " other; clean the corpus with t5x_like data prepare"
        )


def test_stages_that_leave_nothing(pages):
    task = task_of(pages, [{"name": "gopher_quality", "min_words": 5000}])
    with pytest.raises(ExperimentError, match=r"^data.task.cleaning: it drops all 114 documents of 'train' in .*; lea"):
        task.open("train")
    with pytest.raises(
        ExperimentError, match=r"^data.split: the corpus has no document in .*, or none is left by its cleaning"
    ):
        take(1, task.stream("train"))


@pytest.mark.parametrize("streaming", [False, True])
def test_inspection_has_the_counts(pages, streaming):
    settings = {"sequence_length": 32, "batch_size": 4, "lanes": 2, "streaming": streaming}
    data = dataclasses.replace(section(Data, {**settings, "task": "sotu"}, "data"), task=task_of(pages))
    model = types.SimpleNamespace(vocab_size=4096)
    experiment = type("Run", (), {"data": data, "objective": CausalLM(), "model": model, "seed": 0, "steps": 10})
    corpus = data.task.stream("train") if streaming else data.task.open("train")
    found = inspection.inspect(experiment, corpus, rows=4, shown=0)
    expected, counts = left_of(data.task, "train")
    assert found.cleaned == {"": counts}
    assert sum(each.documents for each in found.lengths) == len(expected)


def test_prepare_takes_the_stages_of_the_task(pages):
    task = task_of(pages)
    with pytest.raises(UserError, match=r"^--stages: data.task.cleaning names stages already; leave out one of the tw"):
        cleaner_of(task, "c4")
    assert cleaner_of(dataclasses.replace(task, cleaning=()), "c4") == Cleaner.of(["c4"])
    output = epath.Path(pages / "prepared")
    prepare(Plan(task=task, splits=("train",), cleaner=cleaner_of(task, "")), output, processes=1)
    (prepared,) = TokensTask(path=str(output)).open("train").shards
    (own,) = task.open("train").shards
    for name in ("tokens", "offsets", "byte_lengths"):
        np.testing.assert_array_equal(getattr(prepared, name), getattr(own, name))
    whole = task_of(pages, [*STAGES, "exact_duplicates"])
    prepare(Plan(task=whole, splits=("train",), cleaner=cleaner_of(whole, "")), output / "whole", processes=1)
    assert len(TokensTask(path=str(output / "whole")).open("train").shards[0]) == len(own)
