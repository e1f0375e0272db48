"""The optax transformation of an optimizer: clipping, direction, weight decay, learning rate, in this order."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from t5x_like.optim.base import Optimizer
from t5x_like.optim.per_matrix import PerMatrixState
from t5x_like.parallel.parameters import ParameterInfo


class OptimizerState(NamedTuple):
    """The state of an optimizer.

    Attributes:
      count: int32 scalar, updates made so far: where the schedule stands. A step that was skipped is none.
      direction: the state of `Optimizer.direction`; where there is an `Optimizer.after_rate`, a pair with its state.
    """

    count: jax.Array
    direction: Any


def build(options: Optimizer, infos: Any, steps: int) -> optax.GradientTransformation:
    """The transformation from gradients to updates of the parameters; its state is an `OptimizerState`.

    Args:
      options: the optimizer.
      infos: nested dict of `ParameterInfo`, structured like the parameters.
      steps: updates in the whole run.

    Raises:
      ExperimentError: when the schedule does not fit into `steps`.
    """
    options.schedule.check(steps)
    clip_value = optax.clip(options.clip_value) if options.clip_value else optax.identity()
    clip_norm = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    direction, after_rate = options.direction(infos), options.after_rate()

    def init(params: Any) -> OptimizerState:
        start = direction.init(params) if after_rate is None else (direction.init(params), after_rate.init(params))
        return OptimizerState(count=jnp.zeros((), jnp.int32), direction=start)

    def update(gradients: Any, state: OptimizerState, params: Any) -> tuple[Any, OptimizerState]:
        chex.assert_trees_all_equal_shapes_and_dtypes(gradients, params)

        def rate(info: ParameterInfo) -> jax.Array:
            return options.schedule(state.count, options.peak(info), steps)

        def decays(info: ParameterInfo) -> bool:
            return bool(options.weight_decay) and info.kind in options.weight_decay_kinds

        def scale(info: ParameterInfo, ascent: jax.Array, param: jax.Array) -> jax.Array:
            if after_rate is None and decays(info):
                ascent = ascent + options.weight_decay * param
            return -rate(info) * ascent

        def decay(info: ParameterInfo, update: jax.Array, param: jax.Array) -> jax.Array:
            return update - rate(info) * options.weight_decay * param if decays(info) else update

        gradients, _ = clip_value.update(gradients, optax.EmptyState())
        gradients, _ = clip_norm.update(gradients, optax.EmptyState())
        before, behind = (state.direction, None) if after_rate is None else state.direction
        ascents, direction_state = direction.update(gradients, before, params)
        updates = jax.tree.map(scale, infos, ascents, params)
        if after_rate is not None:
            updates, behind = after_rate.update(updates, behind, params)
            updates = jax.tree.map(decay, infos, updates, params)  # of which no mean is taken
            direction_state = direction_state, behind
        return updates, OptimizerState(count=state.count + 1, direction=direction_state)

    return optax.GradientTransformation(init, update)


def learning_rate(options: Optimizer, steps: int) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """The learning rate as a function of the updates made so far: what `build` applies.

    The count is `OptimizerState.count` before the update; it is behind the step once a step was skipped.

    Muon's parameters that are not matrices run at `adam_learning_rate` on the same curve.

    Raises:
      ExperimentError: when the schedule does not fit into `steps`.
    """
    options.schedule.check(steps)
    return lambda step: options.schedule(step, options.learning_rate, steps)


def state_axes(options: Optimizer, infos: Any, state: Any) -> Any:
    """The logical axes of every array in an optimizer's state, by which it is sharded.

    Args:
      options: the optimizer.
      infos: nested dict of `ParameterInfo`, structured like the parameters.
      state: what `build(...).init` gave, or its shapes.

    Returns:
      `state` with a tuple of axis names in place of each array. The containers are tuples too, so map over both:
      `jax.tree.map(function, state, axes)`.

    Raises:
      ValueError: for an array that is neither a scalar nor of a parameter.
    """
    structure = jax.tree.structure(infos)

    def belongs_to_parameters(node: Any) -> bool:
        return isinstance(node, dict) and jax.tree.structure(node, is_leaf=_is_masked) == structure

    def axes_of(node: Any) -> Any:
        if isinstance(node, PerMatrixState):
            return PerMatrixState(_map_unmasked(options.matrix_state_axes, infos, node.matrices))
        if belongs_to_parameters(node):
            return _map_unmasked(lambda info, _: info.axes, infos, node)
        if isinstance(node, dict):
            return {key: axes_of(child) for key, child in node.items()}
        if isinstance(node, tuple):
            children = [axes_of(child) for child in node]
            return type(node)(*children) if hasattr(node, "_fields") else tuple(children)
        if node.shape:
            raise ValueError(f"an optimizer state of shape {node.shape} belongs to no parameter")
        return ()

    return axes_of(state)


def _map_unmasked(function: Callable[[Any, Any], Any], infos: Any, tree: Any) -> Any:
    return jax.tree.map(lambda info, node: node if _is_masked(node) else function(info, node), infos, tree)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
