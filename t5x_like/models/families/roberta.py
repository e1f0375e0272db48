"""RoBERTa (Liu et al. 2019, section 5): BERT with a vocabulary of bytes, and no pairs of texts.

As released, its table of positions has two rows in front that no token has, and one type of token.
"""

from t5x_like.models.families.bert import BASE, LARGE, bert_like
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values=bert_like(vocab_size=50265, types=1, epsilon=1e-5, positions={"name": "learned", "offset": 2}),
    sizes={"base": BASE, "large": LARGE},
)
