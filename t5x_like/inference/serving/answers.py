"""Answers in OpenAI's format, from what a continuous batch writes."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t5x_like.data.detokenization import StreamingDecoder
from t5x_like.inference.continuous import Running, Written
from t5x_like.inference.text import Output, TextGenerator


@dataclass(frozen=True)
class AnswerPiece:
    """A part of one choice.

    Attributes:
      text: that is new.
      log_probabilities: of the new tokens, as OpenAI's format has them; None where nobody asked.
      finish: why it ended, `stop` or `length`; None where it goes on.
    """

    text: str
    log_probabilities: Mapping[str, Any] | None = None
    finish: str | None = None


@dataclass
class Continuation:
    """One continuation while it is written: ids in, pieces of text out."""

    generator: TextGenerator
    sequence: Running
    stops: Sequence[str]
    alternatives: int | None
    before: Sequence[int]
    tokens: int = 0
    _heard: list[str] = field(default_factory=list)
    _offset: int = 0

    def __post_init__(self) -> None:
        vocabulary = self.generator.vocabulary
        decoder = StreamingDecoder(vocabulary, self.before)
        self._output = Output(0, decoder, self.stops, lambda _, text: self._heard.append(text))

    def take(self, written: Written) -> AnswerPiece:
        """What new ids add; a stop string among them ends the sequence."""
        end = self.generator.end
        self.tokens += len(written.ids)
        stopped = self._output.take([i for i in written.ids.tolist() if i != end])
        self.sequence.done = self.sequence.done or stopped
        finish = None
        if self.sequence.done:
            self._output.finish()
            finish = "stop" if stopped or (len(written.ids) and written.ids[-1] == end) else "length"
        text = "".join(self._heard)
        self._heard.clear()
        return AnswerPiece(text, None if self.alternatives is None else self._log_probabilities(written), finish)

    def _log_probabilities(self, written: Written) -> Mapping[str, Any]:
        count, spell = self.alternatives or 0, self._spelled
        names = [spell(i) for i in written.ids.tolist()]
        offsets = []
        for name in names:
            offsets.append(self._offset)
            self._offset += len(name)
        tops = [
            {spell(i): float(p) for i, p in zip(ids[:count].tolist(), log_p[:count].tolist(), strict=True)}
            for ids, log_p in zip(written.top_ids, written.top_log_p, strict=True)
        ]
        return {
            "tokens": names,
            "token_logprobs": [float(p) for p in written.log_p],
            "top_logprobs": tops if count else None,
            "text_offset": offsets,
        }

    def _spelled(self, id_: int) -> str:
        return str(self.generator.vocabulary.decode([id_]))


class CompletionFormat:
    """One endpoint's form of answers."""

    kind, chunk, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, model: str) -> None:
        """Draws the answer's id."""
        self.head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "object": self.kind,
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, pieces: Sequence[Sequence[AnswerPiece]], usage: Mapping[str, int]) -> dict[str, Any]:
        """The whole answer, from each choice's pieces."""
        choices = []
        for number, each in enumerate(pieces):
            text = "".join(piece.text for piece in each)
            told = [piece.log_probabilities for piece in each if piece.log_probabilities is not None]
            choices.append({"index": number, **self.content(text), **self.told(told), "finish_reason": each[-1].finish})
        return {**self.head, "choices": choices, "usage": dict(usage)}

    def part(self, number: int, piece: AnswerPiece) -> dict[str, Any]:
        """One piece of a choice, for streaming."""
        told = [] if piece.log_probabilities is None else [piece.log_probabilities]
        choice = {"index": number, **self.delta(piece.text), **self.told(told), "finish_reason": piece.finish}
        return {**self.head, "object": self.chunk, "choices": [choice]}

    def content(self, text: str) -> dict[str, Any]:
        """The text of a choice."""
        return {"text": text}

    def delta(self, text: str) -> dict[str, Any]:
        """A piece of it."""
        return {"text": text}

    def told(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Log-probabilities."""
        if not parts:
            return {"logprobs": None}
        joined = {key: [item for part in parts for item in part[key] or ()] for key in parts[0]}
        return {"logprobs": {**joined, "top_logprobs": joined["top_logprobs"] or None}}


class ChatFormat(CompletionFormat):
    """Answers of the chat endpoint."""

    kind, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def content(self, text: str) -> dict[str, Any]:
        """See `CompletionFormat`."""
        return {"message": {"role": "assistant", "content": text}}

    def delta(self, text: str) -> dict[str, Any]:
        """See `CompletionFormat`."""
        return {"delta": {"role": "assistant", "content": text}}

    def told(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See `CompletionFormat`."""
        if not parts:
            return {"logprobs": None}
        content = []
        for part in parts:
            tops = part["top_logprobs"] or [{}] * len(part["tokens"])
            for token, log_p, top in zip(part["tokens"], part["token_logprobs"], tops, strict=True):
                others = [{"token": other, "logprob": value} for other, value in top.items()]
                content.append({"token": token, "logprob": log_p, "top_logprobs": others})
        return {"logprobs": {"content": content}}
