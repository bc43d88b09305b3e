"""Representative images: which, from where, and their identity."""

import dataclasses
from typing import Any

import numpy as np

from keras_nin.data import image_size
from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The images that set the ranges of a quantised network.

    Attributes:
        source: dataset name, folder or file that they come from.
        images: float32 (N, H, W, C), as the network takes them; of several inputs a dictionary of arrays (N, ...).
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

    @property
    def count(self):
        """How many images."""
        return len(next(iter(self.images.values())) if isinstance(self.images, dict) else self.images)

    def to_json(self):
        """Return the record without the images."""
        return {
            "source": self.source,
            "count": self.count,
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
        input_shape: the network's (H, W, C), or the shapes of its inputs by name.
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
    return Calibration(
        source=dataset.name,
        images=dataset.load(indices, *image_size(input_shape), preprocessing),
        preprocessing=preprocessing.to_json() if preprocessing else None,
        seed=seed,
        sha256=dataset.digest(indices),
        names=tuple(dataset.names_of(indices)),
        noise=dataset.noise,
    )


def check_arrays(samples, ports):
    """Return calibration samples as a dictionary from input name to float32 (N, ...).

    Args:
        samples: array-like (N, ...) for a model with one input, or a dictionary of them by input name.
        ports: `keras_nin.export.ports.Port` of every input.

    Raises:
        InputError: none, other names, different numbers of samples, another shape, or not all finite numbers.
    """
    if not isinstance(samples, dict):
        if len(ports) > 1:
            names = ", ".join(repr(port.name) for port in ports)
            raise InputError(f"Expected calibration arrays by the names of the inputs ({names}). Received: one array")
        samples = {ports[0].name: samples}
    names = [port.name for port in ports]
    if set(samples) != set(names):
        raise InputError(f"Expected calibration arrays for the inputs {names}. Received: {list(samples)}")
    arrays = {port.name: _check_array(samples[port.name], port) for port in ports}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"Expected as many calibration samples for each input. Received: {counts}")
    return arrays


def _check_array(array, port):
    kind = "images" if len(port.shape) == 3 else f"samples of {port.name!r}"
    expected = f"calibration {kind} ({', '.join(map(str, ('N', *port.shape)))})"
    if array is None:
        raise InputError(f"Expected {expected}. Received: none")
    try:
        array = np.asarray(array, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"Expected {expected}. Received: {type(array).__name__} of other things") from None
    if array.ndim != 1 + len(port.shape) or len(array) == 0 or array.shape[1:] != port.shape:
        raise InputError(f"Expected {expected}. Received: shape {array.shape}")
    damaged = int((~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))).sum())
    if damaged:
        raise InputError(f"Expected {expected} of finite numbers. Received: NaN or infinity in {damaged} of them")
    return array
