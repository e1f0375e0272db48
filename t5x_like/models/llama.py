"""Llama (Touvron et al. 2023, section 2.2; Llama 2, section 2.2): RMSNorm, rotary positions, SwiGLU, no biases."""

from t5x_like.models.architecture import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 32000,
        "max_length": 4096,
        "norm": "rmsnorm",
        "norm_epsilon": 1e-5,
        "positions": "rope",
        "rope_theta": 10000.0,
        "activation": "silu",
        "gated": True,
        "bias": False,
        "tied_head": False,
        "dropout": 0.0,
    },
    sizes={
        "1b": {"layers": 22, "embed": 2048, "heads": 32, "kv_heads": 4, "head_dim": 64, "mlp": 5632},
        "7b": {"layers": 32, "embed": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128, "mlp": 11008},
        "13b": {"layers": 40, "embed": 5120, "heads": 40, "kv_heads": 40, "head_dim": 128, "mlp": 13824},
        "70b": {"layers": 80, "embed": 8192, "heads": 64, "kv_heads": 8, "head_dim": 128, "mlp": 28672},
        # Llama 3.1 (Grattafiori et al. 2024, table 3).
        "405b": {
            "layers": 126,
            "embed": 16384,
            "heads": 128,
            "kv_heads": 8,
            "head_dim": 128,
            "mlp": 53248,
            "vocab_size": 128256,
            "max_length": 8192,
            "rope_theta": 500000.0,
        },
    },
)
