"""From what a user has (a dataset's name, a folder, a file, arrays, a tf.data.Dataset) to a `Dataset`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import numpy as np
import numpy.typing as npt

from keras_nin.data.dataset import SPLITS, Dataset, Indices, NamedArrays, split_calibration
from keras_nin.data.named_datasets import (
    NOISE,
    list_datasets,
    open_digits,
    open_keras_dataset,
    open_named_noise,
    open_noise,
)
from keras_nin.data.preprocessing import get_preset
from keras_nin.errors import InputError, check_choice, unknown_name_error

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Arrays: TypeAlias = npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]
DatasetSource: TypeAlias = Union[
    str, os.PathLike[str], Dataset, Arrays, tuple[Arrays, npt.ArrayLike], "tf.data.Dataset", "keras.utils.PyDataset"
]
InputShape: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]


def open_dataset(
    source: DatasetSource,
    *,
    split: str | None = None,
    labels: npt.ArrayLike | os.PathLike[str] | str | None = None,
    seed: int = 0,
    input_shape: InputShape | None = None,
) -> Dataset:
    """Return the `Dataset` of any source of images or samples.

    Args:
        source: one of

            - a name of `list_datasets()`, which goes before a folder of the same name: "./digits" is the folder;
            - the path of a folder of images (see `keras_nin.data.image_folder`) or of an .npz (see
              `keras_nin.data.npz_files`);
            - an array (N, ...), a dictionary of arrays by the name of the network's input, or a tuple (array, labels);
            - a `tf.data.Dataset` or `keras.utils.PyDataset` of inputs or (inputs, labels), which is read to its end;
            - a `Dataset`, which is returned as it is.

            uint8 images (N, H, W, C) go through the preprocessing of the model. Arrays of floating point and arrays by
            name are what the network takes, and stay as they are.
        split: for arrays and datasets in memory, the split that takes all of them: "train", "calibration" or "test".
            None makes every fifth sample one for calibration, the others for tests, as in an .npz of images.
        labels: class indices (N,) for arrays; path of a labels file for a folder whose images lie in it directly.
        seed: of "random" noise. The splits of the other datasets are fixed.
        input_shape: what the model takes: (H, W, C), or a dictionary from the name of an input to its shape without the
            batch. Needed for "random" and for a network with other inputs than one image.

    Returns:
        `Dataset`.

    Raises:
        InputError: another kind of source, or one that cannot be read or does not fit.
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | os.PathLike):
        return _open_named(os.fspath(source), labels, seed, input_shape)
    if isinstance(source, tuple) and len(source) == 2 and labels is None:
        source, labels = source
    name = "array"
    if _is_tf_dataset(source):
        name = "tf.data.Dataset"
        source, labels = _read_tf_dataset(source, labels, input_shape)
    elif _is_py_dataset(source):
        name = "PyDataset"
        source, labels = _read_py_dataset(source, labels)
    return _from_arrays(name, source, labels, split, input_shape)


def _open_named(path: str, labels: Any, seed: int, input_shape: InputShape | None) -> Dataset:
    """Return the `Dataset` of a name or a path."""
    is_name = path in list_datasets()
    is_folder = not is_name and os.path.isdir(path)
    if labels is not None and not is_folder:
        raise InputError(
            f"Expected a labels file only with a folder of images. Received: {str(labels)!r} with {path!r}",
            argument="labels",
        )
    if isinstance(input_shape, Mapping):
        return _open_named_inputs(path, seed, input_shape)
    if path == NOISE:
        return open_noise(input_shape, seed)
    if is_name:
        return open_digits() if path == "digits" else open_keras_dataset(path)
    if is_folder:
        from keras_nin.data.image_folder import open_folder

        return open_folder(path, labels)
    if path.lower().endswith(".npz"):
        from keras_nin.data.npz_files import open_npz

        return open_npz(path)
    error = unknown_name_error("data", path, list_datasets())
    raise InputError(
        f"{error} Datasets: {', '.join(list_datasets())}; an existing folder of images and an .npz file work too.",
        argument="data",
    )


def _open_named_inputs(path: str, seed: int, inputs: Mapping[str, Sequence[int]]) -> NamedArrays:
    """Return the samples of a name or a path for a network that takes something else than one image."""
    from keras_nin.data.npz_files import describe_inputs, open_named_arrays

    if path == NOISE:
        return open_named_noise(inputs, seed)
    if not path.lower().endswith(".npz"):
        raise InputError(
            f"Expected an .npz file with an array for each input ({describe_inputs(inputs)}), or 'random'. "
            f"Received: {path!r}",
            argument="data",
        )
    return open_named_arrays(path, inputs)


