"""Which rows each process feeds, and where a batch's rows go."""

import numpy as np
import pytest

from t5x_like.errors import ExperimentError
from t5x_like.parallel import layout
from t5x_like.parallel.placement import Share, place, share, shared
from t5x_like.parallelism import Parallelism


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({0: {0}, 1: {4}}, [0, 1]),
        ({0: {0, 2}, 1: {4, 6}}, [0, 1]),
        ({0: {0}, 1: {0}, 2: {4}, 3: {4}}, [0, 0, 1, 1]),
        ({0: {0, 4}, 1: {0, 4}}, [0, 0]),
        ({0: {4, 6}, 1: {0, 2}}, [1, 0]),
        ({0: {0, 6}, 1: {2, 4}}, [0, 1]),
        ({0: {0, 2}, 1: {4, 6}, 2: {0, 2}, 3: {4, 6}}, [0, 1, 0, 1]),
    ],
    ids=[
        "a device each",
        "two devices each",
        "tensor over two",
        "tensor over all",
        "backwards",
        "snake",
        "interleaved",
    ],
)
def test_every_process_has_the_rows_of_its_devices(held, expected):
    shares = [shared(held, process) for process in held]
    assert [own.index for own in shares] == expected
    assert {own.count for own in shares} == {max(expected) + 1}


@pytest.mark.parametrize("held", [{0: {0, 1}, 1: {1, 2}}, {0: {0, 1}, 1: {2}}, {0: {0, 1}, 1: {0}}])
def test_rows_that_are_shared_in_part_are_refused(held):
    with pytest.raises(ExperimentError, match="^parallelism: the devices of some processes hold the same rows"):
        shared(held, 0)


def test_a_process_alone_feeds_everything():
    assert share(layout.make(Parallelism(fsdp=2)), 8) == Share(0, 1)


@pytest.mark.parametrize("options", [{}, {"tensor": 2}, {"tensor": 8}, {"fsdp": 4, "tensor": 2}])
def test_a_batch_is_placed_row_by_row(options):
    placed = layout.make(Parallelism(**options))
    batch = {"row": np.arange(16, dtype=np.int32), "tokens": np.arange(48, dtype=np.int32).reshape(16, 3)}
    arrays = place(batch, placed)
    for name, values in batch.items():
        np.testing.assert_array_equal(arrays[name], values)
        assert len({shard.index[0].start for shard in arrays[name].addressable_shards}) == placed.divisor("batch") or (
            placed.divisor("batch") == 1
        )
