"""Windows lose no token, and know what came before each."""

import numpy as np
import pytest

from t5x_like.data.dataset import Component, Dataset
from t5x_like.data.documents import Documents, Windows


def made_of(*lengths, dtype=np.uint16):
    """Documents of the given lengths, whose tokens are all different."""
    numbers = iter(range(5, 10_000))
    pairs = [(np.array([next(numbers) for _ in range(n)]), 3 * n) for n in lengths]
    return Documents.collect(pairs, np.dtype(dtype))


@pytest.mark.parametrize("lengths", [(1,), (8,), (3, 1, 4, 1, 5, 9, 2, 6), (8, 8, 8), (1, 1, 1, 30)])
@pytest.mark.parametrize("length", [1, 3, 8, 100])
def test_windows_hold_every_token_once(lengths, length):
    documents = made_of(*lengths)
    windows = Windows(Dataset.of(documents).shards, length)
    pieces = [piece for w in range(len(windows)) for piece in windows.pieces(w)]
    assert np.array_equal(np.concatenate([piece.tokens for piece in pieces]), documents.tokens)
    for piece in pieces:
        document = documents.document(piece.document)
        with_start = np.concatenate([[0], document])
        stop = piece.start + len(piece.tokens)
        assert np.array_equal(piece.tokens, document[piece.start : stop])
        assert np.array_equal(piece.previous, with_start[piece.start : stop])
        assert piece.tokens.dtype == piece.previous.dtype == np.int32


def test_all_windows_but_the_last_are_full():
    windows = Windows(Dataset.of(made_of(3, 1, 4, 1, 5)).shards, 4)
    assert [sum(len(p.tokens) for p in windows.pieces(w)) for w in range(len(windows))] == [4, 4, 4, 2]


def test_tokens_above_16_bits():
    documents = Documents.collect([(np.array([70_000, 262_143]), 1)], np.dtype(np.uint32))
    (piece,) = Windows(Dataset.of(documents).shards, 8).pieces(0)
    assert piece.tokens.tolist() == [70_000, 262_143]


def test_arrays_that_do_not_belong_together_are_refused():
    good = made_of(3, 4)
    for tokens, offsets, byte_lengths in [
        (good.tokens[:-1], good.offsets, good.byte_lengths),
        (good.tokens, good.offsets, good.byte_lengths[:-1]),
        (good.tokens, np.array([0, 0, 7]), good.byte_lengths),
        (good.tokens, np.array([1, 3, 7]), good.byte_lengths),
    ]:
        with pytest.raises(ValueError, match="offsets must rise from 0"):
            Documents(tokens, offsets, byte_lengths)


def test_windows_are_numbered_through_shards_and_components():
    empty = Documents.collect([], np.dtype(np.uint16))
    parts = [Component.of("a", made_of(3, 4), made_of(2)), Component.of("b", empty), Component.of("c", made_of(10))]
    corpus = Dataset(tuple(parts))
    records = corpus.records(4)
    assert records.counts() == [3, 0, 3]
    assert corpus.bytes == 3 * (3 + 4 + 2 + 10)
    rng = np.random.default_rng(0)
    read = [[p["tokens"].tolist() for p in records.read(number, rng)] for number in range(len(records))]
    assert read == [
        [[5, 6, 7], [8]],
        [[9, 10, 11]],
        [[5, 6]],
        [[5, 6, 7, 8]],
        [[9, 10, 11, 12]],
        [[13, 14]],
    ]


@pytest.mark.parametrize(("tokens", "stride"), [(60, 1), (1000, 1), (59, 1), (30, 2), (20, 3), (7, 8), (1, 60)])
def test_a_sample_is_every_kth_document(tokens, stride):
    parts = [Component.of("a", made_of(3, 4, 2), made_of(1)), Component.of("b", made_of(10, 20, 5, 15))]
    corpus = Dataset(tuple(parts))
    whole = [(shard.document(d).tolist(), size) for shard in corpus.shards for d, size in enumerate(shard.byte_lengths)]
    sample = corpus.sampled(tokens)
    taken = [(shard.document(d).tolist(), size) for shard in sample.shards for d, size in enumerate(shard.byte_lengths)]
    assert taken == whole[::stride]
    assert all(shard.is_consistent() for shard in sample.shards)
    assert sample.bytes == sum(size for _, size in taken)
