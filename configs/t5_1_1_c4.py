"""T5 1.1 (Raffel et al. 2020; Shazeer 2020) on TFDS C4 through SeqIO: 247,577,856 parameters in the base size.

    t5x_like train --config=configs/t5_1_1_c4.py --workdir=gs://bucket/t5 --module=t5.data.mixtures \\
        --config.data.task.data_dir=gs://bucket/tfds

`configs/t5_1_1_c4.py:small`, `:large`, `:xl` and `:xxl` are the other sizes. The recipe is T5X's: SeqIO corrupts spans,
512 inputs and 114 targets a row, Adafactor, and a learning rate of 1/√max(step, 10,000); batch and steps are those of
the paper's baseline, section 3.1.2, 2¹⁹ steps of 128 rows. C4 must have been prepared by TFDS; it is streamed.

Cost: 524,288 steps of 54 TFLOP are 0.029 ZFLOP, about ten hours on eight TPU v5e chips at 50% of their peak. There is
no evaluator: to read a split is to read it whole, and C4's validation split has 364,608 documents.
"""

import ml_collections

LENGTHS = {"inputs": 512, "targets": 114}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The experiment with a model of the size `argument`; every other field keeps its default."""
    return ml_collections.ConfigDict(
        {
            "name": "t5_1_1_c4",
            "steps": 524_288,
            "model": {"family": "t5_1_1", "size": argument or "base", "dtype": "bfloat16", "dropout": 0.0},
            "objective": {"name": "seq2seq", "target_length": LENGTHS["targets"], "z_loss": 1e-4},
            "data": {
                "task": {"name": "seqio", "mixture": "c4_v220_span_corruption", "features": LENGTHS},
                "sequence_length": LENGTHS["inputs"],
                "batch_size": 128,
                "lanes": 32,
                "streaming": True,
            },
            "optimizer": {"name": "adafactor", "learning_rate": 1e-2, "schedule": {"name": "rsqrt"}},
            "checkpoint": {"every": 5000},
        }
    )
