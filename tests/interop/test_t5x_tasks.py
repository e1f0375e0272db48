"""A T5X user's `tasks.py`, unchanged, through the bridge; in a process of its own, for TensorFlow's sake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from interop.t5x_user import bring

pytestmark = pytest.mark.slow  # TensorFlow builds a dataset and reads it a dozen times: a minute

PROGRAM = """
import importlib.util, json, os, sys
from pathlib import Path

place = Path(sys.argv[1])
sys.path.insert(0, os.getcwd())
os.chdir(place)
exec(Path("build.py").read_text())
assert importlib.util.find_spec("t5") is None

from t5x_like.commands.modules import import_modules
import_modules(["tasks"])
import_modules(["tasks.py", "tasks"])  # which registers nothing twice

import numpy as np
import seqio
from t5x_like.data.documents import Windows
from t5x_like.data.evaluation import evaluation_batches
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.seqio_bridge import SeqioTask
from t5x_like.errors import UserError
from t5x_like.objectives.base import Objective

FEATURES = {"inputs": 64, "targets": 24}
found = {}


def door(mixture, **options):
    return SeqioTask(mixture=mixture, features=FEATURES, data_dir=str(place / "tfds"), **options)


class Pairs(Objective):
    "An objective that takes inputs and targets as they come, an example a row."

    def features(self, length):
        import jax
        return {name: jax.ShapeDtypeStruct((size,), np.int32) for name, size in FEATURES.items()}

    def example(self, record, rng):
        return {name: record[name] for name in FEATURES}


def batches(corpus, count, state=None, lanes=2, host=0, hosts=1):
    pipeline = Pipeline(corpus, Pairs(), sequence_length=64, batch_size=4, lanes=lanes, seed=0, shuffle_window=8,
                        state=state, host_index=host, host_count=hosts)
    prepared = [next(pipeline) for _ in range(count)]
    pipeline.close()
    rows = [[p.batch["inputs"].tolist(), p.batch["targets"].tolist()] for p in prepared]
    return rows, prepared[-1].state


task = door("my_c4_span_corruption")
vocabulary = task.vocabulary()
found["vocabulary"] = [vocabulary.size, vocabulary.eos_id, vocabulary.sentinels]
(documents,) = task.open("train").shards
theirs = task._provider.get_dataset(FEATURES, "train", shuffle=False, seed=0)
found["theirs"] = [[e["inputs"].tolist(), e["targets"].tolist()] for e in theirs.as_numpy_iterator()]
windows = Windows(task.open("train").shards, 64)
pieces = [next(windows.pieces(n)) for n in range(len(windows))]
found["ours"] = [[p.sequences["inputs"].tolist(), p.sequences["targets"].tolist()] for p in pieces]
found["tokens are both"] = all(p.tokens.tolist() == [*p.sequences["inputs"], *p.sequences["targets"]] for p in pieces)
found["bytes"] = [int(documents.byte_lengths[0]), *map(vocabulary.decode, pieces[0].sequences.values())]
found["again"] = task.fingerprint("train") == door("my_c4_span_corruption").fingerprint("train")
text = SeqioTask(mixture="my_c4_text", data_dir=str(place / "tfds"))
found["text"] = [text.open("train").shards[0].document(n).tolist() for n in range(60)]
lm = SeqioTask(mixture="my_c4_lm", features={"targets": 32}, data_dir=str(place / "tfds")).open("train").shards[0]
found["lm"] = [lm.document(n).tolist() for n in range(len(lm))]

evaluated = list(evaluation_batches(door("my_mixture").open("validation"), Pairs(), sequence_length=64, batch_size=4))
found["evaluated"] = sum(int((b["targets"].any(1)).sum()) for b in evaluated)

