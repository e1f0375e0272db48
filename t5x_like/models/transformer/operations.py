"""Floating-point operations of a transformer's training step (Narayanan et al. 2021, appendix)."""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import ExperimentError


def flops(model: Any, shapes: Mapping[str, tuple[int, ...]], *, head: bool = True) -> float:
    """Operations of one step: forward, and twice that backward, nothing recomputed.

    Six for each matrix parameter and token, of experts those that a token is sent to, and attention's two products. The
    input embedding is a lookup and costs nothing. A causal mask halves attention's products, whatever is packed.

    Args:
      model: the options of a transformer.
      shapes: [rows, length] of what the decoder and the encoder read, by `decoder` and `encoder`.
      head: whether every token's logits over the vocabulary are computed.

    Raises:
      ExperimentError: for a stack that the model does not have.
    """
    for name in shapes:
        if getattr(model, name) is None:
            raise ExperimentError(f"model.{name}", "there is none, and the objective reads with it; give it layers")
    main = "decoder" if model.decoder is not None else "encoder"
    rows, length = shapes[main]
    inputs = shapes["encoder"][1] if main == "decoder" and model.encoder is not None else 0
    total = _stack(model, model.main, length, inputs, causal=model.causal)
    total += _stack(model, model.encoder, inputs, 0, causal=False) if inputs else 0
    if head:
        total += length * 6 * model.head.products(model)
    return float(rows * total)


def _stack(model: Any, stack: Any, length: int, inputs: int, *, causal: bool) -> float:
    """Of one row through a stack, which attends to `inputs` tokens of an encoder."""
    layers = sum(_layer(model, layer, length, inputs, causal=causal) for layer in stack.every_layer)
    return layers + length * 6 * stack.width * model.embed


def _layer(model: Any, layer: Any, length: int, inputs: int, *, causal: bool) -> float:
    attention, forward = layer.attention, layer.feed_forward
    queries, keys, pair = attention.operations(model.embed)
    mlp = (3 if forward.gated else 2) * model.embed * forward.hidden
    if getattr(forward, "experts", 0):
        shared = getattr(forward, "shared_hidden", 0) * mlp // forward.hidden
        mlp = forward.experts_per_token * mlp + model.embed * forward.experts + shared
    pair *= 6  # forward and backward
    mlp += layer.convolution * model.embed**2
    found = length * (6 * (queries + keys + mlp)) + pair * _pairs(length, attention.window, causal)
    return found + (length * (6 * queries + pair * inputs) + inputs * 6 * keys if inputs else 0)


def _pairs(length: int, window: int, causal: bool) -> float:
    """How many pairs of a query and a key a row has, whatever is packed into it: of a causal mask half."""
    window = min(window or length, length)
    earlier = window * length - window**2 / 2
    return earlier if causal else 2 * earlier
