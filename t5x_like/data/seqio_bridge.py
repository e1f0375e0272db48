"""SeqIO's tasks and mixtures as ours.

SeqIO stands on TensorFlow, which takes ten seconds and 800 MB to import: it is imported where data is read, and nowhere
else in the program.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t5x_like import registry
from t5x_like.checks import require_at_least
from t5x_like.data.byte_vocabulary import ByteVocabulary
from t5x_like.data.dataset import Component, Dataset, MixtureStage
from t5x_like.data.documents import Documents, Sequences
from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
from t5x_like.data.seqio_sources import count_where_unknown, needs_lengths, outline
from t5x_like.data.seqio_vocabularies import Ids, Wrapped, byte_length
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.data.vocabulary import PAD_ID, Vocabulary
from t5x_like.errors import ExperimentError, UserError

_WHERE = "data.task.mixture"
_KEPT_DATASETS = 16


@dataclass(frozen=True, kw_only=True)
class SeqioTask:
    """A task or mixture of SeqIO's registries, read once into memory and from there on like any other, or streamed.

    A mixture keeps its rates. As SeqIO does, it leaves out tasks that lack the split.

    What registers it is imported first, with `--module`.

    Attributes:
      mixture: its name in SeqIO.
      feature: which of its output features holds the tokens.
      features: where the task makes whole examples, such as inputs and targets: each of their features, and the tokens
        that SeqIO's preprocessors are told it may have at most, to which SeqIO trims it. None are for a task of text,
        which is cut and packed here.
      use_cached: read SeqIO's offline cache.
      cache_dirs: where SeqIO's offline caches are, besides where it looks already.
      data_dir: where TFDS keeps its datasets, whatever the task says; empty for what it says.
      first_tokens: about how many tokens of each task are read, from its beginning, where it is read into memory; 0
        reads all.
    """

    name: str = "seqio"
    mixture: str = ""
    feature: str = "targets"
    features: Mapping[str, int] = field(default_factory=dict)
    use_cached: bool = False
    cache_dirs: tuple[str, ...] = ()
    data_dir: str = ""
    first_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.mixture:
            raise ExperimentError("mixture", "it is empty; give the name of a SeqIO task or mixture")
        require_at_least(self, 0, "first_tokens")
        for name, length in self.features.items():
            if length < 1:
                raise ExperimentError(f"features.{name}", f"{length} is too small; it must be at least 1")
        if self.features and self.feature not in self.features:
            raise ExperimentError(
                "feature", f"{self.feature!r} is not among features; " + registry.suggest(self.feature, self.features)
            )

    def vocabulary(self) -> Any:
        """The feature's vocabulary: a `Vocabulary` where SeqIO's is SentencePiece, and otherwise one like it."""
        return self._vocabulary

    def unlike(self, file: str, extra_ids: int) -> str:
        """How SeqIO's vocabulary of the feature differs from a SentencePiece file; nothing where it does not."""
        import seqio

        found = self._provider.output_features[self.feature].vocabulary
        if not isinstance(found, seqio.SentencePieceVocabulary):
            return f"the task's is a {type(found).__name__}"
        if _pieces(found.sentencepiece_model_file, found.extra_ids) != _pieces(file, extra_ids):
            return f"the task's is {found.sentencepiece_model_file!r} with extra_ids={found.extra_ids}"
        return ""

    def has_split(self, split: str) -> bool:
        """Whether SeqIO's task, or a task of its mixture, has it."""
        return split in self._provider.splits

    def open(self, split: str) -> Dataset:
        """The examples of a split as documents, task after task in SeqIO's unshuffled order.

        Text is ended once; `features` are as SeqIO makes them.

        Raises:
          ExperimentError: for an unknown or empty split, or what SeqIO cannot read.
        """
        if split not in self._opened:
            self._opened[split] = self._read(split)
        return self._opened[split]

    def assets(self) -> Mapping[str, bytes]:
        """The SentencePiece model, where there is one."""
        vocabulary = self._vocabulary
        return {vocabulary.file: vocabulary.model} if isinstance(vocabulary, Vocabulary) else {}

    def stream(self, split: str) -> StreamedDataset:
        """The same, as SeqIO's shards of each task: for what does not fit into memory, such as C4.

        A mixture's rates are shares of the examples where `features` are given. Else they are read as shares of the
        tokens: how long a task's examples are is not known.
        """
        dtype, names = self._vocabulary.dtype, tuple(self.features)

        def encode(examples: Sequence[Any]) -> list[Any]:
            if names:
                return [Sequences(example.tokens.astype(dtype), example.ends) for example in examples]
            return [ids.astype(dtype) for ids in map(self._end_once, examples)]

        rates = self._rates(split)
        parts = tuple(
            StreamedComponent(
                task.name, self._shards(task, split), lambda shard, record: True, encode, dtype, names=names
            )
            for task, _ in rates
        )
        return StreamedDataset(parts, (MixtureStage(0, tuple(rate for _, rate in rates)),) if len(parts) > 1 else ())

    def fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """SHA-256 of the split's tokens and their documents: SeqIO has no digest of a source.

        Of what is streamed, the names of tasks and the sizes and a sample of their files, wherever these are.
        """
        made = {"data.task.features": json.dumps(list(self.features.items()))} if self.features else {}
        if streamed:
            return made | self._outline(split, lambda task: outline(task.source.list_shards(split)))
        corpus = self.open(split)
        total = hashlib.sha256(json.dumps([part.name for part in corpus.components]).encode())
        for documents in corpus.shards:
            total.update(documents.tokens.dtype.name.encode())
            for values in (documents.tokens, documents.offsets, documents.ends):
                total.update(np.ascontiguousarray(values).data)
        return made | {_WHERE: total.hexdigest(), f"{_WHERE} rates": json.dumps(corpus.stages)}

    def former_fingerprint(self, split: str, *, streamed: bool = False) -> dict[str, str]:
        """`fingerprint` as programs wrote it that took the names of files for what is streamed."""
        found = self.fingerprint(split, streamed=streamed)
        return found | self._outline(split, lambda task: list(task.source.list_shards(split))) if streamed else found

    def _outline(self, split: str, of: Callable[[Any], Any]) -> dict[str, str]:
        rates = self._rates(split)
        shards = json.dumps([[task.name, of(task)] for task, _ in rates])
        return {_WHERE: shards, f"{_WHERE} rates": json.dumps([rate for _, rate in rates])}

    @functools.cached_property
    def _opened(self) -> dict[str, Dataset]:
        return {}

    @functools.cached_property
    def _provider(self) -> Any:
        """SeqIO's task or mixture."""
        import seqio

        seqio.add_global_cache_dirs(list(self.cache_dirs))
        known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
        if self.mixture not in known:
            hint = registry.suggest(self.mixture, sorted(known)) if known else "it knows none"
            raise ExperimentError(
                _WHERE,
                f"SeqIO knows no task or mixture {self.mixture!r}; {hint}; --module=PATH imports what defines it",
            )
        provider = seqio.get_mixture_or_task(self.mixture)
        for task in seqio.get_subtasks(provider) if self.data_dir else ():
            if isinstance(task.source, seqio.TfdsDataSource):
                task.source.tfds_dataset.override_data_dir(self.data_dir)
        return provider

    @functools.cached_property
    def _vocabulary(self) -> Any:
        import seqio

        known = self._provider.output_features
        asked = self.features or (self.feature,)
        for name in asked:
            if name not in known:
                where = "data.task.features" if self.features else "data.task.feature"
                raise ExperimentError(
                    where, f"{self.mixture} has no feature {name!r}; " + registry.suggest(name, known)
                )
        vocabulary = known[self.feature].vocabulary
        for task in getattr(self._provider, "tasks", [self._provider]):
            for name in asked:
                if task.output_features[name].vocabulary != vocabulary:
                    raise ExperimentError(
                        _WHERE, f"the tasks and features of {self.mixture!r} do not share one vocabulary"
                    )
        if vocabulary.eos_id is None or vocabulary.eos_id < 0:
            raise ExperimentError("data.task.feature", f"the vocabulary of {self.feature!r} has no id that ends a text")
        if isinstance(vocabulary, seqio.SentencePieceVocabulary):
            return SentencePieceVocabulary(vocabulary.sp_model, _WHERE, self.mixture)
        if isinstance(vocabulary, seqio.ByteVocabulary):
            return ByteVocabulary(vocabulary.extra_ids)
        if isinstance(vocabulary, seqio.PassThroughVocabulary):
            return Ids(vocabulary)
        return Wrapped(vocabulary)

    def _rates(self, split: str) -> list[tuple[Any, float]]:
        """(task, rate) of what the mixture reads of a split."""
        provider = self._provider
        if split not in provider.splits:
            known = registry.suggest(split, sorted(provider.splits))
            raise ExperimentError("data.split", f"{self.mixture} has no split {split!r}; {known}")
        mixed = getattr(provider, "tasks", None)
        if not mixed:
            return [(provider, 1.0)]
        for task in mixed:
            count_where_unknown(task)
        try:
            rates = [(task, provider.get_rate(task)) for task in mixed]
        except UserError:
            raise
        except Exception as error:  # whatever a user's function raises
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ExperimentError(_WHERE, f"SeqIO cannot tell the rates of {self.mixture!r}: {reason}") from error
        return [(task, rate) for task, rate in rates if rate > 0 and split in task.splits]

    def _read(self, split: str) -> Dataset:
        rates, vocabulary = self._rates(split), self._vocabulary
        parts = [self._read_task(task, split, vocabulary) for task, _ in rates]
        if not sum(map(len, parts)):
            raise ExperimentError("data.split", f"split {split!r} of {self.mixture} is empty")
        if len(parts) == 1:
            return Dataset.of(parts[0])
        # SeqIO's rates are shares of the examples, and a component's weight is its share of the tokens. An empty one
        # keeps a weight, so that it is refused as any component is.
        means = [len(part.tokens) / len(part) if len(part) else 1.0 for part in parts]
        weights = [rate * mean for (_, rate), mean in zip(rates, means, strict=True)]
        components = tuple(Component.of(task.name, part) for (task, _), part in zip(rates, parts, strict=True))
        return Dataset(components, (MixtureStage(0, tuple(weights)),))

    def _read_task(self, task: Any, split: str, vocabulary: Any) -> Documents:
        examples = self._beginning(example for _, example in self._examples(task, split))
        if self.features:
            names = tuple(self.features)
            return Documents.collect_sequences(self._sized(examples, vocabulary), names, vocabulary.dtype)
        return Documents.collect(self._ended(examples, vocabulary), vocabulary.dtype)

    def _beginning(self, examples: Iterator[Any]) -> Iterator[Any]:
        """The examples with about `first_tokens` tokens, or all of them."""
        seen = 0
        for example in examples:
            yield example
            seen += len(example.tokens) if self.features else len(example)
            if 0 < self.first_tokens <= seen:
                return

    def _examples(self, task: Any, split: str, shard: Any = None, start: int = 0) -> Iterator[tuple[int, Any]]:
        """(number, the feature, or all `features`) of the examples of a task or a shard of it, from `start` on.

        An example of which no feature has a token is none.
        """
        try:
            dataset = self._dataset(task, split, shard)
            for number, example in enumerate(dataset.skip(start).as_numpy_iterator(), start):
                place = f"record {number} of {task.name!r}"
                if not self.features:
                    yield number, self._checked(self.feature, example[self.feature], place)
                elif len(sequences := self._joined(example, place)):
                    yield number, sequences
        except UserError:
            raise
        except Exception as error:  # whatever a user's preprocessors and TensorFlow raise
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            raise ExperimentError(_WHERE, f"SeqIO cannot read {task.name!r}: {first_line}") from error

    @functools.cached_property
    def _dataset(self) -> Callable[[Any, str, Any], Any]:
        """(task, split, shard) to its dataset; TensorFlow takes a second to make one, so the last few are kept."""

        def make(task: Any, split: str, shard: Any) -> Any:
            if not self.features and (asking := [p for p in task.preprocessors if needs_lengths(p)]):
                name = getattr(asking[0], "__name__", asking[0])
                raise ExperimentError(
                    "data.task.features",
                    f"it is not given, and {name} of {task.name!r} asks how long its features may be; give each one's"
                    " length, such as {'targets': 512}",
                )
            return task.get_dataset(
                sequence_length=dict(self.features) or None,
                split=split,
                use_cached=self.use_cached,
                shuffle=False,
                seed=0,
                num_epochs=1,
                shard_info=shard,
            )

        return functools.lru_cache(_KEPT_DATASETS)(make)

    def _shards(self, task: Any, split: str) -> tuple["_Shard", ...]:
        import seqio

        count = len(task.source.list_shards(split))
        return tuple(_Shard(self, task, split, seqio.ShardInfo(index, count)) for index in range(count))

    def _ended(self, examples: Iterable[np.ndarray], vocabulary: Any) -> Iterator[tuple[np.ndarray, int]]:
        """(tokens with one end, UTF-8 bytes of their text) of each example that has tokens."""
        for ids in examples:
            ids = self._end_once(ids)
            yield ids, byte_length(vocabulary, ids[:-1])

    def _sized(self, examples: Iterable[Sequences], vocabulary: Any) -> Iterator[tuple[Sequences, int]]:
        """Each example and the UTF-8 bytes of its features."""
        for example in examples:
            parts = np.split(example.tokens, example.ends[:-1])
            yield example, sum(byte_length(vocabulary, ids) for ids in parts)

    def _joined(self, example: Mapping[str, np.ndarray], place: str) -> Sequences:
        """The features of an example, end to end."""
        parts = [self._checked(name, example[name], place) for name in self.features]
        return Sequences(np.concatenate(parts), tuple(np.cumsum([len(part) for part in parts]).tolist()))

    def _checked(self, name: str, ids: np.ndarray, place: str) -> np.ndarray:
        """Ids that the type in which they are kept can hold; whether the model can is for `id_bounds` to say."""
        where = "data.task.features" if self.features else "data.task.feature"
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ExperimentError(
                where, f"{name!r} is {ids.dtype.name} of {ids.ndim} dimensions; it must be a list of token ids"
            )
        most = np.iinfo(self._vocabulary.dtype).max
        if len(ids) and not 0 <= ids.min() <= ids.max() <= most:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ExperimentError(
                where,
                f"{name!r} of {place} has the id {wrong}, and its vocabulary's ids are at least 0 and below"
                f" {self._vocabulary.size}; mend the task, or the vocabulary of its feature",
            )
        return ids

    def _end_once(self, ids: np.ndarray) -> np.ndarray:
        """An example's tokens without padding, and with one end."""
        text = np.flatnonzero((ids != PAD_ID) & (ids != self._vocabulary.eos_id))
        return np.append(ids[: text[-1] + 1] if len(text) else ids[:0], self._vocabulary.eos_id)


def _pieces(file: str, extra_ids: int) -> tuple[str, int]:
    """A SentencePiece file without the sentinels that T5's `.100extra` files hold themselves, and all sentinels."""
    held = re.search(r"\.(\d+)extra(?=/|$)", file)
    return (file.replace(held[0], ""), extra_ids + int(held[1])) if held else (file, extra_ids)


@dataclass(frozen=True)
class _Shard:
    """One of SeqIO's shards of a task."""

    owner: SeqioTask
    task: Any
    split: str
    info: Any

    def records(self, start: int = 0) -> Iterator[tuple[int, Any]]:
        """(number, tokens or sequences) of the examples from number `start` on; SeqIO makes those before, too."""
        return self.owner._examples(self.task, self.split, self.info, start)