# A mixture, indexed and streamed, resumed from the middle and shared by hosts.
for kind in ("open", "stream"):
    whole, _ = batches(getattr(door("my_mixture"), kind)("train"), 24)
    head, state = batches(getattr(door("my_mixture"), kind)("train"), 10)
    tail, _ = batches(getattr(door("my_mixture"), kind)("train"), 14, state)
    hosts = [batches(getattr(door("my_mixture"), kind)("train"), 24, host=host, hosts=2)[0] for host in (0, 1)]
    joined = [[a + b for a, b in zip(*pair)] for pair in zip(*hosts)]
    found[kind] = {"resumed": head + tail == whole, "hosts": joined == whole, "state": state.shape[1],
                   "rows": [[i, t] for inputs, targets in whole for i, t in zip(inputs, targets)]}
shouted = [door("my_shouting").open("train").shards[0].document(n).tolist() for n in range(20)]
found["shouted"] = shouted
found["fingerprints"] = [sorted(door("my_mixture").fingerprint("train", streamed=True)),
    door("my_mixture").fingerprint("train", streamed=True) == SeqioTask(
        mixture="my_mixture", features={"inputs": 32, "targets": 24}, data_dir=str(place / "tfds")
    ).fingerprint("train", streamed=True)]

# SeqIO's evaluator over our model, a converter of SeqIO's over our task.
from t5x_like.data.seqio_registration import as_seqio
from t5x_like.data.tasks import TextTask
from t5x_like.evaluation.base import EvaluationContext
from t5x_like.evaluation.loss import LossEvaluator
from t5x_like.evaluation.seqio_evaluator import Responder, SeqioEvaluator
from t5x_like.experiment import Experiment
from t5x_like.evaluation.devices import layout_here
from t5x_like.program import program
import jax
import jax.numpy as jnp

tasks = sys.modules["tasks"]
said = []


def same(targets, predictions):
    said.extend(zip(targets, predictions))
    return {"same": sum(t == p for t, p in zip(targets, predictions)) / len(targets), "text": seqio.metrics.Text("x")}


def nats(targets, scores):
    return {"nats": sum(scores)}


for name, preprocessors, metrics in (
    ("measured", [tasks.shout, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim], [same, nats]),
    ("measured_text", [*tasks.TEXT[:2], seqio.preprocessors.append_eos], [nats]),
    ("unmeasured", [*tasks.TEXT[:2]], []),
):
    seqio.TaskRegistry.add(name, source=tasks.C4, preprocessors=preprocessors, metric_fns=metrics,
                           output_features=tasks.PAIR if "text" not in name else {"targets": tasks.PAIR["targets"]})

MODEL = {"family": "llama", "vocab_size": 512, "layers": 1, "embed": 16, "heads": 2, "kv_heads": 2, "head_dim": 8,
         "mlp": 32, "max_length": 256}
experiment = Experiment.from_dict({
    "model": MODEL,
    "data": {"task": {"name": "seqio", "mixture": "measured_text", "data_dir": str(place / "tfds")},
             "sequence_length": 64},
})
run = program(experiment, layout_here(experiment))
state = run.init()
context = EvaluationContext(experiment, run, experiment.data.task)
options = {"data_dir": str(place / "tfds"), "tokens": 5}
paired = SeqioEvaluator(mixture="measured", examples=6, features={"targets": 16}, **options).start(context)
found["measured"] = dict(paired.run(state, 3).metrics)
found["said"] = said
text_alone = SeqioEvaluator(mixture="measured_text", **options).start(context).run(state, 0).metrics
corpus = context.task.open("validation")
loss = LossEvaluator().start(context).run(state, 0).metrics["loss"]
found["nats"] = [text_alone["measured_text/nats"], -loss * corpus.components[0].tokens]

(number, example), *_ = seqio.get_dataset("measured", FEATURES, dataset_split="validation", shuffle=False,
    feature_converter=type("AsItIs", (seqio.PassThroughFeatureConverter,), {})()).enumerate().as_numpy_iterator()
