"""Llama 2 7B on rows of 32,768 tokens: 6,738,415,616 parameters, on 256 chips, eight to a row.

    t5x_like train --config=configs/llama_32k.py --workdir=gs://bucket/llama_32k --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

100 B tokens in batches of 4 M. The base of the rotary wavelengths is Code Llama's (Rozière et al. 2023, section 2.4).
docs/parallelism.md has the preflight on v5e:16x16.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "llama_32k",
            "steps": 23_800,
            "model": {
                "family": "llama",
                "size": "7b",
                "max_length": 32768,
                "decoder": {"positions": {"theta": 1e6}},
                "dtype": "bfloat16",
            },
            "data": {"task": "sotu", "sequence_length": 32768, "batch_size": 128, "lanes": 128},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-4,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
            },
            "parallelism": {"data": 1, "fsdp": 32, "sequence": 8, "remat": "full"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {
                "validation": {"name": "loss", "every": 5000},
            },
        }
    )
