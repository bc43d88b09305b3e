"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST as `keras.datasets` downloads and caches them."""

import contextlib
import io
import os
import pathlib
import sys
import tempfile

import numpy as np

from keras_nin.data.dataset import Dataset
from keras_nin.data.preprocessing import preset
from keras_nin.data.splits import draw
from keras_nin.errors import InputError
from keras_nin.quiet import captured

_SPLIT_SEED = 0
_CALIBRATION = 500
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


def cifar10():
    """Return CIFAR-10: 60,000 images 32x32x3; test is the official 10,000, calibration 500 of the training images.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _dataset("cifar10", _CIFAR10_CLASSES, preset("standardize"))


def cifar100():
    """Return CIFAR-100 with its 100 fine labels, in alphabetical order; sizes, splits and source as CIFAR-10.

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _dataset("cifar100", (), preset("standardize"))


def fashion_mnist():
    """Return Fashion-MNIST: 70,000 images 28x28x1; test is the official 10,000, calibration 500 of the training images.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747.

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _dataset("fashion_mnist", _CLOTHES, preset("unit"))


def mnist():
    """Return MNIST: 70,000 images 28x28x1; test is the official 10,000, calibration 500 of the training images.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (1998).

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _dataset("mnist", tuple("0123456789"), preset("unit"))


def _dataset(name, class_names, preprocessing):
    (x_train, y_train), (x_test, y_test) = _load(name)
    images = np.concatenate([x_train, x_test])
    images = images.reshape(*images.shape[:3], -1)
    labels = np.concatenate([np.ravel(y_train), np.ravel(y_test)]).astype(np.int64)
    calibration, train = draw(len(x_train), _CALIBRATION, _SPLIT_SEED)
    splits = {"train": train, "calibration": calibration, "test": np.arange(len(x_train), len(images))}
    return Dataset(name, images, labels, class_names, preprocessing, splits)


def _load(name):
    with captured():  # what TensorFlow prints when it starts
        import keras

    missing = {origin: path for origin, file in _CACHED[name].items() if not (path := _cache() / file).exists()}
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
    wanted = missing or {origin: _cache() / file for origin, file in _CACHED[name].items()}
    places = ", ".join(f"{origin} as {str(path)!r}" for origin, path in wanted.items())
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"Expected dataset {name!r} in Keras's cache or a network to fetch it. Received: {state} ({reason}). "
        f"Save {places}, or pass a folder of images or an .npz instead."
    )


def _cache():
    """Return the folder in which keras.utils.get_file keeps data sets; Keras reads KERAS_HOME when it is imported."""
    home = os.path.expanduser(os.environ.get("KERAS_HOME", os.path.join("~", ".keras")))
    if not os.access(home, os.W_OK):
        home = os.path.join("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir(), ".keras")
    return pathlib.Path(home) / "datasets"
