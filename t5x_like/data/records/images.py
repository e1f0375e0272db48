"""The task `images`: JPEG, PNG and what else Pillow decodes, with classes or captions, through lists of transforms."""

import dataclasses
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.record_source import Arrays
from t5x_like.data.records.decoded import Decode, DecodedTask, Labels, require_installed, text_tokens
from t5x_like.data.records.raw import RawRecords, UndecodableError, bytes_of, field_of
from t5x_like.data.records.transforms import CenterCrop, RandomFlip, RandomResizedCrop, Resize, Scale, Transform
from t5x_like.errors import ExperimentError
from t5x_like.sections import Choice

_FIELDS = ("image", "img", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "file", "record")
_LABELS = ("label", "cls", "class")

Transforms = tuple[Annotated[Any, Choice("transform", default="resize")], ...]


def _usual_views() -> dict[str, tuple[Transform, ...]]:
    return {"image": (RandomResizedCrop(size=224), RandomFlip(), Scale())}


@dataclass(frozen=True, kw_only=True)
class ImageTask(DecodedTask):
    """Images in files, with a class or a caption; see `DecodedTask` for the other options.

    A record has an array for each view, float32 or uint8 [height, width, channels], `label` (int32) where there are
    classes, and `caption` (int32 tokens) where there are captions.

    Attributes:
      field: which field has the encoded image; empty to take the first that is usual.
      label: which field has the class; empty to take the first that is usual, and none where there is none.
      classes: the classes' names in their order, where labels are names; those of directories and of TFDS are known.
      caption: which field has a text to tokenise; empty for none.
      caption_length: tokens of a caption at most, its end included; 0 for no limit.
      channels: 3 for colours, 1 for grey.
      max_pixels: of an image; a larger one is not decoded.
      views: names of arrays, and the transforms that make each of the decoded image, with randomness of its own; two
        views are two crops of one image.
      plain: the transforms of splits that are not trained on, for every view alike.
      augmented: the splits whose records go through `views`.
    """

    endings: ClassVar[tuple[str, ...]] = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

    name: str = "images"
    field: str = ""
    label: str = ""
    classes: tuple[str, ...] = ()
    caption: str = ""
    caption_length: int = 0
    channels: int = 3
    max_pixels: int = 100_000_000
    views: Mapping[str, Transforms] = dataclasses.field(default_factory=_usual_views)
    plain: Transforms = (Resize(size=256), CenterCrop(size=224), Scale())
    augmented: tuple[str, ...] = ("train",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "max_pixels")
        require_at_least(self, 0, "caption_length")
        if self.channels not in (1, 3):
            raise ExperimentError("channels", f"{self.channels} is neither 1 (grey) nor 3 (colours)")
        if not self.views:
            raise ExperimentError("views", "it is empty; give at least one")
        for taken in {"label", "caption"} & self.views.keys():
            raise ExperimentError(f"views.{taken}", "the record has an array of this name; call the view otherwise")
        if self.caption and not self.tokenizer:
            raise ExperimentError("tokenizer", "it is empty; captions need one")

    def decoder(self, raw: RawRecords, split: str) -> Decode:
        """Decodes the image, and makes its views."""
        require_installed("PIL.Image")
        views = self.views if split in self.augmented else dict.fromkeys(self.views, self.plain)
        return functools.partial(self._decode, Labels(self.classes or raw.classes), views)

    def _decode(
        self, labels: Labels, views: Mapping[str, Transforms], raw: Mapping[str, Any], rng: np.random.Generator
    ) -> Arrays:
        image = decode_image(bytes_of(raw, self.field, _FIELDS), self.channels, self.max_pixels)
        made: dict[str, Any] = {}
        for name, transforms in views.items():
            values = image
            for transform in transforms:
                values = transform(values, rng)
            made[name] = values
        label = self.label or next((name for name in _LABELS if name in raw), "")
        if label:
            made["label"] = labels.number(field_of(raw, label))
        if self.caption:
            vocabulary = self.vocabulary()
            assert vocabulary is not None
            made["caption"] = text_tokens(field_of(raw, self.caption), vocabulary, self.caption_length, end=True)
        return made


def decode_image(content: bytes, channels: int, max_pixels: int) -> np.ndarray:
    """An encoded image as uint8 [height, width, channels], turned as its EXIF orientation says.

    Palettes, CMYK and 16 bits become 8 bits a channel; transparency is laid on black, as TensorFlow drops it.

    Raises:
      UndecodableError: for what is no whole image, or has more than `max_pixels`.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UndecodableError(f"it has {width} × {height} pixels, more than data.task.max_pixels")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith(("I", "F")):
                upright = _eight_bits(np.asarray(upright))
            elif upright.mode in ("P", "LA", "PA"):
                upright = upright.convert("RGBA")
            return np.asarray(upright.convert("RGB" if channels == 3 else "L")).reshape(*upright.size[::-1], channels)
    except UndecodableError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, DecompressionBombError …
        raise UndecodableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _eight_bits(values: np.ndarray) -> Any:
    """An image of 16 bits as one of 8."""
    from PIL import Image

    return Image.fromarray((np.clip(values, 0, 65535) / 257 + 0.5).astype(np.uint8))
