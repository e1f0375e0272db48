"""What every optimizer has to keep, whatever its rule."""

import dataclasses
import functools
import io
from dataclasses import dataclass
from typing import Annotated, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from t5x_like import registry
from t5x_like.errors import ExperimentError
from t5x_like.optim.build import OptimizerState, build, learning_rate, state_axes
from t5x_like.optim.muon import Muon
from t5x_like.optim.schedules import Constant, Cosine
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.sections import Choice, section

# `heads` and `kv` are as long as `embed`: shapes alone do not tell the axes of a square matrix.
SIZES = {"layers": 2, "expert": 3, "embed": 8, "heads": 8, "kv": 8, "mlp": 12, "vocab": 16}

STEPS = 200

# Each optimizer and its variants, at a learning rate by which the small problems below converge.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("adamw", {"learning_rate": 0.05}),
    "adafactor": ("adafactor", {"learning_rate": 0.05, "min_factored_size": 4}),
    "adafactor-whole": ("adafactor", {"learning_rate": 0.05, "momentum": 0.9, "parameter_scale": False}),
    "lion": ("lion", {"learning_rate": 0.02}),
    "muon": ("muon", {"learning_rate": 0.05, "adam_learning_rate": 0.05}),
    "sgd": ("sgd", {"learning_rate": 0.05, "clip_norm": 10.0}),
    "adafactor-of-updates": (
        "adafactor",
        {
            "learning_rate": 0.05,
            "momentum": 0.5,
            "momentum_of": "update",
            "clip_threshold": 0.0,
            "parameter_scale": False,
            "min_factored_size": 4,
        },
    ),
    "lion-of-clipped-values": ("lion", {"learning_rate": 0.02, "clip_value": 5.0}),
    "sgd-plain": ("sgd", {"learning_rate": 0.1, "clip_norm": 10.0, "momentum": 0.0}),
}

# The tests are compile-bound, and want no fast code.
COMPILER = {"xla_backend_optimization_level": 0}


def make(case, **options):
    name, own = CASES[case]
    standard = {"schedule": Constant(), "weight_decay": 0.1, "weight_decay_kinds": ("matrix", "norm")}
    return registry.load("optimizer", name)(**{**standard, **own, **options})


def info(kind, *axes):
    return ParameterInfo(tuple(SIZES[name] for name in axes), np.float32, axes, kind)


INFOS = {
    "embedding": {"table": info("embedding", "vocab", "embed")},
    "layers": {
        "query": {"kernel": info("matrix", "layers", "embed", "heads"), "bias": info("bias", "layers", "heads")},
        "experts": {"kernel": info("matrix", "layers", "expert", "embed", "mlp")},
        "norm": {"scale": info("norm", "layers", "embed")},
    },
}


def random_tree(seed, infos=INFOS):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda i: jnp.asarray(random.normal(size=i.shape), jnp.float32), infos)


def step_function(options, infos):
    optimizer = build(options, infos, STEPS)

    def step(parameters, state, gradients):
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    return optimizer.init, step


def compiled(options, infos):
    """`init(parameters)` and `step(parameters, state, gradients)`, which takes the first two's memory."""
    init, step = step_function(options, infos)
    return (
        jax.jit(init, compiler_options=COMPILER),
        jax.jit(step, donate_argnums=(0, 1), compiler_options=COMPILER),
    )


@functools.cache
def standard(case):
    """The case as `make(case)` gives it, compiled once for all tests."""
    return compiled(make(case), INFOS)


every_case = pytest.mark.parametrize("case", CASES)


def test_every_optimizer_of_the_registry_is_a_case():
    assert {name for name, _ in CASES.values()} == set(registry.names("optimizer"))


@every_case
def test_it_descends_a_quadratic_in_every_parameter(case):
    start, target = random_tree(0), random_tree(1)
    init, step = standard(case)
    parameters, state = random_tree(0), init(start)
    gradient = jax.jit(functools.partial(jax.tree.map, jnp.subtract))
    for _ in range(100):
        parameters, state = step(parameters, state, gradient(parameters, target))
    before, after = (jax.tree.map(lambda p, t: np.linalg.norm(p - t), p, target) for p in (start, parameters))
    assert jax.tree.all(jax.tree.map(lambda b, a: a < 0.3 * b, before, after)), (before, after)


