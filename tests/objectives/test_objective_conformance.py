"""What every objective has to keep, whatever it predicts. A new objective is one more line of `CASES`."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from objectives.sketches import kinds, records
from objectives.sketches.classify import Classification
from objectives.sketches.clip import CLIP
from objectives.sketches.dino import DINO
from objectives.sketches.frames import Transcription
from objectives.sketches.mae import MAE
from objectives.sketches.resnet import ResNet

from t5x_like import registry, variables
from t5x_like.errors import ExperimentError
from t5x_like.objectives.base import Mode
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.completion_lm import CompletionLM
from t5x_like.objectives.denoising import Denoising
from t5x_like.objectives.dpo import DPO
from t5x_like.objectives.fill_in_the_middle import FillInTheMiddle
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.multi_token_prediction import MultiTokenPrediction
from t5x_like.objectives.next_sentence import NextSentence
from t5x_like.objectives.permutation_lm import PermutationLM
from t5x_like.objectives.prefix_lm import PrefixLM
from t5x_like.objectives.replaced_tokens import ReplacedTokens
from t5x_like.objectives.reward import Reward
from t5x_like.objectives.roles import Ema, Frozen, Statistics, Trained
from t5x_like.objectives.sentence_order import SentenceOrder
from t5x_like.objectives.span_boundary import SpanBoundary
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.objectives.ul2 import Denoiser, MixtureOfDenoisers
from t5x_like.optim.schedules import Constant
from t5x_like.optim.sgd import SGD
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program, purpose_key
from t5x_like.sections import Choice, changed, choose


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective, what it reads, a learning rate by which it learns, the model's dropout and what else it needs.

    In place of a tiny transformer it may have an architecture of its own.
    """

    objective: Any
    records: Callable[[], list[Any]]
    learning_rate: float = 0.05
    dropout: float = 0.0
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    architecture: Callable[[], Any] | None = None


ENCODER_DECODER = {"family": "t5_1_1", "encoder_layers": 1, "gated": True, "relative_buckets": 8}
SENTINELS = {"vocab_size": tiny.VOCABULARY, "eos_id": 1, "sentinels": 4}
MASKED = {"vocab_size": tiny.VOCABULARY, "mask_id": 2, "special_ids": (0, 1)}
POOLED = {"pooler": True, "classes": 2}
PAIRS = {**MASKED, "rate": 0.4, "cls_id": 3, "sep_id": 4, "sentence_ends": tuple(range(8, 32, 3))}
DENOISERS = (Denoiser(mode="R", noise_density=0.15), Denoiser(mode="S", noise_density=0.25))


def bert(head: Mapping[str, Any], **changes: Any) -> Callable[[], Any]:
    """BERT's layers with another head."""
    return lambda: changed(tiny.architecture(family="bert", layers=1, token_types=2, **changes), {"head": head})


def listener() -> Any:
    """T5's layers, whose encoder reads frames."""
    frames = {"encoder": {"embeddings": {"name": "frames", "width": 8}}}
    return changed(tiny.architecture(layers=1, **ENCODER_DECODER), frames)


