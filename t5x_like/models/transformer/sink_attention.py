"""Attention with sinks: a head may look at nothing (gpt-oss, 2025, section 2; Xiao et al. 2023, section 3.3).

The softmax is over the scores of the keys and one more, which is learned, and whose weight goes nowhere.
"""

from typing import Any

from flax import nnx

from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.attention import Attention
from t5x_like.models.transformer.attention_options import Sinks
from t5x_like.models.transformer.config import Transformer


class SinkAttention(Attention):
    """`Attention` with a score beside those of the keys, for each head."""

    def __init__(self, model: Transformer, options: Sinks, rngs: nnx.Rngs, **where: Any) -> None:
        """Builds the parts; see `Attention`."""
        super().__init__(model, options, rngs, **where)
        self.sinks = parameter(rngs, (options.heads,), ("heads",), "bias")
