"""GPT-Neo (Black et al. 2021): GPT-2 with a window in every other layer, and scores that are not scaled."""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.families import decoder
from t5x_like.models.families.names import ACTIVATIONS, TIED
from t5x_like.models.hugging_face import Config, Derived, Field, HuggingFace, Translation
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    layer, attention, half = "transformer.h.{layer}", "blocks.{layer}.attention", "blocks.{layer}.mlp"
    return [
        *same("tokens.table", "transformer.wte.weight", aliases=["lm_head.weight"]),
        *same("positions.table", "transformer.wpe.weight"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.ln_1"),
        *linear(f"{attention}.query", f"{layer}.attn.attention.q_proj"),
        *linear(f"{attention}.key", f"{layer}.attn.attention.k_proj"),
        *linear(f"{attention}.value", f"{layer}.attn.attention.v_proj"),
        *linear(f"{attention}.output", f"{layer}.attn.attention.out_proj"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.ln_2"),
        *linear(f"{half}.up", f"{layer}.mlp.c_fc"),
        *linear(f"{half}.down", f"{layer}.mlp.c_proj"),
        *norm("norm", "transformer.ln_f"),
        *same("head.table", "lm_head.weight"),
    ]


def _windows() -> Translation:
    """Groups of layers that see all or a window, which there counts the token itself."""

    def read(config: Config) -> Mapping[str, Any]:
        types = config.get("attention_types") or [[["global", "local"], config.get("num_layers", 24) // 2]]
        if len(types) != 1 or {*types[0][0]} - {"global", "local"}:
            raise UserError(f"config.json has attention_types={types}; it must be one group of 'global' and 'local'")
        window = config.get("window_size", 256) - 1
        pattern = [{"attention": {"window": window if kind == "local" else 0}} for kind in types[0][0]]
        return {"decoder.pattern": pattern, "decoder.layer.attention.window": 0}

    def write(model: Any) -> Mapping[str, Any]:
        stack = model.decoder
        kinds = ["local" if layer.attention.window else "global" for layer in stack.group]
        windows = {layer.attention.window for layer in stack.group} - {0}
        return {
            "attention_types": [[kinds, stack.repetitions]],
            "attention_layers": kinds * stack.repetitions,
            "window_size": max(windows, default=255) + 1,
        }

    return Translation(("attention_types", "attention_layers", "window_size"), read, write)


HUGGING_FACE = HuggingFace(
    model_type="gpt_neo",
    architectures={"GPTNeoForCausalLM": {}},
    config=(
        Field("vocab_size", "vocab_size", default=50257),
        Field("max_position_embeddings", "max_length", default=2048),
        Field("hidden_size", "embed", default=2048),
        Field("num_layers", "decoder.layers", default=24),
        Field("num_heads", ("decoder.layer.attention.heads", "decoder.layer.attention.kv_heads"), default=16),
        Derived("decoder.layer.attention.head_dim", lambda c: c.get("hidden_size", 2048) // c.get("num_heads", 16)),
        Field(
            "intermediate_size", "decoder.layer.feed_forward.hidden", default=lambda c: 4 * c.get("hidden_size", 2048)
        ),
        Field("activation_function", "decoder.layer.feed_forward.activation", default="gelu_new", values=ACTIVATIONS),
        Field("layer_norm_epsilon", "decoder.layer.norm.epsilon", default=1e-5),
        Field("tie_word_embeddings", "head.name", default=True, values=TIED),
        Field("resid_dropout", "dropout", default=0.0),
        _windows(),
    ),
    tensors=_tensors,
    neutral={
        "embed_dropout": 0.0,
        "attention_dropout": 0.0,
        **dict.fromkeys(["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"]),
        "summary_first_dropout": None,
    },
    ignored=("transformer.h.*.attn.attention.bias", "transformer.h.*.attn.attention.masked_bias"),
    prefix="transformer.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50257,
        "max_length": 2048,
        "decoder": {
            "positions": "learned",
            "pattern": [{}, {"attention": {"window": 255}}],
            "layer": {
                "attention": {"bias": False, "output_bias": True, "scaled": False},
                "feed_forward": {"activation": "gelu", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True},
            },
        },
        "head": "tied",
    },
    hugging_face=HUGGING_FACE,
    sizes={
        "125m": decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "1.3b": decoder(layers=24, embed=2048, heads=16, head_dim=128, hidden=8192),
        "2.7b": decoder(layers=32, embed=2560, heads=20, head_dim=128, hidden=10240),
    },
)
