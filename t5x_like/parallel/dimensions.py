"""Sizes of an architecture, by which a mesh is checked, memory is estimated and a compiled step is read.

Everything in `parallel` and `preflight` takes the `Dimensions` that `Architecture.dimensions` gives, and reads none
of an architecture's own options.
"""

import dataclasses


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
