"""The door to SeqIO, both ways: its tasks and mixtures as ours, and our tasks in its registry.

SeqIO stands on TensorFlow, which takes ten seconds and 800 MB to import: it is imported where data is read, and nowhere
else in the program.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like import registry
from t5x_like.data import sources
from t5x_like.data.documents import Documents
from t5x_like.data.tasks import VOCABULARY_FILE, TextTask
from t5x_like.data.vocabulary import PAD_ID, Vocabulary
from t5x_like.errors import ExperimentError, UserError

_WHERE = "data.task.mixture"


@dataclass(frozen=True, kw_only=True)
class SeqioTask:
    """A task or mixture of SeqIO's registries, read once into memory and from there on like any other.

    A mixture keeps its rates. As SeqIO does, it leaves out tasks that lack the split.

    What registers it is imported first, with `--module`.

    Attributes:
      mixture: its name in SeqIO.
      feature: which of its output features holds the tokens.
      use_cached: read SeqIO's offline cache.
    """

    name: str = "seqio"
    mixture: str = ""
    feature: str = "targets"
    use_cached: bool = False

    def __post_init__(self) -> None:
        if not self.mixture:
            raise ExperimentError("mixture", "it is empty; give the name of a SeqIO task or mixture")

    def vocabulary(self) -> Any:
        """The feature's vocabulary: a `Vocabulary` where SeqIO's is SentencePiece, and otherwise one like it."""
        return self._vocabulary

    def open(self, split: str) -> Documents:
        """The examples of a split as documents, each ended once, task after task in SeqIO's unshuffled order.

        Raises:
          ExperimentError: for an unknown or empty split, or what SeqIO cannot read.
        """
        if split not in self._opened:
            self._opened[split] = self._read(split)
        return self._opened[split]

    def assets(self) -> Mapping[str, bytes]:
        """The SentencePiece model, where there is one."""
        vocabulary = self._vocabulary
        return {VOCABULARY_FILE: vocabulary.model} if isinstance(vocabulary, Vocabulary) else {}

    def fingerprint(self, split: str) -> str:
        """SHA-256 of the split's tokens and their documents: SeqIO has no digest of a source."""
        documents = self.open(split)
        total = hashlib.sha256(json.dumps([documents.tokens.dtype.name, documents.components]).encode())
        for values in (documents.tokens, documents.offsets):
            total.update(np.ascontiguousarray(values).data)
        return total.hexdigest()

    @functools.cached_property
    def _opened(self) -> dict[str, Documents]:
        return {}

    @functools.cached_property
    def _provider(self) -> Any:
        """SeqIO's task or mixture."""
        import seqio

        known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
        if self.mixture not in known:
            hint = registry.suggest(self.mixture, sorted(known)) if known else "it knows none"
            raise ExperimentError(
                _WHERE,
                f"SeqIO knows no task or mixture {self.mixture!r}; {hint}; --module=PATH imports what defines it",
            )
        return seqio.get_mixture_or_task(self.mixture)

    @functools.cached_property
    def _vocabulary(self) -> Any:
        import seqio

        features = self._provider.output_features
        if self.feature not in features:
            raise ExperimentError(
                "data.task.feature",
                f"{self.mixture} has no feature {self.feature!r}; " + registry.suggest(self.feature, features),
            )
        vocabulary = features[self.feature].vocabulary
        for task in getattr(self._provider, "tasks", []):
            if task.output_features[self.feature].vocabulary != vocabulary:
                raise ExperimentError(_WHERE, f"the tasks of {self.mixture!r} do not share one vocabulary")
        if vocabulary.eos_id is None or vocabulary.eos_id < 0:
            raise ExperimentError("data.task.feature", f"the vocabulary of {self.feature!r} has no id that ends a text")
        if isinstance(vocabulary, seqio.SentencePieceVocabulary):
            return Vocabulary(vocabulary.sp_model, _WHERE, self.mixture)
        return _Wrapped(vocabulary)

    def _read(self, split: str) -> Documents:
        provider, vocabulary = self._provider, self._vocabulary
        if split not in provider.splits:
            known = registry.suggest(split, sorted(provider.splits))
            raise ExperimentError("data.split", f"{self.mixture} has no split {split!r}; {known}")
        mixed = getattr(provider, "tasks", None)
        rates = [(task, provider.get_rate(task)) for task in mixed] if mixed else [(provider, 1.0)]
        rates = [(task, rate) for task, rate in rates if rate > 0 and split in task.splits]
        parts = [self._read_task(task, split, vocabulary) for task, _ in rates]
        if not sum(map(len, parts)):
            raise ExperimentError("data.split", f"split {split!r} of {self.mixture} is empty")
        if len(parts) == 1:
            return parts[0]
        # SeqIO's rates are shares of the examples, and a component's weight is its share of the tokens.
        weights = [rate * len(part.tokens) / max(len(part), 1) for (_, rate), part in zip(rates, parts, strict=True)]
        return Documents.mix(parts, weights)

    def _read_task(self, task: Any, split: str, vocabulary: Any) -> Documents:
        try:
            dataset = task.get_dataset(
                sequence_length=None, split=split, use_cached=self.use_cached, shuffle=False, seed=0, num_epochs=1
            )
            examples = (example[self.feature] for example in dataset.as_numpy_iterator())
            return Documents.collect(self._ended(examples, vocabulary), vocabulary.dtype)
        except UserError:
            raise
        except Exception as error:  # whatever a user's preprocessors and TensorFlow raise
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            raise ExperimentError(_WHERE, f"SeqIO cannot read {task.name!r}: {first_line}") from error

    def _ended(self, examples: Iterable[np.ndarray], vocabulary: Any) -> Iterator[tuple[np.ndarray, int]]:
        """(tokens with one end, UTF-8 bytes of their text) of each example that has tokens."""
        for ids in examples:
            if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
                raise ExperimentError(
                    "data.task.feature",
                    f"{self.feature!r} is {ids.dtype.name} of {ids.ndim} dimensions; it must be a list of token ids",
                )
            text = np.flatnonzero((ids != PAD_ID) & (ids != vocabulary.eos_id))
            ids = ids[: text[-1] + 1] if len(text) else ids[:0]
            yield np.append(ids, vocabulary.eos_id), len(str(vocabulary.decode(ids.tolist())).encode())


