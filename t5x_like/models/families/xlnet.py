"""XLNet (Yang et al. 2019, section 2): an encoder with Transformer-XL's attention, which also serves queries apart.

Objective `permutation_lm` puts the queries of the second stream behind the tokens of a row; `segment_recurrence` has
the memory of earlier rows.
"""

from t5x_like.models.families import encoder
from t5x_like.models.families.names import ACTIVATIONS
from t5x_like.models.hugging_face import Derived, Field, Fixed, HuggingFace
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.tensor_steps import Reshaped, Transposed
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_ATTENTION, _HALF = "encoder.layer.attention", "encoder.layer.feed_forward"


def _tensors(model: Transformer) -> list[Entry]:
    layer, ours, attention = "transformer.layer.{layer}", "blocks.{layer}", model.main.layer.attention
    heads = Reshaped((model.embed, attention.heads, attention.head_dim))
    projections = {"query": "q", "key": "k", "value": "v", "distance": "r"}
    return [
        *same("tokens.table", "transformer.word_embedding.weight", aliases=["lm_loss.weight"]),
        *same("asked", "transformer.mask_emb", Reshaped((1, 1, model.embed))),
        *(
            entry
            for part, letter in projections.items()
            for entry in same(f"{ours}.attention.{part}.kernel", f"{layer}.rel_attn.{letter}", heads)
        ),
        *same(f"{ours}.attention.output.kernel", f"{layer}.rel_attn.o", Transposed(), heads),
        *same(f"{ours}.attention.content_offset", f"{layer}.rel_attn.r_w_bias"),
        *same(f"{ours}.attention.distance_offset", f"{layer}.rel_attn.r_r_bias"),
        *same(f"{ours}.attention.type_offset", f"{layer}.rel_attn.r_s_bias"),
        *same(f"{ours}.attention.types", f"{layer}.rel_attn.seg_embed"),
        *norm(f"{ours}.attention_norm", f"{layer}.rel_attn.layer_norm"),
        *linear(f"{ours}.mlp.up", f"{layer}.ff.layer_1"),
        *linear(f"{ours}.mlp.down", f"{layer}.ff.layer_2"),
        *norm(f"{ours}.mlp_norm", f"{layer}.ff.layer_norm"),
        *same("transform.bias", "lm_loss.bias"),
    ]


# Of the memory and of classifiers, which are no part of the model's options.
_NEUTRAL = ("mem_len", "reuse_len", "use_mems_eval", "use_mems_train", "summary_type", "summary_use_proj")
_NEUTRAL_TOO = ("summary_activation", "summary_last_dropout", "start_n_top", "end_n_top", "type_vocab_size")

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 32000,
        "max_length": 512,
        "encoder": {
            "positions": "none",
            "embeddings": {"name": "tokens", "asked": True},
            "layer": {
                "attention": {"name": "two_stream", "head_dim": 64},
                "feed_forward": {"activation": "gelu_exact", "bias": True},
                "norm": {"kind": "layernorm", "epsilon": 1e-12, "bias": True, "position": "post"},
            },
        },
        "head": {"name": "tied", "bias": True},
        "dropout": 0.1,
        "residual_init": False,
    },
    hugging_face=HuggingFace(
        model_type="xlnet",
        architectures={
            "XLNetLMHeadModel": {"head.name": "tied"},
            "XLNetModel": {"head.name": "pooled", "head.pooler": False},
        },
        config=(
            Field("vocab_size", "vocab_size", default=32000),
            Field("d_model", "embed", default=1024),
            Field("n_layer", "encoder.layers", default=24),
            Field("n_head", (f"{_ATTENTION}.heads", f"{_ATTENTION}.kv_heads"), default=16),
            Derived(f"{_ATTENTION}.head_dim", lambda c: c.get("d_model", 1024) // c.get("n_head", 16)),
            Field("d_inner", f"{_HALF}.hidden", default=4096),
            Field("ff_activation", f"{_HALF}.activation", default="gelu", values=ACTIVATIONS),
            Field("layer_norm_eps", "encoder.layer.norm.epsilon", default=1e-12),
            Field("dropout", "dropout", default=0.1),
            Fixed("attn_type", "bi"),
            Fixed("bi_data", False),
            Fixed("clamp_len", -1),
            Fixed("same_length", False),
            Fixed("untie_r", True),
            Fixed("tie_word_embeddings", True),
        ),
        tensors=_tensors,
        neutral={**dict.fromkeys((*_NEUTRAL, *_NEUTRAL_TOO)), "d_head": None},
        prefix="transformer.",
    ),
    sizes={
        "base": encoder(layers=12, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder(layers=24, embed=1024, heads=16, head_dim=64, hidden=4096),
    },
)
