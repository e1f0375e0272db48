"""Layers in stages: the same losses and gradients as without, and what the compiled program sends and holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.sketches import records

from t5x_like import variables
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Data
from t5x_like.kernels import attention as backends
from t5x_like.kernels import xla
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import divisibility, layout
from t5x_like.parallel.compiled import collectives, hlo
from t5x_like.parallelism import Parallelism
from t5x_like.program import program

ROWS, LAYERS = 16, 4
MODELS = {
    "dropped": {"dropout": 0.1, "bias": True},
    "experts": {"experts": 4, "router_balance_loss": 0.02, "router_z_loss": 1e-3},
}
ONE_ROUND = {"data": 2, "fsdp": 2, "stage": 2, "stage_microbatches": 4, "remat": "full"}
TWO_ROUNDS = {"data": 1, "fsdp": 2, "tensor": 2, "stage": 2, "stage_rounds": 2}
CASES = [
    ("dropped", ONE_ROUND),
    ("dropped", TWO_ROUNDS),
    ("experts", {"data": 2, "expert": 2, "stage": 2, "microbatches": 2, "scan_layers": False}),
]


def experiment(model, options):
    return tiny.experiment(
        CausalLM(z_loss=0.01),
        model=tiny.architecture(layers=LAYERS, **MODELS[model]),
        parallelism=Parallelism(**options),
        data=Data(task=None, sequence_length=tiny.LENGTH, batch_size=ROWS),
    )


@pytest.fixture(scope="module")
def batch():
    return tiny.emptied(tiny.batch_of(CausalLM(), records.documents(), rows=ROWS), [6])


@pytest.fixture(scope="module")
def step(batch):
    """By model and layout: a first state that they all share, and the compiled step."""
    found = {}

    def made(model, options):
        key = (model, tuple(options.items()))
        if key not in found:
            asked = experiment(model, options)
            run = program(asked, layout.make(asked.parallelism) if options else None)
            initial = made(model, {})[0] if options else tiny.initial(run)
            found[key] = initial, tiny.Steps(run, initial, batch)
        return found[key]

    return made


@pytest.mark.parametrize(("model", "options"), CASES, ids=str)
def test_stages_change_nothing(model, options, step, batch):
    initial, staged = step(model, options)
    state, metrics = staged(initial, batch)
    expected_state, expected = step(model, {})[1](initial, batch)
    assert set(metrics) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-5, err_msg=key)
    assert tiny.relative_error(tiny.gradients(state), tiny.gradients(expected_state)) < 1e-5


def moved(staged, axis):
    """The collectives along an axis that is more than one device long."""
    mesh = dict(staged.program.layout.mesh.shape)
    found = collectives.collectives(hlo.parse(staged._compiled.as_text()), mesh)
    return [item for item in found if axis in item.axis.split(",")]


def test_a_stage_holds_its_layers_and_sends_rows_on(step):
    _, staged = step("dropped", ONE_ROUND)
    sent = [item for item in moved(staged, "stage") if item.kind == "collective-permute"]
    turns = 4 + 2 - 1
    assert [item.axis for item in sent] == ["stage"] * len(sent) and sum(item.count for item in sent) == 2 * turns
    # Nothing else goes from stage to stage in every turn, and gradients are summed over copies after the last one.
    assert {item.kind for item in moved(staged, "stage") if item.count > 1} == {"collective-permute"}
    assert {item.count for item in moved(staged, "data")} == {1}
    held = argument_bytes(staged)
    assert held == argument_bytes(step("dropped", {"data": 4, "fsdp": 2})[1], layers=1 / 2)


def test_in_rounds_the_stages_exchange_their_layers_once(step):
    _, staged = step("dropped", TWO_ROUNDS)
    exchanged = [item for item in moved(staged, "stage") if item.kind == "all-to-all"]
    assert exchanged and {item.count for item in exchanged} == {1}
    assert {item.kind for item in moved(staged, "stage") if item.count > 1} == {"collective-permute"}


@pytest.mark.parametrize("options", [ONE_ROUND, TWO_ROUNDS], ids=str)
def test_decoding_and_rows_that_fill_no_stage_go_layer_by_layer(options):
    """What evaluators and a user's prompt ask of a model in training: caches, and a row or two."""
    structure, parameters = variables.split(tiny.architecture(layers=LAYERS).build(nnx.Rngs(0)))
    tokens_bt = jax.random.randint(jax.random.key(1), (2, tiny.LENGTH), 1, tiny.VOCABULARY)

    def read(parameters, tokens_bt):
        model = structure.merge(parameters)
        places = {"positions_bt": jnp.arange(tiny.LENGTH)[None], "segment_ids_bt": jnp.ones_like(tokens_bt)}
        hidden_btd = model(tokens_bt, **places)
        decoded, _ = model.decode(tokens_bt, model.empty_cache(2, tiny.LENGTH), jnp.int32(0))
        return model.logits(hidden_btd), decoded

    expected, also = tiny.compiled(jax.jit(read), parameters, tokens_bt)(parameters, tokens_bt)
    with layout.make(Parallelism(**options)).use() as made:
        places = jax.tree.map(lambda info: made.sharding(info.axes), structure.infos())
        placed = jax.device_put(parameters, places)
        step = jax.jit(lambda *given: read(*given), in_shardings=(places, made.sharding(())))
        found = tiny.compiled(step, placed, tokens_bt)(placed, tokens_bt)
    np.testing.assert_allclose(also, expected, atol=1e-5)
    for logits in found:
        np.testing.assert_allclose(logits, expected, atol=1e-5)


