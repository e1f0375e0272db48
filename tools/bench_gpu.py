"""A training step on one NVIDIA GPU: this program against PyTorch, compiled and with flash attention.

    make setup ACCELERATOR=cuda
    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch numpy
    .venv/bin/python tools/bench_gpu.py --torch-python=/tmp/torch/bin/python

Both train the same shapes in bfloat16 with float32 parameters and moments on the same random tokens: forward,
cross-entropy, backward, clipping by the global norm, AdamW. Each runs in a process of its own, PyTorch's in an
environment of its own, as both bring CUDA's libraries; they share the GPU and take turns of a few steps, of which the
time is taken until the GPU is done. What is printed is the median of the turns, the share of the GPU's peak that went
into the model (MFU), and PyTorch's time over this program's: above 1 this program is faster.

Not yet run: there has been no GPU to run it on. Figures belong here, with the GPU, its driver and both versions.
"""

import argparse
import glob
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# layers, width, heads, key-value heads, hidden width, vocabulary, length, rows
SHAPES = {
    "124m": (12, 768, 12, 12, 3072, 50257, 1024, 32),
    "1b": (22, 2048, 32, 4, 5632, 32000, 2048, 8),
}
LEARNING_RATE, B2, WEIGHT_DECAY, CLIP = 1e-4, 0.95, 0.1, 1.0
WARM_UP = 3


def experiment(model: str, rows: int, **changed: Any) -> Any:
    """The experiment of one of `SHAPES`; `changed` are its options of `parallelism`, or `quantization`."""
    from t5x_like.experiment import Experiment

    length = SHAPES[model][-2]
    family = {"family": "gpt2", "dropout": 0.0} if model == "124m" else {"family": "llama"}
    if quantization := changed.pop("quantization", ""):
        family["quantization"] = quantization
    return Experiment.from_dict(
        {
            "model": {**family, "size": model, "max_length": length, "dtype": "bfloat16"},
            "data": {"sequence_length": length, "batch_size": rows, "lanes": 1, "documents_per_row": 1},
            "optimizer": {
                "name": "adamw",
                "learning_rate": LEARNING_RATE,
                "b2": B2,
                "weight_decay": WEIGHT_DECAY,
                "clip_norm": CLIP,
                "schedule": "constant",
            },
            "parallelism": {"data": 1, "scan_layers": False, **changed},
        }
    )


def random_batch(vocabulary: int, rows: int, length: int) -> dict[str, Any]:
    """Random tokens as the program's features, one document a row."""
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, vocabulary, (rows, length + 1)).astype(np.int32)
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.ones((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "row": np.arange(rows, dtype=np.int32),
    }


def ours(model: str, rows: int, remat: str) -> tuple[Callable[[int], None], float, str]:
    """A function that takes so many steps, a step's model FLOPs, and the GPU's name."""
    import os

    # Two processes share the memory, of which JAX would take three quarters when it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from t5x_like.distributed import startup

    startup.prepare()
    import jax

    from t5x_like.program import flops_per_step, program
    from t5x_like.step import compiled_step

    described = experiment(model, rows, remat=remat)
    *_, vocabulary, length, _ = SHAPES[model]
    run = program(described)
    state, step = jax.jit(run.init)(), compiled_step(run)
    batch = jax.device_put(random_batch(vocabulary, rows, length))

    def take(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, results = step(state, batch)
        print(f"ours: loss {float(results['loss']):.4f}", file=sys.stderr, flush=True)  # waits

    return take, flops_per_step(described), jax.devices()[0].device_kind


def build_torch(model: str) -> Any:
    """The same model in PyTorch, written as its users write it; `model(inputs, targets)` is the mean loss."""
    import torch
    from torch import nn
    from torch.nn import functional

    layers, width, heads, kv_heads, hidden, vocabulary, length, _ = SHAPES[model]
    llama, each = model != "124m", width // heads

    def norm() -> nn.Module:
        return nn.RMSNorm(width, eps=1e-5) if llama else nn.LayerNorm(width)

    def linear(inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs, bias=not llama)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([norm(), norm()])
            self.qkv, self.out = linear(width, (heads + 2 * kv_heads) * each), linear(width, width)
            self.up, self.down = linear(width, (1 + llama) * hidden), linear(hidden, width)

        def forward(self, x: Any, turn: Any) -> Any:
            b, t, _ = x.shape
            sizes = (heads, kv_heads, kv_heads)
            parts = self.qkv(self.norms[0](x)).split([n * each for n in sizes], dim=-1)
            q, k, v = (part.view(b, t, n, each).transpose(1, 2) for part, n in zip(parts, sizes, strict=True))
            if llama:
                q, k = turn(q), turn(k)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)
            x = x + self.out(mixed.transpose(1, 2).reshape(b, t, width))
            up = self.up(self.norms[1](x))
            if not llama:
                return x + self.down(functional.gelu(up, approximate="tanh"))
            gate, up = up.chunk(2, dim=-1)
            return x + self.down(functional.silu(gate) * up)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(vocabulary, width)
            self.positions = None if llama else nn.Embedding(length, width)
            self.blocks, self.norm = nn.ModuleList([Block() for _ in range(layers)]), norm()
            self.head = nn.Linear(width, vocabulary, bias=False)
            if not llama:
                self.head.weight = self.tokens.weight
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.02)
            angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, each, 2) / each)
            self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
            self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)

        def turn(self, x: Any) -> Any:
            first, second = x.chunk(2, dim=-1)
            turned = torch.cat((-second, first), dim=-1)
            t = x.shape[-2]
            return (x * self.cos[:t] + turned * self.sin[:t]).to(x.dtype)

        def forward(self, inputs: Any, targets: Any) -> Any:
            x = self.tokens(inputs)
            if self.positions is not None:
                x = x + self.positions.weight[: x.shape[1]]
            for block in self.blocks:
                x = block(x, self.turn)
            logits = self.head(self.norm(x))
            return functional.cross_entropy(logits.float().view(-1, vocabulary), targets.reshape(-1))

    torch.manual_seed(0)
    return Model()


