"""BART (Lewis et al. 2020, section 2.1): an encoder and a decoder of BERT's layers, with one table of tokens.

As released, the tables of positions have two rows in front that no token has.
"""

from t5x_like.models.families import encoder_decoder
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_STACK = {
    "positions": {"name": "learned", "offset": 2},
    "embeddings": {"name": "tokens", "norm": True},
    "layer": {
        "attention": {"bias": True},
        "feed_forward": {"activation": "gelu_exact", "bias": True},
        "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True, "position": "post"},
    },
}

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50265,
        "max_length": 1024,
        "encoder": _STACK,
        "decoder": _STACK,
        "head": "tied",
        "dropout": 0.1,
        "residual_init": False,
    },
    sizes={
        "base": encoder_decoder(layers=6, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder_decoder(layers=12, embed=1024, heads=16, head_dim=64, hidden=4096),
    },
)
