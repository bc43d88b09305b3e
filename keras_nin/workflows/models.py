"""The networks that workflows work on: a name, a path or a keras.Model, loaded once."""

from __future__ import annotations

import dataclasses
import gc
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from keras_nin import files, models
from keras_nin.errors import InputError
from keras_nin.models.registry import MODEL_SUFFIXES
from keras_nin.output_capture import capture_output
from keras_nin.workflows.progress import SILENT, Progress

if TYPE_CHECKING:
    import keras

    from keras_nin.models import LoadedModel

ModelLike: TypeAlias = "str | os.PathLike[str] | keras.Model | LoadedModel"
FileOrModel: TypeAlias = ModelLike  # a path may be that of a .tflite file
InputShape: TypeAlias = tuple[int, int, int]


def start_keras(progress: Progress = SILENT) -> None:
    """Import Keras on TensorFlow without TensorFlow's log output; nothing happens where it is imported already."""
    if "keras" in sys.modules:
        files.remove_stale_temporaries(files.temporary_root())
        return
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    files.redirect_temporaries()
    with progress.task("Starting TensorFlow"), capture_output():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.get_visible_devices()  # prints to the log on its first call
    gc.freeze()  # the frameworks' million objects need not be walked in every collection


def model_stem(model: ModelLike) -> str:
    """Return what the files of a model are named after."""
    if isinstance(model, str | os.PathLike):
        return pathlib.Path(os.fspath(model).removeprefix("keras:")).stem
    return model.name


def check_model_name(model: ModelLike) -> None:
    """Raise `InputError` for an unknown name of the zoo, before Keras starts."""
    if isinstance(model, str | os.PathLike):
        text = os.fspath(model)
        if not text.startswith("keras:") and not text.endswith(MODEL_SUFFIXES) and not os.path.exists(text):
            models.get_spec(text)


def is_model(source: FileOrModel) -> bool:
    """Whether `source` is a model; otherwise it is the path of a .tflite file.

    Raises:
        InputError: a missing file, a folder, or an unknown name.
    """
    if not isinstance(source, str | os.PathLike):
        return True
    text = os.fspath(source)
    if text.startswith("keras:"):
        return True
    if text.endswith(MODEL_SUFFIXES):
        if not os.path.isfile(text):
            raise InputError(f"Expected an existing file. Received: {text!r}", path=text)
        return True
    if os.path.isfile(text):
        return False
    if text.endswith(".tflite") or os.path.exists(text):
        problem = "is a folder" if os.path.isdir(text) else "does not exist"
        raise InputError(f"Expected a .tflite file or a model. Received: {text!r}, which {problem}", path=text)
    models.get_spec(text)
    return True


def open_model(
    model: ModelLike,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shape: InputShape | None = None,
    builder_arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> LoadedModel:
    """Load a network.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras or .h5 file, keras.Model, or what `load_model` returned.
        weights: of a named model: name of bundled weights, ``"random"`` or a path.
        input_shape: (height, width, channels), where the network leaves it open.
        builder_arguments: further arguments of a named model's builder.
        seed: of random weights.
        progress: what reports the progress.

    Raises:
        InputError: an unknown name, an unreadable file, or arguments that do not fit.
    """
    check_model_name(model)
    if isinstance(model, models.LoadedModel):
        return model
    start_keras(progress)
    if isinstance(model, str | os.PathLike):
        return models.load_model(
            os.fspath(model),
            weights=weights,
            input_shape=input_shape,
            seed=seed,
            **(builder_arguments or {}),
        )
    if weights is not None or input_shape is not None or builder_arguments:
        raise InputError(
            "Expected no `weights`, `input_shape` or `builder_arguments` for a keras.Model, which is built."
        )
    return models.LoadedModel(model=model, name=model.name, weights="as given", random=False)


def input_shapes(model: keras.Model) -> InputShape | dict[str, tuple[int, ...]]:
    """Return (height, width, channels) of a model on one image, otherwise the shape of each input by its name."""
    from keras_nin.keras_graph import input_specs

    specs = input_specs(model)
    if len(specs) == 1 and len(specs[0].shape) == 3:
        return cast(InputShape, specs[0].shape)
    return {spec.name: cast(tuple[int, ...], spec.shape) for spec in specs}


def choose_preprocessing(
    known: str | dict[str, Any] | None,
    dataset: Any,
    preprocessing: str | None = None,
    crop: float | None = None,
) -> Any:
    """Return the `Preprocessing` to use: the requested preset, else the model's own, else the dataset's.

    Args:
        known: what is known of the model's: a preset, a dictionary, or None.
        dataset: `keras_nin.data.Dataset`.
        preprocessing: name of the requested preset.
        crop: share of the short side that the center crop keeps.

    Returns:
        `Preprocessing`, or None where the dataset holds arrays that are fed as they are.

    Raises:
        InputError: `known` is not a preprocessing, or a preset was requested for such arrays.
    """
    from keras_nin import data

    if dataset.preprocessing is None:
        if preprocessing is not None or crop is not None:
            raise InputError("`preprocessing` and `crop` apply to images. Received: arrays that are fed as they are")
        return None
    chosen = preprocessing or known
    if chosen is None:
        record = dataset.preprocessing
    elif isinstance(chosen, str):
        record = data.get_preset(chosen)
    else:
        record = data.Preprocessing.from_json(chosen)
    return record if crop is None else dataclasses.replace(record, crop_fraction=crop)
