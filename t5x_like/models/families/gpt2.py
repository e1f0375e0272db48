"""GPT-2 (Radford et al. 2019): LayerNorm before each half, learned positions, GELU, biases, tied head."""

from t5x_like.models.families import decoder
from t5x_like.models.families.names import ACTIVATIONS, TIED
from t5x_like.models.hugging_face import Derived, Field, Fixed, HuggingFace
from t5x_like.models.names import Entry, fused, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _tensors(model: Transformer) -> list[Entry]:
    layer, attention = "transformer.h.{layer}", "blocks.{layer}.attention"
    projections = [f"{attention}.{name}" for name in ("query", "key", "value")]
    return [
        *same("tokens.table", "transformer.wte.weight", aliases=["lm_head.weight"]),
        *same("positions.table", "transformer.wpe.weight"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.ln_1"),
        # Its layers are [inputs, outputs], as here.
        *fused(projections, f"{layer}.attn.c_attn", transposed=False),
        *fused([f"{attention}.output"], f"{layer}.attn.c_proj", transposed=False),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.ln_2"),
        *fused(["blocks.{layer}.mlp.up"], f"{layer}.mlp.c_fc", transposed=False),
        *fused(["blocks.{layer}.mlp.down"], f"{layer}.mlp.c_proj", transposed=False),
        *norm("norm", "transformer.ln_f"),
        *same("head.table", "lm_head.weight"),
    ]


# Entries of GPT-2 and of StarCoder, but for the number of heads.
CONFIG = (
    Field("vocab_size", "vocab_size", default=50257),
    Field("n_positions", "max_length", default=1024),
    Field("n_embd", "embed", default=768),
    Field("n_layer", "decoder.layers", default=12),
    Derived("decoder.layer.attention.head_dim", lambda c: c.get("n_embd", 768) // c.get("n_head", 12)),
    Field("n_inner", "decoder.layer.feed_forward.hidden", default=lambda c: 4 * c.get("n_embd", 768)),
    Field("activation_function", "decoder.layer.feed_forward.activation", default="gelu_new", values=ACTIVATIONS),
    Field("layer_norm_epsilon", "decoder.layer.norm.epsilon", default=1e-5),
    Field("tie_word_embeddings", "head.name", default=True, values=TIED),
    Field("resid_pdrop", "dropout", default=0.1),
    Fixed("scale_attn_weights", True),
)

HUGGING_FACE = HuggingFace(
    model_type="gpt2",
    architectures={"GPT2LMHeadModel": {}},
    config=(
        *CONFIG,
        Field("n_head", ("decoder.layer.attention.heads", "decoder.layer.attention.kv_heads"), default=12),
        Fixed("scale_attn_by_inverse_layer_idx", False),
    ),
    tensors=_tensors,
    neutral={
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.0,
        "reorder_and_upcast_attn": None,
        "n_ctx": None,
        **dict.fromkeys(["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"]),
        "summary_first_dropout": None,
    },
    ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
    prefix="transformer.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50257,
        "max_length": 1024,
        "decoder": {
            "positions": "learned",
            "layer": {
                "attention": {"head_dim": 64, "bias": True},
                "feed_forward": {"activation": "gelu", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True},
            },
        },
        "head": "tied",
        "dropout": 0.1,
    },
    hugging_face=HUGGING_FACE,
    sizes={
        "124m": decoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "350m": decoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
        "774m": decoder(layers=36, embed=1280, heads=20, head_dim=64, hidden=5120),
        "1.5b": decoder(layers=48, embed=1600, heads=25, head_dim=64, hidden=6400),
    },
)
