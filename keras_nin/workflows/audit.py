"""Audits and comparisons of models and files, by name, path or object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_nin.errors import InputError
from keras_nin.workflows.models import FileOrModel, InputShape, check_model_name, open_model
from keras_nin.workflows.progress import SILENT, Progress

if TYPE_CHECKING:
    import keras

    from keras_nin.audit import Audit, ModelComparison
    from keras_nin.rewrite import SimplifyResult


def is_tflite(model: FileOrModel) -> bool:
    """Whether `model` is the path of a .tflite file."""
    return isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".tflite")


def audit_model(
    model: FileOrModel,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shape: InputShape | None = None,
    builder_arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Audit:
    """Count parameters, MACs and activation memory of every layer.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras, .h5 or .tflite file, or a keras.Model. A .tflite file is read
            without Keras.
        weights, input_shape, builder_arguments, seed: as in `export_model`.
        progress: what reports the progress.

    Returns:
        `keras_nin.audit.Audit`.

    Raises:
        InputError: an unknown name, an unreadable file, or a network that is not a graph of layers.
    """
    from keras_nin.audit.api import audit_model as audit_network

    if is_tflite(model):
        if weights is not None or input_shape is not None or builder_arguments:
            raise InputError(
                "A .tflite file holds its whole network: `weights`, `input_shape` and `builder_arguments` do not apply"
            )
        return audit_network(model)
    loaded = open_model(
        model,
        weights=weights,
        input_shape=input_shape,
        builder_arguments=builder_arguments,
        seed=seed,
        progress=progress,
    )
    return audit_network(loaded.model, name=loaded.name)


def compare_models(
    first: FileOrModel,
    second: FileOrModel,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shape: InputShape | None = None,
    builder_arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ModelComparison:
    """Compare two models, two .tflite files, or a model and the file that was made from it.

    Args:
        first, second: as in `audit_model`.
        weights, input_shape, builder_arguments: of the first model.
        seed: of random weights.
        progress: what reports the progress.

    Returns:
        `keras_nin.audit.ModelComparison`.

    Raises:
        InputError: as `audit_model`.
    """
    from keras_nin.audit.api import compare_models as compare_networks

    sides, names = [], []
    for side in (first, second):
        if not is_tflite(side):
            check_model_name(side)
    options = {"weights": weights, "input_shape": input_shape, "builder_arguments": builder_arguments}
    for side in (first, second):
        if is_tflite(side):
            sides.append(side)
            names.append(None)
            continue
        loaded = open_model(side, **options, seed=seed, progress=progress)
        options = {}
        sides.append(loaded.model)
        names.append(loaded.name)
    return compare_networks(*sides, name_a=names[0], name_b=names[1])


def simplify_model(model: str | os.PathLike[str] | keras.Model, **options: Any) -> SimplifyResult:
    """Collapse linear 1x1 layers and move them behind average poolings, without changing the outputs.

    Args:
        model: as in `audit_model`, but no .tflite file.
        **options: `weights`, `input_shape`, `builder_arguments` and `seed` of `audit_model`.

    Returns:
        `keras_nin.rewrite.SimplifyResult`.

    Raises:
        InputError: as `audit_model`, or a layer that cannot be rebuilt from its config.
    """
    from keras_nin.rewrite import simplify_model as simplify_network

    return simplify_network(open_model(model, **options).model)
