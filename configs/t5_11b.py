"""T5 11B (Raffel et al. 2020, section 3.7): 11,307,321,344 parameters, batches of a million tokens, on 256 chips.

    t5x_like train --config=configs/t5_11b.py --workdir=gs://bucket/t5_11b --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

The tokenizer has 32,000 pieces at most and ends texts with id 1, as T5's does; the ids from 32,000 to 32,099 are the
sentinels.

Cost: 10⁶ steps × 46.6 PFLOP = 47 ZFLOP, about three weeks on 256 TPU v5e chips at 50% of their peak.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "t5_11b",
            "steps": 1_000_000,
            "model": {"family": "t5", "size": "11b", "dtype": "bfloat16"},
            "objective": {"name": "span_corruption", "target_length": 114},
            "data": {"task": "sotu", "sequence_length": 512, "batch_size": 2048, "lanes": 1024},
            # 1/√max(step, 10,000), times the size of each parameter.
            "optimizer": {
                "name": "adafactor",
                "learning_rate": 0.01,
                "schedule": {"name": "rsqrt", "decay_after": 10_000},
            },
            "parallelism": {"data": 1, "fsdp": 256, "remat": "full"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "every": 5000}},
        }
    )
