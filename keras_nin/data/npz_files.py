"""An ``.npz`` file as a `Dataset`. The layouts of images:

- ``images`` uint8 (N, H, W) or (N, H, W, C), and where known ``labels`` (N,): where nothing else is there to calibrate
  or to test on, every fifth image (positions 0, 5, 10, ...) is for calibration, the others for tests; none is for
  training.
- ``jpeg_bytes`` uint8, the files of all images one after the other, and ``offsets`` (N + 1,), where each begins and the
  last one ends; otherwise as ``images``. They are decoded on demand.
- ``x_train``, ``y_train``, ``x_test``, ``y_test``, as Keras keeps MNIST: every tenth training image, at most 500, is
  for calibration, the others for training; x_test is for tests.

All may have ``class_names`` (strings, one per class). For a network that takes something else than one image, and for
images that are fed as they are (preprocessing none), the arrays are what the network takes, in numbers of any type: an
array (N, ...) for each input by its name, and where known ``labels`` or ``y``. Where there is one input, its array may
also be called ``images``, ``inputs`` or ``x``, or be in the layout with ``x_train``; a last axis of length 1 may be
missing. Pickled objects are refused.

``labels`` are class indices (N,); or for other outputs 0 and 1 (N,) or (N, labels), numbers (N,) or (N, values), or
masks of class indices (N, H, W), where 255 is unknown. A network with several outputs has ``labels_NAME`` for each.
"""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_nin import archives
from keras_nin.data.dataset import (
    Dataset,
    Indices,
    NamedArrays,
    Targets,
    check_samples,
    check_targets,
    is_class_indices,
    split_calibration,
    take_every,
)
from keras_nin.data.image_folder import EncodedImages
from keras_nin.data.preprocessing import Pixels, get_preset
from keras_nin.errors import InputError, input_error

_TRAINING_KEYS = ("x_train", "y_train", "x_test", "y_test")
_ENCODED_KEYS = ("jpeg_bytes", "offsets")
_CALIBRATION_LIMIT = 500
_SAMPLE_KEYS, _LABEL_KEYS = ("images", "inputs", "x"), ("labels", "y")
# What NumPy and zipfile raise for damaged members: header, compression, checksum, encryption.
_DAMAGED = (tokenize.TokenError, zlib.error, zipfile.BadZipFile)
_UNREADABLE = (ValueError, SyntaxError, EOFError, OSError, MemoryError, RuntimeError, *_DAMAGED)


def open_npz(path: str | os.PathLike[str], split: str | None = None) -> Dataset:
    """Return the images of the .npz file at `path`; `split` takes all of a file without training images."""
    divided = False
    with _Archive(path) as archive:
        encoded = set(_ENCODED_KEYS) <= set(archive.names)
        if encoded or "images" in archive.names:
            images = archive.read_encoded() if encoded else archive.read_images("images")
            labels, targets = archive.read_answers(len(images))
            splits, divided = split_calibration(len(images), split), split is None
        elif set(_TRAINING_KEYS) <= set(archive.names):
            (images, labels, splits), targets = _read_train_and_test(archive, archive.read_images), None
        else:
            keys = f"{' and '.join(_ENCODED_KEYS)}, or {', '.join(_TRAINING_KEYS)}"
            expected = f"{str(path)!r} to hold `images` (and `labels`), or {keys}"
            raise input_error(expected, ", ".join(archive.names) or "nothing", path=path)
        class_names = archive.read_class_names(labels) if "class_names" in archive.names else ()
    return Dataset(
        os.path.basename(path), images, labels, class_names, get_preset("unit"), splits, divided=divided
    ).with_targets(targets)


