"""Transforms of sound: crops of samples, and log-mel frames."""

import functools
from dataclasses import dataclass

import numpy as np

from t5x_like.checks import require_positive
from t5x_like.errors import ExperimentError


@dataclass(frozen=True, kw_only=True)
class CropSound:
    """Cuts `samples` samples, from anywhere or from the beginning; what is shorter stays as it is.

    Rows of a batch are filled up with zeros.
    """

    name: str = "crop_sound"
    samples: int = 160_000
    random: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "samples")

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A part of the samples."""
        room = len(values) - self.samples
        begin = int(rng.integers(room + 1)) if self.random and room > 0 else 0
        return values[begin : begin + self.samples]


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Makes samples log-mel frames, float32 [frames, mels]; see `log_mel`.

    Attributes:
      sample_rate: of the samples.
      window: samples of a frame.
      hop: samples from one frame to the next.
      mels: bands.
    """

    name: str = "log_mel"
    sample_rate: int = 16_000
    window: int = 400
    hop: int = 160
    mels: int = 80

    def __post_init__(self) -> None:
        require_positive(self, "sample_rate", "window", "hop", "mels")
        if self.mels > self.window // 2:
            raise ExperimentError("mels", f"{self.mels} bands are more than a window of {self.window} samples has")

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The frames."""
        return log_mel(values, self.sample_rate, window=self.window, hop=self.hop, mels=self.mels)


def log_mel(samples: np.ndarray, sample_rate: int, *, window: int = 400, hop: int = 160, mels: int = 80) -> np.ndarray:
    """The logarithm of the energy in bands that are equally wide on the mel scale.

    A frame is `window` samples around each `hop`-th one, under a Hann window, the ends mirrored; its power spectrum
    goes through triangular filters of unit area (Slaney, "Auditory Toolbox", 1998), as librosa's and Whisper's are.

    Args:
      samples: float32 [samples].
      sample_rate: samples a second.
      window: samples of a frame.
      hop: samples from one frame to the next.
      mels: bands, from 0 to half the sample rate.

    Returns:
      float32 [1 + samples // hop, mels]: natural logarithms, of 10⁻¹⁰ at least.
    """
    half = window // 2
    padded = np.pad(samples, half, mode="reflect") if len(samples) > half else np.pad(samples, half)
    count = 1 + len(samples) // hop
    padded = np.pad(padded, (0, max((count - 1) * hop + window - len(padded), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:count]
    power = np.abs(np.fft.rfft(frames * _hann(window), axis=1)) ** 2
    return np.log(np.maximum(power @ mel_filters(sample_rate, window, mels), 1e-10)).astype(np.float32)


@functools.cache
def mel_filters(sample_rate: int, window: int, mels: int) -> np.ndarray:
    """float64 [1 + window // 2, mels]: the weight of each frequency in each band."""
    frequencies = np.linspace(0, sample_rate / 2, 1 + window // 2)
    edges = _hertz(np.linspace(0, _mel(sample_rate / 2), mels + 2))
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - low) / (middle - low)
    falling = (high - frequencies[:, None]) / (high - middle)
    return np.maximum(np.minimum(rising, falling), 0) * 2 / (high - low)


# Slaney's scale: linear below 1 kHz, logarithmic above.
_LINEAR, _BREAK, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def _mel(hertz: float) -> float:
    if hertz < _BREAK:
        return hertz / _LINEAR
    return float(_BREAK / _LINEAR + np.log(hertz / _BREAK) / _STEP)


def _hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < _BREAK / _LINEAR, mels * _LINEAR, _BREAK * np.exp(_STEP * (mels - _BREAK / _LINEAR)))


@functools.cache
def _hann(window: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
