"""The parts of `check_gpu`, each a function that runs in a process of its own and writes down what it finds.

A part gives whether what it checks holds. On the CPU (`toy`) it runs the same code on small shapes, and keeps the
figures to itself.
"""

import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import bench_gpu

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (64, 96, 128)
CLOSE = 1e-2  # the relative error that is allowed to bfloat16

# What stands in for every experiment on a CPU.
_TOY_TASK = {"name": "sotu", "tokenizer": "bytes", "splits": {"train": {"every": 40, "include": [3]}}}
_TOY_LAYER = {
    "attention": {"heads": 2, "kv_heads": 2, "head_dim": 16},
    "feed_forward": {"hidden": 64},
}
_TOY_SIZES = {"embed": 32, "max_length": 64, "decoder": {"layers": 2, "layer": _TOY_LAYER}}
TOY = {
    "model": {"family": "llama", "vocab_size": 512, **_TOY_SIZES},
    "data": {"task": _TOY_TASK, "sequence_length": 64, "batch_size": 2, "lanes": 1, "documents_per_row": 4},
    "optimizer": {"name": "adamw", "schedule": {"name": "constant"}},
}


class Setting:
    """A part's options, and where its results go."""

    def __init__(self, part: str, options: Any, results: Any) -> None:
        """Args: the part's name, the command's options, and the file of results."""
        self.toy, self.cache, self.torch_python = options.toy, Path(options.cache), options.torch_python
        self.ends = time.monotonic() + options.limit
        self._part, self._results = part, results

    def add(self, result: str, passed: bool = True, **figures: Any) -> bool:
        """Writes a result down: figures on a GPU, on a CPU only whether it passed."""
        shown = {} if self.toy else {name: _short(value) for name, value in figures.items()}
        self._results.add(self._part, result, passed=bool(passed), **shown)
        return bool(passed)

    def left(self) -> float:
        """Seconds until the part's limit."""
        return self.ends - time.monotonic()


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


# --- (a) Attention kernels ------------------------------------------------------------------------------------------


def kernels(setting: Setting) -> bool:
    """Packed attention of the backend that is chosen here, forward and gradients, against float32 on the CPU."""
    os.environ["JAX_PLATFORMS"] = "cpu" if setting.toy else "cuda,cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(setting.cache / "kernels")
    prepared()
    passed = True
    for width in WIDTHS[: 1 if setting.toy else None]:
        for name, changed in {
            "packed": {"kv_heads": 8},
            "grouped": {},
            "windowed": {"window": 100},
            "bidirectional": {"causal": False},
        }.items():
            begin = time.monotonic()
            backend, errors = _attention_errors(setting.toy, width, changed)
            wanted = "xla" if setting.toy else "cudnn"
            good = backend == wanted and all(error <= CLOSE for error in errors.values())  # NaN is not
            seconds = time.monotonic() - begin
            passed &= setting.add(f"{name}, head width {width}", good, backend=backend, seconds=seconds, **errors)
    return passed


