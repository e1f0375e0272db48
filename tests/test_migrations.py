"""Each migration by an example, and the machinery with migrations that are made up."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like import migrations
from t5x_like.checkpoint import layout, reading
from t5x_like.checkpoint.manifest import Manifest
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.errors import UserError
from t5x_like.experiment import Checkpoint, Experiment
from t5x_like.migrations import Migration

# By the schema they are written in, old spellings and what they are in the newest schema, each a part of an experiment.
SPELLINGS: dict[int, list[tuple[dict, dict]]] = {
    1: [
        (
            {"model": {"family": "llama", "layers": 2, "heads": 4, "mlp": 64, "rope_theta": 5e5, "tied_head": True}},
            {
                "model": {
                    "family": "llama",
                    "decoder": {
                        "layers": 2,
                        "layer": {"attention": {"heads": 4}, "feed_forward": {"hidden": 64}},
                        "positions": {"theta": 5e5},
                    },
                    "head": {"name": "tied"},
                }
            },
        ),
        (
            {"model": {"family": "t5_1_1", "encoder_layers": 1, "layers": 2, "relative_buckets": 8}},
            {
                "model": {
                    "family": "t5_1_1",
                    "encoder": {"layers": 1, "positions": {"buckets": 8}},
                    "decoder": {"layers": 2, "positions": {"buckets": 8}},
                }
            },
        ),
        ({"model": "gpt2", "steps": 3}, {"model": "gpt2", "steps": 3}),
    ]
}


@pytest.mark.parametrize(
    ("schema", "old", "new"), [(schema, *pair) for schema, pairs in SPELLINGS.items() for pair in pairs]
)
def test_an_old_spelling_is_brought_up_to_date(schema, old, new):
    assert migrations.upgrade({"schema": schema, **old}) == new


def test_every_migration_has_an_example():
    assert set(SPELLINGS) == set(range(1, migrations.newest()))


# --- The machinery --------------------------------------------------------------------------------------------------


def rename_rate(values):
    if "rate" in values:
        values["pace"] = values.pop("rate")


def nest_pace(values):
    if "pace" in values:
        values["optimizer"] = {"pace": values.pop("pace")}


@pytest.fixture
def three_schemas(monkeypatch):
    """Two made-up migrations."""
    made_up = (
        Migration(rename_rate, ("**.blocks.** -> **.layers.**",), lambda meta: meta.update(one=True)),
        Migration(nest_pace, ("parameters.layers.* -> parameters.decoder.*",)),
    )
    monkeypatch.setattr(migrations, "MIGRATIONS", made_up)


@pytest.mark.usefixtures("three_schemas")
def test_migrations_are_applied_in_order_from_the_schema_on():
    new = {"optimizer": {"pace": 3}, "b": 1}
    assert migrations.upgrade({"rate": 3, "b": 1}) == new
    assert migrations.upgrade({"schema": 1, "rate": 3, "b": 1}) == new
    assert migrations.upgrade({"schema": 2, "pace": 3, "b": 1}) == new
    assert migrations.upgrade({"schema": 3, "rate": 3}) == {"rate": 3}
    assert migrations.upgrade({}) == {}


@pytest.mark.usefixtures("three_schemas")
def test_what_is_upgraded_stays_as_it_was():
    old = {"rate": 3, "a": {"b": [1]}}
    migrations.upgrade(old)
    assert old == {"rate": 3, "a": {"b": [1]}}


@pytest.mark.usefixtures("three_schemas")
def test_a_newer_schema_is_one_sentence_with_both_numbers():
    with pytest.raises(UserError, match=r"^runs/a is of schema 4, and this program reads schemas up to 3; use the ver"):
        migrations.upgrade({"schema": 4}, "runs/a")
    with pytest.raises(UserError, match=r"^the experiment is of schema 4"):
        Experiment.from_json('{"schema": 4}')


@pytest.mark.parametrize("schema", [0, -1, True, "2", None, 1.0])
def test_what_is_no_schema_is_damage(schema):
    with pytest.raises(UserError, match="the experiment is damaged: .* is no number of a schema"):
        migrations.upgrade({"schema": schema})


def test_an_experiment_carries_the_number_of_its_schema(three_schemas):
    experiment = Experiment.from_dict({"model": {"size": "1b"}})
    written = json.loads(experiment.to_json())
    assert written["schema"] == 3
    assert Experiment.from_json(json.dumps(written)) == experiment


def test_a_commit_of_an_earlier_schema_is_read_under_its_new_paths(tmp_path, monkeypatch, request):
    state = {
        "parameters": {"blocks": {"up": jnp.arange(3.0), "down": jnp.arange(4.0)}, "head": jnp.ones(2)},
        "optimizer": [{"mu": {"blocks": {"up": jnp.zeros(3)}}}],
    }
    monkeypatch.setattr(migrations, "MIGRATIONS", ())
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint()) as store:
        store.save(1, state, {"experiment": {"rate": 2}, "x": 1}, np.zeros(2, np.uint64))
    request.getfixturevalue("three_schemas")
    commit = layout.find(tmp_path)
    assert commit.manifest().meta == {"experiment": {"optimizer": {"pace": 2}}, "x": 1, "one": True}
    wanted = {
        "parameters": {"decoder": {"up": np.zeros(3, "f"), "down": np.zeros(4, "f")}, "head": np.zeros(2, "f")},
        "optimizer": [{"mu": {"layers": {"up": np.zeros(3, "f")}}}],
    }
    shapes = reading.jax.tree.map(lambda leaf: reading.jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
    found = reading.restore(commit, shapes).state
    np.testing.assert_array_equal(found["parameters"]["decoder"]["down"], np.arange(4.0))
    np.testing.assert_array_equal(found["parameters"]["decoder"]["up"], np.arange(3.0))
    np.testing.assert_array_equal(found["optimizer"][0]["mu"]["layers"]["up"], np.zeros(3))


def test_a_commit_of_a_newer_schema_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(migrations, "MIGRATIONS", (Migration(),) * 6)
    with CheckpointStore(tmp_path / "checkpoints", Checkpoint()) as store:
        store.save(1, {"x": jnp.zeros(1)}, {}, np.zeros(1, np.uint64))
    monkeypatch.undo()
    sentence = rf"^the checkpoint {tmp_path}/checkpoints/1 is of schema 7, and this program reads schemas up to"
    with pytest.raises(UserError, match=sentence):
        layout.find(tmp_path).manifest()


def test_a_manifest_without_a_number_is_of_the_first_schema(three_schemas):
    values = Manifest(0, {}, np.zeros(0, np.uint64), {}, {"experiment": {"rate": 1}}).to_json()
    del values["schema"]
    with pytest.raises(ValueError, match="not what was written"):
        Manifest.from_json(values)
