"""From what a user has (a dataset's name, a folder, a file, arrays, a tf.data.Dataset) to a `Dataset`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import numpy as np
import numpy.typing as npt

from keras_nin.data import cifar_files, named_datasets
from keras_nin.data.dataset import (
    SPLITS,
    Dataset,
    Indices,
    InputShape,
    NamedArrays,
    Targets,
    check_samples,
    check_targets,
    is_class_indices,
    split_calibration,
)
from keras_nin.data.preprocessing import get_preset
from keras_nin.errors import InputError, check_choice, input_error, unknown_name_error

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Arrays: TypeAlias = npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]
DatasetSource: TypeAlias = Union[
    str, os.PathLike[str], Dataset, Arrays, tuple[Arrays, npt.ArrayLike], "tf.data.Dataset", "keras.utils.PyDataset"
]


def open_dataset(
    source: DatasetSource,
    *,
    split: str | None = None,
    labels: npt.ArrayLike | os.PathLike[str] | str | None = None,
    seed: int = 0,
    input_shape: InputShape | None = None,
    as_arrays: bool = False,
) -> Dataset:
    """Return the `Dataset` of any source of images or samples.

    Args:
        source: one of

            - a name of `list_datasets()`, which goes before a folder of the same name: "./digits" is the folder;
            - the path of a folder of images (see `keras_nin.data.image_folder`), of an .npz (see
              `keras_nin.data.npz_files`), or of CIFAR's archive or folder (see `keras_nin.data.cifar_files`);
            - an array (N, ...), a dictionary of arrays by the name of the network's input, or a tuple (array, labels);
            - a `tf.data.Dataset` or `keras.utils.PyDataset` of inputs or (inputs, labels), which is read to its end;
            - a `Dataset`, which is returned as it is.

            uint8 images (N, H, W, C) go through the preprocessing of the model. Arrays of floating point and arrays by
            name are what the network takes, and stay as they are.
        split: the split that takes all samples of a source that has no splits of its own (arrays, a folder or an .npz
            without training images): "train", "calibration" or "test". None makes every fifth sample one for
            calibration, the others for tests.
        labels: for arrays class indices (N,), one-hot rows, or the labels of another output: numbers, rows, masks; for
            several outputs a dictionary of them by name. Path of a labels file for a folder whose images lie in it
            directly.
        seed: of "random" noise. The splits of the other datasets are fixed.
        input_shape: what the model takes: (H, W, C), or a dictionary from the name of an input to its shape without the
            batch. Needed for "random" and for a network with other inputs than one image.
        as_arrays: whether images are what the network takes, like arrays of floating point: those of an .npz or of an
            array, in its shape.

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
        return _open_named(os.fspath(source), labels, seed, input_shape, split, as_arrays)
    if isinstance(source, tuple) and len(source) == 2 and labels is None:
        source, labels = source
    name = "array"
    if hasattr(source, "as_numpy_iterator"):  # known without importing TensorFlow
        name = "tf.data.Dataset"
        source, labels = _read_tf_dataset(cast("tf.data.Dataset", source), labels, input_shape)
    elif hasattr(source, "num_batches"):
        name = "PyDataset"
        batches: Any = source
        if batches.num_batches is None:
            raise input_error("a finite PyDataset", "one without a length", argument="data")
        source, labels = _concatenate((batches[index] for index in range(batches.num_batches)), labels)
    return _from_arrays(name, source, labels, split, input_shape, as_arrays)


def _open_named(
    path: str, labels: Any, seed: int, input_shape: InputShape | None, split: str | None, as_arrays: bool
) -> Dataset:
    """Return the `Dataset` of a name or a path."""
    names = named_datasets.list_datasets()
    is_name = path in names
    is_folder = not is_name and os.path.isdir(path)
    if labels is not None and not is_folder:
        received = f"{str(labels)!r} with {path!r}"
        raise input_error("a labels file only with a folder of images", received, argument="labels")
    if as_arrays and input_shape is not None and not isinstance(input_shape, Mapping):
        input_shape = {"images": input_shape}
    if isinstance(input_shape, Mapping):
        from keras_nin.data.npz_files import describe_inputs, open_named_arrays

        if path == named_datasets.NOISE:
            return named_datasets.open_named_noise(input_shape, seed)
        if path.lower().endswith(".npz"):
            return open_named_arrays(path, input_shape, split)
        expected = f"an .npz file with an array for each input ({describe_inputs(input_shape)}), or 'random'"
        raise input_error(expected, repr(path), argument="data")
    if path == named_datasets.NOISE:
        return named_datasets.open_noise(input_shape, seed)
    if is_name:
        return named_datasets.open_digits() if path == "digits" else named_datasets.open_keras_dataset(path)
    if cifar_files.is_cifar(path):
        return cifar_files.open_cifar(path)
    if is_folder:
        from keras_nin.data.image_folder import open_folder

        return open_folder(path, labels, split)
    if path.lower().endswith(".npz"):
        from keras_nin.data.npz_files import open_npz

        return open_npz(path, split)
    hint = f"Datasets: {', '.join(names)}; an existing folder of images, an .npz file and CIFAR's archive work too."
    raise InputError(f"{unknown_name_error('data', path, names)} {hint}", argument="data")


