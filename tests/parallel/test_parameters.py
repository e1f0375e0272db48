import pytest

from t5x_like.parallel.parameters import ParameterInfo


@pytest.mark.parametrize(
    "shape, axes, stack",
    [
        ((8, 12), ("embed", "mlp"), 0),
        ((3, 8, 12), ("layers", "embed", "mlp"), 1),
        ((3, 4, 8, 12), ("layers", "expert", "embed", "mlp"), 2),
        ((8, 3), ("embed", "expert"), 0),  # a router: its experts are outputs, not a stack
        ((3,), ("layers",), 1),
        ((), (), 0),
    ],
)
def test_the_stack_is_the_run_of_leading_stacking_axes(shape, axes, stack):
    assert ParameterInfo(shape, "float32", axes, "matrix").stack == stack


def test_every_dimension_has_a_name():
    with pytest.raises(ValueError, match="name each dimension"):
        ParameterInfo((3, 8), "float32", ("embed",), "matrix")


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="'weight' is no kind of parameter"):
        ParameterInfo((8,), "float32", ("embed",), "weight")