((_, written),) = Responder(context, 5).predict(state, [(number, example)])
model, ids = run.model(state), [0, *example["inputs"].tolist()]
for _ in range(5):
    tokens = jnp.array([ids])
    hidden = model(tokens, positions_bt=jnp.arange(len(ids))[None], segment_ids_bt=jnp.ones_like(tokens))
    ids.append(int(model.logits(hidden)[0, -1].argmax()))
found["written"] = [written, ids[-5:]]

Path("own.jsonl").write_text("".join(json.dumps({"text": t}) + "\\n" for t in texts))
as_seqio(TextTask(path="own.jsonl", tokenizer="v.model"), "own")
packed = seqio.get_dataset("own", {"targets": 512}, dataset_split="train", shuffle=False,
                           feature_converter=seqio.LMFeatureConverter(pack=True))
(own,) = TextTask(path="own.jsonl", tokenizer="v.model").open("train").shards
rows = [e["decoder_target_tokens"] for e in packed.as_numpy_iterator()]
found["packed"] = [[t for row in rows for t in row.tolist() if t], own.tokens.tolist()]

# T5's own tasks, by the module that T5X's recipes import.
import_modules(["t5.data.mixtures"])
found["registered"] = [n for n in seqio.TaskRegistry.names() if n.startswith("c4_v220")]
import_modules(["t5.data.tasks"])


def error(action):
    try:
        action()
    except UserError as problem:
        return str(problem)


(place / "wants_more.py").write_text("from t5.data import preprocessors\\npreprocessors.iid_denoising\\n")
(place / "breaks.py").write_text("\\nraise ValueError('no such luck')\\n")
(place / "lacks.py").write_text("import seqio\\nimport nowhere_to_be_found\\n")
found["errors"] = {
    "stand-in": error(lambda: import_modules(["wants_more.py"])),
    "breaks": error(lambda: import_modules(["breaks"])),
    "breaks file": error(lambda: import_modules(["breaks.py"])),
    "lacks": error(lambda: import_modules(["lacks"])),
    "missing": error(lambda: import_modules(["not_there.py"])),
    "unknown": error(lambda: SeqioEvaluator(mixture="measurd", **options).start(context)),
    "unmeasured": error(lambda: SeqioEvaluator(mixture="unmeasured", **options).start(context)),
    "no lengths": error(lambda: SeqioTask(mixture="my_c4_span_corruption", data_dir=str(place / "tfds")).open("train")),
    "t5": error(lambda: import_modules(["t5.models"])),
    "feature": error(lambda: SeqioTask(mixture="my_c4_text", features=FEATURES).vocabulary()),
    "too short": error(lambda: SeqioTask(mixture="my_c4_span_corruption", features={"inputs": 64, "targets": 5},
                                         data_dir=str(place / "tfds")).open("train")),
}
(place / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("t5x-user")
    bring(place)
    return place


@pytest.fixture(scope="module")
def found(place):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / "found.json").read_text())


def test_examples_are_those_that_seqio_makes(found):
    assert found["ours"] == found["theirs"]
    assert len(found["ours"]) > 20
    assert found["tokens are both"] and found["again"]


def test_span_corruption_loses_no_token(found):
    """The stand-in's spans, put back in their places, are the documents end to end."""
    size, end, sentinels = found["vocabulary"]
    assert (size, end, sentinels) == (500, 1, 100)
    text = []
    for inputs, targets in found["ours"]:
        assert inputs[-1] == targets[-1] == end
        assert len(inputs) <= 64 and len(targets) <= 24
        spans, sentinel = {}, None
        for token in targets[:-1]:
            if token >= size - 100:
                sentinel = token
                spans[sentinel] = []
            else:
                spans[sentinel].append(token)
        assert list(spans) == [size - 1 - n for n in range(len(spans))]
        for token in inputs[:-1]:
            text += spans.pop(token) if token >= size - 100 else [token]
        assert not spans
    assert text == [token for document in found["text"] for token in document[:-1]]


def test_full_lm_is_the_text_with_its_ends_cut(found):
    assert [len(row) for row in found["lm"][:-1]] == [32] * (len(found["lm"]) - 1)
    assert [token for row in found["lm"] for token in row] == [t for document in found["text"] for t in document]


