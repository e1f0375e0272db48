"""A vocabulary with sentinels as T5 has them: ids above those of the text, spelled `<extra_id_0>` and so on."""

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from t5x_like.data.detokenization import text_of

_SPELLED = re.compile(r"<extra_id_(\d+)>")


class SentinelVocabulary:
    """Another vocabulary, and the last `count` ids below `size` as sentinels, counted down.

    Attributes:
      size: the number of ids.
      pad_id: of the other vocabulary.
      eos_id: likewise.
      unk_id: likewise, or -1.
    """

    def __init__(self, vocabulary: Any, size: int, count: int) -> None:
        """Puts sentinels on top of a vocabulary."""
        self._vocabulary, self._first, self.size = vocabulary, size - count, size
        self.pad_id: int = vocabulary.pad_id
        self.eos_id: int = vocabulary.eos_id
        self.unk_id: int = getattr(vocabulary, "unk_id", -1)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        parts = [part.strip(" ") for part in _SPELLED.split(text)]  # a piece's own space is before it
        ids: list[int] = []
        for number, part in enumerate(parts):
            if number % 2 == 0:
                ids += self._vocabulary.encode(part) if part else []
            elif int(part) < self.size - self._first:
                ids.append(self.size - 1 - int(part))
            else:
                ids += self._vocabulary.encode(f"<extra_id_{part}>")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding and ends are left out."""
        parts = []
        for is_sentinel, run in groupby((int(i) for i in ids), key=lambda i: i >= self._first):
            if is_sentinel:
                parts += [f"<extra_id_{self.size - 1 - i}>" for i in run]
            else:
                parts.append(text_of(self._vocabulary, list(run)))  # between text and sentinels may be unused ids
        return " ".join(part for part in parts if part)


def vocabulary_of(objective: Any, vocabulary: Any) -> Any:
    """The vocabulary of a model's texts: the task's, with what the objective adds where it has ids of its own."""
    return objective.vocabulary(vocabulary)
