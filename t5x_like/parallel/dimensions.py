"""Sizes of an architecture: those that a mesh cuts, that memory is estimated from, and that a compiled step is read by.

This is the only place outside `models` that reads an architecture's options. Everything in `parallel` and `preflight`
takes the `Dimensions` that `of` gives.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cut:
    """A size that devices share equally, or not at all.

    Attributes:
      field: the option of `model` that sets it, to name in an error.
      size: its value; 0, which everything divides, where the architecture has none.
      axis: the logical axis that carries it.
      option: the field of `parallelism` that usually cuts it.
    """

    field: str
    size: int
    axis: str
    option: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes of a transformer; 0 for what an architecture does not have.

    Attributes:
      vocab: rows of the token table.
      embed: width of the residual stream.
      heads: query heads.
      kv_heads: key and value heads.
      head_dim: width of a head.
      mlp: width of the feed-forward layer, or of one expert's.
      gated: whether the feed-forward layer has a gate, a third matrix.
      experts: of a layer.
      experts_per_token: experts that a token is sent to.
      layers: of the decoder, or of the only stack.
      encoder_layers: of the encoder.
      causal: whether a token attends to earlier ones alone.
      window: how far self-attention reaches; 0 for the whole row.
      attention_bias: whether a bias is added to the scores, so that they are kept as an array.
      itemsize: bytes of a number in the computation.
      cuts: every size that a mesh has to divide.
      stacks: layers of each stack that pipeline stages divide, by the option that sets them.
    """

    vocab: int = 0
    embed: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    mlp: int = 0
    gated: bool = False
    experts: int = 0
    experts_per_token: int = 0
    layers: int = 0
    encoder_layers: int = 0
    causal: bool = True
    window: int = 0
    attention_bias: bool = False
    itemsize: int = 4
    cuts: tuple[Cut, ...] = ()
    stacks: tuple[tuple[str, int], ...] = ()

    def divided_by(self, option: str, parts: int) -> bool:
        """Whether so many devices along an axis of `parallelism` divide every size that it usually cuts."""
        return not any(cut.size % parts for cut in self.cuts if cut.option == option)


def of(architecture: Any) -> Dimensions:
    """The sizes of `experiment.model`."""
    model = architecture
    return Dimensions(
        vocab=model.vocab_size,
        embed=model.embed,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        mlp=model.mlp,
        gated=model.gated,
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        layers=model.layers,
        encoder_layers=model.encoder_layers,
        causal=model.causal,
        window=model.window,
        attention_bias=model.positions == "relative",
        itemsize=2 if str(model.dtype) in ("bfloat16", "float16") else 4,
        cuts=(
            Cut("heads", model.heads, "heads", "tensor"),
            Cut("kv_heads", model.kv_heads, "kv", "tensor"),
            Cut("mlp", model.mlp, "mlp", "tensor"),
            Cut("vocab_size", model.vocab_size, "vocab", "tensor"),
            Cut("experts", model.experts, "expert", "expert"),
            Cut("heads", model.heads, "attention_heads", "sequence"),
            Cut("embed", model.embed, "embed", "fsdp"),
        ),
        stacks=(("layers", model.layers), ("encoder_layers", model.encoder_layers)),
    )
