"""A MODEL where a command reads files: exported for it to a temporary folder, without a proof."""

import dataclasses
import os
import pathlib

import click

from keras_nin.errors import InputError

# The options of the export: with a file, which is exported already, they mean nothing.
_EXPORT_OPTIONS = {
    "weights": "--weights",
    "input_shape": "--input-shape",
    "settings": "--set",
    "seed": "--seed",
    "calibration": "--calibration",
    "calibration_count": "--calibration-count",
    "io": "--io",
    "allow_float": "--allow-float",
}
RANDOM, NOISE = "random weights", "calibrated on noise"
# Datasets that are read without a network, a file or Keras.
AT_HAND = frozenset({"digits"})
_IMAGES, _NOISE = 100, 8  # to calibrate: ranges of noise serve no accuracy


@dataclasses.dataclass(frozen=True)
class TemporaryFile:
    """A file that was made of a model.

    Attributes:
        path: of the .tflite file; the JSON file beside it names the layers.
        notes: in what it is not the trained network: `RANDOM`, `NOISE`.
        images: what names images such as it was calibrated on; None for noise.
    """

    path: str
    notes: tuple[str, ...] = ()
    images: str | None = None


def is_model(text):
    """Return whether an argument is a MODEL, not the path of a .tflite file.

    Raises:
        InputError: a file that is missing, a folder, or an unknown model.
    """
    if text.startswith("keras:"):
        return True
    if text.endswith((".keras", ".h5")):
        if not os.path.isfile(text):
            raise InputError(f"Expected an existing file. Received: {text!r}")
        return True
    if os.path.isfile(text):
        return False
    if text.endswith(".tflite"):
        problem = "a folder" if os.path.isdir(text) else "no file"
        raise InputError(f"Expected a .tflite file. Received: {text!r}, which is {problem}")
    if os.path.exists(text):
        problem = "a folder" if os.path.isdir(text) else "no regular file"
        raise InputError(f"Expected a .tflite file or a model. Received: {text!r}, which is {problem}")
    from keras_nin.models import get_spec

    get_spec(text)
    return True


def file_stem(model):
    """Return what the files of a MODEL are named after."""
    return pathlib.Path(model.removeprefix("keras:")).stem


def check_file(context, path, other_use=()):
    """Refuse the options of the export beside a file.

    Args:
        context: click's.
        path: of the file.
        other_use: names of arguments that the command takes with a file too.

    Raises:
        InputError: there are some.
    """
    used = [
        option
        for name, option in _EXPORT_OPTIONS.items()
        if name not in other_use and context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if used:
        raise InputError(f"Expected no {', '.join(used)} with a file, which is exported already. Received: {path!r}")


def export_temporary(model, given, folder, schemes=("int8",), *, data=None, labels=None, preprocessing=None, crop=None):
    """Export a model to files in a folder, and return an `Exported` for each scheme.

    It is calibrated on the images that are asked for, else as `keras-nin export` does where weights and their images
    are at hand, else on `data`, else on noise, and the notes say so. Its weights are rounded to the nearest, without
    the tuning of that command.

    Args:
        model: the MODEL argument.
        given: values of `keras_nin.cli.options.temporary_export_options`.
        folder: where the files go, `stem` and scheme in their names.
        schemes: names of schemes that train nothing.
        data, labels, preprocessing, crop: values of a command's options for images, or None.

    Raises:
        InputError: the model does not load or convert, or the images do not.
    """
    from keras_nin import files
    from keras_nin.export import convert_schemes, load_calibration
    from keras_nin.export.schemes import parse_schemes
    from keras_nin.workflows import images, models

    chosen = [scheme.with_io(given.io) if given.io else scheme for scheme in parse_schemes(",".join(schemes))]
    loaded = models.load_model(model, given.weights, given.input_shape, given.settings, given.seed)
    shape = models.model_input(loaded.model)
    source = given.calibration or _own_images(loaded) or data or "random"
    dataset = images.ImageSources(source, data, labels, given.seed).calibration_set(None, shape)
    preprocessing = models.choose_preprocessing(loaded.preprocessing, dataset, preprocessing, crop)
    count = given.calibration_count or (_NOISE if dataset.noise else _IMAGES)
    with models.working(f"Converting {loaded.name} to {', '.join(schemes)}"):
        exports = convert_schemes(
            loaded.model,
            chosen,
            load_calibration(dataset, shape, count=count, seed=given.seed, preprocessing=preprocessing),
            allow_float=given.allow_float,
            weights=loaded.weights,
            preprocessing=preprocessing,
            name=loaded.name,
        )
    found = []
    for made in exports:
        path = folder / f"{file_stem(model)}_{made.scheme.name}.tflite"
        files.write_files(made.contents(path))
        found.append(
            TemporaryFile(str(path), tuple(_notes(loaded, dataset, made.scheme)), None if dataset.noise else source)
        )
    return found


def _own_images(loaded):
    """Return what names the images of a model with weights, where they are at hand."""
    return loaded.dataset if not loaded.random and loaded.dataset in AT_HAND else None


def _notes(loaded, dataset, scheme):
    if loaded.random:
        yield RANDOM
    if scheme.calibrated and dataset.noise:
        yield NOISE
