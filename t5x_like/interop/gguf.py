"""GGUF models: metadata as a `config.json`, which the families here read, and the names of llama.cpp's tensors."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from t5x_like.errors import UserError
from t5x_like.interop import gguf_tokenizer
from t5x_like.interop.foreign import ForeignModel
from t5x_like.interop.gguf_file import read_header
from t5x_like.models import hugging_face
from t5x_like.models.names import Entry, NameMap, linear, norm, same
from t5x_like.models.tensor_steps import InterleavedPairs, Step, Transposed
from t5x_like.registry import suggest


@dataclasses.dataclass(frozen=True)
class _Kind:
    """One of llama.cpp's architectures.

    Attributes:
      config: of `config.json`, what is the same in all models of the kind.
      interleaved: whether rotary pairs are side by side in its files.
    """

    config: Mapping[str, Any]
    interleaved: bool = False


_KINDS = {
    "llama": _Kind({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, interleaved=True),
    "qwen2": _Kind({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}),
    "qwen3": _Kind({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}),
}
_MIXTRAL = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}

# Metadata of a kind, after its name, and the entries of `config.json` that say the same.
_ENTRIES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
}
_CHECKED = ("attention.value_length", "rope.dimension_count")  # which must be a head's width
_NEUTRAL = ("rope.scaling.finetuned", "rope.scaling.original_context_length")
_SCALING = ("rope.scaling.type", "rope.scaling.factor")


def open_file(path: epath.Path, accepted: Iterable[str] = ()) -> ForeignModel:
    """The model in a file; nothing but its header is read.

    Args:
      path: the file.
      accepted: metadata that may be passed over though nothing is known of it.

    Raises:
      UserError: where it is damaged, or of a kind that is not known here.
    """
    if not path.exists() or path.is_dir():
        raise UserError(f"--path: there is no file {path}; give one in GGUF")
    found = read_header(path)
    name = found.metadata.get("general.architecture")
    if name not in _KINDS:
        raise UserError(f"{path} has the architecture {name!r}; {suggest(str(name), _KINDS)}")
    config = _config(path, str(name), found.metadata, found.tensors, accepted)
    model = hugging_face.read_model(config)
    vocabulary = gguf_tokenizer.vocabulary(found.metadata, str(path))
    return ForeignModel(
        path=path,
        format="gguf",
        model=model,
        names=NameMap(tuple(_tensors(model, _KINDS[str(name)].interleaved)), model.locate_layer),
        tensors=found.tensors,
        vocabulary=vocabulary,
        generation=gguf_tokenizer.generation(found.metadata),
    )


def _config(
    path: epath.Path,
    name: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Any],
    accepted: Iterable[str],
) -> dict[str, Any]:
    """The metadata as a `config.json`.

    Raises:
      UserError: for metadata of the model that nothing is known of.
    """
    own = {
        key.removeprefix(f"{name}."): _shortest(value)
        for key, value in metadata.items()
        if key.startswith(f"{name}.") and key not in accepted
    }
    known = {*_ENTRIES, *_CHECKED, *_NEUTRAL, *_SCALING}
    for key, value in own.items():
        if key not in known:
            raise UserError(
                f"{path} has {name}.{key}={value!r}, which means nothing here; {suggest(key, known)}, or pass it over"
                f" with --accept={name}.{key}"
            )
    config = {**_KINDS[name].config, **(_MIXTRAL if own.get("expert_count") else {})}
    config |= {_ENTRIES[key]: value for key, value in own.items() if key in _ENTRIES}
    if not config.get("num_local_experts"):
        config = {
            key: value for key, value in config.items() if key not in ("num_local_experts", "num_experts_per_tok")
        }
    # A head of its own is a tensor of its own; a file may leave out the vocabulary's size.
    config["tie_word_embeddings"] = "output.weight" not in tensors
    table = tensors.get("token_embd.weight")
    config.setdefault("vocab_size", table.shape[0] if table is not None and table.shape else 0)
    if (kind := own.get("rope.scaling.type", "none")) != "none":
        config["rope_scaling"] = {"rope_type": kind, "factor": own.get("rope.scaling.factor", 1.0)}
    width = config.get("head_dim") or config.get("hidden_size", 0) // (config.get("num_attention_heads") or 1)
    for key in _CHECKED:
        if own.get(key, width) != width:
            raise UserError(f"{path} has {name}.{key}={own[key]!r} with heads of {width}; here both must be the same")
    return config


def _tensors(model: Any, interleaved: bool) -> list[Entry]:
    """Names of llama.cpp's tensors."""
    layer = "blk.{layer}"
    attention, half = "blocks.{layer}.attention", "blocks.{layer}.mlp"
    options = model.main.layer.attention

    def pairs(heads: int) -> tuple[Step, ...]:
        return (InterleavedPairs(heads),) if interleaved else ()

    return [
        *same("tokens.table", "token_embd.weight"),
        *norm("blocks.{layer}.attention_norm", f"{layer}.attn_norm"),
        *linear(f"{attention}.query", f"{layer}.attn_q", *pairs(options.heads)),
        *linear(f"{attention}.key", f"{layer}.attn_k", *pairs(options.kv_heads)),
        *linear(f"{attention}.value", f"{layer}.attn_v"),
        *linear(f"{attention}.output", f"{layer}.attn_output"),
        *norm(f"{attention}.query_norm", f"{layer}.attn_q_norm"),
        *norm(f"{attention}.key_norm", f"{layer}.attn_k_norm"),
        *norm("blocks.{layer}.mlp_norm", f"{layer}.ffn_norm"),
        *linear(f"{half}.gate", f"{layer}.ffn_gate"),
        *linear(f"{half}.up", f"{layer}.ffn_up"),
        *linear(f"{half}.down", f"{layer}.ffn_down"),
        *same(f"{half}.router.kernel", f"{layer}.ffn_gate_inp.weight", Transposed()),
        *same(f"{half}.gate", f"{layer}.ffn_gate_exps.weight", Transposed()),
        *same(f"{half}.up", f"{layer}.ffn_up_exps.weight", Transposed()),
        *same(f"{half}.down", f"{layer}.ffn_down_exps.weight", Transposed()),
        *norm("norm", "output_norm"),
        *same("head.table", "output.weight"),
    ]


def _shortest(value: Any) -> Any:
    """A float32, which metadata has, as the decimal number that it was written from."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
