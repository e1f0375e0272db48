"""GPT-2 (Radford et al. 2019): LayerNorm before each half, learned positions, GELU, biases, tied head."""

from t5x_like.models.architecture import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50257,
        "max_length": 1024,
        "head_dim": 64,
        "norm": "layernorm",
        "norm_epsilon": 1e-5,
        "positions": "learned",
        "activation": "gelu",
        "gated": False,
        "bias": True,
        "tied_head": True,
        "dropout": 0.1,
    },
    sizes={
        "124m": {"layers": 12, "embed": 768, "heads": 12, "kv_heads": 12, "mlp": 3072},
        "350m": {"layers": 24, "embed": 1024, "heads": 16, "kv_heads": 16, "mlp": 4096},
        "774m": {"layers": 36, "embed": 1280, "heads": 20, "kv_heads": 20, "mlp": 5120},
        "1.5b": {"layers": 48, "embed": 1600, "heads": 25, "kv_heads": 25, "mlp": 6400},
    },
)
