"""The residual stream shared by the devices of tensor parallelism: what the rule does to the compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like.errors import ExperimentError
from t5x_like.models.transformer import residual_stream as stream
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.parallel import divisibility, layout
from t5x_like.parallel.compiled import collectives, hlo, memory
from t5x_like.parallelism import Parallelism
from t5x_like.program import program

TENSOR = 4
TAKEN_AWAY = {"stream_length": ("sequence",)}  # as it is without tensor parallelism


def step_of(**parallelism):
    options = Parallelism(strategy="tp", tensor=TENSOR, **parallelism)
    experiment = tiny.experiment(CausalLM(), parallelism=options)
    initial = tiny.initial(program(experiment))
    batch = tiny.batch_of(CausalLM(), records.documents())
    return tiny.Steps(program(experiment, layout.make(options)), initial, batch), initial, batch


@pytest.fixture(scope="module")
def shared():
    return step_of(remat="full")


@pytest.fixture(scope="module")
def alike():
    """Every device of a tensor axis with the whole stream."""
    return step_of(remat="full", rules=TAKEN_AWAY)


def module(step):
    return hlo.parse(step._compiled.as_text())


def test_what_is_kept_of_a_layer_is_the_device_s_tokens(shared, alike):
    kept = 4 * 2 * (tiny.ROWS / 2) * tiny.LENGTH * 16  # float32, two layers, half of the rows
    ours, theirs = (memory.stacked_bytes(module(step))["activations"] for step, *_ in (shared, alike))
    assert theirs - ours == kept - kept / TENSOR  # beside them there are sums of the loss


def test_tokens_are_gathered_before_a_part_and_not_without_the_rule(shared, alike):
    def gathered(step):
        shape = f"f32[{tiny.ROWS // 2},{tiny.LENGTH},16]"
        found = collectives.collectives(module(step), dict(step.program.layout.mesh.shape))
        return sum(
            item.count for item in found if (item.kind, item.axis, item.shape) == ("all-gather", "tensor", shape)
        )

    # Two layers: before attention and before the MLP, forward and again for the backward pass, in which the gradients
    # of both parts' sums are gathered too; and once before the head.
    assert gathered(shared[0]) >= 2 * (2 + 2 + 2) + 1
    assert gathered(alike[0]) == 0


def test_losses_and_gradients_are_the_same(shared, alike):
    (ours, losses), (theirs, expected) = (step(initial, batch) for step, initial, batch in (shared, alike))
    assert float(losses["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    assert tiny.relative_error(tiny.gradients(ours), tiny.gradients(theirs)) < 1e-5


def test_a_gradient_comes_back_where_the_stream_is():
    """The sum over the devices of a part leaves each its tokens, and is not first whole on all of them."""
    made = layout.make(Parallelism(strategy="tp", tensor=TENSOR))
    x, kernel = jnp.ones((4, 8, 16)), jnp.ones((16, 32))
    with made.use():
        places = made.sharding(stream.SHARED), made.sharding(("embed", "mlp"))
        gradient = jax.grad(lambda x, kernel: jnp.sin(stream.gather(x) @ kernel).sum())
        compiled = jax.jit(gradient, in_shardings=places).lower(x, kernel).compile()
        traced = str(jax.make_jaxpr(gradient)(x, kernel))
    assert compiled.output_shardings.is_equivalent_to(places[0], 3)
    assert traced.count("sharding_constraint") == 2 and str(made.spec(stream.SHARED)) in traced
    np.testing.assert_allclose(jax.jit(gradient)(x, kernel), np.full(x.shape, 32 * np.cos(16.0)), rtol=1e-4)


def test_a_length_that_is_not_divided_is_one_sentence_and_another_than_the_data_s_stays_whole():
    made = layout.make(Parallelism(strategy="tp", tensor=TENSOR))
    with pytest.raises(ExperimentError, match=r"^parallelism.tensor: 4 devices do not divide data.sequence_length=18"):
        divisibility.require(made, tiny.architecture().dimensions(), 18)
    with made.use():
        x = jnp.ones((4, 1, 16))  # a token that is decoded
        assert stream.gather(x) is x and stream.scatter(x) is x
        assert stream.constrain(x).sharding.is_equivalent_to(made.sharding(stream.WHOLE), 3)
