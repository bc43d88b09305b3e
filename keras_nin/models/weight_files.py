"""Weights from a file or from the package into a built model: .weights.h5, .keras and .npz, checked layer by layer."""

import hashlib
import json
import pathlib
import zipfile

import numpy as np

from keras_nin.errors import InputError, unknown_name

SHIPPED = pathlib.Path(__file__).parent / "weights"
ENDINGS = (".weights.h5", ".keras", ".npz")
# Names that others give to a layer's arrays.
ARRAY_NAMES = {"weights": "kernel", "biases": "bias"}


def load_weights(model, weights, *, layer_names=None):
    """Load `weights` into `model`.

    Args:
        model: a built keras.Model.
        weights: the name of weights that ship for this model, or a path ending in .weights.h5 (Keras 3), .keras
            (a saved model with the same layers) or .npz (arrays ``<layer>/kernel``, ``<layer>/bias``; HWIO).
        layer_names: layer names that a foreign .npz uses, mapped to this model's.

    Raises:
        InputError: no such weights, an unreadable file, or one that does not fit: the message names the layer with
            the expected and the received shape.
    """
    path = find(model.name, weights)
    try:
        _LOADERS[_ending(path)](model, path, layer_names or {})
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"Expected {str(path)!r} to hold weights. Received: {_first_line(error)}") from None


def find(model_name, weights):
    """Return the path of `weights`: a file as it is, or the one that ships for the model under that name.

    Raises:
        InputError: no file and no shipped weights of that name, or an unknown kind of file.
    """
    path = pathlib.Path(weights)
    if path.is_file():
        _ending(path)
        return path
    names = shipped(model_name)
    if str(weights) in names:
        return SHIPPED / f"{model_name}.{weights}.weights.h5"
    if path.suffix or len(path.parts) > 1:
        raise InputError(
            f"Expected `weights` to be an existing file ({', '.join(ENDINGS)}). Received: {str(weights)!r}"
        )
    if not names:
        raise InputError(f"Expected `weights` to be a file: none ship for {model_name}. Received: {str(weights)!r}")
    raise unknown_name("weights", weights, names)


def shipped(model_name):
    """Return the names of the weights that ship for the model of that name."""
    return [path.name.split(".")[1] for path in sorted(SHIPPED.glob(f"{model_name}.*.weights.h5"))]


def shipped_metrics(model_name, weights):
    """Return what was measured when the shipped `weights` were trained (a dictionary)."""
    return json.loads((SHIPPED / f"{model_name}.{weights}.json").read_text())


def weights_digest(model):
    """Return the SHA-256 over the names, shapes and values of a model's weights, in order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight.numpy())
        digest.update(f"{weight.path.split('/', 1)[-1]} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _ending(path):
    for ending in ENDINGS:
        if path.name.endswith(ending):
            return ending
    raise InputError(f"Expected a weight file ending in {', '.join(ENDINGS)}. Received: {path.name!r}")


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _assign(model, arrays, source):
    """Set each weight of `model` from `arrays` ("layer/variable" -> array), all checked before any is changed."""
    wanted = {f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights}
    for name, weight in wanted.items():
        layer, variable = name.rsplit("/", 1)
        if name not in arrays:
            raise InputError(
                f"Expected {source} to hold the {variable} of layer {layer!r} with shape {tuple(weight.shape)}. "
                f"Received: a file without it ({len(arrays)} arrays)"
            )
        if arrays[name].shape != tuple(weight.shape):
            raise InputError(
                f"Expected {source} to hold the {variable} of layer {layer!r} with shape {tuple(weight.shape)}. "
                f"Received: shape {arrays[name].shape}"
            )
    extra = sorted(set(arrays) - set(wanted))
    if extra:
        raise InputError(
            f"Expected {source} to hold only the weights of {model.name}. "
            f"Received: {len(extra)} more, the first for {extra[0]!r}"
        )
    for name, weight in wanted.items():
        weight.assign(arrays[name])


def _load_npz(model, path, layer_names):
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            layer, _, variable = key.rpartition("/")
            arrays[f"{layer_names.get(layer, layer)}/{ARRAY_NAMES.get(variable, variable)}"] = file[key]
    _assign(model, arrays, repr(path.name))


def _load_keras(model, path, layer_names):
    import keras

    saved = keras.saving.load_model(path, compile=False)
    arrays = {f"{layer.name}/{weight.name}": weight.numpy() for layer in saved.layers for weight in layer.weights}
    _assign(model, arrays, repr(path.name))


def _load_h5(model, path, layer_names):
    try:
        model.load_weights(path)
    except ValueError as error:
        raise InputError(
            _h5_misfit(model, path) or f"Expected {path.name!r} to fit. Received: {_first_line(error)}"
        ) from None


def _h5_misfit(model, path):
    """Return what does not fit in a Keras 3 weight file, which stores layers by class and position; None if unseen."""
    import h5py
    from keras.src.utils.naming import to_snake_case

    seen = {}
    with h5py.File(path, "r") as file:
        for layer in model.layers:
            kind = to_snake_case(type(layer).__name__)
            key = f"layers/{kind}_{seen[kind]}" if kind in seen else f"layers/{kind}"
            seen[kind] = seen.get(kind, 0) + 1
            for index, weight in enumerate(layer.weights):
                place = f"{key}/vars/{index}"
                if place in file and file[place].shape == tuple(weight.shape):
                    continue
                received = f"shape {file[place].shape}" if place in file else "a file without it"
                return (
                    f"Expected {path.name!r} to hold the {weight.name} of layer {layer.name!r} with shape "
                    f"{tuple(weight.shape)}. Received: {received}"
                )
    return None


_LOADERS = {".weights.h5": _load_h5, ".keras": _load_keras, ".npz": _load_npz}
