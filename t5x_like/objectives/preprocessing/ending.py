"""The end token of a document: it is no text, so it is set aside while the text is cut up."""

import numpy as np


def without_end(tokens: np.ndarray, eos_id: int | None) -> np.ndarray:
    """The tokens as int32 [n], less a last one that is the end."""
    tokens = np.asarray(tokens, np.int32)
    return tokens[:-1] if eos_id is not None and tokens.size and tokens[-1] == eos_id else tokens


def tail(eos_id: int | None) -> np.ndarray:
    """What ends a sequence: int32 [1], or [0] where there is no end token."""
    return np.array([] if eos_id is None else [eos_id], np.int32)
