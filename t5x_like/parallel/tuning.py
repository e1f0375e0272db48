"""Choices of how a step is compiled that depend on the chip and the length of a row, by what was measured for each.

XLA for TPUs fuses what stands between two matrix products into the second and computes it again for every tile there. A
barrier that writes it to memory first is faster on some chips and slower on others, where it costs copies into another
arrangement. Attention's backward pass is one kernel of five products, which leaves a part of the queries' gradient for
every 2,048 keys to be summed, or two kernels of seven products. And the memory of a core that one fusion may take
decides on the size of its tiles.

docs/parallelism.md has the table of the figures behind `_MEASURED`. `parallelism.barriers`, `attention_backward` and
`compiler_options` override it, and `preflight --search` tries the first two.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from t5x_like.parallelism import Parallelism

_VMEM = "xla_tpu_scoped_vmem_limit_kib"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The choices for a step on one kind of chip.

    Attributes:
      barriers: whether arrays between matrix products are written to memory before they are used.
      fused_backward_tokens: the longest rows whose attention has one backward kernel; longer ones have two.
      compiler_options: XLA's, by name, for programs that train.
    """

    barriers: bool = True
    fused_backward_tokens: int = 1 << 31
    compiler_options: Mapping[str, str | int | bool] = dataclasses.field(default_factory=dict)

    def fuses_backward(self, tokens: int) -> bool:
        """Whether attention over rows of so many tokens has one backward kernel."""
        return tokens <= self.fused_backward_tokens


# By JAX's `device_kind`; any other chip has the defaults of `Tuning`.
_MEASURED: Mapping[str, Tuning] = MappingProxyType(
    {"TPU v6 lite": Tuning(barriers=False, fused_backward_tokens=2048, compiler_options={_VMEM: 98304})}
)


def choose(options: Parallelism, device_kind: str) -> Tuning:
    """The tuning of an experiment: what was measured for the chip, under what the experiment says itself."""
    measured = _MEASURED.get(device_kind, Tuning())
    barriers = {"on": True, "off": False}.get(options.barriers, measured.barriers)
    tokens = {"fused": 1 << 31, "split": 0}.get(options.attention_backward, measured.fused_backward_tokens)
    return Tuning(barriers, tokens, {**measured.compiler_options, **options.compiler_options})
