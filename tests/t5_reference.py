"""T5 in float64 NumPy, one row, one head and one query at a time: slow, plain, and written apart."""

import math

import numpy as np
import tiny


def forward(tree, options, encoder, decoder):
    """float64 [batch, length, vocab] logits; encoder and decoder are pairs of tokens and segment ids."""
    tree = _float64(tree)
    return np.stack([_row(tree, tiny.flat(options), *row) for row in zip(*encoder, *decoder, strict=True)])


def bucket(distance, buckets, furthest, both_ways):
    """The bucket of a key `distance` places after its query, by the logarithm that the paper's code takes."""
    base = 0
    if both_ways:
        buckets //= 2
        base = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(0, -distance)
    single = buckets // 2
    if distance < single:
        return base + distance
    share = math.log(distance / single) / math.log(furthest / single)
    return base + min(single + int(share * (buckets - single) + 1e-9), buckets - 1)


def _row(tree, o, inputs, input_segments, targets, target_segments):
    side = tree["encoder"]
    x = tree["tokens"]["table"][inputs]
    every = [(i, j) for i in range(len(inputs)) for j in range(len(inputs)) if input_segments[i] == input_segments[j]]
    for index in range(o.encoder_layers):
        layer = _layer(side["blocks"]["layer"], index)
        normed = _norm(layer["attention_norm"], o, x)
        x = x + _attention(layer["attention"], o, normed, normed, every, side["bias"]["table"], True)
        x = x + _mlp(layer["mlp"], o, _norm(layer["mlp_norm"], o, x))
    memory = _norm(side["norm"], o, x)

    x = tree["tokens"]["table"][targets]
    past = [(i, j) for i in range(len(targets)) for j in range(i + 1) if target_segments[i] == target_segments[j]]
    across = [
        (i, j) for i in range(len(targets)) for j in range(len(inputs)) if target_segments[i] == input_segments[j]
    ]
    for index in range(o.layers):
        layer = _layer(tree["blocks"]["layer"], index)
        normed = _norm(layer["attention_norm"], o, x)
        x = x + _attention(layer["attention"], o, normed, normed, past, tree["bias"]["table"], False)
        normed = _norm(layer["cross_norm"], o, x)
        x = x + _attention(layer["cross"], o, normed, memory, across, None, False)
        x = x + _mlp(layer["mlp"], o, _norm(layer["mlp_norm"], o, x))
    x = _norm(tree["norm"], o, x)
    if o.tied_head:
        return x @ tree["tokens"]["table"].T / math.sqrt(o.embed)
    return x @ tree["head"]["table"].T


def _attention(p, o, x, memory, pairs, table, both_ways):
    q, k, v = x @ p["query"]["kernel"], memory @ p["key"]["kernel"], memory @ p["value"]["kernel"]
    out = np.zeros((len(x), o.heads * o.head_dim))
    for head in range(o.heads):
        own = slice(head * o.head_dim, (head + 1) * o.head_dim)
        for i in range(len(x)):
            seen = [j for query, j in pairs if query == i]
            if not seen:
                continue
            scores = np.array([q[i, own] @ k[j, own] for j in seen])
            if table is not None:
                found = [bucket(j - i, o.relative_buckets, o.relative_distance, both_ways) for j in seen]
                scores = scores + table[found, head]
            weights = np.exp(scores - scores.max())
            out[i, own] = weights / weights.sum() @ v[seen][:, own]
    return out @ p["output"]["kernel"]


def _mlp(p, o, x):
    up = x @ p["up"]["kernel"]
    if not o.gated:
        return np.maximum(up, 0) @ p["down"]["kernel"]
    gate = x @ p["gate"]["kernel"]
    gelu = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (gelu * up) @ p["down"]["kernel"]


def _norm(p, o, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + o.norm_epsilon) * p["scale"]


def _layer(tree, index):
    return {k: _layer(v, index) if isinstance(v, dict) else v[index] for k, v in tree.items()}


def _float64(tree):
    return {k: _float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}
