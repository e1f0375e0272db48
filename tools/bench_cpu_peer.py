"""One training step of a GPT-2-shaped model on one core: this program against eager PyTorch.

    .venv/bin/python -m pip install torch==2.13.0
    .venv/bin/python tools/bench_cpu_peer.py

Both train the same shape in float32 on the same random tokens: forward, cross-entropy, backward, clipping by the
global norm, AdamW. Each runs in a process of its own, as its users run it: with `--same-allocator` PyTorch's gets this
program's allocator settings, too. Both are pinned to one core; what is compared is CPU time, steps of the two taking
turns, and the medians. A ratio above 1 means that this program needs less.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

VOCABULARY = 65  # characters
SHAPES = {"4x128": (4, 128, 4, 64, 12), "6x384": (6, 384, 6, 256, 12)}  # layers, width, heads, length, batch


def ours(layers: int, width: int, heads: int, length: int, batch: int) -> Callable[[], float]:
    """A function that takes one step and returns the loss."""
    from t5x_like.distributed import startup

    startup.prepare()
    import jax
    import numpy as np

    from t5x_like.experiment import Experiment
    from t5x_like.program import program
    from t5x_like.step import compiled_step

    experiment = Experiment.from_dict(
        {
            "model": {
                "family": "gpt2",
                "vocab_size": VOCABULARY,
                "embed": width,
                "max_length": length,
                "decoder": {
                    "layers": layers,
                    "layer": {
                        "attention": {"heads": heads, "kv_heads": heads, "head_dim": width // heads},
                        "feed_forward": {"hidden": 4 * width},
                    },
                },
                "dropout": 0.0,
            },
            "data": {"sequence_length": length, "batch_size": batch, "lanes": batch},
            "optimizer": {"name": "adamw", "learning_rate": 1e-3, "schedule": "constant"},
            "parallelism": {"scan_layers": False},
        }
    )
    run = program(experiment)
    step, state = compiled_step(run), jax.jit(run.init)()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (batch, length + 1)).astype(np.int32)
    rows = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.ones((batch, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
        "row": np.arange(batch, dtype=np.int32),
    }

    def take() -> float:
        nonlocal state
        state, results = step(state, rows)
        return float(results["loss"])

    return take


def theirs(layers: int, width: int, heads: int, length: int, batch: int) -> Callable[[], float]:
    """The same in PyTorch, written as its users write it."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            qkv = self.qkv(self.norms[0](x)).view(batch, length, 3, heads, width // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
            return x + self.down(functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
            self.blocks, self.norm = nn.ModuleList([Block() for _ in range(layers)]), nn.LayerNorm(width)

        def forward(self, inputs: Any, targets: Any) -> Any:
            x = self.tokens(inputs) + self.positions.weight
            for block in self.blocks:
                x = block(x)
            logits = self.norm(x) @ self.tokens.weight.T
            return functional.cross_entropy(logits.view(-1, VOCABULARY), targets.reshape(-1))

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.randint(0, VOCABULARY, (batch, length + 1))

    def take() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return take


def work(turns: Any, make: Callable[..., Callable[[], float]], shape: tuple[int, ...], tune: bool) -> None:
    """A process: warms up, then takes a step whenever it is asked, and answers with its CPU seconds."""
    if tune:
        from t5x_like.distributed import startup

        startup.prepare()
    take = make(*shape)
    for _ in range(3):
        take()
    turns.send("ready")
    while turns.recv():
        begin = time.process_time()
        take()
        turns.send(time.process_time() - begin)


def compare(shape: tuple[int, ...], rounds: int, same_allocator: bool) -> dict[str, float]:
    """Median CPU milliseconds of a step of each, and their ratio."""
    spawn, turns = multiprocessing.get_context("spawn"), {}
    for name, make, tune in (("ours", ours, True), ("torch", theirs, same_allocator)):
        turns[name], other = spawn.Pipe()
        spawn.Process(target=work, args=(other, make, shape, tune), daemon=True).start()
        turns[name].recv()
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, connection in turns.items():
            connection.send(True)
            times[name].append(connection.recv())
    for connection in turns.values():
        connection.send(False)
    medians = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": medians["torch_ms"] / medians["ours_ms"]}


def main() -> None:
    """Prints one line a shape, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--same-allocator", action="store_true", help="tune PyTorch's allocator as this program's")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = {name: compare(SHAPES[name], options.rounds, options.same_allocator) for name in options.shape or SHAPES}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, values in found.items():
        print(
            f"{name}: ours {values['ours_ms']:.1f} ms, torch {values['torch_ms']:.1f} ms, ratio {values['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
