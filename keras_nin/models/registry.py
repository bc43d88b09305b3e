"""The registry: every model by name, and what a MODEL argument means."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import files, keras_graph, schemas
from keras_nin.errors import (
    InputError,
    WeightsMismatchError,
    expected_error,
    first_line,
    input_error,
    unknown_name_error,
)
from keras_nin.models import articles, googlenet, inception_v3, nin, squeezenet
from keras_nin.models.model_spec import HE, MODEL_SUFFIXES, RANDOM, ModelSpec, Weights, read_table

if TYPE_CHECKING:
    import keras

_SPECS = (*nin.SPECS, *squeezenet.SPECS, *googlenet.SPECS, *inception_v3.SPECS, *articles.SPECS)
REGISTRY = {spec.name: spec for spec in _SPECS}
_HALF_PRECISION = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


def list_models() -> list[str]:
    """Return the names of the zoo's models, in the registry's order."""
    return list(REGISTRY)


def get_spec(name: str) -> ModelSpec:
    """Return the `ModelSpec` of the model `name`; `InputError` with near names where there is none."""
    if name not in REGISTRY:
        raise unknown_name_error("model", name, REGISTRY)
    return REGISTRY[name]


def build_model(name: str, /, *, weights: Weights = None, **arguments: Any) -> keras.Model:
    """Build the zoo's model `name`, a keras.Model that is not compiled.

    Args:
        name: a name of `list_models()`.
        weights: None (random), the name of bundled weights, that of downloadable weights (``"imagenet"``), or a path;
            see `load_weights`. Downloadable weights are fetched into Keras's cache and verified, and set the builder's
            arguments that they need where the caller does not.
        **arguments: the builder's own, e.g. ``input_shape=(H, W, C)``, ``classes``, ``include_top``.

    Raises:
        InputError: unknown name, an argument that this model does not have, or one that does not fit.
    """
    spec = get_spec(name)
    _check_arguments(name, spec.arguments, arguments)
    return spec.build(weights=weights, **arguments)


def _check_arguments(model: str, accepted: Iterable[str], arguments: Mapping[str, Any]) -> None:
    for argument in arguments:
        if argument not in accepted:
            expected = f"an argument of {model} ({', '.join(sorted(accepted))})"
            raise input_error(expected, repr(argument), argument=argument)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model, name: the keras.Model, and its short name for files and tables.
        weights, random: the name of bundled weights, a path, "random (seed N)" or "he (seed N)"; whether they are
            random.
        preprocessing: what the model expects: the name of a preset, or a dictionary that
            `keras_nin.data.Preprocessing.from_json` takes; None where it is not known.
        dataset: name of the model's own dataset, or None.
        input_scaling: the layer that says `preprocessing`, where nothing else does.
    """

    model: keras.Model
    name: str
    weights: str
    random: bool
    preprocessing: str | dict[str, Any] | None = None
    dataset: str | None = None
    input_scaling: keras_graph.InputScaling | None = None

    def recognize_scaling(self) -> LoadedModel:
        """Return the same with the preprocessing that a Rescaling or Normalization at the start of the model expects.

        What is known of the model goes before it.
        """
        scaling = None if self.preprocessing is not None else keras_graph.find_input_scaling(self.model)
        return (
            self if scaling is None else dataclasses.replace(self, preprocessing=scaling.preset, input_scaling=scaling)
        )


