"""StarCoder (Li et al. 2023, section 5, table 8) and StarCoder2 (Lozhkov et al. 2024, section 6, table 6).

StarCoder is GPT-2 with one key-value head; StarCoder2 has grouped heads, rotary positions and a window.
"""

from t5x_like.models.families import decoder
from t5x_like.models.families.gpt2 import CONFIG
from t5x_like.models.families.layer_types import sliding
from t5x_like.models.families.names import llama_attention, llama_config, llama_outside
from t5x_like.models.hugging_face import Derived, Field, Fixed, HuggingFace
from t5x_like.models.names import Entry, fused, linear, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_ATTENTION, _HALF = "decoder.layer.attention", "decoder.layer.feed_forward"


def _tensors(model: Transformer) -> list[Entry]:
    layer, attention = "transformer.h.{layer}", "blocks.{layer}.attention"
    return [
        *same("tokens.table", "transformer.wte.weight", aliases=["lm_head.weight"]),
        *same("positions.table", "transformer.wpe.weight"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.ln_1"),
        *fused([f"{attention}.{name}" for name in ("query", "key", "value")], f"{layer}.attn.c_attn"),
        *linear(f"{attention}.output", f"{layer}.attn.c_proj"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.ln_2"),
        *linear("blocks.{layer}.mlp.up", f"{layer}.mlp.c_fc"),
        *linear("blocks.{layer}.mlp.down", f"{layer}.mlp.c_proj"),
        *norm("norm", "transformer.ln_f"),
        *same("head.table", "lm_head.weight"),
    ]


HUGGING_FACE_1 = HuggingFace(
    model_type="gpt_bigcode",
    architectures={"GPTBigCodeForCausalLM": {}},
    config=(
        *CONFIG,
        Field("n_head", f"{_ATTENTION}.heads", default=12),
        Derived(f"{_ATTENTION}.kv_heads", lambda c: 1),
        Fixed("multi_query", True),
    ),
    tensors=_tensors,
    neutral={
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        **dict.fromkeys(["attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "num_key_value_heads"]),
        **dict.fromkeys(["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"]),
        **dict.fromkeys(["summary_first_dropout", "inference_runner", "max_batch_size", "max_sequence_length"]),
        **dict.fromkeys(["pad_key_length", "pre_allocate_kv_cache", "validate_runner_input"]),
    },
    ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
    prefix="transformer.",
)


def _tensors_2(model: Transformer) -> list[Entry]:
    layer = "model.layers.{layer}"
    return [
        *llama_outside(),
        *llama_attention(layer),
        *norm("blocks.{layer}.attention_norm", f"{layer}.input_layernorm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.post_attention_layernorm"),
        *linear("blocks.{layer}.mlp.up", f"{layer}.mlp.c_fc"),
        *linear("blocks.{layer}.mlp.down", f"{layer}.mlp.c_proj"),
    ]


HUGGING_FACE_2 = HuggingFace(
    model_type="starcoder2",
    architectures={"Starcoder2ForCausalLM": {}},
    config=(
        *(rule for rule in llama_config(max_length=4096, tied=True) if rule.keys != ("rms_norm_eps",)),
        sliding(None),
        Field("norm_epsilon", "decoder.layer.norm.epsilon", default=1e-5),
        Field("use_bias", (f"{_ATTENTION}.bias", f"{_HALF}.bias"), default=True),
        Field("residual_dropout", "dropout", default=0.0),
    ),
    tensors=_tensors_2,
    neutral={"attention_dropout": 0.0, "embedding_dropout": 0.0, "mlp_type": None, "norm_type": None},
    prefix="model.",
)

_LAYER = {
    "attention": {"bias": True},
    "feed_forward": {"activation": "gelu", "bias": True},
    "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True},
}

VERSION_1 = Preset(
    Transformer,
    values={
        "vocab_size": 49152,
        "max_length": 8192,
        "decoder": {"positions": "learned", "layer": _LAYER},
        "head": "tied",
        "dropout": 0.1,
    },
    hugging_face=HUGGING_FACE_1,
    sizes={
        "1b": decoder(layers=24, embed=2048, heads=16, kv_heads=1, head_dim=128, hidden=8192),
        "3b": decoder(layers=36, embed=2816, heads=22, kv_heads=1, head_dim=128, hidden=11264),
        "7b": decoder(layers=42, embed=4096, heads=32, kv_heads=1, head_dim=128, hidden=16384),
        "15b": decoder(layers=40, embed=6144, heads=48, kv_heads=1, head_dim=128, hidden=24576),
    },
)


def _size(theta: float, layers: int, embed: int, heads: int, kv_heads: int) -> dict[str, object]:
    values = decoder(layers=layers, embed=embed, heads=heads, kv_heads=kv_heads, head_dim=128, hidden=4 * embed)
    values["decoder"]["positions"] = {"theta": theta}
    return values


VERSION_2 = Preset(
    Transformer,
    values={
        "vocab_size": 49152,
        "max_length": 16384,
        "decoder": {
            "positions": {"name": "rope", "theta": 1e6},
            "layer": {**_LAYER, "attention": {"bias": True, "window": 4095}},
        },
        "head": "tied",
    },
    hugging_face=HUGGING_FACE_2,
    sizes={
        "3b": _size(999999.4420358813, 30, 3072, 24, 2),
        "7b": _size(1e6, 32, 4608, 36, 4),
        "15b": {**_size(1e5, 40, 6144, 48, 4), "head": "untied"},
    },
)
