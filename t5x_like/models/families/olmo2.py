"""OLMo 2 (2025, section 3.1): Llama with norms of what its parts give, and of all queries and all keys of a token."""

from t5x_like.models.families import decoder, llama, names
from t5x_like.models.hugging_face import Derived, Fixed, HuggingFace
from t5x_like.models.names import Entry, norm
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged


def _tensors(model: Transformer) -> list[Entry]:
    layer = "model.layers.{layer}"
    return [
        *names.llama_outside(),
        *names.llama_attention(layer),
        *names.llama_dense(layer),
        *norm("blocks.{layer}.attention.query_norm", f"{layer}.self_attn.q_norm"),
        *norm("blocks.{layer}.attention.key_norm", f"{layer}.self_attn.k_norm"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.post_attention_layernorm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.post_feedforward_layernorm"),
    ]


HUGGING_FACE = HuggingFace(
    model_type="olmo2",
    architectures={"Olmo2ForCausalLM": {}},
    config=(
        *names.llama_config(epsilon=1e-5),
        Fixed("attention_bias", False),
        Derived("decoder.layer.attention.epsilon", lambda c: c.get("rms_norm_eps", 1e-5)),
    ),
    tensors=_tensors,
    neutral={"attention_dropout": 0.0},
    prefix="model.",
)

FAMILY = Preset(
    Transformer,
    values=merged(
        Transformer,
        llama.FAMILY.values,
        {
            "vocab_size": 100352,
            "decoder": {
                "positions": {"theta": 500000.0},
                "layer": {
                    "attention": {"name": "normed", "over": "heads"},
                    "norm": {"epsilon": 1e-6, "position": "inside"},
                },
            },
        },
    ),
    hugging_face=HUGGING_FACE,
    sizes={
        "1b": decoder(layers=16, embed=2048, heads=16, head_dim=128, hidden=8192),
        "7b": decoder(layers=32, embed=4096, heads=32, head_dim=128, hidden=11008),
        "13b": decoder(layers=40, embed=5120, heads=40, head_dim=128, hidden=13824),
        "32b": decoder(layers=64, embed=5120, heads=40, kv_heads=8, head_dim=128, hidden=27648),
    },
)
