"""Qwen3 (Yang et al. 2025, section 2, tables 1 and 2): Llama with a norm of each query and key, dense or of experts."""

from collections.abc import Iterable
from typing import Any

from t5x_like.models.families import decoder, llama, names
from t5x_like.models.families.layer_types import all_full, layer_types
from t5x_like.models.hugging_face import Derived, Field, Fixed, HuggingFace
from t5x_like.models.names import Entry, norm
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged


def _tensors(model: Any) -> Iterable[Entry]:
    attention = "model.layers.{layer}.self_attn"
    return [
        *names.llama_tensors(),
        *norm("blocks.{layer}.attention.query_norm", f"{attention}.q_norm"),
        *norm("blocks.{layer}.attention.key_norm", f"{attention}.k_norm"),
        *names.experts("model.layers.{layer}.mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    ]


_ATTENTION = (
    layer_types(all_full, switch=True),
    Fixed("attention_bias", False),
    Derived("decoder.layer.attention.epsilon", lambda c: c.get("rms_norm_eps", 1e-6)),
)

HUGGING_FACE = HuggingFace(
    model_type="qwen3",
    architectures={"Qwen3ForCausalLM": {}},
    config=(*names.llama_config(head_dim=128), *_ATTENTION),
    tensors=_tensors,
    neutral={"attention_dropout": 0.0, "max_window_layers": None},
    prefix="model.",
)

_HIDDEN, _EXPERTS = "decoder.layer.feed_forward.hidden", "decoder.layer.feed_forward"
HUGGING_FACE_EXPERTS = HuggingFace(
    model_type="qwen3_moe",
    architectures={"Qwen3MoeForCausalLM": {}},
    config=(
        *(rule for rule in names.llama_config() if rule.keys != ("intermediate_size",)),
        *_ATTENTION,
        Field("moe_intermediate_size", _HIDDEN, default=768),
        Field("num_experts", f"{_EXPERTS}.experts", default=lambda c: c.get("num_local_experts", 128)),
        Field("num_experts_per_tok", f"{_EXPERTS}.experts_per_token", default=8),
        Fixed("norm_topk_prob", True, absent=False),
        Fixed("decoder_sparse_step", 1),
        Fixed("mlp_only_layers", []),
        Derived(f"{_EXPERTS}.name", lambda c: "experts"),
    ),
    tensors=_tensors,
    neutral={
        "attention_dropout": 0.0,
        "max_window_layers": None,
        "num_local_experts": None,
        "intermediate_size": None,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    },
    prefix="model.",
)

_VALUES = merged(
    Transformer,
    llama.FAMILY.values,
    {
        "vocab_size": 151936,
        "max_length": 40960,
        "decoder": {
            "positions": {"theta": 1e6},
            "layer": {"attention": {"name": "normed", "over": "head"}, "norm": {"epsilon": 1e-6}},
        },
    },
)

FAMILY = Preset(
    Transformer,
    values=_VALUES,
    hugging_face=HUGGING_FACE,
    sizes={
        "0.6b": decoder(layers=28, embed=1024, heads=16, kv_heads=8, head_dim=128, hidden=3072, head="tied"),
        "1.7b": decoder(layers=28, embed=2048, heads=16, kv_heads=8, head_dim=128, hidden=6144, head="tied"),
        "4b": decoder(layers=36, embed=2560, heads=32, kv_heads=8, head_dim=128, hidden=9728, head="tied"),
        "8b": decoder(layers=36, embed=4096, heads=32, kv_heads=8, head_dim=128, hidden=12288),
        "14b": decoder(layers=40, embed=5120, heads=40, kv_heads=8, head_dim=128, hidden=17408),
        "32b": decoder(layers=64, embed=5120, heads=64, kv_heads=8, head_dim=128, hidden=25600),
    },
)

EXPERTS = Preset(
    Transformer,
    values=merged(
        Transformer,
        _VALUES,
        {
            "decoder": {
                "layer": {
                    "feed_forward": {"name": "experts", "experts": 128, "experts_per_token": 8, "balance_loss": 0.001}
                }
            }
        },
    ),
    hugging_face=HUGGING_FACE_EXPERTS,
    sizes={
        "30b_a3b": decoder(layers=48, embed=2048, heads=32, kv_heads=4, head_dim=128, hidden=768),
        "235b_a22b": decoder(layers=94, embed=4096, heads=64, kv_heads=4, head_dim=128, hidden=1536),
    },
)