class OneBatch(xla.XLA):
    """A backend that, like cuDNN's, describes all rows that a device has at once."""

    def __init__(self):
        self.described = []

    def prepare(self, spec, segment_ids_bt, positions_bt):
        self.described.append(segment_ids_bt.shape)
        return {"ids": segment_ids_bt, "mask": super().prepare(spec, segment_ids_bt, positions_bt)}

    def by_row(self, prepared):
        return prepared | {"mask": None}

    def again(self, spec, rows):
        places_bt = jnp.broadcast_to(jnp.arange(rows["ids"].shape[1]), rows["ids"].shape)
        return self.prepare(spec, rows["ids"], places_bt)

    def attend(self, spec, q, k, v, prepared, *rest):
        return super().attend(spec, q, k, v, prepared["mask"], *rest)


def test_a_kernels_description_of_packed_rows_is_made_anew_for_every_microbatch(monkeypatch):
    structure, parameters = variables.split(tiny.architecture(layers=LAYERS).build(nnx.Rngs(0)))
    numbers = np.arange(ROWS)[:, None]
    segment_ids_bt = (np.arange(tiny.LENGTH) > numbers % 5).astype(np.int32) + 1  # another border in every row
    tokens_bt = (numbers + np.arange(tiny.LENGTH)) % tiny.VOCABULARY

    def read(parameters):
        places = {"positions_bt": jnp.arange(tiny.LENGTH)[None], "segment_ids_bt": jnp.asarray(segment_ids_bt)}
        return structure.merge(parameters)(jnp.asarray(tokens_bt), **places)

    expected = tiny.compiled(jax.jit(read), parameters)(parameters)
    backend = OneBatch()
    monkeypatch.setattr(backends, "BACKENDS", (backend,))
    with layout.make(Parallelism(data=2, fsdp=2, stage=2, stage_microbatches=2)).use():
        found = tiny.compiled(jax.jit(lambda parameters: read(parameters)), parameters)(parameters)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert {shape[0] for shape in backend.described} == {ROWS, ROWS // 2 // 2}  # all, and of one of `data` in a half


@pytest.mark.parametrize(
    ("options", "rows", "sentence"),
    [
        (
            {"stage": 8},
            64,
            "parallelism.stage: 8 stages do not divide model.decoder.layers=4; use a divisor of it",
        ),
        (
            {"stage": 2, "stage_rounds": 4},
            64,
            "parallelism.stage: 2 stages in 4 rounds do not divide model.decoder.layers=4; use a divisor of it",
        ),
        (
            {"fsdp": 4, "stage": 2, "stage_microbatches": 4},
            24,
            "parallelism.stage_microbatches: 4 microbatches on 4 devices of each stage do not divide the 24 rows that"
            " pass through the stages at once; make data.batch_size / parallelism.microbatches a multiple of 16",
        ),
    ],
)
def test_what_the_stages_cannot_share_is_one_sentence(options, rows, sentence):
    with pytest.raises(ExperimentError) as error:
        divisibility.require_stages(
            layout.make(Parallelism(**options)), tiny.architecture(layers=LAYERS).dimensions(), rows
        )
    assert str(error.value) == sentence


def argument_bytes(staged, layers=1.0):
    """Of the parameters on a device; `layers` is what to count those of layers as."""
    state = staged.program.abstract_state()["parameters"]
    total = 0
    for path, leaf in jax.tree.leaves_with_path(state):
        size = np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total += size * (layers if "blocks" in jax.tree_util.keystr(path) else 1)
    return total
