"""Examples read off the wire, against Google's protobuf."""

import random

import pytest
from corpora import EXAMPLE, example

from t5x_like.data.sources import protobuf

KINDS = {"bytes_list": "bytes", "float_list": "floats", "int64_list": "integers"}


def random_example(rng):
    made = EXAMPLE()
    for number in range(rng.randrange(6)):
        feature = made.features.feature["".join(chr(rng.choice([97, 0xE9, 0x1F600])) for _ in range(number))]
        size = rng.choice([0, 1, 2, 300])
        which = rng.randrange(4)
        if which == 0:
            feature.bytes_list.value.extend(
                rng.randbytes(rng.choice([0, 1, 127, 128, 20_000])) for _ in range(size % 5)
            )
        elif which == 1:
            feature.float_list.value.extend(rng.random() for _ in range(size))
        elif which == 2:
            feature.int64_list.value.extend(rng.randrange(-(2**63), 2**63) for _ in range(size))
    return made


@pytest.mark.parametrize("seed", range(30))
def test_features_and_values_are_protobuf_s(seed):
    expected = random_example(random.Random(seed))
    found = protobuf.features(expected.SerializeToString())
    assert set(found) == set(expected.features.feature)
    for name, feature in expected.features.feature.items():
        kind, values = protobuf.values(found[name])
        assert kind == next((kind for field, kind in KINDS.items() if feature.HasField(field)), "nothing")
        assert values == list(feature.bytes_list.value)


@pytest.mark.parametrize("seed", range(10))
def test_broken_bytes_are_an_error_or_an_example_and_nothing_else(seed):
    rng = random.Random(seed)
    whole = example(text=[b"a text"], ids=[1, 2, 3], scores=[0.5])
    for _ in range(200):
        broken = bytearray(whole[: rng.randrange(len(whole) + 1)])
        for _ in range(rng.randrange(3)):
            if broken:
                broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            for feature in protobuf.features(bytes(broken)).values():
                protobuf.values(feature)
        except ValueError:  # UnicodeDecodeError, for a name, is one
            continue


@pytest.mark.parametrize("broken", [b"\x0a", b"\x0a\x05ab", b"\xff" * 11, b"\x03", b"\x00\x00", b"\x09abc"])
def test_what_is_no_message_is_refused(broken):
    with pytest.raises(ValueError):  # noqa: PT011
        protobuf.features(broken)
