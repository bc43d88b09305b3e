"""The handwritten digits that come with scikit-learn: small, offline, the default of the embedded examples."""

import contextlib
import io
import numbers
import os
import pathlib
import sys
import tempfile

import numpy as np

from keras_nin.data.dataset import Dataset, draw_indices, seeded_generator
from keras_nin.data.preprocessing import get_preset
from keras_nin.errors import InputError
from keras_nin.output_capture import capture_output

_DIGITS_SPLIT_SEED = 0
_CALIBRATION_PER_CLASS = 10


def open_digits():
    """Return scikit-learn's digits: 1,797 images 8x8x1, ten classes, values 0 to 16 scaled to 0 to 255.

    Splits, the same at every call and even over the classes: test a fifth (359), calibration 100, train the other
    1,338. Preprocessing: unit.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), its test part.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = source.target.astype(np.int64)
    names = tuple(str(name) for name in source.target_names)
    return Dataset("digits", images, labels, names, get_preset("unit"), _split_digits(labels))


def _split_digits(labels):
    random = seeded_generator(_DIGITS_SPLIT_SEED)
    parts = {"train": [], "calibration": [], "test": []}
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test = round(len(members) / 5)
        parts["test"].append(members[:test])
        parts["calibration"].append(members[test : test + _CALIBRATION_PER_CLASS])
        parts["train"].append(members[test + _CALIBRATION_PER_CLASS :])
    return {name: np.sort(np.concatenate(indices)) for name, indices in parts.items()}


# MERGED CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST as `keras.datasets` downloads and caches them.

_SPLIT_SEED = 0
_CALIBRATION_IMAGES = 500
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_IDX = ("train-labels-idx1", "train-images-idx3", "t10k-labels-idx1", "t10k-images-idx3")
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_GOOGLE = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
# What keras.utils.get_file downloads, and the names under which it looks for it in its cache.
_CACHED = {
    "cifar10": {f"{_TORONTO}cifar-10-python.tar.gz": "cifar-10-batches-py-target_archive"},
    "cifar100": {f"{_TORONTO}cifar-100-python.tar.gz": "cifar-100-python-target_archive"},
    "fashion_mnist": {f"{_GOOGLE}{name}-ubyte.gz": f"fashion-mnist/{name}-ubyte.gz" for name in _IDX},
    "mnist": {f"{_GOOGLE}mnist.npz": "mnist.npz"},
}


def open_cifar10():
    """Return CIFAR-10: 60,000 images 32x32x3; test is the official 10,000, calibration 500 of the training images.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _open_keras_dataset("cifar10", _CIFAR10_CLASSES, get_preset("standardize"))


def open_cifar100():
    """Return CIFAR-100 with its 100 fine labels, in alphabetical order; sizes, splits and source as CIFAR-10.

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _open_keras_dataset("cifar100", (), get_preset("standardize"))


def open_fashion_mnist():
    """Return Fashion-MNIST: 70,000 images 28x28x1; test is the official 10,000, calibration 500 of the training images.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747.

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _open_keras_dataset("fashion_mnist", _CLOTHES, get_preset("unit"))


def open_mnist():
    """Return MNIST: 70,000 images 28x28x1; test is the official 10,000, calibration 500 of the training images.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (1998).

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _open_keras_dataset("mnist", tuple("0123456789"), get_preset("unit"))


def _open_keras_dataset(name, class_names, preprocessing):
    (x_train, y_train), (x_test, y_test) = _download(name)
    images = np.concatenate([x_train, x_test])
    images = images.reshape(*images.shape[:3], -1)
    labels = np.concatenate([np.ravel(y_train), np.ravel(y_test)]).astype(np.int64)
    calibration, train = draw_indices(len(x_train), _CALIBRATION_IMAGES, _SPLIT_SEED)
    splits = {"train": train, "calibration": calibration, "test": np.arange(len(x_train), len(images))}
    return Dataset(name, images, labels, class_names, preprocessing, splits)


def _download(name):
    with capture_output():  # what TensorFlow prints when it starts
        import keras

    missing = {origin: path for origin, file in _CACHED[name].items() if not (path := _cache_folder() / file).exists()}
    # Keras reports its download on standard output, which belongs to the caller's results.
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stdout(progress):
            return getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where the download fails
        raise _unavailable(name, missing, error) from error


def _unavailable(name, missing, error):
    """Return the error that says where the files go: those that are missing, or all where one of them is damaged."""
    state = "it is not in Keras's cache" if missing else "its cached file is damaged or incomplete"
    wanted = missing or {origin: _cache_folder() / file for origin, file in _CACHED[name].items()}
    places = ", ".join(f"{origin} as {str(path)!r}" for origin, path in wanted.items())
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"Expected dataset {name!r} in Keras's cache or a network to fetch it. Received: {state} ({reason}). "
        f"Save {places}, or pass a folder of images or an .npz instead."
    )


def _cache_folder():
    """Return the folder in which keras.utils.get_file keeps data sets; Keras reads KERAS_HOME when it is imported."""
    home = os.path.expanduser(os.environ.get("KERAS_HOME", os.path.join("~", ".keras")))
    if not os.access(home, os.W_OK):
        home = os.path.join("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir(), ".keras")
    return pathlib.Path(home) / "datasets"


# MERGED Images of uniform noise: to convert and time a model for which no photographs are at hand.

_IMAGES_PER_SPLIT = 1000


class NoiseImages:
    """Sequence of `count` uint8 images of `shape`, each drawn from (`seed`, its index) when it is asked for."""

    def __init__(self, count, shape, seed):
        seeded_generator(seed)
        self._count, self._shape, self._seed = count, shape, int(seed)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if not 0 <= index < self._count:
            raise IndexError(index)
        random = np.random.RandomState([self._seed, int(index)])
        return random.randint(0, 256, self._shape, dtype=np.uint8)


def open_noise(input_shape=None, seed=0):
    """Return 1,000 calibration and 1,000 test images of uniform noise, no two from the same stream; no labels.

    Args:
        input_shape: (H, W, C).
        seed: 0 to 2**32 - 1.

    Raises:
        InputError: a shape or seed that is none.
    """
    shape = _check_noise_shape(input_shape)
    parts = np.arange(2 * _IMAGES_PER_SPLIT).reshape(2, -1)
    splits = {"calibration": parts[0], "test": parts[1]}
    images = NoiseImages(parts.size, shape, seed)
    return Dataset("random", images, None, (), get_preset("unit"), splits, noise=True)


def _check_noise_shape(input_shape):
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    whole = all(isinstance(side, numbers.Integral) and side > 0 for side in shape)
    if len(shape) != 3 or not whole:
        raise InputError(
            f"Expected `input_shape` (height, width, channels) for dataset 'random'. Received: {input_shape!r}"
        )
    return shape