def _attention_errors(toy: bool, width: int, changed: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """The chosen backend's name, and ‖x − reference‖ / ‖reference‖ of what it gives and of its gradients."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from t5x_like.kernels import attention, xla

    rows, length, heads, kv_heads = (2, 256, 8, 2) if toy else (4, 1024, 8, 2)
    spec: dict[str, Any] = {"causal": True, "window": 0, "kv_heads": kv_heads, **changed}
    rng = np.random.default_rng(width)
    shapes = [(rows, length, n, width) for n in (heads, spec["kv_heads"], spec["kv_heads"], heads)]
    arrays = [rng.standard_normal(shape).astype(jnp.bfloat16) for shape in shapes]
    cuts = np.sort(rng.integers(1, length, (rows, 11)), axis=1)
    ids = 1 + (np.arange(length) >= cuts[:, :, None]).sum(1).astype(np.int32)
    ids[0, -length // 8 :] = 0  # padding
    starts = np.concatenate([np.ones((rows, 1), bool), ids[:, 1:] != ids[:, :-1]], 1)
    positions = np.arange(length) - np.maximum.accumulate(np.where(starts, np.arange(length), 0), axis=1)
    call = attention.AttentionSpec(
        queries=length,
        keys=length,
        heads=heads,
        head_dim=width,
        dtype="bfloat16",
        scale=width**-0.5,
        packed=True,
        rows=rows,
        documents_per_row=16,
        **spec,
    )
    backend = attention.choose(call)

    def ours(q: Any, k: Any, v: Any, grad: Any) -> Any:
        prepared = attention.packed(call, jnp.asarray(ids), jnp.asarray(positions))
        mixed, pull = jax.vjp(lambda *given: prepared.attend(*given), q, k, v)
        return mixed, *pull(grad)

    def reference(q: Any, k: Any, v: Any, grad: Any) -> Any:
        mask = xla.packed_mask(jnp.asarray(ids), jnp.asarray(positions), causal=call.causal, window=call.window)
        attend = lambda *given: xla.attend(*given, mask, causal=call.causal, window=call.window)  # noqa: E731
        mixed, pull = jax.vjp(attend, q, k, v)
        return mixed, *pull(grad)

    got = jax.jit(ours)(*arrays)
    with jax.default_device(jax.devices("cpu")[0]):
        expected = jax.jit(reference)(*(np.float32(each) for each in arrays))
    errors = {}
    for name, a, b in zip(("forward", "queries", "keys", "values"), got, expected, strict=True):
        a, b = np.float32(a), np.float32(b)
        errors[name] = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return backend.name, errors


# --- (b) Time to the first step, (e) memory -------------------------------------------------------------------------


def first_step_scanned(setting: Setting) -> bool:
    """124M with a loop over its layers; a cache of its own."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(setting.cache / "scanned")
    return _first_step(setting, scan_layers=True)


def first_step_cold(setting: Setting) -> bool:
    """124M with its layers compiled one by one."""
    return _first_step(setting, most_seconds=60)


def first_step_warm(setting: Setting) -> bool:
    """The same from the cache, and what it holds in memory: no kernel is tried out here, which takes memory too."""
    return _first_step(setting, most_seconds=15, memory=True)


def _first_step(setting: Setting, *, most_seconds: float = 0, memory: bool = False, **changed: Any) -> bool:
    startup = prepared()
    import jax

    from t5x_like.parallel.compiled.memory import peak_bytes
    from t5x_like.program import program
    from t5x_like.step import compiled_step

    marks = {"devices": (jax.devices(), startup.seconds())[1]}
    experiment, batch = _toy() if setting.toy else of_bench("124m", **changed)
    run = program(experiment)
    state = jax.block_until_ready(jax.jit(run.init)())
    batch = jax.device_put(batch)
    marks["state"] = startup.seconds()
    setting.add("the state is there", seconds=marks["state"], seconds_to_devices=marks["devices"])
    lowered = compiled_step(run).lower(state, batch)
    marks["lowered"] = startup.seconds()
    setting.add("traced and lowered", seconds=marks["lowered"] - marks["state"])
    compiled = lowered.compile()
    marks["compiled"] = startup.seconds()
    text = compiled.as_text()
    setting.add(
        "compiled",
        seconds=marks["compiled"] - marks["lowered"],
        instructions=text.count(" = "),
        products=text.count('custom_call_target="__cublas'),
        attention_kernels=text.count('custom_call_target="__cudnn$fmha'),
    )
    state, results = compiled(state, batch)
    loss, done = float(results["loss"]), startup.seconds()
    passed = setting.add("first step", not most_seconds or setting.toy or done <= most_seconds, seconds=done, loss=loss)
    begin = time.perf_counter()
    steps = 2 if setting.toy else 20
    for _ in range(steps):
        state, results = compiled(state, batch)
    float(results["loss"])
    setting.add("a step", milliseconds=1e3 * (time.perf_counter() - begin) / steps)
    return (_memory(setting, peak_bytes(compiled)) if memory else True) and passed


def _memory(setting: Setting, predicted: int) -> bool:
    import jax

    measured = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if not measured:
        return setting.add("memory: the device does not tell", passed=setting.toy)
    gib = {"predicted_gib": predicted / 2**30, "measured_gib": measured / 2**30}
    return setting.add("memory", abs(predicted / measured - 1) <= 0.05, **gib, predicted_over=predicted / measured)


def prepared() -> Any:
    """The package's start-up, before JAX is imported."""
    # The GPU's memory is taken as it is needed: processes follow each other closely, and two share it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from t5x_like.distributed import startup

    startup.prepare()
    return startup


def of_bench(model: str, **changed: Any) -> tuple[Any, dict[str, Any]]:
    """An experiment of `bench_gpu`, and a batch for it."""
    *_, vocabulary, length, rows = bench_gpu.SHAPES[model]
    return bench_gpu.experiment(model, rows, **changed), bench_gpu.random_batch(vocabulary, rows, length)


def _toy() -> tuple[Any, dict[str, Any]]:
    from t5x_like.experiment import Experiment

    return Experiment.from_dict(TOY), bench_gpu.random_batch(TOY["model"]["vocab_size"], 2, 64)


# --- (c) Speed against PyTorch --------------------------------------------------------------------------------------


def speed_124m(setting: Setting) -> bool:
    """124M of both, in turns."""
    return _speed(setting, "124m", rounds=8, steps=10)


def speed_1b(setting: Setting) -> bool:
    """1B of both, in turns."""
    return _speed(setting, "1b", rounds=5, steps=5, least_mfu=0.5)


def _speed(setting: Setting, model: str, *, rounds: int, steps: int, least_mfu: float = 0.0) -> bool:
    if setting.toy:
        return _toy_speed(setting, model)
    from t5x_like.telemetry.devices import peak_flops

    rows, begin = bench_gpu.SHAPES[model][-1], time.monotonic()
    workers = {
        side: bench_gpu.worker(side, python, model, rows, remat="none")
        for side, python in (("ours", sys.executable), ("torch", setting.torch_python))
    }
    described: dict[str, Any] = {}

    def wait(side: str) -> None:
        described[side] = bench_gpu.answer(side, workers[side])
        setting.add(f"{side} has warmed up", seconds=time.monotonic() - begin)

    waiting = [threading.Thread(target=wait, args=(side,), daemon=True) for side in workers]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    if described.keys() != workers.keys():
        return setting.add("one of both did not start; what it says is above", passed=False)
    flops, peak = described["ours"]["flops"], peak_flops(described["ours"]["gpu"])
    times: dict[str, list[float]] = {side: [] for side in workers}
    for _ in range(rounds):
        for side, worker in workers.items():
            times[side].append(bench_gpu.turn(side, worker, steps))
        medians = {side: statistics.median(values) for side, values in times.items()}
        figures: dict[str, Any] = {f"{side}_ms": 1e3 * seconds for side, seconds in medians.items()}
        figures |= {f"{side}_mfu": flops / seconds / peak if peak else None for side, seconds in medians.items()}
        ratio = medians["torch"] / medians["ours"]
        setting.add(f"after {len(times['ours'])} turns", ratio=ratio, rows=rows, **figures)
    spread = {side: (max(values) - min(values)) / medians[side] for side, values in times.items()}
    good = ratio >= 1 and (figures["ours_mfu"] or 0) >= least_mfu
    return setting.add("speed", good, ratio=ratio, ours_spread=spread["ours"], torch_spread=spread["torch"], **figures)


def _toy_speed(setting: Setting, model: str) -> bool:
    """A few steps of this program, and of PyTorch's model where PyTorch is."""
    prepared()
    import importlib.util

    import jax

    from t5x_like.program import program
    from t5x_like.step import compiled_step

    experiment, batch = _toy()
    run = program(experiment)
    _, results = compiled_step(run)(jax.jit(run.init)(), jax.device_put(batch))
    passed = setting.add("ours: a step", bool(results["loss"] > 0))
    if importlib.util.find_spec("torch") is None:
        return setting.add("PyTorch is not installed here, and took no step") and passed
    bench_gpu.SHAPES[model] = (1, 64, 4, 4 if model == "124m" else 2, 128, 256, 32, 2)
    bench_gpu.theirs(model, 2, device="cpu")(2)
    return setting.add("torch: two steps") and passed
