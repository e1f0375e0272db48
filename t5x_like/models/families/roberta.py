"""RoBERTa (Liu et al. 2019, section 5): BERT with a vocabulary of bytes, and no pairs of texts.

As released, its table of positions has two rows in front that no token has, and one type of token.
"""

from t5x_like.models.families import bert_names
from t5x_like.models.families.bert import BASE, LARGE, bert_like
from t5x_like.models.hugging_face import Fixed, HuggingFace
from t5x_like.models.names import Entry
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    return [
        *bert_names.embeddings("roberta.embeddings", "lm_head.decoder.weight"),
        *bert_names.layers("roberta.encoder.layer.{layer}"),
        *bert_names.masked_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", alias="lm_head.decoder.bias"),
        *bert_names.pooler("roberta.pooler.dense", "roberta.pooler.none"),
    ]


FAMILY = Preset(
    Transformer,
    values=bert_like(vocab_size=50265, types=1, epsilon=1e-5, positions={"name": "learned", "offset": 2}),
    hugging_face=HuggingFace(
        model_type="roberta",
        architectures={
            "RobertaForMaskedLM": {"head.name": "masked_lm", "head.pooler": False},
            "RobertaModel": {"head.name": "pooled", "head.pooler": True},
        },
        # The first token's position there is that of padding and one more.
        config=(*bert_names.config(types=2, offset=2, own=("RobertaForMaskedLM",)), Fixed("pad_token_id", 1)),
        tensors=_tensors,
        neutral={"attention_probs_dropout_prob": 0.0},
        ignored=("roberta.embeddings.position_ids",),
        prefix="roberta.",
    ),
    sizes={"base": BASE, "large": LARGE},
)
