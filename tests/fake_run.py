"""The files of an invented run, as real as the eye needs: for tests of what is made from a workdir."""

import json
import math
import random

from t5x_like.telemetry.writer import MetricsWriter

SEQUENCE_LENGTH, BATCH_SIZE = 256, 8
HOSTILE = "<script>alert('sample')</script> & </textarea><img src=x onerror=alert(1)>"

EXPERIMENT = {
    "name": "quickstart",
    "seed": 0,
    "steps": 720,
    "model": {
        "family": "llama",
        "size": "",
        "layers": 4,
        "width": 256,
        "heads": 4,
        "kv_heads": 4,
        "mlp_width": 704,
        "vocabulary_size": 4096,
        "dropout": 0.0,
        "tied_embeddings": True,
        "dtype": "float32",
    },
    "objective": {"name": "causal_lm", "z_loss": 0.0001},
    "data": {
        "task": {"name": "sotu", "path": "package:sotu/sotu.jsonl.zst", "fields": ["year", "name", "party"]},
        "split": "train",
        "sequence_length": SEQUENCE_LENGTH,
        "batch_size": BATCH_SIZE,
        "lanes": 8,
        "prefetch": 4,
    },
    "initialize": {"checkpoint": ""},
    "optimizer": {
        "name": "muon",
        "learning_rate": 0.02,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "schedule": {"name": "cosine", "warmup_steps": 40, "final": 0.1},
    },
    "parallelism": {"data": -1, "fsdp": 1, "tensor": 1, "microbatches": 1, "remat": "none", "scan_layers": True},
    "checkpoint": {"every": 200, "keep": 3, "keep_every": 0, "best_metric": "", "best_mode": "min"},
    "evaluators": {"validation": {"name": "loss", "every": 80}, "samples": {"name": "samples", "prompts": ["I", "We"]}},
    "telemetry": {"every": 10, "tensorboard": True},
}

ENVIRONMENT = {
    "python": "3.11.9",
    "platform": "Linux-6.1-x86_64-with-glibc2.36",
    "packages": {"t5x_like": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8", "optax": "0.2.8"},
    "devices": {"platform": "cpu", "kind": "cpu", "count": 1, "local_count": 1},
    "processes": 1,
    "cpu": {"count": 2, "model": "Some CPU @ 2.60GHz"},
    "variables": {},
    "revision": "0123456789abcdef0123456789abcdef01234567",
}

_TEXTS = (
    " the of and in, to that. is which a for be it The,; was by of the of and has",
    " of the Government to the States, and the people of the United States are in the interest of the country.",
    ", I am happy to say that the condition of the Treasury is such that the public debt may be paid as it falls due."
    " The trade with the nations of South America has grown, and our relations with them are most friendly.",
    ", the year that is closing has been one of peace abroad and of steady work at home. We have kept our word to"
    " those who served, and we have paid what we owe.\n\nBut there is more to do. Too many families still wait for a"
    " doctor they can afford, and too many children still go to schools whose roofs leak. I ask the Congress to act on"
    " both, and to do it in this session, with the money that the tariff has already brought in.",
)
PROMPTS = ("Fellow citizens", "The state of our union", "We must")


def write_run(workdir, *, steps=720, every=10, finished=True, seed=0):
    """Writes all a run leaves that a report is made from; returns the summary.

    Args:
      workdir: an epath directory, made when missing.
      steps: how far the run came.
      every: steps between metric lines.
      finished: whether the summary was written.
      seed: what noise the curves get.
    """
    writer = MetricsWriter(workdir, tensorboard=False, resume_step=None)
    noise = random.Random(seed)
    for step in range(every, steps + 1, every):
        writer.write(step, _train_metrics(step, steps, noise))
    for step in range(0, steps + 1, max(steps // 9, 1)):
        loss = _loss(step, steps) + 0.04
        writer.write(step, {"validation/loss": loss, "validation/bits_per_byte": loss / math.log(2) / 3.9})
        position = min(4 * step // max(steps, 1), 3)
        if step % (2 * max(steps // 9, 1)) == 0:
            writer.write_text(step, {f"samples/{prompt}": prompt + _TEXTS[position] for prompt in PROMPTS})
    writer.write_text(steps, {f"samples/{PROMPTS[0]}": PROMPTS[0] + " " + HOSTILE})
    writer.close()
    _write_json(workdir, "experiment.json", EXPERIMENT | {"steps": 720 if steps <= 720 else steps})
    _write_json(workdir, "environment.json", ENVIRONMENT)
    _write_json(workdir, "parameters.json", _parameters())
    summary = {
        "name": "quickstart",
        "step": steps,
        "validation/bits_per_byte": 1.4192,
        "validation/loss": 3.8331,
        "train_tokens": steps * SEQUENCE_LENGTH * BATCH_SIZE,
        "train_seconds": 291.4,
        "tokens_per_second": 5061.3,
        "flops_per_second": 1.32e11,
        "mfu": None,
        "checkpoint": f"{workdir}/checkpoints/{steps}",
        "report": f"{workdir}/report.html",
    }
    if finished:
        _write_json(workdir, "summary.json", summary)
    return summary


def _loss(step, steps):
    done = step / max(steps, 1)
    return 3.55 + 4.75 * math.exp(-done * 11) + 0.55 * (1 - done)


def _train_metrics(step, steps, noise):
    done = step / steps
    waiting = 0.004 * noise.random() + (0.21 if noise.random() < 0.02 else 0)
    return {
        "train/loss": _loss(step, steps) + noise.gauss(0, 0.07),
        "train/accuracy": 0.34 * (1 - math.exp(-done * 6)) + noise.gauss(0, 0.004),
        "train/learning_rate": 0.02 * min(1, step / 40, 0.1 + 0.45 * (1 + math.cos(math.pi * done))),
        "train/gradient_norm": 0.5
        + 2.5 * math.exp(-done * 14)
        + abs(noise.gauss(0, 0.06))
        + 6 * (noise.random() < 0.01),
        "train/tokens_per_second": 5060 + noise.gauss(0, 60) - 900 * (noise.random() < 0.03),
        "train/data_wait_share": waiting,
        "train/fill_fraction": 0.999 + 0.001 * noise.random(),
        "train/skipped_steps": 0,
        "memory/host_peak_bytes": 1.31e9 + 2e7 * done,
    }


def _parameters():
    def row(path, axes, kind, *shape):
        return {
            "path": path,
            "shape": list(shape),
            "dtype": "float32",
            "axes": list(axes),
            "kind": kind,
            "count": math.prod(shape),
        }

    return [
        row("embedding.table", ("vocab", "embed"), "embedding", 4096, 256),
        row("layers.attention.qkv.kernel", ("layers", "embed", "heads", "kv"), "matrix", 4, 256, 12, 64),
        row("layers.attention.out.kernel", ("layers", "heads", "kv", "embed"), "matrix", 4, 4, 64, 256),
        row("layers.attention_norm.scale", ("layers", "embed"), "norm", 4, 256),
        row("layers.mlp.gate.kernel", ("layers", "embed", "mlp"), "matrix", 4, 256, 704),
        row("layers.mlp.up.kernel", ("layers", "embed", "mlp"), "matrix", 4, 256, 704),
        row("layers.mlp.down.kernel", ("layers", "mlp", "embed"), "matrix", 4, 704, 256),
        row("layers.mlp_norm.scale", ("layers", "embed"), "norm", 4, 256),
        row("final_norm.scale", ("embed",), "norm", 256),
    ]


def _write_json(workdir, name, value):
    (workdir / name).write_text(json.dumps(value, indent=2) + "\n")