CASES = {
    "causal_lm": Case(CausalLM(z_loss=0.01, label_smoothing=0.1), records.documents, dropout=0.1),
    "masked_lm": Case(
        MaskedLM(vocab_size=tiny.VOCABULARY, mask_id=2, special_ids=(0, 1), rate=0.4, z_loss=0.01),
        records.documents,
        dropout=0.1,
        model={"family": "bert"},
    ),
    "span_corruption": Case(
        SpanCorruption(**SENTINELS, z_loss=0.01), records.shorter_documents, dropout=0.1, model=ENCODER_DECODER
    ),
    "prefix_lm": Case(
        PrefixLM(eos_id=1, normalization="per_sequence"), records.shorter_documents, model=ENCODER_DECODER
    ),
    "ul2": Case(
        MixtureOfDenoisers(**SENTINELS, mode_ids=(2, 3, 4), target_length=10, denoisers=DENOISERS),
        records.shorter_documents,
        model=ENCODER_DECODER,
    ),
    "next_sentence": Case(NextSentence(**PAIRS), records.sentences, architecture=bert(POOLED)),
    "sentence_order": Case(SentenceOrder(**PAIRS), records.sentences, architecture=bert(POOLED, dropout=0.0)),
    "span_boundary": Case(
        SpanBoundary(**MASKED, rate=0.4, place_embed=8, z_loss=0.01), records.documents, model={"family": "bert"}
    ),
    "replaced_tokens": Case(
        ReplacedTokens(**MASKED, rate=0.4, generator_share=0.5),
        records.documents,
        learning_rate=0.002,
        architecture=bert({"name": "token_classes", "classes": 1}),
    ),
    "permutation_lm": Case(
        PermutationLM(mask_id=2, one_in=2), records.documents, dropout=0.1, model={"family": "bert"}
    ),
    "denoising": Case(
        Denoising(mask_id=2, sentence_ends=(5, 6, 7), delete_share=0.2, rotate_share=0.5),
        records.shorter_documents,
        model=ENCODER_DECODER,
    ),
    "fill_in_the_middle": Case(
        FillInTheMiddle(prefix_id=2, suffix_id=3, middle_id=4, z_loss=0.01), records.shorter_documents
    ),
    "completion_lm": Case(CompletionLM(bidirectional_inputs=True), records.completions, dropout=0.1),
    "multi_token_prediction": Case(MultiTokenPrediction(depth=2), records.documents, dropout=0.1),
    "dpo": Case(DPO(beta=0.5), records.preferences, dropout=0.1),
    "mae": Case(MAE(), records.pictures, learning_rate=0.01),
    "clip": Case(CLIP(temperature=0.5), records.pictures, learning_rate=0.01),
    "dino": Case(DINO(), records.pictures),
    "resnet": Case(Classification(), records.pictures, architecture=ResNet),
    "transcription": Case(Transcription(), records.pictures, architecture=listener),
    "reward": Case(Reward(), records.preferences, dropout=0.1),
}

HALF = tiny.ROWS // 2
FILLING = {"span_corruption", "transcription"}  # whose rows hold one example
DRAWN = {"discriminator"}  # terms of what the loss itself draws, by the row


class Subject:
    """A case, its programs and what they computed, each compiled once."""

    def __init__(self, case: Case) -> None:
        self.objective, self.records = case.objective, case.records()
        optimizer = SGD(schedule=Constant(), learning_rate=case.learning_rate, clip_norm=0.0)
        tree = functools.partial(tiny.architecture, layers=1, dropout=case.dropout, **case.model)
        model = (case.architecture or tree)()
        self.couples_batch = self.objective.couples_batch or model.couples_batch
        self.experiment = tiny.experiment(case.objective, model=model, optimizer=optimizer)
        self.program = program(self.experiment)
        # Two rows of the same microbatch are empty, so that no part of the batch has the denominators of another.
        self.batch = tiny.emptied(tiny.batch_of(self.objective, self.records), [5, 7])
        self.half = {name: value[:HALF] for name, value in self.batch.items()}

    @functools.cached_property
    def initial(self) -> Any:
        return tiny.initial(self.program)

    @functools.cached_property
    def step(self) -> tiny.Steps:
        return tiny.Steps(self.program, self.initial, self.batch)

    @functools.cached_property
    def first(self) -> Any:
        """State and metrics after one step."""
        return self.step(self.initial, self.batch)

    @functools.cached_property
    def trajectory(self) -> list[Any]:
        """States of the first steps, and the losses between them."""
        states, losses = [self.initial], []
        for _ in range(12):
            state, metrics = self.step(states[-1], self.batch)
            states.append(state)
            losses.append(metrics["loss"])
        return [states, losses]

    @functools.cached_property
    def sums(self) -> Any:
        """Of half a batch its denominators, its losses in training, as in the first step, and evaluation; reports.

        A function of the batch, or of none for the case's own.
        """

        def both(parameters: Any, model_state: Any, batch: Any, key: Any) -> Any:
            model = self.program.structure.merge(parameters, model_state)
            loss = functools.partial(self.program.loss, model, batch, key)
            (training, reports), (evaluation, _) = loss(Mode.TRAIN), loss(Mode.EVALUATE)
            return self.objective.denominators(batch), training, evaluation, reports

        key = jax.random.fold_in(purpose_key(self.experiment.seed, "loss"), 0)
        arguments = self.initial["parameters"], self.initial["model_state"], self.half, key
        function = tiny.compiled(jax.jit(both), *arguments)
        *fixed, half, _ = arguments
        return lambda batch=half: jax.device_get(function(*fixed, batch, key))

    def variables(self, state: Any) -> dict[Any, Any]:
        """Every variable of the model by path."""
        return variables.flatten(state["model_state"]) | variables.flatten(state["parameters"])

    def paths(self, role: type) -> list[Any]:
        return [path for path, assignment in self.program.roles.items() if isinstance(assignment.role, role)]


