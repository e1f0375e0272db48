"""Weights as decoding wants them: the part of a model that writes, cast once and laid out layer by layer."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_like import variables
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.program import Program, State
from t5x_like.variables import Functional, Tree


@dataclasses.dataclass
class Weights:
    """One state's weights.

    Attributes:
      tree: nested dicts of arrays.
    """

    tree: Tree


class Preparation:
    """The function from a training state to `Weights`, compiled once.

    Attributes:
      structure: of the module that the weights belong to; None before the first call.
    """

    def __init__(self, program: Program) -> None:
        """Takes the model's program."""
        self._program = program
        self.structure: Functional | None = None
        self._compiled = jax.jit(self._prepare)

    def __call__(self, state: State) -> Weights:
        """The weights of a state: all of its variables, of whatever role.

        Args:
          state: with `parameters` and `model_state`.
        """
        return Weights(self._compiled({name: state[name] for name in ("parameters", "model_state")}))

    def _prepare(self, state: State) -> Tree:
        program = self._program
        with program.layout.use():
            model = program.inference_model(state)
            model.unstack()
            self.structure, tree = variables.split(model)
        infos = variables.flatten(self.structure.infos())
        dtype = jnp.dtype(program.architecture.dtype)
        return variables.unflatten(
            {path: _cast(value, infos[path], dtype) for path, value in variables.flatten(tree).items()}
        )


def _cast(value: jax.Array, info: ParameterInfo, dtype: jnp.dtype) -> jax.Array:
    """Matrices and tables along the residual width in the computation's dtype, to which every use would cast them.

    Norms, routers and biases of attention's scores compute in float32, with all of their digits.
    """
    wide = info.kind in ("matrix", "embedding") and {"embed", "expert_embed"} & {*info.axes}
    return value.astype(dtype) if wide and "router" not in info.axes else value
