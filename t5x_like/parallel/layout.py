"""How a computation is laid out: the mesh, the rules from logical names to mesh axes, and rematerialisation.

Parameters and activations carry different logical names. One name for both would ask fully sharded data parallelism
for the same mesh axis twice in one array.

A layout is entered with `use()` while a function is traced; the model's parts ask `current()` for it. Without one (a
laptop, a unit test) every constraint is the identity.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_like.errors import ExperimentError
from t5x_like.experiment import Parallelism
from t5x_like.parallel import strategies

MESH_AXES = ("data", "fsdp", "sequence", "tensor", "expert")

# Logical axis → mesh axes. Parameters first, then activations.
RULES: Mapping[str, tuple[str, ...]] = {
    # Devices that hold other tokens share the parameters, whichever axis made the tokens others. Of an expert's
    # parameters those along `expert` hold other experts already.
    "embed": ("fsdp", "sequence", "expert"),
    "expert": ("expert",),
    "expert_embed": ("fsdp", "sequence"),
    "router": (),
    "heads": ("tensor",),
    "kv": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "position": (),
    "norm": (),
    "layers": (),
    "batch": ("data", "fsdp", "expert"),
    "length": ("sequence",),
    "stream_length": ("sequence",),  # between a block's parts: see models/stream.py
    "act_embed": (),
    "act_heads": ("tensor",),
    "act_kv": ("tensor",),
    "act_mlp": ("tensor",),
    "act_vocab": ("tensor",),
    # Heads inside attention, where every row is whole: see models/context.py.
    "attention_heads": ("tensor", "sequence"),
    "attention_kv": ("tensor", "sequence"),
}

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh, its rules, and what the layer stack does on it.

    Attributes:
      mesh: devices by `MESH_AXES`; None for a single device without constraints.
      rules: logical axis name → mesh axes.
      state_rules: likewise for the optimizer's state, where it is cut further than the parameters; else None.
      remat: the named policy of what the backward pass recomputes.
      scan_layers: whether the layer stack is a loop over one compiled layer.
    """

    mesh: Mesh | None = None
    rules: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: RULES)
    state_rules: Mapping[str, tuple[str, ...]] | None = None
    remat: str = "none"
    scan_layers: bool = True

    def spec(self, axes: Axes) -> PartitionSpec:
        """The mesh axes of an array whose dimensions carry these logical names.

        Raises:
          ValueError: for a name without a rule.
          ExperimentError: when two dimensions ask for the same mesh axis.
        """
        parts: list[tuple[str, ...] | str | None] = []
        taken: dict[str, str] = {}
        for name in axes:
            if name is not None and name not in self.rules:
                raise ValueError(f"no rule for the logical axis {name!r} in {axes}")
            mesh_axes = self.rules[name] if name is not None else ()
            if twice := [axis for axis in mesh_axes if axis in taken]:
                raise ExperimentError(
                    "parallelism.rules",
                    f"{taken[twice[0]]!r} and {name!r}, two dimensions of one array, both ask for the mesh axis"
                    f" {twice[0]!r}; take it from one of them",
                )
            taken |= dict.fromkeys(mesh_axes, str(name))
            parts.append(mesh_axes if len(mesh_axes) > 1 else (mesh_axes[0] if mesh_axes else None))
        return PartitionSpec(*parts)

    def sharding(self, axes: Axes) -> NamedSharding:
        """Where an array with these logical axes lives."""
        if self.mesh is None:
            raise ValueError("a layout without a mesh places nothing")
        return NamedSharding(self.mesh, self.spec(axes))

    def constrain(self, x: jax.Array, axes: Axes) -> jax.Array:
        """`x` with its sharding fixed by its logical axes; the identity without a mesh or on one device."""
        if self.mesh is None or self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(axes))

    @property
    def of_state(self) -> "Layout":
        """Where the optimizer's state lives, and the gradients that go into it."""
        return self if self.state_rules is None else dataclasses.replace(self, rules=self.state_rules, state_rules=None)

    def divisor(self, name: str) -> int:
        """Into how many parts a dimension with this logical name is cut."""
        if self.mesh is None:
            return 1
        return int(np.prod([self.mesh.shape[axis] for axis in self.rules[name]], dtype=int))

    @property
    def platform(self) -> str:
        """Of the devices that a program is made for, which need not be here."""
        return jax.default_backend() if self.mesh is None else str(np.ravel(self.mesh.devices)[0].platform)

    def flatten(self, x_bt: jax.Array) -> jax.Array:
        """[batch, length, ...] → [tokens, ...], in an order in which every device keeps the tokens that it has."""
        rows, parts = self.divisor("batch"), self.divisor("length")
        b, t, *rest = x_bt.shape
        if parts == 1 or b % rows or t % parts:
            return x_bt.reshape(-1, *rest)
        cut = x_bt.reshape(rows, b // rows, parts, t // parts, *rest)
        return jnp.swapaxes(cut, 1, 2).reshape(-1, *rest)

    def cut(self, name: str) -> tuple[str, ...]:
        """The mesh axes, of more than one device, that a dimension with this logical name is cut along."""
        return tuple(axis for axis in self.rules[name] if self.mesh is not None and self.mesh.shape[axis] > 1)

    @contextlib.contextmanager
    def use(self) -> Iterator["Layout"]:
        """Makes this the layout of everything traced inside."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)


_CURRENT: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


def current() -> Layout:
    """The layout in use while tracing, or one without a mesh."""
    return _CURRENT.get() or Layout()


def make(options: Parallelism, devices: list[jax.Device] | None = None) -> Layout:
    """The layout an experiment asks for, over all devices.

    Raises:
      ExperimentError: when the axes do not multiply to the number of devices, or a rule cannot be.
    """
    rules = strategies.table(options, RULES, MESH_AXES)
    devices = list(devices if devices is not None else jax.devices())
    slices = len({getattr(device, "slice_index", None) for device in devices})
    sizes = strategies.resolve(options, MESH_AXES, len(devices), slices)
    mesh = _mesh(tuple(sizes.values()), devices, slices)
    state_rules = strategies.state_table(options, rules)
    return Layout(
        mesh=mesh,
        rules=rules,
        state_rules=None if state_rules == rules else state_rules,
        remat=options.remat,
        scan_layers=options.scan_layers,
    )


def _mesh(shape: tuple[int, ...], devices: list[jax.Device], slices: int) -> Mesh:
    """The devices as a mesh; those of several slices with whole slices along `data`, which the slow network joins."""
    axis_types = (AxisType.Auto,) * len(MESH_AXES)  # Explicit axes fail at the embedding gather
    if slices == 1:
        return jax.make_mesh(shape, MESH_AXES, devices=devices, axis_types=axis_types)
    if shape[0] % slices:
        raise ExperimentError(
            "parallelism.data",
            f"{shape[0]} copies of the parameters cannot be spread over {slices} slices; make it a multiple of"
            f" {slices}, so that only gradients cross between slices",
        )
    inside = (shape[0] // slices, *shape[1:])
    # An axis may be part of a slice's side: 32 × 8 of 16 × 16 chips.
    across = (slices, *(1 for _ in shape[1:]))
    grid = mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=axis_types)


def make_or_single(options: Parallelism) -> Layout:
    """The layout an experiment asks for, or one device where it asks for other devices than are here."""
    try:
        return make(options)
    except ExperimentError:
        return make(Parallelism(), jax.devices()[:1])
