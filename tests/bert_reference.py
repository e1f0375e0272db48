"""BERT in float64 NumPy, a token at a time, from the paper and with the names that its released weights go by.

Weights are a flat dict, matrices [outputs, inputs] as released: `encoder.layer.0.attention.self.query.weight`.
"""

import math

import numpy as np

EPSILON = 1e-12
OURS_TO_RELEASED = {
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "output"): "attention.output.dense",
    ("attention_norm",): "attention.output.LayerNorm",
    ("mlp", "up"): "intermediate.dense",
    ("mlp", "down"): "output.dense",
    ("mlp_norm",): "output.LayerNorm",
}


def released(tree):
    """Our parameters under the names of the released ones."""
    out = {
        "embeddings.word_embeddings.weight": tree["tokens"]["table"],
        "embeddings.position_embeddings.weight": tree["positions"]["table"],
        "embeddings.token_type_embeddings.weight": tree["types"]["table"],
        **_named("embeddings.LayerNorm", tree["embedding_norm"]),
        **_named("cls.predictions.transform.dense", tree["transform"]["dense"]),
        **_named("cls.predictions.transform.LayerNorm", tree["transform"]["norm"]),
        "cls.predictions.bias": tree["transform"]["bias"],
    }
    stacked = tree["blocks"]["layer"]
    for path, name in OURS_TO_RELEASED.items():
        part = stacked
        for key in path:
            part = part[key]
        for layer in range(len(part["bias"])):
            out |= _named(f"encoder.layer.{layer}.{name}", {key: value[layer] for key, value in part.items()})
    return {name: np.asarray(value, np.float64) for name, value in out.items()}


def _named(name, part):
    if "kernel" in part:
        return {f"{name}.weight": np.asarray(part["kernel"]).T, f"{name}.bias": part["bias"]}
    return {f"{name}.weight": part["scale"], f"{name}.bias": part["bias"]}


def logits(weights, heads, tokens, types):
    """float64 [length, vocab] of one text alone in its row."""
    table = weights["embeddings.word_embeddings.weight"]
    states = [
        table[token]
        + weights["embeddings.position_embeddings.weight"][place]
        + weights["embeddings.token_type_embeddings.weight"][kind]
        for place, (token, kind) in enumerate(zip(tokens, types, strict=True))
    ]
    states = [_norm(weights, "embeddings.LayerNorm", state) for state in states]
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder."))
    for layer in range(layers):
        states = _layer(weights, f"encoder.layer.{layer}", heads, states)
    head = "cls.predictions"
    states = [_gelu(_dense(weights, f"{head}.transform.dense", state)) for state in states]
    states = [_norm(weights, f"{head}.transform.LayerNorm", state) for state in states]
    return np.array([table @ state + weights[f"{head}.bias"] for state in states])


def _layer(weights, name, heads, states):
    queries, keys, values = (
        [_dense(weights, f"{name}.attention.self.{part}", state) for state in states]
        for part in ("query", "key", "value")
    )
    width = len(states[0]) // heads
    out = []
    for state, query in zip(states, queries, strict=True):
        parts = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = np.exp([query[own] @ key[own] / math.sqrt(width) for key in keys])
            parts.append(sum(score * value[own] for score, value in zip(scores / scores.sum(), values, strict=True)))
        mixed = _dense(weights, f"{name}.attention.output.dense", np.concatenate(parts))
        middle = _norm(weights, f"{name}.attention.output.LayerNorm", state + mixed)
        hidden = _gelu(_dense(weights, f"{name}.intermediate.dense", middle))
        out.append(_norm(weights, f"{name}.output.LayerNorm", middle + _dense(weights, f"{name}.output.dense", hidden)))
    return out


def _dense(weights, name, x):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def _norm(weights, name, x):
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean() + EPSILON) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gelu(x):
    return np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x])
