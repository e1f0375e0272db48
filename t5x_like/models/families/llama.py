"""Llama (Touvron et al. 2023, section 2.2; Llama 2, section 2.2): RMSNorm, rotary positions, SwiGLU, no biases."""

from t5x_like.models.families import decoder, names
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 32000,
        "max_length": 4096,
        "decoder": {
            "positions": {"name": "rope", "theta": 10000.0},
            "layer": {
                "feed_forward": {"activation": "silu", "gated": True},
                "norm": {"kind": "rmsnorm", "epsilon": 1e-5},
            },
        },
        "head": "untied",
    },
    hugging_face=names.LLAMA,
    sizes={
        "1b": decoder(layers=22, embed=2048, heads=32, kv_heads=4, head_dim=64, hidden=5632),
        "7b": decoder(layers=32, embed=4096, heads=32, head_dim=128, hidden=11008),
        "13b": decoder(layers=40, embed=5120, heads=40, head_dim=128, hidden=13824),
        "70b": decoder(layers=80, embed=8192, heads=64, kv_heads=8, head_dim=128, hidden=28672),
        # Llama 3.1 (Grattafiori et al. 2024, table 3).
        "405b": {
            "vocab_size": 128256,
            "max_length": 8192,
            "embed": 16384,
            "decoder": {
                **decoder(layers=126, embed=16384, heads=128, kv_heads=8, head_dim=128, hidden=53248)["decoder"],
                "positions": {"theta": 500000.0},
            },
        },
    },
)
