"""T5, mT5, umT5, byT5 and UL2 as Hugging Face has them: the names of its tensors, and its `config.json`."""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.hugging_face import Config, Field, HuggingFace, Translation
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.transformer.config import Transformer

_ACTIVATIONS = {"gated-gelu": ("gelu", True), "relu": ("relu", False), "gated-silu": ("silu", True)}
_TABLES = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]


def _tensors(model: Transformer) -> list[Entry]:
    """The tensors of both stacks; a feed-forward half that is not gated has `wi` alone."""
    gated = model.main.layer.feed_forward.gated
    return [
        *same("tokens.table", "shared.weight", aliases=_TABLES),
        *_stack_tensors("encoder.", "encoder", ["SelfAttention"], gated),
        *_stack_tensors("", "decoder", ["SelfAttention", "EncDecAttention"], gated),
        *same("head.table", "lm_head.weight"),
    ]


def _stack_tensors(ours: str, theirs: str, attentions: list[str], gated: bool) -> list[Entry]:
    entries, layer, half = [], f"{ours}blocks.{{layer}}", f"{theirs}.block.{{layer}}.layer"
    for number, (name, theirs_name) in enumerate(zip(["attention", "cross"], attentions, strict=False)):
        entries += norm(f"{layer}.{name}_norm", f"{half}.{number}.layer_norm")
        for part, letter in {"query": "q", "key": "k", "value": "v", "output": "o"}.items():
            entries += linear(f"{layer}.{name}.{part}", f"{half}.{number}.{theirs_name}.{letter}")
    dense = f"{half}.{len(attentions)}.DenseReluDense"
    return [
        *entries,
        *same(f"{ours}bias.table", f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        *same(f"{layer}.attention.bias.table", f"{half}.0.SelfAttention.relative_attention_bias.weight"),
        *norm(f"{layer}.mlp_norm", f"{half}.{len(attentions)}.layer_norm"),
        *linear(f"{layer}.mlp.gate", f"{dense}.wi_0"),
        *linear(f"{layer}.mlp.up", f"{dense}.wi_1" if gated else f"{dense}.wi"),
        *linear(f"{layer}.mlp.down", f"{dense}.wo"),
        *norm(f"{ours}norm", f"{theirs}.final_layer_norm"),
    ]


def _read_feed_forward(config: Config) -> Mapping[str, Any]:
    projection = config.get("feed_forward_proj", "relu" if config.get("model_type", "t5") == "t5" else "gated-gelu")
    if projection not in _ACTIVATIONS:
        known = " or ".join(map(repr, _ACTIVATIONS))
        raise UserError(f"config.json has feed_forward_proj={projection!r}; it must be {known}")
    activation, gated = _ACTIVATIONS[projection]
    halves = [f"{stack}.layer.feed_forward" for stack in ("encoder", "decoder")]
    return {
        f"{half}.{name}": value for half in halves for name, value in (("activation", activation), ("gated", gated))
    }


def _write_feed_forward(model: Transformer) -> Mapping[str, Any]:
    half = model.main.layer.feed_forward
    for theirs, ours in _ACTIVATIONS.items():
        if ours == (half.activation, half.gated):
            return {"feed_forward_proj": theirs, "is_gated_act": half.gated}
    raise UserError(f"model.decoder.layer.feed_forward.activation={half.activation!r} has no feed_forward_proj there")


def _read_head(config: Config) -> Mapping[str, Any]:
    tied = config.get("tie_word_embeddings", config.get("model_type", "t5") == "t5") is not False
    # Where the head is the table, logits are divided by √embed there.
    return {"head.name": "tied", "head.rescaled": True} if tied else {"head.name": "untied"}


def _both(path: str) -> tuple[str, str]:
    return f"encoder.{path}", f"decoder.{path}"


def form(
    model_type: str = "t5",
    architecture: str = "T5ForConditionalGeneration",
    *,
    when: Mapping[str, Any] | None = None,
) -> HuggingFace:
    """Hugging Face's form of a T5.

    Args:
      model_type: in `config.json`.
      architecture: likewise.
      when: entries and values that tell the family from others of this type.
    """
    part = "layer.attention" if model_type == "umt5" else "positions"  # of each layer, or of the stack
    return HuggingFace(
        model_type=model_type,
        architectures={architecture: {}},
        when=when or {},
        config=(
            Field("vocab_size", "vocab_size", default=32128),
            Field("d_model", "embed", default=512),
            Field("d_kv", _both("layer.attention.head_dim"), default=64),
            Field("d_ff", _both("layer.feed_forward.hidden"), default=2048),
            Field("num_layers", "encoder.layers", default=6),
            Field("num_decoder_layers", "decoder.layers", default=lambda c: c.get("num_layers", 6)),
            Field("num_heads", (*_both("layer.attention.heads"), *_both("layer.attention.kv_heads")), default=8),
            Field("relative_attention_num_buckets", _both(f"{part}.buckets"), default=32),
            Field("relative_attention_max_distance", _both(f"{part}.distance"), default=128),
            Field("layer_norm_epsilon", _both("layer.norm.epsilon"), default=1e-6),
            Field("dropout_rate", "dropout", default=0.1),
            Translation(("feed_forward_proj", "is_gated_act", "dense_act_fn"), _read_feed_forward, _write_feed_forward),
            Translation(
                ("tie_word_embeddings", "scale_decoder_outputs"),
                _read_head,
                lambda model: {"tie_word_embeddings": model.head.name == "tied"},
            ),
        ),
        tensors=_tensors,
        neutral={"n_positions": None, "decoder_start_token_id": 0, "is_encoder_decoder": True},
        ignored=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    )
