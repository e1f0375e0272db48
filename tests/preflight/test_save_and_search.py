"""An executable that is kept, and a search: on this machine's own devices."""

import contextlib
import dataclasses
import pickle
import types

import jax
import numpy as np
import pytest
import tiny
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from t5x_like import program as step
from t5x_like.compilation import compile_step
from t5x_like.errors import UserError
from t5x_like.experiment import Telemetry
from t5x_like.parallel import executables, topologies
from t5x_like.parallel import layout as layouts
from t5x_like.parallel.placement import batch_shapes, place
from t5x_like.parallelism import Parallelism
from t5x_like.preflight import build, child, fit, search
from t5x_like.sections import flatten
from t5x_like.step import compiled_step
from t5x_like.telemetry.environment import versions

TOPOLOGY = topologies.parse("v5e:2x2")
MODEL = {"family": "llama", "layers": 1, "embed": 16, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp": 32}


def experiment():
    return tiny.from_flat(
        {
            "model": {**MODEL, "vocab_size": 32},
            "data": {"sequence_length": 8, "batch_size": 8, "lanes": 1},
            "optimizer": {"name": "adamw"},
            "parallelism": {"data": 2, "fsdp": 2},
        }
    )


@contextlib.contextmanager
def no_cache():
    """JAX without its cache: on a CPU an executable that comes out of it cannot be written again."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def built():
    """The step of four devices, compiled without JAX's cache."""
    with no_cache():
        return build.build(experiment(), TOPOLOGY, jax.devices()[:4])


def found(place, program, layout, experiment):
    """What a job on a layout's devices finds there for its own step, and the sentence on it."""
    lowered = compiled_step(program).lower(program.abstract_state(), batch_shapes(experiment, layout))
    devices = [*layout.mesh.devices.flat]
    key = executables.key(lowered, devices, versions())
    return executables.find(place, key, flatten(fit.resolved(experiment, len(devices)).to_dict()), devices)


def found_by(place, experiment, devices=4):
    layout = layouts.make(experiment.parallelism, jax.devices()[:devices])
    return found(place, step.program(experiment, layout), layout, experiment)


def test_a_saved_executable_is_the_step(tmp_path, built):
    file = build.save(built, epath.Path(tmp_path))
    loaded, sentence = found_by(epath.Path(tmp_path), experiment())
    assert sentence == f"the step is {file}, compiled before"
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


def test_training_runs_what_was_saved_and_compiles_what_was_not(tmp_path, built, monkeypatch):
    program, said, measured = step.program(experiment(), built.layout), [], []
    journal = types.SimpleNamespace(message=said.append, compiled=lambda *figures: measured.append(figures))
    compiled = []
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda self, compile=jax.stages.Lowered.compile: compiled.append(self) or compile(self),
    )
    compile_step(experiment(), program, journal)
    compile_step(experiment(), program, journal, str(tmp_path))
    assert len(compiled) == 2
    build.save(built, epath.Path(tmp_path))
    compile_step(experiment(), program, journal, str(tmp_path))
    assert len(compiled) == 2
    assert [sentence.split(":")[0] for sentence in said] == ["the step is compiled here", said[-1]]
    assert [[*seconds] for seconds, _ in measured] == [["tracing", "lowering", "compiling"]] * 3
    assert all(peak == measured[0][1] > 0 for _, peak in measured)


def test_an_executable_of_other_compiler_options_is_not_run(tmp_path, built):
    file, layout = build.save(built, epath.Path(tmp_path)), built.layout
    lowered = compiled_step(step.program(experiment(), layout)).lower(built.state, built.batch)
    devices = [*layout.mesh.devices.flat]
    key = executables.key(lowered, devices, versions(), {"xla_gpu_deterministic_ops": True})
    loaded, sentence = executables.find(file, key, flatten(built.experiment.to_dict()), devices)
    assert loaded is None and "compiler options" in sentence


def test_an_executable_of_another_program_is_not_run(tmp_path, built):
    directory = epath.Path(tmp_path)
    assert found_by(directory, experiment()) == (
        None,
        f"the step is compiled here: there is no file *.executable at {directory}",
    )
    file = build.save(built, directory)
    changed = dataclasses.replace(experiment(), steps=7, name="other")
    assert found_by(file, changed) == (
        None,
        f"the step is compiled here: {file} has name 'experiment' and not 'other', steps 1000 and not 7",
    )
    _, sentence = found_by(file, dataclasses.replace(experiment(), parallelism=Parallelism(fsdp=2)), devices=8)
    assert sentence.endswith(f"{file} was compiled for devices 4 × cpu, and here is 8 × cpu")
    # What does not change the program does not matter; without dropout that is the seed, too.
    assert found_by(file, dataclasses.replace(experiment(), telemetry=Telemetry(every=3), seed=7))[0] is not None


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda line, body: (line.replace(jax.__version__.encode(), b"0.1.2"), body),
            f"jax 0.1.2, and here is {jax.__version__}",
        ),
        (lambda line, body: (line, body[:50]), "cannot be loaded ("),
        (lambda line, body: (b"{}\n", body), "it is no executable that preflight --save wrote"),
    ],
    ids=["another jax", "cut short", "another file"],
)
def test_a_file_that_cannot_be_run_is_named(tmp_path, built, spoil, expected):
    file = build.save(built, epath.Path(tmp_path))
    line, _, body = file.read_bytes().partition(b"\n")
    file.write_bytes(b"".join(spoil(line + b"\n", body)))
    loaded, sentence = found_by(file, experiment())
    assert loaded is None and expected in sentence and str(file) in sentence


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


def test_a_search_goes_on_after_a_candidate_whose_compiler_aborts(monkeypatch):
    def run(work):
        made.append(work)
        if len(made) == 2:
            raise child.AbortedError("--topology: the compilation ended with SIGABRT")
        return work()

    made, told = [], []
    monkeypatch.setattr(search, "_report", lambda *_: {"estimated_step_seconds": 1.0, "mfu_estimate": 0.5})
    found = search.search(experiment(), TOPOLOGY, 3, told.append, run=run)
    assert len(made) == 4  # the list of candidates, and three of them
    assert len(found) == 2 and "ended with SIGABRT" in told[1]


def test_candidates_can_be_sent_from_a_child_process():
    candidates = search.candidates(experiment(), TOPOLOGY)
    assert pickle.loads(pickle.dumps(candidates)) == candidates
