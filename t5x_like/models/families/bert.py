"""BERT (Devlin et al. 2019, section 3): an encoder with a norm after each of a layer's parts.

Beside tokens, learned positions and two types of token are embedded, with a norm over their sum; the head that predicts
masked tokens has a layer of its own, the token table, and a bias for each token. Whether one text follows another is
told by `"head": {"pooler": true, "classes": 2}`, which is left out by itself: RoBERTa does without (Liu et al. 2019,
section 4.2). Of BERT's dropout that of attention's weights is left out.
"""

from typing import Any

from t5x_like.models.families import encoder
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def bert_like(
    *, vocab_size: int, types: int, epsilon: float = 1e-12, positions: Any = "learned", head: Any = "masked_lm"
) -> dict[str, Any]:
    """The values of a model of BERT's layers, for the families that differ in their ends."""
    return {
        "vocab_size": vocab_size,
        "max_length": 512,
        "encoder": {
            "positions": positions,
            "embeddings": {"name": "tokens", "types": types, "norm": True},
            "layer": {
                "attention": {"head_dim": 64, "bias": True},
                "feed_forward": {"activation": "gelu_exact", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": epsilon, "bias": True, "position": "post"},
            },
        },
        "head": {"name": head, "activation": "gelu_exact"},
        "dropout": 0.1,
        "residual_init": False,
    }


BASE = encoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072)
LARGE = encoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096)

FAMILY = Preset(Transformer, values=bert_like(vocab_size=30522, types=2), sizes={"base": BASE, "large": LARGE})
