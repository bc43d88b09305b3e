"""The registry: every model by name. Each paper's file declares its rows; this is the one table of them."""

import dataclasses
import inspect
import os
import pathlib
import zipfile
from typing import Any

from keras_nin import files
from keras_nin.errors import InputError, unknown_name_error
from keras_nin.models import articles, googlenet, inception_v3, nin, squeezenet, weight_files

_SPECS = (*nin.SPECS, *squeezenet.SPECS, *googlenet.SPECS, *inception_v3.SPECS, *articles.SPECS)
REGISTRY = {row.name: row for row in _SPECS}


def list_models():
    """Return the names of the zoo's models, in the registry's order."""
    return list(REGISTRY)


def get_spec(name):
    """Return the `ModelSpec` of the model `name`; `InputError` with near names where there is none."""
    if name not in REGISTRY:
        raise unknown_name_error("model", name, REGISTRY)
    return REGISTRY[name]


def build_model(name, /, *, weights=None, **arguments):
    """Build the zoo's model `name`.

    Args:
        name: a name of `list_models()`.
        weights: None (random), the name of weights that ship, or a path; see `load_weights`.
        **arguments: the builder's own, e.g. ``input_shape=(H, W, C)``, ``classes``, ``include_top``.

    Returns:
        keras.Model, not compiled.

    Raises:
        InputError: unknown name, an argument that this model does not have, or one that does not fit.
    """
    row = get_spec(name)
    accepted = set(inspect.signature(row.builder).parameters) - {"variant", "head"}
    for argument in arguments:
        if argument not in accepted:
            raise InputError(f"Expected an argument of {name} ({', '.join(sorted(accepted))}). Received: {argument!r}")
    return row.builder(weights=weights, **arguments)


# MERGED What a MODEL argument means: a zoo name, keras:NAME of keras.applications, or a .keras or .h5 file.

MODEL_SUFFIXES = (".keras", ".h5")
# The schema of the JSON file that training writes beside a saved model.
TRAIN_SCHEMA = "keras_nin.train/1"

