"""A small Llama on the State of the Union addresses that ship with the package.

t5x_like train --config=configs/quickstart.py --workdir=runs/quickstart

Takes about 5 minutes on two CPU cores, and reaches 1.41 bits per byte on the validation speeches after 0.9 million
tokens. Its settings were chosen on `train_sweep` and `sweep`, two parts of the training speeches.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "quickstart",
            "steps": 440,
            "model": {
                "family": "llama",
                "vocab_size": 4096,
                "embed": 256,
                "max_length": 1024,
                "decoder": {
                    "layers": 4,
                    "layer": {
                        "attention": {"heads": 2, "kv_heads": 2, "head_dim": 128},
                        "feed_forward": {"hidden": 768},
                    },
                },
                "head": "tied",
            },
            "data": {"task": "sotu", "sequence_length": 256, "batch_size": 8, "lanes": 8},
            "optimizer": {
                "name": "muon",
                "learning_rate": 2e-2,
                "adam_learning_rate": 4.8e-2,
                "momentum": 0.9,
                "newton_schulz_steps": 3,
                "schedule": {"name": "linear", "warmup_steps": 25},
            },
            # Compiled layer by layer: slower to compile than a loop, and a tenth faster to run on a CPU.
            "parallelism": {"scan_layers": False},
            "checkpoint": {"every": 220, "best_metric": "validation/loss"},
            "evaluators": {
                "validation": {"name": "loss", "every": 220},
                "samples": {
                    "name": "samples",
                    "every": 220,
                    "prompts": ["Fellow citizens", "The state of the Union is"],
                },
            },
        }
    )