# Those that compile the program of another case, and differ in what it is fed.
ALIKE = ("prefix_lm", "ul2", "denoising", "fill_in_the_middle", "sentence_order")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in CASES]
)
def subject(request):
    with kinds.registered():
        yield Subject(CASES[request.param])


# --- What it reads --------------------------------------------------------------------------------------------------


def test_options_are_plain_values_under_a_name(subject, monkeypatch):
    objective = subject.objective
    target = f"{type(objective).__module__}:{type(objective).__qualname__}"
    monkeypatch.setitem(registry._TABLE["objective"], objective.name, target)
    assert choose(Choice("objective", objective.name), dataclasses.asdict(objective)) == objective
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.name = "other"


def test_an_example_has_the_announced_features(subject):
    features = subject.objective.features(tiny.LENGTH)
    packed = {name: name.removesuffix("segment_ids") for name in features if name.endswith("segment_ids")}
    made_by_packing = {prefix + name for prefix in packed.values() for name in ("segment_ids", "positions")}
    for number, record in enumerate(subject.records):
        example = subject.objective.example(record, np.random.default_rng(number))
        assert set(example) == set(features) - made_by_packing
        for name, value in example.items():
            assert value.dtype == features[name].dtype, name
            assert np.ndim(value) == len(features[name].shape), name
            assert all(size <= most for size, most in zip(value.shape, features[name].shape, strict=True)), name
        for prefix in packed.values():
            assert len({len(value) for name, value in example.items() if name.startswith(prefix)}) == 1


def test_flops_grow_with_the_rows(subject):
    shapes = {name: (tiny.ROWS, *feature.shape) for name, feature in subject.objective.features(tiny.LENGTH).items()}
    twice = {name: (2 * rows, *shape) for name, (rows, *shape) in shapes.items()}
    once = subject.objective.flops(subject.experiment.model, shapes)
    assert subject.objective.flops(subject.experiment.model, twice) == pytest.approx(2 * once)
    # XLA counts everything that is computed, recomputed and elementwise work of this tiny model included.
    counted = subject.step.flops()
    assert 0.3 < once / counted < 1.5, (once, counted)


def test_an_example_is_a_function_of_its_record_and_its_rng(subject):
    for record in subject.records:
        untouched = copy.deepcopy(record)
        np.random.seed(0)  # must not matter
        once = subject.objective.example(record, np.random.default_rng(7))
        np.random.seed(1)
        tiny.assert_same_bits(once, subject.objective.example(record, np.random.default_rng(7)))
        tiny.assert_same_bits(record, untouched)


# --- Who moves what -------------------------------------------------------------------------------------------------


def test_every_variable_has_one_role_and_one_place(subject):
    parameters = set(variables.flatten(subject.initial["parameters"]))
    others = set(variables.flatten(subject.initial["model_state"]))
    everything = set(variables.flatten(subject.program.structure.infos()))
    assert not parameters & others
    assert parameters | others == everything == set(subject.program.roles)
    assert parameters == set(subject.paths(Trained))


def test_every_trained_parameter_has_a_gradient(subject):
    for path, gradient in variables.flatten(tiny.gradients(subject.first[0])).items():
        assert np.isfinite(gradient).all() and gradient.any(), path


