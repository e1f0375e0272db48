"""Mistral 7B (Jiang et al. 2023, section 2, table 1): Llama with grouped heads and a window of attention.

By the paper a token at place i attends to the places from i − W to i, W + 1 with its own, and so it does here; some
implementations take the window's 4,096 for their number, which is one less.
"""

from t5x_like.models.families import decoder, llama
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged

FAMILY = Preset(
    Transformer,
    values=merged(
        Transformer,
        llama.FAMILY.values,
        {"max_length": 32768, "decoder": {"layer": {"attention": {"window": 4096}}}},
    ),
    sizes={"7b": decoder(layers=32, embed=4096, heads=32, kv_heads=8, head_dim=128, hidden=14336)},
)
