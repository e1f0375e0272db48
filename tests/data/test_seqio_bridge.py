"""The door to SeqIO, both ways, in a process of its own: TensorFlow stays out of the other tests."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from t5x_like.data import sources, tokenizer
from t5x_like.data.seqio_bridge import SeqioTask
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.sections import section

PROGRAM = """
import dataclasses, json, sys
from pathlib import Path

place = Path(sys.argv[1])

from t5x_like.data.evaluation import evaluation_batches
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.seqio_bridge import SeqioTask
from t5x_like.data.seqio_registration import as_seqio
from t5x_like.data.tasks import TextTask
from t5x_like.errors import UserError

assert "tensorflow" not in sys.modules
own = TextTask(path=str(place / "a.jsonl"), tokenizer=str(place / "v.model"))
registered = as_seqio(own, "own")

import seqio
import tensorflow as tf

found = {"registered": [registered.name, sorted(registered.splits), seqio.TaskRegistry.get("own") is registered]}


def arrays(corpus):
    (documents,) = corpus.shards
    return [documents.tokens.tolist(), documents.offsets.tolist(), documents.byte_lengths.tolist()]


TEXT = (seqio.preprocessors.tokenize, seqio.preprocessors.append_eos)


def add(name, texts, vocabulary, preprocessors=TEXT, **feature):
    def read(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices({"targets": tf.constant(texts, tf.string)})

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=["train"]),
        preprocessors=list(preprocessors),
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True, **feature)},
    )


# Ours, read back through SeqIO, and as SeqIO itself reads it.
bridged = SeqioTask(mixture="own")
for split in ("train", "validation"):
    found[f"own {split}"] = [arrays(bridged.open(split)), arrays(own.open(split))]
dataset = registered.get_dataset(sequence_length=None, split="validation", shuffle=False)
found["seqio"] = [example["targets"].tolist() for example in dataset.as_numpy_iterator()]
first = next(iter(own.texts("validation")))
found["texts"] = [registered.output_features["targets"].vocabulary.decode(found["seqio"][0][:-1]), first]
found["assets"] = {name: len(content) for name, content in bridged.assets().items()}
found["same vocabulary"] = bridged.vocabulary().digest == own.vocabulary().digest
found["fingerprints"] = [bridged.fingerprint("train"), SeqioTask(mixture="own").fingerprint("train"),
                         bridged.fingerprint("validation")]

# A T5X user's own tasks.
vocabulary = seqio.SentencePieceVocabulary(str(place / "v.model"))
texts = ["The people of the United States.", "", "Peace, and plenty."]
add("texts", texts, vocabulary)
theirs = SeqioTask(mixture="texts").open("train")
found["texts task"] = [arrays(theirs), [own.vocabulary().encode(text) + [1] for text in texts]]
add("unended", texts, vocabulary, [seqio.preprocessors.tokenize])
found["unended task"] = arrays(SeqioTask(mixture="unended").open("train"))
add("bytes", ["héllo", "x"], seqio.ByteVocabulary())
task = SeqioTask(mixture="bytes")
(documents,) = task.open("train").shards
found["bytes task"] = [documents.byte_lengths.tolist(), task.vocabulary().decode(documents.document(0)),
                       task.vocabulary().size, sorted(task.assets()), task.vocabulary().encode("A")]

# A mixture keeps its rates, of examples as SeqIO counts them.
add("short", ["peace"] * 200, vocabulary)
add("long", ["plenty " * 20] * 100, vocabulary)
seqio.MixtureRegistry.add("mixed", [("short", 3.0), ("long", 1.0)])
seqio.MixtureRegistry.add("nothing of short", [("short", 0.0), ("long", 1.0)])
mixed = SeqioTask(mixture="mixed").open("train")
found["components"] = list(zip([c.documents for c in mixed.components], mixed.stages[0].weights))
found["lengths"] = [int(shard.offsets[1]) for shard in mixed.shards]
found["one part"] = list(SeqioTask(mixture="nothing of short").open("train").stages)
found["digests differ"] = SeqioTask(mixture="mixed").fingerprint("train") != task.fingerprint("train")

# The same, streamed through the pipeline, resumed from the middle.
from t5x_like.data.pipeline import Pipeline
from t5x_like.objectives.causal_lm import CausalLM


def streamed(count, state=None):
    corpus = SeqioTask(mixture="mixed").stream("train")
    shape = {"sequence_length": 16, "batch_size": 4, "lanes": 2, "seed": 0, "shuffle_window": 50}
    pipeline = Pipeline(corpus, CausalLM(), state=state, **shape)
    prepared = [next(pipeline) for _ in range(count)]
    pipeline.close()
    return [p.batch["targets"].tolist() for p in prepared], prepared[-1].state


whole, _ = streamed(40)
head, state = streamed(17)
tail, _ = streamed(23, state)
found["streamed"] = [head + tail == whole, sorted({len({*row}) for batch in whole for row in batch})]
ids = {token for batch in whole for row in batch for token in row}
found["streamed ids"] = [sorted(ids), sorted({t for shard in mixed.shards for t in shard.tokens.tolist()})]
one = SeqioTask(mixture="mixed").fingerprint("train", streamed=True)
found["streamed fingerprint"] = [one == SeqioTask(mixture="mixed").fingerprint("train", streamed=True), sorted(one)]

