"""ELECTRA (Clark et al. 2020, section 2): a discriminator that finds the tokens which a small generator has replaced.

Both are BERTs. A width that is not the tables' is reached by a linear layer, as in the small discriminator and in all
generators (section 3.2, and as released).
"""

from t5x_like.models.families import encoder
from t5x_like.models.families.bert import BASE, LARGE, bert_like
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

SMALL = encoder(layers=12, embed=256, heads=4, head_dim=64, hidden=1024, width=128)

DISCRIMINATOR = Preset(
    Transformer,
    values=bert_like(vocab_size=30522, types=2, head="token_classes"),
    sizes={"small": SMALL, "base": BASE, "large": LARGE},
)

GENERATOR = Preset(
    Transformer,
    values=bert_like(vocab_size=30522, types=2),
    sizes={
        "small": SMALL,
        "base": encoder(layers=12, embed=256, heads=4, head_dim=64, hidden=1024, width=768),
        "large": encoder(layers=24, embed=256, heads=4, head_dim=64, hidden=1024, width=1024),
    },
)
