"""Representative images: which, from where, and their identity."""

import dataclasses
from typing import Any

import numpy as np

from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The images that set the ranges of a quantised network.

    Attributes:
        source: dataset name, folder or file that they come from.
        images: float32 (N, H, W, C), as the network takes them.
        preprocessing: how they were made from pixels, as a dictionary.
        seed: of the choice among the images of the calibration split.
        sha256: over the original pixels, in order.
        names: what each image is called in its source: a path, or its number.
        noise: whether they are random numbers: good to measure the time that a file takes, and nothing else.
    """

    source: str
    images: Any = dataclasses.field(repr=False)
    preprocessing: dict
    seed: int
    sha256: str
    names: tuple = dataclasses.field(default=(), repr=False)
    noise: bool = False

    def to_json(self):
        """Return the record without the images."""
        return {
            "source": self.source,
            "count": len(self.images),
            "sha256": self.sha256,
            "seed": self.seed,
            "preprocessing": self.preprocessing,
            "latency_only": self.noise,
            "images": list(self.names),
        }


def calibrate(dataset, input_shape, *, count=100, seed=0, preprocessing=None):
    """Take calibration images from the calibration split of a dataset.

    Args:
        dataset: `keras_nin.data.Dataset`.
        input_shape: the network's (H, W, C).
        count: how many; all of the split where it has fewer.
        seed: of the choice.
        preprocessing: `keras_nin.data.Preprocessing`; None takes the dataset's own.

    Returns:
        `Calibration`.

    Raises:
        InputError: the split is empty, `count` is below 1, or an image cannot be read.
    """
    preprocessing = preprocessing or dataset.preprocessing
    indices = dataset.select("calibration", count, seed)
    *size, channels = input_shape
    return Calibration(
        source=dataset.name,
        images=dataset.load(indices, tuple(size), channels, preprocessing),
        preprocessing=preprocessing.to_json(),
        seed=seed,
        sha256=dataset.digest(indices),
        names=tuple(dataset.names_of(indices)),
        noise=dataset.noise,
    )


def check_images(images, input_shape):
    """Return calibration images as float32 (N, H, W, C).

    Args:
        images: array-like, as the network takes them.
        input_shape: the network's (H, W, C).

    Raises:
        InputError: none, of another shape, or not all finite numbers.
    """
    expected = f"calibration images (N, {', '.join(map(str, input_shape))})"
    if images is None:
        raise InputError(f"Expected {expected}. Received: none")
    try:
        images = np.asarray(images, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"Expected {expected}. Received: {type(images).__name__} of other things") from None
    if len(images.shape) != 4 or len(images) == 0 or images.shape[1:] != tuple(input_shape):
        raise InputError(f"Expected {expected}. Received: shape {images.shape}")
    damaged = int((~np.isfinite(images).all(axis=(1, 2, 3))).sum())
    if damaged:
        raise InputError(f"Expected {expected} of finite numbers. Received: NaN or infinity in {damaged} of them")
    return images
