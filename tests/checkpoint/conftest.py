"""A small training state, with everything a real one has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

POSITION = np.array([[3, 7], [2**63 + 1, 0]], np.uint64)


class States:
    """Makes states that differ by seed, and compares them."""

    position = POSITION

    def make(self, seed: int = 0, width: int = 6) -> dict[str, Any]:
        generator = np.random.default_rng(seed)

        def array(shape: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.asarray(generator.normal(size=shape.shape).astype(shape.dtype))

        return {**jax.tree.map(array, self._shapes(width)), "step": jnp.int32(seed)}

    def _shapes(self, width: int) -> Any:
        parameters = {
            "tokens": {"embedding": jax.ShapeDtypeStruct((16, width), jnp.float32)},
            "blocks": {"mlp": {"up": jax.ShapeDtypeStruct((2, width, 8), jnp.bfloat16)}},
        }
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
        return {
            "step": jax.ShapeDtypeStruct((), jnp.int32),
            "parameters": parameters,
            "model_state": {},
            "optimizer": jax.eval_shape(optimizer.init, parameters),
            "skipped": {"total": jax.ShapeDtypeStruct((), jnp.int32)},
        }

    def abstract(self, state: Any) -> Any:
        return jax.eval_shape(lambda: state)

    def assert_equal(self, a: Any, b: Any) -> None:
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert x.dtype == y.dtype
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def states() -> States:
    return States()