def cast_to_float32(loaded: LoadedModel) -> LoadedModel:
    """Return a model that computes in float32, as TFLite does, with the same weights; the label says where it did not.

    Custom layers need not be registered: their classes are those of the layers.

    Raises:
        InputError: a model with half-precision layers that cannot be rebuilt from their configs.
    """
    import keras

    from keras_nin.models import custom_layers

    kinds = _half_precision(loaded.model)
    if not kinds:
        return loaded

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replace(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(replace, value))
        return "float32" if isinstance(value, str) and value in _HALF_PRECISION else value

    code, policy = custom_layers.find_code(loaded.model), keras.config.dtype_policy()

    def refuse(problem: str) -> InputError:
        expected = f"a {kinds[0]} model that can be rebuilt in float32 from its config"
        hint = "A custom layer needs get_config, and an __init__ that passes **kwargs, such as dtype, to the base class"
        return input_error(expected, f"{loaded.name!r}: {problem}. {hint}", argument="model")

    try:
        keras.config.set_dtype_policy("float32")  # of the layers that a custom layer makes itself
        config = replace(keras.saving.serialize_keras_object(loaded.model))
        copy = keras.saving.deserialize_keras_object(config, custom_objects=code)
        copy.set_weights(loaded.model.get_weights())
    except Exception as error:  # many types, from the configurations of the layers
        # Keras says last which layer it was.
        reason = str(error).rpartition("Exception encountered:")[2].strip().partition("\n\n")[0]
        problem = "a lambda. Name the function" if "safe_mode" in reason else " ".join(reason.split())
        raise refuse(problem.rstrip(".") or type(error).__name__) from error
    finally:
        keras.config.set_dtype_policy(policy)
    remaining = _half_precision(copy)
    if remaining:
        raise refuse(f"layers that compute in {remaining[0]} whatever their config says")
    label = f"{loaded.weights}, cast from {' and '.join(kinds)} to float32"
    return dataclasses.replace(loaded, model=copy, weights=label)


def _half_precision(model: keras.Model) -> list[str]:
    """Return the names of the policies of the layers of a model that compute in half precision."""
    return sorted({layer.dtype_policy.name for layer in keras_graph.iterate_layers(model)} & set(_HALF_PRECISION))


@dataclasses.dataclass(frozen=True)
class _Request:
    """The arguments of `load_model` beside the model."""

    weights: Weights
    input_shape: tuple[int, ...] | None
    seed: int
    arguments: dict[str, Any]
    custom_objects: dict[str, Any]

    @property
    def is_random(self) -> bool:
        """Whether the caller asks for random weights."""
        return self.weights in (RANDOM, HE)

    @property
    def label(self) -> str:
        """What random weights are called."""
        return f"{HE if self.weights == HE else RANDOM} (seed {self.seed})"

    def set_seed(self) -> None:
        """Seed the initializers, so that the same call gives the same network."""
        import keras

        try:
            keras.utils.set_random_seed(self.seed)
        except ValueError:
            raise expected_error("seed", "to be a whole number from 0 to 4294967295", self.seed) from None

    def finish(self, loaded: LoadedModel) -> LoadedModel:
        """Return a loaded model with the weights of `initialize_he` where the caller asks for them."""
        if self.weights == HE:
            from keras_nin.models.he_weights import initialize_he

            initialize_he(loaded.model, self.seed, loaded.preprocessing)
        return loaded


def load_model(
    model: str | os.PathLike[str],
    *,
    weights: Weights = None,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    imports: Sequence[str | os.PathLike[str]] = (),
    **arguments: Any,
) -> LoadedModel:
    """Build or load the network that `model` names.

    Args:
        model: a zoo name, ``keras:NAME`` (a keras.applications model), or a path to a .keras or .h5 file. A name goes
            before a file or folder of the same name. A .keras file that `train_model` wrote brings its preprocessing
            and dataset from the JSON file beside it.
        weights: for a zoo name, the name of bundled or downloadable weights; for it or ``keras:NAME``, a path. None
            takes those of the saved model, or the bundled ones where they fit the layers, else random ones;
            ``"random"`` always takes random ones, ``"he"`` random ones that behave numerically like trained ones
            (`keras_nin.models.initialize_he`). With downloadable weights the preprocessing is their publisher's.
        input_shape: (H, W, C), where the network leaves it open or can change it.
        seed: of random weights.
        imports: modules or .py files that define the custom layers of a saved model; their code is run.
        **arguments: of the builder, e.g. ``classes``; a saved model takes none.

    Raises:
        InputError: an unknown name, a file that cannot be read, or weights or arguments that do not fit.
    """
    from keras_nin.models import custom_layers

    text = os.fspath(model) if isinstance(model, os.PathLike) else str(model)
    request = _Request(weights, input_shape, seed, arguments, custom_layers.import_objects(imports))
    if text.startswith("keras:"):
        return request.finish(_load_application(text, request))
    if text not in REGISTRY and (text.endswith(MODEL_SUFFIXES) or os.path.exists(text)):
        return request.finish(_load_saved_model(pathlib.Path(text), request))
    return request.finish(_load_zoo_model(get_spec(text), request))


