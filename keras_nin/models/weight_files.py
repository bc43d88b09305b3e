"""Weights from a file or from the package into a built model, checked layer by layer.

.weights.h5, .keras and .npz are read here; `foreign` reads those of others.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import warnings
import zipfile

import numpy as np

from keras_nin import files
from keras_nin.errors import InputError, unknown_name_error

BUNDLED_FOLDER = pathlib.Path(__file__).parent / "weights"
# Files as others write them; see `foreign`.
THIRD_PARTY_SUFFIXES = (".h5", ".safetensors", ".pt", ".pth")
WEIGHT_SUFFIXES = (".weights.h5", ".keras", ".npz", *THIRD_PARTY_SUFFIXES)
# Names that others give to a layer's arrays.
ARRAY_NAMES = {"weights": "kernel", "biases": "bias"}
# Where Keras 3 stores the layers; the second in its first versions.
_LAYERS = ("layers/", "_layer_checkpoint_dependencies/")


class WeightsMismatchError(InputError):
    """Weights of another network: one that the model has is missing or of another shape, or there are more."""


def load_weights(model, weights, *, layer_names=None, partial=False):
    """Load `weights` into `model`; where they do not fit, the model keeps the weights that it has.

    Args:
        model: a built keras.Model.
        weights: the name of weights that ship for this model, or a path ending in .weights.h5 (Keras 3) or .keras (a
            saved model), both matched by class and position of the layers, or matched by name: .npz (arrays
            ``<layer>/kernel``, ``<layer>/bias``; HWIO), .h5 (Keras 1 and 2, weights or a whole model), .safetensors,
            .pt and .pth (a PyTorch state dictionary).
        layer_names: the model's table of the layer names that files of others use; see `foreign_names`.
        partial: let the file hold more than the model has, as for a network without its top.

    Returns:
        The `foreign.Import` of a file of others, None for the kinds of our own.

    Raises:
        InputError: no such weights, or an unreadable file. A file that does not fit is a `Misfit`: the message names
            the layer with the expected and the received shape; for a file of others, everything that does not fit.
    """
    path = find_weights(model.name, weights)
    try:
        if _is_third_party(path):
            from keras_nin.models import third_party

            return third_party.load_third_party_weights(model, path, layer_names, partial)
        if _weight_suffix(path) == ".npz":
            return _load_npz(model, path, layer_names or {}, partial)
        return _load_keras(model, path, partial)
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, h5py, NumPy and Keras each raise their own kinds on a damaged file
        raise InputError(f"Expected {str(path)!r} to hold weights. Received: {_first_line(error)}") from error


def find_weights(model_name, weights):
    """Return the path of `weights`: those that ship for the model under that name, or a file as it is.

    A name goes before a file of the same name: "./digits" is the file.

    Raises:
        InputError: no file and no shipped weights of that name, or an unknown kind of file.
    """
    if not isinstance(weights, str | os.PathLike):
        raise InputError(f"Expected `weights` to be a name or a path. Received: {weights!r}")
    names = list_bundled_weights(model_name)
    if weights in names:
        return BUNDLED_FOLDER / f"{model_name}.{weights}.weights.h5"
    path = pathlib.Path(weights)
    if path.is_file():
        _weight_suffix(path)
        return path
    if path.is_dir() or path.suffix or len(path.parts) > 1:
        raise InputError(
            f"Expected `weights` to be an existing file ({', '.join(WEIGHT_SUFFIXES)}). "
            f"Received: {str(weights)!r}{', a folder' if path.is_dir() else ''}"
        )
    if not names:
        raise InputError(f"Expected `weights` to be a file: none ship for {model_name}. Received: {str(weights)!r}")
    raise unknown_name_error("weights", weights, names)


def list_bundled_weights(model_name):
    """Return the names of the weights that ship for the model of that name."""
    names = (path.name.split(".") for path in sorted(BUNDLED_FOLDER.glob("*.weights.h5")))
    return [weights for model, weights, *_ in names if model == model_name]


def read_bundled_metrics(model_name, weights):
    """Return what was measured when the shipped `weights` were trained (a dictionary)."""
    return json.loads((BUNDLED_FOLDER / f"{model_name}.{weights}.json").read_text(encoding="utf-8"))


def hash_weights(model):
    """Return the SHA-256 over the types, shapes and values of a model's weights, in order.

    Names are left out: Keras numbers those that nobody chose by process, so that a copy would have another digest.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight.numpy())
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _weight_suffix(path):
    for ending in WEIGHT_SUFFIXES:
        if path.name.endswith(ending):
            return ending
    raise InputError(f"Expected a weight file ending in {', '.join(WEIGHT_SUFFIXES)}. Received: {path.name!r}")


def _is_third_party(path):
    """Return whether a file is read as others write it: by its ending, or Keras 2's layout in a .weights.h5."""
    from keras_nin.models import third_party_files

    return _weight_suffix(path) in THIRD_PARTY_SUFFIXES or (
        _weight_suffix(path) == ".weights.h5" and third_party_files.is_legacy_h5(path)
    )


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _mismatch(path, variable, layer, shape, received):
    return WeightsMismatchError(
        f"Expected {path.name!r} to hold the {variable} of layer {layer!r} with shape {tuple(shape)}. "
        f"Received: {received}"
    )


