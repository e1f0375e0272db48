"""Transforms of images: small functions of an array and its randomness, composed as a list.

Images are uint8 [height, width, channels] until `scale` or `normalize` makes them float32.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from t5x_like.checks import require_positive
from t5x_like.errors import ExperimentError


class Transform(Protocol):
    """The options of a transform, which is called with an array and a generator that is the record's own."""

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The transformed array; it never changes the one it is given."""


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Makes the shorter side `size` pixels long (bicubic), and keeps the shape."""

    name: str = "resize"
    size: int = 256

    def __post_init__(self) -> None:
        require_positive(self, "size")

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image with the shorter side as long as `size`."""
        height, width = values.shape[:2]
        factor = self.size / min(height, width)
        return resized(values, (max(round(height * factor), self.size), max(round(width * factor), self.size)))


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """Cuts the middle, `size` × `size` pixels; what is smaller is filled up with black."""

    name: str = "center_crop"
    size: int = 224

    def __post_init__(self) -> None:
        require_positive(self, "size")

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The middle of the image."""
        values = _at_least(values, self.size)
        top, left = ((side - self.size) // 2 for side in values.shape[:2])
        return values[top : top + self.size, left : left + self.size]


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Cuts `size` × `size` pixels from anywhere, of the image with `padding` black pixels at each side."""

    name: str = "random_crop"
    size: int = 224
    padding: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "size")

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A part of the image."""
        border = (self.padding, self.padding)
        values = _at_least(np.pad(values, (border, border, (0, 0))), self.size)
        top, left = (int(rng.integers(side - self.size + 1)) for side in values.shape[:2])
        return values[top : top + self.size, left : left + self.size]


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """Cuts a part of random area and shape, and makes it `size` × `size` (Szegedy et al. 2015, section 6).

    Attributes:
      size: pixels of a side.
      smallest: the part's share of the image's area, at least.
      largest: likewise, at most.
      elongation: the ratio of the sides, at most.
    """

    name: str = "random_resized_crop"
    size: int = 224
    smallest: float = 0.08
    largest: float = 1.0
    elongation: float = 4 / 3

    def __post_init__(self) -> None:
        require_positive(self, "size")
        if not 0 < self.smallest <= self.largest <= 1:
            raise ExperimentError("smallest", f"{self.smallest} to {self.largest} is no range within 0 and 1")
        if self.elongation < 1:
            raise ExperimentError("elongation", f"{self.elongation} is too small; it must be at least 1")

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A part of the image, resized."""
        height, width = values.shape[:2]
        for _ in range(10):
            area = height * width * rng.uniform(self.smallest, self.largest)
            ratio = math.exp(rng.uniform(-math.log(self.elongation), math.log(self.elongation)))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
                return resized(values[top : top + high, left : left + wide], (self.size, self.size))
        side = min(height, width)  # an image so long that no such part fits: its middle
        top, left = (height - side) // 2, (width - side) // 2
        return resized(values[top : top + side, left : left + side], (self.size, self.size))


@dataclass(frozen=True, kw_only=True)
class RandomFlip:
    """Mirrors left and right, with a probability."""

    name: str = "random_flip"
    probability: float = 0.5

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image or its mirror image."""
        return values[:, ::-1] if rng.random() < self.probability else values


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Makes bytes float32 from 0 to 1."""

    name: str = "scale"

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The values over 255."""
        return values.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Makes bytes float32, from 0 to 1, less a mean and over a deviation for each channel; ImageNet's by default."""

    name: str = "normalize"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation) or min(self.deviation, default=0) <= 0:
            raise ExperimentError("deviation", "it must have a number above 0 for each one of mean")

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The normalised values."""
        if values.shape[-1] != len(self.mean):
            raise ExperimentError(
                "data.task", f"normalize has {len(self.mean)} means for {values.shape[-1]} channels; give one for each"
            )
        scaled = values.astype(np.float32) / np.float32(255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A uint8 image [height, width, channels] at another size (height, width), bicubic with antialiasing."""
    from PIL import Image

    if values.shape[:2] == size:
        return values
    squeezed = np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
    made = Image.fromarray(squeezed).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(made).reshape(*size, values.shape[-1])


def _at_least(values: np.ndarray, size: int) -> np.ndarray:
    """The image with black around it where a side is shorter than `size`."""
    missing = [max(size - side, 0) for side in values.shape[:2]]
    if not any(missing):
        return values
    return np.pad(values, (*((gap // 2, gap - gap // 2) for gap in missing), (0, 0)))
