import jax
import jax.numpy as jnp
import pytest

from t5x_like.checkpoint import leaves
from t5x_like.checkpoint.manifest import Leaf


def saved(**shapes) -> dict[str, Leaf]:
    return {path.replace("__", "."): Leaf(shape, dtype, "0" * 16) for path, (shape, dtype) in shapes.items()}


def wanted(**shapes):
    return {path.replace("__", "."): jax.ShapeDtypeStruct(*spec) for path, spec in shapes.items()}


def test_flatten_names_leaves_and_unflatten_is_its_inverse(states):
    state = states.make()
    flat = leaves.flatten(state)
    assert {"step", "parameters.tokens.embedding", "optimizer.1.0.mu.blocks.mlp.up", "skipped.total"} <= set(flat)
    states.assert_equal(leaves.unflatten(state, flat), state)


def test_two_leaves_cannot_have_one_path():
    with pytest.raises(ValueError, match=r"the path 'a\.b'"):
        leaves.flatten({"a": {"b": jnp.int32(1)}, "a.b": jnp.int32(2)})


def test_equal_leaves_fit():
    assert leaves.misfits(wanted(a=((2, 3), jnp.bfloat16)), saved(a=((2, 3), "bfloat16"))) == []


def test_missing_and_unexpected_leaves_are_named():
    lines = leaves.misfits(wanted(a__b=((2,), jnp.float32)), saved(a__c=((2,), "float32")))
    assert lines == ["- a.b float32[2]: not in the checkpoint", "+ a.c float32[2]: only in the checkpoint"]


@pytest.mark.parametrize(
    ("here", "there", "text"),
    [
        (((2, 3), jnp.float32), ((2, 4), "float32"), "float32[2, 4] in the checkpoint and float32[2, 3] here"),
        (((2, 3), jnp.bfloat16), ((2, 3), "float32"), "float32[2, 3] in the checkpoint and bfloat16[2, 3] here"),
        (((2, 3), jnp.float32), ((6,), "float32"), "float32[6] in the checkpoint and float32[2, 3] here"),
    ],
)
def test_other_shapes_and_dtypes_are_named(here, there, text):
    assert leaves.misfits(wanted(x=here), saved(x=there)) == [f"~ x is {text}"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("parameters__tokens__embedding", "model.vocab_size was 32"),
        ("parameters__head__embedding", "model.vocab_size was 32"),
        ("parameters__positions__embedding", "model.max_length was 32"),
        ("parameters__mlp__up", ""),
    ],
)
def test_other_rows_of_a_table_name_the_field(path, field):
    (line,) = leaves.misfits(wanted(**{path: ((16, 4), jnp.float32)}), saved(**{path: ((32, 4), "float32")}))
    assert line.endswith(f"float32[16, 4] here{': ' if field else ''}{field}")


def test_other_columns_of_a_table_do_not_blame_the_vocabulary():
    (line,) = leaves.misfits(wanted(tokens=((16, 4), jnp.float32)), saved(tokens=((16, 8), "float32")))
    assert "vocab_size" not in line


def test_a_long_list_is_cut():
    text = leaves.summary([f"- {i}" for i in range(20)])
    assert text.splitlines()[-2:] == ["  - 7", "  … and 12 more"]
