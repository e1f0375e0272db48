"""GPT-2 (Radford et al. 2019): LayerNorm before each half, learned positions, GELU, biases, tied head."""

from t5x_like.models.families import decoder
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50257,
        "max_length": 1024,
        "decoder": {
            "positions": "learned",
            "layer": {
                "attention": {"head_dim": 64, "bias": True},
                "feed_forward": {"activation": "gelu", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True},
            },
        },
        "head": "tied",
        "dropout": 0.1,
    },
    sizes={
        "124m": decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "350m": decoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
        "774m": decoder(layers=36, embed=1280, heads=20, head_dim=64, hidden=5120),
        "1.5b": decoder(layers=48, embed=1600, heads=25, head_dim=64, hidden=6400),
    },
)