def _from_arrays(name: str, source: object, labels: Any, split: str | None, input_shape: InputShape | None) -> Dataset:
    """Return the `Dataset` of arrays in memory."""
    if isinstance(source, np.ndarray) and isinstance(input_shape, Mapping) and len(input_shape) == 1:
        source = {next(iter(input_shape)): source}
    if isinstance(source, np.ndarray) and source.dtype == np.uint8:
        images = _check_images(source)
        splits = split_calibration(len(images)) if split is None else {split: np.arange(len(images))}
        return Dataset(name, images, _check_labels(labels, len(images)), (), get_preset("unit"), splits)
    if isinstance(source, np.ndarray):
        arrays = {"input": _check_samples("data", source, None if isinstance(input_shape, Mapping) else input_shape)}
    elif isinstance(source, Mapping) and source:
        shapes = input_shape if isinstance(input_shape, Mapping) else dict.fromkeys(source)
        if set(shapes) != set(source):
            raise InputError(
                f"Expected an array for each input ({', '.join(shapes)}). Received: {', '.join(map(str, source))}",
                argument="data",
            )
        arrays = {key: _check_samples(key, np.asarray(source[key]), shape) for key, shape in shapes.items()}
    else:
        raise InputError(
            "Expected `data` to be a dataset name, a folder, an .npz file, an array, a dictionary of arrays, a "
            f"tf.data.Dataset or a keras.utils.PyDataset. Received: {source!r:.200}",
            argument="data",
        )
    counts = {key: len(array) for key, array in arrays.items()}
    count = next(iter(counts.values()))
    if len(set(counts.values())) > 1:
        raise InputError(f"Expected as many samples for each input. Received: {counts}", argument="data")
    splits = split_calibration(count) if split is None else {split: np.arange(count)}
    return NamedArrays(name, arrays, _check_labels(labels, count), splits)


def _check_samples(name: str, array: npt.NDArray[Any], shape: Sequence[int] | None) -> npt.NDArray[np.float32]:
    fits = array.ndim > 0 if shape is None else array.shape[1:] == tuple(shape)
    if array.dtype.kind not in "fiu" or not fits or array.size == 0:
        expected = "..." if shape is None else ", ".join(map(str, shape))
        raise InputError(
            f"Expected `{name}` to be numbers (N, {expected}). Received: {array.dtype} {array.shape}", argument="data"
        )
    samples = array.astype(np.float32)
    if not np.isfinite(samples).all():
        raise InputError(f"Expected `{name}` to be finite numbers. Received: NaN or infinity", argument="data")
    return samples


def _check_images(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    images = array[..., np.newaxis] if array.ndim == 3 else array
    if images.ndim != 4 or images.size == 0:
        raise InputError(
            "Expected uint8 images of shape (N, height, width) or (N, height, width, channels). "
            f"Received: {array.shape}",
            argument="data",
        )
    return images


def _check_labels(labels: npt.ArrayLike | None, count: int) -> Indices | None:
    """Return class indices (N,), also from one-hot rows (N, classes)."""
    if labels is None:
        return None
    indices = np.asarray(labels)
    if indices.ndim == 2 and indices.shape[1] > 1:
        one_hot = np.isin(indices, (0, 1)).all() and (indices.sum(axis=1) == 1).all()
        indices = indices.argmax(axis=1) if one_hot else indices
    if indices.shape not in ((count,), (count, 1)) or indices.dtype.kind not in "iu" or indices.min() < 0:
        raise InputError(
            f"Expected labels of {count} samples as class indices, whole numbers from 0, or one-hot rows. "
            f"Received: {indices.dtype} {indices.shape}",
            argument="labels",
        )
    return indices.reshape(-1).astype(np.int64)


def _is_tf_dataset(source: object) -> TypeGuard[tf.data.Dataset]:
    return hasattr(source, "as_numpy_iterator")  # without importing TensorFlow


def _is_py_dataset(source: object) -> TypeGuard[keras.utils.PyDataset]:
    return hasattr(source, "num_batches")


def _read_tf_dataset(dataset: tf.data.Dataset, labels: Any, input_shape: InputShape | None) -> tuple[Any, Any]:
    if dataset.cardinality() == -1:  # tf.data.INFINITE_CARDINALITY
        raise InputError(
            "Expected a finite tf.data.Dataset. Received: an infinite one. Use `.take(count)`", argument="data"
        )
    spec: Any = dataset.element_spec
    spec = spec[0] if isinstance(spec, tuple) else spec
    rank = None if isinstance(spec, Mapping) else spec.shape.rank
    # Keras takes batches; single images (H, W, C) are batched here.
    single = 3 if input_shape is None or isinstance(input_shape, Mapping) else len(input_shape)
    batched = dataset.batch(32) if rank is not None and rank == single else dataset
    return _concatenate(batched.as_numpy_iterator(), labels)


def _read_py_dataset(dataset: keras.utils.PyDataset, labels: Any) -> tuple[Any, Any]:
    if dataset.num_batches is None:
        raise InputError("Expected a finite PyDataset. Received: one without a length", argument="data")
    return _concatenate((dataset[index] for index in range(dataset.num_batches)), labels)


def _concatenate(batches: Iterable[Any], labels: Any) -> tuple[Any, Any]:
    """Return (inputs, labels) of all batches; the labels are `labels` where the batches have none."""
    inputs, targets = [], []
    for batch in batches:
        parts = batch if isinstance(batch, tuple) else (batch,)  # inputs, (inputs, labels) or with sample weights
        inputs.append(parts[0])
        targets += [np.asarray(parts[1])] if len(parts) > 1 else []
    if not inputs:
        raise InputError("Expected a dataset with samples. Received: an empty one", argument="data")
    if targets and labels is None:
        labels = np.concatenate(targets)
    if isinstance(inputs[0], Mapping):
        return {name: np.concatenate([np.asarray(part[name]) for part in inputs]) for name in inputs[0]}, labels
    return np.concatenate([np.asarray(part) for part in inputs]), labels
