"""ELECTRA (Clark et al. 2020, section 2): a discriminator that finds the tokens which a small generator has replaced.

Both are BERTs. A width that is not the tables' is reached by a linear layer, as in the small discriminator and in all
generators (section 3.2, and as released).
"""

from t5x_like.models.families import bert_names, encoder
from t5x_like.models.families.bert import BASE, LARGE, bert_like
from t5x_like.models.hugging_face import ConfigRule, HuggingFace
from t5x_like.models.names import Entry, linear, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

SMALL = encoder(layers=12, embed=256, heads=4, head_dim=64, hidden=1024, width=128)


def _tensors(model: Transformer) -> list[Entry]:
    found = "discriminator_predictions"
    return [
        *bert_names.embeddings("electra.embeddings", "generator_lm_head.weight"),
        *linear("widen", "electra.embeddings_project"),
        *bert_names.layers("electra.encoder.layer.{layer}"),
        *(_generator_head() if model.head.name == "masked_lm" else linear("transform.dense", f"{found}.dense")),
        *same("head.table", f"{found}.dense_prediction.weight"),
        *([] if model.head.name == "masked_lm" else same("transform.bias", f"{found}.dense_prediction.bias")),
    ]


def _generator_head() -> list[Entry]:
    head = "generator_predictions"
    return bert_names.masked_head(
        f"{head}.dense", f"{head}.LayerNorm", "generator_lm_head.bias", alias="generator_lm_head.bias"
    )


# Other summaries of a text than tokens' scores are of models that are not here.
_NEUTRAL = {"attention_probs_dropout_prob": 0.0} | dict.fromkeys(
    ["summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"]
)
_CONFIG: tuple[ConfigRule, ...] = (
    *bert_names.config(own=("ElectraForMaskedLM",)),
    bert_names.table_width("embedding_size", always=False),
)

DISCRIMINATOR = Preset(
    Transformer,
    values=bert_like(vocab_size=30522, types=2, head="token_classes"),
    hugging_face=HuggingFace(
        model_type="electra",
        architectures={"ElectraForPreTraining": {"head.name": "token_classes", "head.classes": 1}},
        when={"architectures": ["ElectraForPreTraining"]},
        config=_CONFIG,
        tensors=_tensors,
        neutral=_NEUTRAL,
        ignored=("electra.embeddings.position_ids",),
        prefix="electra.",
    ),
    sizes={"small": SMALL, "base": BASE, "large": LARGE},
)

GENERATOR = Preset(
    Transformer,
    values=bert_like(vocab_size=30522, types=2),
    hugging_face=HuggingFace(
        model_type="electra",
        architectures={"ElectraForMaskedLM": {"head.name": "masked_lm"}},
        when={"architectures": ["ElectraForMaskedLM"]},
        config=_CONFIG,
        tensors=_tensors,
        neutral=_NEUTRAL,
        ignored=("electra.embeddings.position_ids",),
        prefix="electra.",
    ),
    sizes={
        "small": SMALL,
        "base": encoder(layers=12, embed=256, heads=4, head_dim=64, hidden=1024, width=768),
        "large": encoder(layers=24, embed=256, heads=4, head_dim=64, hidden=1024, width=1024),
    },
)
