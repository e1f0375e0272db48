"""Mixtral 8x7B (Jiang et al. 2024, table 1): 46,702,792,704 parameters, of which 12.9 B work for a token, on 256 chips.

    t5x_like train --config=configs/mixtral_8x7b.py --workdir=gs://bucket/mixtral --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

What it was trained on is not published: steps and batch are those of Llama 2 (2 T tokens in batches of 4 M). The eight
experts of a layer live on eight devices each; docs/parallelism.md has the preflight.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "mixtral_8x7b",
            "steps": 477_000,
            "model": {"family": "mixtral", "size": "8x7b", "dtype": "bfloat16"},
            "data": {"task": "sotu", "sequence_length": 4096, "batch_size": 1024, "lanes": 1024},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-4,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
            },
            "parallelism": {"data": 1, "fsdp": 32, "expert": 8, "microbatches": 4, "remat": "full"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "every": 5000}},
        }
    )
