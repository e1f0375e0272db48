"""Hugging Face tokenizers, from their one file `tokenizer.json`; they need the package `tokenizers`."""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from t5x_like.data.vocabulary import PAD_ID, Vocabulary, count_sentinels, sentinel
from t5x_like.errors import ExperimentError, UserError

# The file does not say which token ends a text. These do, by the names that published models give them; where there are
# several, the first ends a document, and others a turn of a dialogue.
_ENDS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<\uff5cend▁of▁sentence\uff5c>", "[SEP]", "[EOS]")
_BEGINNINGS = ("<s>", "<|begin_of_text|>", "<bos>", "<\uff5cbegin▁of▁sentence\uff5c>", "[CLS]", "[BOS]")


class HuggingFaceVocabulary(Vocabulary):
    """A tokenizer as the `tokenizers` library keeps it.

    A text that spells a special token, such as the end, is taken as the text it is; the library's default, to make it
    that token, would let a document end in its middle. So is a text that spells an end or a beginning which the file
    holds otherwise: as a plain added token, or as a piece of its model, as T5's does. Truncation and padding that the
    file asks for are left out, and so is what it puts around a text.
    """

    file = "tokenizer.json"

    def __init__(
        self, model: bytes, where: str = "data.task.tokenizer", path: str = "the vocabulary", extra_ids: int = 0
    ) -> None:
        """Reads the tokenizer.

        Args:
          model: the content of `tokenizer.json`.
          where: the field of the experiment that names it, for errors.
          path: what the experiment calls it, for errors.
          extra_ids: sentinels to put on top of it.

        Raises:
          UserError: when the package `tokenizers` is not installed.
          ExperimentError: when it is no tokenizer, has no token that is known to end a text or one that text cannot be
            kept from, or has sentinels already.
        """
        library = _library()
        try:
            self._tokenizer = library.Tokenizer.from_buffer(model)
            described = json.loads(model)
        except Exception:  # the library raises nothing more special
            raise ExperimentError(
                where,
                f"{path} is no tokenizer.json that Hugging Face's tokenizers can read; give one, or a .model file",
            ) from None
        if extra_ids:
            model = self._add_sentinels(extra_ids, where, path)
        self.model = model
        names = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(names.values()) + 1  # there may be ids without a token below
        self.eos_id, self.bos_id = _first(names, _ENDS), _first(names, _BEGINNINGS)
        self.unk_id = _unknown(described["model"], names)
        self.sentinels = count_sentinels(self.size, self._tokenizer.id_to_token)
        if self.eos_id < 0:
            raise ExperimentError(
                where, f"{path} has no token that is known to end a text; add a special token {_ENDS[0]} to it"
            )
        self._encoder, self.keeps_ends_from_text = self._without_ends(names, where, path)
        added = self._tokenizer.get_added_tokens_decoder()
        # Where the tokenizer has a piece of text at 0, as GPT-2's does, or the unknown one, as Llama 2's does, that is
        # not told from padding by its id.
        special = PAD_ID in added and added[PAD_ID].special and self.unk_id != PAD_ID
        self._pads = PAD_ID not in names.values() or special
        self._names = frozenset(names.values())

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        return self._encoder.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, on every core this process may use."""
        return [each.ids for each in self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)]

    @property
    def _silent(self) -> tuple[int, ...]:
        return (PAD_ID, self.eos_id) if self._pads else (self.eos_id,)

    def _decode(self, ids: list[int]) -> str:
        if self._names.issuperset(ids):
            return self._tokenizer.decode(ids, skip_special_tokens=False)
        # The library leaves out ids that have no token without a word.
        if self.unk_id >= 0:
            return self._decode([i if i in self._names else self.unk_id for i in ids])
        runs = groupby(ids, self._names.__contains__)
        return "".join(self._decode(list(run)) if known else "\ufffd" * len(list(run)) for known, run in runs)

    def _without_ends(self, names: dict[str, int], where: str, path: str) -> tuple[Any, bool]:
        """The tokenizer that encodes, from which no text gets an end or a beginning; and whether it is another one."""
        reserved = {name: names[name] for name in (*_ENDS, *_BEGINNINGS) if name in names}
        encoder = _encoding(self._tokenizer)
        reached = _reached(encoder, reserved)
        if not reached:
            return encoder, False
        described = json.loads(self._tokenizer.to_str())
        try:
            changed = _encoding(_library().Tokenizer.from_buffer(json.dumps(_hidden(described, reached)).encode()))
        except Exception:  # a merge makes the piece, which is not there now
            changed = encoder
        others = [names.items() - reserved.items() <= changed.get_vocab(with_added_tokens=True).items()]
        if _reached(changed, reserved) or not all(others):
            raise ExperimentError(
                where,
                f"a text that spells {min(reached)} becomes that token in {path}, and would end or begin a document in"
                " its middle; give a tokenizer with another token for it that no text becomes",
            )
        return changed, True

    def _add_sentinels(self, count: int, where: str, path: str) -> bytes:
        """Puts sentinels on top; gives the file of what it then is."""
        names = [sentinel(number) for number in reversed(range(count))]
        if any(self._tokenizer.token_to_id(name) is not None for name in names):
            raise ExperimentError(where, f"{path} has sentinels such as {names[-1]} already; leave extra_ids at 0")
        self._tokenizer.add_special_tokens(names)
        return self._tokenizer.to_str().encode()


def _encoding(tokenizer: Any) -> Any:
    """The tokenizer without what it does to whole texts, and with special tokens as plain text."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _reached(tokenizer: Any, reserved: dict[str, int]) -> list[str]:
    """Those of some tokens that a text which spells them becomes."""
    shapes = ("{}", "a {} b", "a{}b", " {}\n")
    return [
        name
        for name, number in reserved.items()
        if any(number in tokenizer.encode(shape.format(name), add_special_tokens=False).ids for shape in shapes)
    ]


def _hidden(described: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A `tokenizer.json` in which some tokens are special, and where its model has them are called what no text is."""
    model = described["model"]
    pieces = model["vocab"]
    # Noncharacters, and a space, which most tokenizers have split at or exchanged by then.
    aliases = {name: f"\ufffe \uffff{name}" for name in names}
    if isinstance(pieces, dict):
        model["vocab"] = {aliases.get(piece, piece): number for piece, number in pieces.items()}
        inside = aliases.keys() & pieces.keys()
    else:  # of a unigram model, with scores
        model["vocab"] = [[aliases.get(piece, piece), score] for piece, score in pieces]
        inside = aliases.keys() & {piece for piece, _ in pieces}
    added = [token for token in described["added_tokens"] if token["content"] not in inside]
    described["added_tokens"] = [
        {**token, "special": token["special"] or token["content"] in aliases} for token in added
    ]
    return described


def _first(names: dict[str, int], wanted: Iterable[str]) -> int:
    return next((names[name] for name in wanted if name in names), -1)


def _unknown(model: dict[str, Any], names: dict[str, int]) -> int:
    """The id that the file says stands for what is unknown: a unigram model gives the id, others the token."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return names.get(model.get("unk_token") or "", -1)


def _library() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise UserError("a tokenizer.json needs the package tokenizers; pip install 't5x_like[huggingface]'") from None
    return tokenizers
