"""Parts of encoders and encoder-decoders on several devices and in microbatches, against one device and one batch."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like import variables
from t5x_like.errors import ExperimentError
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.span_corruption import SpanCorruption
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism
from t5x_like.program import program
from t5x_like.sections import Choice, choose

LAYER = {"attention": {"heads": 4, "kv_heads": 4, "head_dim": 4}, "feed_forward": {"hidden": 32}}
STACK = {"layers": 2, "layer": LAYER}
SIZES = {"vocab_size": tiny.VOCABULARY, "embed": 16, "max_length": 16, "dropout": 0.0}


@dataclass(frozen=True, kw_only=True)
class SecondStream(MaskedLM):
    """Each token from those before it, asked for by its place: a second stream in the order of the text."""

    def counted(self, batch):
        return batch["segment_ids"]

    def loss(self, model, batch, rngs, mode):
        tokens_bt, places_bt, ids_bt = batch["targets"], batch["positions"], batch["segment_ids"]
        own_btt = ids_bt[:, :, None] == ids_bt[:, None, :]
        earlier_btt = own_btt & (places_bt[:, :, None] > places_bt[:, None, :])
        itself_btt = own_btt & (places_bt[:, :, None] == places_bt[:, None, :])
        none_btt = jnp.zeros_like(own_btt)
        content = jnp.concatenate([earlier_btt | itself_btt, none_btt], 2)
        asked = jnp.concatenate([earlier_btt, itself_btt], 2)
        hidden_bsd = model(
            jnp.concatenate([tokens_bt, jnp.full_like(tokens_bt, -1)], 1),
            positions_bt=jnp.concatenate([places_bt, places_bt], 1),
            segment_ids_bt=jnp.concatenate([ids_bt, ids_bt], 1),
            rngs=mode.rngs(rngs),
            mask_bts=jnp.concatenate([content, asked], 1),
        )
        states_btd = hidden_bsd[:, tokens_bt.shape[1] :]
        return self.sums(model, states_btd, tokens_bt, self.counted(batch), ids_bt, mode)


def architecture(family, **changes):
    stacks = {"encoder": STACK, "decoder": STACK} if family == "umt5" else {"encoder": {**STACK, **changes}}
    # Large first weights, so that scores count.
    values = {"family": family, **SIZES, **stacks, "init_std": 0.3}
    return choose(Choice("model", family, "family"), values, "model")


MASKED = {"vocab_size": tiny.VOCABULARY, "mask_id": 31}
NARROW = {"embeddings": {"width": 8}}
# A family, its objective, and the new parameter whose gradient must count.
CASES = {
    "disentangled": (architecture("deberta"), MaskedLM(**MASKED), "distances.table"),
    "disentangled, log buckets": (
        architecture("deberta_v3", positions={"distance": 8, "buckets": 4}),
        MaskedLM(**MASKED),
        "distances.norm.scale",
    ),
    "second stream": (architecture("xlnet"), SecondStream(**MASKED), "blocks.layer.attention.distance_offset"),
    "shared layers, narrow tables": (architecture("albert", **NARROW), MaskedLM(**MASKED), "widen.kernel"),
    "bias of each layer": (
        architecture("umt5"),
        SpanCorruption(vocab_size=tiny.VOCABULARY, eos_id=1, sentinels=4),
        "blocks.layer.attention.bias.table",
    ),
    "no first norm": (
        architecture("modernbert", pattern=[{"attention": {"window": 2}}]),
        MaskedLM(**MASKED),
        "leading.layers.0.attention.query.kernel",
    ),
}
SLOW = ("disentangled, log buckets", "no first norm")  # of which the parts are in other cases, too
MESHES = [{"fsdp": 2, "tensor": 2, "sequence": 2}, {"stage": 2, "data": 2, "tensor": 2}]


def of(name):
    """The mesh of a case: with stages where layers are stacked and a row is read as it is."""
    return MESHES[name in ("disentangled", "bias of each layer")]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_a_mesh_and_microbatches_give_the_gradients_of_one_device(name):
    model, objective, path = CASES[name]
    plain = program(tiny.experiment(objective, model=model))
    state, batch = tiny.initial(plain), tiny.batch_of(objective, records.shorter_documents())
    after, metrics = tiny.Steps(plain, state, batch)(state, batch)
    options = Parallelism(**of(name), microbatches=2)
    ours = program(tiny.experiment(objective, model=model, parallelism=options), layout.make(options))
    there, measured = tiny.Steps(ours, state, batch)(state, batch)
    np.testing.assert_allclose(measured["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(measured["gradient_norm"], metrics["gradient_norm"], rtol=1e-5)
    gradient = variables.flatten(tiny.gradients(after))[tuple(path.split("."))]
    assert np.abs(gradient).max() > 1e-6
    assert tiny.relative_error(tiny.gradients(there), tiny.gradients(after)) < 1e-5


@pytest.mark.parametrize(("family", "times"), [("bert", 1), ("deberta", 2), ("xlnet", 1.5)])
def test_products_by_distance_are_counted(family, times):
    """Of a row twice as long what is more than twice as much are products of pairs."""
    model = architecture(family)
    one, two = (model.flops({"encoder": (1, length)}, head=False) for length in (64, 128))
    pairs = STACK["layers"] * 12 * 4 * 4 * (128**2 - 2 * 64**2)
    assert two - 2 * one == times * pairs


def test_shared_layers_are_in_no_stages():
    options = Parallelism(stage=2, data=4)
    experiment = tiny.experiment(MaskedLM(**MASKED), model=architecture("albert", **NARROW), parallelism=options)
    with pytest.raises(ExperimentError) as error:
        experiment.model.check(layout.make(options), experiment.data, 8)
    assert str(error.value).startswith("parallelism.stage: the layers of model.encoder are one set of parameters")


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("deberta", {"positions": "none"}, "model.encoder.positions: they are 'none' with attention 'disentangled'"),
        ("bert", {"positions": "disentangled"}, "model.encoder.positions: they are 'disentangled' with attention 'dot"),
        ("deberta_v3", {"positions": {"buckets": 1024}}, "model.encoder.positions.buckets: 1024 do not share 512"),
        ("bert", {"layer": {**LAYER, "attention_norm": False}}, "model.encoder.layer.attention_norm: it is left out"),
        ("bart", {"embeddings": {"width": 8}}, "model.encoder.embeddings.width: 8 differs from the decoder's 16"),
        ("xlnet", {"embeddings": {"width": 8}}, "model.head: 'tied' scores states of 16 with a table of 8"),
    ],
)
def test_parts_that_do_not_go_together_are_one_sentence(family, changes, sentence):
    values = {"encoder": {**STACK, **changes}, **({"decoder": STACK} if family == "bart" else {})}
    with pytest.raises(ExperimentError) as error:
        choose(Choice("model", family, "family"), {"family": family, **SIZES, **values}, "model")
    assert str(error.value).startswith(sentence)
