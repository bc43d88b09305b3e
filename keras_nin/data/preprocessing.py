"""From photographs to a model's input, as a record that an exported file can carry."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin.errors import check_choice, expected_error, input_error, unknown_name_error

if TYPE_CHECKING:
    import PIL.Image

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

MODES = ("raw", "unit", "symmetric", "bgr_mean", "standardize")
_MODE_ARGUMENTS = {"unit": ("mean", "std"), "bgr_mean": ("mean",)}
# Rows or columns farther from the center than this many targets cannot reach the crop. Without the cut, a strip of
# 1 x 100,000 pixels would be enlarged to gigabytes, of which the crop keeps one square.
_MAX_STRIP = 16


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How uint8 images become a model's float32 input: resize, center crop, channels, then the arithmetic of `mode`.

    Args:
        mode: "raw" (0 to 255), "unit" (x / 255, minus `mean`, divided by `std`; RGB), "symmetric" (x / 127.5 - 1),
            "bgr_mean" (channels reversed, minus `mean`, which is in BGR order) or "standardize" (each image:
            (x - its mean) / max(its standard deviation, 1 / sqrt(H * W * C)), as tf.image.per_image_standardization).
        mean: one number per channel, in units of the mode: 0 to 1 for "unit", 0 to 255 for "bgr_mean".
        std: one number per channel, for "unit" only.
        crop_fraction: the part of the resized short side that the center crop takes, above 0 and at most 1.

    Raises:
        InputError: an unknown mode, or a `mean`, `std` or `crop_fraction` that does not go with it.
    """

    mode: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        object.__setattr__(self, "mean", _check_channel_values("mean", self.mean))
        object.__setattr__(self, "std", _check_channel_values("std", self.std))
        object.__setattr__(self, "crop_fraction", _check_fraction(self.crop_fraction))
        accepted = _MODE_ARGUMENTS.get(self.mode, ())
        for name, values in self._channel_values().items():
            if name not in accepted:
                raise input_error(f"no `{name}` for mode {self.mode!r}", values, argument=name)
        if self.mode == "bgr_mean" and self.mean is None:
            raise input_error("`mean` (blue, green, red; 0 to 255) for mode 'bgr_mean'", None, argument="mean")
        if self.std is not None and min(self.std) <= 0:
            raise expected_error("std", "above 0 in every channel", self.std)

    def _channel_values(self) -> dict[str, tuple[float, ...]]:
        values = {"mean": self.mean, "std": self.std}
        return {name: numbers_ for name, numbers_ in values.items() if numbers_ is not None}

    def apply(self, images: Iterable[npt.ArrayLike], size: Sequence[int], channels: int) -> Floats:
        """Return `images` as the float32 array (N, H, W, `channels`) that a model takes.

        Args:
            images: uint8 arrays (h, w) or (h, w, c), of any sizes, RGB.
            size, channels: (H, W) in pixels, and the number of channels, as in `fit_image`.

        Raises:
            InputError: an image that is no such array; `mean` or `std` that does not have `channels` numbers.
        """
        height, width = _check_size(size)
        fitted = [fit_image(image, (height, width), channels, self.crop_fraction) for image in images]
        return self.scale(np.stack(fitted) if fitted else np.empty((0, height, width, channels), np.uint8))

    def scale(self, pixels: npt.ArrayLike) -> Floats:
        """Return `pixels` (N, H, W, C), 0 to 255, after the arithmetic of the mode, without resizing or cropping.

        A `mean` or `std` that does not have C numbers is an `InputError`.
        """
        values = np.asarray(pixels, np.float32)
        for name, numbers_ in self._channel_values().items():
            if len(numbers_) != values.shape[-1]:
                raise expected_error(name, f"to have {values.shape[-1]} number(s), one per channel", numbers_)
        if self.mode == "unit":
            values = values / np.float32(255)
            values = values if self.mean is None else values - np.asarray(self.mean, np.float32)
            return values if self.std is None else values / np.asarray(self.std, np.float32)
        if self.mode == "symmetric":
            return values / np.float32(127.5) - np.float32(1)
        if self.mode == "bgr_mean":
            return np.ascontiguousarray(values[..., ::-1]) - np.asarray(self.mean, np.float32)
        return _standardize(values) if self.mode == "standardize" else values

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary of JSON values."""
        document = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in document.items()}

    @classmethod
    def from_json(cls, document: object) -> Preprocessing:
        """Return the record that `to_json` wrote; `InputError` where the keys or values are others."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(document, dict) or "mode" not in document or not known.issuperset(document):
            expected = f"preprocessing as an object with the keys {', '.join(sorted(known))}"
            raise input_error(expected, repr(document), argument="preprocessing")
        return cls(**document)


