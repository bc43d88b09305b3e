"""An ``.npz`` file of images as a `Dataset`. The layouts:

- ``images`` uint8 (N, H, W) or (N, H, W, C), and where known ``labels`` (N,): every fifth image (positions 0, 5, 10,
  ...) is for calibration, the others for tests, none for training.
- ``x_train``, ``y_train``, ``x_test``, ``y_test``, as Keras keeps MNIST: every tenth training image, at most 500, is
  for calibration, the others for training; x_test is for tests.

Both may have ``class_names`` (strings, one a class). Pickled objects are refused.
"""

import math
import os
import tokenize
import zipfile
import zlib

import numpy as np

from keras_nin.data.dataset import Dataset, seeded_generator, take_every
from keras_nin.data.preprocessing import get_preset
from keras_nin.errors import InputError

_TRAINING_KEYS = ("x_train", "y_train", "x_test", "y_test")
_CALIBRATION_LIMIT = 500
# What NumPy and zipfile raise for damaged members: header, compression, checksum, encryption.
_UNREADABLE = (
    ValueError,
    SyntaxError,
    EOFError,
    OSError,
    MemoryError,
    RuntimeError,
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
)


def open_npz(path):
    """Return the images of the .npz file at `path`.

    Raises:
        InputError: a file that cannot be read, or arrays of other names, types or shapes.
    """
    with open_archive(path) as file:
        layout = _choose_layout(path, file.files)
        images, labels, splits = layout(path, file)
        class_names = _read_class_names(path, file, labels)
    return Dataset(os.path.basename(path), images, labels, class_names, get_preset("unit"), splits)


def holds_images(path):
    """Return whether the .npz file at `path` has the names of one of the layouts; `InputError` where it is none."""
    with open_archive(path) as file:
        return "images" in file.files or set(_TRAINING_KEYS) <= set(file.files)


def _choose_layout(path, keys):
    if "images" in keys:
        return _read_images_and_labels
    if set(_TRAINING_KEYS) <= set(keys):
        return _read_train_and_test
    raise InputError(
        f"Expected {str(path)!r} to hold `images` (and `labels`), or {', '.join(_TRAINING_KEYS)}. "
        f"Received: {', '.join(keys) or 'nothing'}"
    )


def _read_images_and_labels(path, file):
    images = _read_images(path, file, "images")
    labels = read_labels(path, file, "labels", len(images)) if "labels" in file.files else None
    calibration, test = take_every(len(images), 5)
    return images, labels, {"calibration": calibration, "test": test}


