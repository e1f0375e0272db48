"""GPT-J (Wang & Komatsuzaki 2021): both parts of a layer at once, and positions of a quarter of each head.

Its rotary pairs are side by side in a head; the projections are laid out here so that a pair is j and j + half.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import decoder
from t5x_like.models.families.names import ACTIVATIONS, TIED
from t5x_like.models.hugging_face import Config, Derived, Field, HuggingFace, Translation
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.tensor_steps import InterleavedPairs
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    layer, attention, half = "transformer.h.{layer}", "blocks.{layer}.attention", "blocks.{layer}.mlp"
    options = model.main.layer.attention
    pairs = InterleavedPairs(options.heads, rotated=round(options.head_dim * model.main.positions.fraction))
    return [
        *same("tokens.table", "transformer.wte.weight"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.ln_1"),
        *linear(f"{attention}.query", f"{layer}.attn.q_proj", pairs),
        *linear(f"{attention}.key", f"{layer}.attn.k_proj", pairs),
        *linear(f"{attention}.value", f"{layer}.attn.v_proj"),
        *linear(f"{attention}.output", f"{layer}.attn.out_proj"),
        *linear(f"{half}.up", f"{layer}.mlp.fc_in"),
        *linear(f"{half}.down", f"{layer}.mlp.fc_out"),
        *norm("norm", "transformer.ln_f"),
        *same("head.table", "lm_head.weight"),
        *same("head_bias", "lm_head.bias"),
    ]


def _width(config: Config) -> int:
    return int(config.get("n_embd", 4096) // config.get("n_head", 16))


def _rotary() -> Translation:
    """The rotated part of a head, by its width there and as a fraction here."""

    def read(config: Config) -> Mapping[str, Any]:
        width = _width(config)
        return {"decoder.positions.fraction": (config.get("rotary_dim", 64) or width) / width}

    def write(model: Any) -> Mapping[str, Any]:
        return {"rotary_dim": round(model.decoder.positions.fraction * model.decoder.layer.attention.head_dim)}

    return Translation(("rotary_dim",), read, write)


HUGGING_FACE = HuggingFace(
    model_type="gptj",
    architectures={"GPTJForCausalLM": {}},
    config=(
        Field("vocab_size", "vocab_size", default=50400),
        Field("n_positions", "max_length", default=2048),
        Field("n_embd", "embed", default=4096),
        Field("n_layer", "decoder.layers", default=28),
        Field("n_head", ("decoder.layer.attention.heads", "decoder.layer.attention.kv_heads"), default=16),
        Derived("decoder.layer.attention.head_dim", _width),
        _rotary(),
        Field("n_inner", "decoder.layer.feed_forward.hidden", default=lambda c: 4 * c.get("n_embd", 4096)),
        Field("activation_function", "decoder.layer.feed_forward.activation", default="gelu_new", values=ACTIVATIONS),
        Field("layer_norm_epsilon", "decoder.layer.norm.epsilon", default=1e-5),
        Field("tie_word_embeddings", "head.name", default=False, values={False: TIED[False]}),
        Field("resid_pdrop", "dropout", default=0.0),
    ),
    tensors=_tensors,
    neutral={
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        **dict.fromkeys(["rotary", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"]),
        "summary_first_dropout": None,
    },
    ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
    prefix="transformer.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50400,
        "max_length": 2048,
        "decoder": {
            "positions": {"name": "rope", "theta": 10000.0, "fraction": 0.25},
            "layer": {
                "feed_forward": {"activation": "gelu", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True},
                "arrangement": "parallel",
            },
        },
        "head": {"name": "untied", "bias": True},
    },
    hugging_face=HUGGING_FACE,
    sizes={"6b": decoder(layers=28, embed=4096, heads=16, head_dim=256, hidden=16384)},
)