def _standardize(pixels: Floats) -> Floats:
    axes = (1, 2, 3)
    mean = pixels.mean(axis=axes, keepdims=True, dtype=np.float64)
    # The floor keeps a uniform image at 0 rather than at 0 / 0.
    std = np.maximum(pixels.std(axis=axes, keepdims=True, dtype=np.float64), 1 / math.sqrt(math.prod(pixels.shape[1:])))
    return (pixels - mean.astype(np.float32)) / std.astype(np.float32)


def _check_channel_values(name: str, values: Iterable[float] | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        floats = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        floats = ()
    if not floats or not all(map(math.isfinite, floats)):
        raise expected_error(name, "to be finite numbers, one per channel", values)
    return floats


def _check_fraction(value: object) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < float(value) <= 1:
        return float(value)
    raise expected_error("crop_fraction", "above 0 and at most 1", value)


def _check_size(size: Iterable[int]) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise expected_error("size", "to be (height, width) in pixels", size)
    return height, width


PRESETS: Mapping[str, Preprocessing] = types.MappingProxyType(
    {
        "raw": Preprocessing("raw"),
        "unit": Preprocessing("unit"),
        "symmetric": Preprocessing("symmetric"),
        "standardize": Preprocessing("standardize"),
        "torch": Preprocessing("unit", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875),
        "caffe": Preprocessing("bgr_mean", (104.0, 117.0, 123.0), None, 0.875),
        "keras_caffe": Preprocessing("bgr_mean", (103.939, 116.779, 123.68), None, 0.875),
    }
)


def get_preset(name: str) -> Preprocessing:
    """Return the `Preprocessing` of that name in `PRESETS`; `InputError` where there is none."""
    if name not in PRESETS:
        raise unknown_name_error("preprocessing", name, PRESETS)
    return PRESETS[name]


def fit_image(image: npt.ArrayLike, size: tuple[int, int], channels: int, crop_fraction: float = 1.0) -> Pixels:
    """Return `image` as uint8 (H, W, channels): resized with its aspect kept, then cropped at the center.

    The resize makes the image the smallest that covers ``round(side / crop_fraction)`` on both sides, bilinear and
    antialiased as in Pillow. An image that already has this size is not resampled. Where an odd number of rows
    or columns is cut, one more goes at the bottom or the right.

    Args:
        image: uint8 array (h, w) or (h, w, 1, 3 or 4); a fourth channel (alpha) is dropped.
        size, crop_fraction: (H, W) in pixels, and the part of the resized short side that the crop takes.
        channels: 1 or 3. Grayscale is repeated to 3; RGB becomes luma (ITU-R 601-2, Pillow's "L"). Any other number is
            that of a feature map: `image` must have it and the size already.

    Raises:
        InputError: `image` is not such an array.
    """
    pixels = np.asarray(image)
    if channels not in (1, 3):
        if pixels.dtype != np.uint8 or pixels.shape != (*size, channels):
            expected = f"arrays of uint8 {(*size, channels)}: photographs have no {channels} channels"
            received = f"{pixels.dtype} {pixels.shape}. Pass 'random', or an .npz with such arrays"
            raise input_error(expected, received)
        return pixels
    pixels = _check_photograph(pixels)
    target = [round(side / crop_fraction) for side in size]
    scale = max(wanted / side for wanted, side in zip(target, pixels.shape[:2], strict=True))
    pixels = _crop_center(pixels, [math.ceil(_MAX_STRIP * wanted / scale) for wanted in target])
    height, width = (max(wanted, round(side * scale)) for wanted, side in zip(target, pixels.shape[:2], strict=True))
    if (height, width) != pixels.shape[:2]:
        from PIL import Image

        resized = _to_pillow(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized).reshape(height, width, pixels.shape[2])
    pixels = _crop_center(pixels, size)
    if pixels.shape[2] > channels:
        return np.asarray(_to_pillow(pixels).convert("L"))[:, :, np.newaxis]
    return np.repeat(pixels, channels // pixels.shape[2], axis=2)


def _check_photograph(pixels: npt.NDArray[Any]) -> Pixels:
    """Return `pixels` as (h, w, 1 or 3)."""
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        expected = "an image as a uint8 array (height, width) or (height, width, 1, 3 or 4 channels)"
        raise input_error(expected, f"{pixels.dtype} {pixels.shape}")
    return pixels.reshape(shape)[:, :, : 1 if shape[2] == 1 else 3]


def _crop_center(pixels: Pixels, size: Sequence[int]) -> Pixels:
    """Return the middle of `pixels`, at most `size` = (rows, columns)."""
    height, width = map(min, pixels.shape[:2], size)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _to_pillow(pixels: Pixels) -> PIL.Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
