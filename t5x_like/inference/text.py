"""Text in, text out: prompts as a model's vocabulary spells them, stop strings, and output while it is written."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from t5x_like.data.detokenization import StreamingDecoder, continuation
from t5x_like.data.sentinels import vocabulary_of
from t5x_like.errors import UserError
from t5x_like.inference.engine import Engine
from t5x_like.inference.prompts import require_text
from t5x_like.inference.sampling import Sampling, row_keys
from t5x_like.inference.search import BeamSearch
from t5x_like.program import Program, State

# Takes a prompt's number and the next piece of its text.
Reader = Callable[[int, str], None]


class TextGenerator:
    """Continues texts with one program's model, or answers them where it reads them with an encoder.

    Attributes:
      engine: that works on ids.
      vocabulary: of the texts.
      end: the id that ends a text.
    """

    def __init__(self, program: Program, vocabulary: Any, *, begin: Sequence[int] | None = None, end: int = -1) -> None:
        """Takes a program, and the vocabulary of its task; what the objective adds to that is added here.

        Args:
          program: whose model writes.
          vocabulary: of its task.
          begin: ids in front of a text, or the one that a decoder with an encoder starts from; None is the padding id,
            as it is in training here. An empty text begins with the padding id in any case.
          end: the id that ends a text; −1 is the vocabulary's.

        Raises:
          ExperimentError: when the model's tokens see later ones, which are not there yet.
        """
        self.vocabulary = v = vocabulary_of(program.objective, vocabulary)
        self._begin = (v.pad_id,) if begin is None else tuple(begin)
        self.end = v.eos_id if end < 0 else end
        first = self._begin[0] if self._begin else v.pad_id
        self.engine = Engine(program, begin=first, end=self.end, pieces=v.size)

    def __call__(
        self,
        state: State,
        prompts: Sequence[str],
        *,
        tokens: int,
        sampling: Sampling | BeamSearch,
        key: jax.Array,
        stops: Sequence[str] = (),
        reader: Reader | None = None,
        first: int = 0,
    ) -> list[str]:
        """Up to `tokens` tokens after each prompt, as text; fewer where the model ends the document.

        Args:
          state: a training state, or its `parameters` and `model_state`.
          prompts: of any lengths.
          tokens: how many to write at most.
          sampling: how they are chosen, or the options of a beam search.
          key: of the random choices; each prompt's hang on its number, and on nothing else in the batch.
          stops: texts that end a continuation, and are no part of it.
          reader: told of each continuation's text while it is written.
          first: the number of the first of these prompts, where there were others before.

        Raises:
          UserError: for a prompt that is no text, and for a prompt and continuation that exceed the model's length.
        """
        if "" in stops:
            raise UserError("a stop string is empty, which every text begins with; give one with a character")
        require_text(prompts)
        ids = [list(self.vocabulary.encode(prompt)) for prompt in prompts]
        read = [self.read(each) for each in ids]
        self.engine.require_room(read, tokens)
        before = [() if self.engine.encoder else each for each in ids]
        weights, keys = self.engine.load(state), row_keys(key, len(prompts), first)
        if isinstance(sampling, BeamSearch):
            found = self.engine.beam_search(weights, read, tokens=tokens, options=sampling)
            texts = [self.text(before, best) for before, (best, _) in zip(before, found, strict=True)]
            texts = [_cut(text, stops)[0] for text in texts]
            for number, text in enumerate(texts if reader is not None else ()):
                reader(number, text)  # type: ignore[misc]
            return texts
        if not stops and reader is None:
            written = self.engine.write(weights, read, tokens=tokens, sampling=sampling, keys=keys)
            return [self.text(*each) for each in zip(before, written, strict=True)]
        outputs = [
            Output(number, StreamingDecoder(self.vocabulary, each), stops, reader) for number, each in enumerate(before)
        ]

        def listener(number: int, new: np.ndarray) -> bool:
            return outputs[number].take([i for i in new.tolist() if i != self.end])

        self.engine.write(weights, read, tokens=tokens, sampling=sampling, keys=keys, listener=listener)
        return [output.finish() for output in outputs]

    def read(self, ids: list[int]) -> np.ndarray:
        """The ids that the model reads, int32 [n]: an encoder's text has an end, any other the padding id in front.

        A document's first token is predicted from the padding id.
        """
        v = self.vocabulary
        if self.engine.encoder:
            return np.array([*ids, v.eos_id], np.int32)
        return np.array([*self._begin, *ids] or [v.pad_id], np.int32)

    def text(self, before: Sequence[int], written: np.ndarray) -> str:
        """The text of written ids, int32 [n], behind those of its prompt."""
        return continuation(self.vocabulary, before, written[written != self.end].tolist())


class Output:
    """The text of one continuation, which ends before the first stop string."""

    def __init__(self, number: int, decoder: StreamingDecoder, stops: Sequence[str], reader: Reader | None) -> None:
        """Takes the prompt's number, the decoder of its ids, the texts that end it, and who is told of its text."""
        self._number, self._decoder, self._stops, self._reader = number, decoder, stops, reader
        self._text, self._shown, self._stopped = "", 0, False

    def take(self, new: Sequence[int]) -> bool:
        """Adds ids; says whether a stop string came."""
        return self._add(self._decoder.push(new), final=False)

    def finish(self) -> str:
        """The whole text, after its last ids."""
        if not self._stopped:
            self._add(self._decoder.finish(), final=True)
        return self._text

    def _add(self, piece: str, *, final: bool) -> bool:
        self._text, self._stopped = _cut(self._text + piece, self._stops)
        # The end of the text may be the beginning of a stop string, and waits.
        held = 0 if final or self._stopped else max((_overlap(self._text, stop) for stop in self._stops), default=0)
        certain = len(self._text) - held
        if self._reader is not None and certain > self._shown:
            self._reader(self._number, self._text[self._shown : certain])
        self._shown = max(self._shown, certain)
        return self._stopped


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """A text up to its first stop string, and whether there is one."""
    found = [place for place in map(text.find, stops) if place >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _overlap(text: str, stop: str) -> int:
    """The number of characters at the end of a text that a stop string begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
