"""Causality, padding and packing isolation of every family, by the gradients of states with respect to tokens.

Each token of a row is another one, so that the gradient with respect to the table of tokens says which places a state
depends on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.families import cases
from models.families.here import Family

from t5x_like.models.hugging_face import read_model

# Two texts and padding, of what a decoder or an encoder alone reads, and of what an encoder reads before a decoder.
SEGMENTS, INPUTS = np.array([[1] * 9 + [2] * 6 + [0] * 2]), np.array([[1] * 7 + [2] * 5 + [0] * 3])
FIRST = 3  # of the ids that are no special ones


def places(segments):
    """Each token's place in its text."""
    same = segments[0][:, None] == segments[0][None, :]
    return np.tril(same, -1).sum(-1)[None]


def dependence(family):
    """Bool [length, tokens], which states depend on which tokens: those of the row, and after them those of inputs."""
    length, inputs = SEGMENTS.shape[1], INPUTS.shape[1] if family.options.stacks == ("encoder", "decoder") else 0
    tokens = np.arange(FIRST, FIRST + length)[None]

    def states(table, tree):
        model = family.structure.merge({**tree, "tokens": {"table": table}})
        encoded = {}
        if inputs:
            rows = np.arange(FIRST + length, FIRST + length + inputs)[None]
            encoded["encoded"] = model.encode(rows, positions_bs=places(INPUTS), segment_ids_bs=INPUTS)
        x_btd = model.states(tokens, positions_bt=places(SEGMENTS), segment_ids_bt=SEGMENTS, **encoded)
        return jnp.einsum("td,d->t", x_btd[0], jax.random.normal(jax.random.key(0), (x_btd.shape[-1],)))

    @jax.jit
    def gradients(table, tree):
        # State by state: the grouped product of experts cannot be mapped over.
        _, pullback = jax.vjp(lambda table: states(table, tree), table)
        return jax.lax.map(lambda chosen: pullback(chosen)[0], jnp.eye(length))

    gradient_tvd = gradients(family.tree["tokens"]["table"], family.tree)
    return np.asarray(jnp.abs(gradient_tvd).max(-1) > 0)[:, FIRST : FIRST + length + inputs]


def allowed(family):
    """Which may depend on which, and within which distance they do."""
    ids, encoded = SEGMENTS[0], INPUTS[0]
    own = ids[:, None] == ids[None, :]
    own = np.tril(own) if family.options.causal else own
    return own, ids[:, None] == encoded[None, :]


def kind(name):
    """What tells a family's parts apart: kinds of attention, positions and layers."""
    options = read_model(cases.read(name)["config"])
    stack = options.main
    layers = {(layer.attention.name, layer.feed_forward.name, layer.arrangement) for layer in stack.every_layer}
    windows = any(getattr(layer.attention, "window", 0) for layer in stack.every_layer)
    return options.stacks, stack.positions.name, stack.shared, windows, tuple(sorted(layers))


def by_kind():
    """The families, of which all but the first of a kind are slow."""
    known = set()
    for name in cases.names():
        new = (found := kind(name)) not in known
        known.add(found)
        yield pytest.param(name, marks=() if new else pytest.mark.slow)


@pytest.mark.parametrize("name", list(by_kind()))
def test_a_state_depends_on_the_tokens_of_its_text_that_it_may_see(name):
    family = Family(cases.read(name)["config"])
    found, (own, encoded) = dependence(family), allowed(family)
    may = np.concatenate([own, encoded], 1)[:, : found.shape[1]]
    real = SEGMENTS[0] > 0
    assert not (found & ~may)[real].any()
    windows = [getattr(layer.attention, "window", 0) for layer in family.options.main.every_layer]
    if 0 in windows:
        np.testing.assert_array_equal(found[real], may[real])
    else:
        near = np.abs(np.subtract.outer(np.arange(len(real)), np.arange(len(real)))) <= min(windows)
        assert found[:, : len(real)][real][may[real][:, : len(real)] & near[real]].all()
