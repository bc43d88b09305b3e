"""From photographs to a model's input, as a record that an exported file can carry."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin.errors import InputError, check_choice, expected_error, input_error, unknown_name_error
from keras_nin.files import read_json

if TYPE_CHECKING:
    import PIL.Image

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

MODES = ("raw", "unit", "symmetric", "bgr_mean", "standardize", "affine")
AS_ARRAYS = "none"  # in place of a preset: arrays as they are
_MODE_ARGUMENTS = {"unit": ("mean", "std"), "bgr_mean": ("mean",), "affine": ("mean", "std")}
_CHANNEL_ORDERS = ("rgb", "bgr")
# Rows or columns farther from the center than this many targets cannot reach the crop. Without the cut, a strip of
# 1 x 100,000 pixels would be enlarged to gigabytes, of which the crop keeps one square.
_MAX_STRIP = 16
_NORMALIZED = 32  # images at a time, because the arithmetic copies them


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How uint8 images become a model's float32 input: resize, center crop, channels, then the arithmetic of `mode`.

    Args:
        mode: "raw" (0 to 255), "unit" (x / 255, minus `mean`, divided by `std`; RGB), "symmetric" (x / 127.5 - 1),
            "bgr_mean" (channels reversed, minus `mean`, which is in BGR order), "standardize" (each image:
            (x - its mean) / max(its standard deviation, 1 / sqrt(H * W * C)), as tf.image.per_image_standardization) or
            "affine" ((x * `scale` - `mean`) / `std`, what is not given left out).
        mean: one number, or one per channel in the order of `channels`, in units of the mode: 0 to 1 for "unit", 0 to
            255 for "bgr_mean", those of x * `scale` for "affine".
        std: one number, or one per channel, for "unit" and "affine" only.
        crop_fraction: the part of the resized short side that the center crop takes, above 0 and at most 1.
        scale: for "affine" only.
        channels: order in which the network takes the channels, "rgb" or "bgr"; None is "rgb", for "bgr_mean" "bgr".

    Raises:
        InputError: an unknown mode, or constants that do not go with it.
    """

    mode: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_fraction: float = 1.0
    scale: float | None = None
    channels: str | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        object.__setattr__(self, "mean", _check_channel_values("mean", self.mean))
        object.__setattr__(self, "std", _check_channel_values("std", self.std))
        fraction: object = self.crop_fraction
        if not isinstance(fraction, numbers.Real) or isinstance(fraction, bool) or not 0 < float(fraction) <= 1:
            raise expected_error("crop_fraction", "above 0 and at most 1", fraction)
        object.__setattr__(self, "crop_fraction", float(fraction))
        accepted = _MODE_ARGUMENTS.get(self.mode, ())
        for name, values in self._channel_values().items():
            if name not in accepted:
                raise input_error(f"no `{name}` for mode {self.mode!r}", values, argument=name)
        if self.mode == "bgr_mean" and self.mean is None:
            raise input_error("`mean` (blue, green, red; 0 to 255) for mode 'bgr_mean'", None, argument="mean")
        if self.std is not None and min(self.std) <= 0:
            raise expected_error("std", "above 0 in every channel", self.std)
        if self.scale is not None:
            if self.mode != "affine":
                raise input_error(f"no `scale` for mode {self.mode!r}", self.scale, argument="scale")
            object.__setattr__(self, "scale", _check_scale(self.scale))
        if self.channels is not None:
            check_choice("channels", self.channels, _CHANNEL_ORDERS)
            if self.mode == "bgr_mean":
                raise input_error("no `channels` for mode 'bgr_mean'", repr(self.channels), argument="channels")

    @property
    def reverses_channels(self) -> bool:
        """Whether the network takes blue before green before red."""
        return self.mode == "bgr_mean" or self.channels == "bgr"

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
        try:
            height, width = (int(side) for side in size)
        except (TypeError, ValueError):
            height = width = 0
        if height < 1 or width < 1:
            raise expected_error("size", "to be (height, width) in pixels", size)
        fitted = [fit_image(image, (height, width), channels, self.crop_fraction) for image in images]
        values = np.empty((len(fitted), height, width, channels), np.float32)
        for start in range(0, len(fitted), _NORMALIZED):
            values[start : start + _NORMALIZED] = self.normalize(np.stack(fitted[start : start + _NORMALIZED]))
        return values

    def normalize(self, pixels: npt.ArrayLike) -> Floats:
        """Return `pixels` (N, H, W, C), 0 to 255, after the arithmetic of the mode, without resizing or cropping.

        A `mean` or `std` that has neither one nor C numbers is an `InputError`.
        """
        values = np.asarray(pixels, np.float32)
        for name, numbers_ in self._channel_values().items():
            if len(numbers_) not in (1, values.shape[-1]):
                raise expected_error(name, f"to have {values.shape[-1]} number(s), one per channel", numbers_)
        if self.reverses_channels:
            values = np.ascontiguousarray(values[..., ::-1])
        if self.mode == "standardize":
            return _standardize(values)
        if self.mode == "symmetric":
            return values / np.float32(127.5) - np.float32(1)
        if self.mode == "unit":
            values = values / np.float32(255)
        if self.scale is not None:
            values = values * np.float32(self.scale)
        values = values if self.mean is None else values - np.asarray(self.mean, np.float32)
        return values if self.std is None else values / np.asarray(self.std, np.float32)

    def with_constants(
        self,
        *,
        scale: float | None = None,
        mean: Iterable[float] | None = None,
        std: Iterable[float] | None = None,
        channels: str | None = None,
    ) -> Preprocessing:
        """Return the same with other constants; one that stays belongs to its color, whatever the order of channels."""
        given: dict[str, Any] = {"scale": scale, "mean": mean, "std": std, "channels": channels}
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            return self
        if set(changes) == {"channels"} and not self._channel_values():
            return dataclasses.replace(self, channels=channels)
        if self.mode == "standardize":
            received = ", ".join(f"`{name}`" for name in changes)
            raise input_error("no constants for mode 'standardize'", received, argument=next(iter(changes)))
        own: dict[str, Any] = dict(zip(("scale", "mean", "std", "channels"), self.constants, strict=True))
        if channels is not None and channels != own["channels"]:
            own |= {name: own[name] and own[name][::-1] for name in ("mean", "std")}
        return Preprocessing("affine", crop_fraction=self.crop_fraction, **own | changes)

    @property
    def constants(self) -> tuple[float, tuple[float, ...] | None, tuple[float, ...] | None, str]:
        """Scale, mean, std and order of the channels of every mode but "standardize"."""
        order = "bgr" if self.reverses_channels else "rgb"
        if self.mode == "symmetric":
            return 1 / 127.5, (1.0,), None, order
        scale = 1 / 255 if self.mode == "unit" else 1.0 if self.scale is None else self.scale
        return scale, self.mean, self.std, order

    @property
    def preset(self) -> str | None:
        """Name of the preset that does the same, its crop aside; None where there is none."""
        for name, record in PRESETS.items():
            if "standardize" in (self.mode, record.mode):
                is_same = self.mode == record.mode
            else:
                (*own, order), (*others, other_order) = self.constants, record.constants
                per_channel = any(len(values) > 1 for values in self._channel_values().values())
                is_same = own == others and (order == other_order or not per_channel)
            if is_same:
                return name
        return None

    def __str__(self) -> str:
        """Return the preset and its constants: ``"unit, [0, 1]"``."""
        parts = [self.preset or "custom"]
        if self.preset in _RANGES:
            parts.append(_RANGES[self.preset])
        elif self.mode == "standardize":
            parts.append("(x - mean of the image) / its deviation")
        else:
            parts.append(_format_affine(*self.constants[:3]))
        parts += ["BGR"] * self.reverses_channels + [f"crop {self.crop_fraction:g}"] * (self.crop_fraction != 1)
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary of JSON values, with the name of the preset."""
        document = dataclasses.asdict(self) | {"preset": self.preset}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in document.items()}

    @classmethod
    def from_json(cls, document: object) -> Preprocessing:
        """Return the record of a dictionary that `to_json` wrote, or that has constants alone, or a preset with some.

        Raises:
            InputError: other keys or values; or constants without `scale` that go with another one.
        """
        known = {*(field.name for field in dataclasses.fields(cls)), "preset"}
        if not isinstance(document, Mapping) or not document or not known.issuperset(document):
            expected = f"preprocessing as an object with the keys {', '.join(sorted(known))}"
            raise input_error(expected, repr(document), argument="preprocessing")
        given = {key: _to_tuple(key, value) for key, value in document.items() if value is not None}
        preset, mode = given.pop("preset", None), given.pop("mode", None)
        if mode is not None:
            return cls(mode, **given)
        crop = given.pop("crop_fraction", None)
        record = get_preset(preset or "raw").with_constants(**given)
        if "scale" not in given:
            _check_units(record, given)
        return record if crop is None else dataclasses.replace(record, crop_fraction=crop)


def parse_preprocessing(
    preprocessing: str | os.PathLike[str] | Preprocessing | Mapping[str, Any] | None = None, **constants: Any
) -> str | Preprocessing | dict[str, Any] | None:
    """Return the preprocessing that a user asks for: a record, ``"none"``, an order of channels alone, or None.

    Args:
        preprocessing: name of a preset; ``"none"`` for arrays as they are; path of a JSON file that holds constants, or
            of a record that an export or a training wrote; a record; or a dictionary of constants.
        **constants: `scale`, `mean`, `std` and `channels`, as in `Preprocessing` of the mode "affine"; they replace
            those of `preprocessing`. Without it they are for pixels from 0 to 255.

    Raises:
        InputError: an unknown preset, an unreadable file, or constants that do not fit.
    """
    given = {name: value for name, value in constants.items() if value is not None}
    if isinstance(preprocessing, Mapping):
        given, preprocessing = {**preprocessing, **given}, None
    if isinstance(preprocessing, str | os.PathLike) and os.fspath(preprocessing).lower().endswith(".json"):
        preprocessing = _read_preprocessing(preprocessing)
    if preprocessing is None and set(given) <= {"channels"}:
        if given:
            check_choice("channels", given["channels"], _CHANNEL_ORDERS)
        return given or None
    if preprocessing is None:
        return Preprocessing.from_json(given)
    if preprocessing == AS_ARRAYS:
        if given:
            received = ", ".join(f"`{name}`" for name in given)
            raise input_error("no constants for arrays that are fed as they are", received, argument=next(iter(given)))
        return AS_ARRAYS
    record = preprocessing if isinstance(preprocessing, Preprocessing) else get_preset(os.fspath(preprocessing))
    changed = record.with_constants(**{name: _to_tuple(name, value) for name, value in given.items()})
    if "scale" not in given:
        _check_units(changed, given)
    return changed


def _read_preprocessing(path: str | os.PathLike[str]) -> Preprocessing:
    document = read_json(path)
    if isinstance(document, dict) and "schema" in document:
        document = document.get("preprocessing")
    try:
        return Preprocessing.from_json(document)
    except InputError as error:
        raise InputError(f"{os.fspath(path)!r}: {error}", argument="preprocessing", path=path) from None


def _to_tuple(name: str, value: Any) -> Any:
    """Return a mean or std that is one number as a tuple."""
    return (value,) if name in ("mean", "std") and isinstance(value, numbers.Real) else value


def _check_units(record: Preprocessing, given: Mapping[str, Any]) -> None:
    """Raise `InputError` where a mean or std was given for pixels of other units than those of the record."""
    if record.mode != "affine":
        return
    largest = 255 * record.constants[0]
    for name in ("mean", "std"):
        values = getattr(record, name)
        if name not in given or not any(values):
            continue
        # A mean of at most 1 of pixels up to 255, or a deviation below 1, is one of pixels from 0 to 1.
        is_small = largest == 255 and (max(map(abs, values)) <= 1 if name == "mean" else max(values) < 1)
        if is_small or (name == "mean" and max(map(abs, values)) > largest):
            units = f"for pixels from 0 to {largest:g}, which `scale` changes: 1/255 gives 0 to 1, 1 gives 0 to 255"
            raise expected_error(name, units, values)


def _format_affine(scale: float, mean: Sequence[float] | None, std: Sequence[float] | None) -> str:
    """Return a formula such as ``"(x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)"``."""
    divisor = round(1 / scale, 3) if scale else 0.0
    text = "x"
    if scale != 1:
        is_divisor = scale < 1 and math.isclose(divisor * scale, 1, rel_tol=1e-6)
        text = f"x / {divisor:g}" if is_divisor else f"x * {scale:g}"
    if mean is not None:
        text = f"{text} - {_format_values(mean)}"
        text = text if std is None else f"({text})"
    return text if std is None else f"{text} / {_format_values(std)}"


def _format_values(values: Sequence[float]) -> str:
    numbers_ = ", ".join(f"{value:g}" for value in values)
    return numbers_ if len(values) == 1 else f"({numbers_})"


def _standardize(pixels: Floats) -> Floats:
    axes = (1, 2, 3)
    mean = pixels.mean(axis=axes, keepdims=True, dtype=np.float64)
    # The floor keeps a uniform image at 0 rather than at 0 / 0.
    std = np.maximum(pixels.std(axis=axes, keepdims=True, dtype=np.float64), 1 / math.sqrt(math.prod(pixels.shape[1:])))
    return (pixels - mean.astype(np.float32)) / std.astype(np.float32)


def _check_scale(scale: object) -> float:
    if not isinstance(scale, numbers.Real) or isinstance(scale, bool) or not 0 < float(scale) < math.inf:
        raise expected_error("scale", "to be a finite number above 0", scale)
    return float(scale)


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


_RANGES = {"raw": "[0, 255]", "unit": "[0, 1]", "symmetric": "[-1, 1]"}


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
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        expected = "an image as a uint8 array (height, width) or (height, width, 1, 3 or 4 channels)"
        raise input_error(expected, f"{pixels.dtype} {pixels.shape}")
    pixels = pixels.reshape(shape)[:, :, : 1 if shape[2] == 1 else 3]
    strip, (height, width) = _plan_resize(pixels.shape[:2], size, crop_fraction)
    pixels = _crop_center(pixels, strip)
    if (height, width) != pixels.shape[:2]:
        from PIL import Image

        resized = _to_pillow(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized).reshape(height, width, pixels.shape[2])
    pixels = _crop_center(pixels, size)
    if pixels.shape[2] > channels:
        return np.asarray(_to_pillow(pixels).convert("L"))[:, :, np.newaxis]
    return np.repeat(pixels, channels // pixels.shape[2], axis=2)


def fit_mask(
    mask: npt.NDArray[Any], size: tuple[int, int], map_size: tuple[int, int], crop_fraction: float = 1.0
) -> npt.NDArray[Any]:
    """Return the classes of a mask (h, w) at the pixels of a map over the image that `fit_image` makes.

    No class is mixed with another: each pixel of the map has the class at its center.

    Args:
        mask: class indices, of the size of the image.
        size, crop_fraction: as in `fit_image`.
        map_size: (H, W) of the network's output, which covers the image.
    """
    strip, resized = _plan_resize(mask.shape, size, crop_fraction)
    axes = []
    for side, middle, full, kept, count in zip(mask.shape, strip, resized, size, map_size, strict=True):
        centers = (np.arange(count) + 0.5) * kept / count + (full - kept) // 2
        axes.append((side - middle) // 2 + np.floor(centers * middle / full).astype(np.int64))
    return mask[np.ix_(*axes)]


def _plan_resize(shape: Sequence[int], size: Sequence[int], crop_fraction: float) -> tuple[list[int], list[int]]:
    """Return the (rows, columns) of the middle of an image that are resized, and those that they become."""
    target = [round(side / crop_fraction) for side in size]
    scale = max(wanted / side for wanted, side in zip(target, shape, strict=True))
    strip = [min(side, math.ceil(_MAX_STRIP * wanted / scale)) for wanted, side in zip(target, shape, strict=True)]
    return strip, [max(wanted, round(side * scale)) for wanted, side in zip(target, strip, strict=True)]


def _crop_center(pixels: Pixels, size: Sequence[int]) -> Pixels:
    """Return the middle of `pixels`, at most `size` = (rows, columns)."""
    height, width = map(min, pixels.shape[:2], size)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _to_pillow(pixels: Pixels) -> PIL.Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
