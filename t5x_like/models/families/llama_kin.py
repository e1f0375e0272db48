"""Kin of Llama that differ from it in sizes, vocabulary and the wavelengths of their positions.

Llama 1 (Touvron et al. 2023, section 2.2, table 2), Llama 3, 3.1 and 3.2 (Grattafiori et al. 2024, table 3, and the
released files), Code Llama (Rozière et al. 2023, section 2), SmolLM and SmolLM2 (Allal et al. 2025, section 4).
"""

from collections.abc import Mapping
from typing import Any

from t5x_like.models.families import decoder, llama, names
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged

_7B, _13B, _70B = (llama.FAMILY.sizes[size] for size in ("7b", "13b", "70b"))
_405B = decoder(layers=126, embed=16384, heads=128, kv_heads=8, head_dim=128, hidden=53248)
_8B = decoder(layers=32, embed=4096, heads=32, kv_heads=8, head_dim=128, hidden=14336)


def _kin(sizes: Mapping[str, Mapping[str, Any]], theta: float = 10000.0, **values: Any) -> Preset:
    """Llama with another base of its positions and other values."""
    over = {"decoder": {"positions": {"theta": theta}}}
    own = merged(Transformer, merged(Transformer, llama.FAMILY.values, over), values)
    return Preset(Transformer, values=own, sizes=sizes, hugging_face=names.LLAMA)


def _scaled(factor: float) -> dict[str, Any]:
    """Llama 3.1's wavelengths, for rows of 131,072 tokens after 8,192."""
    scaling = {"kind": "llama3", "factor": factor, "low": 1.0, "high": 4.0, "original_length": 8192}
    return {"positions": {"scaling": scaling}}


VERSION_1 = _kin(
    {
        "7b": _7B,
        "13b": _13B,
        "33b": decoder(layers=60, embed=6656, heads=52, head_dim=128, hidden=17920),
        "65b": decoder(layers=80, embed=8192, heads=64, head_dim=128, hidden=22016),
    },
    max_length=2048,
    decoder={"layer": {"norm": {"epsilon": 1e-6}}},
)

VERSION_3 = _kin({"8b": _8B, "70b": _70B}, 500000.0, vocab_size=128256, max_length=8192)

VERSION_3_1 = _kin(
    {"8b": _8B, "70b": _70B, "405b": _405B}, 500000.0, vocab_size=128256, max_length=131072, decoder=_scaled(8.0)
)

VERSION_3_2 = _kin(
    {
        "1b": decoder(layers=16, embed=2048, heads=32, kv_heads=8, head_dim=64, hidden=8192),
        "3b": decoder(layers=28, embed=3072, heads=24, kv_heads=8, head_dim=128, hidden=8192),
    },
    500000.0,
    vocab_size=128256,
    max_length=131072,
    decoder=_scaled(32.0),
    head="tied",
)

CODE = _kin(
    {
        "7b": _7B,
        "13b": _13B,
        "34b": decoder(layers=48, embed=8192, heads=64, kv_heads=8, head_dim=128, hidden=22016, vocab_size=32000),
        "70b": _70B,
    },
    1e6,
    vocab_size=32016,
    max_length=16384,
)

_SMOL = {
    "135m": decoder(layers=30, embed=576, heads=9, kv_heads=3, head_dim=64, hidden=1536),
    "360m": decoder(layers=32, embed=960, heads=15, kv_heads=5, head_dim=64, hidden=2560),
    "1.7b": decoder(layers=24, embed=2048, heads=32, head_dim=64, hidden=8192),
}
SMOL = _kin(_SMOL, vocab_size=49152, max_length=2048, head="tied")
SMOL_2 = _kin(
    _SMOL | {"1.7b": merged(Transformer, _SMOL["1.7b"], {"decoder": {"positions": {"theta": 130000.0}}})},
    100000.0,
    vocab_size=49152,
    max_length=8192,
    head="tied",
)
