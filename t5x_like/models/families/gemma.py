"""Gemma 2 (2024, section 2) and Gemma 3 (2025, section 2): local and global layers, norms around each part.

Both have a gated GELU, embeddings times √width that are the head too, and norms whose scale is stored less one. Gemma 2
caps its scores and its logits; Gemma 3 norms its queries and keys, and has another base of positions in local layers.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import decoder, names
from t5x_like.models.families.layer_types import FULL, SLIDING, alternating, layer_types
from t5x_like.models.hugging_face import Config, Derived, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, norm
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged

_ATTENTION = "decoder.layer.attention"


def _tensors(model: Transformer) -> list[Entry]:
    layer = "model.layers.{layer}"
    return [
        *names.llama_outside(),
        *names.llama_attention(layer),
        *names.llama_dense(layer),
        *norm("blocks.{layer}.attention.query_norm", f"{layer}.self_attn.q_norm"),
        *norm("blocks.{layer}.attention.key_norm", f"{layer}.self_attn.k_norm"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.input_layernorm"),
        *norm("blocks.{layer}.attention_after", f"{layer}.post_attention_layernorm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.pre_feedforward_layernorm"),
        *norm("blocks.{layer}.mlp_after", f"{layer}.post_feedforward_layernorm"),
    ]


def _scale() -> Translation:
    """The scale of scores, 1/√`query_pre_attn_scalar`."""

    def read(config: Config) -> Mapping[str, Any]:
        return {f"{_ATTENTION}.scale": config.get("query_pre_attn_scalar", 256) ** -0.5}

    def write(model: Any) -> Mapping[str, Any]:
        scale = model.decoder.layer.attention.scale
        return {"query_pre_attn_scalar": round(scale**-2)} if scale else {}

    return Translation(("query_pre_attn_scalar",), read, write)


def _every_sixth(config: Config) -> list[str]:
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    return [SLIDING if (number + 1) % every else FULL for number in range(config["num_hidden_layers"])]


def _form(model_type: str, architecture: str, *config: Any) -> HuggingFace:
    return HuggingFace(
        model_type=model_type,
        architectures={architecture: {}},
        config=(
            *config,
            _scale(),
            Fixed("attention_bias", False),
            Fixed("use_bidirectional_attention", False),
        ),
        tensors=_tensors,
        neutral={"attention_dropout": 0.0, "cache_implementation": None},
        prefix="model.",
    )


HUGGING_FACE_2 = _form(
    "gemma2",
    "Gemma2ForCausalLM",
    *names.llama_config(max_length=8192, tied=True, head_dim=256, activation="hidden_activation"),
    layer_types(alternating, width=4096),
    Field("attn_logit_softcapping", f"{_ATTENTION}.soft_cap", default=0.0, null=0.0),
    Field("final_logit_softcapping", "head.soft_cap", default=0.0, null=0.0),
)

HUGGING_FACE_3 = _form(
    "gemma3_text",
    "Gemma3ForCausalLM",
    *names.llama_config(
        theta=1e6, local_theta=10000.0, max_length=131072, tied=True, head_dim=256, activation="hidden_activation"
    ),
    layer_types(_every_sixth, width=4096, others=("sliding_window_pattern", "_sliding_window_pattern")),
    Fixed("attn_logit_softcapping", None),
    Field("final_logit_softcapping", "head.soft_cap", default=0.0, null=0.0),
    Derived(f"{_ATTENTION}.epsilon", lambda c: c.get("rms_norm_eps", 1e-6)),
)

_VALUES: Mapping[str, Any] = {
    "decoder": {
        "positions": {"name": "rope", "theta": 10000.0},
        "embeddings": {"name": "tokens", "scaled": True},
        "layer": {
            "attention": {"scale": 256**-0.5},
            "feed_forward": {"activation": "gelu", "gated": True},
            "norm": {"kind": "rmsnorm", "epsilon": 1e-6, "unit_offset": True, "position": "around"},
        },
    },
    "head": "tied",
}


def _scaled_by(head_dim: int, **changes: Any) -> dict[str, Any]:
    return {"decoder": {"layer": {"attention": {"scale": head_dim**-0.5}}, **changes}}


def _local(window: int, scaling: float = 1.0) -> dict[str, Any]:
    """Gemma 3's five layers with a window and one without, and the factor of the positions of the latter."""
    pattern = [{"attention": {"window": window - 1}}] * 5 + [{}]
    return {"pattern": pattern, **({"positions": {"scaling": _linear(scaling)}} if scaling != 1 else {})}


def _linear(factor: float) -> dict[str, Any]:
    return {"kind": "linear", "factor": factor}


VERSION_2 = Preset(
    Transformer,
    values=merged(
        Transformer,
        _VALUES,
        {
            "vocab_size": 256000,
            "max_length": 8192,
            "decoder": {
                "pattern": [{"attention": {"window": 4095}}, {}],
                "layer": {"attention": {"soft_cap": 50.0}},
            },
            "head": {"name": "tied", "soft_cap": 30.0},
        },
    ),
    hugging_face=HUGGING_FACE_2,
    sizes={
        "2b": decoder(layers=26, embed=2304, heads=8, kv_heads=4, head_dim=256, hidden=9216),
        "9b": decoder(layers=42, embed=3584, heads=16, kv_heads=8, head_dim=256, hidden=14336),
        "27b": merged(
            Transformer,
            decoder(layers=46, embed=4608, heads=32, kv_heads=16, head_dim=128, hidden=36864),
            _scaled_by(144),
        ),
    },
)

_SMALL, _LARGE = {"decoder": _local(512), "vocab_size": 262144, "max_length": 32768}, {"decoder": _local(1024, 8.0)}


def _size(base: Mapping[str, Any], **sizes: int) -> dict[str, Any]:
    return merged(Transformer, decoder(**sizes), base)


VERSION_3 = Preset(
    Transformer,
    values=merged(
        Transformer,
        _VALUES,
        {
            "vocab_size": 262208,
            "max_length": 131072,
            "decoder": {
                "positions": {"theta": 1e6, "local_theta": 10000.0},
                "layer": {"attention": {"name": "normed", "over": "head", "unit_offset": True}},
            },
        },
    ),
    hugging_face=HUGGING_FACE_3,
    sizes={
        "270m": _size(_SMALL, layers=18, embed=640, heads=4, kv_heads=1, head_dim=256, hidden=2048),
        "1b": _size(_SMALL, layers=26, embed=1152, heads=4, kv_heads=1, head_dim=256, hidden=6912),
        "4b": _size(_LARGE, layers=34, embed=2560, heads=8, kv_heads=4, head_dim=256, hidden=10240),
        "12b": _size(_LARGE, layers=48, embed=3840, heads=16, kv_heads=8, head_dim=256, hidden=15360),
        "27b": merged(
            Transformer,
            _size(_LARGE, layers=62, embed=5376, heads=32, kv_heads=16, head_dim=128, hidden=21504),
            _scaled_by(168),
        ),
    },
)
