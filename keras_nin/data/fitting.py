"""Geometry and channels: one uint8 image of any size to the size and channels that a model takes."""

import math

import numpy as np

from keras_nin.errors import InputError

# What lies farther from the middle than this many targets cannot reach the crop. Without the cut, a strip of
# 1 x 100,000 pixels would be enlarged to gigabytes, of which the crop keeps one square.
_STRIP = 16


def fit(image, size, channels, crop_fraction=1.0):
    """Return `image` as uint8 (H, W, channels): resized with its aspect kept, then cropped at the centre.

    The resize makes the image the smallest that covers ``round(side / crop_fraction)`` on both sides, bilinear and
    antialiased as Pillow does it. An image that already has this size is not resampled. Where an odd number of rows
    or columns is cut, one more goes at the bottom or the right.

    Args:
        image: uint8 array (h, w) or (h, w, 1, 3 or 4); a fourth channel (alpha) is dropped.
        size: (H, W) in pixels.
        channels: 1 or 3. Grey is repeated to 3; RGB becomes luma (ITU-R 601-2, Pillow's "L"). Any other number is that
            of a feature map: `image` must have it and the size already.
        crop_fraction: the part of the resized short side that the crop takes.

    Raises:
        InputError: `image` is not such an array.
    """
    if channels not in (1, 3):
        return _as_map(image, (*size, channels))
    pixels = _as_grey_or_rgb(image)
    target = [round(side / crop_fraction) for side in size]
    scale = max(wanted / side for wanted, side in zip(target, pixels.shape[:2], strict=True))
    pixels = _crop(pixels, [math.ceil(_STRIP * wanted / scale) for wanted in target])
    resized = tuple(max(wanted, round(side * scale)) for wanted, side in zip(target, pixels.shape[:2], strict=True))
    if resized != pixels.shape[:2]:
        pixels = _resize(pixels, resized)
    return _to_channels(_crop(pixels, size), channels)


def _as_grey_or_rgb(image):
    pixels = np.asarray(image)
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        raise InputError(
            "Expected an image as a uint8 array (height, width) or (height, width, 1, 3 or 4 channels). "
            f"Received: {pixels.dtype} {pixels.shape}"
        )
    return pixels.reshape(shape)[:, :, : 1 if shape[2] == 1 else 3]


def _as_map(image, shape):
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        raise InputError(
            f"Expected arrays of uint8 {shape}: photographs have no {shape[2]} channels. "
            f"Received: {pixels.dtype} {pixels.shape}. Pass 'random', or an .npz with such arrays"
        )
    return pixels


def _crop(pixels, size):
    """Return the middle of `pixels`, at most `size` = (rows, columns)."""
    height, width = map(min, pixels.shape[:2], size)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _resize(pixels, size):
    from PIL import Image

    image = _to_pillow(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(*size, pixels.shape[2])


def _to_channels(pixels, channels):
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(_to_pillow(pixels).convert("L"))[:, :, np.newaxis]


def _to_pillow(pixels):
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
