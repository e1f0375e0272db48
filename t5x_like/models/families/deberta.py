"""DeBERTa (He et al. 2021) and its versions 2 and 3 (He et al. 2021b, and the released models): disentangled attention.

Places are told by distances in every layer, and not in the embeddings. In version 3 distances share buckets, and their
vectors, after a norm, pass the projections of tokens; so it is in version 2, which has a convolution beside the first
layer. The enhanced mask decoder is left out, whose absolute positions the released encoders do not have.
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import deberta_names, encoder
from t5x_like.models.families.bert import BASE, LARGE, bert_like
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset


def _values(vocab_size: int, attention: Mapping[str, Any], positions: Mapping[str, Any]) -> dict[str, Any]:
    values = bert_like(vocab_size=vocab_size, types=0, epsilon=1e-7, positions={"name": "disentangled", **positions})
    layer = values["encoder"]["layer"]
    kind = {**layer["attention"], "name": "disentangled", **attention}
    return {**values, "encoder": {**values["encoder"], "layer": {**layer, "attention": kind}}}


VERSION_1 = Preset(
    Transformer,
    values=_values(50265, {"shared_projections": False, "key_bias": False}, {"distance": 512}),
    hugging_face=deberta_names.form("deberta", "Deberta"),
    sizes={
        "base": BASE,
        "large": LARGE,
        "xlarge": encoder(layers=48, embed=1024, heads=16, head_dim=64, hidden=4096),
    },
)

_VERSION_2 = _values(128100, {"shared_projections": True}, {"distance": 512, "buckets": 256, "norm": True})

VERSION_2 = Preset(
    Transformer,
    values={**_VERSION_2, "encoder": {**_VERSION_2["encoder"], "leading": [{"convolution": 3}]}},
    hugging_face=deberta_names.form("deberta-v2", "DebertaV2", *deberta_names.VERSION_2, when={"conv_kernel_size": 3}),
    sizes={
        "xlarge": encoder(layers=24, embed=1536, heads=24, head_dim=64, hidden=6144),
        "xxlarge": encoder(layers=48, embed=1536, heads=24, head_dim=64, hidden=6144),
    },
)

VERSION_3 = Preset(
    Transformer,
    values=_VERSION_2,
    hugging_face=deberta_names.form("deberta-v2", "DebertaV2", *deberta_names.VERSION_2),
    sizes={
        "xsmall": encoder(layers=12, embed=384, heads=6, head_dim=64, hidden=1536),
        "small": encoder(layers=6, embed=768, heads=12, head_dim=64, hidden=3072),
        "base": BASE,
        "large": LARGE,
    },
)
