"""Llama 2 7B (Touvron et al. 2023, section 2): 6,738,415,616 parameters, on 256 chips.

    t5x_like train --config=configs/llama2_7b.py --workdir=gs://bucket/llama2_7b --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

Cost: 2 T tokens × 43 GFLOP = 86 ZFLOP, about 40 days on 256 TPU v5e chips at 50% of their peak.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "llama2_7b",
            "steps": 954_000,
            "model": {"family": "llama", "size": "7b", "dtype": "bfloat16"},
            "data": {
                "task": "sotu",
                "sequence_length": 2048,
                "batch_size": 1024,
                "lanes": 1024,
                "documents_per_row": 16,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-4,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
            },
            "parallelism": {"data": 1, "fsdp": 256, "remat": "save_qkv_attention"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "every": 5000}},
        }
    )
