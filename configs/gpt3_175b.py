"""GPT-3 175B (Brown et al. 2020, table 2.1), dense: 174,604,836,864 parameters, on two slices of 256 chips.

    t5x_like train --config=configs/gpt3_175b.py --workdir=gs://bucket/gpt3_175b --config.data.task.name=text \\
        --config.data.task.path='gs://bucket/corpus/*.jsonl.zst' --config.data.task.tokenizer=gs://bucket/v.model

300 B tokens in batches of 3.1 M. Beside gradients that are added up over microbatches the paper's Adam does not fit
into 512 × 16 GB, so the optimizer is Adafactor as PaLM used it (Chowdhery et al. 2022, section 5). The vocabulary's
50,257 pieces are filled up to a number that eight devices divide. docs/parallelism.md has the preflight on two slices
of v5e:16x16.
"""

import ml_collections


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "gpt3_175b",
            "steps": 95_400,
            "model": {"family": "gpt3", "size": "175b", "vocab_size": 50304, "dtype": "bfloat16"},
            "data": {"task": "sotu", "sequence_length": 2048, "batch_size": 1536, "lanes": 1536},
            "optimizer": {
                "name": "adafactor",
                "learning_rate": 1e-2,
                "schedule": {"name": "rsqrt", "decay_after": 10_000},
            },
            "parallelism": {"data": 2, "fsdp": 32, "tensor": 8, "microbatches": 24, "remat": "full"},
            "checkpoint": {"every": 1000, "best_metric": "validation/loss"},
            "evaluators": {
                "validation": {"name": "loss", "every": 5000},
            },
        }
    )
