"""Samples for a network that takes something else than one image: float arrays, one for each input, by name."""

import math
import os

import numpy as np

from keras_nin.data import npz
from keras_nin.data.dataset import Dataset
from keras_nin.data.splits import every, generator
from keras_nin.errors import InputError

_RANDOM = 200


class NamedArrays(Dataset):
    """A `Dataset` whose samples are what a network takes, so that nothing prepares them.

    Args:
        name: what reports call it.
        arrays: dictionary from input name to float32 (N, ...).
        labels: int64 (N,), or None.
        splits, noise: as `Dataset` takes them.
    """

    def __init__(self, name, arrays, labels, splits, noise=False):
        object.__setattr__(self, "arrays", arrays)
        super().__init__(name, _Rows(arrays), labels, (), None, splits, noise=noise)

    def load(self, indices, size=None, channels=None, preprocessing=None):
        """Return the samples of `indices`: a dictionary of arrays, or the array where there is one input."""
        chosen = {name: array[indices] for name, array in self.arrays.items()}
        return chosen if len(chosen) > 1 else next(iter(chosen.values()))


class _Rows:
    """Sequence of samples, each as one row of numbers, which is what their hash is taken over."""

    def __init__(self, arrays):
        self.arrays = list(arrays.values())

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        return np.concatenate([np.ravel(array[index]) for array in self.arrays])


def image_size(shape):
    """Return ((H, W), C) of an input (H, W, C), as `Dataset.load` takes it; (None, None) for inputs by name."""
    if isinstance(shape, dict):
        return None, None
    *size, channels = shape
    return tuple(size), channels


def load_arrays(source, inputs, seed=0):
    """Return the `NamedArrays` for a network with the given inputs.

    Args:
        source: path of an .npz file with an array (N, ...) for each input by its name, and where known `labels` (N,);
            every fifth sample is for calibration, the others for tests. Or "random": uniform noise from 0 to 1.
        inputs: dictionary from input name to its shape without the batch.
        seed: of the noise.

    Raises:
        InputError: another source, or arrays of other names, types or shapes.
    """
    if source == "random":
        random = generator(seed)
        arrays = {name: random.random_sample((_RANDOM, *shape)).astype(np.float32) for name, shape in inputs.items()}
        return NamedArrays("random", arrays, None, _splits(_RANDOM), noise=True)
    if not str(source).lower().endswith(".npz"):
        raise InputError(
            f"Expected an .npz file with an array for each input ({_described(inputs)}), or 'random'. "
            f"Received: {source!r}"
        )
    with npz.open_file(source) as file:
        arrays = {name: _input(source, file, name, shape) for name, shape in inputs.items()}
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"Expected as many samples for each input in {str(source)!r}. Received: {counts}")
        count = next(iter(counts.values()))
        labels = npz.read_labels(source, file, "labels", count) if "labels" in file.files else None
    return NamedArrays(os.path.basename(source), arrays, labels, _splits(count))


def _splits(count):
    calibration, test = every(count, 5)
    return {"calibration": calibration, "test": test}


def _described(inputs):
    return ", ".join(f"{name} {('N', *shape)}".replace("'", "") for name, shape in inputs.items())


def _input(path, file, name, shape):
    if name not in file.files:
        held = ", ".join(file.files) or "nothing"
        raise InputError(f"Expected {str(path)!r} to hold {_described({name: shape})}. Received: {held}")
    array = npz.read_array(path, file, name)
    wanted = f"numbers (N, {', '.join(map(str, shape))})"
    if array.dtype.kind not in "fiu" or array.shape[1:] != tuple(shape) or not math.prod(array.shape):
        raise npz.mismatch(path, name, wanted, f"{array.dtype} {array.shape}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise npz.mismatch(path, name, "finite numbers", "NaN or infinity")
    return array
