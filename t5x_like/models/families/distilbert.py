"""DistilBERT (Sanh et al. 2019, section 3): every second layer of BERT, without types of token and without a pooler."""

from t5x_like.models.families import bert_names, encoder
from t5x_like.models.families.bert import bert_like
from t5x_like.models.hugging_face import Derived, Field, Fixed, HuggingFace
from t5x_like.models.names import Entry, linear, norm
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_ATTENTION, _HALF = "encoder.layer.attention", "encoder.layer.feed_forward"


def _tensors(model: Transformer) -> list[Entry]:
    layer, ours = "distilbert.transformer.layer.{layer}", "blocks.{layer}"
    return [
        *bert_names.embeddings("distilbert.embeddings", "vocab_projector.weight"),
        *linear(f"{ours}.attention.query", f"{layer}.attention.q_lin"),
        *linear(f"{ours}.attention.key", f"{layer}.attention.k_lin"),
        *linear(f"{ours}.attention.value", f"{layer}.attention.v_lin"),
        *linear(f"{ours}.attention.output", f"{layer}.attention.out_lin"),
        *norm(f"{ours}.attention_norm", f"{layer}.sa_layer_norm"),
        *linear(f"{ours}.mlp.up", f"{layer}.ffn.lin1"),
        *linear(f"{ours}.mlp.down", f"{layer}.ffn.lin2"),
        *norm(f"{ours}.mlp_norm", f"{layer}.output_layer_norm"),
        *bert_names.masked_head(
            "vocab_transform", "vocab_layer_norm", "vocab_projector.bias", alias="vocab_projector.bias"
        ),
    ]


FAMILY = Preset(
    Transformer,
    values=bert_like(vocab_size=30522, types=0),
    hugging_face=HuggingFace(
        model_type="distilbert",
        architectures={
            "DistilBertForMaskedLM": {"head.name": "masked_lm"},
            "DistilBertModel": {"head.name": "pooled", "head.pooler": False},
        },
        config=(
            Field("vocab_size", "vocab_size", default=30522),
            Field("dim", "embed", default=768),
            Field("n_layers", "encoder.layers", default=6),
            Field("n_heads", (f"{_ATTENTION}.heads", f"{_ATTENTION}.kv_heads"), default=12),
            Derived(f"{_ATTENTION}.head_dim", lambda c: c.get("dim", 768) // c.get("n_heads", 12)),
            Field("hidden_dim", f"{_HALF}.hidden", default=3072),
            bert_names.activation_rule("activation", "gelu"),
            Field("max_position_embeddings", "max_length", default=512),
            Field("dropout", "dropout", default=0.1),
            Fixed("tie_word_embeddings", True),
        ),
        tensors=_tensors,
        neutral={
            "attention_dropout": 0.0,
            "sinusoidal_pos_embds": None,
            "tie_weights_": None,
            "qa_dropout": None,
            "seq_classif_dropout": None,
        },
        prefix="distilbert.",
    ),
    sizes={"base": encoder(layers=6, embed=768, heads=12, head_dim=64, hidden=3072)},
)
