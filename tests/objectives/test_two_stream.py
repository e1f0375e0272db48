"""Two streams in one call of a stack: what each token's query depends on, and which tokens are asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx
from objectives.sketches import records
from objectives.sketches.permutation_lm import PermutationLM, seen

ORDER = np.array([[3, 0, 4, 1, 2, 0, 0, 0]], np.int32)
SEGMENTS = np.array([[1, 1, 1, 1, 1, 0, 0, 0]], np.int32)


def test_a_query_depends_on_the_tokens_before_it_in_order_and_no_others():
    model = tiny.architecture(family="bert", init_std=0.3).build(nnx.Rngs(params=0))
    tokens_t, order_t = np.arange(5, 13, dtype=np.int32), ORDER[0]

    def queries(tokens_t):
        inputs = jnp.concatenate([tokens_t, jnp.zeros(8, jnp.int32)])[None]
        positions_bt, segment_ids_bt = (jnp.asarray(np.tile(each, (1, 2))) for each in (np.arange(8), SEGMENTS))
        mask_bts = seen(jnp.asarray(ORDER), jnp.asarray(SEGMENTS))
        hidden_bsd = model(inputs, positions_bt=positions_bt, segment_ids_bt=segment_ids_bt, mask_bts=mask_bts)
        return hidden_bsd[0, 8:13]

    # Every token changed in turn, all in one call.
    changed_nt = np.where(np.eye(8, dtype=bool)[:5], 20, tokens_t)
    found_ntd = np.asarray(jax.jit(jax.vmap(queries))(jnp.asarray(np.concatenate([tokens_t[None], changed_nt]))))
    for number in range(5):
        moved_t = np.abs(found_ntd[1 + number] - found_ntd[0]).max(-1) > 1e-4
        np.testing.assert_array_equal(moved_t, order_t[:5] > order_t[number])


def test_each_token_is_asked_for_last_in_its_own_order():
    examples = [PermutationLM(rate=0.4).example(r, np.random.default_rng(0)) for r in records.documents()]
    for example in examples:
        asked, order = example["weights"] > 0, example["order"]
        assert asked.any() and sorted(order) == [*range(len(order))]
        assert asked.all() or order[asked].min() > order[~asked].max()
