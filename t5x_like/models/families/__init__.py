"""Model families: tables of values for an architecture, with every published size by name.

Shared here are the values that sizes differ in.
"""

from typing import Any


def stack(layers: int, heads: int, kv_heads: int, head_dim: int, hidden: int) -> dict[str, Any]:
    """The size of a stack: layers, heads, and the width of the feed-forward hidden layer."""
    return {
        "layers": layers,
        "layer": {
            "attention": {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim},
            "feed_forward": {"hidden": hidden},
        },
    }


def decoder(
    *, layers: int, embed: int, heads: int, head_dim: int, hidden: int, kv_heads: int = 0, **others: Any
) -> dict[str, Any]:
    """The size of a decoder alone; `others` are further values of the model."""
    return {"embed": embed, "decoder": stack(layers, heads, kv_heads or heads, head_dim, hidden), **others}


def encoder(*, layers: int, embed: int, heads: int, head_dim: int, hidden: int, width: int = 0) -> dict[str, Any]:
    """The size of an encoder alone; `width` is that of its tables, where it is another than `embed`."""
    size = stack(layers, heads, heads, head_dim, hidden)
    return {"embed": embed, "encoder": {**size, **({"embeddings": {"width": width}} if width else {})}}


def encoder_decoder(
    *, layers: int, embed: int, heads: int, head_dim: int, hidden: int, decoder_layers: int = 0
) -> dict[str, Any]:
    """The size of an encoder and a decoder that are alike, but perhaps for the number of layers."""
    size = stack(layers, heads, heads, head_dim, hidden)
    return {"embed": embed, "encoder": size, "decoder": {**size, "layers": decoder_layers or layers}}
