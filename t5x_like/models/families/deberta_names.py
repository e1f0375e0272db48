"""DeBERTa as Hugging Face has it, versions 1 to 3: the names of its tensors, and its `config.json`."""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.families import bert_names
from t5x_like.models.hugging_face import Config, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, fused, linear, norm, same
from t5x_like.models.transformer.config import Transformer


def _tensors(model: Transformer) -> list[Entry]:
    head, layer, ours = "cls.predictions", "deberta.encoder.layer.{layer}", "blocks.{layer}.attention"
    first = not model.main.layer.attention.shared_projections
    layers = bert_names.layers(layer, projections="{}_proj")
    return [
        *bert_names.embeddings("deberta.embeddings", f"{head}.decoder.weight"),
        *same("leading.layers.0.convolution.kernel_oij", "deberta.encoder.conv.conv.weight"),
        *same("leading.layers.0.convolution.bias_o", "deberta.encoder.conv.conv.bias"),
        *norm("leading.layers.0.convolution_norm", "deberta.encoder.conv.LayerNorm"),
        *same("distances.table", "deberta.encoder.rel_embeddings.weight"),
        *norm("distances.norm", "deberta.encoder.LayerNorm"),
        *(_version_1(layers, layer, model.main.layer.attention.heads) if first else layers),
        *linear(f"{ours}.distance_key", f"{layer}.attention.self.pos_proj"),
        *linear(f"{ours}.distance_query", f"{layer}.attention.self.pos_q_proj"),
        *bert_names.masked_head(
            f"{head}.transform.dense", f"{head}.transform.LayerNorm", f"{head}.bias", alias=f"{head}.decoder.bias"
        ),
    ]


def _version_1(layers: list[Entry], layer: str, heads: int) -> list[Entry]:
    """The layers with the three projections in one: of each head its query, key and value."""
    ours, own = "blocks.{layer}.attention", f"{layer}.attention.self"
    parts = tuple(f"{ours}.{part}" for part in ("query", "key", "value"))
    others = [entry for entry in layers if not entry.paths[0].startswith(parts)]
    kernels, _ = fused(parts, f"{own}.in_proj", groups=heads)
    return [
        kernels,
        *same(f"{parts[0]}.bias", f"{own}.q_bias"),
        *same(f"{parts[2]}.bias", f"{own}.v_bias"),
        *others,
    ]


def _read_distance(config: Config) -> Mapping[str, Any]:
    given = config.get("max_relative_positions", -1)
    return {"encoder.positions.distance": given if given > 0 else config.get("max_position_embeddings", 512)}


def _read_terms(config: Config) -> Mapping[str, Any]:
    terms = config.get("pos_att_type") or []
    terms = terms.split("|") if isinstance(terms, str) else terms
    if sorted(terms) != ["c2p", "p2c"]:
        raise UserError(f"config.json has pos_att_type={terms!r}; it must be 'c2p' and 'p2c' together")
    return {}


def _read_convolution(config: Config) -> Mapping[str, Any]:
    tokens = config.get("conv_kernel_size", 0)
    if tokens and config.get("conv_act", "tanh") != config.get("hidden_act", "gelu"):
        raise UserError(f"config.json has conv_act={config.get('conv_act', 'tanh')!r}; it must be that of hidden_act")
    return {"encoder.leading": [{"convolution": tokens}] if tokens else []}


def _write_convolution(model: Transformer) -> Mapping[str, Any]:
    first, *others = model.main.every_layer
    if any(layer.convolution for layer in others):
        raise UserError(
            "model.encoder has a convolution beside another layer than the first, which no config.json says"
        )
    if not first.convolution:
        return {"conv_kernel_size": 0}
    return {"conv_kernel_size": first.convolution, "conv_act": _activation(model)}


def _activation(model: Transformer) -> str:
    return str(bert_names.activation_rule("hidden_act", "gelu").write(model)["hidden_act"])


_CONFIG = (
    *bert_names.config(types=0, epsilon=1e-7),
    Fixed("relative_attention", True, absent=False),
    Fixed("position_biased_input", False, absent=True),
    Fixed("legacy", True),
    Translation(
        ("max_relative_positions",),
        _read_distance,
        lambda model: {"max_relative_positions": model.encoder.positions.distance},
    ),
    Translation(("pos_att_type",), _read_terms, lambda model: {"pos_att_type": ["p2c", "c2p"]}),
)
# Of the classifiers of texts, which are not here.
_NEUTRAL = {"attention_probs_dropout_prob": 0.0} | dict.fromkeys(
    ["pooler_dropout", "pooler_hidden_act", "pooler_hidden_size"]
)


VERSION_2 = (
    Field("position_buckets", "encoder.positions.buckets"),
    Field("norm_rel_ebd", "encoder.positions.norm", default="none", values={"none": False, "layer_norm": True}),
    Fixed("share_att_key", True, absent=False),
    Fixed("conv_groups", 1),
    Translation(("conv_kernel_size", "conv_act"), _read_convolution, _write_convolution),
)


def form(model_type: str, name: str, *rules: Any, when: Mapping[str, Any] | None = None) -> HuggingFace:
    """Hugging Face's form of a version.

    Args:
      model_type: in `config.json`.
      name: what its class names begin with.
      *rules: for entries of this version alone.
      when: entries and values that tell it from others of the type.
    """
    return HuggingFace(
        when=when or {},
        model_type=model_type,
        architectures={
            f"{name}ForMaskedLM": {"head.name": "masked_lm"},
            f"{name}Model": {"head.name": "pooled", "head.pooler": False},
        },
        config=(*_CONFIG, *rules),
        tensors=_tensors,
        neutral=_NEUTRAL,
        ignored=("deberta.embeddings.position_ids", "deberta.embeddings.position_embeddings.weight"),
        prefix="deberta.",
    )
