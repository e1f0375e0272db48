"""DeBERTa (He et al. 2021) and its versions 2 and 3 (He et al. 2021b, and the released models): disentangled attention.

Places are told by distances in every layer, and not in the embeddings. In version 3 distances share buckets, and their
vectors, after a norm, pass the projections of tokens. The large models of version 2 add a convolution, which is left
out here, and so is the enhanced mask decoder, whose absolute positions the released encoders do not have.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.families import bert_names, encoder
from t5x_like.models.families.bert import BASE, LARGE, bert_like
from t5x_like.models.hugging_face import Config, Field, Fixed, HuggingFace, Translation
from t5x_like.models.names import Entry, fused, linear, norm, same
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _values(vocab_size: int, attention: Mapping[str, Any], positions: Mapping[str, Any]) -> dict[str, Any]:
    values = bert_like(vocab_size=vocab_size, types=0, epsilon=1e-7, positions={"name": "disentangled", **positions})
    layer = values["encoder"]["layer"]
    kind = {**layer["attention"], "name": "disentangled", **attention}
    return {**values, "encoder": {**values["encoder"], "layer": {**layer, "attention": kind}}}


def _tensors(model: Transformer) -> list[Entry]:
    head, layer, ours = "cls.predictions", "deberta.encoder.layer.{layer}", "blocks.{layer}.attention"
    first = not model.main.layer.attention.shared_projections
    layers = bert_names.layers(layer, projections="{}_proj")
    return [
        *bert_names.embeddings("deberta.embeddings", f"{head}.decoder.weight"),
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


def _form(model_type: str, name: str, *rules: Any) -> HuggingFace:
    return HuggingFace(
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


VERSION_1 = Preset(
    Transformer,
    values=_values(50265, {"shared_projections": False, "key_bias": False}, {"distance": 512}),
    hugging_face=_form("deberta", "Deberta"),
    sizes={
        "base": BASE,
        "large": LARGE,
        "xlarge": encoder(layers=48, embed=1024, heads=16, head_dim=64, hidden=4096),
    },
)

VERSION_3 = Preset(
    Transformer,
    values=_values(128100, {"shared_projections": True}, {"distance": 512, "buckets": 256, "norm": True}),
    hugging_face=_form(
        "deberta-v2",
        "DebertaV2",
        Field("position_buckets", "encoder.positions.buckets"),
        Field("norm_rel_ebd", "encoder.positions.norm", default="none", values={"none": False, "layer_norm": True}),
        Fixed("share_att_key", True, absent=False),
        Fixed("conv_kernel_size", 0),
    ),
    sizes={
        "xsmall": encoder(layers=12, embed=384, heads=6, head_dim=64, hidden=1536),
        "small": encoder(layers=6, embed=768, heads=12, head_dim=64, hidden=3072),
        "base": BASE,
        "large": LARGE,
    },
)
