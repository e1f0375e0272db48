"""BERT (Devlin et al. 2019, section 3): an encoder with a norm after each of a layer's parts.

Beside tokens, learned positions and two types of token are embedded, with a norm over their sum; the head that predicts
masked tokens has a layer of its own, the token table, and a bias for each token. Of BERT's dropout that of attention's
weights is left out, and of its parts the pooler and the head that tells whether two texts follow each other, which
RoBERTa does without (Liu et al. 2019, section 4.2).
"""

from t5x_like.models.families import encoder
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 30522,
        "max_length": 512,
        "encoder": {
            "positions": "learned",
            "embeddings": {"name": "tokens", "types": 2, "norm": True},
            "layer": {
                "attention": {"head_dim": 64, "bias": True},
                "feed_forward": {"activation": "gelu_exact", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-12, "bias": True, "position": "post"},
            },
        },
        "head": {"name": "masked_lm", "activation": "gelu_exact"},
        "dropout": 0.1,
        "residual_init": False,
    },
    sizes={
        "base": encoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
    },
)