def _surplus(path, model, extra):
    return WeightsMismatchError(
        f"Expected {path.name!r} to hold only the weights of {model.name}. "
        f"Received: {len(extra)} more, the first for {extra[0]!r}"
    )


def _load_npz(model, path, layer_names, partial):
    """Set each weight of `model` from the array of its name, all checked before any is changed."""
    wanted, arrays = _named_weights(model), _read_npz(path, layer_names)
    for name, weight in wanted.items():
        array = arrays.get(name)
        if array is None or array.shape != tuple(weight.shape) or array.dtype.kind not in "fiu":
            layer, variable = name.rsplit("/", 1)
            received = f"a file without it ({len(arrays)} arrays)" if array is None else f"shape {array.shape}"
            if array is not None and array.shape == tuple(weight.shape):
                received = f"values of type {array.dtype}"
            raise _mismatch(path, variable, layer, weight.shape, received)
    extra = sorted(set(arrays) - set(wanted))
    if extra and not partial:
        raise _surplus(path, model, extra)
    for name, weight in wanted.items():
        weight.assign(arrays[name])


def _named_weights(model):
    named = {}
    for layer in model.layers:
        for weight in layer.weights:
            name = f"{layer.name}/{weight.name}"
            if name in named:
                raise InputError(
                    f"Expected a network of plain layers for an .npz of <layer>/<variable>. "
                    f"Received: {model.name}, whose layer {layer.name!r} holds layers. Use .weights.h5 or .keras"
                )
            named[name] = weight
    return named


def _read_npz(path, layer_names):
    if not zipfile.is_zipfile(path):
        raise InputError(f"Expected {str(path)!r} to hold weights. Received: a file that is no .npz archive")
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        own = {ours for ours in layer_names.values() if isinstance(ours, str)}
        from keras_nin.models import third_party

        names = third_party.match_layers(layer_names, [key.rpartition("/")[0] for key in file.files], own)
        for key in file.files:
            layer, _, variable = key.rpartition("/")
            name = f"{names.get(layer) or layer}/{ARRAY_NAMES.get(variable, variable)}"
            if name in arrays:
                raise InputError(f"Expected one array for {name!r} in {path.name!r}. Received: a second, {key!r}")
            arrays[name] = file[key]
    return arrays


def _load_keras(model, path, partial):
    before = model.get_weights()
    try:
        with warnings.catch_warnings(action="ignore"):  # of what the error says better
            model.load_weights(path)
        # Keras has found a place for every weight of the model, and does not ask whether there are more.
        if not partial and len(_read_stored_arrays(path)) > len(model.weights):
            raise ValueError("more weights than the model has")
    except Exception:
        model.set_weights(before)
        _raise_mismatch(model, path)
        raise


def _raise_mismatch(model, path):
    """Raise the `Misfit` between a Keras file and `model`, where there is one: compare what each would store where."""
    with files.temporary_folder() as folder:
        own = folder / "own.weights.h5"
        model.save_weights(own)
        wanted = _read_stored_arrays(own)
    found = _read_stored_arrays(path)
    if not found:
        raise InputError(f"Expected {path.name!r} to hold weights as Keras 3 stores them. Received: a file with none")
    owners = [weight.path.split("/")[-2] for weight in model.weights]
    first = {owner: owners.index(owner) for owner in owners}
    for place, ours in sorted(wanted.items(), key=lambda item: (first.get(item[1].owner, len(owners)), item[1].index)):
        if place in found and found[place].shape == ours.shape:
            continue
        number = first.get(ours.owner, len(owners)) + ours.index
        variable = model.weights[number].name if number < len(owners) else f"weight {ours.index}"
        received = f"shape {found[place].shape}" if place in found else f"a file without it ({len(found)} arrays)"
        raise _mismatch(path, variable, ours.layer, ours.shape, received)
    extra = sorted(stored.layer for place, stored in found.items() if place not in wanted)
    if extra:
        raise _surplus(path, model, extra)


@dataclasses.dataclass(frozen=True)
class _StoredArray:
    """An array in a Keras 3 file: its shape, the path of its layer by name, and its number among the layer's."""

    shape: tuple
    layer: str
    index: int

    @property
    def owner(self):
        return self.layer.rsplit("/", 1)[-1]


def _read_stored_arrays(path):
    """Return the weights of layers in a Keras 3 file as {place: `_Stored`}; places are by class and position."""
    import h5py

    source = path
    if path.name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    stored = {}
    with h5py.File(source, "r") as file:

        def collect(place, item):
            layer, _, index = place.rpartition("/vars/")
            # Beside the layers lies the optimizer's state, and in old files that of random generators.
            ours = place.startswith(_LAYERS) and "seed_generator" not in layer
            if ours and index.isdigit() and isinstance(item, h5py.Dataset):
                stored[place] = _StoredArray(item.shape, _layer_path(file, layer), int(index))

        file.visititems(collect)
    return stored


def _layer_path(file, place):
    """Return the names of the layer stored at `place` and of those around it, joined; `place` where none are stored."""
    parts = place.split("/")
    groups = (file.get("/".join([*parts[:end], "vars"])) for end in range(1, len(parts) + 1))
    names = [group.attrs["name"] for group in groups if group is not None and "name" in group.attrs]
    return "/".join(map(str, names)) or place