def check_npz(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` where there is no .npz file at `path`."""
    with _Archive(path):
        pass


def open_named_arrays(
    path: str | os.PathLike[str], inputs: Mapping[str, Sequence[int]], split: str | None = None
) -> NamedArrays:
    """Return the samples of the .npz file at `path` for a network with `inputs` of these shapes without the batch.

    `split` takes all of a file without training samples.
    """
    with _Archive(path) as archive:
        name, shape = next(iter(inputs.items()))
        if len(inputs) == 1 and name not in archive.names and set(_TRAINING_KEYS) <= set(archive.names):
            samples, labels, splits = _read_train_and_test(archive, lambda key: archive.read_input(key, shape))
            return NamedArrays(os.path.basename(path), {name: samples}, labels, splits)
        if len(inputs) == 1:
            key = next((key for key in (name, *_SAMPLE_KEYS) if key in archive.names), name)
            if key not in archive.names and len(shape) == 3 and set(_ENCODED_KEYS) <= set(archive.names):
                received = f"{str(path)!r}, which holds encoded images; preprocessing 'raw' feeds them from 0 to 255"
                expected = "arrays that are what the network takes, for preprocessing 'none'"
                raise input_error(expected, received, argument="preprocessing", path=path)
            arrays = {name: archive.read_input(key, shape)}
        else:
            arrays = {name: archive.read_input(name, shape) for name, shape in inputs.items()}
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise input_error(f"as many samples for each input in {str(path)!r}", counts, path=path)
        count = next(iter(counts.values()))
        label = next((key for key in _LABEL_KEYS if key in archive.names and key not in inputs), "labels")
        labels, targets = archive.read_answers(count, label)
    splits = split_calibration(count, split)
    samples = NamedArrays(os.path.basename(path), arrays, labels, splits, divided=split is None)
    return samples.with_targets(targets)


def describe_inputs(inputs: Mapping[str, Sequence[int]]) -> str:
    """Return names and shapes of inputs for a message: "picture (N, 4, 4, 3), history (N, 5)"."""
    return ", ".join(f"{name} (N, {', '.join(map(str, shape))})" for name, shape in inputs.items())


class _Archive:
    """An open .npz file whose arrays are checked when they are read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        archives.check_zip(path)
        try:
            file = np.load(path, allow_pickle=False)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
            file = None
        except OSError as error:
            raise input_error("a readable file", f"{str(path)!r} ({error.strerror or error})", path=path) from None
        if not isinstance(file, np.lib.npyio.NpzFile):  # np.load reads .npy too, whatever the file's name
            raise input_error("an .npz file", f"{str(path)!r}, which is damaged or of another kind", path=path)
        self._file = file
        self.names = file.files

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def mismatch(self, name: str, expected: str, received: object) -> InputError:
        return input_error(f"`{name}` in {str(self.path)!r} to be {expected}", received, path=self.path)

    def read(self, name: str) -> npt.NDArray[Any]:
        try:
            array = self._file[name]
        except _UNREADABLE as error:
            raise self.mismatch(name, "a readable array", f"{type(error).__name__}: {error}") from None
        if not isinstance(array, np.ndarray):  # NumPy gives the bytes of a member that is no array
            raise self.mismatch(name, "an array", "a file of another kind")
        return array

    def read_images(self, name: str) -> Pixels:
        images = self.read(name)
        if images.dtype != np.uint8:
            expected = "uint8, 0 to 255 (pass `preprocessing` none to feed other numbers as they are)"
            raise self.mismatch(name, expected, images.dtype)
        shape = images.shape if images.ndim == 4 else (*images.shape, 1)
        if len(shape) != 4 or shape[3] not in (1, 3, 4) or 0 in shape:
            expected = "shape (N, height, width) or (N, height, width, channels 1, 3 or 4)"
            raise self.mismatch(name, expected, images.shape)
        return images.reshape(shape)

    def read_encoded(self) -> EncodedImages:
        content, offsets = (self.read(name) for name in _ENCODED_KEYS)
        if content.dtype != np.uint8 or content.ndim != 1:
            raise self.mismatch("jpeg_bytes", "bytes, uint8 (size,)", f"{content.dtype} {content.shape}")
        whole = offsets.dtype.kind in "iu" and offsets.ndim == 1 and len(offsets) > 1
        if (
            not whole
            or int(offsets[0]) < 0
            or int(offsets[-1]) > len(content)
            or not (offsets[1:] > offsets[:-1]).all()
        ):
            expected = f"rising whole numbers up to {len(content):,}, the size of `jpeg_bytes`"
            raise self.mismatch("offsets", expected, f"{offsets.dtype} {offsets.shape}")
        return EncodedImages(content, offsets.astype(np.int64), self.path)

    def read_answers(self, count: int, label: str = "labels") -> tuple[Indices | None, Targets | None]:
        """Return (class indices, None), or labels of another kind by the name of the network's output."""
        keys = {name: name.removeprefix("labels_") for name in self.names if name.startswith("labels_")}
        if label in self.names and not keys:
            labels = self.read(label)
            if is_class_indices(labels, count):
                return labels.reshape(-1).astype(np.int64), None
            keys = {label: ""}
        elif label in self.names:
            raise self.mismatch(label, "alone, or `labels_NAME` for each output", ", ".join(self.names))
        where = {"path": self.path}
        targets = {
            output: check_targets(f"`{name}` in {str(self.path)!r}", self.read(name), count, **where)
            for name, output in keys.items()
        }
        return None, targets or None

    def read_labels(self, name: str, count: int) -> Indices:
        labels = self.read(name)
        if labels.shape not in ((count,), (count, 1)):
            raise self.mismatch(name, f"shape ({count},), one class index for every image", labels.shape)
        whole = np.issubdtype(labels.dtype, np.integer)
        if not whole or labels.min() < 0:
            received = labels.min() if whole else labels.dtype
            raise self.mismatch(name, "class indices, whole numbers from 0", received)
        return labels.reshape(-1).astype(np.int64)

    def read_class_names(self, labels: Indices | None) -> tuple[str, ...]:
        names = self.read("class_names")
        if names.ndim != 1 or names.dtype.kind != "U":
            raise self.mismatch("class_names", "an array of strings, one per class", f"{names.dtype} {names.shape}")
        if labels is not None and labels.max() >= len(names):
            raise self.mismatch("class_names", f"a name for every label, up to {labels.max()}", f"{len(names)} names")
        return tuple(names.tolist())

    def read_input(self, name: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        if name not in self.names:
            expected = f"{str(self.path)!r} to hold {describe_inputs({name: shape})}"
            raise input_error(expected, ", ".join(self.names) or "nothing", path=self.path)
        array = self.read(name)
        if (*array.shape[1:], 1) == tuple(shape):
            array = array[..., np.newaxis]
        return check_samples(f"`{name}` in {str(self.path)!r}", array, shape, path=self.path)


def _read_train_and_test(
    archive: _Archive, read: Callable[[str], npt.NDArray[Any]]
) -> tuple[npt.NDArray[Any], Indices, dict[str, Indices]]:
    x_train, x_test = read("x_train"), read("x_test")
    if x_train.shape[1:] != x_test.shape[1:]:
        expected = f"images of shape {x_train.shape[1:]}, as in `x_train`"
        raise archive.mismatch("x_test", expected, x_test.shape[1:])
    labels = [archive.read_labels("y_train", len(x_train)), archive.read_labels("y_test", len(x_test))]
    calibration, train = take_every(len(x_train), 10, _CALIBRATION_LIMIT)
    test = np.arange(len(x_train), len(x_train) + len(x_test))
    splits = {"train": train, "calibration": calibration, "test": test}
    return np.concatenate([x_train, x_test]), np.concatenate(labels), splits