def _read_train_and_test(path, file):
    x_train, x_test = _read_images(path, file, "x_train"), _read_images(path, file, "x_test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise _mismatch(path, "x_test", f"images of shape {x_train.shape[1:]}, as in `x_train`", x_test.shape[1:])
    parts = (("y_train", x_train), ("y_test", x_test))
    labels = np.concatenate([read_labels(path, file, key, len(images)) for key, images in parts])
    calibration, train = take_every(len(x_train), 10, _CALIBRATION_LIMIT)
    test = np.arange(len(x_train), len(labels))
    return np.concatenate([x_train, x_test]), labels, {"train": train, "calibration": calibration, "test": test}


def open_archive(path):
    """Return the open .npz file at `path`; `InputError` where it cannot be read or is of another kind."""
    try:
        file = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        file = None
    except OSError as error:
        raise InputError(f"Expected a readable file. Received: {str(path)!r} ({error.strerror or error})") from None
    if not isinstance(file, np.lib.npyio.NpzFile):  # np.load reads .npy too, whatever the file's name
        raise InputError(f"Expected an .npz file. Received: {str(path)!r}, which is damaged or of another kind")
    return file


def read_array(path, file, key):
    """Return the array `key` of an open file; `InputError` where it is damaged."""
    try:
        array = file[key]
    except _UNREADABLE as error:
        raise _mismatch(path, key, "a readable array", f"{type(error).__name__}: {error}") from None
    if not isinstance(array, np.ndarray):  # NumPy gives the bytes of a member that is no array
        raise _mismatch(path, key, "an array", "a file of another kind")
    return array


def _read_images(path, file, key):
    images = read_array(path, file, key)
    if images.dtype != np.uint8:
        raise _mismatch(path, key, "uint8, 0 to 255 (scale floating-point images by 255 and round)", images.dtype)
    shape = images.shape if images.ndim == 4 else (*images.shape, 1)
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or 0 in shape:
        raise _mismatch(path, key, "shape (N, height, width) or (N, height, width, channels 1, 3 or 4)", images.shape)
    return images.reshape(shape)


def read_labels(path, file, key, count):
    """Return the array `key` of an open file as `count` class indices, int64; `InputError` where it is none."""
    labels = read_array(path, file, key)
    if labels.shape not in ((count,), (count, 1)):
        raise _mismatch(path, key, f"shape ({count},), one class index for every image", labels.shape)
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.min() < 0:
        raise _mismatch(path, key, "class indices, whole numbers from 0", labels.min() if whole else labels.dtype)
    return labels.reshape(-1).astype(np.int64)


def _read_class_names(path, file, labels):
    if "class_names" not in file.files:
        return ()
    names = read_array(path, file, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise _mismatch(path, "class_names", "an array of strings, one a class", f"{names.dtype} {names.shape}")
    if labels is not None and labels.max() >= len(names):
        raise _mismatch(path, "class_names", f"a name for every label, up to {labels.max()}", f"{len(names)} names")
    return tuple(names.tolist())


def _mismatch(path, key, expected, received):
    """Return the `InputError` that says what the array `key` should be."""
    return InputError(f"Expected `{key}` in {str(path)!r} to be {expected}. Received: {received}")


# MERGED Samples for a network that takes something else than one image: float arrays, one for each input, by name.

_RANDOM_SAMPLES = 200


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
        super().__init__(name, _FlatSamples(arrays), labels, (), None, splits, noise=noise)

    def load(self, indices, size=None, channels=None, preprocessing=None):
        """Return the samples of `indices`: a dictionary of arrays, or the array where there is one input."""
        chosen = {name: array[indices] for name, array in self.arrays.items()}
        return chosen if len(chosen) > 1 else next(iter(chosen.values()))


class _FlatSamples:
    """Sequence of samples, each as one row of numbers, which is what their hash is taken over."""

    def __init__(self, arrays):
        self.arrays = list(arrays.values())

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        return np.concatenate([np.ravel(array[index]) for array in self.arrays])


def split_image_shape(shape):
    """Return ((H, W), C) of an input (H, W, C), as `Dataset.load` takes it; (None, None) for inputs by name."""
    if isinstance(shape, dict):
        return None, None
    *size, channels = shape
    return tuple(size), channels


def open_arrays(source, inputs, seed=0):
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
        random = seeded_generator(seed)
        arrays = {
            name: random.random_sample((_RANDOM_SAMPLES, *shape)).astype(np.float32) for name, shape in inputs.items()
        }
        return NamedArrays("random", arrays, None, _split_samples(_RANDOM_SAMPLES), noise=True)
    if not str(source).lower().endswith(".npz"):
        raise InputError(
            f"Expected an .npz file with an array for each input ({_describe_inputs(inputs)}), or 'random'. "
            f"Received: {source!r}"
        )
    with open_archive(source) as file:
        arrays = {name: _read_input(source, file, name, shape) for name, shape in inputs.items()}
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"Expected as many samples for each input in {str(source)!r}. Received: {counts}")
        count = next(iter(counts.values()))
        labels = read_labels(source, file, "labels", count) if "labels" in file.files else None
    return NamedArrays(os.path.basename(source), arrays, labels, _split_samples(count))


def _split_samples(count):
    calibration, test = take_every(count, 5)
    return {"calibration": calibration, "test": test}


def _describe_inputs(inputs):
    return ", ".join(f"{name} {('N', *shape)}".replace("'", "") for name, shape in inputs.items())


def _read_input(path, file, name, shape):
    if name not in file.files:
        held = ", ".join(file.files) or "nothing"
        raise InputError(f"Expected {str(path)!r} to hold {_describe_inputs({name: shape})}. Received: {held}")
    array = read_array(path, file, name)
    wanted = f"numbers (N, {', '.join(map(str, shape))})"
    if array.dtype.kind not in "fiu" or array.shape[1:] != tuple(shape) or not math.prod(array.shape):
        raise _mismatch(path, name, wanted, f"{array.dtype} {array.shape}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise _mismatch(path, name, "finite numbers", "NaN or infinity")
    return array
