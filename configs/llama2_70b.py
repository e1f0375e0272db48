"""Llama 2 70B (Touvron et al. 2023, section 2 and table 1): 68,976,648,192 parameters, on 256 chips.

    t5x_like train --config=configs/llama2_70b.py --workdir=gs://bucket/llama2_70b --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

2 T tokens in batches of 4 M. docs/parallelism.md has the preflight on v5e:16x16.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "llama2_70b",
            "steps": 477_000,
            "model": {"family": "llama", "size": "70b", "dtype": "bfloat16"},
            "data": {"task": "sotu", "sequence_length": 4096, "batch_size": 1024, "lanes": 1024},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1.5e-4,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
            },
            "parallelism": {"data": 1, "fsdp": 128, "sequence": 2, "microbatches": 8, "remat": "full"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {
                "validation": {"name": "loss", "every": 5000},
            },
        }
    )
