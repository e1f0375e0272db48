"""GPT-3 (Brown et al. 2020, section 2.1 and table 2.1): GPT-2, larger, without dropout, on rows of 2,048 tokens.

The paper alternates dense and locally banded attention, of no stated width; `gpt3` has every layer dense, and
`gpt3_banded` a band of 256 tokens in every other layer, as GPT-Neo has it.
"""

from t5x_like.models.families import decoder, gpt2
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged

_SIZES = {
    "6.7b": decoder(layers=32, embed=4096, heads=32, head_dim=128, hidden=16384),
    "175b": decoder(layers=96, embed=12288, heads=96, head_dim=128, hidden=49152),
}
_VALUES = {**gpt2.FAMILY.values, "max_length": 2048, "dropout": 0.0}

FAMILY = Preset(Transformer, values=_VALUES, sizes=_SIZES)

_BANDED = {"decoder": {"pattern": [{}, {"attention": {"window": 255}}]}}
BANDED = Preset(Transformer, values=merged(Transformer, _VALUES, _BANDED), sizes=_SIZES)
