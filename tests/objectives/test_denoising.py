"""Objectives of the encoder-decoder: what they read, row by row, and their loss against the reference."""

import itertools

import jax
import numpy as np
import pytest
import t5_reference
import tiny

from t5x_like.data.dataset import Dataset
from t5x_like.data.documents import Documents, Windows
from t5x_like.data.evaluation import evaluation_batches
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.sentinels import SentinelVocabulary
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.prefix_lm import PrefixLM
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.objectives.ul2 import MixtureOfDenoisers
from t5x_like.optim.adafactor import Adafactor
from t5x_like.optim.schedules import Constant
from t5x_like.program import program
from t5x_like.sections import Choice, choose, section

END, VOCABULARY = 1, 1100  # of which the last hundred are sentinels
MODEL = {
    "family": "t5_1_1",
    "encoder_layers": 1,
    "layers": 1,
    "gated": True,
    "activation": "gelu",
    "relative_buckets": 8,
}


def corpus(seed=0, documents=60):
    rng = np.random.default_rng(seed)
    texts = [np.append(rng.integers(2, 1000, rng.integers(1, 300)), END) for _ in range(documents)]
    return Dataset.of(Documents.collect([(text, len(text)) for text in texts], np.dtype(np.uint16)))


def span_corruption(**options):
    return SpanCorruption(vocab_size=VOCABULARY, eos_id=END, **options)


def batches(objective, count, length=64, **options):
    shape = {"sequence_length": length, "batch_size": 4, "lanes": 4, "seed": 0}
    pipeline = Pipeline(corpus(), objective, **{**shape, **options})
    try:
        return list(itertools.islice(pipeline, count))
    finally:
        pipeline.close()


def examples(batch):
    """(inputs, targets) of every example of a batch, cut out by the segment ids."""
    for row in range(len(batch["row"])):
        for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
            here, there = (batch[f"{side}_segment_ids"][row] == segment for side in ("encoder", "decoder"))
            yield batch["encoder_input_tokens"][row, here], batch["decoder_target_tokens"][row, there]


def restored(inputs, targets):
    """The text: every sentinel of the inputs replaced by what follows it in the targets."""
    spans, text = {}, []
    for token in targets[:-1]:
        if token >= VOCABULARY - 100:
            own = spans.setdefault(int(token), [])
        else:
            own.append(int(token))
    for token in inputs[:-1]:
        text += spans[int(token)] if token >= VOCABULARY - 100 else [int(token)]
    return text


# --- Lengths ----------------------------------------------------------------------------------------------------------


def test_t5s_own_lengths():
    objective = SpanCorruption()
    assert objective.record_length(512) == 568
    shapes = {name: feature.shape for name, feature in objective.features(512).items()}
    assert shapes == {
        "encoder_input_tokens": (512,),
        "encoder_segment_ids": (512,),
        "encoder_positions": (512,),
        "decoder_target_tokens": (114,),
        "decoder_input_tokens": (114,),
        "decoder_loss_weights": (114,),
        "decoder_segment_ids": (114,),
        "decoder_positions": (114,),
    }


@pytest.mark.parametrize(
    "objective",
    [
        span_corruption(),
        span_corruption(target_length=10),
        span_corruption(noise_density=0.5, mean_span_length=1.0),
        MixtureOfDenoisers(vocab_size=VOCABULARY, eos_id=END, mode_ids=(2, 3, 4)),
        MixtureOfDenoisers(vocab_size=VOCABULARY, eos_id=END, mode_ids=(2, 3, 4), target_length=64),
        PrefixLM(),
        PrefixLM(share=0.25, target_length=20),
        PrefixLM(share=0.0),
    ],
    ids=lambda objective: f"{objective.name}-{objective.target_length}",
)
def test_a_record_fits_its_row_and_a_longer_one_need_not(objective):
    length = 64
    tokens = objective.record_length(length)
    features = objective.features(length)
    targets = features["decoder_target_tokens"].shape[0]
    found, longer = objective.lengths(tokens), objective.lengths(tokens + 1)
    assert found.inputs <= length and found.targets <= targets
    assert longer.inputs > length or longer.targets > targets
    text = np.arange(tokens) % 900 + 5
    for seed in range(20):
        example = objective.example({"tokens": text}, np.random.default_rng(seed))
        assert len(example["encoder_input_tokens"]) <= length
        assert len(example["decoder_target_tokens"]) <= targets


