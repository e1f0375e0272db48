"""SentencePiece vocabularies (Kudo and Richardson 2018)."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import sentencepiece

from t5x_like.data.vocabulary import PAD_ID, Vocabulary, count_sentinels, sentinel, usable_cores
from t5x_like.errors import ExperimentError


class SentencePieceVocabulary(Vocabulary):
    """A trained SentencePiece model."""

    file = "vocabulary.model"

    def __init__(
        self, model: bytes, where: str = "data.task.tokenizer", path: str = "the vocabulary", extra_ids: int = 0
    ) -> None:
        """Reads the model.

        Args:
          model: the content of the `.model` file.
          where: the field of the experiment that names it, for errors.
          path: what the experiment calls it, for errors.
          extra_ids: sentinels to put on top of it, as SeqIO does: a text that spells one, after a space, becomes it.

        Raises:
          ExperimentError: when it is no SentencePiece model, or has no piece that ends a text.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            if extra_ids:
                model = with_sentinels(model, extra_ids, from_text=True)
                self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise ExperimentError(
                where, f"{path} is not a SentencePiece model; make one with t5x_like data train-tokenizer"
            ) from None
        self.model = model
        self.size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        self.bos_id: int = self._processor.bos_id()
        self.unk_id: int = self._processor.unk_id()
        self.sentinels = count_sentinels(self.size, self._processor.id_to_piece)
        if self.eos_id < 0:
            raise ExperimentError(
                where, f"{path} has no piece that ends a text and that no text becomes; train it with an eos_id"
            )
        # SentencePiece writes nothing for a piece that no text becomes.
        tops = range(self.size - self.sentinels, self.size)
        self._unwritten = {i: sentinel(self.size - 1 - i) for i in tops if self._processor.is_control(i)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        return self._processor.EncodeAsIds(text)

    def encode_document(self, text: str) -> np.ndarray:
        """The ids of a text and its end, int32 [n]; a third quicker than lists where arrays are wanted."""
        return self._processor.EncodeAsNumpy(text, add_eos=True)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, on every core this process may use."""
        return self._processor.encode(list(texts), out_type=int, num_threads=usable_cores())

    @property
    def _silent(self) -> tuple[int, ...]:
        return (self.eos_id,) if self._processor.is_unknown(PAD_ID) else (PAD_ID, self.eos_id)

    def _decode(self, ids: list[int]) -> str:
        if self._unwritten.keys().isdisjoint(ids):
            return self._processor.DecodeIds(ids)
        runs = groupby(ids, lambda i: i in self._unwritten)
        return "".join(
            "".join(map(self._unwritten.__getitem__, run)) if named else self._processor.DecodeIds(list(run))
            for named, run in runs
        )


def with_sentinels(model: bytes, count: int, *, from_text: bool) -> bytes:
    """A model with sentinels on top: the last id is <extra_id_0>, as T5 has them.

    Args:
      model: the content of a `.model` file.
      count: how many.
      from_text: whether a text that spells one, after a space, becomes it, as in T5 and SeqIO; otherwise none does.

    Returns:
      The content of the new file; with `from_text`, the bytes that SeqIO makes.
    """
    if not count:
        return model
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    proto, kinds = messages.ModelProto.FromString(model), messages.ModelProto.SentencePiece
    for number in reversed(range(count)):
        name = sentinel(number)
        piece, kind = (f"▁{name}", kinds.USER_DEFINED) if from_text else (name, kinds.CONTROL)
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    return proto.SerializeToString()
