"""SpanBERT: lengths and places of spans, their boundaries, and the loss from these against plain loops."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.chances import assert_distribution, assert_share, runs
from objectives.sketches import records

from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Mode
from t5x_like.objectives.span_boundary import SpanBoundary

MASK, VOCABULARY = 3, 1000
SPANS = SpanBoundary(mask_id=MASK, vocab_size=VOCABULARY, special_ids=(0, 1, 2))


def example(length, seed, objective=SPANS):
    tokens = np.random.default_rng(0).integers(10, VOCABULARY, length).astype(np.uint16)
    return tokens, objective.example({"tokens": tokens}, np.random.default_rng(seed))


def test_an_exact_share_is_hidden_in_spans_with_a_boundary_on_each_side():
    for seed in range(20):
        tokens, found = example(400, seed)
        spans = runs(found["weights"])
        assert sum(length for _, length in spans) == 60 and max(length for _, length in spans) <= 10
        assert spans[0][0] > 0 and sum(spans[-1]) < 400
        for start, length in spans:
            for place in range(start, start + length):
                assert place - found["to_left"][place] == start - 1
                assert place + found["to_right"][place] == start + length
        np.testing.assert_array_equal(found["targets"], tokens)
        untouched = found["weights"] == 0
        np.testing.assert_array_equal(found["inputs"][untouched], tokens[untouched])


def test_lengths_are_geometric_up_to_ten_with_the_papers_mean():
    lengths = np.concatenate([SPANS.span_lengths(300, np.random.default_rng(seed))[:-1] for seed in range(60)])
    assert_distribution([(lengths == n).sum() for n in range(1, 11)], [0.2 * 0.8 ** (n - 1) for n in range(1, 11)])
    assert abs(lengths.mean() - 3.8) < 0.1  # section 3.1


def test_a_span_is_replaced_as_one():
    kinds = Counter()
    for seed in range(60):
        tokens, found = example(400, seed)
        for start, length in runs(found["weights"]):
            read, was = (each[start : start + length] for each in (found["inputs"], tokens))
            if (read == MASK).any():
                assert (read == MASK).all()
                kinds["hidden"] += 1
            else:
                kinds["kept" if (read == was).all() else "drawn"] += 1
    assert_share(kinds["hidden"], kinds.total(), 0.8)
    assert_share(kinds["drawn"], kinds.total(), 0.1)


def test_a_span_stands_anywhere_with_the_same_chance():
    one = SpanBoundary(mask_id=MASK, vocab_size=VOCABULARY, rate=0.26, longest_span=1)
    starts = Counter(runs(example(5, seed, one)[1]["weights"])[0][0] for seed in range(1500))
    assert_distribution([starts[place] for place in (1, 2, 3)], [1, 1, 1])


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_short_texts_keep_their_boundaries(length):
    greedy = SpanBoundary(mask_id=MASK, vocab_size=VOCABULARY, rate=1.0)
    for seed in range(20):
        weights = example(length, seed, greedy)[1]["weights"]
        assert not weights[0] and not weights[-1]
    assert length < 3 or weights.any()


def test_special_tokens_in_a_span_stay():
    tokens = np.full(40, 1, np.int32)
    found = SPANS.example({"tokens": tokens}, np.random.default_rng(0))
    assert not found["weights"].any() and (found["inputs"] == 1).all()


def test_the_loss_is_of_the_states_beside_each_span():
    objective = SpanBoundary(mask_id=2, vocab_size=32, rate=0.4, place_embed=8, boundary_weight=3.0)
    model = objective.build(tiny.architecture(family="bert", init_std=0.3), nnx.Rngs(params=0))
    batch = tiny.batch_of(objective, records.documents())
    rngs = RowRngs(jax.random.key(0), batch["row"])

    def both(batch):
        states = model.backbone.states(
            batch["inputs"], positions_bt=batch["positions"], segment_ids_bt=batch["segment_ids"]
        )
        return states, objective.loss(model, batch, rngs, Mode.EVALUATE)

    states, loss = jax.device_get(jax.jit(both)(batch))
    table, bias = np.asarray(model.backbone.tokens.table[...]), np.asarray(model.boundary.bias[...])
    total = count = 0
    for row in range(tiny.ROWS):
        ids = batch["segment_ids"][row]
        # Spans by the weights of each example by itself, whose boundaries are the neighbours in the row.
        for start, length in runs(batch["weights"][row]):
            assert ids[start - 1] == ids[start] == ids[start + length] > 0
            for place in range(length):
                sides = (jnp.asarray(states[row, at])[None, None] for at in (start - 1, start + length))
                hidden = np.asarray(model.boundary(*sides, jnp.array([[place]])))[0, 0]
                logits = hidden @ table.T + bias
                total += np.log(np.exp(logits).sum()) - logits[batch["targets"][row, start + place]]
                count += 1
    assert count > 10
    np.testing.assert_allclose(loss.terms["boundary"], 3 * total, rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["boundary_loss"], (total, count), rtol=1e-5)
    assert objective.denominators(batch)["boundary"] == count


def test_options_out_of_bounds_are_errors():
    for options, sentence in (
        ({"stop_chance": 1.0}, "stop_chance: 1.0 must be above 0 and below 1"),
        ({"longest_span": 0}, "longest_span: 0 is too small"),
        ({"boundary_weight": -1.0}, "boundary_weight: -1.0 is negative"),
    ):
        with pytest.raises(ExperimentError, match=sentence):
            SpanBoundary(mask_id=MASK, vocab_size=VOCABULARY, **options)
