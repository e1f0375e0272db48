"""Everything that is to be checked and measured on one NVIDIA GPU, in one command and within a budget of time.

    python3 tools/check_gpu.py --budget=480 --out=check_gpu.jsonl

The parts come cheapest first: (a) attention kernels against float32, (b) time to the first step, (c) speed against
PyTorch, (d) determinism and resumption, (e) predicted against measured memory, (f) FP8 against bfloat16, (g) the
experiment of `make train`. Each runs in a process of its own with a time limit of its own, at which it prints the stack
of every thread and ends. Each result is printed and appended to the file, a line of JSON, the moment it is known. A
part that is cut off, or that the budget leaves no time for, is named.

It needs this repository's source, JAX 0.10.2 or later with CUDA, and for (c) PyTorch in the same environment or in the
one that `--torch-python` names. Without an NVIDIA GPU it says so, runs a stand-in of each part on the CPU at toy size,
and gives no figures.
"""

import argparse
import contextlib
import glob
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEAST = 8  # seconds of the budget under which nothing is started


class Part(NamedTuple):
    """A part of the check.

    Attributes:
      name: of its function.
      module: where that is.
      limit: seconds that it may take on a GPU; a stand-in has as many.
      text: what it does.
    """

    name: str
    module: str
    limit: int
    text: str


PARTS = (
    Part("kernels", "check_gpu_parts", 75, "(a) attention kernels, forward and gradients, against float32"),
    Part("first_step_cold", "check_gpu_parts", 110, "(b) 124M unrolled: time to the first step, nothing in the cache"),
    Part("first_step_warm", "check_gpu_parts", 45, "(b) the same again from the cache, and (e) its memory"),
    Part(
        "first_step_scanned",
        "check_gpu_parts",
        60,
        "(b) 124M with a loop over layers: time to the first step, nothing in the cache",
    ),
    Part("speed_124m", "check_gpu_parts", 110, "(c) 124M against PyTorch, bfloat16"),
    Part("speed_1b", "check_gpu_parts", 170, "(c) 1B against PyTorch, bfloat16"),
    Part("determinism", "check_gpu_runs", 150, "(d) two runs equal, SIGKILL and resume equal"),
    Part("fp8", "check_gpu_runs", 150, "(f) FP8 against bfloat16"),
    Part("quickstart", "check_gpu_runs", 150, "(g) the experiment of `make train`"),
)


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is here."""
    return bool(glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/dxg"))


class Results:
    """The file of results and what is printed."""

    def __init__(self, file: Path) -> None:
        """Opens the file, which is appended to."""
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, part: str, result: str, **figures: Any) -> None:
        """Writes a result down, to the disk before anything else happens, and prints it."""
        line = json.dumps({"part": part, "result": result, **figures})
        with self._file.open("a") as opened:
            opened.write(line + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        print(line, flush=True)


def run_part(part: Part, limit: float, options: argparse.Namespace, results: Results) -> bool:
    """Runs a part in a process of its own. Whether it passed; what it found it has written down itself."""
    command = [sys.executable, "-u", __file__, f"--part={part.name}", f"--out={options.out}", f"--limit={limit:.0f}"]
    command += [f"--cache={options.cache}", f"--torch-python={options.torch_python}"]
    command += ["--toy"] if options.toy else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= {"PYTHONUNBUFFERED": "1", "JAX_COMPILATION_CACHE_DIR": str(Path(options.cache) / "shared")}
    if options.toy:
        environment["JAX_PLATFORMS"] = "cpu"
    begin = time.monotonic()
    child = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        status = child.wait(limit + 5)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        # Whoever it started ends with it, at a limit or on Ctrl-C.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    seconds = round(time.monotonic() - begin, 1)
    if status == 0:
        return True
    if status is None or seconds >= limit - 3:
        results.add(part.name, "cut off", limit_seconds=round(limit), text=part.text)
    else:
        results.add(part.name, "failed", status=status, seconds=seconds, text=part.text)
    return False


def describe(results: Results, toy: bool) -> None:
    """Writes down on what the figures were found."""
    if toy:
        results.add("machine", "there is no NVIDIA GPU here: stand-ins on the CPU at toy size, and no figures")
        return
    query = "--query-gpu=name,driver_version,memory.total"
    try:
        said = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
        gpu = said.stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        gpu = f"nvidia-smi: {error}"
    from importlib import metadata

    versions = {}
    for name in ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "torch", "nvidia-cudnn-cu13"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    results.add("machine", "an NVIDIA GPU", gpu=gpu, python=sys.version.split()[0], versions=versions)


def check(options: argparse.Namespace) -> int:
    """Runs the parts one after the other within the budget; 1 where one failed."""
    begin, results, failed = time.monotonic(), Results(options.out), False
    describe(results, options.toy)
    for part in PARTS:
        if options.parts and part.name not in options.parts:
            continue
        left = options.budget - (time.monotonic() - begin)
        if left < LEAST:
            results.add(part.name, "not run", text=part.text, why=f"{max(left, 0):.0f} s of the budget are left")
            continue
        print(f"--- {part.text}, at most {min(part.limit, left):.0f} s", flush=True)
        failed |= not run_part(part, min(part.limit, left), options, results)
    results.add(
        "end",
        "some parts failed, were cut off or did not hold" if failed else "all parts ran and hold",
        seconds=round(time.monotonic() - begin, 1),
    )
    return int(failed and not options.keep_going)


def child(options: argparse.Namespace) -> int:
    """Runs one part in this process, which ends itself at its limit, and when its parent has ended."""
    import faulthandler
    import threading

    # Written by a thread of its own, which needs no Python: a compiler that hangs is seen as well.
    faulthandler.dump_traceback_later(max(options.limit - 1, 1), exit=True, file=sys.stderr)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    from check_gpu_parts import Setting

    module = next(part.module for part in PARTS if part.name == options.part)
    function = getattr(importlib.import_module(module), options.part)
    passed = function(Setting(options.part, options, Results(options.out)))
    return 0 if passed else 1


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("check_gpu.jsonl"), help="where results are appended")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=[], help="only these, by name")
    parser.add_argument("--cache", default="", help="directory of compiled programs; else a new one that is removed")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has PyTorch with CUDA")
    parser.add_argument("--keep-going", action="store_true", help="exit with 0 whatever failed")
    parser.add_argument("--toy", action="store_true", default=not has_gpu(), help="stand-ins on the CPU, GPU or not")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=60, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.absolute()
    unknown = [name for name in options.parts if name not in {part.name for part in PARTS}]
    if unknown:
        parser.error(f"--parts: there is no {unknown[0]!r}; there are {', '.join(part.name for part in PARTS)}")
    if options.part:
        return child(options)
    if options.cache:
        return check(options)
    with tempfile.TemporaryDirectory(prefix="check_gpu-") as options.cache:
        return check(options)


if __name__ == "__main__":
    sys.exit(main())
