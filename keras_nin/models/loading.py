"""What a MODEL argument means: a zoo name, keras:NAME of keras.applications, or a .keras or .h5 file."""

import dataclasses
import pathlib
from typing import Any

from keras_nin.errors import InputError, unknown_name
from keras_nin.models import registry, weight_files

FILE_ENDINGS = (".keras", ".h5")

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
class Loaded:
    """A model and where it came from.

    Attributes:
        model: the keras.Model.
        name: short name for files and tables.
        weights: what the weights are: a shipped name, a path, or "random (seed N)".
        random: whether the weights are random.
        preprocessing: name of the preset that the model expects; None where nothing says it.
        dataset: name of the model's own dataset, or None.
    """

    model: Any
    name: str
    weights: str
    random: bool
    preprocessing: str | None = None
    dataset: str | None = None


def load(model, *, weights=None, input_shape=None, seed=0, **arguments):
    """Build or load the network that `model` names.

    Args:
        model: a zoo name, ``keras:NAME`` (a keras.applications model), or a path to a .keras or .h5 file.
        weights: for a zoo name or ``keras:NAME``, a shipped name or a path. None takes those that ship, else random
            ones; ``"random"`` takes random ones in any case.
        input_shape: (H, W, C), where the network leaves it open or can change it.
        seed: of random weights.
        **arguments: of the zoo's builder, e.g. ``classes``.

    Returns:
        `Loaded`.

    Raises:
        InputError: an unknown name, a file that cannot be read, or arguments that do not fit.
    """
    text = str(model)
    shipped = weights is None
    weights = None if weights == "random" else weights
    if text.startswith("keras:"):
        return _load_application(text, weights, input_shape, seed)
    if text.endswith(FILE_ENDINGS) or pathlib.Path(text).exists():
        return _load_file(pathlib.Path(text), weights, input_shape)
    row = registry.spec(text)
    changed = (input_shape is not None and tuple(input_shape) != row.input_shape) or arguments
    if shipped and row.weights and not changed:
        weights = row.weights[0]
    return _load_zoo(row, weights, input_shape, seed, arguments)


def _seeded(weights, seed):
    """Seed the initialisers where weights will be random, so that the same command gives the same network."""
    import keras

    if weights is None:
        keras.utils.set_random_seed(seed)
    return weights or f"random (seed {seed})"


def _load_zoo(row, weights, input_shape, seed, arguments):
    label = _seeded(weights, seed)
    return Loaded(
        model=registry.build(row.name, weights=weights, input_shape=input_shape, **arguments),
        name=row.name,
        weights=str(label),
        random=weights is None,
        preprocessing=row.preprocessing,
        dataset=row.dataset,
    )


def _load_application(text, weights, input_shape, seed):
    import keras

    name = text.removeprefix("keras:")
    known = [key for key, value in vars(keras.applications).items() if callable(value)]
    if name not in known:
        raise unknown_name("model", text, [f"keras:{key}" for key in known])
    label = _seeded(weights, seed)
    try:
        model = getattr(keras.applications, name)(weights=None, input_shape=input_shape)
    except ValueError as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f"Expected arguments that {text} accepts. Received: {line}") from None
    if weights is not None:
        weight_files.load_weights(model, weights)
    return Loaded(
        model=model,
        name=name.lower(),
        weights=str(label),
        random=weights is None,
        preprocessing=next((mode for start, mode in APPLICATION_PREPROCESSING.items() if name.startswith(start)), None),
    )


def _load_file(path, weights, input_shape):
    if not path.is_file():
        raise InputError(f"Expected a zoo name, keras:NAME or a .keras or .h5 file. Received: {str(path)!r}, no file")
    if not path.name.endswith(FILE_ENDINGS) or path.name.endswith(".weights.h5"):
        hint = ", weights alone: pass a model's name and --weights" if path.name.endswith(".weights.h5") else ""
        raise InputError(f"Expected a saved model ending in {' or '.join(FILE_ENDINGS)}. Received: {path.name!r}{hint}")
    if weights is not None:
        raise InputError(f"Expected no `weights` beside a saved model, which has its own. Received: {str(weights)!r}")
    model = _read_model(path)
    if input_shape is not None and tuple(model.input_shape[1:]) != tuple(input_shape):
        raise InputError(f"Expected the input shape of {path.name!r}, {model.input_shape[1:]}. Received: {input_shape}")
    return Loaded(model=model, name=path.stem, weights=str(path), random=False)


def _read_model(path):
    import keras

    import keras_nin.layers.classes  # noqa: F401 - registers our layers, which a saved model may hold

    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # zipfile, h5py and Keras each raise their own kinds on a damaged file
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"Expected {str(path)!r} to be a saved Keras model. Received: {line}") from None
