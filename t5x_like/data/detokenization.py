"""Detokenization of a continuation: the text of new ids as it stands behind a prompt, at once or as a stream.

Decoding new ids by themselves is not enough. A SentencePiece vocabulary with a dummy prefix, or a `tokenizer.json` that
prepends a mark, takes the space off the first piece of whatever it decodes, which is the space between prompt and
continuation; and a character of several byte pieces may begin in the prompt. So prompt and continuation are decoded
together, and the prompt's text is taken off.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

_BROKEN = "\ufffd"  # stands for bytes that are no character, or none yet
_CONTEXT = 8  # ids before the new ones with which these are decoded at first


def text_of(vocabulary: Any, ids: Sequence[int]) -> str:
    """The `decode` of ids of which some may be beyond the vocabulary: these are the unknown piece, or U+FFFD."""
    ids = list(map(int, ids))
    if not ids or max(ids) < vocabulary.size:
        return vocabulary.decode(ids)
    unknown = getattr(vocabulary, "unk_id", -1)
    if unknown >= 0:
        return vocabulary.decode([i if i < vocabulary.size else unknown for i in ids])
    runs = groupby(ids, lambda i: i < vocabulary.size)
    return "".join(vocabulary.decode(list(run)) if inside else _BROKEN * len(list(run)) for inside, run in runs)


def continuation(vocabulary: Any, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text that `new` ids add behind a prompt.

    Args:
      vocabulary: has `decode` and `size`, and `unk_id` where it has an unknown piece.
      prompt: ids that were read; may be empty.
      new: ids that were written; padding and ends among them are no text.

    Returns:
      A text that, behind the prompt's own `decode`, gives the `decode` of both together. Where the prompt ends inside a
      character that the new ids complete, the text begins with that character. An id beyond the vocabulary, as a model
      with more rows than its tokenizer may write, becomes the unknown piece, or U+FFFD.
    """
    return _added(text_of(vocabulary, prompt), text_of(vocabulary, [*prompt, *new]))


class StreamingDecoder:
    """A continuation's text piece by piece, while its ids come; together the pieces are `continuation`'s text.

    A piece is held back while it ends inside a character. Each call decodes a few ids before the new ones and not the
    whole text.
    """

    def __init__(self, vocabulary: Any, prompt: Sequence[int] = ()) -> None:
        """Begins behind a prompt; see `continuation` for the vocabulary."""
        self._vocabulary = vocabulary
        self._context = self._shortened(list(map(int, prompt)))
        self._waiting: list[int] = []
        self._shown = text_of(vocabulary, self._context)

    def push(self, ids: Iterable[int]) -> str:
        """Takes the next ids, and gives the text that is certain by now; it may be empty."""
        self._waiting += map(int, ids)
        whole = text_of(self._vocabulary, [*self._context, *self._waiting])
        return "" if whole.endswith(_BROKEN) else self._give(whole)

    def finish(self) -> str:
        """The text that was held back; what is no whole character at the end is U+FFFD."""
        return self._give(text_of(self._vocabulary, [*self._context, *self._waiting]))

    def _give(self, whole: str) -> str:
        piece = _added(self._shown, whole)
        tail = text_of(self._vocabulary, self._waiting)
        # The ids at hand suffice as context where they spell the same behind others as by themselves.
        self._context = self._waiting if _stands(tail, whole) else [*self._context, *self._waiting]
        self._shown = tail if self._context is self._waiting else whole
        self._waiting = []
        return piece

    def _shortened(self, prompt: list[int]) -> list[int]:
        """The last ids of a prompt that spell what they spell at its end."""
        whole, count = text_of(self._vocabulary, prompt), _CONTEXT
        while count < len(prompt):
            if _stands(text_of(self._vocabulary, prompt[-count:]), whole):
                return prompt[-count:]
            count *= 2
        return prompt


def _stands(tail: str, whole: str) -> bool:
    """Whether a text, which is that of the last ids of `whole`, shows where they begin and has no broken character."""
    return bool(tail.strip()) and _BROKEN not in tail and whole.endswith(tail)


def _added(before: str, whole: str) -> str:
    """The rest of `whole` behind the text before it, or behind as much of that as still stands."""
    if whole.startswith(before):
        return whole[len(before) :]
    same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(whole))
    return whole[same:]
