"""The choice of an attention backend: splash (Pallas) on TPU, cuDNN on NVIDIA GPUs from Hopper on, XLA elsewhere.

A ring of devices comes before them where devices share the tokens of a row and not its heads.

The choice depends on what is static, the specification and the devices. One backend computes a call; no second one is
compiled beside it in case. What a kernel needs of the data, such as a bound on the documents of a row, the data
pipeline guarantees.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax

from t5x_like.kernels import cudnn, ring, splash, xla
from t5x_like.kernels.specification import RESIDUAL, AttentionSpec, Backend
from t5x_like.parallel import layout

__all__ = [
    "BACKENDS",
    "RESIDUAL",
    "AttentionSpec",
    "Backend",
    "PreparedAttention",
    "calls",
    "choose",
    "explain",
    "masked",
    "packed",
]

# In the order in which they are asked; the last one computes everything.
BACKENDS: tuple[Backend, ...] = (ring.Ring(), splash.Splash(), cudnn.CuDNN(), xla.XLA())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PreparedAttention:
    """An attention call without its queries, keys and values: who computes it, and who may look at whom.

    Attributes:
      spec: what is static.
      backend: the chosen one.
      arrays: what it made of the segments, or the mask.
    """

    spec: AttentionSpec = dataclasses.field(metadata={"static": True})
    backend: Backend = dataclasses.field(metadata={"static": True})
    arrays: Any

    def attend(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        bias: jax.Array | None = None,
        sinks_h: jax.Array | None = None,
    ) -> jax.Array:
        """Attention of the queries to the keys; see `Backend.attend`."""
        return self.backend.attend(self.spec, q, k, v, self.arrays, bias, sinks_h)

    def by_row(self) -> "PreparedAttention":
        """The same with arrays of which each row's part can be taken, for a pipeline of microbatches."""
        return dataclasses.replace(self, arrays=self.backend.by_row(self.arrays))

    def again(self) -> "PreparedAttention":
        """Of some rows of `by_row`, what `attend` needs."""
        return dataclasses.replace(self, arrays=self.backend.again(self.spec, self.arrays))


def explain(spec: AttentionSpec) -> list[tuple[str, str]]:
    """Each backend's name, in the order in which they are asked, and why it cannot compute the call; "" if it can."""
    return [(backend.name, backend.supports(spec)) for backend in BACKENDS]


def choose(spec: AttentionSpec) -> Backend:
    """The first backend that computes the call on the devices of the current layout.

    Raises:
      ValueError: when none does.
    """
    reasons: list[str] = []
    for backend in BACKENDS:
        reason = backend.supports(spec)
        if not reason:
            _log(backend.name, spec, layout.current().platform, "; ".join(reasons))
            return backend
        reasons.append(f"not {backend.name}: {reason}")
    raise ValueError(f"no attention backend computes {spec}: {'; '.join(reasons)}")


def packed(spec: AttentionSpec, segment_ids_bt: jax.Array, positions_bt: jax.Array) -> PreparedAttention:
    """Self-attention within the segments of packed rows, by the backend that is chosen for it.

    Args:
      spec: of the call.
      segment_ids_bt: int32 [batch, length]; 0 is padding.
      positions_bt: int32 [batch, length], each token's place in its segment.
    """
    backend = choose(spec)
    return PreparedAttention(spec, backend, backend.prepare(spec, segment_ids_bt, positions_bt))


def masked(spec: AttentionSpec, mask_bts: jax.Array) -> PreparedAttention:
    """Attention with an explicit mask.

    Args:
      spec: of the call.
      mask_bts: bool [batch, queries, keys], true where a query may look.
    """
    return PreparedAttention(spec, choose(spec), mask_bts)


def calls(function: Callable[[], Any]) -> list[AttentionSpec]:
    """The attention calls that are made while a function is traced, each kind once, in their order."""
    found: dict[AttentionSpec, None] = {}
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: found.setdefault(record.args[2])  # type: ignore[method-assign, index, arg-type]
    logger, level = logging.getLogger(__name__), logging.getLogger(__name__).level
    _log.cache_clear()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        function()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return [*found]


@functools.cache
def _log(name: str, spec: AttentionSpec, platform: str, passed_over: str) -> None:
    """One line for each distinct call, whatever the number of layers and of traces."""
    logging.getLogger(__name__).info(
        "attention by %s on %s: %s%s", name, platform, spec, f" ({passed_over})" if passed_over else ""
    )