NETWORK = {"up": {"kernel": info("matrix", "embed", "mlp")}, "down": {"kernel": info("matrix", "mlp", "heads")}}


def network(parameters):
    inputs = np.random.default_rng(2).normal(size=(16, 8)).astype(np.float32)
    return jnp.tanh(inputs @ parameters["up"]["kernel"]) @ parameters["down"]["kernel"]


@jax.jit
@jax.value_and_grad
def network_loss(parameters):
    return jnp.mean((network(parameters) - network(random_tree(3, NETWORK))) ** 2)


@every_case
def test_it_fits_a_small_network(case):
    init, step = compiled(make(case, schedule=Cosine(warmup_steps=10), weight_decay=0.0), NETWORK)
    parameters = jax.tree.map(lambda p: 0.3 * p, random_tree(4, NETWORK))
    first, _ = network_loss(parameters)
    state = init(parameters)
    for _ in range(STEPS):
        _, gradients = network_loss(parameters)
        parameters, state = step(parameters, state, gradients)
    last, _ = network_loss(parameters)
    assert last < 0.3 * first


def check_that_only_decay_moves(options, init, step):
    parameters = random_tree(0)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    new, state = step(random_tree(0), init(parameters), zeros)

    def check(i, before, after):
        share = options.peak(i) * options.weight_decay if i.kind in options.weight_decay_kinds else 0.0
        np.testing.assert_allclose(after, (1 - share) * before, rtol=1e-6 if share else 0)

    jax.tree.map(check, INFOS, parameters, new)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@every_case
def test_without_a_gradient_weight_decay_takes_its_share_of_the_kinds_named_alone(case):
    check_that_only_decay_moves(make(case), *standard(case))


@pytest.mark.parametrize("kinds", [("embedding",), ("bias",), ()])
def test_weight_decay_goes_by_kind(kinds):
    options = make("sgd-plain", weight_decay_kinds=kinds, weight_decay=0.5)
    check_that_only_decay_moves(options, *compiled(options, INFOS))


@every_case
def test_a_learning_rate_of_zero_moves_nothing(case):
    infos = {"table": INFOS["embedding"]["table"], "kernel": INFOS["layers"]["query"]["kernel"]}
    options = make(case, learning_rate=0.0)
    if isinstance(options, Muon):
        options = dataclasses.replace(options, adam_learning_rate=0.0)
    init, step = compiled(options, infos)
    new, _ = step(random_tree(0, infos), init(random_tree(0, infos)), random_tree(1, infos))
    chex.assert_trees_all_equal(new, random_tree(0, infos))


def unstack(tree, infos=INFOS):
    """Every stacked leaf as a dict of its parts."""

    def parts(i, leaf):
        indices = np.ndindex(*i.shape[: i.stack])
        return {"_".join(map(str, index)): leaf[index] for index in indices} if i.stack else leaf.copy()

    return jax.tree.map(parts, infos, tree)


def unstack_infos(infos=INFOS):
    def parts(i):
        single = dataclasses.replace(i, shape=i.shape[i.stack :], axes=i.axes[i.stack :])
        indices = np.ndindex(*i.shape[: i.stack])
        return {"_".join(map(str, index)): single for index in indices} if i.stack else i

    return jax.tree.map(parts, infos)


def uneven(tree, scales):
    """Layers of different scale: a rule that mixed them would show it."""
    scales = np.asarray(scales, np.float32)
    return jax.tree.map(lambda i, p: p * scales.reshape(-1, *[1] * (p.ndim - 1)) if i.stack else p, INFOS, tree)


@every_case
def test_a_stack_moves_like_its_layers_apart(case):
    options = make(case)
    apart_init, apart_step = step_function(options, unstack_infos())
    apart_step = jax.jit(apart_step, compiler_options=COMPILER)
    stacked_init, stacked_step = standard(case)
    stacked = uneven(random_tree(0), [0.1, 10.0])
    apart = unstack(stacked)
    stacked_state, apart_state = stacked_init(stacked), apart_init(apart)
    for seed in range(3):
        gradients = uneven(random_tree(10 + seed), [30.0, 0.1])
        stacked, stacked_state = stacked_step(stacked, stacked_state, gradients)
        apart, apart_state = apart_step(apart, apart_state, unstack(gradients))
        close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
        jax.tree.map(close, unstack(stacked), apart)


