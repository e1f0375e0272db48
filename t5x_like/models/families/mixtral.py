"""Mixtral (Jiang et al. 2024, section 2, table 1): Mistral with eight experts a layer, two of them for each token."""

from t5x_like.models.families import decoder
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 32000,
        "max_length": 32768,
        "decoder": {
            "positions": {"name": "rope", "theta": 1e6},
            "layer": {
                "feed_forward": {"name": "experts", "experts": 8, "experts_per_token": 2, "balance_loss": 0.02},
                "norm": {"kind": "rmsnorm", "epsilon": 1e-5},
            },
        },
        "head": "untied",
    },
    sizes={
        "8x7b": decoder(layers=32, embed=4096, heads=32, kv_heads=8, head_dim=128, hidden=14336),
        "8x22b": decoder(
            layers=56,
            embed=6144,
            heads=48,
            kv_heads=8,
            head_dim=128,
            hidden=16384,
            vocab_size=32768,
            max_length=65536,
        ),
    },
)