def _from_arrays(
    name: str, source: object, labels: Any, split: str | None, input_shape: InputShape | None, as_arrays: bool
) -> Dataset:
    """Return the `Dataset` of arrays in memory."""
    if isinstance(source, np.ndarray) and isinstance(input_shape, Mapping) and len(input_shape) == 1:
        source = {next(iter(input_shape)): source}
    if isinstance(source, np.ndarray) and source.dtype == np.uint8 and not as_arrays:
        images = source[..., np.newaxis] if source.ndim == 3 else source
        if images.ndim != 4 or images.size == 0:
            expected = "uint8 images of shape (N, height, width) or (N, height, width, channels)"
            raise input_error(expected, images.shape, argument="data")
        splits = split_calibration(len(images), split)
        indices, targets = _read_answers(labels, len(images))
        dataset = Dataset(name, images, indices, (), get_preset("unit"), splits, divided=split is None)
        return dataset.with_targets(targets)
    if isinstance(source, np.ndarray):
        shape = None if isinstance(input_shape, Mapping) else input_shape
        arrays = {"input": check_samples("`data`", source, shape, argument="data")}
    elif isinstance(source, Mapping) and source:
        shapes = input_shape if isinstance(input_shape, Mapping) else dict.fromkeys(source)
        if set(shapes) != set(source):
            received = ", ".join(map(str, source))
            raise input_error(f"an array for each input ({', '.join(shapes)})", received, argument="data")
        arrays = {
            key: check_samples(f"`{key}`", np.asarray(source[key]), shape, argument="data")
            for key, shape in shapes.items()
        }
    else:
        expected = (
            "`data` to be a dataset name, a folder, an .npz file, an array, a dictionary of arrays, a tf.data.Dataset "
            "or a keras.utils.PyDataset"
        )
        raise input_error(expected, f"{source!r:.200}", argument="data")
    counts = {key: len(array) for key, array in arrays.items()}
    count = next(iter(counts.values()))
    if len(set(counts.values())) > 1:
        raise input_error("as many samples for each input", counts, argument="data")
    splits = split_calibration(count, split)
    indices, targets = _read_answers(labels, count)
    return NamedArrays(name, arrays, indices, splits, divided=split is None).with_targets(targets)


def _read_answers(labels: Any, count: int) -> tuple[Indices | None, Targets | None]:
    """Return (class indices, None), also from one-hot rows, or labels of another kind by the name of the output."""
    if labels is None:
        return None, None
    if isinstance(labels, Mapping):
        named = {name: check_targets(f"`{name}`", values, count, argument="labels") for name, values in labels.items()}
        return None, named
    indices = check_targets("`labels`", labels, count, argument="labels")
    if indices.ndim == 2 and indices.shape[1] > 1:
        one_hot = np.isin(indices, (0, 1)).all() and (indices.sum(axis=1) == 1).all()
        indices = indices.argmax(axis=1) if one_hot else indices
    if not is_class_indices(indices, count):
        return None, {"": indices}
    return indices.reshape(-1).astype(np.int64), None


def _read_tf_dataset(dataset: tf.data.Dataset, labels: Any, input_shape: InputShape | None) -> tuple[Any, Any]:
    if dataset.cardinality() == -1:  # tf.data.INFINITE_CARDINALITY
        raise input_error("a finite tf.data.Dataset", "an infinite one. Use `.take(count)`", argument="data")
    spec: Any = dataset.element_spec
    spec = spec[0] if isinstance(spec, tuple) else spec
    rank = None if isinstance(spec, Mapping) else spec.shape.rank
    # Keras takes batches; single images (H, W, C) are batched here.
    single = 3 if input_shape is None or isinstance(input_shape, Mapping) else len(input_shape)
    batched = dataset.batch(32) if rank is not None and rank == single else dataset
    return _concatenate(batched.as_numpy_iterator(), labels)


def _concatenate(batches: Iterable[Any], labels: Any) -> tuple[Any, Any]:
    """Return (inputs, labels) of all batches; the labels are `labels` where the batches have none."""
    inputs, targets = [], []
    for batch in batches:
        parts = batch if isinstance(batch, tuple) else (batch,)  # inputs, (inputs, labels) or with sample weights
        inputs.append(parts[0])
        targets += [parts[1]] if len(parts) > 1 else []
    if not inputs:
        raise input_error("a dataset with samples", "an empty one", argument="data")
    if targets and labels is None:
        labels = _join(targets)
    return _join(inputs), labels


def _join(parts: list[Any]) -> Any:
    """Return the arrays of all batches as one; as a dictionary where they are dictionaries."""
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    return np.concatenate([np.asarray(part) for part in parts])
