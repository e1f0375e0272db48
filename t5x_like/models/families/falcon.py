"""Falcon (Almazrouei et al. 2023, section 4, table 15): both parts of a layer at once, few key-value heads, no biases.

7B has one key-value head and one norm for both parts; 40B and 180B have eight heads and a norm for each.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import decoder
from t5x_like.models.families.names import ACTIVATIONS, TIED, rope
from t5x_like.models.hugging_face import Config, Derived, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, fused, linear, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    layer, attention = "transformer.h.{layer}", "blocks.{layer}.attention"
    projections = [f"{attention}.{name}" for name in ("query", "key", "value")]
    two = model.main.layer.arrangement == "parallel_two_norms"
    # With one key-value head the queries come first; with several, one group of heads after the other.
    groups = model.main.layer.attention.kv_heads
    return [
        *same("tokens.table", "transformer.word_embeddings.weight", aliases=["lm_head.weight"]),
        *norm("blocks.{layer}.attention_norm", f"{layer}.ln_attn" if two else f"{layer}.input_layernorm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.ln_mlp"),
        *fused(projections, f"{layer}.self_attention.query_key_value", groups=groups),
        *linear(f"{attention}.output", f"{layer}.self_attention.dense"),
        *linear("blocks.{layer}.mlp.up", f"{layer}.mlp.dense_h_to_4h"),
        *linear("blocks.{layer}.mlp.down", f"{layer}.mlp.dense_4h_to_h"),
        *norm("norm", "transformer.ln_f"),
        *same("head.table", "lm_head.weight"),
    ]


def _arrangement() -> Translation:
    """Key-value heads and norms, which the newer form of a layer has more of."""

    def read(config: Config) -> Mapping[str, Any]:
        newer, heads = config.get("new_decoder_architecture", False), config.get("num_attention_heads", 71)
        norms = config.get("num_ln_in_parallel_attn") or (2 if newer else 1)
        several = heads if not config.get("multi_query", True) else 1
        return {
            "decoder.layer.attention.kv_heads": (config.get("num_kv_heads") or heads) if newer else several,
            "decoder.layer.arrangement": "parallel_two_norms" if newer and norms == 2 else "parallel",
        }

    def write(model: Any) -> Mapping[str, Any]:
        layer = model.decoder.layer
        two = layer.arrangement == "parallel_two_norms"
        newer = two or layer.attention.kv_heads > 1
        return {
            "new_decoder_architecture": newer,
            "num_kv_heads": layer.attention.kv_heads,
            "multi_query": True,
            "num_ln_in_parallel_attn": (2 if two else 1) if newer else None,
        }

    keys = ("new_decoder_architecture", "num_kv_heads", "multi_query", "num_ln_in_parallel_attn")
    return Translation(keys, read, write)


_HALF = "decoder.layer.feed_forward"
HUGGING_FACE = HuggingFace(
    model_type="falcon",
    architectures={"FalconForCausalLM": {}},
    config=(
        Field("vocab_size", "vocab_size", default=65024),
        Field("hidden_size", "embed", default=4544),
        Field("num_hidden_layers", "decoder.layers", default=32),
        Field("num_attention_heads", "decoder.layer.attention.heads", default=71),
        Derived(
            "decoder.layer.attention.head_dim",
            lambda c: c.get("hidden_size", 4544) // c.get("num_attention_heads", 71),
        ),
        Field("ffn_hidden_size", f"{_HALF}.hidden", default=lambda c: 4 * c.get("hidden_size", 4544)),
        Field("activation", f"{_HALF}.activation", default="gelu", values=ACTIVATIONS),
        Field("layer_norm_epsilon", "decoder.layer.norm.epsilon", default=1e-5),
        Field("max_position_embeddings", "max_length", default=2048),
        Field("hidden_dropout", "dropout", default=0.0),
        Field("tie_word_embeddings", "head.name", default=True, values=TIED),
        rope(10000.0),
        _arrangement(),
        Fixed("alibi", False),
        Fixed("bias", False),
        Fixed("parallel_attn", True),
    ),
    tensors=_tensors,
    neutral={"attention_dropout": 0.0},
    prefix="transformer.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 65024,
        "max_length": 2048,
        "decoder": {
            "positions": {"name": "rope", "theta": 10000.0},
            "layer": {
                "feed_forward": {"activation": "gelu_exact"},
                "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True},
                "arrangement": "parallel_two_norms",
            },
        },
        "head": "tied",
    },
    hugging_face=HUGGING_FACE,
    sizes={
        "7b": {
            "embed": 4544,
            "decoder": {
                "layers": 32,
                "layer": {
                    "attention": {"heads": 71, "kv_heads": 1, "head_dim": 64},
                    "feed_forward": {"hidden": 18176},
                    "arrangement": "parallel",
                },
            },
        },
        "40b": decoder(layers=60, embed=8192, heads=128, kv_heads=8, head_dim=64, hidden=32768),
        "180b": decoder(layers=80, embed=14848, heads=232, kv_heads=8, head_dim=64, hidden=59392),
    },
)
