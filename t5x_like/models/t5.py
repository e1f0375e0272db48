"""T5 (Raffel et al. 2020) and T5 1.1 (Shazeer 2020, and the released models): an encoder and a decoder.

RMSNorm before each part, no biases, distances in 32 buckets, products that are not scaled, dropout everywhere. 1.1 has
a gated GELU where the original has a ReLU, a head of its own where that has the token table, and no dropout while it
is pre-trained.

The first values are T5X's: 1 for the table, 1/√inputs for matrices, by √head_dim smaller for queries.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.architecture import Transformer
from t5x_like.registry import Preset


def _size(layers: int, embed: int, heads: int, head_dim: int, mlp: int) -> Mapping[str, Any]:
    """Encoder and decoder of equal size, and a key and a value for each head."""
    return {
        "layers": layers,
        "encoder_layers": layers,
        "embed": embed,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": head_dim,
        "mlp": mlp,
    }


_COMMON = {
    "vocab_size": 32128,
    "max_length": 512,
    "norm": "rmsnorm",
    "norm_epsilon": 1e-6,
    "positions": "relative",
    "relative_buckets": 32,
    "relative_distance": 128,
    "scaled_attention": False,
    "bias": False,
    "dropout_inside": True,
    "init_std": 0.0,
    "embedding_std": 1.0,
    "residual_init": False,
}

# Raffel et al. 2020, section 3.7.
ORIGINAL = Preset(
    Transformer,
    values={
        **_COMMON,
        "activation": "relu",
        "gated": False,
        "tied_head": True,
        "rescaled_head": True,
        "dropout": 0.1,
    },
    sizes={
        "small": _size(6, 512, 8, 64, 2048),
        "base": _size(12, 768, 12, 64, 3072),
        "large": _size(24, 1024, 16, 64, 4096),
        "3b": _size(24, 1024, 32, 128, 16384),
        "11b": _size(24, 1024, 128, 128, 65536),
    },
)

VERSION_1_1 = Preset(
    Transformer,
    values={
        **_COMMON,
        "activation": "gelu",
        "gated": True,
        "tied_head": False,
        "dropout": 0.0,
    },
    sizes={
        "small": _size(8, 512, 6, 64, 1024),
        "base": _size(12, 768, 12, 64, 2048),
        "large": _size(24, 1024, 16, 64, 2816),
        "xl": _size(24, 2048, 32, 64, 5120),
        "xxl": _size(24, 4096, 64, 64, 10240),
    },
)