def state_and_axes(options):
    optimizer = build(options, INFOS, STEPS)
    shapes = jax.tree.map(lambda i: jax.ShapeDtypeStruct(i.shape, i.dtype), INFOS)
    state = jax.eval_shape(optimizer.init, shapes)
    return state, state_axes(options, INFOS, state)


@every_case
def test_state_axes_fit_every_array_of_the_state(case):
    state, axes = state_and_axes(make(case))

    def check(array, names):
        assert array.shape == tuple(1 if name is None else SIZES[name] for name in names)

    jax.tree.map(check, state, axes)


@every_case
def test_state_axes_name_what_the_state_varies_along(case):
    """Also where two axes have one length: a gradient that varies along one axis alone tells them apart."""
    options = make(case)
    init, step = standard(case)
    for varying in ("embed", "heads", "mlp"):

        def gradient(i, varying=varying):
            ramps = [1.0 + np.arange(size) * (name == varying) for name, size in zip(i.axes, i.shape, strict=True)]
            return jnp.asarray(functools.reduce(np.multiply, np.ix_(*ramps)), jnp.float32)

        _, state = step(random_tree(0), init(random_tree(0)), jax.tree.map(gradient, INFOS))

        def check(array, names, varying=varying):
            for dimension, name in enumerate(names):
                varies = np.ptp(array, axis=dimension).max() > 1e-4 * np.abs(array).max()
                assert name == varying or not varies, (names, name)

        jax.tree.map(check, state, state_axes(options, INFOS, state))


def test_an_array_of_the_state_that_is_of_no_parameter_is_an_error():
    state = OptimizerState(count=jnp.zeros(()), direction={"history": jnp.zeros((5,))})
    with pytest.raises(ValueError, match=r"shape \(5,\) belongs to no parameter"):
        state_axes(make("sgd"), INFOS, state)


@every_case
def test_moments_are_float32_and_counts_int32(case):
    state, _ = state_and_axes(make(case))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {np.dtype(np.float32), np.dtype(np.int32)}


