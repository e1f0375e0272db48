"""BERT and those laid out like it, as Hugging Face has them: names of tensors, and entries of `config.json`."""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families.names import ACTIVATIONS
from t5x_like.models.hugging_face import Config, ConfigRule, Derived, Field, Fixed, Translation
from t5x_like.models.names import Entry, linear, norm, same

_ATTENTION, _HALF = "encoder.layer.attention", "encoder.layer.feed_forward"

# --- Tensors ----------------------------------------------------------------------------------------------------------


def embeddings(table: str, head: str) -> list[Entry]:
    """Tables and their norm; `head` is the key under which a file may have the tokens' table again."""
    return [
        *same("tokens.table", f"{table}.word_embeddings.weight", aliases=[head]),
        *same("positions.table", f"{table}.position_embeddings.weight"),
        *same("types.table", f"{table}.token_type_embeddings.weight"),
        *norm("embedding_norm", f"{table}.LayerNorm"),
    ]


def layers(theirs: str, *, projections: str = "{}") -> list[Entry]:
    """The layers.

    Args:
      theirs: what a layer's tensors begin with, with `{layer}`.
      projections: the name of a projection there, of `query`, `key` or `value`.
    """
    parts = [
        linear(f"blocks.{{layer}}.attention.{part}", f"{theirs}.attention.self.{projections.format(part)}")
        for part in ("query", "key", "value")
    ]
    return [
        *(entry for part in parts for entry in part),
        *linear("blocks.{layer}.attention.output", f"{theirs}.attention.output.dense"),
        *norm("blocks.{layer}.attention_norm", f"{theirs}.attention.output.LayerNorm"),
        *linear("blocks.{layer}.mlp.up", f"{theirs}.intermediate.dense"),
        *linear("blocks.{layer}.mlp.down", f"{theirs}.output.dense"),
        *norm("blocks.{layer}.mlp_norm", f"{theirs}.output.LayerNorm"),
    ]


def masked_head(dense: str, norm_key: str, bias: str, *, alias: str) -> list[Entry]:
    """The head of masked tokens; `alias` is where a file may have its bias again."""
    return [
        *linear("transform.dense", dense),
        *norm("transform.norm", norm_key),
        *same("transform.bias", bias, aliases=[alias]),
    ]


def pooler(dense: str, classifier: str) -> list[Entry]:
    """What reads the first token."""
    return [
        *linear("pooler.dense", dense),
        *same("pooler.classes.table", f"{classifier}.weight"),
        *same("pooler.bias", f"{classifier}.bias"),
    ]


# --- Entries of config.json -------------------------------------------------------------------------------------------


def config(
    *, types: int = 2, epsilon: float = 1e-12, offset: int = 0, activation: str = "gelu", own: tuple[str, ...] = ()
) -> tuple[ConfigRule, ...]:
    """Rules for sizes, positions, norm and activations.

    Args:
      types: of token, in a file that says nothing of them.
      epsilon: of the norms, likewise.
      offset: rows of the table of positions before the first one's, which `max_position_embeddings` counts.
      activation: in a file that says nothing of it.
      own: architectures whose head has a GELU whatever the layers have.
    """
    return (
        Field("vocab_size", "vocab_size"),
        Field("hidden_size", "embed", default=768),
        Field("num_hidden_layers", "encoder.layers", default=12),
        Field("num_attention_heads", (f"{_ATTENTION}.heads", f"{_ATTENTION}.kv_heads"), default=12),
        Derived(f"{_ATTENTION}.head_dim", lambda c: c.get("hidden_size", 768) // c.get("num_attention_heads", 12)),
        Field("intermediate_size", f"{_HALF}.hidden", default=3072),
        activation_rule("hidden_act", activation, own),
        max_length("max_position_embeddings", offset),
        Field("type_vocab_size", "encoder.embeddings.types", default=types),
        Field("layer_norm_eps", "encoder.layer.norm.epsilon", default=epsilon),
        Field("hidden_dropout_prob", "dropout", default=0.1),
        Fixed("position_embedding_type", "absolute"),
        Fixed("tie_word_embeddings", True),
    )


def activation_rule(key: str, default: str, own: tuple[str, ...] = ()) -> Translation:
    """The activation of the layers, which is that of the head too where it has one, but for architectures in `own`."""
    field = Field(key, f"{_HALF}.activation", default=default, values=ACTIVATIONS)

    def read(config: Config) -> Mapping[str, Any]:
        options = field.read(config)
        kind = (config.get("architectures") or ["ForMaskedLM"])[0]
        # A model without a head of tokens is a bare `...Model`.
        return (
            options
            if kind.endswith("Model") or kind in own
            else {**options, "head.activation": options[f"{_HALF}.activation"]}
        )

    return Translation((key,), read, field.write)


def max_length(key: str, offset: int) -> Translation:
    """The rows of a table of positions, of which the first `offset` are nobody's."""
    return Translation(
        (key,),
        lambda config: {"max_length": config.get(key, 512 + offset) - offset},
        lambda model: {key: model.max_length + offset},
    )


def table_width(key: str, *, always: bool, default: int = 128) -> Translation:
    """The width of the tables.

    Args:
      key: of the entry.
      always: whether a linear layer follows where it is that of the layers, too.
      default: of a file without the entry.
    """
    option = "encoder.embeddings.width"

    def read(config: Config) -> Mapping[str, Any]:
        width = config.get(key, default)
        return {option: width if always or width != config.get("hidden_size", 768) else 0}

    return Translation((key,), read, lambda model: {key: model.table_width})
