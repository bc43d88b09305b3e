"""The datasets that go by a name: scikit-learn's digits, those of `keras.datasets`, and noise."""

from __future__ import annotations

import contextlib
import io
import numbers
import os
import pathlib
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_nin.data.dataset import Dataset, Indices, NamedArrays, draw_indices, seeded_generator, split_calibration
from keras_nin.data.preprocessing import Pixels, get_preset
from keras_nin.errors import DatasetUnavailableError, expected_error
from keras_nin.output_capture import capture_output

_SPLIT_SEED = 0
_DIGITS_CALIBRATION_PER_CLASS = 10
_KERAS_CALIBRATION_IMAGES = 500
_NOISE_IMAGES_PER_SPLIT = 1000
_NOISE_SAMPLES = 200  # for inputs by name

_TABLES = tomllib.loads((pathlib.Path(__file__).parent / "datasets.toml").read_text(encoding="utf-8"))
CLASS_NAMES: Mapping[str, tuple[str, ...]] = {name: tuple(names) for name, names in _TABLES["class_names"].items()}
_KERAS_FILES: Mapping[str, Mapping[str, str]] = _TABLES["files"]
NOISE = "random"


def list_datasets() -> list[str]:
    """Return the names of the datasets that `open_dataset` knows, sorted."""
    return sorted([*_KERAS_FILES, "digits", NOISE])


def is_at_hand(name: str) -> bool:
    """Whether the dataset `name` opens without a download."""
    return all((cache_folder("datasets") / file).exists() for file in _KERAS_FILES.get(name, {}).values())


def needs_keras(name: str) -> bool:
    """Whether the dataset `name` opens through Keras."""
    return name in _KERAS_FILES


def find_local_copy(name: str) -> str:
    """Return a path in Keras's cache that holds the images of `name` in the same order and opens without Keras.

    `name` where there is none.
    """
    files = [cache_folder("datasets") / file for file in _KERAS_FILES.get(name, {}).values()]
    unpacked = [path.with_name(path.name.removesuffix("_archive")) for path in files]
    candidates = (path for path in (*unpacked, *files) if path.suffix == ".npz" or path.name.startswith("cifar-"))
    return next((str(path) for path in candidates if path.exists()), name)


def open_digits() -> Dataset:
    """Return scikit-learn's digits: 1,797 images 8x8x1, ten classes, values 0 to 16 scaled to 0 to 255.

    Splits, the same at every call and even over the classes: test a fifth (359), calibration 100, train the other
    1,338. Preprocessing: unit.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), its test part.
    """
    from sklearn.datasets import load_digits

    source: Any = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = source.target.astype(np.int64)
    random = seeded_generator(_SPLIT_SEED)
    parts: dict[str, list[Indices]] = {"train": [], "calibration": [], "test": []}
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test = round(len(members) / 5)
        parts["test"].append(members[:test])
        parts["calibration"].append(members[test : test + _DIGITS_CALIBRATION_PER_CLASS])
        parts["train"].append(members[test + _DIGITS_CALIBRATION_PER_CLASS :])
    splits = {name: np.sort(np.concatenate(indices)) for name, indices in parts.items()}
    return Dataset("digits", images, labels, CLASS_NAMES["digits"], get_preset("unit"), splits)


def open_keras_dataset(name: str) -> Dataset:
    """Return CIFAR-10, CIFAR-100, Fashion-MNIST or MNIST as `keras.datasets` downloads and caches it.

    Its test images are for tests, 500 of the training images for calibration.
    """
    (x_train, y_train), (x_test, y_test) = _download(name)
    images = np.concatenate([x_train, x_test])
    images = images.reshape(*images.shape[:3], -1)
    labels = np.concatenate([np.ravel(y_train), np.ravel(y_test)]).astype(np.int64)
    preset = "standardize" if name.startswith("cifar") else "unit"
    return make_dataset(name, images, labels, len(x_train), CLASS_NAMES.get(name, ()), preset)


