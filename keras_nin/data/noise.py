"""Images of uniform noise: to convert and time a model for which no photographs are at hand."""

import numbers

import numpy as np

from keras_nin.data.dataset import Dataset
from keras_nin.data.preprocessing import preset
from keras_nin.data.splits import generator
from keras_nin.errors import InputError

_IMAGES_PER_SPLIT = 1000


class NoiseImages:
    """Sequence of `count` uint8 images of `shape`, each drawn from (`seed`, its index) when it is asked for."""

    def __init__(self, count, shape, seed):
        generator(seed)
        self._count, self._shape, self._seed = count, shape, int(seed)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if not 0 <= index < self._count:
            raise IndexError(index)
        random = np.random.RandomState([self._seed, int(index)])
        return random.randint(0, 256, self._shape, dtype=np.uint8)


def noise(input_shape=None, seed=0):
    """Return 1,000 calibration and 1,000 test images of uniform noise, no two from the same stream; no labels.

    Args:
        input_shape: (H, W, C).
        seed: 0 to 2**32 - 1.

    Raises:
        InputError: a shape or seed that is none.
    """
    shape = _shape(input_shape)
    parts = np.arange(2 * _IMAGES_PER_SPLIT).reshape(2, -1)
    splits = {"calibration": parts[0], "test": parts[1]}
    images = NoiseImages(parts.size, shape, seed)
    return Dataset("random", images, None, (), preset("unit"), splits, noise=True)


def _shape(input_shape):
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    whole = all(isinstance(side, numbers.Integral) and side > 0 for side in shape)
    if len(shape) != 3 or not whole:
        raise InputError(
            f"Expected `input_shape` (height, width, channels) for dataset 'random'. Received: {input_shape!r}"
        )
    return shape