def test_bytes_are_those_of_all_features(found):
    count, *texts = found["bytes"]
    assert count == sum(len(text.encode()) for text in texts)
    assert all(texts)


@pytest.mark.parametrize("kind", ["open", "stream"])
def test_a_mixture_of_theirs_is_exact(found, kind):
    assert found[kind]["resumed"] and found[kind]["hosts"]
    assert found[kind]["state"] == {"open": 2, "stream": 6}[kind]


@pytest.mark.parametrize("kind", ["open", "stream"])
def test_a_mixture_keeps_its_rates_of_examples(found, kind):
    """SeqIO's rates, three to one, are of examples, however long those of each task are."""
    shouted = {tuple(document) for document in found["shouted"]}
    rows = [tuple(token for feature in row for token in feature if token) for row in found[kind]["rows"]]
    assert len(rows) == 96
    assert abs(sum(row in shouted for row in rows) - 24) <= 5  # of tokens it would be 40


def test_a_split_is_evaluated_once(found):
    assert 0 < found["evaluated"] < 40


def test_lengths_are_part_of_what_is_read(found):
    names, same = found["fingerprints"]
    assert names == ["data.task.features", "data.task.mixture", "data.task.mixture rates"]
    assert not same


def test_seqio_s_evaluator_measures_our_model(found):
    assert sorted(found["measured"]) == ["measured/nats", "measured/same"]  # and not what is no number
    assert found["measured"]["measured/nats"] < 0
    assert len(found["said"]) == 6
    assert all(target.isupper() for target, _ in found["said"])


def test_scores_add_up_to_the_loss(found):
    scores, loss = found["nats"]
    assert scores == pytest.approx(loss, rel=1e-4)


def test_predictions_are_greedy(found):
    written, expected = found["written"]
    assert written == expected


def test_our_task_goes_through_a_packing_converter(found):
    through_seqio, native = found["packed"]
    assert through_seqio == native


def test_t5_s_own_tasks_have_stand_ins(found):
    assert found["registered"] == ["c4_v220_span_corruption", "c4_v220_full_lm"]


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (
            "stand-in",
            "t5.data.preprocessors.iid_denoising: T5's package is not installed, and its stand-in here has rekey,"
            " span_corruption, full_lm; define it in your own module",
        ),
        ("breaks", "--module: breaks cannot be imported: {place}/breaks.py:2: ValueError: no such luck"),
        ("breaks file", "--module: breaks.py cannot be imported: {place}/breaks.py:2: ValueError: no such luck"),
        (
            "lacks",
            "--module: lacks imports 'nowhere_to_be_found', and there is no module 'nowhere_to_be_found'; give a Python"
            " file or a module's dotted name",
        ),
        (
            "unknown",
            "evaluators: SeqIO knows no task or mixture 'measurd'; did you mean 'measured'?; --module=PATH imports what"
            " defines it",
        ),
        (
            "no lengths",
            "data.task.features: it is not given, and span_corruption of 'my_c4_span_corruption' asks how long its"
            " features may be; give each one's length, such as {{'targets': 512}}",
        ),
        ("unmeasured", "evaluators: no task of 'unmeasured' has a metric and a split 'validation'"),
        ("missing", "--module: there is no file not_there.py; give a Python file or a module's dotted name"),
        ("t5", "--module: there is no module 't5.models'; give a Python file or a module's dotted name"),
        ("feature", "data.task.features: my_c4_text has no feature 'inputs'; it must be one of targets"),
        (
            "too short",
            "data.task.mixture: SeqIO cannot read 'my_c4_span_corruption': targets of 5 tokens are too short: inputs of"
            " 64 have targets of",
        ),
    ],
)
def test_what_can_be_wrong(found, place, case, problem):
    assert (found["errors"][case] or "").startswith(problem.format(place=Path(place).resolve()))
