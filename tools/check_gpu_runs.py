"""The parts of `check_gpu` that train: (d) determinism and resumption, (f) FP8 against bfloat16, (g) `make train`.

See `check_gpu_parts`. The runs are those of the program, in processes of their own.
"""

import json
import os
import runpy
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from check_gpu_parts import ROOT, TOY, Setting, of_bench, prepared

CONFIG = """
import json
from ml_collections import ConfigDict

def get_config(argument=None):
    return ConfigDict(json.loads({values!r}))
"""


def _experiment(setting: Setting, steps: int, every: int, **model: Any) -> dict[str, Any]:
    """The quickstart's experiment, without evaluators and in bfloat16, or the toy in its place."""
    values = TOY if setting.toy else runpy.run_path(str(ROOT / "configs/quickstart.py"))["get_config"]().to_dict()
    dtype = {} if setting.toy else {"dtype": "bfloat16"}
    return {
        **values,
        "steps": steps,
        "model": {**values["model"], **dtype, **model},
        "data": {**values["data"], "documents_per_row": 16},
        "checkpoint": {"every": every, "keep": 100},
        "evaluators": {},
        "telemetry": {"every": 1, "tensorboard": False},
    }


def _train(setting: Setting, name: str, values: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Starts `train` of an experiment in a work directory of that name."""
    place = setting.cache / "runs"
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{name}_config.py"
    file.write_text(CONFIG.format(values=json.dumps(values)))
    # Several share the GPU; none takes all of its memory.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-u", "-m", "t5x_like", "train", f"--config={file}", f"--workdir={place / name}"]
    with (place / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)


def _done(setting: Setting, name: str, run: subprocess.Popen) -> bool:
    """Waits for a run; where it failed, the end of what it said is printed."""
    if run.wait() == 0:
        return True
    log = (setting.cache / "runs" / f"{name}.log").read_text(errors="replace")
    print(f"{name}: status {run.returncode}\n{log[-3000:]}", file=sys.stderr, flush=True)
    return setting.add(f"{name} failed", passed=False, status=run.returncode)


def _digests(setting: Setting, name: str, step: int) -> dict[str, str]:
    """Of every leaf of a commit."""
    manifest = setting.cache / "runs" / name / "checkpoints" / str(step) / "manifest" / "manifest.json"
    return {path: leaf["digest"] for path, leaf in json.loads(manifest.read_text())["leaves"].items()}


def _different(setting: Setting, name: str, other: str, step: int) -> int:
    """The number of leaves of two runs' commits that are not equal to the bit."""
    a, b = _digests(setting, name, step), _digests(setting, other, step)
    return sum(a[path] != b.get(path) for path in a) + len(b.keys() - a.keys())


def determinism(setting: Setting) -> bool:
    """Two runs with deterministic kernels are equal, and so is one that was killed; what differs without is counted."""
    steps, every = (6, 2) if setting.toy else (60, 20)
    values = _experiment(setting, steps, every)
    exact = {**values, "parallelism": {**values.get("parallelism", {}), "deterministic": True}}
    if not _done(setting, "one", _train(setting, "one", exact)):
        return False
    setting.add("one run has ended", seconds_left=setting.left())
    again, killed = (_train(setting, name, exact) for name in ("again", "killed"))
    committed = setting.cache / "runs/killed/checkpoints" / str(every) / "manifest"
    while not (committed / "manifest.json").exists() and killed.poll() is None:
        time.sleep(0.05)
    was_running = killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    resumed = _train(setting, "killed", exact)
    if not (_done(setting, "again", again) and _done(setting, "killed", resumed)):
        return False
    found = {name: _different(setting, "one", name, steps) for name in ("again", "killed")}
    leaves = len(_digests(setting, "one", steps))
    passed = setting.add("two runs are equal to the bit", not found["again"], different=found["again"], leaves=leaves)
    passed &= setting.add(
        "a run that was killed and resumed is equal to the bit", not found["killed"], different=found["killed"]
    )
    passed &= setting.add("it was killed while it ran", was_running)
    if setting.toy:
        return passed
    free = {name: _train(setting, name, values) for name in ("free", "free_again")}
    if not all(_done(setting, name, run) for name, run in free.items()):
        return False
    different = _different(setting, "free", "free_again", steps)
    setting.add("without deterministic kernels", different=different, leaves=leaves)
    return passed


def fp8(setting: Setting) -> bool:
    """The time of a step of 124M with FP8 products and without, and the losses of small runs of both."""
    from t5x_like.errors import UserError

    steps = 4 if setting.toy else 300
    plain, quantized = _experiment(setting, steps, steps), _experiment(setting, steps, steps, quantization="fp8")
    runs = {"bfloat16": _train(setting, "bfloat16", plain), "fp8": _train(setting, "fp8", quantized)}
    if not setting.toy:
        runs["bfloat16_other_seed"] = _train(setting, "bfloat16_other_seed", {**plain, "seed": 1})
    if not all(_done(setting, name, run) for name, run in runs.items()):
        return False
    last = max(steps // 6, 1)
    losses = {name: statistics.mean(_losses(setting, name)[-last:]) for name in runs}
    if setting.toy:
        return setting.add("losses of both", all(loss > 0 for loss in losses.values()))
    noise = abs(losses["bfloat16"] - losses["bfloat16_other_seed"])
    apart = abs(losses["bfloat16"] - losses["fp8"])
    passed = setting.add(f"losses of the last {last} steps", apart <= max(noise, 0.02), **losses)
    milliseconds = {}
    prepared()
    import jax

    from t5x_like.program import program
    from t5x_like.step import compiled_step

    for name in ("none", "fp8"):
        experiment, batch = of_bench("124m", quantization=name)
        try:
            run = program(experiment)
        except UserError as error:
            return setting.add("fp8 is refused", passed=False, said=str(error))
        state, step = jax.jit(run.init)(), compiled_step(run)
        for count in (3, 20):
            begin = time.perf_counter()
            for _ in range(count):
                state, results = step(state, batch)
            float(results["loss"])
        milliseconds[name] = 1e3 * (time.perf_counter() - begin) / count
        setting.add(f"124M, quantization={name}", milliseconds=milliseconds[name])
    return setting.add("speed", passed, fp8_over_bfloat16=milliseconds["none"] / milliseconds["fp8"])


def _losses(setting: Setting, name: str) -> list[float]:
    lines = (setting.cache / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [line["train/loss"] for line in map(json.loads, lines) if "train/loss" in line]


def quickstart(setting: Setting) -> bool:
    """The experiment of `make train`: bits per byte within 0.01 of the CPU's, 1.41, and how long it takes."""
    begin, values = time.monotonic(), runpy.run_path(str(ROOT / "configs/quickstart.py"))["get_config"]().to_dict()
    if setting.toy:
        values = _experiment(setting, steps=3, every=3)
    if not _done(setting, "quickstart", _train(setting, "quickstart", values)):
        return False
    summary = json.loads((setting.cache / "runs/quickstart/summary.json").read_text())
    names = ("validation/bits_per_byte", "train_seconds", "tokens_per_second", "first_step_seconds")
    figures = {name.rpartition("/")[2]: summary.get(name) for name in names}
    good = setting.toy or abs(figures["bits_per_byte"] - 1.41) <= 0.01
    return setting.add("make train", good, seconds=time.monotonic() - begin, **figures)
