"""The protocol of an architecture: all that the rest of the program asks of `experiment.model`."""

from collections.abc import Mapping
from typing import Any, Protocol

from flax import nnx

from t5x_like.models.names import NameMap
from t5x_like.parallel.dimensions import Dimensions
from t5x_like.parallel.layout import Layout


class Architecture(Protocol):
    """A frozen dataclass of options that builds a model and knows its costs.

    Attributes:
      family: the name in the registry.
      size: which of the family's sizes; empty for none.
      vocab_size: ids that the model can read and score; 0 for a model without tokens.
      dtype: of the computation, `float32` or `bfloat16`.
      stacks: names of its parts that read, such as `decoder`; objectives look for the one that they need.
      couples_batch: whether its forward pass mixes the rows of a batch, as batch norm does: then a batch cannot be
        computed in microbatches.
    """

    family: str
    size: str
    vocab_size: int
    dtype: str
    couples_batch: bool
    stacks: tuple[str, ...]

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model with its first parameters, drawn from `rngs.params`."""

    def flops(self, shapes: Mapping[str, tuple[int, ...]], *, head: bool = True) -> float:
        """Floating-point operations of one step: forward and backward, nothing recomputed.

        Args:
          shapes: of what each of its parts reads, rows first, by the part's name, such as `decoder`.
          head: whether the output head is computed for every position.
        """

    def dimensions(self) -> Dimensions:
        """Sizes that a mesh cuts and memory is estimated from."""

    def check(self, layout: Layout | None, data: Any, rows: int) -> None:
        """Raises ExperimentError where rows are too long for the model, or the layout does not divide it.

        Args:
          layout: mesh and rules; None where they are not known yet.
          data: `experiment.data`.
          rows: that are computed at once, over all devices: of a microbatch.
        """

    def names(self) -> NameMap:
        """Its variables as Hugging Face names them.

        Raises:
          ExperimentError: where the family has no names there.
        """
