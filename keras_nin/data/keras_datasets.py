"""CIFAR-10 and MNIST as `keras.datasets` downloads and caches them."""

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
# What keras.utils.get_file downloads, and the name under which it looks for it in its cache.
_CACHED = {
    "cifar10": ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "cifar-10-batches-py-target_archive"),
    "mnist": ("https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz", "mnist.npz"),
}


def cifar10():
    """Return CIFAR-10: 60,000 images 32x32x3; test is the official 10,000, calibration 500 of the training images.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).

    Raises:
        InputError: not in Keras's cache and not to be downloaded, or damaged; the message says which file goes where.
    """
    return _dataset("cifar10", _CIFAR10_CLASSES, preset("standardize"))


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

    cached = _cache() / _CACHED[name][1]
    was_there = cached.exists()
    # Keras reports its download on standard output, which belongs to the caller's results.
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stdout(progress):
            return getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where the download fails
        raise _unavailable(name, cached, was_there, error) from error


def _unavailable(name, cached, was_there, error):
    state = "its cached file is damaged or incomplete" if was_there else "it is not in Keras's cache"
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"Expected dataset {name!r} in Keras's cache or a network to fetch it. Received: {state} ({reason}). "
        f"Save {_CACHED[name][0]} as {str(cached)!r}, or pass a folder of images or an .npz instead."
    )


def _cache():
    """Return the folder in which keras.utils.get_file keeps data sets; Keras reads KERAS_HOME when it is imported."""
    home = os.path.expanduser(os.environ.get("KERAS_HOME", os.path.join("~", ".keras")))
    if not os.access(home, os.W_OK):
        home = os.path.join("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir(), ".keras")
    return pathlib.Path(home) / "datasets"
