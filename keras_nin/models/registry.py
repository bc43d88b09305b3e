"""The registry: every model by name, and what a MODEL argument means.

Each paper's module declares its rows; this is the one table of them.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from keras_nin import files, schemas
from keras_nin.errors import InputError, WeightsMismatchError, expected_error, first_line, unknown_name_error
from keras_nin.models import articles, googlenet, inception_v3, nin, squeezenet, weight_files
from keras_nin.models.model_spec import ModelSpec, Weights

if TYPE_CHECKING:
    import keras

_SPECS = (*nin.SPECS, *squeezenet.SPECS, *googlenet.SPECS, *inception_v3.SPECS, *articles.SPECS)
REGISTRY = {spec.name: spec for spec in _SPECS}
MODEL_SUFFIXES = (".keras", ".h5")
RANDOM = "random"

# What keras.applications' networks expect, as presets of keras_nin.data.preprocessing, by the start of their name.
_APPLICATION_PREPROCESSING = {
    "ConvNeXt": "raw",
    "DenseNet": "torch",
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


def list_models() -> list[str]:
    """Return the names of the zoo's models, in the registry's order."""
    return list(REGISTRY)


def get_spec(name: str) -> ModelSpec:
    """Return the `ModelSpec` of the model `name`; `InputError` with near names where there is none."""
    if name not in REGISTRY:
        raise unknown_name_error("model", name, REGISTRY)
    return REGISTRY[name]


def build_model(name: str, /, *, weights: Weights = None, **arguments: Any) -> keras.Model:
    """Build the zoo's model `name`.

    Args:
        name: a name of `list_models()`.
        weights: None (random), the name of bundled weights, or a path; see `load_weights`.
        **arguments: the builder's own, e.g. ``input_shape=(H, W, C)``, ``classes``, ``include_top``.

    Returns:
        keras.Model, not compiled.

    Raises:
        InputError: unknown name, an argument that this model does not have, or one that does not fit.
    """
    spec = get_spec(name)
    _check_arguments(name, spec.arguments, arguments)
    return spec.build(weights=weights, **arguments)


def _check_arguments(model: str, accepted: Iterable[str], arguments: Mapping[str, Any]) -> None:
    for argument in arguments:
        if argument not in accepted:
            raise InputError(
                f"Expected an argument of {model} ({', '.join(sorted(accepted))}). Received: {argument!r}",
                argument=argument,
            )


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model: the keras.Model.
        name: short name for files and tables.
        weights: what the weights are: the name of bundled ones, a path, or "random (seed N)".
        random: whether the weights are random.
        preprocessing: what the model expects: the name of a preset, or a dictionary that
            `keras_nin.data.Preprocessing.from_json` takes; None where it is not known.
        dataset: name of the model's own dataset, or None.
    """

    model: keras.Model
    name: str
    weights: str
    random: bool
    preprocessing: str | dict[str, Any] | None = None
    dataset: str | None = None


