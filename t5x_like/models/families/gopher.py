"""Gopher (Rae et al. 2021, section 3.1, table 1) and Chinchilla (Hoffmann et al. 2022, section 4.1, table 4).

They are GPT-2 with RMSNorm and the distances of Transformer-XL, whose projection is part of the published sizes.
"""

from t5x_like.models.families import decoder
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_VALUES = {
    "vocab_size": 32000,
    "max_length": 2048,
    "decoder": {
        "positions": "none",
        "layer": {
            "attention": {"name": "distances", "bias": True},
            "feed_forward": {"activation": "gelu", "bias": True},
            "norm": {"kind": "rmsnorm", "epsilon": 1e-6},
        },
    },
    "head": "tied",
}

GOPHER = Preset(
    Transformer,
    values=_VALUES,
    sizes={
        "44m": decoder(layers=8, embed=512, heads=16, head_dim=32, hidden=2048),
        "117m": decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "417m": decoder(layers=12, embed=1536, heads=12, head_dim=128, hidden=6144),
        "1.4b": decoder(layers=24, embed=2048, heads=16, head_dim=128, hidden=8192),
        "7.1b": decoder(layers=32, embed=4096, heads=32, head_dim=128, hidden=16384),
        "280b": decoder(layers=80, embed=16384, heads=128, head_dim=128, hidden=65536),
    },
)

CHINCHILLA = Preset(
    Transformer,
    values=_VALUES,
    sizes={"70b": decoder(layers=80, embed=8192, heads=64, head_dim=128, hidden=32768)},
)
