"""Names that families share: tensors and `config.json` entries of Llama and of those that are laid out like it."""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.hugging_face import Config, ConfigRule, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, linear, norm, same
from t5x_like.models.tensor_steps import Transposed

# Names of activations there, and those here that compute the same.
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_exact", "relu": "relu", "silu": "silu"}
ACTIVATIONS |= {"gelu_fast": "gelu", "swish": "silu"}

TIED = {True: "tied", False: "untied"}


# --- Tensors ----------------------------------------------------------------------------------------------------------


def llama_tensors() -> list[Entry]:
    """Tensors of a decoder with Llama's names: attention and norms of every layer, tables, last norm, dense halves."""
    layer = "model.layers.{layer}"
    return [
        *llama_outside(),
        *llama_attention(layer),
        *norm("blocks.{layer}.attention_norm", f"{layer}.input_layernorm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.post_attention_layernorm"),
        *llama_dense(layer),
    ]


def llama_outside() -> list[Entry]:
    """What is outside of layers: tables and the last norm."""
    return [
        *same("tokens.table", "model.embed_tokens.weight", aliases=["lm_head.weight"]),
        *norm("norm", "model.norm"),
        *same("head.table", "lm_head.weight"),
    ]


def llama_dense(layer: str) -> list[Entry]:
    """The dense half of a layer; `layer` is the name of the layer."""
    return [
        *linear("blocks.{layer}.mlp.gate", f"{layer}.mlp.gate_proj"),
        *linear("blocks.{layer}.mlp.up", f"{layer}.mlp.up_proj"),
        *linear("blocks.{layer}.mlp.down", f"{layer}.mlp.down_proj"),
    ]


def llama_attention(layer: str) -> list[Entry]:
    """The four projections of a layer's attention; `layer` is the name of the layer."""
    return [
        *linear("blocks.{layer}.attention.query", f"{layer}.self_attn.q_proj"),
        *linear("blocks.{layer}.attention.key", f"{layer}.self_attn.k_proj"),
        *linear("blocks.{layer}.attention.value", f"{layer}.self_attn.v_proj"),
        *linear("blocks.{layer}.attention.output", f"{layer}.self_attn.o_proj"),
    ]


def experts(half: str, *, gate: str, up: str, down: str) -> list[Entry]:
    """A mixture of experts, each a file's tensors of its own; `half` is the name of the feed-forward half."""
    expert = f"{half}.experts.{{expert}}"
    return [
        *same("blocks.{layer}.mlp.router.kernel", f"{half}.gate.weight", Transposed()),
        *same("blocks.{layer}.mlp.gate", f"{expert}.{gate}.weight", Transposed()),
        *same("blocks.{layer}.mlp.up", f"{expert}.{up}.weight", Transposed()),
        *same("blocks.{layer}.mlp.down", f"{expert}.{down}.weight", Transposed()),
    ]


# --- Entries of config.json -------------------------------------------------------------------------------------------


def llama_config(
    *,
    theta: float = 10000.0,
    epsilon: float = 1e-6,
    max_length: int = 2048,
    tied: bool = False,
    head_dim: int = 0,
    activation: str = "hidden_act",
    local_theta: float = 0.0,
    scaled: bool = True,
) -> tuple[ConfigRule, ...]:
    """Rules for the sizes, the norm, rotary positions and the head of a decoder with Llama's entries.

    Args:
      theta: the base of the rotary positions in a file that gives none.
      epsilon: of the norms, likewise.
      max_length: likewise.
      tied: whether the head is the token table, likewise.
      head_dim: likewise; 0 is the width by the heads.
      activation: the entry that names it.
      local_theta: the base in layers with a window in a file that gives none; 0 where there is only one base.
      scaled: whether rotary positions are Llama's; else the family has a rule of its own.
    """
    attention, half = "decoder.layer.attention", "decoder.layer.feed_forward"
    return (
        Field("vocab_size", "vocab_size"),
        Field("hidden_size", "embed"),
        Field("num_hidden_layers", "decoder.layers"),
        Field("num_attention_heads", f"{attention}.heads"),
        Field("num_key_value_heads", f"{attention}.kv_heads", default=lambda c: c["num_attention_heads"]),
        Field(
            "head_dim",
            f"{attention}.head_dim",
            default=lambda c: head_dim or c["hidden_size"] // c["num_attention_heads"],
        ),
        Field("intermediate_size", f"{half}.hidden"),
        Field(activation, f"{half}.activation", default="silu", values=ACTIVATIONS),
        Field("max_position_embeddings", "max_length", default=max_length),
        Field("rms_norm_eps", "decoder.layer.norm.epsilon", default=epsilon),
        Field("tie_word_embeddings", "head.name", default=tied, values=TIED),
        *((rope(theta, local_theta),) if scaled else ()),
    )


