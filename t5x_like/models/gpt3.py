"""GPT-3 (Brown et al. 2020, section 2.1 and table 2.1): GPT-2, larger, without dropout, on rows of 2,048 tokens.

Where the paper alternates dense and locally banded attention, every layer here is dense.
"""

from t5x_like.models import gpt2
from t5x_like.models.architecture import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={**gpt2.FAMILY.values, "max_length": 2048, "head_dim": 128, "dropout": 0.0},
    sizes={
        "6.7b": {"layers": 32, "embed": 4096, "heads": 32, "kv_heads": 32, "mlp": 16384},
        "175b": {"layers": 96, "embed": 12288, "heads": 96, "kv_heads": 96, "mlp": 49152},
    },
)
