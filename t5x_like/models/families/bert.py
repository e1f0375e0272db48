"""BERT (Devlin et al. 2019, section 3): an encoder with a norm after each of a layer's parts.

Beside tokens, learned positions and two types of token are embedded, with a norm over their sum; the head that predicts
masked tokens has a layer of its own, the token table, and a bias for each token. Of BERT's dropout that of attention's
weights is left out, and of its parts the pooler and the head that tells whether two texts follow each other, which
RoBERTa does without (Liu et al. 2019, section 4.2).
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import encoder
from t5x_like.models.families.names import ACTIVATIONS
from t5x_like.models.hugging_face import Config, Derived, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    table, layer, head = "bert.embeddings", "bert.encoder.layer.{layer}", "cls.predictions"
    return [
        *same("tokens.table", f"{table}.word_embeddings.weight", aliases=[f"{head}.decoder.weight"]),
        *same("positions.table", f"{table}.position_embeddings.weight"),
        *same("types.table", f"{table}.token_type_embeddings.weight"),
        *norm("embedding_norm", f"{table}.LayerNorm"),
        *linear("blocks.{layer}.attention.query", f"{layer}.attention.self.query"),
        *linear("blocks.{layer}.attention.key", f"{layer}.attention.self.key"),
        *linear("blocks.{layer}.attention.value", f"{layer}.attention.self.value"),
        *linear("blocks.{layer}.attention.output", f"{layer}.attention.output.dense"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.attention.output.LayerNorm"),
        *linear("blocks.{layer}.mlp.up", f"{layer}.intermediate.dense"),
        *linear("blocks.{layer}.mlp.down", f"{layer}.output.dense"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.output.LayerNorm"),
        *linear("transform.dense", f"{head}.transform.dense"),
        *norm("transform.norm", f"{head}.transform.LayerNorm"),
        *same("transform.bias", f"{head}.bias", aliases=[f"{head}.decoder.bias"]),
    ]


def _read_activation(config: Config) -> Mapping[str, Any]:
    options = Field("hidden_act", "encoder.layer.feed_forward.activation", default="gelu", values=ACTIVATIONS).read(
        config
    )
    scores = config.get("architectures") != ["BertModel"]
    return {**options, **({"head.activation": next(iter(options.values()))} if scores else {})}


def _write_activation(model: Transformer) -> Mapping[str, Any]:
    return Field("hidden_act", "encoder.layer.feed_forward.activation", values=ACTIVATIONS).write(model)


HUGGING_FACE = HuggingFace(
    model_type="bert",
    architectures={"BertForMaskedLM": {"head.name": "masked_lm"}, "BertModel": {"head.name": "tied"}},
    config=(
        Field("vocab_size", "vocab_size", default=30522),
        Field("hidden_size", "embed", default=768),
        Field("num_hidden_layers", "encoder.layers", default=12),
        Field("num_attention_heads", ("encoder.layer.attention.heads", "encoder.layer.attention.kv_heads"), default=12),
        Derived(
            "encoder.layer.attention.head_dim",
            lambda c: c.get("hidden_size", 768) // c.get("num_attention_heads", 12),
        ),
        Field("intermediate_size", "encoder.layer.feed_forward.hidden", default=3072),
        Translation(("hidden_act",), _read_activation, _write_activation),
        Field("max_position_embeddings", "max_length", default=512),
        Field("type_vocab_size", "encoder.embeddings.types", default=2),
        Field("layer_norm_eps", "encoder.layer.norm.epsilon", default=1e-12),
        Field("hidden_dropout_prob", "dropout", default=0.1),
        Fixed("position_embedding_type", "absolute"),
        Fixed("tie_word_embeddings", True),
    ),
    tensors=_tensors,
    neutral={"attention_probs_dropout_prob": 0.0},
    ignored=("bert.embeddings.position_ids",),
    prefix="bert.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 30522,
        "max_length": 512,
        "encoder": {
            "positions": "learned",
            "embeddings": {"name": "tokens", "types": 2, "norm": True},
            "layer": {
                "attention": {"head_dim": 64, "bias": True},
                "feed_forward": {"activation": "gelu_exact", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-12, "bias": True, "position": "post"},
            },
        },
        "head": {"name": "masked_lm", "activation": "gelu_exact"},
        "dropout": 0.1,
        "residual_init": False,
    },
    hugging_face=HUGGING_FACE,
    sizes={
        "base": encoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
    },
)
