"""BERT-Large (Devlin et al. 2019, section 3): 335,174,458 parameters, batches of 131,072 tokens, on sixteen chips.

    t5x_like train --config=configs/bert_large.py --workdir=gs://bucket/bert_large --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

The paper's 340 M parameters are these and those of the task that RoBERTa leaves out. Its batches have 256 rows; here
all are 512 tokens long, where there nine in ten steps have 128. The mask is the last of the 30,522 ids, which the
tokenizer must not use for a piece; with BERT's own tokenizer.json it is --config.objective.mask_id=103.

Cost: 10⁶ steps × 283 TFLOP = 283 EFLOP, about two days on 16 TPU v5e chips at 50% of their peak; docs/parallelism.md
has the preflight.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "bert_large",
            "steps": 1_000_000,
            "model": {"family": "bert", "size": "large", "dtype": "bfloat16"},
            "objective": {"name": "masked_lm", "vocab_size": 30522, "mask_id": 30521, "special_ids": (0, 1)},
            "data": {"task": "sotu", "sequence_length": 512, "batch_size": 256, "lanes": 256},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-4,
                "b2": 0.999,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                "schedule": {"name": "linear", "warmup_steps": 10_000},
            },
            "parallelism": {"data": 1, "fsdp": 16, "remat": "save_qkv_attention"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {"validation": {"name": "loss", "every": 5000}},
        }
    )