def test_what_is_frozen_stays_and_starts_as_its_source(subject):
    states, _ = subject.trajectory
    first, later = subject.variables(states[0]), subject.variables(states[3])
    for path in subject.paths(Frozen):
        tiny.assert_same_bits(first[path], later[path])
        source = subject.program.roles[path].source
        tiny.assert_same_bits(first[path], first[source or path])
        assert source is None or (later[source] != first[source]).any()


def test_averages_start_as_their_source_and_follow_the_formula(subject):
    states, _ = subject.trajectory
    for path in subject.paths(Ema):
        role, source = subject.program.roles[path]
        tiny.assert_same_bits(subject.variables(states[0])[path], subject.variables(states[0])[source])
        for step in range(3):
            old, new = subject.variables(states[step]), subject.variables(states[step + 1])
            decay = np.float64(role.decay(step))
            expected = decay * old[path] + (1 - decay) * new[source]
            np.testing.assert_allclose(new[path], expected, rtol=1e-6, atol=1e-7)
            assert (new[path] != old[path]).any()


def test_statistics_move_through_update_alone(subject):
    state, _ = subject.step(subject.initial, tiny.emptied(subject.batch, slice(HALF, None)))
    before, after = subject.variables(subject.initial), subject.variables(state)
    statistics = subject.paths(Statistics)
    values = {path: jnp.asarray(before[path] if path in statistics else after[path]) for path in before}
    model = subject.program.structure.merge(variables.unflatten(values))
    _, training, _, reports = subject.sums()
    for path, sums in reports.statistics.items():
        variables.at(model, path).update_statistics(sums)
    subject.objective.update(model, training.statistics, jnp.int32(0))
    written = variables.flatten(jax.device_get(variables.values(model)))
    for path in written:
        if path in statistics:
            np.testing.assert_allclose(written[path], after[path], rtol=1e-5, atol=1e-7)
            assert (written[path] != before[path]).any(), path
        else:
            tiny.assert_same_bits(written[path], after[path])


# --- The loss -------------------------------------------------------------------------------------------------------


def test_terms_and_denominators_have_the_same_names(subject):
    denominators, training, evaluation, _ = subject.sums()
    assert set(denominators) == set(training.terms) == set(evaluation.terms)
    for value in (*denominators.values(), *training.terms.values()):
        assert value.shape == () and value.dtype == np.float32 and np.isfinite(value)
    assert all(value > 0 for value in denominators.values())


def test_denominators_are_of_the_data_whatever_its_order(subject):
    order = np.random.default_rng(0).permutation(tiny.ROWS)
    shuffled = {name: value[order] for name, value in subject.batch.items()}
    denominators = subject.objective.denominators(subject.batch)
    for name, value in subject.objective.denominators(shuffled).items():
        np.testing.assert_allclose(value, denominators[name], rtol=1e-6)


def test_the_first_step_is_finite(subject):
    assert all(np.isfinite(value) for value in subject.first[1].values())
    assert subject.first[1]["gradient_norm"] > 0 and subject.first[1]["skipped_steps"] == 0


def test_a_batch_of_empty_rows_moves_nothing(subject):
    """Its denominators are zero: the step is skipped, so that momentum, averages and statistics stay too."""
    state, _ = subject.first
    after, metrics = subject.step(state, tiny.emptied(subject.batch, slice(None)))
    assert metrics["skipped_steps"] == 1
    for part in ("parameters", "model_state", "optimizer"):
        tiny.assert_same_bits(after[part], state[part])


def test_the_loss_falls(subject):
    losses = subject.trajectory[1]
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:2])


def test_evaluation_is_deterministic_and_has_metrics(subject):
    evaluation = subject.sums()[2]
    tiny.assert_same_bits(evaluation, subject.sums()[2])
    assert evaluation.metrics
    assert all(weight > 0 and np.isfinite(total) for total, weight in evaluation.metrics.values())


def test_empty_rows_add_nothing(subject):
    denominators, training, *_ = subject.sums()
    _, metrics = subject.step(subject.initial, tiny.emptied(subject.batch, slice(HALF, None)))
    expected = sum(training.terms[name] / denominators[name] for name in denominators)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    for name, (total, weight) in training.metrics.items():
        np.testing.assert_allclose(metrics[name], total / weight, rtol=1e-6, atol=1e-7)
    assert np.isfinite(metrics["gradient_norm"])