class _Wrapped:
    """A SeqIO vocabulary of another kind than SentencePiece, with the names of `Vocabulary`."""

    pad_id = PAD_ID

    def __init__(self, vocabulary: Any) -> None:
        self._vocabulary = vocabulary
        self.size: int = vocabulary.vocab_size
        self.eos_id: int = vocabulary.eos_id
        self.dtype = np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        return list(self._vocabulary.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding and ends are left out."""
        return self._vocabulary.decode([int(i) for i in ids if int(i) not in (PAD_ID, self.eos_id)])


def as_seqio(task: TextTask, name: str) -> Any:
    """Registers one of our tasks in `seqio.TaskRegistry`, with its splits and the one feature `targets`.

    SeqIO gets the tokens that our own path reads: its tokeniser sums scores in another order, and settles near ties
    differently. Its LM converter does not split what is longer than a row: a program that reads the task through SeqIO
    must.

    Args:
      task: the task.
      name: what SeqIO is to call it.

    Returns:
      The `seqio.Task`.

    Raises:
      UserError: when SeqIO has a task of this name.
    """
    import seqio
    import tensorflow as tf

    if name in seqio.TaskRegistry.names():
        raise UserError(f"SeqIO has a task {name!r} already; give as_seqio another name")

    def read(split: str, shuffle_files: bool = False, seed: int | None = None) -> Any:
        """The documents in corpus order; SeqIO shuffles examples, and there are no files to shuffle."""
        documents = task.open(split)
        return tf.data.Dataset.from_generator(
            lambda: ({"targets": documents.document(number)[:-1]} for number in range(len(documents))),
            output_signature={"targets": tf.TensorSpec((None,), tf.int32)},
        )

    vocabulary = seqio.SentencePieceVocabulary(str(sources.resolve(task.tokenizer)))
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=tuple(task.splits)),
        preprocessors=[seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
    )
