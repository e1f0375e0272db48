"""Rows shared by devices: the same losses and gradients, packed rows included, and what cannot be shared."""

import jax
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like.errors import ExperimentError
from t5x_like.kernels import splash
from t5x_like.models.transformer import context_parallel as context
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import divisibility, layout
from t5x_like.parallel.compiled import collectives, hlo
from t5x_like.parallelism import Parallelism
from t5x_like.program import program

# One key-value head for four query heads: it is repeated, as there are more devices than that.
MODELS = {"each head its own": {"kv_heads": 4, "dropout": 0.1}, "one for all": {"kv_heads": 1}}
LAYOUTS = {
    "each head its own": [{"sequence": 4, "fsdp": 2}, {"sequence": 2, "tensor": 2, "data": 2, "remat": "full"}],
    "one for all": [{"sequence": 4, "data": 2, "microbatches": 2}],
}
CASES = [(name, options) for name, several in LAYOUTS.items() for options in several]


def experiment(model, options):
    return tiny.experiment(
        CausalLM(z_loss=0.01), model=tiny.architecture(**MODELS[model]), parallelism=Parallelism(**options)
    )


@pytest.fixture(scope="module")
def batch():
    return tiny.emptied(tiny.batch_of(CausalLM(), records.documents()), [6])


def compiled(model, options, batch):
    asked = experiment(model, options)
    made = layout.make(asked.parallelism) if options else None
    run = program(asked, made)
    initial = tiny.initial(program(experiment(model, {})))
    return initial, tiny.Steps(run, initial, batch)


@pytest.fixture(scope="module")
def alone(batch):
    found = {}
    for model in MODELS:
        initial, step = compiled(model, {}, batch)
        found[model] = step(initial, batch)
    return found


@pytest.mark.parametrize(("model", "options"), CASES, ids=str)
def test_sharing_rows_changes_nothing(model, options, alone, batch):
    initial, step = compiled(model, options, batch)
    state, metrics = step(initial, batch)
    expected_state, expected = alone[model]
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-5, err_msg=key)
    assert tiny.relative_error(tiny.gradients(state), tiny.gradients(expected_state)) < 1e-5
    kinds = {item.kind for item in moved(step, "sequence")}
    assert "all-to-all" in kinds  # tokens against heads, and no gathering of whole rows of activations


def moved(step, axis):
    """The collectives along an axis."""
    mesh = dict(step.program.layout.mesh.shape)
    found = collectives.collectives(hlo.parse(step._compiled.as_text()), mesh)
    return [item for item in found if axis in item.axis]


def test_the_kernel_gets_whole_rows_of_some_heads():
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (2, 128, 4, 32))
    k, v = (jax.random.normal(key, (2, 128, 2, 32)) for key in keys[1:])
    segments = splash.Segments(np.repeat([[1] * 50 + [2] * 60 + [0] * 18], 2, 0))

    def run(q, k, v):
        q, k, v = (each.swapaxes(1, 2) for each in context.whole_rows(q, k, v))
        return context.own_tokens(splash.splash(q, k, v, segments, interpret=True).swapaxes(1, 2))

    expected = run(q, k, v)
    with layout.make(Parallelism(data=2, sequence=4)).use() as made:
        found = jax.jit(run)(q, k, v)
        assert found.sharding.is_equivalent_to(made.sharding(("batch", "length")), 4)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "length", "sentence"),
    [
        ({"sequence": 8}, 24, "parallelism.sequence: a ring of 8 devices does not divide data.sequence_length=24"),
        ({"strategy": "ring", "sequence": 4}, 20, "parallelism.sequence: a ring of 4 devices does not divide"),
        ({"sequence": 4}, 18, "parallelism.sequence: 4 devices do not divide data.sequence_length=18; use a multiple"),
        ({"tensor": 8}, 16, "parallelism.tensor: 8 devices do not divide model.decoder.layer.attention.heads=4"),
        ({"expert": 8}, 16, "parallelism.expert: 8 devices do not divide model.decoder.layer.feed_forward.experts=4"),
    ],
)
def test_what_cannot_be_shared_is_one_sentence(options, length, sentence):
    made = layout.make(Parallelism(**options))
    with pytest.raises(ExperimentError) as error:
        divisibility.require(made, tiny.architecture(experts=4).dimensions(), length)
    assert str(error.value).startswith(sentence)
