"""Weights from a file or from the package into a built model, checked layer by layer.

Files of Keras 3 are read here, matched by class and position of the layers; `third_party` reads those matched by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import archives, files
from keras_nin.errors import (
    InputError,
    WeightsMismatchError,
    expected_error,
    first_line,
    input_error,
    unknown_name_error,
)
from keras_nin.models import downloads, third_party, third_party_files

if TYPE_CHECKING:
    import h5py
    import keras


_BUNDLED_FOLDER = pathlib.Path(__file__).parent / "weights"
THIRD_PARTY_SUFFIXES = (".h5", ".safetensors", ".pt", ".pth")
WEIGHT_SUFFIXES = (".weights.h5", ".keras", ".npz", *THIRD_PARTY_SUFFIXES)
_HDF5_OVERHEAD = 2048  # bytes for each array; 900 to 1,500 were measured
# Where Keras 3 stores the layers; the second in its first versions.
_LAYERS = ("layers/", "_layer_checkpoint_dependencies/")


def load_weights(
    model: keras.Model,
    weights: str | os.PathLike[str],
    *,
    layer_names: third_party.LayerNames | None = None,
    partial: bool = False,
) -> third_party.WeightImport | None:
    """Load `weights` into `model`; where they do not fit, the model keeps the weights that it has.

    Args:
        model: a built keras.Model.
        weights: the name of bundled weights of this model, or a path ending in .weights.h5 (Keras 3) or .keras (a
            saved model), both matched by class and position of the layers, or matched by name: .npz (arrays
            ``<layer>/kernel``, ``<layer>/bias``; HWIO), .h5 (Keras 1 and 2, weights or a whole model), .safetensors,
            .pt and .pth (a PyTorch state dictionary).
        layer_names: the model's table of third-party layer names; see `third_party`.
        partial: let the file hold more than the model has, as for a network without its top.

    Returns:
        What became of each tensor of a file matched by name; None for the files of Keras 3.

    Raises:
        InputError: no such weights, or an unreadable file.
        WeightsMismatchError: a file that does not fit. The message names the layer with the expected and the received
            shape; for a file matched by name, everything that does not fit.
    """
    path = find_weights(model.name, weights)
    suffix = _weight_suffix(path)
    try:
        archives.check_weight_file(path)
        if suffix == ".keras" or (suffix == ".weights.h5" and not third_party_files.is_legacy_h5(path)):
            return _load_keras(model, path, partial)
        return third_party.load_by_name(model, path, layer_names, partial)
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, h5py, NumPy and Keras each raise their own kinds on a damaged file
        expected = f"{str(path)!r} to hold weights"
        raise input_error(expected, first_line(error), argument="weights", path=path) from error


def find_weights(model_name: str, weights: str | os.PathLike[str]) -> pathlib.Path:
    """Return the path of `weights`: the model's bundled ones of that name, or a file as it is.

    A name goes before a file of the same name: "./digits" is the file. No file and no bundled weights of that name, or
    an unknown kind of file, are an `InputError`.
    """
    if not isinstance(weights, str | os.PathLike):
        raise expected_error("weights", "to be None, a name or a path", weights)
    bundled = list_bundled_weights(model_name)
    if weights in bundled:
        return _BUNDLED_FOLDER / f"{model_name}.{weights}.weights.h5"
    path = pathlib.Path(weights)
    if path.is_file():
        _weight_suffix(path)
        return path
    if path.is_dir() or path.suffix or len(path.parts) > 1:
        expected = f"`weights` to be an existing file ({', '.join(WEIGHT_SUFFIXES)})"
        raise input_error(expected, f"{str(weights)!r}{', a folder' if path.is_dir() else ''}", argument="weights")
    if downloads.find_download(model_name, weights):
        expected = f"to be a file. The builder of {model_name} in the zoo fetches weights by that name"
        raise expected_error("weights", expected, str(weights))
    names = [*bundled, *downloads.list_downloads(model_name)]
    if not names:
        raise expected_error("weights", f"to be a file: {model_name} has no bundled weights", str(weights))
    raise unknown_name_error("weights", weights, names)


def list_bundled_weights(model_name: str) -> list[str]:
    """Return the names of the bundled weights of the model of that name."""
    names = (path.name.split(".") for path in sorted(_BUNDLED_FOLDER.glob("*.weights.h5")))
    return [weights for model, weights, *_ in names if model == model_name]


def read_bundled_metrics(model_name: str, weights: str) -> dict[str, Any]:
    """Return the training record of bundled weights, with their accuracies."""
    return json.loads((_BUNDLED_FOLDER / f"{model_name}.{weights}.json").read_text(encoding="utf-8"))


def save_weights(model: keras.Model, path: pathlib.Path) -> None:
    """Write the weights of a model and the state of its optimizer as Keras 3 stores them.

    Raises:
        OSError: the disk has no room for them. HDF5 itself crashes the process where a disk fills up.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    size = sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)
    files.check_room(path, size + _HDF5_OVERHEAD * len(variables))
    model.save_weights(path)


