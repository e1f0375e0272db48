"""gpt-oss (OpenAI 2025, section 2): experts with biases and a clamped SwiGLU, sinks, a window in every other layer."""

from typing import Any

from t5x_like.models.families import decoder, names
from t5x_like.models.families.layer_types import alternating, layer_types
from t5x_like.models.families.yarn import yarn
from t5x_like.models.hugging_face import Derived, Field, Fixed, HuggingFace
from t5x_like.models.names import Entry, norm, same
from t5x_like.models.tensor_steps import Fused, Transposed
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged

_ATTENTION, _HALF = "decoder.layer.attention", "decoder.layer.feed_forward"


def _tensors(model: Transformer) -> list[Entry]:
    layer, half = "model.layers.{layer}", "blocks.{layer}.mlp"
    in_turn = Fused(model.main.layer.feed_forward.hidden, axis=-1)  # gate and up of each hidden unit
    return [
        *names.llama_outside(),
        *names.llama_attention(layer),
        *same("blocks.{layer}.attention.sinks", f"{layer}.self_attn.sinks"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.input_layernorm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.post_attention_layernorm"),
        *same(f"{half}.router.kernel", f"{layer}.mlp.router.weight", Transposed()),
        *same(f"{half}.router.score_bias", f"{layer}.mlp.router.bias"),
        Entry((f"{half}.gate", f"{half}.up"), f"{layer}.mlp.experts.gate_up_proj", (in_turn,)),
        Entry((f"{half}.gate_bias", f"{half}.up_bias"), f"{layer}.mlp.experts.gate_up_proj_bias", (in_turn,)),
        *same(f"{half}.down", f"{layer}.mlp.experts.down_proj"),
        *same(f"{half}.down_bias", f"{layer}.mlp.experts.down_proj_bias"),
    ]


HUGGING_FACE = HuggingFace(
    model_type="gpt_oss",
    architectures={"GptOssForCausalLM": {}},
    config=(
        *names.llama_config(epsilon=1e-5, max_length=131072, head_dim=64, scaled=False),
        yarn(150000.0),
        layer_types(alternating, width=128),
        Fixed("attention_bias", True),
        Derived(f"{_ATTENTION}.name", lambda c: "sinks"),
        Derived(f"{_ATTENTION}.bias", lambda c: True),
        Derived(f"{_HALF}.name", lambda c: "clamped_experts"),
        Field("num_local_experts", f"{_HALF}.experts", default=128),
        Field("num_experts_per_tok", f"{_HALF}.experts_per_token", default=4),
        Field("swiglu_limit", f"{_HALF}.limit", default=7.0),
        Field("swiglu_alpha", f"{_HALF}.slope", default=1.702),
    ),
    tensors=_tensors,
    neutral={
        "attention_dropout": 0.0,
        "router_aux_loss_coef": 0.9,
        "output_router_logits": False,
        "experts_per_token": None,
        "initial_context_length": None,
    },
    prefix="model.",
)


def _size(layers: int, experts: int) -> dict[str, Any]:
    size = decoder(layers=layers, embed=2880, heads=64, kv_heads=8, head_dim=64, hidden=2880)
    return merged(
        Transformer, size, {"decoder": {"layer": {"feed_forward": {"name": "clamped_experts", "experts": experts}}}}
    )


FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 201088,
        "max_length": 131072,
        "decoder": {
            "positions": {
                "name": "rope",
                "theta": 150000.0,
                "scaling": {
                    "kind": "yarn",
                    "factor": 32.0,
                    "high": 32.0,
                    "low": 1.0,
                    "original_length": 4096,
                    "rounded": False,
                    "attention_factor": 1.3465735902799727,  # 0.1 · ln(32) + 1
                },
            },
            "pattern": [{"attention": {"window": 127}}, {}],
            "layer": {
                "attention": {"name": "sinks", "bias": True},
                "feed_forward": {"name": "clamped_experts", "experts_per_token": 4, "balance_loss": 0.9},
                "norm": {"kind": "rmsnorm", "epsilon": 1e-5},
            },
        },
        "head": "untied",
    },
    hugging_face=HUGGING_FACE,
    sizes={"20b": _size(layers=24, experts=32), "120b": _size(layers=36, experts=128)},
)
