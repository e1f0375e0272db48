"""The layout of a computation: the mesh, the rules from logical axis names to mesh axes, and rematerialisation.

Parameters and activations have different logical names. With one name for both, fully sharded data parallelism would
use the same mesh axis for two dimensions of one array.

`use()` makes a layout the current one while a function is traced; the parts of a model call `current()`. Without a
layout (a laptop, a unit test) every sharding constraint is the identity. The program of a pipeline stage (see
`models.pipeline`) is written for one device along `stage_axes`; inside it, a layout covers the other axes alone.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_like.errors import ExperimentError
from t5x_like.parallel import collective_order, strategies
from t5x_like.parallel import tuning as tunings
from t5x_like.parallel.tuning import Tuning
from t5x_like.parallelism import Parallelism

MESH_AXES = ("data", "fsdp", "stage", "sequence", "tensor", "expert")

# Logical axis → mesh axes. Parameters first, then activations.
RULES: Mapping[str, tuple[str, ...]] = {
    # Parameters are sharded over all axes along which devices hold different tokens. An expert's own parameters are
    # not sharded over `expert` a second time.
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
    "layers": ("stage",),
    # Outside the layers the batch is sharded over the stages; inside them every stage has all rows, by microbatches.
    "batch": ("data", "fsdp", "expert", "stage"),
    "length": ("sequence",),
    "stream_length": ("sequence",),  # of the residual stream, between a block's parts: see models/stream.py
    "act_embed": (),
    "act_heads": ("tensor",),
    "act_kv": ("tensor",),
    "act_mlp": ("tensor",),
    "act_vocab": ("tensor",),
    # Heads inside attention, where every device has whole rows: see models/context.py.
    "attention_heads": ("tensor", "sequence"),
    "attention_kv": ("tensor", "sequence"),
}

Axes = tuple[str | None, ...]


def circular(rules: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Rules for the circular schedule, in which a stage holds several groups of layers that do not follow each other.

    Parameters are sharded over the stages by their width instead of by layers, and exchanged once a step.
    """
    widths = {name: (*rules[name], "stage") for name in ("embed", "expert_embed")}
    return {**rules, "layers": (), **widths}


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with its rules, and the options of the layer stack that depend on the devices.

    Attributes:
      mesh: the devices by `MESH_AXES`; None for a single device without constraints.
      rules: logical axis name → mesh axes.
      state_rules: the same for the optimizer's state where it is sharded further than the parameters; else None.
      remat: the name of the rematerialisation policy.
      scan_layers: whether the layer stack is a loop over one compiled layer.
      stage_microbatches: the number of pipeline microbatches.
      stage_rounds: the number of groups of layers in a stage.
      deterministic: whether kernels whose results differ between runs are left out.
      documents_per_row: the most documents that a row of the data holds; 0 where there is no such bound.
      tuning: how a step is compiled for the devices.
    """

    mesh: Mesh | None = None
    rules: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: RULES)
    state_rules: Mapping[str, tuple[str, ...]] | None = None
    remat: str = "none"
    scan_layers: bool = True
    stage_microbatches: int = 1
    stage_rounds: int = 1
    deterministic: bool = False
    documents_per_row: int = 0
    tuning: Tuning = dataclasses.field(default_factory=Tuning)

    def spec(self, axes: Axes) -> PartitionSpec:
        """The partition spec of an array whose dimensions have these logical names.

        Raises:
          ValueError: for a name without a rule.
          ExperimentError: when two dimensions are sharded over the same mesh axis.
        """
        parts: list[tuple[str, ...] | str | None] = []
        taken: dict[str, str] = {}
        for name in axes:
            if name is not None and name not in self.rules:
                raise ValueError(f"no rule for the logical axis {name!r} in {axes}")
            mesh_axes = self.axes(name) if name is not None else ()
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
        """The sharding of an array with these logical axes."""
        if self.mesh is None:
            raise ValueError("a layout without a mesh places nothing")
        return NamedSharding(_inside() or self.mesh, self.spec(axes))

    def axes(self, name: str) -> tuple[str, ...]:
        """The mesh axes of a dimension with this logical name; inside a pipeline stage, without `stage_axes`."""
        return tuple(axis for axis in self.rules[name] if axis not in _local())

    def constrain(self, x: jax.Array, axes: Axes) -> jax.Array:
        """`x` with a sharding constraint by its logical axes; `x` itself without a mesh or on one device."""
        if self.mesh is None or self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(axes))

    @property
    def of_state(self) -> "Layout":
        """The layout of the optimizer's state, and of the gradients that update it."""
        return self if self.state_rules is None else dataclasses.replace(self, rules=self.state_rules, state_rules=None)

    def divisor(self, name: str) -> int:
        """The number of shards of a dimension with this logical name."""
        if self.mesh is None:
            return 1
        return int(np.prod([self.mesh.shape[axis] for axis in self.axes(name)], dtype=int))

    @property
    def size(self) -> int:
        """The number of devices; inside a pipeline stage, of that stage."""
        if self.mesh is None:
            return 1
        return math.prod(self.mesh.shape[axis] for axis in MESH_AXES if axis not in _local())

    @property
    def stages(self) -> int:
        """The number of pipeline stages."""
        return 1 if self.mesh is None else int(self.mesh.shape["stage"])

    @property
    def stage_axes(self) -> tuple[str, ...]:
        """The mesh axes that are manual in a stage's program: `data` too, where it shards nothing but the batch."""
        cut = {name for name, axes in self.rules.items() if "data" in axes}
        return ("data", "stage") if cut <= {"batch"} else ("stage",)

    def divisor_in_stage(self, name: str) -> int:
        """The number of shards of a dimension with this logical name within one stage."""
        return self.divisor(name) // (self.stages if "stage" in self.axes(name) else 1)

    def here(self) -> "Layout":
        """This layout with the rules that hold at the place of the call, for a function that `on_each` runs."""
        return dataclasses.replace(self, rules={name: self.axes(name) for name in self.rules})

    def on_each(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """`jax.shard_map` over all mesh axes that are not manual already."""
        return jax.shard_map(
            function,
            mesh=_inside() or self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=set(MESH_AXES) - set(_local()),
            check_vma=False,
        )

    def passes_keys(self, heads: int) -> bool:
        """Whether devices that share rows pass keys round (kernels/ring.py) and do not share heads inside attention.

        They do by a rule that leaves them all heads, and where there are too few heads to share.

        Args:
          heads: of the queries.
        """
        shared = {*self.cut("length")}
        by_heads = shared <= {*self.cut("attention_heads")} and heads % self.divisor("attention_heads") == 0
        return bool(shared) and not by_heads

    @property
    def platform(self) -> str:
        """The platform of the layout's devices, which need not be attached to this host."""
        return jax.default_backend() if self.mesh is None else str(np.ravel(self.mesh.devices)[0].platform)

    @property
    def compiler_options(self) -> dict[str, str | int | bool] | None:
        """Options of XLA for programs that train; None for none.

        The flag for GPUs also keeps XLA from choosing kernels by trying them out.
        """
        options = dict(self.tuning.compiler_options)
        if self.deterministic and self.platform == "gpu":
            options["xla_gpu_deterministic_ops"] = True
        return options or None

    def flatten(self, x_bt: jax.Array) -> jax.Array:
        """[batch, length, ...] → [tokens, ...], in an order that moves no token to another device."""
        rows, parts = self.divisor("batch"), self.divisor("length")
        b, t, *rest = x_bt.shape
        if parts == 1 or b % rows or t % parts:
            return x_bt.reshape(-1, *rest)
        cut = x_bt.reshape(rows, b // rows, parts, t // parts, *rest)
        return jnp.swapaxes(cut, 1, 2).reshape(-1, *rest)

    def cut(self, name: str) -> tuple[str, ...]:
        """The mesh axes of more than one device over which a dimension with this logical name is sharded."""
        return tuple(axis for axis in self.axes(name) if self.mesh is not None and self.mesh.shape[axis] > 1)

    @contextlib.contextmanager
    def use(self) -> Iterator["Layout"]:
        """Makes this the current layout while entered."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)


_CURRENT: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


def current() -> Layout:
    """The current layout while tracing; one without a mesh where there is none."""
    return _CURRENT.get() or Layout()


def _inside() -> Any:
    """The abstract mesh inside a stage's program; None outside of one, and where all its axes are manual."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if "stage" in mesh.manual_axes and len(mesh.manual_axes) < len(mesh.axis_names) else None


def _local() -> tuple[str, ...]:
    """The mesh axes that are manual in the program that is being traced."""
    mesh = _inside()
    return () if mesh is None else tuple(mesh.manual_axes)


def make(options: Parallelism, devices: list[jax.Device] | None = None) -> Layout:
    """The layout of an experiment, over all devices.

    Raises:
      DeviceCountError: when the product of the mesh axes is not the number of devices.
      ExperimentError: when a rule is invalid.
    """
    base = circular(RULES) if options.stage_rounds > 1 else RULES
    rules = strategies.table(options, base, MESH_AXES)
    devices = list(devices if devices is not None else jax.devices())
    slices = len({getattr(device, "slice_index", None) for device in devices})
    sizes = strategies.resolve(options, MESH_AXES, len(devices), slices)
    if len(devices) > 1 and devices[0].platform == "cpu":
        collective_order.keep()
    mesh = _mesh(tuple(sizes.values()), devices, slices)
    state_rules = strategies.state_table(options, rules)
    return Layout(
        mesh=mesh,
        rules=rules,
        state_rules=None if state_rules == rules else state_rules,
        remat=options.remat,
        scan_layers=options.scan_layers,
        stage_microbatches=options.stage_microbatches or sizes["stage"],
        stage_rounds=options.stage_rounds,
        deterministic=options.deterministic,
        tuning=tunings.choose(options, devices[0].device_kind),
    )


def _mesh(shape: tuple[int, ...], devices: list[jax.Device], slices: int) -> Mesh:
    """The mesh of the devices; of several TPU slices, with `data` across the slices, which a slower network joins."""
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
    # A mesh axis may be a fraction of a dimension of the torus: 32 × 8 of 16 × 16 chips.
    across = (slices, *(1 for _ in shape[1:]))
    grid = mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=axis_types)
