"""GPT-2 124M (Radford et al. 2019): 124,439,808 parameters, batches of about half a million tokens.

    t5x_like train --config=configs/gpt2_124m.py --workdir=runs/gpt2 --config.data.task.name=text \\
        --config.data.task.path='corpus/*.jsonl.zst' --config.data.task.tokenizer=corpus/vocabulary.model

Cost: 10 B tokens × 0.86 GFLOP = 8.6 EFLOP, six hours on one H100 at 40% of its peak. As it stands the task is the
small corpus that ships, to try the machinery with; give a large one for a model worth having.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "gpt2_124m",
            "steps": 20_000,
            "model": {"family": "gpt2", "size": "124m", "dropout": 0.0, "dtype": "bfloat16"},
            "data": {"task": "sotu", "sequence_length": 1024, "batch_size": 512, "lanes": 64, "documents_per_row": 16},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 6e-4,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "schedule": {"name": "cosine", "warmup_steps": 700, "final_fraction": 0.1},
            },
            "parallelism": {"microbatches": 8},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "every": 1000, "batch_size": 64}},
        }
    )
