"""Base of objectives over two segments of text: masked tokens, and how the segments belong together (BERT, ALBERT).

An example is `[CLS] FIRST [SEP] SECOND [SEP]`, with types of token 0 and 1, and several are packed into a row. Its
label stands on `[CLS]`. Shapes: b batch, t length, d width, n tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs
from t5x_like.objectives.base import Batch, Loss, Mode, Record
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.sentences import check_sentence_ends, sentence_starts, whole_sentences
from t5x_like.objectives.sequences import without_end

NO_PAIR = 0  # the label where there is one segment alone; classes are counted from 1


class SegmentPair(NamedTuple):
    """The segments of an example.

    Attributes:
      first: int32 [n].
      second: int32 [n]; empty where the text cannot be divided.
      label: a class, from 1 on, or `NO_PAIR`.
    """

    first: np.ndarray
    second: np.ndarray
    label: int


@dataclass(frozen=True, kw_only=True)
class SentencePairs(MaskedLM):
    """Options of every such objective, which adds `segments`, beside those of `MaskedLM`.

    Attributes:
      cls_id: the token before the first segment, whose state the label is predicted from.
      sep_id: the token behind each segment. An end of a document that is the same token is left out first.
      sentence_ends: tokens with which a sentence ends; a segment is whole sentences, one or several. A window with
        fewer than two is one segment, without a label.
      pair_weight: of the label's loss, beside that of the masked tokens.
    """

    cls_id: int
    sep_id: int
    sentence_ends: tuple[int, ...] = ()
    pair_weight: float = 1.0

    added: ClassVar[int] = 3  # tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("cls_id", "sep_id"):
            token = getattr(self, field)
            if not 0 <= token < self.vocab_size:
                raise ExperimentError(field, f"{token} must be at least 0 and below vocab_size, {self.vocab_size}")
        if self.pair_weight < 0:
            raise ExperimentError("pair_weight", f"{self.pair_weight} is negative; it must be at least 0")

    def segments(self, text: np.ndarray, record: Record, rng: np.random.Generator) -> SegmentPair:
        """Divides a text.

        Args:
          text: int32 [n], two whole sentences at least.
          record: that it is from.
          rng: draws.
        """
        raise NotImplementedError

    def sentences(self, record: Record) -> np.ndarray:
        """int32: the whole sentences of what a window holds of a document.

        With parts of sentences at the window's edges, those would tell which segment comes first.
        """
        text = without_end(record["tokens"], self.sep_id)
        stops = len(text) < len(record["tokens"])
        return whole_sentences(text, self.sentence_ends, begins=record["start"] == 0, stops=stops)

    # --- What it reads ------------------------------------------------------------------------------------------------

    def features(self, length: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Packed rows of tokens, which of them count, their types, and on [CLS] the label: all int32 [length]."""
        more = {name: jax.ShapeDtypeStruct((length,), np.int32) for name in ("types", "labels")}
        return {**super().features(length), **more}

    def record_length(self, length: int) -> int:
        """The tokens of a text to which three are added."""
        if length <= self.added:
            raise ExperimentError(
                "data.sequence_length", f"{length} has no room for text; make it at least {self.added + 1}"
            )
        return length - self.added

    def example(self, record: Record, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Both segments with some tokens hidden or exchanged; what they were; a weight of 1 on those; and the label."""
        text = without_end(record["tokens"], self.sep_id)
        if not text.size:
            return {}
        sentences = self.sentences(record)
        if len(sentence_starts(sentences, self.sentence_ends)) > 1:
            first, second, label = self.segments(sentences, record, rng)
        else:
            first, second, label = text, text[:0], NO_PAIR
        begin, end = np.array([self.cls_id], np.int32), np.array([self.sep_id], np.int32)
        tokens = np.concatenate([begin, first, end, *([second, end] if len(second) else [])])
        types, labels = np.zeros((2, len(tokens)), np.int32)
        types[len(first) + 2 :] = 1
        labels[0] = label
        return {**self(tokens, rng), "types": types, "labels": labels}

    @property
    def own_specials(self) -> tuple[int, ...]:
        """[CLS] and [SEP] are never predicted and never drawn."""
        return (self.cls_id, self.sep_id)

    def check_vocabulary(self, vocabulary: Any) -> None:
        """Raises ExperimentError as `MaskedLM` does, and where sentences cannot be told."""
        super().check_vocabulary(vocabulary)
        check_sentence_ends(self.sentence_ends, vocabulary)

    # --- The loss -----------------------------------------------------------------------------------------------------

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture's model: an encoder with two types of token, a pooler and two classes of pairs.

        Raises:
          ExperimentError: when the model is not so.
        """
        model = super().build(architecture, rngs)
        if getattr(architecture.encoder.embeddings, "types", 0) < 2:
            raise ExperimentError(
                "model.encoder.embeddings.types",
                f"objective {self.name!r} has two types of token, of its first and its second segment; set it to 2",
            )
        if getattr(architecture.head, "classes", 0) != 2 or model.pooler is None:
            raise ExperimentError(
                "model.head.classes",
                f"objective {self.name!r} tells two classes of pairs apart; set it to 2, and model.head.pooler to True",
            )
        return model

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """Of the masked tokens by `normalization`, and the number of labels."""
        labels = (batch["labels"] > 0).sum(dtype=jnp.float32)
        # Without any there is still something to learn: a denominator of zero would skip the step.
        return {**super().denominators(batch), "pair": jnp.maximum(labels, 1.0)}

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of `TokenLoss` over the masked tokens, and −log p of the labels."""
        dropout_rngs = mode.rngs(rngs)
        states_btd = model.states(
            batch["inputs"],
            positions_bt=batch["positions"],
            segment_ids_bt=batch["segment_ids"],
            rngs=dropout_rngs,
            types_bt=batch["types"],
        )
        hidden_btd = model.finish(states_btd, dropout_rngs)
        masked = self.sums(model, hidden_btd, batch["targets"], self.counted(batch), batch["segment_ids"], mode)
        total, right, count = _classified(model.pooler.scores(states_btd), batch["labels"])
        metrics = {**masked.metrics, "pair_accuracy": (right, count), "pair_loss": (total, count)}
        return Loss({**masked.terms, "pair": self.pair_weight * total}, metrics)


def _classified(logits_btc: jax.Array, labels_bt: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Over the labels: the sum of −log p, how many are right, and how many there are."""
    real_bt = (labels_bt > 0).astype(jnp.float32)
    class_bt = jnp.maximum(labels_bt - 1, 0)
    log_p_bt = jnp.take_along_axis(jax.nn.log_softmax(logits_btc), class_bt[..., None], -1)[..., 0]
    right_bt = real_bt * (logits_btc.argmax(-1) == class_bt)
    return -(real_bt * log_p_bt).sum(), jax.lax.stop_gradient(right_bt.sum()), real_bt.sum()
