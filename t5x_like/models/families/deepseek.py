"""DeepSeek-V3 (2024, section 2.1, and section 4.2 for sizes): latent attention, many small experts and a shared one.

The first three layers are dense. The module that predicts a second token is of training alone, and not here.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.families import names
from t5x_like.models.families.yarn import yarn
from t5x_like.models.hugging_face import Config, Derived, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.tensor_steps import InterleavedPairs
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_ATTENTION, _HALF = "decoder.layer.attention", "decoder.layer.feed_forward"


def _tensors(model: Transformer) -> list[Entry]:
    layer, attention, half = "model.layers.{layer}", "blocks.{layer}.attention", "blocks.{layer}.mlp"
    o = model.main.layer.attention
    of_queries = InterleavedPairs(o.heads, rotated=o.rotary_dim, start=o.plain_dim)
    of_latent = InterleavedPairs(1, rotated=o.rotary_dim, start=o.key_value_rank)
    direct = "q_b_proj" if o.query_rank else "q_proj"
    return [
        *names.llama_outside(),
        *linear(f"{attention}.query_down", f"{layer}.self_attn.q_a_proj"),
        *norm(f"{attention}.query_norm", f"{layer}.self_attn.q_a_layernorm"),
        *linear(f"{attention}.query", f"{layer}.self_attn.{direct}", of_queries),
        *linear(f"{attention}.latent", f"{layer}.self_attn.kv_a_proj_with_mqa", of_latent),
        *norm(f"{attention}.latent_norm", f"{layer}.self_attn.kv_a_layernorm"),
        *linear(f"{attention}.key_value", f"{layer}.self_attn.kv_b_proj"),
        *linear(f"{attention}.output", f"{layer}.self_attn.o_proj"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.input_layernorm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.post_attention_layernorm"),
        *names.llama_dense(layer),
        *names.experts(f"{layer}.mlp", gate="gate_proj", up="up_proj", down="down_proj"),
        *same(f"{half}.router.correction", f"{layer}.mlp.gate.e_score_correction_bias"),
        *(
            entry
            for name in ("gate", "up", "down")
            for entry in linear(f"{half}.shared.{name}", f"{layer}.mlp.shared_experts.{name}_proj")
        ),
    ]


def _heads() -> Translation:
    """The heads, of which each has keys and values of its own."""

    def read(config: Config) -> Mapping[str, Any]:
        heads = config.get("num_attention_heads", 128)
        if config.get("num_key_value_heads", heads) != heads:
            raise UserError(
                f"config.json has num_key_value_heads other than num_attention_heads={heads}; they are equal"
            )
        return {f"{_ATTENTION}.heads": heads}

    def write(model: Any) -> Mapping[str, Any]:
        return dict.fromkeys(("num_attention_heads", "num_key_value_heads"), model.decoder.layer.attention.heads)

    return Translation(("num_attention_heads", "num_key_value_heads"), read, write)


def _halves() -> Translation:
    """Dense halves of the first layers, and the shared expert of the others, as wide as so many experts."""

    def read(config: Config) -> Mapping[str, Any]:
        dense = {"name": "dense", "hidden": config.get("intermediate_size", 18432), "activation": "silu", "gated": True}
        hidden = config.get("moe_intermediate_size", 2048)
        return {
            "decoder.leading": [{"feed_forward": dense}] * config.get("first_k_dense_replace", 3),
            f"{_HALF}.hidden": hidden,
            f"{_HALF}.shared_hidden": hidden * config.get("n_shared_experts", 1),
        }

    def write(model: Any) -> Mapping[str, Any]:
        half, leading = model.decoder.layer.feed_forward, model.decoder.leading_layers
        dense = {"intermediate_size": leading[0].feed_forward.hidden} if leading else {}
        return {
            "first_k_dense_replace": len(leading),
            "moe_intermediate_size": half.hidden,
            "n_shared_experts": half.shared_hidden // half.hidden,
            **dense,
        }

    keys = ("intermediate_size", "moe_intermediate_size", "first_k_dense_replace", "n_shared_experts")
    return Translation(keys, read, write)


HUGGING_FACE = HuggingFace(
    model_type="deepseek_v3",
    architectures={"DeepseekV3ForCausalLM": {}},
    config=(
        Field("vocab_size", "vocab_size"),
        Field("hidden_size", "embed"),
        Field("num_hidden_layers", "decoder.layers"),
        Field("max_position_embeddings", "max_length", default=4096),
        Field("rms_norm_eps", "decoder.layer.norm.epsilon", default=1e-6),
        Field("tie_word_embeddings", "head.name", default=False, values=names.TIED),
        Field("hidden_act", f"{_HALF}.activation", default="silu", values={"silu": "silu"}),
        Field("q_lora_rank", f"{_ATTENTION}.query_rank", default=0),
        Field("kv_lora_rank", f"{_ATTENTION}.key_value_rank", default=512),
        Field("qk_nope_head_dim", f"{_ATTENTION}.plain_dim", default=128),
        Field("qk_rope_head_dim", f"{_ATTENTION}.rotary_dim", default=64),
        Field("v_head_dim", f"{_ATTENTION}.value_dim", default=128),
        Field("n_routed_experts", f"{_HALF}.experts", default=256),
        Field("num_experts_per_tok", f"{_HALF}.experts_per_token", default=8),
        Field("n_group", f"{_HALF}.groups", default=8),
        Field("topk_group", f"{_HALF}.groups_per_token", default=4),
        Field("routed_scaling_factor", f"{_HALF}.scale", default=2.5),
        _heads(),
        _halves(),
        yarn(10000.0, scores=True),
        Derived(f"{_ATTENTION}.name", lambda c: "latent"),
        Derived(f"{_HALF}.name", lambda c: "shared_experts"),
        Fixed("rope_interleave", True),
        Fixed("norm_topk_prob", True),
        Fixed("attention_bias", False),
        Fixed("scoring_func", "sigmoid"),
        Fixed("topk_method", "noaux_tc"),
        Fixed("moe_layer_freq", 1),
    ),
    tensors=_tensors,
    neutral={
        "attention_dropout": 0.0,
        "num_nextn_predict_layers": 0,
        **dict.fromkeys(["output_router_logits", "aux_loss_alpha", "seq_aux", "ep_size", "head_dim", "qk_head_dim"]),
        "quantization_config": None,
    },
    prefix="model.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 129280,
        "max_length": 4096,
        "decoder": {
            "positions": {"name": "rope", "theta": 10000.0},
            "leading": [{"feed_forward": {"name": "dense", "hidden": 18432, "activation": "silu", "gated": True}}] * 3,
            "layer": {
                "attention": {
                    "name": "latent",
                    "heads": 128,
                    "query_rank": 1536,
                    "key_value_rank": 512,
                    "plain_dim": 128,
                    "rotary_dim": 64,
                    "value_dim": 128,
                },
                "feed_forward": {
                    "name": "shared_experts",
                    "hidden": 2048,
                    "shared_hidden": 2048,
                    "experts": 256,
                    "experts_per_token": 8,
                    "groups": 8,
                    "groups_per_token": 4,
                    "scale": 2.5,
                    "balance_loss": 0.0001,
                },
                "norm": {"kind": "rmsnorm", "epsilon": 1e-6},
            },
        },
        "head": "untied",
    },
    hugging_face=HUGGING_FACE,
    sizes={"671b": {"embed": 7168, "decoder": {"layers": 61}}},
)
