"""XLNet's second stream and its memory: against the library, by gradients, and on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.families import cases
from models.families.here import Family

from t5x_like.models.transformer import segment_recurrence

CASE = cases.read("xlnet")
LENGTHS, ROWS = cases.rows(CASE)
LENGTH = LENGTHS[0]
ORDER = cases.order(LENGTH)


@pytest.fixture(scope="module")
def family():
    return Family(CASE["config"])


def seen():
    """bool [1, 2·t, 2·t]: content sees itself and earlier content, a query earlier content alone."""
    earlier = ORDER[:, None] > ORDER[None, :]
    none = np.zeros_like(earlier)
    return np.block([[earlier | np.eye(LENGTH, dtype=bool), none], [earlier, none]])[None]


def queries(model, tokens_t):
    """The second stream's states, of every place of a row."""
    both = jnp.concatenate([tokens_t, jnp.full(LENGTH, -1)])[None]
    positions = np.tile(np.arange(LENGTH), 2)[None]
    ids = np.ones((1, 2 * LENGTH), np.int32)
    return model.states(both, positions_bt=positions, segment_ids_bt=ids, mask_bts=jnp.asarray(seen()))[:, LENGTH:]


def test_the_second_stream_equals_the_library(family):
    @jax.jit
    def logits(tree, tokens_t):
        model = family.structure.merge(tree)
        return model.logits(model.finish(queries(model, tokens_t)))[0, :, :5]

    theirs = np.array(CASE["expected"]["streams"]["queries"])
    ours = np.asarray(logits(family.tree, ROWS["tokens"][0]))
    asked = ORDER > 0  # the first of the order sees nothing, and nobody asks for it
    np.testing.assert_allclose(ours[asked], theirs[asked], rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_a_query_depends_on_the_tokens_before_it_in_order_and_no_others(family):
    """By gradients with respect to what each token is embedded as."""

    @jax.jit
    def gradients(tree):
        def states(shift_td):
            model = family.structure.merge(tree)
            embed = model.embed
            model.embed = lambda *given: embed(*given).at[0, :LENGTH].add(shift_td)
            return queries(model, jnp.asarray(ROWS["tokens"][0]))[0].sum(-1)

        return jnp.abs(jax.jacrev(states)(jnp.zeros((LENGTH, CASE["config"]["d_model"])))).max(-1)

    depends = np.asarray(gradients(family.tree)) > 0
    asked = ORDER > 0
    np.testing.assert_array_equal(depends[asked], (ORDER[:, None] > ORDER[None, :])[asked])


def halves(model, tokens_bt, states=LENGTH // 2):
    """The states of a row's second half, which remembers the first, and the memory after it."""
    memory, half = segment_recurrence.empty(model, 1, states), LENGTH // 2
    for part in (tokens_bt[:, :half], tokens_bt[:, half:]):
        positions = np.arange(part.shape[1])[None]
        x_btd, memory = segment_recurrence.states(
            model, part, memory, positions_bt=positions, segment_ids_bt=np.ones_like(positions)
        )
    return x_btd, memory


def test_a_memory_equals_the_library_s(family):
    @jax.jit
    def logits(tree):
        model = family.structure.merge(tree)
        return model.logits(model.finish(halves(model, ROWS["tokens"][:1])[0]))[0, :, :5]

    theirs = np.array(CASE["expected"]["streams"]["memory"])
    np.testing.assert_allclose(logits(family.tree), theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_no_gradient_passes_into_a_memory_and_no_other_text_sees_it(family):
    """Of two texts in a row the first goes on from the row before."""
    half = LENGTH // 2
    ids = np.array([[1] * 5 + [2] * (half - 5)])
    positions = np.array([[*range(5), *range(half - 5)]])
    row = {"positions_bt": positions, "segment_ids_bt": ids}

    @jax.jit
    def run(tree):
        model, tokens_bt = family.structure.merge(tree), ROWS["tokens"][:1, :half]
        memory = segment_recurrence.empty(model, 1, 4)

        def second(shift):
            model = family.structure.merge(tree)
            layers = jax.tree.map(lambda state: state + shift, memory.layers)
            known = memory._replace(layers=layers, real_bm=jnp.ones((1, 4), bool))
            return segment_recurrence.states(model, tokens_bt, known, **row)[0][0].sum(-1)

        def kept(table):
            model = family.structure.merge({**tree, "tokens": {"table": table}})
            _, after = segment_recurrence.states(model, tokens_bt, memory, **row)
            return sum(jax.tree.leaves(jax.tree.map(jnp.sum, after.layers)))

        after = segment_recurrence.states(model, tokens_bt, memory, **row)[1]
        into = jnp.abs(jax.grad(kept)(tree["tokens"]["table"])).max()
        return jax.jacrev(second)(1.0), into, after.real_bm

    seen_by, into, real = jax.device_get(run(family.tree))
    assert (seen_by[:5] != 0).all() and (seen_by[5:] == 0).all()
    assert into == 0
    assert not real.any()  # the row's last tokens are of a text that does not go on
