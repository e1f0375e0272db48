"""ModernBERT (Warner et al. 2024, section 2.1): rotary positions of two bases, local layers between global ones, GeGLU.

Norms come before the parts and have no biases; the first layer's attention has none, as the embeddings have one. Rows
without padding are what packed rows are here.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.families import encoder
from t5x_like.models.families.names import ACTIVATIONS
from t5x_like.models.hugging_face import Config, Derived, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, fused, linear, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    layer, ours = "model.layers.{layer}", "blocks.{layer}"
    return [
        *same("tokens.table", "model.embeddings.tok_embeddings.weight", aliases=["decoder.weight"]),
        *norm("embedding_norm", "model.embeddings.norm"),
        *norm(f"{ours}.attention_norm", f"{layer}.attn_norm"),
        *fused([f"{ours}.attention.{part}" for part in ("query", "key", "value")], f"{layer}.attn.Wqkv"),
        *linear(f"{ours}.attention.output", f"{layer}.attn.Wo"),
        *norm(f"{ours}.mlp_norm", f"{layer}.mlp_norm"),
        *fused([f"{ours}.mlp.gate", f"{ours}.mlp.up"], f"{layer}.mlp.Wi"),
        *linear(f"{ours}.mlp.down", f"{layer}.mlp.Wo"),
        *norm("norm", "model.final_norm"),
        *linear("transform.dense", "head.dense"),
        *norm("transform.norm", "head.norm"),
        *same("transform.bias", "decoder.bias"),
    ]


_KINDS = ("full_attention", "sliding_attention")


def _read_layers(config: Config) -> Mapping[str, Any]:
    """A global layer is followed by some local ones, and so on; the first has no norm before attention."""
    count, kinds = config.get("num_hidden_layers", 22), config.get("layer_types")
    every = config.get("global_attn_every_n_layers", 3)
    if kinds is not None:
        every = next((number for number, kind in enumerate(kinds) if number and kind == _KINDS[0]), count)
    if kinds not in (None, [_KINDS[bool(number % every)] for number in range(count)]):
        raise UserError(
            "config.json has layer_types that are no global layer and the same number of local ones in turn"
        )
    local = {"attention": {"window": config.get("local_attention", 128) // 2}}
    # As many of the pattern as there are layers to be of it.
    pattern = [*[local] * (every - 1), {}][: count - 1]
    return {"encoder.layers": count, "encoder.leading": [{"attention_norm": False}], "encoder.pattern": pattern}


def _write_layers(model: Transformer) -> Mapping[str, Any]:
    windows = [layer.attention.window for layer in model.main.every_layer]
    return {
        "num_hidden_layers": model.main.layers,
        "layer_types": [_KINDS[bool(window)] for window in windows],
        "local_attention": 2 * max(windows) or 128,
    }


def _read_rope(config: Config) -> Mapping[str, Any]:
    given = config.get("rope_parameters") or {}
    bases = [config.get("global_rope_theta", 160000.0), config.get("local_rope_theta", 10000.0)]
    for number, kind in enumerate(_KINDS):
        own = given.get(kind) or {}
        if own.get("rope_type", "default") != "default":
            raise UserError(f"config.json has rope_type={own['rope_type']!r} for {kind}; it must be 'default'")
        bases[number] = own.get("rope_theta", bases[number])
    return {"encoder.positions.theta": bases[0], "encoder.positions.local_theta": bases[1]}


def _write_rope(model: Transformer) -> Mapping[str, Any]:
    bases = zip(_KINDS, (model.main.positions.theta, model.main.positions.local_theta), strict=True)
    return {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases}}


_LAYER = "encoder.layer"

HUGGING_FACE = HuggingFace(
    model_type="modernbert",
    architectures={
        "ModernBertForMaskedLM": {"head.name": "masked_lm"},
        "ModernBertModel": {"head.name": "pooled", "head.pooler": False},
    },
    config=(
        Field("vocab_size", "vocab_size", default=50368),
        Field("hidden_size", "embed", default=768),
        Field("num_attention_heads", (f"{_LAYER}.attention.heads", f"{_LAYER}.attention.kv_heads"), default=12),
        Derived(
            f"{_LAYER}.attention.head_dim", lambda c: c.get("hidden_size", 768) // c.get("num_attention_heads", 12)
        ),
        Field("intermediate_size", f"{_LAYER}.feed_forward.hidden", default=1152),
        Field("hidden_activation", f"{_LAYER}.feed_forward.activation", default="gelu", values=ACTIVATIONS),
        Field("max_position_embeddings", "max_length", default=8192),
        Field("norm_eps", f"{_LAYER}.norm.epsilon", default=1e-5),
        Fixed("norm_bias", False),
        Field("attention_bias", f"{_LAYER}.attention.bias", default=False),
        Field("mlp_bias", f"{_LAYER}.feed_forward.bias", default=False),
        Translation(
            ("num_hidden_layers", "layer_types", "global_attn_every_n_layers", "local_attention"),
            _read_layers,
            _write_layers,
        ),
        Translation(("rope_parameters", "global_rope_theta", "local_rope_theta"), _read_rope, _write_rope),
        Fixed("decoder_bias", True),
        Fixed("classifier_bias", False),
        Fixed("classifier_activation", "gelu"),
        Fixed("tie_word_embeddings", True),
    ),
    tensors=_tensors,
    neutral={
        **dict.fromkeys(["attention_dropout", "embedding_dropout", "mlp_dropout", "initializer_cutoff_factor"]),
        **dict.fromkeys(
            ["classifier_pooling", "deterministic_flash_attn", "sparse_prediction", "repad_logits_with_grad"]
        ),
        **dict.fromkeys(["sparse_pred_ignore_index", "reference_compile", "position_embedding_type", "layer_norm_eps"]),
    },
    prefix="model.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50368,
        "max_length": 8192,
        "encoder": {
            "leading": [{"attention_norm": False}],
            "pattern": [{"attention": {"window": 64}}, {"attention": {"window": 64}}, {}],
            "positions": {"name": "rope", "theta": 160000.0, "local_theta": 10000.0},
            "embeddings": {"name": "tokens", "norm": True},
            "layer": {
                "attention": {"head_dim": 64},
                "feed_forward": {"activation": "gelu_exact", "gated": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-5},
            },
        },
        "head": {"name": "masked_lm", "activation": "gelu_exact"},
    },
    hugging_face=HUGGING_FACE,
    sizes={
        "base": encoder(layers=22, embed=768, heads=12, head_dim=64, hidden=1152),
        "large": encoder(layers=28, embed=1024, heads=16, head_dim=64, hidden=2624),
    },
)
