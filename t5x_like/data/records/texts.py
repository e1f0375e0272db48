"""The tasks `pairs` and `preferences`: records of several texts, each tokenised by itself."""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from t5x_like import registry
from t5x_like.data.record_source import Arrays, BrokenRecordError
from t5x_like.data.records.decoded import Decode, DecodedRecords, DecodedTask, text_tokens
from t5x_like.data.records.raw import RawRecords, field_of
from t5x_like.data.vocabulary import PAD_ID
from t5x_like.errors import ExperimentError

_SAMPLE = 256  # records of which the lengths are taken


class TextRecords(DecodedRecords):
    """Records of tokenised texts, whose lengths are known from a sample of them."""

    has_tokens = True

    @property
    def tokens(self) -> int:
        """About the tokens of all records."""
        return round(self._mean * len(self))

    def mean_length(self, length: int) -> float:
        """About the tokens of a record in the mean."""
        return self._mean

    @functools.cached_property
    def _mean(self) -> float:
        rng = np.random.default_rng(0)
        lengths = []
        for number in np.linspace(0, len(self) - 1, min(len(self), _SAMPLE)).astype(int).tolist():
            with contextlib.suppress(BrokenRecordError, ExperimentError):  # the run says so when it comes to it
                (arrays,) = self.read(number, rng)
                lengths.append(len(arrays["tokens"]))
        return float(np.mean(lengths)) if lengths else 1.0


@dataclass(frozen=True, kw_only=True)
class TextsTask(DecodedTask):
    """Records of named texts; see `DecodedTask` for the other options.

    A record has the int32 tokens of each text under its name, and `tokens`, all of them end to end.

    Attributes:
      fields: names of the texts, and the key, column or feature that each is in; dots lead into nested ones.
      lengths: tokens of a text at most, by its name, its end included; what is longer is trimmed, as SeqIO does.
      unended: texts that are not ended, because another follows.
    """

    kind: ClassVar[type[DecodedRecords]] = TextRecords

    name: str = "pairs"
    fields: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    unended: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tokenizer:
            raise ExperimentError("tokenizer", "it is empty; texts need one")
        if not self.fields:
            raise ExperimentError("fields", "it is empty; name the texts, such as {'inputs': 'question'}")
        for taken in {"tokens", "previous", "document", "start"} & self.fields.keys():
            raise ExperimentError(f"fields.{taken}", "the record has an array of this name; call the text otherwise")
        for option in ("lengths", "unended"):
            for name in getattr(self, option):
                if name not in self.fields:
                    raise ExperimentError(option, f"there is no text {name!r}; {registry.suggest(name, self.fields)}")
        for name, length in self.lengths.items():
            if length < 1:
                raise ExperimentError(f"lengths.{name}", f"{length} is too small; it must be at least 1")

    def decoder(self, raw: RawRecords, split: str) -> Decode:
        """Tokenises the texts."""
        return functools.partial(self._decode, self._vocabulary)

    def _decode(self, vocabulary: Any, raw: Mapping[str, Any], rng: np.random.Generator) -> Arrays:
        texts = {
            name: text_tokens(field_of(raw, key), vocabulary, self.lengths.get(name, 0), end=name not in self.unended)
            for name, key in self.fields.items()
        }
        tokens = np.concatenate(list(texts.values()))
        previous = np.concatenate([np.full(1, PAD_ID, np.int32), tokens[:-1]])
        return {"tokens": tokens, "previous": previous, "document": 0, "start": 0, **texts}


PAIRS = registry.Preset(TextsTask, {"fields": {"inputs": "inputs", "targets": "targets"}})

PREFERENCES = registry.Preset(
    TextsTask,
    {"fields": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, "unended": ("prompt",)},
)
