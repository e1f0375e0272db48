"""Tokens a second of generation on the quickstart's model: 64 ragged prompts at once, against one prompt at a time.

    python tools/bench_inference.py [--old=PATH]

Interleaved in one run, with first values for weights (the time does not depend on them) and an end that is never
written, so that every prompt gets all of its tokens:

- `together`: 64 prompts of 4 to 32 tokens in one batch;
- `apart`: sixteen of them one at a time, each a batch of its own, by this tree's engine;
- `before`: one at a time by the tree at PATH, a checkout that still has `evaluation/decoding.py`, in a process of its
  own that waits while the others are measured.

Each greedy and sampled (temperature 0.8, top-p 0.95). Compilation is not in the times, reading the prompts is. Printed
are the best and the median of the rounds, in tokens a second of wall time, and the processor time for a token, which
says more where others use the machine; then ratios of the bests.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PROMPTS, ALONE, MODEL = 64, 16, "configs/quickstart.py"  # ALONE of the prompts are run one at a time

# The quickstart's model in the options of the old tree.
BEFORE_MODEL = {
    "vocab_size": 4096,
    "layers": 4,
    "embed": 256,
    "heads": 2,
    "kv_heads": 2,
    "head_dim": 128,
    "mlp": 768,
    "max_length": 1024,
    "tied_head": True,
}

BEFORE = """
import json, sys, time
from t5x_like import startup
startup.prepare()
import jax, numpy as np
from flax import nnx
from t5x_like.evaluation.decoding import Generator, Sampling
from t5x_like.models import functional
from t5x_like.sections import Choice, choose
given = json.loads(sys.stdin.readline())
structure, parameters = functional.split(choose(Choice("model", "llama", "family"), given["model"]).build(nnx.Rngs(0)))
class Vocabulary:
    pad_id, eos_id, size = 0, -1, given["model"]["vocab_size"]
generate = Generator(structure, Vocabulary(), given["model"]["max_length"])
ways = {"greedy": Sampling(0), "sampled": Sampling(0.8, 0, 0.95)}
key = jax.random.key(0)
def run(way):
    for number, prompt in enumerate(given["prompts"]):
        ids = np.array(prompt, np.int32)
        key_ = jax.random.fold_in(key, number)
        generate.ids(parameters, ids, tokens=given["tokens"], sampling=ways[way], key=key_)
for line in sys.stdin:
    wall, processor = time.perf_counter(), time.process_time()
    run(line.strip())
    print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]), flush=True)
"""


class Before:
    """The old tree in a process that measures when it is told to."""

    def __init__(self, path: str, given: Any) -> None:
        """Starts it."""
        environment = {**os.environ, "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [sys.executable, "-c", BEFORE], cwd=path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._tell(json.dumps(given))

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def __call__(self, way: str) -> tuple[float, float]:
        """Seconds of wall and of processor time for all prompts."""
        self._tell(way)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the old tree ended with status {self._process.wait()}")
        wall, processor = json.loads(line)
        return wall, processor


def measured(function: Callable[[str], Any]) -> Callable[[str], tuple[float, float]]:
    """A function that also measures itself."""

    def run(way: str) -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        function(way)
        return time.perf_counter() - wall, time.process_time() - processor

    return run


def subjects(tokens: int, old: str) -> dict[str, Callable[[str], tuple[float, float]]]:
    """By name, what is measured."""
    from t5x_like.distributed import startup

    startup.prepare()
    import jax
    import numpy as np

    from t5x_like.frontends import configdict
    from t5x_like.inference.engine import Engine
    from t5x_like.inference.sampling import Sampling
    from t5x_like.parallel import layout
    from t5x_like.program import program

    experiment = configdict.load(MODEL, [])
    rng = np.random.default_rng(0)
    size = experiment.model.vocab_size
    prompts = [rng.integers(3, size, rng.integers(4, 33)).astype(np.int32) for _ in range(PROMPTS)]
    subject = program(experiment, layout.make(experiment.parallelism))
    engine = Engine(subject, begin=0, end=-1, pieces=size)
    weights = engine.load(jax.jit(subject.init)())
    ways = {"greedy": Sampling(0), "sampled": Sampling(0.8, 0, 0.95)}
    key = jax.random.key(0)

    def together(way: str) -> None:
        written = engine.write(weights, prompts, tokens=tokens, sampling=ways[way], key=key)
        assert sum(map(len, written)) == PROMPTS * tokens

    def apart(way: str) -> None:
        for prompt in prompts[:ALONE]:
            engine.write(weights, [prompt], tokens=tokens, sampling=ways[way], key=key)

    found = {"together": measured(together), "apart": measured(apart)}
    if old:
        given = {
            "model": BEFORE_MODEL,
            "prompts": [prompt.tolist() for prompt in prompts[:ALONE]],
            "tokens": tokens,
        }
        found["before"] = Before(old, given)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", default="", metavar="PATH", help="a checkout with evaluation/decoding.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default="greedy,sampled")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    found = subjects(options.tokens, os.path.abspath(options.old) if options.old else "")
    totals = {name: (PROMPTS if name == "together" else ALONE) * options.tokens for name in found}
    for way in options.ways.split(","):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
        for run in found.values():
            run(way)
        for _ in range(options.rounds):
            for name, run in found.items():
                times[name].append(run(way))
        best = {name: totals[name] / min(wall for wall, _ in rounds) for name, rounds in times.items()}
        processor = {name: min(cpu for _, cpu in rounds) / totals[name] * 1e3 for name, rounds in times.items()}
        for name, rounds in times.items():
            median = totals[name] / statistics.median(wall for wall, _ in rounds)
            print(f"{way:8} {name:9} {best[name]:8.0f} tokens/s (median {median:.0f}), {processor[name]:.3f} ms of CPU")
        for name in [*found][1:]:
            ratio, spent = best["together"] / best[name], processor[name] / processor["together"]
            print(f"{way:8} together is {ratio:.1f} × {name}; in processor time {spent:.1f} ×", flush=True)


if __name__ == "__main__":
    main()