@pytest.mark.parametrize(
    "objective, length, sentence",
    [
        (span_corruption(), 2, "data.sequence_length: 2 has no room for a text of two tokens; make it at least 3"),
        (span_corruption(target_length=2), 64, "objective.target_length: 2 has no room for a text of two"),
        (span_corruption(sentinels=5), 512, "objective.sentinels: data.sequence_length=512 takes texts of 568 tokens"),
    ],
)
def test_rows_that_cannot_be(objective, length, sentence):
    with pytest.raises(ExperimentError) as error:
        objective.record_length(length)
    assert str(error.value).startswith(sentence)


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_an_epoch_is_every_window_once_and_nothing_is_lost():
    objective, read = span_corruption(), corpus()
    length = objective.record_length(64)
    windows = Windows(read.shards, length)
    texts = [np.concatenate([piece.tokens for piece in windows.pieces(number)]) for number in range(len(windows))]
    expected = sorted((text[:-1] if text[-1] == END else text).tolist() for text in texts)
    found = []
    for batch in evaluation_batches(read, objective, sequence_length=64, batch_size=4):
        found += [restored(*example) for example in examples(batch)]
    assert sorted(found) == expected


def test_rows_are_full():
    prepared = batches(span_corruption(), 12)
    assert all(p.counts.places == 4 * (64 + len(p.batch["decoder_positions"][0])) for p in prepared)
    assert np.mean([p.counts.fill_fraction for p in prepared]) > 0.97
    for p in prepared:
        assert p.counts.tokens == sum((p.batch[f"{side}_segment_ids"] > 0).sum() for side in ("encoder", "decoder"))


@pytest.mark.parametrize("objective", [span_corruption(), PrefixLM()], ids=lambda objective: objective.name)
def test_sides_of_an_example_have_one_segment_and_positions_of_their_own(objective):
    segments = 0
    for prepared in batches(objective, 8):
        batch = prepared.batch
        for side in ("encoder", "decoder"):
            ids, positions = batch[f"{side}_segment_ids"], batch[f"{side}_positions"]
            for row in range(4):
                for segment in range(1, ids[row].max() + 1):
                    here = ids[row] == segment
                    assert positions[row, here].tolist() == list(range(here.sum()))
                assert not positions[row, ids[row] == 0].any()
        assert (batch["encoder_segment_ids"].max(1) == batch["decoder_segment_ids"].max(1)).all()
        segments = max(segments, batch["decoder_segment_ids"].max())
        real = batch["decoder_segment_ids"] > 0
        np.testing.assert_array_equal(batch["decoder_loss_weights"], real)
        starts = real & (batch["decoder_positions"] == 0)
        assert not batch["decoder_input_tokens"][starts].any()
        inside = real[:, 1:] & ~starts[:, 1:]
        np.testing.assert_array_equal(
            batch["decoder_input_tokens"][:, 1:][inside], batch["decoder_target_tokens"][:, :-1][inside]
        )
        for inputs, targets in examples(batch):
            assert inputs[-1] == targets[-1] == END
    assert segments > 1 or objective.joins_documents


@pytest.mark.parametrize("objective", [span_corruption(), PrefixLM()], ids=lambda objective: objective.name)
def test_resumption_and_hosts_change_nothing(objective):
    whole = batches(objective, 10)
    rest = batches(objective, 3, state=whole[4].state)
    half = batches(objective, 10, host_index=1, host_count=2)
    for ours, theirs in ((rest, whole[5:8]), (half, whole)):
        rows = slice(2, 4) if ours is half else slice(None)
        for a, b in zip(ours, theirs, strict=True):
            tiny.assert_same_bits(a.batch, {name: value[rows] for name, value in b.batch.items()})


# --- The loss ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_run():
    """A program, its first state, and a batch with packed rows."""
    objective = SpanCorruption(vocab_size=tiny.VOCABULARY, eos_id=END, sentinels=4, target_length=8)
    experiment = tiny.experiment(objective, model=tiny.architecture(**MODEL))
    run = program(experiment)
    texts = [np.arange(n) % 20 + 5 for n in (3, 2, 4, 5, 2, 2, 5, 3, 4, 2)]
    return run, tiny.initial(run), tiny.batch_of(objective, [{"tokens": text} for text in texts])


def test_the_loss_is_the_references(tiny_run):
    run, state, batch = tiny_run
    assert batch["decoder_segment_ids"].max() > 1
    sides = [(batch[f"{side}_input_tokens"], batch[f"{side}_segment_ids"]) for side in ("encoder", "decoder")]
    logits = t5_reference.forward(state["parameters"], run.architecture, *sides)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    real = batch["decoder_loss_weights"] > 0

    function = jax.jit(lambda state: run.measure(state, batch))
    metrics = tiny.compiled(function, state)(state)
    np.testing.assert_allclose(metrics["loss"], (nll[real].sum(), real.sum()), rtol=1e-5)
    np.testing.assert_allclose(run.objective.denominators(batch)["cross_entropy"], real.sum())