def hash_weights(model: keras.Model) -> str:
    """Return the SHA-256 over the types, shapes and values of a model's weights, in order.

    Names are left out: Keras numbers the automatic ones through the process, so that a copy would have another hash.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight.numpy())
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _weight_suffix(path: pathlib.Path) -> str:
    for suffix in WEIGHT_SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    expected = f"a weight file ending in {', '.join(WEIGHT_SUFFIXES)}"
    raise input_error(expected, repr(path.name), argument="weights", path=path)


def _load_keras(model: keras.Model, path: pathlib.Path, partial: bool) -> None:
    """Load a file of Keras 3, and explain what does not fit better than Keras does."""
    before = model.get_weights()
    try:
        with warnings.catch_warnings(action="ignore"):
            model.load_weights(path)
        # Keras has found every weight of the model, and does not ask whether there are more.
        if not partial and len(_read_stored_arrays(path)) > len(model.weights):
            raise ValueError("more weights than the model has")
    except Exception:
        model.set_weights(before)
        _raise_mismatch(model, path)
        raise


def _raise_mismatch(model: keras.Model, path: pathlib.Path) -> None:
    """Raise `WeightsMismatchError` where a Keras file differs from what `model` would store; else return."""
    with files.temporary_folder() as folder:
        own = folder / "own.weights.h5"
        save_weights(model, own)
        expected = _read_stored_arrays(own)
    stored = _read_stored_arrays(path)
    if not stored:
        raise input_error(f"{path.name!r} to hold weights as Keras 3 stores them", "a file with none", path=path)
    owners = [weight.path.split("/")[-2] for weight in model.weights]
    first = {owner: owners.index(owner) for owner in owners}
    numbered = [
        (first.get(array.layer.rsplit("/", 1)[-1], len(owners)) + array.index, at) for at, array in expected.items()
    ]
    for number, location in sorted(numbered, key=lambda pair: pair[0]):
        array = expected[location]
        if location in stored and stored[location].shape == array.shape:
            continue
        variable = model.weights[number].name if number < len(owners) else f"weight {array.index}"
        received = f"a file without it ({len(stored)} arrays)"
        if location in stored:
            received = f"shape {stored[location].shape}"
        wanted = f"the {variable} of layer {array.layer!r} with shape {array.shape}"
        raise WeightsMismatchError(f"Expected {path.name!r} to hold {wanted}. Received: {received}", path=path)
    surplus = sorted(array.layer for location, array in stored.items() if location not in expected)
    if surplus:
        received = f"{len(surplus)} more, the first for {surplus[0]!r}"
        wanted = f"only the weights of {model.name}"
        raise WeightsMismatchError(f"Expected {path.name!r} to hold {wanted}. Received: {received}", path=path)


@dataclasses.dataclass(frozen=True)
class _StoredArray:
    """An array in a Keras 3 file: its shape, the path of its layer by name, and its number among the layer's."""

    shape: tuple[int, ...]
    layer: str
    index: int


def _read_stored_arrays(path: pathlib.Path) -> dict[str, _StoredArray]:
    """Return the weights of layers in a Keras 3 file by their locations, which are made of class and position."""
    import h5py

    source: pathlib.Path | io.BytesIO = path
    if path.name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    stored: dict[str, _StoredArray] = {}
    with h5py.File(source, "r") as file:

        def collect(location: str, item: object) -> None:
            layer, _, index = location.rpartition("/vars/")
            # Beside the layers lies the optimizer's state, and in old files that of random generators.
            is_weight = location.startswith(_LAYERS) and "seed_generator" not in layer and index.isdigit()
            if is_weight and isinstance(item, h5py.Dataset):
                stored[location] = _StoredArray(item.shape, _layer_path(file, layer), int(index))

        file.visititems(collect)
    return stored


def _layer_path(file: h5py.File, location: str) -> str:
    """Return the names of the layer stored at `location` and of those around it; `location` where none are stored."""
    parts = location.split("/")
    prefixes = ("/".join([*parts[:end], "vars"]) for end in range(1, len(parts) + 1))
    groups = (file[prefix] for prefix in prefixes if prefix in file)
    names = [str(group.attrs["name"]) for group in groups if "name" in group.attrs]
    return "/".join(names) or location