def test_an_empty_batch_has_a_loss_of_zero_and_moves_nothing(subject):
    state, metrics = subject.step(subject.initial, tiny.emptied(subject.batch, slice(None)))
    assert metrics["loss"] == 0 and metrics["gradient_norm"] == 0
    tiny.assert_same_bits(state["parameters"], subject.initial["parameters"])


def test_examples_of_a_row_do_not_see_each_other(subject):
    """Packed, they have the loss that they have in rows of their own."""
    if not any(name.endswith("segment_ids") for name in subject.half):
        return
    made = sorted(filter(None, tiny.examples_of(subject.objective, subject.records)), key=size)[:HALF]
    together = tiny.rows_of(subject.objective, made, HALF)
    alone = [tiny.rows_of(subject.objective, [example], 1) for example in made]
    alone = {name: np.concatenate([row[name] for row in alone]) for name in together} | {"row": together["row"]}
    packed = max(values.max() for name, values in together.items() if name.endswith("segment_ids")) > 1
    assert packed == (subject.objective.name not in FILLING)
    packed, separate = (subject.sums(batch)[2].terms for batch in (together, alone))
    for name in packed.keys() - DRAWN:
        np.testing.assert_allclose(packed[name], separate[name], rtol=2e-5, atol=1e-6, err_msg=name)


def size(example):
    return sum(len(value) for value in example.values() if np.ndim(value))


# --- The same in parts and on other layouts -------------------------------------------------------------------------


def test_sharded_and_in_parts_is_the_whole_batch_on_one_device(subject):
    parts = 1 if subject.couples_batch else 2
    assert_same_step(subject, Parallelism(data=2, fsdp=2, tensor=2, microbatches=parts))


@pytest.mark.slow
def test_devices_that_share_rows_compute_the_whole_batch(subject):
    if any(name.endswith("segment_ids") for name in subject.half) and not subject.couples_batch:
        assert_same_step(subject, Parallelism(fsdp=2, tensor=2, sequence=2, microbatches=2))


def assert_same_step(subject, options):
    sharded = program(dataclasses.replace(subject.experiment, parallelism=options), layout.make(options))
    ours = tiny.Steps(sharded, subject.initial, subject.batch)(subject.initial, subject.batch)
    for name, value in subject.first[1].items():
        # Margins and rewards are differences of log-likelihoods of some nats, whose last digits are other ones.
        np.testing.assert_allclose(ours[1][name], value, rtol=2e-6, atol=2e-7, err_msg=name)
    assert tiny.relative_error(tiny.gradients(ours[0]), tiny.gradients(subject.first[0])) < 2e-6
    for part in ("parameters", "model_state"):
        assert tiny.relative_error(ours[0][part], subject.first[0][part]) < 1e-6


def test_microbatches_are_refused_where_rows_are_coupled(subject):
    parts = Parallelism(microbatches=2)
    if subject.couples_batch:
        with pytest.raises(
            ExperimentError, match=r"parallelism\.microbatches: (objective|model\.family).* couples the exam"
        ):
            dataclasses.replace(subject.experiment, parallelism=parts)
    else:
        assert dataclasses.replace(subject.experiment, parallelism=parts).parallelism.microbatches == 2


# --- The step's promises --------------------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_changes_nothing_but_counts(subject):
    state, batch = copy.deepcopy(subject.first[0]), copy.deepcopy(subject.batch)
    values = [value for value in batch.values() if value.dtype == np.float32]
    for value in values or jax.tree.leaves(state["parameters"]):
        value.reshape(-1)[0] = np.nan
    after, metrics = subject.step(state, batch)
    for part in ("parameters", "model_state", "optimizer"):
        tiny.assert_same_bits(after[part], state[part])
    assert after["step"] == state["step"] + 1
    assert metrics["skipped_steps"] == metrics["skipped_in_a_row"] == after["skipped"]["total"] == 1


def test_the_old_state_is_donated(subject):
    state, batch = subject.step.placed(subject.initial, subject.batch)
    subject.step.on_devices(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))
