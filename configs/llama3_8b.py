"""Llama 3.1 8B (Grattafiori et al. 2024, table 3 and section 3.4.1): 8,030,261,248 parameters, on 256 chips.

    t5x_like train --config=configs/llama3_8b.py --workdir=gs://bucket/llama3_8b --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

Rows of 8,192 tokens in batches of 4 M, for the paper's 15.6 T tokens; its vocabulary has 128,256 pieces.
docs/parallelism.md has the preflight on v6e:16x16.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "llama3_8b",
            "steps": 3_720_000,
            "model": {"family": "llama3", "size": "8b", "dtype": "bfloat16"},
            "data": {"task": "sotu", "sequence_length": 8192, "batch_size": 512, "lanes": 512},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-4,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 8000, "final_fraction": 0.1},
            },
            "parallelism": {"data": 1, "fsdp": 256, "remat": "save_qkv_attention"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {
                "validation": {"name": "loss", "every": 5000},
            },
        }
    )