@every_case
def test_compiled_is_the_same_as_eager(case):
    infos, results = NETWORK["up"], []
    for make_functions in (step_function, compiled):
        init, step = make_functions(make(case), infos)
        results.append(step(random_tree(0, infos), init(random_tree(0, infos)), random_tree(5, infos)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *results)


@every_case
def test_a_step_takes_over_the_memory_of_the_last_state(case):
    init, step = standard(case)
    parameters, state = random_tree(0), init(random_tree(0))
    step(parameters, state, random_tree(5))
    of_parameters = [leaf for leaf in jax.tree.leaves((parameters, state)) if leaf.size > SIZES["layers"] * 3]
    assert all(leaf.is_deleted() for leaf in of_parameters)


@every_case
def test_state_survives_being_flattened_and_written(case):
    init, step = standard(case)
    parameters, state = step(random_tree(0), init(random_tree(0)), random_tree(6))
    copy = jax.tree.map(jnp.copy, parameters)
    leaves, structure = jax.tree.flatten(state)
    file = io.BytesIO()
    np.savez(file, *leaves)
    file.seek(0)
    read = np.load(file)
    restored = structure.unflatten([jnp.array(read[f"arr_{i}"]) for i in range(len(leaves))])
    one, other = step(parameters, state, random_tree(7)), step(copy, restored, random_tree(7))
    chex.assert_trees_all_equal(one, other)


@pytest.mark.parametrize("case", ["adafactor-whole", "muon", "sgd-plain"])
def test_state_survives_a_checkpoint(case, tmp_path):
    init, step = standard(case)
    _, state = step(random_tree(0), init(random_tree(0)), random_tree(6))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    chex.assert_trees_all_equal(restored, state)


@every_case
def test_a_step_is_traced_once(case):
    """A state that comes out with another dtype, or a weak one, than it went in would be compiled again."""
    chex.clear_trace_counter()  # which counts by name
    init, step = step_function(make(case), INFOS)
    step = jax.jit(chex.assert_max_traces(step, n=1), compiler_options=COMPILER)
    parameters, state = random_tree(0), jax.jit(init, compiler_options=COMPILER)(random_tree(0))
    for seed in range(3):
        parameters, state = step(parameters, state, random_tree(seed))


def test_gradients_of_other_parameters_are_refused():
    init, step = step_function(make("sgd"), INFOS)
    gradients = random_tree(1)
    gradients["layers"]["norm"]["scale"] = gradients["layers"]["norm"]["scale"][:1]
    with pytest.raises(AssertionError, match="scale"):
        step(random_tree(0), init(random_tree(0)), gradients)


def test_the_learning_rate_logged_is_the_one_applied():
    options = make("sgd-plain", schedule=Cosine(warmup_steps=3), weight_decay=0.0)
    infos = {"scale": ParameterInfo((), np.float32, (), "norm")}
    optimizer = build(options, infos, 10)
    rate = learning_rate(options, 10)
    parameters, gradients = {"scale": jnp.zeros(())}, {"scale": jnp.ones(())}
    state = optimizer.init(parameters)
    for step in range(10):
        assert state.count == step
        logged = rate(state.count)
        updates, state = optimizer.update(gradients, state, parameters)
        assert logged == -updates["scale"] and logged.dtype == jnp.float32


def test_a_schedule_that_does_not_fit_is_an_error_before_the_run():
    options = make("adamw", schedule=Constant(warmup_steps=10))
    for function in (lambda: build(options, INFOS, 10), lambda: learning_rate(options, 10)):
        with pytest.raises(ExperimentError, match="^optimizer.schedule.warmup_steps: 10 steps of warm-up"):
            function()


@dataclass(frozen=True, kw_only=True)
class Run:
    """An experiment with an optimizer and nothing else."""

    optimizer: Annotated[Any, Choice("optimizer", default="adamw")]


@pytest.mark.parametrize("name", registry.names("optimizer"))
def test_it_is_built_by_name_with_a_schedule_by_name(name):
    options = section(Run, {"optimizer": {"name": name, "schedule": {"name": "wsd", "warmup_steps": 5}}}, "").optimizer
    assert options.name == name and options.schedule.name == "wsd" and options.schedule.warmup_steps == 5
    assert section(Run, {"optimizer": name}, "").optimizer.schedule == Cosine()


@pytest.mark.parametrize("name", registry.names("optimizer"))
@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"learning_rat": 1.0}, "optimizer.learning_rat: there is no such field; did you mean 'learning_rate'?"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate: -1.0 is too small; it must be at least 0"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay: -0.1 is too small"),
        ({"clip_norm": -1}, "optimizer.clip_norm: -1.0 is too small"),
        ({"nonfinite_limit": 0}, "optimizer.nonfinite_limit: 0 is too small; it must be at least 1"),
        ({"weight_decay_kinds": ["matrx"]}, "optimizer.weight_decay_kinds: 'matrx' .* did you mean 'matrix'?"),
        ({"schedule": "cosin"}, "optimizer.schedule.name: there is no schedule 'cosin'; did you mean 'cosine'?"),
    ],
)
def test_wrong_options_are_errors(name, wrong, message):
    with pytest.raises(ExperimentError, match="^" + message.replace("?", r"\?")):
        section(Run, {"optimizer": {"name": name, **wrong}}, "")


@pytest.mark.parametrize(
    "name, field, value",
    [
        ("adamw", "b1", 1.0),
        ("adamw", "b2", 1.0),
        ("adamw", "eps", -1e-8),
        ("lion", "b1", -0.1),
        ("lion", "b2", 1.0),
        ("sgd", "momentum", 1.0),
        ("adafactor", "decay_rate", -1.0),
        ("adafactor", "clip_threshold", -1.0),
        ("adafactor", "momentum", 1.0),
        ("adafactor", "min_factored_size", 0),
        ("muon", "momentum", 1.0),
        ("muon", "newton_schulz_steps", 0),
        ("muon", "scaling", "height"),
        ("muon", "adam_learning_rate", -1.0),
        ("muon", "b1", 1.0),
        ("muon", "b2", 1.0),
        ("muon", "eps", -1.0),
    ],
)
def test_options_of_one_optimizer_out_of_range_are_errors(name, field, value):
    with pytest.raises(ExperimentError) as error:
        section(Run, {"optimizer": {"name": name, field: value}}, "")
    assert error.value.where == f"optimizer.{field}"


def test_muon_names_a_matrix_that_is_none():
    infos = {"attention": {"query": info("matrix", "layers", "embed", "heads", "kv")}}
    with pytest.raises(ValueError, match="attention.query: Muon needs matrices"):
        build(make("muon"), infos, STEPS)
