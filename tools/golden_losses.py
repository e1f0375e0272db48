"""Golden losses: the first losses of tiny experiments of every family, to the last bit, against which a change is held.

    python tools/golden_losses.py tests/golden/losses_schema1.json             # compare this tree with the file
    python tools/golden_losses.py tests/golden/losses_schema1.json llama bert  # two of its experiments
    PYTHONPATH=OLD python tools/golden_losses.py losses.json --write           # a new file, from the tree in OLD
    python tools/golden_losses.py tests/golden/losses_tiny.json --write --configs configs/tiny/*.py

The file holds each experiment as plain values of the schema it was written in, so that reading it also proves the
migrations. Bits hold for one kind of processor and one version of JAX, which the file names; on another, losses are
compared to a relative tolerance of 1e-5. Each experiment is trained by the real program on one CPU device, with the
compiler flags of the tests.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5x_like.experiment import Experiment

STEPS, CONFIG_STEPS = 6, 3
TOLERANCE = 1e-5
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
if __name__ == "__main__":  # read when JAX is imported
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", _FLAGS),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }

# XLA fuses these steps otherwise than the program of the first schema had it, which shows in last bits of their losses:
# since steps without targets are skipped, and since the auxiliary channel came.
_NEAR = ("bert", "llama_int8", "llama_remat", "t5_prefix_lm")

_BYTES = 259
_SMALL = {"layers": 2, "embed": 32, "heads": 4, "kv_heads": 4, "head_dim": 8, "mlp": 64, "vocab_size": 384}
_GROUPED = {**_SMALL, "kv_heads": 2}
_ENCODER_DECODER = {**_SMALL, "encoder_layers": 2, "relative_buckets": 8}
_SENTINELS = {"vocab_size": _BYTES + 20, "sentinels": 20}
_MASKED = {"name": "masked_lm", "mask_id": _BYTES, "vocab_size": _BYTES + 1, "special_ids": [0, 1, 2]}

# By name: sections of the experiment in the first schema, over those of `_experiment`.
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "llama": {"model": {"family": "llama", **_GROUPED}},
    "llama_muon_unrolled": {
        "model": {"family": "llama", **_GROUPED, "tied_head": True},
        "data": {"sequence_length": 256, "batch_size": 4},
        "optimizer": {"name": "muon", "learning_rate": 2e-2},
        "parallelism": {"scan_layers": False},
    },
    "llama_microbatches": {
        "model": {"family": "llama", **_GROUPED, "dropout": 0.1},
        "parallelism": {"microbatches": 2},
        "optimizer": {"name": "lion", "learning_rate": 1e-3},
    },
    "llama_remat": {"model": {"family": "llama", **_GROUPED, "dropout": 0.1}, "parallelism": {"remat": "full"}},
    "llama_bfloat16": {
        "model": {"family": "llama", **_GROUPED, "dtype": "bfloat16"},
        "objective": {"name": "causal_lm", "z_loss": 1e-4, "label_smoothing": 0.1, "chunk": 32},
        "parallelism": {"remat": "save_attention"},
    },
    "llama_int8": {"model": {"family": "llama", **_GROUPED, "quantization": "int8"}},
    "gpt2": {"model": {"family": "gpt2", **_SMALL}},
    "gpt3": {"model": {"family": "gpt3", **_SMALL, "dropout": 0.1}, "optimizer": {"name": "sgd", "learning_rate": 0.1}},
    "mistral": {"model": {"family": "mistral", **_GROUPED, "window": 16}},
    "mixtral": {"model": {"family": "mixtral", **_GROUPED, "experts": 4, "router_z_loss": 1e-3}},
    "mixtral_microbatches": {
        "model": {"family": "mixtral", **_GROUPED, "experts": 4},
        "parallelism": {"microbatches": 2, "scan_layers": False},
    },
    "t5": {
        "model": {"family": "t5", **_ENCODER_DECODER},
        "objective": {"name": "span_corruption", **_SENTINELS},
        "optimizer": {"name": "adafactor", "learning_rate": 1e-2},
    },
    "t5_1_1": {
        "model": {"family": "t5_1_1", **_ENCODER_DECODER},
        "objective": {"name": "span_corruption", **_SENTINELS, "z_loss": 1e-4},
        "optimizer": {"name": "adafactor", "learning_rate": 1e-2},
        "parallelism": {"remat": "full"},
    },
    "t5_1_1_ul2": {
        "model": {"family": "t5_1_1", **_ENCODER_DECODER, "dropout": 0.1},
        "objective": {
            "name": "ul2",
            "vocab_size": _BYTES + 43,
            "sentinels": 40,
            "mode_ids": [_BYTES, _BYTES + 1, _BYTES + 2],
        },
        "data": {"sequence_length": 128},
        "parallelism": {"scan_layers": False},
    },
    "t5_prefix_lm": {
        "model": {"family": "t5", **_ENCODER_DECODER, "dropout": 0.0},
        "objective": {"name": "prefix_lm"},
        "parallelism": {"microbatches": 2},
    },
    "bert": {"model": {"family": "bert", **_SMALL}, "objective": _MASKED},
    "bert_unrolled": {
        "model": {"family": "bert", **_SMALL, "dropout": 0.0},
        "objective": _MASKED,
        "parallelism": {"scan_layers": False, "remat": "save_dots"},
    },
}


def _experiment(name: str) -> dict[str, Any]:
    """Plain values of an experiment of the table, without defaults."""
    sections = EXPERIMENTS[name]
    data = {"sequence_length": 64, "batch_size": 8, "lanes": 4, **sections.get("data", {})}
    task = {"name": "sotu", "tokenizer": "bytes", "splits": {"train": {"every": 40, "include": [3]}}}
    return {
        "name": name,
        "seed": 7,
        "steps": STEPS,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "schedule": {"name": "linear", "warmup_steps": 2}},
        "telemetry": {"every": 1, "tensorboard": False},
        "checkpoint": {"every": 1000},
        "compilation_cache": "off",
        **sections,
        "data": {"task": task, **data},
    }


def shortened(config: str) -> "Experiment":
    """The experiment of a config file for the first steps alone: without evaluators and their metric."""
    from t5x_like.frontends import configdict

    flags = {"steps": CONFIG_STEPS, "evaluators": "{}", "checkpoint.best_metric": "", "compilation_cache": "off"}
    flags |= {
        "checkpoint.every": CONFIG_STEPS,
        "telemetry.every": 1,
        "telemetry.tensorboard": False,
        "optimizer.schedule.warmup_steps": 1,
    }
    return configdict.load(config, [f"--config.{field}={value}" for field, value in flags.items()])


def losses(values: dict[str, Any]) -> list[float]:
    """The training losses of an experiment, one a step, as the program writes them to `metrics.jsonl`.

    Args:
      values: the experiment's plain values, of any schema that the tree can read.
    """
    from etils import epath

    from t5x_like.experiment import Experiment
    from t5x_like.train import train

    assert train.__defaults__ is not None
    quiet = dataclasses.replace(train.__defaults__[0], show=False)  # whose class has another name in older trees
    workdir = Path(tempfile.mkdtemp(prefix="golden-losses-"))
    try:
        outcome = train(Experiment.from_json(json.dumps(values)), epath.Path(workdir), quiet)
        if outcome.interrupted:
            raise KeyboardInterrupt(f"{outcome.interrupted.name} after step {outcome.step}")
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        return [line["train/loss"] for line in lines if "train/loss" in line]
    finally:
        shutil.rmtree(workdir)


def machine() -> dict[str, str]:
    """The conditions of a loss's bits besides the program: the processor's features, JAX, the compiler's flags."""
    import jax

    features = ""
    if Path("/proc/cpuinfo").exists():
        flags = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("flags")), "")
        features = " ".join(sorted(word for word in flags.split() if word.startswith(("avx", "amx", "fma"))))
    return {
        "processor": f"{platform.machine()} {features}".strip(),
        "jax": jax.__version__,
        "flags": os.environ.get("XLA_FLAGS", ""),
    }