def load_model(
    model: str | os.PathLike[str],
    *,
    weights: Weights = None,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    **arguments: Any,
) -> LoadedModel:
    """Build or load the network that `model` names.

    Args:
        model: a zoo name, ``keras:NAME`` (a keras.applications model), or a path to a .keras or .h5 file. A name goes
            before a file or folder of the same name.
        weights: for a zoo name or ``keras:NAME``, the name of bundled weights or a path. None takes those of the saved
            model, or the bundled ones where they fit the layers, else random ones; ``"random"`` always takes random
            ones.
        input_shape: (H, W, C), where the network leaves it open or can change it.
        seed: of random weights.
        **arguments: of the builder, e.g. ``classes``; a saved model takes none.

    Returns:
        `LoadedModel`. A .keras file that `train_model` wrote brings its preprocessing and dataset from the JSON file
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


def _set_seed(seed: int) -> str:
    """Seed the initializers, so that the same call gives the same network; return the label of random weights."""
    import keras

    try:
        keras.utils.set_random_seed(seed)
    except ValueError:
        raise expected_error("seed", "to be a whole number from 0 to 4294967295", seed) from None
    return f"random (seed {seed})"


def _load_zoo_model(
    spec: ModelSpec, weights: Weights, input_shape: tuple[int, ...] | None, seed: int, arguments: dict[str, Any]
) -> LoadedModel:
    if "name" in arguments:
        raise InputError(
            f"Expected no `name` for {spec.name}, which has one. Received: {arguments['name']!r}", argument="name"
        )
    random_label = _set_seed(seed)
    path = None if weights is None or weights == RANDOM else weight_files.find_weights(spec.name, weights)
    model = build_model(spec.name, weights=path, input_shape=input_shape, **arguments)
    if weights is None:
        weights = _load_bundled_weights(model, spec, partial=not arguments.get("include_top", True))
    is_random = weights is None or weights == RANDOM
    return LoadedModel(
        model=model,
        name=spec.name,
        weights=random_label if is_random else str(weights),
        random=is_random,
        preprocessing=spec.preprocessing,
        dataset=spec.dataset,
    )


def _load_bundled_weights(model: keras.Model, spec: ModelSpec, partial: bool) -> str | None:
    """Load the bundled weights of `spec` and return their name; None where there are none, or for other layers."""
    if not spec.bundled_weights:
        return None
    try:
        weight_files.load_weights(model, weight_files.find_weights(spec.name, spec.bundled_weights[0]), partial=partial)
    except WeightsMismatchError:
        return None
    return spec.bundled_weights[0]


def _load_application(
    text: str, weights: Weights, input_shape: tuple[int, ...] | None, seed: int, arguments: dict[str, Any]
) -> LoadedModel:
    import keras

    name = text.removeprefix("keras:")
    builders: dict[str, Any] = {key: value for key, value in vars(keras.applications).items() if callable(value)}
    if name not in builders:
        raise unknown_name_error("model", text, [f"keras:{key}" for key in builders])
    accepted = set(inspect.signature(builders[name]).parameters) - {"weights", "input_tensor"}
    _check_arguments(text, accepted, arguments)
    random_label = _set_seed(seed)
    try:
        model = builders[name](weights=None, input_shape=input_shape, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected arguments that {text} accepts. Received: {first_line(error)}") from error
    is_random = weights is None or weights == RANDOM
    if weights is not None and not is_random:
        weight_files.load_weights(model, weights)
    return LoadedModel(
        model=model,
        name=name.lower(),
        weights=random_label if is_random else str(weights),
        random=is_random,
        preprocessing=application_preprocessing(name) if arguments.get("include_preprocessing", True) else None,
    )


def application_preprocessing(name: str) -> str | None:
    """Return the name of the preset that a keras.applications model expects; None where it is not known."""
    return next((preset for start, preset in _APPLICATION_PREPROCESSING.items() if name.startswith(start)), None)


def _load_saved_model(
    path: pathlib.Path, weights: Weights, input_shape: tuple[int, ...] | None, seed: int, arguments: dict[str, Any]
) -> LoadedModel:
    _check_saved_model(path)
    if weights not in (None, RANDOM):
        raise InputError(
            f"Expected no `weights` beside a saved model, which has its own. Received: {str(weights)!r}",
            argument="weights",
        )
    if arguments:
        raise InputError(f"Expected no arguments of a builder beside a saved model. Received: {', '.join(arguments)}")
    record = _read_training_record(path)
    is_random = weights == RANDOM
    random_label = _set_seed(seed) if is_random else None
    return LoadedModel(
        model=_rebuild_model(_read_model(path), path, input_shape, is_random),
        name=path.stem,
        weights=random_label or str(path),
        random=is_random,
        preprocessing=record.get("preprocessing"),
        dataset=record.get("dataset"),
    )


def _check_saved_model(path: pathlib.Path) -> None:
    problem = None
    if not path.is_file():
        received = f"{str(path)!r}, {'a folder' if path.is_dir() else 'no file'}"
        problem = f"Expected a zoo name, keras:NAME or a .keras or .h5 file. Received: {received}"
    elif path.name.endswith(".weights.h5"):
        problem = (
            f"Expected a saved model. Received: {path.name!r}, which holds only weights. "
            "Pass the name of a model, and the file as `weights`"
        )
    elif not path.name.endswith(MODEL_SUFFIXES):
        problem = f"Expected a saved model ending in {' or '.join(MODEL_SUFFIXES)}. Received: {path.name!r}"
    elif path.suffix == ".keras" and not zipfile.is_zipfile(path):
        # Keras itself says "File not found" of such a file.
        problem = f"Expected {str(path)!r} to be a saved Keras model. Received: a damaged or truncated file"
    if problem:
        raise InputError(problem, argument="model", path=path)


def _read_model(path: pathlib.Path) -> keras.Model:
    import keras

    # They register our layers, which a saved model may hold.
    import keras_nin.layers.block_layers
    import keras_nin.layers.normalization  # noqa: F401

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        received = f"a {type(model).__name__}"
        cause = None
    except Exception as error:  # zipfile, h5py and Keras each raise their own kinds on a damaged file
        model, received, cause = None, first_line(error), error
        if "safe_mode" in received:
            received = "a Lambda layer, whose Python code is not run. Use Keras operations or a registered layer"
        elif "No model config" in received:
            received = "only weights, or another HDF5 file. Pass the name of a model, and the file as `weights`"
    if not isinstance(model, keras.Model):
        raise InputError(
            f"Expected {str(path)!r} to be a saved Keras model. Received: {received}", argument="model", path=path
        ) from cause
    return model


def _rebuild_model(
    model: keras.Model, path: pathlib.Path, input_shape: tuple[int, ...] | None, random: bool
) -> keras.Model:
    """Return a saved model as it is; rebuilt for `input_shape` where it leaves that open; anew where `random`."""
    import keras

    own = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    shape = None if input_shape is None else tuple(input_shape)
    if shape is not None and own != [shape]:
        _check_open_shape(own, shape, path)
    elif not random:
        return model
    inputs = None if shape is None else keras.Input(shape, name=model.inputs[0].name)
    try:
        copy = keras.models.clone_model(model, input_tensors=inputs)
    except ValueError as error:
        raise InputError(
            f"Expected an input that {path.name!r} accepts. Received: {first_line(error)}", argument="input_shape"
        ) from error
    if not random:
        copy.set_weights(model.get_weights())
    return copy


def _check_open_shape(own: list[tuple[int | None, ...]], shape: tuple[int, ...], path: pathlib.Path) -> None:
    fits = len(own) == 1 and len(own[0]) == len(shape)
    if not fits or any(side not in (None, wanted) for side, wanted in zip(own[0], shape, strict=True)):
        raise InputError(
            f"Expected the input shape of {path.name!r}, {', '.join(map(str, own)) or 'not known'}. Received: {shape}",
            argument="input_shape",
        )


def _read_training_record(path: pathlib.Path) -> dict[str, Any]:
    """Return preprocessing and dataset from the JSON file that training wrote beside a .keras file; else empty.

    The dataset is kept where it goes by a name: only that can be opened again.
    """
    record_path = path.with_suffix(".json")
    if path.suffix != ".keras" or not record_path.is_file():
        return {}
    record = files.read_json(record_path)
    if not isinstance(record, dict) or record.get("schema") != schemas.TRAIN:
        return {}
    preprocessing, dataset = record.get("preprocessing"), record.get("dataset")
    if not isinstance(preprocessing, dict) or not isinstance(dataset, str):
        raise InputError(
            f"Expected `preprocessing` and `dataset` of the training in {str(record_path)!r}. Received: none. "
            "Restore or delete the file",
            path=record_path,
        )
    known = {spec.dataset for spec in _SPECS}
    return {"preprocessing": preprocessing, "dataset": dataset if dataset in known else None}
