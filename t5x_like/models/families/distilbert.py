"""DistilBERT (Sanh et al. 2019, section 3): every second layer of BERT, without types of token and without a pooler."""

from t5x_like.models.families import encoder
from t5x_like.models.families.bert import bert_like
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

FAMILY = Preset(
    Transformer,
    values=bert_like(vocab_size=30522, types=0),
    sizes={"base": encoder(layers=6, embed=768, heads=12, head_dim=64, hidden=3072)},
)