def rope(theta: float, local_theta: float = 0.0) -> Translation:
    """The rotary base and its scaling, which a file has apart, in `rope_theta` and `rope_scaling`, or together.

    Where layers with a window have another base, `rope_local_base_freq` says which, or both are by the kind of layer.
    """

    def read(config: Config) -> Mapping[str, Any]:
        given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        local = given.pop("sliding_attention", None) or {"rope_theta": config.get("rope_local_base_freq", local_theta)}
        given |= given.pop("full_attention", None) or {}
        if local.get("rope_type", "default") != "default":
            raise UserError("config.json scales the rotary positions of layers with a window, which means nothing here")
        kind = given.pop("rope_type", given.pop("type", "default"))
        given.pop("type", None)
        options = {
            "decoder.positions.name": "rope",
            "decoder.positions.theta": given.pop("rope_theta", config.get("rope_theta", theta)),
            **({"decoder.positions.local_theta": local["rope_theta"]} if local_theta else {}),
        }
        if kind not in _SCALINGS:
            raise UserError(f"config.json has rope_type={kind!r}; it must be {' or '.join(map(repr, _SCALINGS))}")
        scaling = _SCALINGS[kind]
        options["decoder.positions.scaling.kind"] = scaling
        for theirs, ours in _SCALING_FIELDS[scaling].items():
            if theirs not in given:
                raise UserError(f"config.json has rope_type={kind!r} without {theirs}; it must give one")
            options[f"decoder.positions.scaling.{ours}"] = given.pop(theirs)
        if given:
            raise UserError(f"config.json has {next(iter(given))!r} in its rotary scaling, which means nothing here")
        return options

    def write(model: Any) -> Mapping[str, Any]:
        positions = model.decoder.positions
        scaling = {
            theirs: getattr(positions.scaling, ours) for theirs, ours in _SCALING_FIELDS[positions.scaling.kind].items()
        }
        kind = next(theirs for theirs, ours in _SCALINGS.items() if ours == positions.scaling.kind)
        local = {"rope_local_base_freq": positions.local_theta or positions.theta} if local_theta else {}
        scaled = {"rope_type": kind, **scaling} if scaling else None
        return {"rope_theta": positions.theta, "rope_scaling": scaled, **local}

    keys = ("rope_theta", "rope_scaling", "rope_parameters", *(("rope_local_base_freq",) if local_theta else ()))
    return Translation(keys, read, write)


_SCALINGS = {"default": "none", "linear": "linear", "llama3": "llama3"}
_SCALING_FIELDS = {
    "none": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low",
        "high_freq_factor": "high",
        "original_max_position_embeddings": "original_length",
    },
}

LLAMA = HuggingFace(
    model_type="llama",
    architectures={"LlamaForCausalLM": {}},
    config=(
        *llama_config(),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        Fixed("rope_interleaved", False),
    ),
    tensors=lambda model: llama_tensors(),
    neutral={"attention_dropout": 0.0},
    ignored=("model.layers.*.self_attn.rotary_emb.inv_freq",),
    prefix="model.",
)