def _load_zoo_model(spec: ModelSpec, request: _Request) -> LoadedModel:
    from keras_nin.models import downloads, weight_files

    arguments, weights = request.arguments, request.weights
    if "name" in arguments:
        raise input_error(f"no `name` for {spec.name}, which has one", repr(arguments["name"]), argument="name")
    request.set_seed()
    download = downloads.find_download(spec.name, weights)
    if weights is None or request.is_random:
        source = None
    else:
        source = weights if download else weight_files.find_weights(spec.name, weights)
    model = build_model(spec.name, weights=source, input_shape=request.input_shape, **arguments)
    if weights is None and spec.bundled_weights:
        bundled = spec.bundled_weights[0]
        try:
            source = weight_files.find_weights(spec.name, bundled)
            weight_files.load_weights(model, source, partial=not arguments.get("include_top", True))
            weights = bundled
        except WeightsMismatchError:  # the arguments made other layers
            source = None
    label = request.label if source is None else str(weights)
    preprocessing = download.preprocessing if download else spec.preprocessing
    return LoadedModel(model, spec.name, label, source is None, preprocessing, spec.dataset)


def _load_application(text: str, request: _Request) -> LoadedModel:
    import keras

    from keras_nin.models import weight_files

    name, arguments = text.removeprefix("keras:"), request.arguments
    builders: dict[str, Any] = {key: value for key, value in vars(keras.applications).items() if callable(value)}
    if name not in builders:
        raise unknown_name_error("model", text, [f"keras:{key}" for key in builders])
    accepted = set(inspect.signature(builders[name]).parameters) - {"weights", "input_tensor"}
    _check_arguments(text, accepted, arguments)
    request.set_seed()
    try:
        model = builders[name](weights=None, input_shape=request.input_shape, **arguments)
    except (TypeError, ValueError) as error:
        raise input_error(f"arguments that {text} accepts", first_line(error)) from error
    label, is_random = request.label, request.weights is None or request.is_random
    if request.weights is not None and not is_random:
        weight_files.load_weights(model, request.weights)
        label = str(request.weights)
    preprocessing = application_preprocessing(name) if arguments.get("include_preprocessing", True) else None
    return LoadedModel(model, name.lower(), label, is_random, preprocessing)


def application_preprocessing(name: str) -> str | None:
    """Return the name of the preset that a keras.applications model expects; None where it is not known."""
    presets = read_table("zoo.toml")["application_preprocessing"]
    return next((preset for start, preset in presets.items() if name.startswith(start)), None)


def _load_saved_model(path: pathlib.Path, request: _Request) -> LoadedModel:
    from keras_nin.models import custom_layers

    _check_saved_model(path)
    if request.weights is not None and not request.is_random:
        expected = "no `weights` beside a saved model, which has its own"
        raise input_error(expected, repr(str(request.weights)), argument="weights")
    if request.arguments:
        raise input_error("no arguments of a builder beside a saved model", ", ".join(request.arguments))
    record = _read_training_record(path)
    if request.is_random:
        request.set_seed()
    label = request.label if request.is_random else str(path)
    model = _read_model(path, request.custom_objects)
    if keras_graph.graph_of(model) is None:
        model = custom_layers.make_functional(model, request.input_shape)
    model = custom_layers.make_functional(_rebuild_model(model, path, request.input_shape, request.is_random))
    return LoadedModel(model, path.stem, label, request.is_random, record.get("preprocessing"), record.get("dataset"))


