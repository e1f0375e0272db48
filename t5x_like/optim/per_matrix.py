"""Updates that act on a whole matrix, applied to each matrix of a stacked parameter.

A layer stack holds its parameters as one array [layers, …]. An elementwise rule (AdamW, Lion) does not notice; one that
takes norms, means or products over the parameter would mix the layers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax


class PerMatrixState(NamedTuple):
    """The state of `per_matrix`, a tree like the parameters.

    Attributes:
      matrices: nested dict like the parameters; each leaf is the rule's state of that parameter, with the stack's
        dimensions in front.
    """

    matrices: Any


def per_matrix(transformation: optax.GradientTransformation, infos: Any) -> optax.GradientTransformation:
    """A transformation of single matrices, mapped over the leading dimensions that stack parameters.

    Args:
      transformation: a rule that works on a single array.
      infos: nested dict of `ParameterInfo`; parameters that a mask took away pass through.
    """
    structure = jax.tree.structure(infos)
    stacks = [info.stack for info in structure.flatten_up_to(infos)]

    def init(params: Any) -> PerMatrixState:
        leaves = structure.flatten_up_to(params)
        states = [
            leaf if _is_masked(leaf) else _over_stack(transformation.init, stack)(leaf)
            for stack, leaf in zip(stacks, leaves, strict=True)
        ]
        return PerMatrixState(structure.unflatten(states))

    def update(updates: Any, state: PerMatrixState, params: Any = None) -> tuple[Any, PerMatrixState]:
        columns = [structure.flatten_up_to(tree) for tree in (updates, state.matrices, params)]
        results = [
            (leaf, kept) if _is_masked(leaf) else _over_stack(transformation.update, stack)(leaf, kept, param)
            for stack, leaf, kept, param in zip(stacks, *columns, strict=True)
        ]
        new_updates, new_states = zip(*results, strict=True)
        return structure.unflatten(new_updates), PerMatrixState(structure.unflatten(new_states))

    return optax.GradientTransformation(init, update)


def _over_stack(function: Callable[..., Any], stack: int) -> Callable[..., Any]:
    for _ in range(stack):
        function = jax.vmap(function)
    return function


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)