def make_dataset(
    name: str, images: Pixels, labels: Indices, training: int, class_names: Sequence[str], preset: str
) -> Dataset:
    """Return a dataset whose first `training` images are for training, but a tenth of them, at most 500, calibrate."""
    count = min(_KERAS_CALIBRATION_IMAGES, max(1, training // 10))
    calibration, train = draw_indices(training, count, _SPLIT_SEED)
    splits = {"train": train, "calibration": calibration, "test": np.arange(training, len(images))}
    return Dataset(name, images, labels, tuple(class_names), get_preset(preset), splits)


def _download(name: str) -> Any:
    with capture_output():  # TensorFlow's start-up log
        import keras

    files = {origin: cache_folder("datasets") / file for origin, file in _KERAS_FILES[name].items()}
    missing = {origin: path for origin, path in files.items() if not path.exists()}
    try:
        with redirect_progress():
            return getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where the download fails
        state = "it is not in Keras's cache" if missing else "its cached file is damaged or incomplete"
        targets = ", ".join(f"{origin} as {str(path)!r}" for origin, path in (missing or files).items())
        reason = " ".join(str(error).split()) or type(error).__name__
        problem = f"Expected dataset {name!r} in Keras's cache or a network to fetch it. Received: {state} ({reason})."
        hint = f"Save {targets}, or pass a folder of images or an .npz instead."
        raise DatasetUnavailableError(f"{problem} {hint}", received=name) from error


def cache_folder(kind: str) -> pathlib.Path:
    """Return the folder in which keras.utils.get_file keeps files of a kind: "datasets" or "models".

    Keras reads KERAS_HOME when it is imported.
    """
    home = os.path.expanduser(os.environ.get("KERAS_HOME", os.path.join("~", ".keras")))
    if not os.access(home, os.W_OK):
        home = os.path.join("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir(), ".keras")
    return pathlib.Path(home) / kind


@contextlib.contextmanager
def redirect_progress() -> Iterator[None]:
    """Send what Keras reports of a download to stderr, and to nowhere where that is no terminal.

    Keras prints it on standard output, which belongs to the caller's results.
    """
    with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):
        yield


def open_noise(input_shape: Sequence[int] | None = None, seed: int = 0) -> Dataset:
    """Return 1,000 calibration and 1,000 test images of uniform noise, all different; no labels.

    To convert and time a model of `input_shape` (H, W, C) for which no photographs are at hand.
    """
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(shape) != 3 or not all(isinstance(side, numbers.Integral) and side > 0 for side in shape):
        raise expected_error("input_shape", "(height, width, channels) for dataset 'random'", input_shape)
    parts = np.arange(2 * _NOISE_IMAGES_PER_SPLIT).reshape(2, -1)
    splits = {"calibration": parts[0], "test": parts[1]}
    images = _NoiseImages(parts.size, shape, seed)
    return Dataset("random", images, None, (), get_preset("unit"), splits, noise=True)


def open_named_noise(inputs: Mapping[str, Sequence[int]], seed: int = 0) -> NamedArrays:
    """Return 200 samples of uniform noise from 0 to 1 for a network with the given inputs (shapes by name)."""
    random = seeded_generator(seed)
    arrays = {name: random.random_sample((_NOISE_SAMPLES, *shape)).astype(np.float32) for name, shape in inputs.items()}
    return NamedArrays("random", arrays, None, split_calibration(_NOISE_SAMPLES), noise=True)


class _NoiseImages:
    """`count` uint8 images of `shape`, each drawn from (`seed`, its index) when it is asked for."""

    def __init__(self, count: int, shape: tuple[int, ...], seed: int) -> None:
        seeded_generator(seed)  # checks the seed
        self._count, self._shape, self._seed = count, shape, int(seed)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pixels:
        if not 0 <= index < self._count:
            raise IndexError(index)
        random = np.random.RandomState([self._seed, int(index)])
        return random.randint(0, 256, self._shape, dtype=np.uint8)