def theirs(model: str, rows: int, device: str = "cuda") -> Callable[[int], None]:
    """A function that takes so many of PyTorch's steps."""
    import numpy as np
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.set_float32_matmul_precision("high")
    *_, vocabulary, length, _ = SHAPES[model]
    net = build_torch(model).to(device)
    on_gpu = device == "cuda"
    compiled = torch.compile(net) if on_gpu else net
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=LEARNING_RATE, betas=(0.9, B2), weight_decay=WEIGHT_DECAY, fused=on_gpu
    )
    tokens = np.random.default_rng(0).integers(0, vocabulary, (rows, length + 1))
    inputs, targets = (torch.tensor(part, device=device) for part in (tokens[:, :-1], tokens[:, 1:]))

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        kernel = sdpa_kernel(SDPBackend.FLASH_ATTENTION if on_gpu else SDPBackend.MATH)
        with torch.autocast(device, dtype=torch.bfloat16), kernel:
            loss = compiled(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        return loss.detach()

    def take(steps: int) -> None:
        for _ in range(steps):
            loss = step()
        print(f"torch: loss {float(loss):.4f}", file=sys.stderr, flush=True)  # waits

    return take


def work(side: str, model: str, rows: int, remat: str) -> None:
    """A process: warms up, then takes as many steps as a line asks for, and answers with their seconds."""
    described: dict[str, Any] = {}
    if side == "ours":
        take, flops, gpu = ours(model, rows, remat)
        described = {"flops": flops, "gpu": gpu}
    else:
        take = theirs(model, rows)
    take(WARM_UP)
    print(json.dumps(described), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        take(int(line))
        print(json.dumps(time.perf_counter() - begin), flush=True)


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median milliseconds of a step of each, MFU, and their ratio."""
    rows = options.rows or SHAPES[model][-1]
    workers = {
        side: worker(side, python, model, rows, options.remat)
        for side, python in (("ours", sys.executable), ("torch", options.torch_python))
    }
    try:
        described = {side: answer(side, each) for side, each in workers.items()}
        times: dict[str, list[float]] = {side: [] for side in workers}
        for _ in range(options.rounds):
            for side, each in workers.items():
                times[side].append(turn(side, each, options.steps))
    finally:
        for each in workers.values():
            each.terminate()
    from t5x_like.telemetry.devices import peak_flops

    medians = {side: statistics.median(values) for side, values in times.items()}
    flops, gpu = described["ours"]["flops"], described["ours"]["gpu"]
    peak = peak_flops(gpu)
    return {
        "gpu": gpu,
        "rows": rows,
        **{f"{side}_ms": 1e3 * seconds for side, seconds in medians.items()},
        **{f"{side}_mfu": flops / seconds / peak if peak else None for side, seconds in medians.items()},
        "ratio": medians["torch"] / medians["ours"],
        "spread": {side: (max(values) - min(values)) / medians[side] for side, values in times.items()},
    }


def worker(side: str, python: str, model: str, rows: int, remat: str) -> subprocess.Popen[str]:
    """Starts a process of one side; see `work`."""
    command = [python, __file__, f"--worker={side}", f"--model={model}", f"--rows={rows}", f"--remat={remat}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def turn(side: str, worker: subprocess.Popen[str], steps: int) -> float:
    """Has a process take so many steps: the seconds of one."""
    assert worker.stdin is not None
    print(steps, file=worker.stdin, flush=True)
    return answer(side, worker) / steps


def answer(side: str, worker: subprocess.Popen[str]) -> Any:
    """The next line that a process prints."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"error: the process of {side} ended with status {worker.wait()}; what it says is above")
    return json.loads(line)


def main() -> int:
    """Prints one line a model, or one JSON object; without a GPU a sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, action="append")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each")
    parser.add_argument("--steps", type=int, default=10, help="in a turn")
    parser.add_argument("--rows", type=int, default=0, help="of a batch, where the model's own number does not fit")
    parser.add_argument("--remat", default="none", help="this program's policy; PyTorch keeps everything")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has PyTorch with CUDA")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=("ours", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.model[0], options.rows, options.remat)
        return 0
    if not glob.glob("/dev/nvidia[0-9]*"):
        print("there is no NVIDIA GPU here, so nothing is measured")
        return 0
    found = {model: compare(model, options) for model in options.model or SHAPES}
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for model, values in found.items():
        shown = []
        for side in ("ours", "torch"):
            share = values[f"{side}_mfu"]
            shown.append(f"{side} {values[f'{side}_ms']:.1f} ms (MFU {f'{share:.1%}' if share else 'unknown'})")
        print(f"{model} on {values['gpu']}, {values['rows']} rows: {', '.join(shown)}, ratio {values['ratio']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
