"""GPT-3 (Brown et al. 2020, section 2.1 and table 2.1): GPT-2, larger, without dropout, on rows of 2,048 tokens.

The paper alternates dense and locally banded attention; every layer here is dense.
"""

from t5x_like.models.families import decoder, gpt2
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={**gpt2.FAMILY.values, "max_length": 2048, "dropout": 0.0},
    sizes={
        "6.7b": decoder(layers=32, embed=4096, heads=32, head_dim=128, hidden=16384),
        "175b": decoder(layers=96, embed=12288, heads=96, head_dim=128, hidden=49152),
    },
)
