import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5x_like.checkpoint.digest import digests


def digest(array) -> str:
    return digests({"x": jnp.asarray(array)})["x"]


def by_hand(words: np.ndarray) -> str:
    """The definition, in Python integers, for a vector of 32-bit words."""
    finalisers = (
        ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)),
        ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)),
    )
    sums = [0, 0]
    for lane, finaliser in enumerate(finalisers):
        weight = 1 if lane == 0 else 2 * 0x9E3779B1 + 1
        for index, word in enumerate(words.tolist()):
            mixed = word ^ (index * weight * 0x9E3779B1 % 2**32)
            for shift, factor in finaliser:
                mixed = (mixed ^ (mixed >> shift)) * factor % 2**32
            sums[lane] = (sums[lane] + mixed) % 2**32
    return "".join(f"{total:08x}" for total in sums)


def test_is_what_its_docstring_says():
    array = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert digest(array) == by_hand(array.view(np.uint32))


@pytest.mark.parametrize("spec", [("a",), (None, "b"), (("a", "b"),), ("b", "a"), ()])
def test_does_not_depend_on_the_sharding(spec):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    array = jax.random.normal(jax.random.key(0), (16, 24))
    sharded = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert len(sharded.sharding.device_set) == 8
    assert digest(sharded) == digest(array)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "int32", "int8", "uint8"])
def test_every_single_bit_counts(dtype):
    array = np.random.default_rng(0).integers(0, 100, 3).astype(dtype)
    seen = {digest(array)}
    for bit in range(array.nbytes * 8):
        raw = bytearray(array.tobytes())
        raw[bit // 8] ^= 1 << bit % 8
        seen.add(digest(np.frombuffer(bytes(raw), array.dtype)))
    assert len(seen) == array.nbytes * 8 + 1


def test_bools_and_complex_numbers_have_digests():
    assert digest([True, False]) != digest([False, True])
    assert digest(np.complex64([1 + 2j])) != digest(np.complex64([2 + 1j]))


def test_words_that_trade_places_are_noticed():
    array = np.arange(64, dtype=np.int32).reshape(8, 8)
    assert digest(array[::-1]) != digest(array)
    assert digest(array.T) != digest(array)
    assert digest(np.roll(array, 1)) != digest(array)


def test_both_lanes_see_a_change_by_themselves():
    one, other = digest(np.float32([1, 2, 3])), digest(np.float32([1, 2, 4]))
    assert one[:8] != other[:8]
    assert one[8:] != other[8:]


def test_negative_zero_and_nan_payloads_are_bits_like_others():
    assert digest(np.float32([0.0])) != digest(np.float32([-0.0]))
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert digest([quiet]) != digest([other])


def test_scalars_and_empty_arrays():
    assert digest(np.int32(1)) != digest(np.int32(2))
    assert digest(np.zeros((0, 3), np.float32)) == "0" * 16
