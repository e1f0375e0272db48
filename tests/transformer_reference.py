"""The transformer in float64 NumPy, one row, one head and one query at a time: slow, plain, and written apart."""

import math

import numpy as np
import tiny


def forward(tree, options, tokens_bt, positions_bt, segment_ids_bt):
    """float64 [batch, length, vocab] logits."""
    tree = _float64(tree)
    return np.stack(
        [
            _row(tree, tiny.flat(options), t, p, s)
            for t, p, s in zip(tokens_bt, positions_bt, segment_ids_bt, strict=True)
        ]
    )


def _row(tree, o, tokens, positions, segments):
    x = tree["tokens"]["table"][tokens]
    if o.positions == "learned":
        x = x + tree["positions"]["table"][positions]
    if o.embedding_norm:
        x = _norm(tree["embedding_norm"], o, x)
    for layer in range(o.layers):
        block = _layer(tree["blocks"]["layer"], layer)
        half = _experts if o.experts else _mlp
        if o.norm_position == "post":
            x = _norm(block["attention_norm"], o, x + _attention(block["attention"], o, x, positions, segments))
            x = _norm(block["mlp_norm"], o, x + half(block["mlp"], o, x))
            continue
        x = x + _attention(block["attention"], o, _norm(block["attention_norm"], o, x), positions, segments)
        x = x + half(block["mlp"], o, _norm(block["mlp_norm"], o, x))
    head = tree["tokens"] if o.tied_head else tree["head"]
    logits = (x if o.norm_position == "post" else _norm(tree["norm"], o, x)) @ head["table"].T
    return o.head_soft_cap * np.tanh(logits / o.head_soft_cap) if o.head_soft_cap else logits


def _attention(p, o, x, positions, segments):
    q, k, v = (_linear(p[name], x) for name in ("query", "key", "value"))
    out = np.zeros((len(x), o.heads * o.head_dim))
    for head in range(o.heads):
        own = slice(head * o.head_dim, (head + 1) * o.head_dim)
        shared_head = head * o.kv_heads // o.heads
        shared = slice(shared_head * o.head_dim, (shared_head + 1) * o.head_dim)
        for i in range(len(x)):
            farthest = o.window or len(x)
            seen = [j for j in range(i + 1) if segments[j] == segments[i] and i - j <= farthest]
            scores = [
                _turn(o, q[i, own], positions[i]) @ _turn(o, k[j, shared], positions[j]) / math.sqrt(o.head_dim)
                for j in seen
            ]
            if o.soft_cap:
                scores = [o.soft_cap * math.tanh(score / o.soft_cap) for score in scores]
            weights = np.exp(np.array(scores) - max(scores))
            out[i, own] = weights / weights.sum() @ v[seen][:, shared]
    return _linear(p["output"], out)


def _turn(o, x, position):
    """Each pair (i, i + half) as a complex number, multiplied by e^(i·angle)."""
    if o.positions != "rope":
        return x
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * o.rope_theta ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def _mlp(p, o, x):
    function = {"gelu": _gelu, "gelu_exact": _gelu_exact, "relu": lambda x: np.maximum(x, 0), "silu": _silu}[
        o.activation
    ]
    hidden = function(_linear(p["gate"], x)) * _linear(p["up"], x) if o.gated else function(_linear(p["up"], x))
    return _linear(p["down"], hidden)


def _experts(p, o, x):
    """One token and one expert at a time."""
    out = np.zeros_like(x)
    for i, token in enumerate(x):
        scores = token @ p["router"]["kernel"]
        best = np.argsort(-scores, kind="stable")[: o.experts_per_token]
        weights = np.exp(scores[best] - scores[best].max())
        for expert, weight in zip(best, weights / weights.sum(), strict=True):
            own = {name: {"kernel": p[name][expert]} for name in ("up", "gate", "down") if name in p}
            out[i] += weight * _mlp(own, o, token)
    return out


def _norm(p, o, x):
    if o.norm == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + o.norm_epsilon) * p["scale"] + p.get("bias", 0)


def _linear(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_exact(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _silu(x):
    return x / (1 + np.exp(-x))


def _layer(tree, index):
    return {k: _layer(v, index) if isinstance(v, dict) else v[index] for k, v in tree.items()}


def _float64(tree):
    return {k: _float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}
