"""GPT-1 (Radford et al. 2018, section 4.1): a norm after each part of a layer, learned positions, tied head."""

from t5x_like.models.families import decoder
from t5x_like.models.families.names import TIED
from t5x_like.models.hugging_face import Derived, Field, HuggingFace
from t5x_like.models.names import Entry, fused, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_ACTIVATIONS = {"gelu": "gelu", "silu": "silu", "relu": "relu", "swish": "silu"}  # its GELU is the tanh form


def _tensors(model: Transformer) -> list[Entry]:
    layer, attention = "transformer.h.{layer}", "blocks.{layer}.attention"
    projections = [f"{attention}.{name}" for name in ("query", "key", "value")]
    return [
        *same("tokens.table", "transformer.tokens_embed.weight", aliases=["lm_head.weight"]),
        *same("positions.table", "transformer.positions_embed.weight"),
        *fused(projections, f"{layer}.attn.c_attn", transposed=False),
        *fused([f"{attention}.output"], f"{layer}.attn.c_proj", transposed=False),
        *norm("blocks.{layer}.attention_norm", f"{layer}.ln_1"),
        *fused(["blocks.{layer}.mlp.up"], f"{layer}.mlp.c_fc", transposed=False),
        *fused(["blocks.{layer}.mlp.down"], f"{layer}.mlp.c_proj", transposed=False),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.ln_2"),
        *same("head.table", "lm_head.weight"),
    ]


HUGGING_FACE = HuggingFace(
    model_type="openai-gpt",
    architectures={"OpenAIGPTLMHeadModel": {}},
    config=(
        Field("vocab_size", "vocab_size", default=40478),
        Field("n_positions", "max_length", default=512),
        Field("n_embd", ("embed",), default=768),
        Derived("decoder.layer.feed_forward.hidden", lambda c: 4 * c.get("n_embd", 768)),
        Field("n_layer", "decoder.layers", default=12),
        Field("n_head", ("decoder.layer.attention.heads", "decoder.layer.attention.kv_heads"), default=12),
        Derived("decoder.layer.attention.head_dim", lambda c: c.get("n_embd", 768) // c.get("n_head", 12)),
        Field("afn", "decoder.layer.feed_forward.activation", default="gelu", values=_ACTIVATIONS),
        Field("layer_norm_epsilon", "decoder.layer.norm.epsilon", default=1e-5),
        Field("tie_word_embeddings", "head.name", default=True, values=TIED),
        Field("resid_pdrop", "dropout", default=0.1),
    ),
    tensors=_tensors,
    neutral={
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "n_ctx": None,
        "predict_special_tokens": None,
        **dict.fromkeys(["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"]),
        "summary_first_dropout": None,
    },
    ignored=("transformer.h.*.attn.bias", "transformer.position_ids"),
    prefix="transformer.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 40478,
        "max_length": 512,
        "decoder": {
            "positions": "learned",
            "layer": {
                "attention": {"head_dim": 64, "bias": True},
                "feed_forward": {"activation": "gelu", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True, "position": "post"},
            },
        },
        "head": "tied",
        "dropout": 0.1,
        "residual_init": False,
    },
    hugging_face=HUGGING_FACE,
    sizes={"117m": decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072)},
)
