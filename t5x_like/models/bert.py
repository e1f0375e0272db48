"""BERT (Devlin et al. 2019, section 3): blocks in which every token sees its whole text, with norms after their parts.

Beside pieces, learned positions and two types of token are embedded, with a norm over their sum; the head that predicts
hidden pieces has a layer of its own, the token table, and a bias for each piece. Of BERT's dropout that of attention's
weights is left out, and of its parts the pooler and the head that tells whether two texts follow each other, which
RoBERTa does without (Liu et al. 2019, section 4.2).
"""

from t5x_like.models.architecture import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 30522,
        "causal": False,
        "max_length": 512,
        "head_dim": 64,
        "norm": "layernorm",
        "norm_epsilon": 1e-12,
        "norm_position": "post",
        "embedding_norm": True,
        "token_types": 2,
        "positions": "learned",
        "activation": "gelu_exact",
        "gated": False,
        "bias": True,
        "tied_head": True,
        "head_transform": True,
        "dropout": 0.1,
        "residual_init": False,
    },
    sizes={
        "base": {"layers": 12, "embed": 768, "heads": 12, "kv_heads": 12, "mlp": 3072},
        "large": {"layers": 24, "embed": 1024, "heads": 16, "kv_heads": 16, "mlp": 4096},
    },
)
