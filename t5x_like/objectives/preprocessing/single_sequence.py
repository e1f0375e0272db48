"""One sequence for a decoder alone, of what an encoder-decoder reads and writes."""

from collections.abc import Mapping

import numpy as np

from t5x_like.data.vocabulary import PAD_ID


def shift_right(tokens: np.ndarray, start_id: int = PAD_ID) -> np.ndarray:
    """int32 [n]: before each token, the one it follows; `start_id` before the first."""
    shifted = np.empty(len(tokens), np.int32)
    shifted[:1] = start_id
    shifted[1:] = tokens[:-1]
    return shifted


def join(features: Mapping[str, np.ndarray], start_id: int = PAD_ID) -> dict[str, np.ndarray]:
    """Inputs and targets one after the other, for a decoder that sees its inputs in both directions.

    This is the prefix language model of Raffel et al. 2020, section 3.2.1: the loss is over the targets alone.

    Args:
      features: `inputs` int32 [i] and `targets` int32 [t], or none.
      start_id: what stands before the first token.

    Returns:
      int32 [i + t] each: `targets`, both parts; `inputs`, the token before each; `weights`, 1 on the second part;
      `prefix`, 1 on the places that see each other: those where `inputs` holds `start_id` or the first part, so that
      the first target's place, which reads the last token of the first part, is one of them.
    """
    if not features:
        return {}
    tokens = np.concatenate([features["inputs"], features["targets"]]).astype(np.int32)
    weights, prefix = np.zeros((2, len(tokens)), np.int32)
    weights[len(features["inputs"]) :] = 1
    prefix[: len(features["inputs"]) + 1] = 1
    return {"inputs": shift_right(tokens, start_id), "targets": tokens, "weights": weights, "prefix": prefix}
