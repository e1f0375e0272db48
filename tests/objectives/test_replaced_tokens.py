"""ELECTRA: what is drawn, what is scored, who learns from which loss, and F1, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from objectives.chances import assert_distribution
from objectives.sketches import records

from t5x_like import variables
from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.models.electra import generator_options
from t5x_like.objectives.base import Mode
from t5x_like.objectives.replaced_tokens import ReplacedTokens, _drawn, _told_apart
from t5x_like.sections import changed

OPTIONS = {"mask_id": 2, "vocab_size": tiny.VOCABULARY, "special_ids": (0, 1), "rate": 0.4, "generator_share": 0.5}


def discriminator(**options):
    return changed(tiny.architecture(family="bert", **options), {"head": {"name": "token_classes", "classes": 1}})


@pytest.fixture(scope="module")
def setting():
    """Architecture, batch, and weight of the discriminator → its loss and gradients."""
    architecture = discriminator(init_std=0.3)
    batch = tiny.batch_of(ReplacedTokens(**OPTIONS), records.documents())
    rngs = RowRngs(jax.random.key(0), batch["row"])
    structure, values = variables.split(ReplacedTokens(**OPTIONS).build(architecture, nnx.Rngs(params=0)))

    @jax.jit
    def compute(weight):
        def total(values, weight):
            loss = ReplacedTokens(**OPTIONS).loss(structure.merge(values), batch, rngs, Mode.TRAIN)
            discriminator = weight / 50 * loss.terms["discriminator"]
            return loss.terms["cross_entropy"] + discriminator, loss

        gradients, loss = jax.grad(total, has_aux=True)(values, weight)
        return variables.flatten(gradients), loss

    return architecture, batch, lambda weight: jax.device_get(compute(jnp.float32(weight)))


def test_each_model_learns_from_its_own_loss_and_the_embeddings_from_both(setting):
    (without, _), (both, loss) = (setting[2](weight) for weight in (0.0, 50.0))
    shared = {("discriminator", "tokens", "table")}
    shared |= {path for path in without if path[:2] in (("discriminator", "positions"), ("discriminator", "types"))}
    shared |= {path for path in without if path[:2] == ("discriminator", "embedding_norm")}
    assert len(shared) == 4 + any(path[:2] == ("discriminator", "types") for path in shared)
    for path, gradient in both.items():
        if path in shared:
            assert without[path].any() and np.abs(gradient - without[path]).max() > 1e-3, path
        elif path[0] == "generator":  # nothing comes through what is drawn
            np.testing.assert_allclose(gradient, without[path], rtol=1e-5, atol=1e-6)
        else:
            assert gradient.any() and not without[path].any(), path
    assert loss.terms["discriminator"] == pytest.approx(50 * loss.metrics["discriminator_loss"][0])


def test_denominators_are_the_masked_and_all_tokens(setting):
    _, batch, _ = setting
    found = ReplacedTokens(**OPTIONS).denominators(batch)
    assert found["cross_entropy"] == batch["weights"].sum() > 0
    assert found["discriminator"] == (batch["segment_ids"] > 0).sum()
    assert (batch["inputs"][batch["weights"] > 0] == 2).all()
    # Rounded down, so that a row has a bound.
    assert max(batch["weights"].sum(1)) <= int(0.4 * tiny.LENGTH)


def test_tokens_are_drawn_from_the_generators_distribution():
    chances = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.broadcast_to(np.log(chances), (4, 2000, 4))
    rngs = RowRngs(jax.random.key(1), jnp.arange(4))
    drawn = np.asarray(_drawn(jnp.asarray(logits), rngs))
    assert_distribution(np.bincount(drawn.ravel(), minlength=4), chances)
    assert (drawn[0] != drawn[1]).any()
    assert not jax.grad(lambda x: _drawn(x, rngs).astype(float).sum())(jnp.asarray(logits)).any()


def test_loss_accuracy_and_f1_by_plain_loops():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 7)).astype(np.float32)
    replaced, real = rng.random((2, 3, 7)) < 0.6
    total, metrics = _told_apart(scores, replaced, real)
    cells = [(scores[at], replaced[at]) for at in np.ndindex(3, 7) if real[at]]
    chances = [1 / (1 + np.exp(-score)) for score, _ in cells]
    np.testing.assert_allclose(
        total, -sum(np.log(p if new else 1 - p) for p, (_, new) in zip(chances, cells, strict=True)), rtol=1e-5
    )
    hits = sum(score > 0 and new for score, new in cells)
    precision, recall = hits / sum(score > 0 for score, _ in cells), hits / sum(new for _, new in cells)
    above, below = metrics["f1"]
    np.testing.assert_allclose(above / below, 2 * precision * recall / (precision + recall), rtol=1e-6)
    assert metrics["accuracy"] == (sum((score > 0) == new for score, new in cells), len(cells))


def test_the_generator_is_a_share_of_the_discriminator():
    narrow = generator_options(discriminator(layers=3), 0.25)
    layer = narrow.main.layer
    assert (narrow.embed, narrow.main.layers, narrow.table_width, narrow.head.name) == (4, 3, 16, "masked_lm")
    assert (layer.attention.heads, layer.attention.head_dim, layer.feed_forward.hidden) == (1, 4, 8)


def test_options_out_of_bounds_are_errors():
    with pytest.raises(ExperimentError, match=r"model\.head: objective 'replaced_tokens' scores every token"):
        ReplacedTokens(**OPTIONS).build(tiny.architecture(family="bert"), nnx.Rngs(0))
    for options, sentence in (
        ({"generator_share": 0.0}, r"generator_share: 0\.0 must be above 0 and at most 1"),
        ({"discriminator_weight": -1.0}, r"discriminator_weight: -1\.0 is negative; it must be at least 0"),
    ):
        with pytest.raises(ExperimentError, match=sentence):
            ReplacedTokens(**{**OPTIONS, **options})
