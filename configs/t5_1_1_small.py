"""T5 1.1 Small (Raffel et al. 2020, and the models released after it): 76,961,152 parameters, span corruption.

    t5x_like train --config=configs/t5_1_1_small.py --workdir=runs/t5 --config.data.task.name=text \\
        --config.data.task.path='corpus/*.jsonl.zst' --config.data.task.tokenizer=corpus/vocabulary.model

Rows are 512 inputs and 114 targets, made of 568 tokens of text. The tokenizer has 32,000 pieces at most and ends texts
with id 1, as T5's does; the ids from 32,000 to 32,099 are the sentinels. Cost: 524,288 steps × 13.6 TFLOP = 7.1 EFLOP,
five hours on one H100 at 40% of its peak. As it stands the task is the small corpus that ships, to try it with.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "t5_1_1_small",
            "steps": 524_288,
            "model": {"family": "t5_1_1", "size": "small", "dtype": "bfloat16"},
            "objective": {"name": "span_corruption", "target_length": 114, "z_loss": 1e-4},
            "data": {"task": "sotu", "sequence_length": 512, "batch_size": 128, "lanes": 128},
            # 1/√max(step, 10,000), times the size of each parameter.
            "optimizer": {
                "name": "adafactor",
                "learning_rate": 0.01,
                "schedule": {"name": "rsqrt", "decay_after": 10_000},
            },
            "checkpoint": {"every": 5000, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "every": 5000}},
        }
    )
