"""Rows, weights and projections of the comparison with `transformers`; both sides make them from the same numbers.

A case is a file `tests/golden/families/NAME.json` with the keys

    config       a tiny `config.json`
    length       tokens of the longest row
    variations   groups of entries, of which the live comparison takes one each at random
    more         shapes of tensors that files of the original have and those that the library writes have not
    names        the keys of the library's tensors; written by tools/golden_families.py, and so is what follows
    middle       the matrix whose gradient is compared
    expected     logits, loss and gradients, projected onto a few random directions

and files hold no weights: a tensor's values follow from its key and shape.
"""

import json
import zlib
from pathlib import Path

import numpy as np

DIRECTORY = Path(__file__).parents[2] / "golden" / "families"
DIRECTIONS = 4


def read(name):
    return json.loads((DIRECTORY / f"{name}.json").read_text())


def names():
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


def weights(key, shape):
    """A tensor's values, float32: norms near 1, biases that count, matrices that keep the size of what they read."""
    if key == "final_logits_bias":  # BART's, of which nothing makes another value than 0
        return np.zeros(shape, np.float32)
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return np.float32(0.1) * noise + np.float32(key.endswith("weight"))
    return noise * np.float32(shape[-1] ** -0.5)


def rows(case):
    """Three rows of `length`, ¾ and ¼ of it; int32 tokens and targets, 0 and −1 past their ends.

    With an encoder before a decoder `inputs` are the rows that it reads, in other lengths.
    """
    config, rng = case["config"], np.random.default_rng(17)
    lengths = [case["length"], case["length"] * 3 // 4, case["length"] // 4]
    made = {"tokens": _filled(rng, lengths, config["vocab_size"], 0)}
    targets = _filled(rng, lengths, config["vocab_size"], -1)
    if config["architectures"] == ["ElectraForPreTraining"]:
        targets = np.where(targets < 0, targets, targets % 2)  # replaced, or not
    made["targets"] = targets
    if config.get("is_encoder_decoder"):
        made["inputs"] = _filled(rng, [max(3, 2 * each // 3) for each in lengths], config["vocab_size"], 0)
    if config.get("type_vocab_size", 0) > 1:
        made["types"] = (np.arange(lengths[0]) >= 2) * np.ones((3, 1), np.int32)
    return lengths, made


def order(length):
    """A factorisation order: of each token its number in it, int64 [length]."""
    return np.random.default_rng(29).permutation(length)


def project(array, seed):
    """A matrix or a batch of them, float64, by a few random directions along its first and last axes."""
    rng = np.random.default_rng(seed)
    left, right = (rng.standard_normal((array.shape[axis], DIRECTIONS)) for axis in (0, -1))
    return np.einsum("ij,i...k,kl->j...l", left, np.asarray(array, np.float64), right)


def summary(logits, loss, embedding, middle, lengths):
    """What is compared of a forward and a backward pass, from whole arrays."""
    real = np.concatenate([each[:length] for each, length in zip(logits, lengths, strict=True)])
    return {
        "logits": [project(real, 1).tolist(), real[:: max(1, len(real) // 8), :5].astype(float).tolist()],
        "loss": float(loss),
        "embedding": project(embedding, 2).tolist(),
        "middle": project(middle, 3).tolist(),
    }


def error(ours, theirs):
    """The largest relative error of two summaries."""
    pairs = [(ours[key], theirs[key]) for key in ("loss", "embedding", "middle")]
    pairs += list(zip(ours["logits"], theirs["logits"], strict=True))
    errors = [np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b) for a, b in pairs]
    return max(errors)


def _filled(rng, lengths, vocabulary, padding):
    array = np.full((len(lengths), max(lengths)), padding, np.int32)
    for row, length in enumerate(lengths):
        array[row, :length] = rng.integers(3, vocabulary, length)
    return array
