"""Llama 3.1 405B (Grattafiori et al. 2024, table 3 and section 3.4.1): 405,853,388,800 parameters, on 512 chips.

    t5x_like train --config=configs/llama3_405b.py --workdir=gs://bucket/llama3_405b --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

The paper's first batches, of 4 M tokens, for all of its 15.6 T tokens; it doubled them twice on the way. Its vocabulary
has 128,256 pieces. docs/parallelism.md has the preflight on v5p:8x8x8.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "llama3_405b",
            "steps": 3_720_000,
            "model": {"family": "llama", "size": "405b", "dtype": "bfloat16"},
            "data": {"task": "sotu", "sequence_length": 8192, "batch_size": 512, "lanes": 512},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 8e-5,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 8000, "final_fraction": 0.1},
            },
            "parallelism": {"data": 1, "fsdp": 512, "remat": "full"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {
                "validation": {"name": "loss", "every": 5000},
            },
        }
    )