def _check_saved_model(path: pathlib.Path) -> None:
    if not path.is_file():
        expected = "a zoo name, keras:NAME or a .keras or .h5 file"
        received = f"{str(path)!r}, {'a folder' if path.is_dir() else 'no file'}"
    elif path.name.endswith(".weights.h5"):
        expected = "a saved model"
        received = f"{path.name!r}, which holds only weights. Pass the name of a model, and the file as `weights`"
    elif not path.name.endswith(MODEL_SUFFIXES):
        expected, received = f"a saved model ending in {' or '.join(MODEL_SUFFIXES)}", repr(path.name)
    elif path.suffix == ".keras" and not zipfile.is_zipfile(path):  # of which Keras itself says "File not found"
        expected, received = f"{str(path)!r} to be a saved Keras model", "a damaged or truncated file"
    else:
        return
    raise input_error(expected, received, argument="model", path=path)


def _read_model(path: pathlib.Path, custom_objects: dict[str, Any]) -> keras.Model:
    import keras

    # They register our layers, which a saved model may hold.
    import keras_nin.layers.block_layers
    import keras_nin.layers.normalization
    import keras_nin.layers.quantized  # noqa: F401
    from keras_nin import archives
    from keras_nin.models import custom_layers

    try:
        archives.check_weight_file(path)
        model = keras.saving.load_model(path, custom_objects, compile=False, safe_mode=True)
        received, cause = f"a {type(model).__name__}", None
    except InputError:
        raise
    except Exception as error:  # zipfile, h5py and Keras each raise their own kinds on a damaged file
        model, received, cause = None, first_line(error), error
        missing = custom_layers.find_missing_name(error)
        if missing is not None:
            place = "which the imported code does not define" if custom_objects else "which is not one of Keras"
            received = f"the custom class {missing!r}, {place}. Pass the module or .py file of the class as `imports`"
        elif "safe_mode" in received:
            received = "a Lambda layer, whose Python code is not run. Use Keras operations or a registered layer"
        elif "No model config" in received:
            received = "only weights, or another HDF5 file. Pass the name of a model, and the file as `weights`"
    if not isinstance(model, keras.Model):
        raise input_error(f"{str(path)!r} to be a saved Keras model", received, argument="model", path=path) from cause
    return model


def _rebuild_model(
    model: keras.Model, path: pathlib.Path, input_shape: tuple[int, ...] | None, random: bool
) -> keras.Model:
    """Return a saved model as it is; rebuilt for `input_shape` where it leaves that open; anew where `random`."""
    import keras

    own = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    shape = None if input_shape is None else tuple(input_shape)
    if shape is not None and own != [shape]:
        fits = len(own) == 1 and len(own[0]) == len(shape)
        if not fits or any(side not in (None, wanted) for side, wanted in zip(own[0], shape, strict=True)):
            expected = f"the input shape of {path.name!r}, {', '.join(map(str, own)) or 'not known'}"
            raise input_error(expected, shape, argument="input_shape")
    elif not random:
        return model
    inputs = None if shape is None else keras.Input(shape, name=model.inputs[0].name)
    try:
        copy = keras.models.clone_model(model, input_tensors=inputs)
    except ValueError as error:
        raise input_error(f"an input that {path.name!r} accepts", first_line(error), argument="input_shape") from error
    if not random:
        copy.set_weights(model.get_weights())
    return copy


def _read_training_record(path: pathlib.Path) -> dict[str, Any]:
    """Return preprocessing and dataset from the JSON file that training or pruning wrote beside a .keras file.

    Empty without such a file. The dataset is kept where it goes by a name: only that can be opened again.
    """
    record_path = path.with_suffix(".json")
    if path.suffix != ".keras" or not record_path.is_file():
        return {}
    record = files.read_json(record_path)
    if not isinstance(record, dict) or record.get("schema") not in (schemas.TRAIN, schemas.PRUNE):
        return {}
    preprocessing, dataset = record.get("preprocessing"), record.get("dataset")
    if record["schema"] == schemas.PRUNE and preprocessing is None:
        return {}
    if not isinstance(preprocessing, dict) or not isinstance(dataset, str):
        expected = f"`preprocessing` and `dataset` of the training in {str(record_path)!r}"
        raise input_error(expected, "none. Restore or delete the file", path=record_path)
    known = {spec.dataset for spec in _SPECS}
    return {"preprocessing": preprocessing, "dataset": dataset if dataset in known else None}
