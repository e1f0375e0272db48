"""Documents that are nearly the same, found by MinHash (Broder 1997; Lee et al. 2022, section 4.2 and appendix A)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from t5x_like.checks import require_positive
from t5x_like.data.cleaning import keys as keys_of
from t5x_like.data.cleaning.base import Outcome, Verdict
from t5x_like.data.cleaning.keys import Records
from t5x_like.data.cleaning.text import hash_windows, mix, normalized_words


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Drops (`near_duplicate`) all but the first document of every cluster of near-duplicates.

    A document is the set of its n-grams of words, in lower case and without punctuation. `bands` × `rows` MinHashes are
    made of it; two documents with all hashes of a band in common are near-duplicates, which happens with probability
    1 − (1 − sʳ)ᵇ where their sets have the Jaccard similarity s. A cluster is what is connected by such pairs; they
    are not compared again. Of each cluster the document with the smallest number stays.

    The defaults are those of FineWeb (Penedo et al. 2024, section 3.4 and appendix E.1): 0.92 of the pairs of
    similarity 0.8 are found, and 0.56 of those of 0.7. Lee et al. 2022, section 4.2 and appendix A, whose b and r are
    the other way round, have 450 bands of 20 rows, with 0.995 and 0.30, and compare the pairs again.

    Attributes:
      ngram: words an n-gram; a shorter document is one n-gram.
      bands: b above.
      rows: r above, hashes a band.
      seed: of the hash functions.
    """

    name: str = "near_duplicates"
    ngram: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        require_positive(self, "ngram", "bands", "rows")

    def keys(self, text: str) -> np.ndarray:
        """One hash a band: uint64 [bands]; none for a text without a word."""
        from rensa import RMinHash

        words = normalized_words(text)
        if not words:
            return np.zeros(0, np.uint64)
        n = min(self.ngram, len(words))
        sketch = RMinHash(num_perm=self.bands * self.rows, seed=self.seed)
        sketch.update(list(map(" ".join, zip(*(words[i:] for i in range(n)), strict=False))))
        hashes = np.array(sketch.digest(), np.uint64).reshape(self.bands, self.rows)
        # The band's number goes in, so that equal rows of different bands are not taken for equal.
        numbered = np.concatenate([np.arange(1, self.bands + 1, dtype=np.uint64)[:, None], hashes], axis=1)
        return hash_windows(mix(numbered.ravel()), self.rows + 1)[:: self.rows + 1]

    def decide(self, records: Records) -> Verdict:
        """The numbers of the documents that go."""
        pairs = [np.zeros((0, 2), np.int64), *_pairs(records)]
        edges = np.unique(np.concatenate(pairs), axis=0)
        return {"dropped": _all_but_first(edges)}

    def apply(self, number: int, text: str, verdict: Verdict) -> Outcome:
        """See the class."""
        dropped = verdict["dropped"]
        place = np.searchsorted(dropped, number)
        gone = place < len(dropped) and dropped[place] == number
        return Outcome(None, "near_duplicate") if gone else Outcome(text)

    def version(self) -> str:
        """Of the hashes."""
        from rensa import RMinHash

        return f"1-{RMinHash.ALGORITHM_VERSION}"


def _pairs(records: Records) -> Iterator[np.ndarray]:
    """(the first document of a bucket, another of it): int64 [n, 2]."""
    for group in keys_of.groups(records):
        begins, counts = keys_of.runs(group.keys)
        firsts = np.repeat(group.numbers[begins], counts)
        different = firsts != group.numbers
        yield np.stack([firsts[different], group.numbers[different]], axis=1)


def _all_but_first(edges: np.ndarray) -> np.ndarray:
    """The documents that are connected to one with a smaller number: int64 [n], rising.

    Args:
      edges: int64 [edges, 2].
    """
    parents: dict[int, int] = {}

    def root(number: int) -> int:
        while (parent := parents.get(number, number)) != number:
            parents[number] = parents.get(parent, parent)
            number = parent
        return number

    for a, b in edges.tolist():
        low, high = sorted((root(a), root(b)))
        if low != high:
            parents[high] = low
    return np.array(sorted(parents), np.int64)