def write(path: Path, names: Sequence[str], configs: Sequence[str]) -> None:
    """Trains the experiments of the table, or those of config files, with this tree and writes their losses."""
    from t5x_like.experiment import Experiment

    chosen = {Path(config).stem: shortened(config) for config in configs}
    if not configs:
        chosen = {name: Experiment.from_json(json.dumps(_experiment(name))) for name in names or EXPERIMENTS}
    found = {}
    for name, experiment in chosen.items():
        values = json.loads(experiment.to_json())
        found[name] = {"experiment": values, "losses": [loss.hex() for loss in losses(values)]}
        print(name, [round(float.fromhex(loss), 4) for loss in found[name]["losses"]], flush=True)
    path.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1) + "\n")


def compare(path: Path, names: Sequence[str]) -> list[str]:
    """One line for every experiment of the file whose losses are others; empty when all are as they were."""
    golden = json.loads(path.read_text())
    here, exact = machine(), golden["machine"] == machine()
    if not exact:
        different = [name for name, value in golden["machine"].items() if here[name] != value]
        print(f"another {' and '.join(different)} than the file's: compared to {TOLERANCE:g}", file=sys.stderr)
    wrong = []
    for name in names or golden["runs"]:
        run = golden["runs"][name]
        now, then = losses(run["experiment"]), [float.fromhex(loss) for loss in run["losses"]]
        near = len(now) == len(then) and all(abs(a - b) <= TOLERANCE * abs(b) for a, b in zip(now, then, strict=True))
        same = now == then or (near and not (exact and name not in _NEAR))
        if not same:
            wrong.append(f"{name}: {now} where {then} were")
        print(f"{name}: {'the same bits' if now == then else 'near' if same else 'OTHERS'}", flush=True)
    return wrong


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("names", nargs="*", help="experiments; all where none is named")
    parser.add_argument("--write", action="store_true", help="write the file from this tree")
    parser.add_argument("--configs", nargs="*", default=[], help="config files to write, in place of the tool's table")
    options = parser.parse_args()
    if options.write:
        write(options.file, options.names, options.configs)
        return 0
    wrong = compare(options.file, options.names)
    for line in wrong:
        print(line, file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
