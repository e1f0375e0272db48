"""An executable that is kept, and a search: on this machine's own devices."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from t5x_like import step
from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.parallel import topologies
from t5x_like.parallel.placement import place
from t5x_like.preflight import build, search

TOPOLOGY = topologies.parse("v5e:2x2")
MODEL = {"family": "llama", "layers": 1, "embed": 16, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp": 32}


def experiment():
    return Experiment.from_dict(
        {
            "model": {**MODEL, "vocab_size": 32},
            "data": {"sequence_length": 8, "batch_size": 8, "lanes": 1},
            "optimizer": {"name": "adamw"},
            "parallelism": {"data": 2, "fsdp": 2},
        }
    )


@pytest.fixture
def no_cache():
    """JAX without its cache: on a CPU an executable that comes out of it cannot be written again."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("no_cache")
def test_a_saved_executable_is_the_step(tmp_path):
    built = build.build(experiment(), TOPOLOGY, jax.devices()[:4])
    loaded = build.load(build.save(built, tmp_path), experiment(), jax.devices()[:4])
    program = step.program(experiment(), built.layout)
    state = jax.jit(program.init)()
    features = experiment().objective.features(8)
    batch = {name: np.ones((8, *f.shape), f.dtype) for name, f in features.items()} | {
        "row": np.arange(8, dtype="int32")
    }

    def run(compiled):
        placed = jax.tree.map(lambda leaf, like: jax.device_put(np.array(leaf), like.sharding), state, built.state)
        return jax.device_get(compiled(placed, place(batch, built.layout))[1])

    assert run(loaded) == run(built.compiled)


def test_an_executable_of_another_experiment_is_refused(tmp_path):
    file = build.save(build.build(experiment(), TOPOLOGY, jax.devices()[:4]), tmp_path)
    with pytest.raises(UserError, match="another experiment"):
        build.load(file, dataclasses.replace(experiment(), steps=7), jax.devices()[:4])
    with pytest.raises(UserError, match="for 4 devices and here are 8"):
        build.load(file, experiment())


def test_a_search_ranks_what_fits_and_tells_what_does_not(monkeypatch):
    seconds = iter([3.0, None, 1.0])

    def report(built, prices_file):
        taken = next(seconds)
        if taken is None:
            raise UserError("it does not fit")
        return {"estimated_step_seconds": taken, "mfu_estimate": 0.5}

    monkeypatch.setattr(search, "build", build)
    monkeypatch.setattr(build, "build", lambda experiment, topology: experiment)
    monkeypatch.setattr(search, "report", report)
    told = []
    found = search.search(experiment(), TOPOLOGY, 3, told.append)
    assert [figures["estimated_step_seconds"] for figures in found] == [1.0, 3.0]
    assert any("it does not fit" in line for line in told) and len(told) == 6
    assert all("--config.parallelism.remat=" in figures["flags"] for figures in found)
