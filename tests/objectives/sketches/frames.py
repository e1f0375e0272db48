"""Frames of sound in place of an encoder's tokens, and their transcription (Radford et al. 2022, section 2.2)."""

from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from t5x_like.checks import require_positive
from t5x_like.models.linear import Linear
from t5x_like.objectives.sequence_to_sequence import SequenceToSequence


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A linear layer in place of a table of tokens.

    Attributes:
      width: numbers of a frame, such as the bands of a spectrogram.
    """

    name: str = "frames"
    width: int

    def __post_init__(self) -> None:
        require_positive(self, "width")

    def build(self, model, rngs):
        """The module: float32 [batch, length, width] → [batch, length, embed]."""
        return EmbeddedFrames(self.width, model.embed, rngs)


class EmbeddedFrames(nnx.Module):
    def __init__(self, width: int, embed: int, rngs: nnx.Rngs):
        self.project = Linear(width, embed, (None, "embed"), bias=True, std=0.0, rngs=rngs)

    def __call__(self, frames_btf, dtype):
        return self.project(frames_btf.astype(dtype))


@dataclass(frozen=True, kw_only=True)
class Transcription(SequenceToSequence):
    """A text from the frames of a sound; here the columns of a picture and its caption."""

    name: str = "transcription"
    width: int = 8
    eos_id: int = 1
    target_length: int = 4

    def features(self, length):
        frames = jax.ShapeDtypeStruct((length, self.width), np.float32)
        return {**super().features(length), "encoder_input_tokens": frames}

    def record_length(self, length):
        return length

    def pair(self, record, rng):
        frames = record["image"][:, : 4 + rng.integers(5), 0].T  # one after the other from left to right
        return {"inputs": frames, "targets": np.append(record["caption"], np.int32(self.eos_id))}