# What keras.applications' networks expect, as presets of keras_nin.data.preprocessing, by the start of their name.
APPLICATION_PREPROCESSING = {
    "ConvNeXt": "raw",
    "DenseNet": "torch",
    "EfficientNetV2": "raw",
    "EfficientNet": "raw",
    "InceptionResNetV2": "symmetric",
    "InceptionV3": "symmetric",
    "MobileNetV3": "raw",
    "MobileNet": "symmetric",
    "NASNet": "symmetric",
    "ResNet50V2": "symmetric",
    "ResNet101V2": "symmetric",
    "ResNet152V2": "symmetric",
    "ResNet": "keras_caffe",
    "VGG": "keras_caffe",
    "Xception": "symmetric",
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model: the keras.Model.
        name: short name for files and tables.
        weights: what the weights are: a shipped name, a path, or "random (seed N)".
        random: whether the weights are random.
        preprocessing: what the model expects: the name of a preset, or a dictionary that
            `keras_nin.data.Preprocessing.from_json` takes; None where nothing says it.
        dataset: name of the model's own dataset, or None.
    """

    model: Any
    name: str
    weights: str
    random: bool
    preprocessing: str | dict | None = None
    dataset: str | None = None


def load_model(model, *, weights=None, input_shape=None, seed=0, **arguments):
    """Build or load the network that `model` names.

    Args:
        model: a zoo name, ``keras:NAME`` (a keras.applications model), or a path to a .keras or .h5 file. A name goes
            before a file or folder of the same name.
        weights: for a zoo name or ``keras:NAME``, a shipped name or a path. None takes those of the saved model, or
            those that ship where they fit the layers, else random ones; ``"random"`` takes random ones in any case.
        input_shape: (H, W, C), where the network leaves it open or can change it.
        seed: of random weights.
        **arguments: of the builder, e.g. ``classes``; a saved model takes none.

    Returns:
        `Loaded`. A .keras file that `keras-nin train` wrote brings its preprocessing and dataset from the JSON file
        beside it.

    Raises:
        InputError: an unknown name, a file that cannot be read, or weights or arguments that do not fit.
    """
    text = os.fspath(model) if isinstance(model, os.PathLike) else str(model)
    if text.startswith("keras:"):
        return _load_application(text, weights, input_shape, seed, arguments)
    if text not in REGISTRY and (text.endswith(MODEL_SUFFIXES) or os.path.exists(text)):
        return _load_saved_model(pathlib.Path(text), weights, input_shape, seed, arguments)
    return _load_zoo_model(get_spec(text), weights, input_shape, seed, arguments)


def _set_seed(seed):
    """Seed the initialisers, so that the same command gives the same network."""
    import keras

    try:
        keras.utils.set_random_seed(seed)
    except ValueError:
        raise InputError(f"Expected `seed` to be a whole number from 0 to 4294967295. Received: {seed!r}") from None
    return f"random (seed {seed})"


def _load_zoo_model(row, weights, input_shape, seed, arguments):
    if "name" in arguments:
        raise InputError(f"Expected no `name` for {row.name}, which has one. Received: {arguments['name']!r}")
    random_label = _set_seed(seed)
    named = None if weights is None or weights == "random" else weight_files.find_weights(row.name, weights)
    model = build_model(row.name, weights=named, input_shape=input_shape, **arguments)
    if weights is None:
        weights = _load_bundled_weights(model, row, partial=not arguments.get("include_top", True))
    is_random = weights is None or weights == "random"
    return LoadedModel(
        model=model,
        name=row.name,
        weights=random_label if is_random else str(weights),
        random=is_random,
        preprocessing=row.preprocessing,
        dataset=row.dataset,
    )


def _load_bundled_weights(model, row, partial):
    """Load the weights that ship for `row` and return their name; None where there are none, or for other layers."""
    if not row.weights:
        return None
    try:
        weight_files.load_weights(model, weight_files.find_weights(row.name, row.weights[0]), partial=partial)
    except weight_files.WeightsMismatchError:
        return None
    return row.weights[0]


def _load_application(text, weights, input_shape, seed, arguments):
    import keras

    name = text.removeprefix("keras:")
    known = [key for key, value in vars(keras.applications).items() if callable(value)]
    if name not in known:
        raise unknown_name_error("model", text, [f"keras:{key}" for key in known])
    builder = getattr(keras.applications, name)
    accepted = set(inspect.signature(builder).parameters) - {"weights", "input_tensor"}
    for argument in arguments:
        if argument not in accepted:
            raise InputError(f"Expected an argument of {text} ({', '.join(sorted(accepted))}). Received: {argument!r}")
    random_label = _set_seed(seed)
    try:
        model = builder(weights=None, input_shape=input_shape, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected arguments that {text} accepts. Received: {_first_line(error)}") from error
    is_random = weights is None or weights == "random"
    if not is_random:
        weight_files.load_weights(model, weights)
    return LoadedModel(
        model=model,
        name=name.lower(),
        weights=random_label if is_random else str(weights),
        random=is_random,
        preprocessing=_application_preprocessing(name, arguments),
    )


def _application_preprocessing(name, arguments):
    if not arguments.get("include_preprocessing", True):
        return None
    return next((mode for start, mode in APPLICATION_PREPROCESSING.items() if name.startswith(start)), None)


def _load_saved_model(path, weights, input_shape, seed, arguments):
    _check_saved_model(path)
    if weights not in (None, "random"):
        raise InputError(f"Expected no `weights` beside a saved model, which has its own. Received: {str(weights)!r}")
    if arguments:
        raise InputError(f"Expected no arguments of a builder beside a saved model. Received: {', '.join(arguments)}")
    record = _read_training_record(path)
    is_random = weights == "random"
    random_label = _set_seed(seed) if is_random else None
    return LoadedModel(
        model=_rebuild_model(_read_model(path), path, input_shape, is_random),
        name=path.stem,
        weights=random_label or str(path),
        random=is_random,
        preprocessing=record.get("preprocessing"),
        dataset=record.get("dataset"),
    )


def _check_saved_model(path):
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise InputError(f"Expected a zoo name, keras:NAME or a .keras or .h5 file. Received: {str(path)!r}, {what}")
    if not path.name.endswith(MODEL_SUFFIXES) or path.name.endswith(".weights.h5"):
        hint = ", weights alone: pass a model's name and --weights" if path.name.endswith(".weights.h5") else ""
        raise InputError(
            f"Expected a saved model ending in {' or '.join(MODEL_SUFFIXES)}. Received: {path.name!r}{hint}"
        )
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        # Keras itself says "File not found" of such a file.
        raise InputError(f"Expected {str(path)!r} to be a saved Keras model. Received: a damaged or truncated file")


def _read_model(path):
    import keras

    # They register our layers, which a saved model may hold.
    import keras_nin.layers.block_layers
    import keras_nin.layers.normalization  # noqa: F401

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zipfile, h5py and Keras each raise their own kinds on a damaged file
        received = _first_line(error)
        if "safe_mode" in received:
            received = "a Lambda layer, whose Python code is not run. Use Keras operations or a registered layer"
        elif "No model config" in received:
            received = "weights alone, or another HDF5 file. Pass a model's name and --weights"
        raise InputError(f"Expected {str(path)!r} to be a saved Keras model. Received: {received}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"Expected {str(path)!r} to be a saved Keras model. Received: a {type(model).__name__}")
    return model


def _rebuild_model(model, path, input_shape, random):
    """Return a saved model as it is; rebuilt for `input_shape` where it leaves that open; anew where `random`."""
    import keras

    own = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    shape = None if input_shape is None else tuple(input_shape)
    if shape is not None and own != [shape]:
        _check_input_shape(own, shape, path)
    elif not random:
        return model
    inputs = None if shape is None else keras.Input(shape, name=model.inputs[0].name)
    try:
        copy = keras.models.clone_model(model, input_tensors=inputs)
    except ValueError as error:
        raise InputError(f"Expected an input that {path.name!r} accepts. Received: {_first_line(error)}") from error
    if not random:
        copy.set_weights(model.get_weights())
    return copy


def _check_input_shape(own, shape, path):
    fits = len(own) == 1 and len(own[0]) == len(shape)
    if not fits or any(side not in (None, asked) for side, asked in zip(own[0], shape, strict=True)):
        raise InputError(
            f"Expected the input shape of {path.name!r}, {', '.join(map(str, own)) or 'not said'}. Received: {shape}"
        )


def _read_training_record(path):
    """Return what training wrote of a .keras file into the JSON file beside it; empty where there is none of its own.

    The dataset is kept where it is one with a name: only that can be opened again.
    """
    beside = path.with_suffix(".json")
    if path.suffix != ".keras" or not beside.is_file():
        return {}
    record = files.read_json(beside)
    if not isinstance(record, dict) or record.get("schema") != TRAIN_SCHEMA:
        return {}
    if not isinstance(record.get("preprocessing"), dict) or not isinstance(record.get("dataset"), str):
        raise InputError(
            f"Expected `preprocessing` and `dataset` of the training in {str(beside)!r}. Received: none. "
            "Put the right file back or remove it"
        )
    named = {row.dataset for row in REGISTRY.values()}
    return {
        "preprocessing": record["preprocessing"],
        "dataset": record["dataset"] if record["dataset"] in named else None,
    }


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]
