"""T5 (Raffel et al. 2020), T5 1.1 (Shazeer 2020, and the released models), and what came of it: mT5, umT5, byT5, UL2.

RMSNorm before each part, no biases, distances in 32 buckets, products that are not scaled, dropout everywhere. 1.1 has
a gated GELU where the original has a ReLU, a head of its own where that has the token table, and no dropout while it
is pre-trained. mT5, umT5 and byT5 are 1.1 with other vocabularies; each layer of umT5 has biases of its own, and byT5's
encoder is three times as deep as its decoder. UL2 has a gated SiLU.

The first values are T5X's: 1 for the table, 1/√inputs for matrices, by √head_dim smaller for queries.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import decoder, encoder_decoder, t5_names
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _stacks(feed_forward: Mapping[str, Any], *, shared: bool = True) -> dict[str, Any]:
    """Both stacks, whose biases by distance all layers share, or each has of its own."""
    buckets = {"buckets": 32, "distance": 128}
    stack = {
        "positions": {"name": "relative", **buckets} if shared else "none",
        "layer": {
            "attention": {"scaled": False, **({} if shared else {"name": "relative", **buckets})},
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
    hugging_face=t5_names.form(when={"feed_forward_proj": "relu"}),
    sizes={
        "small": encoder_decoder(layers=6, embed=512, heads=8, head_dim=64, hidden=2048),
        "base": encoder_decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder_decoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
        "3b": encoder_decoder(layers=24, embed=1024, heads=32, head_dim=128, hidden=16384),
        "11b": encoder_decoder(layers=24, embed=1024, heads=128, head_dim=128, hidden=65536),
    },
)

# T5X's decoder_only example: T5 1.1's decoder by itself, with the token table for a head.
DECODER = Preset(
    Transformer,
    values={
        **_COMMON,
        "decoder": _stacks({"activation": "gelu", "gated": True})["decoder"],
        "head": {"name": "tied", "rescaled": True},
        "dropout": 0.0,
    },
    sizes={
        "base": decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=2048),
        "large": decoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=2816),
        "xl": decoder(layers=24, embed=2048, heads=32, head_dim=64, hidden=5120),
        "xxl": decoder(layers=24, embed=4096, heads=64, head_dim=64, hidden=10240),
    },
)

_VALUES_1_1 = {**_COMMON, **_stacks({"activation": "gelu", "gated": True}), "head": "untied", "dropout": 0.0}
_SIZES_1_1 = {
    "small": encoder_decoder(layers=8, embed=512, heads=6, head_dim=64, hidden=1024),
    "base": encoder_decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=2048),
    "large": encoder_decoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=2816),
    "xl": encoder_decoder(layers=24, embed=2048, heads=32, head_dim=64, hidden=5120),
    "xxl": encoder_decoder(layers=24, embed=4096, heads=64, head_dim=64, hidden=10240),
}

VERSION_1_1 = Preset(
    Transformer,
    values=_VALUES_1_1,
    hugging_face=t5_names.form(when={"feed_forward_proj": "gated-gelu"}),
    sizes=_SIZES_1_1,
)

# Xue et al. 2021, section 3.2.
MULTILINGUAL = Preset(
    Transformer,
    values={**_VALUES_1_1, "vocab_size": 250112},
    hugging_face=t5_names.form("mt5", "MT5ForConditionalGeneration"),
    sizes=_SIZES_1_1,
)

# Chung et al. 2023, section 4; there is none of size large.
UNI_MAX = Preset(
    Transformer,
    values={**_VALUES_1_1, **_stacks({"activation": "gelu", "gated": True}, shared=False), "vocab_size": 256384},
    hugging_face=t5_names.form("umt5", "UMT5ForConditionalGeneration"),
    sizes={size: values for size, values in _SIZES_1_1.items() if size != "large"},
)

# Xue et al. 2022, table 1.
BYTES = Preset(
    Transformer,
    values={**_VALUES_1_1, "vocab_size": 384, "max_length": 1024},
    hugging_face=t5_names.form(when={"feed_forward_proj": "gated-gelu", "vocab_size": 384}),
    sizes={
        "small": encoder_decoder(layers=12, decoder_layers=4, embed=1472, heads=6, head_dim=64, hidden=3584),
        "base": encoder_decoder(layers=18, decoder_layers=6, embed=1536, heads=12, head_dim=64, hidden=3968),
        "large": encoder_decoder(layers=36, decoder_layers=12, embed=1536, heads=16, head_dim=64, hidden=3840),
        "xl": encoder_decoder(layers=36, decoder_layers=12, embed=2560, heads=32, head_dim=64, hidden=6720),
        "xxl": encoder_decoder(layers=36, decoder_layers=12, embed=4672, heads=64, head_dim=64, hidden=12352),
    },
)

# Tay et al. 2022, section 5.1.
UL2 = Preset(
    Transformer,
    values={**_VALUES_1_1, **_stacks({"activation": "silu", "gated": True})},
    hugging_face=t5_names.form(when={"feed_forward_proj": "gated-silu"}),
    sizes={"20b": encoder_decoder(layers=32, embed=4096, heads=16, head_dim=256, hidden=16384)},
)
