"""BERT (Devlin et al. 2019, section 3): an encoder with a norm after each of a layer's parts.

Beside tokens, learned positions and two types of token are embedded, with a norm over their sum; the head that predicts
masked tokens has a layer of its own, the token table, and a bias for each token. Whether one text follows another is
told by `"head": {"pooler": true, "classes": 2}`, which is left out by itself: RoBERTa does without (Liu et al. 2019,
section 4.2). Of BERT's dropout that of attention's weights is left out.
"""

from typing import Any

from t5x_like.models.families import bert_names, encoder
from t5x_like.models.hugging_face import HuggingFace
from t5x_like.models.names import Entry
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


def _tensors(model: Transformer) -> list[Entry]:
    head = "cls.predictions"
    return [
        *bert_names.embeddings("bert.embeddings", f"{head}.decoder.weight"),
        *bert_names.layers("bert.encoder.layer.{layer}"),
        *bert_names.masked_head(
            f"{head}.transform.dense", f"{head}.transform.LayerNorm", f"{head}.bias", alias=f"{head}.decoder.bias"
        ),
        *bert_names.pooler("bert.pooler.dense", "cls.seq_relationship"),
    ]


FAMILY = Preset(
    Transformer,
    values=bert_like(vocab_size=30522, types=2),
    hugging_face=HuggingFace(
        model_type="bert",
        architectures={
            "BertForMaskedLM": {"head.name": "masked_lm", "head.pooler": False},
            "BertForPreTraining": {"head.name": "masked_lm", "head.pooler": True, "head.classes": 2},
            "BertModel": {"head.name": "pooled", "head.pooler": True},
        },
        config=bert_names.config(),
        tensors=_tensors,
        neutral={"attention_probs_dropout_prob": 0.0},
        ignored=("bert.embeddings.position_ids",),
        prefix="bert.",
    ),
    sizes={"base": BASE, "large": LARGE},
)