def test_the_loss_falls_on_the_shipped_corpus():
    objective = SpanCorruption(vocab_size=4224, eos_id=END, sentinels=100)
    task = section(Data, {"task": "sotu"}, "data").task
    objective.check_vocabulary(task.vocabulary())
    model = tiny.architecture(**{**MODEL, "embed": 32, "mlp": 64}, vocab_size=4224)
    optimizer = Adafactor(schedule=Constant(), learning_rate=0.05)
    run = program(tiny.experiment(objective, model=model, optimizer=optimizer))
    pipeline = Pipeline(task.open("validation"), objective, sequence_length=64, batch_size=8, lanes=8, seed=0)
    batches = [next(pipeline).batch for _ in range(24)]
    pipeline.close()
    state, losses = tiny.initial(run), []
    step = tiny.Steps(run, state, batches[0])
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    assert losses[0] == pytest.approx(np.log(4224), rel=0.15)
    assert np.mean(losses[-5:]) < 0.85 * losses[0]


# --- What does not go together ----------------------------------------------------------------------------------------


def test_models_and_objectives_that_do_not_go_together():
    with pytest.raises(
        ExperimentError, match=r"^objective: 'span_corruption' is not for model\.family='llama', which has no enc"
    ):
        program(tiny.experiment(SpanCorruption()))
    with pytest.raises(
        ExperimentError, match=r"^objective: 'causal_lm' is not for model\.family='t5_1_1', which has an encoder; use"
    ):
        program(tiny.experiment(CausalLM(), model=tiny.architecture(**MODEL)))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"eos_id": 2}, "objective.eos_id: 2 is not what ends a document of data.task; set it to 1"),
        (
            {"vocab_size": 4100},
            "objective.vocab_size: 4100 makes its last 100 ids sentinels, and the task has 4096 ids",
        ),
    ],
)
def test_ids_that_are_not_the_vocabularys(options, sentence):
    vocabulary = section(Data, {"task": "sotu"}, "data").task.vocabulary()
    with pytest.raises(ExperimentError) as error:
        SpanCorruption(**{"vocab_size": 4196, **options}).check_vocabulary(vocabulary)
    assert str(error.value).startswith(sentence)


def test_a_vocabulary_with_sentinels_of_its_own():
    vocabulary = section(Data, {"task": {"name": "sotu", "extra_ids": 100}}, "data").task.vocabulary()
    objective = SpanCorruption(vocab_size=4196)
    objective.check_vocabulary(vocabulary)
    assert objective.vocabulary(vocabulary) is vocabulary
    assert vocabulary.encode("the <extra_id_0>")[-1] == objective.vocab_size - 1
    with pytest.raises(
        ExperimentError, match=r"^objective\.vocab_size: 32100 is not the size of the task's vocabulary"
    ):
        SpanCorruption().check_vocabulary(vocabulary)
    with pytest.raises(ExperimentError, match=r"^objective\.sentinels: 200 are more than the 100 of the task's"):
        SpanCorruption(vocab_size=4196, sentinels=200).check_vocabulary(vocabulary)


def test_options_are_plain_values():
    objective = choose(Choice("objective", "causal_lm"), {"name": "ul2", "mode_ids": [2, 3, 4], "target_length": 99})
    assert objective.denoisers[0].mode == "R" and objective.target_length == 99
    with pytest.raises(ExperimentError, match=r"^objective\.noise_density: 2\.0 must be above 0"):
        choose(Choice("objective", "causal_lm"), {"name": "span_corruption", "noise_density": 2.0})
    with pytest.raises(ExperimentError, match=r"^objective\.target_length: -1 is too small"):
        choose(Choice("objective", "causal_lm"), {"name": "prefix_lm", "target_length": -1})


def test_sentinels_are_spelled():
    plain = section(Data, {"task": "sotu"}, "data").task.vocabulary()
    vocabulary = SentinelVocabulary(plain, 4196, 100)
    ids = vocabulary.encode("The state<extra_id_0> the Union<extra_id_1>")
    assert [i for i in ids if i >= 4096] == [4195, 4194]
    assert vocabulary.decode([*ids, END, 0]) == "The state <extra_id_0> the Union <extra_id_1>"
    assert max(vocabulary.encode("<extra_id_100>")) < 4096
