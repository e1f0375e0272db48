"""A Llama of 1.1 B parameters (the shape of TinyLlama, Zhang et al. 2024): 1,100,048,384 parameters.

    t5x_like train --config=configs/llama_1b.py --workdir=gs://bucket/llama_1b --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

Cost: 22 B tokens × 7.1 GFLOP = 0.16 ZFLOP, about ten days on eight TPU v5e chips at 50% of their peak... or one day on
eight H100s at 40%. Meant for 16 or more accelerators: parameters, gradients and moments take 18 GB before activations.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "llama_1b",
            "steps": 42_000,
            "model": {"family": "llama", "size": "1b", "max_length": 2048, "dtype": "bfloat16"},
            "objective": {"name": "causal_lm", "z_loss": 1e-4},
            "data": {"task": "sotu", "sequence_length": 2048, "batch_size": 256, "lanes": 256, "documents_per_row": 16},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 4e-4,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
            },
            "parallelism": {"data": 1, "fsdp": 16, "remat": "save_qkv_attention"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "every": 2000}},
        }
    )