# What can be wrong.
add("nothing", [], vocabulary)
add("broken", texts, vocabulary, [lambda dataset: dataset.map(lambda example: {"targets": example["missing"]})])
add("pairs", texts, vocabulary, [lambda dataset: dataset.map(lambda _: {"targets": tf.constant([[1]])})], rank=2)
add("endless", texts, seqio.PassThroughVocabulary(9), [])


def error(action):
    try:
        action()
    except UserError as problem:
        return str(problem)


found["errors"] = {
    "mixture": error(lambda: SeqioTask(mixture="owm").open("train")),
    "split": error(lambda: bridged.open("tran")),
    "feature": error(lambda: SeqioTask(mixture="own", feature="target").open("train")),
    "name": error(lambda: as_seqio(own, "own")),
    "nothing": error(lambda: SeqioTask(mixture="nothing").open("train")),
    "broken": error(lambda: SeqioTask(mixture="broken").open("train")),
    "pairs": error(lambda: SeqioTask(mixture="pairs").open("train")),
    "endless": error(lambda: SeqioTask(mixture="endless").open("train")),
}
(place / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("bridge")
    speech = next(text for _, text in sources.read_texts(sources.find("package:sotu/sotu.jsonl.zst"), "text", ""))
    texts = [f"{speech[i * 150 : i * 150 + 300]} The year {1900 + i} was a year.\n" for i in range(40)]
    (place / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (place / "v.model").write_bytes(tokenizer.train(texts, size=400))
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / "found.json").read_text())


def test_our_task_is_in_seqio_s_registry(found):
    assert found["registered"] == ["own", ["train", "validation"], True]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_our_task_read_back_through_seqio_is_the_same(found, split):
    through_seqio, native = found[f"own {split}"]
    assert through_seqio == native
    assert len(native[2]) == {"train": 38, "validation": 2}[split]


def test_seqio_itself_reads_the_same_tokens(found):
    tokens, offsets, _ = found["own validation"][1]
    assert found["seqio"] == [tokens[a:b] for a, b in itertools.pairwise(offsets)]
    assert found["texts"][0] == found["texts"][1]


def test_the_vocabulary_is_taken_over(found):
    assert found["same vocabulary"]
    assert list(found["assets"]) == ["vocabulary.model"]


def test_fingerprint_is_of_the_tokens(found):
    first, again, other = found["fingerprints"]
    assert first == again != other
    assert found["digests differ"]


def test_their_task_is_a_source(found):
    (tokens, offsets, byte_lengths), expected = found["texts task"]
    assert [tokens[a:b] for a, b in itertools.pairwise(offsets)] == expected
    assert byte_lengths == [32, 0, 18]


def test_documents_are_ended_once(found):
    assert found["unended task"] == found["texts task"][0]


def test_other_vocabularies_are_wrapped(found):
    byte_lengths, text, size, assets, ids = found["bytes task"]
    assert byte_lengths == [6, 1]
    assert text == "héllo"
    assert size == 259
    assert assets == ["bytes.json"]
    assert ids == [68]


def test_mixture_keeps_its_rates(found):
    (long, long_weight), (short, short_weight) = found["components"]  # SeqIO sorts them by name
    assert (long, short) == (100, 200)
    long_length, short_length = found["lengths"]
    assert np.isclose(short_weight / long_weight, 3.0 * short_length / (1.0 * long_length))
    assert found["one part"] == []


def test_what_is_streamed_goes_on_where_it_stopped(found):
    assert found["streamed"][0]
    assert found["streamed ids"][0] == found["streamed ids"][1]
    assert found["streamed fingerprint"] == [True, ["data.task.mixture", "data.task.mixture rates"]]


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (
            "mixture",
            "data.task.mixture: SeqIO knows no task or mixture 'owm'; did you mean 'own'?; --module=PATH imports what"
            " defines it",
        ),
        ("split", "data.split: own has no split 'tran'; did you mean 'train'?"),
        ("feature", "data.task.feature: own has no feature 'target'; did you mean 'targets'?"),
        ("name", "SeqIO has a task 'own' already; give as_seqio another name"),
        ("nothing", "data.split: split 'train' of nothing is empty"),
        ("broken", "data.task.mixture: SeqIO cannot read 'broken': "),
        ("pairs", "data.task.feature: 'targets' is int32 of 2 dimensions; it must be a list of token ids"),
        ("endless", "data.task.feature: the vocabulary of 'targets' has no id that ends a text"),
    ],
)
def test_what_can_be_wrong(found, case, problem):
    assert (found["errors"][case] or "").startswith(problem)


def test_an_empty_name_is_refused_before_anything_is_imported():
    with pytest.raises(ExperimentError) as error:
        section(Data, {"task": {"name": "seqio"}}, "data")
    assert str(error.value) == "data.task.mixture: it is empty; give the name of a SeqIO task or mixture"
    task = section(Data, {"task": {"name": "seqio", "mixture": "c4", "use_cached": True}}, "data").task
    assert task == SeqioTask(mixture="c4", feature="targets", use_cached=True)
    assert "seqio" not in sys.modules
