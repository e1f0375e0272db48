"""The task `audio`: WAV, FLAC and what else libsndfile decodes, at one sample rate, through lists of transforms."""

import functools
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.record_source import Arrays
from t5x_like.data.records.decoded import Decode, DecodedTask, Labels, require_installed, text_tokens
from t5x_like.data.records.raw import RawRecords, UndecodableError, bytes_of, field_of
from t5x_like.data.records.sound import CropSound
from t5x_like.errors import ExperimentError
from t5x_like.sections import Choice

_FIELDS = ("audio", "speech", "sound", "wav", "flac", "ogg", "mp3", "file", "record")
_LABELS = ("label", "cls", "class")

Transforms = tuple[Annotated[Any, Choice("transform", default="crop_sound")], ...]


@dataclass(frozen=True, kw_only=True)
class AudioTask(DecodedTask):
    """Recordings in files, with a class or a transcript; see `DecodedTask` for the other options.

    A record has `audio`, float32 [samples], or what the transforms make of it, such as [frames, mels]; `label` (int32)
    where there are classes, and `transcript` (int32 tokens) where there are texts. Channels are averaged.

    Attributes:
      field: which field has the encoded recording; empty to take the first that is usual. Numbers are samples as they
        are, such as TFDS keeps, at `sample_rate`.
      label: which field has the class; empty to take the first that is usual, and none where there is none.
      classes: the classes' names in their order, where labels are names; those of directories and of TFDS are known.
      transcript: which field has a text to tokenise; empty for none.
      transcript_length: tokens of a transcript at most, its end included; 0 for no limit.
      sample_rate: samples a second; recordings of another rate are resampled.
      max_seconds: of a recording; a longer one is not decoded.
      transforms: what is done to the samples of splits that are trained on.
      plain: the transforms of other splits.
      augmented: the splits whose records go through `transforms`.
    """

    endings: ClassVar[tuple[str, ...]] = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")

    name: str = "audio"
    field: str = ""
    label: str = ""
    classes: tuple[str, ...] = ()
    transcript: str = ""
    transcript_length: int = 0
    sample_rate: int = 16_000
    max_seconds: float = 3600.0
    transforms: Transforms = (CropSound(samples=160_000),)
    plain: Transforms = (CropSound(samples=160_000, random=False),)
    augmented: tuple[str, ...] = ("train",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "sample_rate")
        require_at_least(self, 0, "transcript_length")
        if not self.max_seconds > 0:
            raise ExperimentError("max_seconds", f"{self.max_seconds} is too small; it must be above 0")
        if self.transcript and not self.tokenizer:
            raise ExperimentError("tokenizer", "it is empty; transcripts need one")

    def decoder(self, raw: RawRecords, split: str) -> Decode:
        """Decodes the recording, and transforms it."""
        require_installed("soundfile")
        transforms = self.transforms if split in self.augmented else self.plain
        return functools.partial(self._decode, Labels(self.classes or raw.classes), transforms)

    def _decode(
        self, labels: Labels, transforms: Transforms, raw: Mapping[str, Any], rng: np.random.Generator
    ) -> Arrays:
        given = raw.get(self.field or "audio")
        if isinstance(given, np.ndarray):
            values = _samples(given)
        else:
            values = decode_sound(bytes_of(raw, self.field, _FIELDS), self.sample_rate, self.max_seconds)
        for transform in transforms:
            values = transform(values, rng)
        made: dict[str, Any] = {"audio": values}
        label = self.label or next((name for name in _LABELS if name in raw), "")
        if label:
            made["label"] = labels.number(field_of(raw, label))
        if self.transcript:
            vocabulary = self.vocabulary()
            assert vocabulary is not None
            text = field_of(raw, self.transcript)
            made["transcript"] = text_tokens(text, vocabulary, self.transcript_length, end=True)
        return made


def decode_sound(content: bytes, sample_rate: int, max_seconds: float) -> np.ndarray:
    """An encoded recording as float32 [samples] from −1 to 1, its channels averaged, at another rate if need be.

    Raises:
      UndecodableError: for what is no whole recording, holds no sample or what is no number, or is too long.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            if sound.frames > max_seconds * sound.samplerate:
                seconds = sound.frames / sound.samplerate
                raise UndecodableError(f"it lasts {seconds:.0f} seconds, more than data.task.max_seconds")
            frames, rate = sound.frames, sound.samplerate
            values = sound.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UndecodableError(str(error).rstrip(".")) from None
    if len(values) < frames or _is_cut(content):
        raise UndecodableError("it is cut short")
    if not len(values):
        raise UndecodableError("it holds no sample")
    if not np.isfinite(values).all():
        raise UndecodableError("it holds samples that are no numbers")
    mono = values.mean(axis=1, dtype=np.float32)
    return mono if rate == sample_rate else resample(mono, rate, sample_rate)


def resample(values: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Samples at another rate, by a polyphase filter."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, new_rate)
    return resample_poly(values, new_rate // common, rate // common).astype(np.float32)


def _is_cut(content: bytes) -> bool:
    """Whether a WAV file is shorter than it says; libsndfile reads what there is."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return False
    place = 12
    while place + 8 <= len(content):
        kind, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        if kind == b"data":  # a stream that was never closed says 0 or the largest number
            return size not in (0, 0xFFFFFFFF) and place + 8 + size > len(content)
        place += 8 + size + size % 2
    return True


def _samples(values: np.ndarray) -> np.ndarray:
    """Samples as TFDS keeps them: integers of 16 bits, or floats."""
    if values.dtype.kind == "i":
        return (values / 32768).astype(np.float32)
    return values.astype(np.float32)
