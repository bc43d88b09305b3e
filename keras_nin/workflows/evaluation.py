"""What `evaluate` runs, a file or a model, and the record that an export wrote beside a file."""

import dataclasses
import pathlib
from collections.abc import Callable

from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True)
class EvaluationSubject:
    """A network to evaluate: how to run it, and what is known of its images and weights.

    Attributes:
        predict: from float32 images (N, H, W, C) to outputs (N, classes).
        input_shape: (H, W, C).
        classes: how many.
        preprocessing: preset, dictionary or None.
        dataset: what names its images, or None.
        weights: what they are, where it is known.
        random: whether they are random.
        threads: of the LiteRT runtime, at batch 1; None for a Keras model.
    """

    predict: Callable
    input_shape: tuple
    classes: int
    preprocessing: str | dict | None
    dataset: str | None
    weights: str | None
    random: bool = False
    threads: int | None = None


def open_subject(file, threads=1, seed=0, output=None):
    """Return the `Subject` of a .tflite file, or of a MODEL argument.

    Raises:
        InputError: no network from images to classes, or a file that does not run.
    """
    if file.endswith(".tflite"):
        return _open_file(file, threads, output)
    from keras_nin.workflows import models

    if output is not None:
        raise InputError(f"Expected --output with a .tflite file. Received: {file!r}")
    loaded = models.load_model(file, seed=seed)
    return EvaluationSubject(
        loaded.model.predict_on_batch,
        models.input_shape(loaded.model),
        _classes(tuple(loaded.model.outputs[0].shape)[1:]),
        loaded.preprocessing,
        loaded.dataset,
        loaded.weights,
        loaded.random,
    )


def _open_file(file, threads, output):
    from keras_nin.tflite.runner import TFLiteRunner

    runner = TFLiteRunner(file, threads, output)
    export_record = read_export_record(file)
    shape = runner.input.shape[1:]
    if len(shape) != 3:
        raise InputError(f"Expected a network on images (height, width, channels). Received: input {shape}")
    classes = _classes(_chosen_output(runner).shape[1:])
    return EvaluationSubject(
        lambda images: runner.predict(images).reshape(len(images), classes),
        shape,
        classes,
        export_record.get("preprocessing"),
        image_source(export_record),
        export_record.get("weights"),
        threads=threads,
    )


def _chosen_output(runner):
    """Return the output that is meant; the error says --output, as the command has it."""
    try:
        return runner.output
    except InputError as error:
        raise InputError(str(error).replace("`output`", "--output N", 1)) from None


def _classes(shape):
    """Return the number of classes of an output; (1, 1, classes) is one row of them too."""
    if not shape or shape[-1] in (None, 1) or any(size != 1 for size in shape[:-1]):
        raise InputError(f"Expected a network that ends in classes. Received: output {shape}")
    return shape[-1]


def read_export_record(file):
    """Return the JSON document that an export wrote beside `file`, or an empty one.

    Raises:
        InputError: the file there is not such a document.
    """
    from keras_nin import files

    path = pathlib.Path(file).with_suffix(".json")
    if not path.exists():
        return {}
    document = files.read_json(path)
    if not isinstance(document, dict):
        raise InputError(
            f"Expected the JSON file that an export writes beside {file!r}. Received: {str(path)!r} with a "
            f"{type(document).__name__}"
        )
    return document


def image_source(export_record):
    """Return what names the images that an exported file was tested on, or None."""
    for part, key in (("options", "data"), ("parity", "source")):
        record = export_record.get(part)
        if isinstance(record, dict) and isinstance(record.get(key), str):
            return record[key]
    return None
