"""BART (Lewis et al. 2020, section 2.1): an encoder and a decoder of BERT's layers, with one table of tokens.

As released, the tables of positions have two rows in front that no token has.
"""

from t5x_like.models.families import encoder_decoder
from t5x_like.models.families.names import ACTIVATIONS
from t5x_like.models.hugging_face import Derived, Field, Fixed, HuggingFace
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_STACK = {
    "positions": {"name": "learned", "offset": 2},
    "embeddings": {"name": "tokens", "norm": True},
    "layer": {
        "attention": {"bias": True},
        "feed_forward": {"activation": "gelu_exact", "bias": True},
        "norm": {"kind": "layernorm", "epsilon": 1e-5, "bias": True, "position": "post"},
    },
}


def _tensors(model: Transformer) -> list[Entry]:
    tables = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
    return [
        *same("tokens.table", "model.shared.weight", aliases=tables),
        *_stack_tensors("encoder.", "model.encoder"),
        *_stack_tensors("", "model.decoder"),
    ]


def _stack_tensors(ours: str, theirs: str) -> list[Entry]:
    layer, theirs_layer = f"{ours}blocks.{{layer}}", f"{theirs}.layers.{{layer}}"
    entries = [
        *same(f"{ours}positions.table", f"{theirs}.embed_positions.weight"),
        *norm(f"{ours}embedding_norm", f"{theirs}.layernorm_embedding"),
    ]
    for name, attention in (("attention", "self_attn"), ("cross", "encoder_attn")):
        for part, letters in {"query": "q", "key": "k", "value": "v", "output": "out"}.items():
            entries += linear(f"{layer}.{name}.{part}", f"{theirs_layer}.{attention}.{letters}_proj")
        entries += norm(f"{layer}.{name}_norm", f"{theirs_layer}.{attention}_layer_norm")
    return [
        *entries,
        *linear(f"{layer}.mlp.up", f"{theirs_layer}.fc1"),
        *linear(f"{layer}.mlp.down", f"{theirs_layer}.fc2"),
        *norm(f"{layer}.mlp_norm", f"{theirs_layer}.final_layer_norm"),
    ]


def _heads(stack: str) -> tuple[str, str]:
    return f"{stack}.layer.attention.heads", f"{stack}.layer.attention.kv_heads"


def _head_dim(stack: str) -> Derived:
    key = f"{stack}_attention_heads"
    return Derived(f"{stack}.layer.attention.head_dim", lambda c: c.get("d_model", 1024) // c.get(key, 16))


_HALVES = ("encoder.layer.feed_forward", "decoder.layer.feed_forward")

HUGGING_FACE = HuggingFace(
    model_type="bart",
    architectures={"BartForConditionalGeneration": {}},
    config=(
        Field("vocab_size", "vocab_size", default=50265),
        Field("d_model", "embed", default=1024),
        Field("encoder_layers", "encoder.layers", default=12),
        Field("decoder_layers", "decoder.layers", default=12),
        Field("encoder_attention_heads", _heads("encoder"), default=16),
        Field("decoder_attention_heads", _heads("decoder"), default=16),
        _head_dim("encoder"),
        _head_dim("decoder"),
        Field("encoder_ffn_dim", f"{_HALVES[0]}.hidden", default=4096),
        Field("decoder_ffn_dim", f"{_HALVES[1]}.hidden", default=4096),
        Field("activation_function", tuple(f"{half}.activation" for half in _HALVES), "gelu", ACTIVATIONS),
        Field("max_position_embeddings", "max_length", default=1024),
        Field("dropout", "dropout", default=0.1),
        Fixed("scale_embedding", False),
        Fixed("normalize_before", False),
        Fixed("normalize_embedding", True),
        Fixed("add_final_layer_norm", False),
        Fixed("add_bias_logits", False),
        Fixed("tie_word_embeddings", True),
    ),
    tensors=_tensors,
    neutral={
        "is_encoder_decoder": True,
        "decoder_start_token_id": 2,
        **dict.fromkeys(["attention_dropout", "activation_dropout", "num_hidden_layers", "classif_dropout"]),
        **dict.fromkeys(
            ["encoder_layerdrop", "decoder_layerdrop", "forced_bos_token_id", "static_position_embeddings"]
        ),
        **dict.fromkeys(["extra_pos_embeddings", "force_bos_token_to_be_generated"]),
    },
    # A buffer of zeros, to which nothing is ever added.
    ignored=("final_logits_bias",),
    prefix="model.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 50265,
        "max_length": 1024,
        "encoder": _STACK,
        "decoder": _STACK,
        "head": "tied",
        "dropout": 0.1,
        "residual_init": False,
    },
    hugging_face=HUGGING_FACE,
    sizes={
        "base": encoder_decoder(layers=6, embed=768, heads=12, head_dim=64, hidden=3072),
        "large": encoder_decoder(layers=12, embed=1024, heads=16, head_dim=64, hidden=4096),
    },
)
