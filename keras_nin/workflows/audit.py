"""Audits and comparisons of models and files, by name, path or object."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Literal, Unpack

from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.workflows import SILENT, Progress
from keras_nin.workflows.inputs import (
    FileOrModel,
    ImageSource,
    ModelOptions,
    check_model_name,
    is_tflite,
    open_model,
    open_structure,
)

if TYPE_CHECKING:
    import keras

    from keras_nin.audit import Audit, ModelComparison
    from keras_nin.rewrite import SimplifyResult


def audit_model(model: FileOrModel, *, progress: Progress = SILENT, **options: Unpack[ModelOptions]) -> Audit:
    """Count parameters, MACs and activation memory of every layer.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras, .h5 or .tflite file, or a keras.Model. A .tflite file is read
            without Keras.
        progress: what reports the progress.
        **options: `weights`, `input_shape`, `builder_arguments`, `seed` and `imports`, as in `export_model`.

    Raises:
        InputError: an unknown name, an unreadable file, or a network that is not a graph of layers.
    """
    from keras_nin.audit.api import audit_model as audit_network

    if is_tflite(model):
        from keras_nin.tflite.reader import read_checked_model

        if any(value for name, value in options.items() if name not in ("seed", "imports")):
            raise InputError(
                "A .tflite file holds its whole network: `weights`, `input_shape` and `builder_arguments` do not apply"
            )
        return audit_network(read_checked_model(os.fspath(model)))
    with open_structure(model, progress=progress, **options) as (loaded,):
        return audit_network(loaded.model, name=loaded.name)


def compare_models(
    first: FileOrModel,
    second: FileOrModel,
    test: ImageSource = None,
    *,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: Any = None,
    crop: float | None = None,
    task: str | None = None,
    threads: int = 1,
    progress: Progress = SILENT,
    **options: Unpack[ModelOptions],
) -> ModelComparison:
    """Compare two models, two .tflite files, or a model and the file that was made from it.

    With `test`, two .tflite files also run on the same images, and their outputs are compared.

    Args:
        first, second: as in `audit_model`.
        test, test_count, labels, preprocessing, crop, task: as in `export_model`, with or without labels.
        threads, progress: of the LiteRT runtime; what reports the progress.
        **options: as in `audit_model`, for the first model; `seed` is for both.

    Raises:
        InputError: as `audit_model`.
    """
    from keras_nin.audit.api import compare_models as compare_networks
    from keras_nin.tflite.reader import read_checked_model
    from keras_nin.tflite.runtime_support import check_not_compiled

    if test is not None and not (is_tflite(first) and is_tflite(second)):
        raise InputError(
            "`test` compares the outputs of two .tflite files. `keras-nin verify` compares a model with its file",
            argument="test",
        )
    sides: list[Any] = [first, second]
    names: list[str | None] = [None, None]
    to_open = [position for position, side in enumerate(sides) if not is_tflite(side)]
    for position in to_open:
        check_model_name(sides[position])
    sides = [read_checked_model(side) if is_tflite(side) else side for side in sides]
    for position in {0, 1}.difference(to_open):
        check_not_compiled(sides[position])
    if to_open:
        with open_structure(*(sides[position] for position in to_open), progress=progress, **options) as opened:
            for position, loaded in zip(to_open, opened, strict=True):
                sides[position], names[position] = loaded.model, loaded.name
            comparison = compare_networks(*sides, name_a=names[0], name_b=names[1])
    else:
        comparison = compare_networks(*sides, name_a=names[0], name_b=names[1])
    if test is None:
        return comparison
    from keras_nin.workflows.output_comparison import compare_file_outputs

    outputs = compare_file_outputs(
        os.fspath(first),  # type: ignore[arg-type]
        os.fspath(second),  # type: ignore[arg-type]
        test,
        test_count=test_count,
        labels=labels,
        preprocessing=preprocessing,
        crop=crop,
        task=task,
        seed=options.get("seed", 0),
        threads=threads,
        progress=progress,
    )
    return dataclasses.replace(comparison, outputs=outputs)


def simplify_model(model: AnyPath | keras.Model, **options: Unpack[ModelOptions]) -> SimplifyResult:
    """Collapse linear 1x1 layers and move them behind average poolings, without changing the outputs.

    Args:
        model: as in `audit_model`, but no .tflite file.
        **options: as in `audit_model`.

    Raises:
        InputError: as `audit_model`, or a layer that cannot be rebuilt from its config.
    """
    from keras_nin.rewrite import simplify_model as simplify_network

    return simplify_network(open_model(model, **options).model)
