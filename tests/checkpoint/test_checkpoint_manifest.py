import json

import numpy as np
import pytest

from t5x_like.checkpoint.manifest import Leaf, Manifest, finite


def example() -> Manifest:
    return Manifest(
        step=12,
        leaves={"parameters.x": Leaf((2, 3), "bfloat16", "0123456789abcdef")},
        position=np.array([[1, 2**64 - 1]], np.uint64),
        metrics=finite({"loss": np.float32(0.5), "bad": float("nan"), "worse": float("inf")}),
        meta={"seed": 3, "table": {1: "a", 10: "b", 2: "c"}, "pair": (1, 2)},
    )


def test_round_trip_through_text():
    back = Manifest.from_json(json.loads(json.dumps(example().to_json())))
    assert (back.step, back.leaves) == (12, example().leaves)
    assert back.position.dtype == np.uint64
    np.testing.assert_array_equal(back.position, example().position)
    assert back.metrics == {"loss": 0.5, "bad": None, "worse": None}
    assert back.meta == {"seed": 3, "table": {"1": "a", "10": "b", "2": "c"}, "pair": [1, 2]}


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 2)])
def test_positions_of_any_shape(shape):
    position = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
    back = Manifest.from_json(Manifest(0, {}, position, {}, {}).to_json())
    assert back.position.shape == shape


def test_a_changed_manifest_is_refused():
    values = example().to_json()
    values["step"] = 13
    with pytest.raises(ValueError, match="not what was written"):
        Manifest.from_json(values)


def test_a_later_format_is_refused():
    with pytest.raises(ValueError, match="format is 2"):
        Manifest.from_json({**example().to_json(), "format": 2})


def test_meta_must_be_json():
    with pytest.raises(TypeError, match="not JSON serializable"):
        Manifest(0, {}, np.zeros(0, np.uint64), {}, {"x": object()}).to_json()
