"""Mixtral (Jiang et al. 2024, section 2, table 1): Mistral with eight experts a layer, two of them for each token."""

from t5x_like.models.architecture import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 32000,
        "max_length": 32768,
        "norm": "rmsnorm",
        "norm_epsilon": 1e-5,
        "positions": "rope",
        "rope_theta": 1e6,
        "activation": "silu",
        "gated": True,
        "bias": False,
        "tied_head": False,
        "dropout": 0.0,
        "experts": 8,
        "experts_per_token": 2,
        "router_balance_loss": 0.02,
    },
    sizes={
        "8x7b": {"layers": 32, "embed": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "mlp": 14336},
        "8x22b": {
            "layers": 56,
            "embed": 6144,
            "heads": 48,
            "kv_heads": 8,
            "head_dim": 128,
            "mlp": 16384,
            "vocab_size": 32768,
            "max_length": 65536,
        },
    },
)
