"""Plans of initial values, from paths, shapes and options alone; and the arrays that a plan gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.checkpoint import mapping, reshaping
from t5x_like.checkpoint.manifest import Leaf
from t5x_like.checkpoint.sources import OpenSource
from t5x_like.errors import ExperimentError
from t5x_like.experiment import RESHAPINGS, Initialize

SAVED = {
    "tokens.embedding": (16, 4),
    "blocks.attention.query": (2, 4, 4),
    "blocks.mlp.up": (2, 4, 8),
    "norm.scale": (4,),
}
OPTIONS = {"model.norm": "rmsnorm", "model.rope_theta": 1e4, "model.layers": 2, "data.task.tokenizer": "a"}
EXPERIMENT = {"name": "x", "optimizer.name": "adamw", "model.dropout": 0.1}


def array(path, shape):
    return np.random.default_rng(len(path)).normal(size=shape).astype(np.float32)


def source(saved=SAVED, options=OPTIONS, dtypes=None):
    """A source in memory; `reads` lists what was read."""
    reads = []

    def read(wanted):
        reads.append([*wanted])
        for path, leaf in wanted.items():
            assert (tuple(leaf.shape), leaf.dtype) == (saved[path], jnp.dtype((dtypes or {}).get(path, "float32")))
        return {path: jnp.asarray(array(path, saved[path]), leaf.dtype) for path, leaf in wanted.items()}

    found = {path: Leaf(shape, (dtypes or {}).get(path, "float32"), "") for path, shape in saved.items()}
    return OpenSource("runs/a", found, options, read), reads


def shapes(**changes):
    return {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in {**SAVED, **changes}.items()
        if shape is not None
    }


def planned(wanted, opened=None, copies=(), here=None, **options):
    opened = opened or source()[0]
    here = {**OPTIONS, **EXPERIMENT, **(here or {})}
    return mapping.plan(
        Initialize(checkpoint="runs/a", **options), "initialize.checkpoint", wanted, copies, opened, here
    )


def refused(*arguments, **keywords):
    with pytest.raises(ExperimentError) as caught:
        planned(*arguments, **keywords)
    return caught.value


# --- What becomes what ----------------------------------------------------------------------------------------------


def test_equal_variables_need_no_rule():
    plan = planned(shapes())
    assert plan.taken == {path: path for path in SAVED}
    assert (
        plan.counts()
        == "variables from runs/a: 4 taken, 0 of them from another path, 0 reshaped, 0 fresh, 0 copied, 0 unused"
    )
    assert not plan.initialised


def test_rules_are_applied_in_order_and_the_first_value_counts():
    wanted = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in {
            "policy.tokens.embedding": (16, 4),
            "policy.blocks.attention.query": (2, 4, 4),
            "policy.blocks.mlp.up": (2, 4, 8),
            "policy.norm.scale": (4,),
            "other.norm": (4,),
        }.items()
    }
    plan = planned(wanted, rules=("norm.scale -> other.norm", "** -> policy.**"))
    assert plan.taken == {**{f"policy.{path}": path for path in SAVED}, "other.norm": "norm.scale"}
    lines = plan.lines(wanted, source()[0].leaves)
    assert lines[0].startswith("variables from runs/a: 5 taken, 5 of them from another path")
    assert "  > norm.scale -> other.norm float32[4]" in lines


def test_what_a_rule_leaves_out_is_not_taken():
    plan = planned(shapes(), rules=("norm.** ->", "** -> **"), missing=("norm.scale",))
    assert plan.fresh == ("norm.scale",)
    assert plan.unused == ("norm.scale",)
    assert plan.initialised == {"norm.scale"}


def test_everything_that_is_wrong_is_said_at_once():
    wanted = shapes(**{"norm.scale": None, "head": (4, 16), "blocks.mlp.up": (2, 4, 9)})
    error = refused(wanted, here={"model.norm": "layernorm"})
    assert error.where == "initialize.checkpoint"
    first, *lines = error.problem.splitlines()
    assert first.startswith("runs/a is of another model than this run's; initialize.rules maps")
    for field in ("rules", "missing", "unused", "reshaped", "accept"):
        assert f"initialize.{field}" in first
    assert lines == [
        "  - head float32[4, 16]: not there",
        "  + norm.scale float32[4]: only there",
        "  ~ blocks.mlp.up is float32[2, 4, 8] there and float32[2, 4, 9] here",
        "  ! model.norm: 'rmsnorm' there, 'layernorm' here",
    ]


def test_what_is_allowed_is_in_the_plan():
    wanted = shapes(**{"norm.scale": None, "head": (4, 16), "tokens.embedding": (20, 4)})
    plan = planned(
        wanted,
        here={"model.norm": "layernorm"},
        missing=("head",),
        unused=("norm.*",),
        reshaped=("tokens.* -> cut_or_pad",),
        accept=("model.norm",),
    )
    assert (plan.fresh, plan.unused, plan.reshaped) == (("head",), ("norm.scale",), {"tokens.embedding": "cut_or_pad"})
    assert plan.accepted == {"model.norm": ("rmsnorm", "layernorm")}
    assert plan.initialised == {"head", "tokens.embedding"}
    assert plan.lines(wanted, source()[0].leaves)[1:] == [
        "  ~ tokens.embedding float32[16, 4] -> tokens.embedding float32[20, 4] (cut_or_pad)",
        "  - head float32[4, 16]: fresh",
        "  + norm.scale float32[4]: unused",
        "  ! model.norm: 'rmsnorm' there, 'layernorm' here",
    ]
    assert "  = blocks.mlp.up float32[2, 4, 8]" in plan.lines(wanted, source()[0].leaves, whole=True)


def test_of_many_variables_a_run_shows_the_first_and_a_dry_run_all():
    saved = {f"layers.{number}.scale": (4,) for number in range(60)}
    wanted = {f"blocks.{number}.scale": jax.ShapeDtypeStruct((4,), jnp.float32) for number in range(60)}
    plan = planned(wanted, source(saved)[0], rules=("layers.** -> blocks.**",))
    lines = plan.lines(wanted, source(saved)[0].leaves)
    assert len(lines) == 41
    assert lines[-1] == "  … and 21 more, which train --dry-run shows"
    assert len(plan.lines(wanted, source(saved)[0].leaves, whole=True)) == 61


def test_a_table_of_another_size_names_the_field():
    assert "here: model.vocab_size was 16" in refused(shapes(**{"tokens.embedding": (20, 4)})).problem


def test_copies_are_made_here_unless_a_rule_gives_them_a_value():
    saved = {**SAVED, "ema.norm.scale": (4,)}
    wanted = shapes(**{"ema.norm.scale": (4,)})
    plan = planned(wanted, source(saved)[0], copies={"ema.norm.scale"})
    assert plan.copied == ("ema.norm.scale",)
    assert "ema.norm.scale" not in plan.taken
    plan = planned(wanted, source(saved)[0], copies={"ema.norm.scale"}, rules=("ema.** -> ema.**",))
    assert plan.taken["ema.norm.scale"] == "ema.norm.scale"
    assert not plan.copied


@pytest.mark.parametrize(
    ("options", "where", "sentence"),
    [
        (
            {"rules": ("block.** -> x.**",)},
            "rules[0]",
            "'block.**' matches no variable of runs/a; it must be one of",
        ),
        ({"rules": ("norm.scale -> norm.scales",)}, "rules[0]", "no variable of this run; did you mean 'norm.scale'?"),
        ({"missing": ("heads",)}, "missing[0]", "'heads' matches no variable of this run"),
        ({"unused": ("heads",)}, "unused[0]", "'heads' matches no variable of runs/a"),
        ({"reshaped": ("heads -> mean",)}, "reshaped[0]", "'heads' matches no variable of this run"),
        ({"accept": ("model.norms",)}, "accept[0]", "did you mean 'model.norm'?"),
        ({"accept": ("model.layers",)}, "accept[0]", "matches no option that changes what the model computes"),
    ],
)
def test_what_fits_nothing_is_refused(options, where, sentence):
    error = refused(shapes(), **options)
    assert error.where == f"initialize.{where}"
    assert sentence in error.problem


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rules": ("a",)}, r"^rules\[0\]: 'a' is no rule"),
        ({"missing": ("a..b",)}, r"^missing\[0\]: 'a\.\.b' is no path"),
        ({"reshaped": ("a -> cut_pad",)}, r"^reshaped\[0\]: 'cut_pad' is no way to reshape; did you mean 'cut_or_pad'"),
        ({"checkpoint": "", "missing": ("a",)}, r"^missing: there is no source"),
    ],
)
def test_options_are_checked_when_the_experiment_is_made(options, sentence):
    with pytest.raises(ExperimentError, match=sentence):
        Initialize(**{"checkpoint": "runs/a", **options})


# --- Options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["model.norm", "model.rope_theta", "data.task.tokenizer"])
def test_another_function_is_refused_unless_it_is_accepted(option):
    error = refused(shapes(), here={option: "other"})
    assert f"  ! {option}: {OPTIONS[option]!r} there, 'other' here" in error.problem
    assert planned(shapes(), here={option: "other"}, accept=(option,)).accepted == {option: (OPTIONS[option], "other")}


@pytest.mark.parametrize("option", ["model.dropout", "model.layers", "optimizer.name", "name", "data.task.path"])
def test_other_training_is_no_other_function(option):
    planned(shapes(), source(options={**OPTIONS, option: 1})[0], here={option: 2})


def test_an_option_that_one_of_them_does_not_have_is_not_compared():
    planned(shapes(), source(options={})[0])


# --- Arrays ---------------------------------------------------------------------------------------------------------


def taken(plan, wanted, opened):
    asked = []

    def initialise(paths):
        asked.append(paths)
        return {path: jnp.full(wanted[path].shape, 7.0) for path in paths}

    return mapping.take(plan, wanted, opened, initialise), asked


def test_one_variable_may_become_several_each_in_a_buffer_of_its_own():
    opened, reads = source({"norm.scale": (4,)})
    wanted = {name: jax.ShapeDtypeStruct((4,), jnp.float32) for name in ("a", "b", "norm.scale")}
    rules = ("norm.scale -> a", "norm.scale -> b", "norm.scale -> norm.scale")
    values, asked = taken(planned(wanted, opened, rules=rules), wanted, opened)
    assert asked == []
    assert len({value.unsafe_buffer_pointer() for value in values.values()}) == 3
    for value in values.values():
        np.testing.assert_array_equal(value, array("norm.scale", (4,)))
    assert reads == [["norm.scale"]] * 3


def test_only_what_is_missing_is_initialised():
    opened, _ = source()
    wanted = shapes(head=(4, 2))
    values, asked = taken(planned(wanted, opened, missing=("head",)), wanted, opened)
    assert asked == [frozenset({"head"})]
    np.testing.assert_array_equal(values["head"], np.full((4, 2), 7.0))
    assert set(values) == set(wanted)


def test_a_wider_dtype_is_taken_and_a_narrower_one_is_not():
    opened, _ = source(dtypes={"norm.scale": "bfloat16"})
    wanted = shapes()
    values, _ = taken(planned(wanted, opened), wanted, opened)
    assert values["norm.scale"].dtype == jnp.float32
    narrow = {**wanted, "blocks.mlp.up": jax.ShapeDtypeStruct((2, 4, 8), jnp.bfloat16)}
    assert "~ blocks.mlp.up is float32[2, 4, 8] there and bfloat16[2, 4, 8] here" in refused(narrow).problem


OLD = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_tables_are_cut_and_padded():
    fresh = np.full((6, 2), 9.0, np.float32)
    found = np.asarray(reshaping.cut_or_pad(jnp.asarray(OLD), jnp.asarray(fresh)))
    np.testing.assert_array_equal(found[:4], OLD[:, :2])
    np.testing.assert_array_equal(found[4:], 9.0)


def test_new_rows_are_the_mean_of_the_old_ones():
    found = np.asarray(reshaping.mean(jnp.asarray(OLD), jnp.zeros((6, 3))))
    np.testing.assert_array_equal(found[:4], OLD)
    np.testing.assert_allclose(found[4:], np.tile(OLD.mean(0), (2, 1)))
    np.testing.assert_array_equal(reshaping.mean(jnp.asarray(OLD), jnp.zeros((2, 3))), OLD[:2])


def test_positions_are_stretched_linearly():
    ramp = np.stack([np.arange(4.0), -np.arange(4.0)], 1).astype(np.float32)
    found = np.asarray(reshaping.interpolate(jnp.asarray(ramp), jnp.zeros((8, 2))))
    # Position i of 8 lies at (i + 1/2) / 2 - 1/2 of 4.
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(found, np.stack([expected, -expected], 1), atol=1e-6)


def test_every_way_to_reshape_is_an_option():
    assert tuple(reshaping.KINDS) == RESHAPINGS
