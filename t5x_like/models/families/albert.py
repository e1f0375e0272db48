"""ALBERT (Lan et al. 2020, section 3): BERT with one layer that runs several times, and tables that are narrower.

Its head tells the order of two texts, too, with `"head": {"pooler": true, "classes": 2}`. The values are those of the
released version 2, which has no dropout.
"""

from t5x_like.models.families import bert_names, encoder
from t5x_like.models.families.bert import bert_like
from t5x_like.models.hugging_face import Fixed, HuggingFace
from t5x_like.models.names import Entry, linear, norm
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    ours, layer = "blocks.{layer}", "albert.encoder.albert_layer_groups.0.albert_layers.{layer}"
    return [
        *bert_names.embeddings("albert.embeddings", "predictions.decoder.weight"),
        *linear("widen", "albert.encoder.embedding_hidden_mapping_in"),
        *linear(f"{ours}.attention.query", f"{layer}.attention.query"),
        *linear(f"{ours}.attention.key", f"{layer}.attention.key"),
        *linear(f"{ours}.attention.value", f"{layer}.attention.value"),
        *linear(f"{ours}.attention.output", f"{layer}.attention.dense"),
        *norm(f"{ours}.attention_norm", f"{layer}.attention.LayerNorm"),
        *linear(f"{ours}.mlp.up", f"{layer}.ffn"),
        *linear(f"{ours}.mlp.down", f"{layer}.ffn_output"),
        *norm(f"{ours}.mlp_norm", f"{layer}.full_layer_layer_norm"),
        *bert_names.masked_head(
            "predictions.dense", "predictions.LayerNorm", "predictions.bias", alias="predictions.decoder.bias"
        ),
        *bert_names.pooler("albert.pooler", "sop_classifier.classifier"),
    ]


_VALUES = bert_like(vocab_size=30000, types=2)
_ENCODER, _LAYER = _VALUES["encoder"], _VALUES["encoder"]["layer"]

FAMILY = Preset(
    Transformer,
    values={
        **_VALUES,
        "encoder": {
            **_ENCODER,
            "shared": True,
            "embeddings": {**_ENCODER["embeddings"], "width": 128},
            "layer": {**_LAYER, "feed_forward": {**_LAYER["feed_forward"], "activation": "gelu"}},
        },
        "head": {"name": "masked_lm", "activation": "gelu"},
        "dropout": 0.0,
    },
    hugging_face=HuggingFace(
        model_type="albert",
        architectures={
            "AlbertForMaskedLM": {"head.name": "masked_lm", "head.pooler": False},
            "AlbertForPreTraining": {"head.name": "masked_lm", "head.pooler": True, "head.classes": 2},
            "AlbertModel": {"head.name": "pooled", "head.pooler": True},
        },
        config=(
            *bert_names.config(activation="gelu_new"),
            bert_names.table_width("embedding_size", always=True),
            Fixed("num_hidden_groups", 1),
            Fixed("inner_group_num", 1),
        ),
        tensors=_tensors,
        neutral={
            "attention_probs_dropout_prob": 0.0,
            **dict.fromkeys(["classifier_dropout_prob", "down_scale_factor", "gap_size", "net_structure_type"]),
            "num_memory_blocks": None,
        },
        ignored=("albert.embeddings.position_ids",),
        prefix="albert.",
    ),
    sizes={
        "base": encoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
        "xlarge": encoder(layers=24, embed=2048, heads=16, head_dim=128, hidden=8192),
        "xxlarge": encoder(layers=12, embed=4096, heads=64, head_dim=64, hidden=16384),
    },
)
