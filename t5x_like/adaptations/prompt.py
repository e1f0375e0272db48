"""Prompt tuning: trained rows in front of the embedded tokens of every text (Lester et al. 2021, section 2).

Shapes: p prompt, d width.
"""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from t5x_like.adaptations.base import Adaptation, modules_by_path
from t5x_like.checks import require_at_least, require_positive
from t5x_like.errors import ExperimentError
from t5x_like.models.adapters import Prompt
from t5x_like.models.parameters import parameter
from t5x_like.models.transformer.stack import TransformerStack
from t5x_like.objectives.roles import Roles, Trained


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Adaptation):
    """Options.

    Attributes:
      stack: the path of the stack that reads the prompt, such as `encoder`; by default the encoder where there is one
        before a decoder, else the only stack.
      length: rows in front of each text; they come on top of `data.sequence_length`.
      std: standard deviation of their first values.
    """

    name: str = "prompt"
    stack: str = ""
    length: int = 16
    std: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "length")
        require_at_least(self, 0, "std")

    def check(self, data: Any) -> None:
        """A row has one prompt, and so one text."""
        if data.documents_per_row != 1:
            raise ExperimentError(
                "name", "a prompt stands in front of a row, which then has one text; set data.documents_per_row to 1"
            )

    def transform(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Gives the stack its prompt."""
        stacks = {"/".join(path): node for path, node in modules_by_path(model) if isinstance(node, TransformerStack)}
        path = self.stack or ("encoder" if "encoder" in stacks else "")
        if path not in stacks:
            known = ", ".join(repr(each) for each in stacks) or "none"
            raise ExperimentError("stack", f"{path!r} is no stack of the model; there are {known}")
        stack = stacks[path]
        if stack.prompt is not None:
            raise ExperimentError("stack", "the stack has a prompt already; leave one out")
        width = stack.model.embed if stack.widen is None else stack.widen.kernel.shape[0]
        shape = (self.length, width)
        stack.prompt = nnx.data(Prompt(parameter(rngs, shape, (None, "embed"), "embedding", std=self.std)))

    @property
    def roles(self) -> Roles:
        """The rows are trained."""
        return (("**/prompt/rows", Trained()),)
