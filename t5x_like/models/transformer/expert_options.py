"""Options of further kinds of experts: gpt-oss's, and DeepSeek's."""

from dataclasses import dataclass
from typing import ClassVar

from t5x_like.checks import require_above, require_at_least, require_positive, require_size
from t5x_like.errors import ExperimentError
from t5x_like.models.transformer.layer_options import Experts


@dataclass(frozen=True, kw_only=True)
class ClampedExperts(Experts):
    """Experts with biases and a clamped SwiGLU, (up + 1) · gate · σ(slope · gate) (gpt-oss, 2025, section 2).

    Attributes:
      limit: what the gate is cut off at from above, and up on both sides.
      slope: of the sigmoid; 1.702 makes it nearly a GELU.
    """

    module: ClassVar[str] = "t5x_like.models.transformer.expert_kinds:ClampedMixture"

    name: str = "clamped_experts"
    limit: float = 7.0
    slope: float = 1.702

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "limit", "slope")
        if self.activation != "silu" or not self.gated:
            field = "gated" if self.activation == "silu" else "activation"
            raise ExperimentError(field, "these experts have a clamped SwiGLU; leave it out, or use 'experts'")


@dataclass(frozen=True, kw_only=True)
class SharedExperts(Experts):
    """Experts beside a dense half that answers every token, balanced by a bias (DeepSeek-V3, 2024, section 2.1.2).

    The score of an expert is a sigmoid, to which a bias is added for the choice alone. After a step the bias of experts
    that got more than their share falls, and that of the others rises.

    Attributes:
      shared_hidden: width of the shared half's hidden layer.
      groups: of equally many experts each; a token goes to experts of a few of them, so that it goes to few devices.
      groups_per_token: how many; those with the highest sums of their two best experts' scores.
      scale: what the weights of a token's experts sum to.
      bias_rate: by which a bias changes after a step; 0 leaves it.
    """

    module: ClassVar[str] = "t5x_like.models.transformer.expert_kinds:SharedMixture"

    name: str = "shared_experts"
    shared_hidden: int
    groups: int = 1
    groups_per_token: int = 1
    scale: float = 1.0
    bias_rate: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        require_size(self, "shared_hidden", "groups", "groups_per_token")
        require_positive(self, "scale")
        require_at_least(self, 0, "bias_rate")
        each, rest = divmod(self.experts, self.groups)
        if rest or self.groups > 1 and each < 2:
            raise ExperimentError("groups", f"{self.experts} experts make no {self.groups} groups of two or more each")
        if not self.experts_per_token <= self.groups_per_token * each <= self.experts:
            raise ExperimentError(
                "groups_per_token",
                f"{self.groups_per_token} of {self.groups} groups with {each} experts each have no"
                f" {self.experts_per_token} experts; choose more",
            )
