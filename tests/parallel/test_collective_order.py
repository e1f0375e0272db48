"""Programs for a CPU's devices are compiled anew where a stored one would lose the order of its collectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5x_like.parallel import collective_order


@pytest.fixture
def cached(tmp_path):
    """Compiles as often as it is called; gives JAX's own count of programs taken from a cache of the test's own."""
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", _SECONDS, _BYTES)}
    for name, value in {"jax_compilation_cache_dir": str(tmp_path), _SECONDS: 0.0, _BYTES: -1}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    taken = []

    def note(event, **_):
        taken.extend([event] * event.endswith("/cache_hits"))

    jax.monitoring.register_event_listener(note)

    def compile_twice(function, *arguments):
        taken.clear()
        for _ in range(2):
            compiled = jax.jit(lambda *x: function(*x)).lower(*arguments).compile()
        return compiled, len(taken)

    yield compile_twice
    jax.monitoring.unregister_event_listener(note)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


_SECONDS, _BYTES = "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes"


def everywhere(x):
    return jax.lax.with_sharding_constraint(x, NamedSharding(_mesh(), PartitionSpec()))


def _mesh():
    return jax.make_mesh((8,), ("device",), axis_types=(AxisType.Auto,))


def loop_of_gathers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ everywhere(w)), None), x, weights)[0]


def gathers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, everywhere(weights))[0]


def arrays(spec):
    weights = jax.device_put(np.ones((3, 16, 16), np.float32), NamedSharding(_mesh(), PartitionSpec(None, spec)))
    return jax.device_put(np.ones((16, 16), np.float32), NamedSharding(_mesh(), PartitionSpec(spec))), weights


@pytest.mark.parametrize(
    ("function", "spec", "stored"), [(gathers, "device", 1), (loop_of_gathers, "device", 0), (loop_of_gathers, None, 1)]
)
def test_a_program_with_collectives_in_a_loop_is_never_loaded(cached, function, spec, stored):
    compiled, taken = cached(function, *arrays(spec))
    assert taken == stored
    assert collective_order.survives(compiled.runtime_executable()) == bool(stored)


def test_one_that_was_stored_by_others_is_not_taken(cached, monkeypatch):
    x = arrays("device")
    monkeypatch.setattr(collective_order, "has_collective_in_loop", lambda _: False)
    assert cached(loop_of_gathers, *x)[1] == 1
    monkeypatch.undo()
    assert cached(loop_of_gathers, *x)[1] == 0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("  %g = f32[8,4]{1,0} all-gather(%x), channel_id=1", True),
        ("  %g = (f32[8], /*index=1*/f32[4]{0}) all-reduce(%x, %y), channel_id=1, to_apply=%add", True),
        ("  ROOT %s = f32[8]{0} reduce-scatter-start(%x)", True),
        ('  %c = f32[8] fusion(%all-gather.1), kind=kLoop, metadata={op_name="all-gather(x)"}', False),
    ],
)
def test_a_collective_is_known_by_its_operation(line, found):
    body = f"%body (p: f32[8]) -> f32[8] {{\n{line}\n}}\n"
    assert collective_order.has_collective_in_loop(body) == found
    assert not collective_order.has_collective_in_loop(body.replace("%body", "ENTRY %body"))
