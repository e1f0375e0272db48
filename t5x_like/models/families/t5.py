"""T5 (Raffel et al. 2020) and T5 1.1 (Shazeer 2020, and the released models): an encoder and a decoder.

RMSNorm before each part, no biases, distances in 32 buckets, products that are not scaled, dropout everywhere. 1.1 has
a gated GELU where the original has a ReLU, a head of its own where that has the token table, and no dropout while it
is pre-trained.

The first values are T5X's: 1 for the table, 1/√inputs for matrices, by √head_dim smaller for queries.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import encoder_decoder, t5_names
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _stacks(feed_forward: Mapping[str, Any]) -> dict[str, Any]:
    stack = {
        "positions": {"name": "relative", "buckets": 32, "distance": 128},
        "layer": {
            "attention": {"scaled": False},
            "feed_forward": feed_forward,
            "norm": {"kind": "rmsnorm", "epsilon": 1e-6},
        },
    }
    return {"encoder": stack, "decoder": stack}


_COMMON = {
    "vocab_size": 32128,
    "max_length": 512,
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
        **_stacks({"activation": "relu"}),
        "head": {"name": "tied", "rescaled": True},
        "dropout": 0.1,
    },
    hugging_face=t5_names.form({"feed_forward_proj": "relu"}),
    sizes={
        "small": encoder_decoder(layers=6, embed=512, heads=8, head_dim=64, hidden=2048),
        "base": encoder_decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder_decoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
        "3b": encoder_decoder(layers=24, embed=1024, heads=32, head_dim=128, hidden=16384),
        "11b": encoder_decoder(layers=24, embed=1024, heads=128, head_dim=128, hidden=65536),
    },
)

VERSION_1_1 = Preset(
    Transformer,
    values={
        **_COMMON,
        **_stacks({"activation": "gelu", "gated": True}),
        "head": "untied",
        "dropout": 0.0,
    },
    hugging_face=t5_names.form({"feed_forward_proj": "gated-gelu"}),
    sizes={
        "small": encoder_decoder(layers=8, embed=512, heads=6, head_dim=64, hidden=1024),
        "base": encoder_decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=2048),
        "large": encoder_decoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=2816),
        "xl": encoder_decoder(layers=24, embed=2048, heads=32, head_dim=64, hidden=5120),
        "xxl": encoder_decoder(layers=24, embed=4096, heads=64, head_dim=64, hidden=10240),
    },
)
