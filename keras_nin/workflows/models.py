"""What commands do alike: load a model, open its images, show progress."""

import contextlib
import dataclasses
import gc
import os
import sys

import click

from keras_nin import data, files, models
from keras_nin.cli.options import builder_arguments
from keras_nin.errors import InputError
from keras_nin.models.registry import MODEL_SUFFIXES
from keras_nin.output_capture import capture_output


def note(message):
    """Print a line for the reader, on stderr so that stdout holds results alone."""
    click.echo(message, err=True)


def start_keras():
    """Load Keras on TensorFlow without what TensorFlow prints on its way."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    files.redirect_temporaries()
    first = "keras" not in sys.modules
    with working("Starting TensorFlow"), capture_output():
        import keras
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.get_visible_devices()  # what the runtime says on its first use goes here too
        keras.backend.clear_session()
    if first:
        gc.freeze()  # the frameworks' million objects stay, and need not be walked in every collection


def check_model(model):
    """Raise `InputError` where a MODEL argument is an unknown name of the zoo, before Keras starts."""
    if not model.startswith("keras:") and not model.endswith(MODEL_SUFFIXES) and not os.path.exists(model):
        models.get_spec(model)


def load_model(model, weights=None, input_shape=None, settings=(), seed=0):
    """Return the `keras_nin.models.LoadedModel` of a MODEL argument."""
    check_model(model)
    arguments = builder_arguments(settings)
    start_keras()
    return models.load_model(model, weights=weights, input_shape=input_shape, seed=seed, **arguments)


def input_shape(model):
    """Return the (H, W, C) of a model's only input; `InputError` where it has none such."""
    from keras_nin.export.calibration import image_input_shape

    return image_input_shape(model)


def model_input(model):
    """Return what a model takes: (H, W, C) of its only input, an image; else a dictionary from input name to shape."""
    from keras_nin.export.calibration import input_specs

    ports = input_specs(model)
    if len(ports) == 1 and len(ports[0].shape) == 3:
        return ports[0].shape
    return {port.name: port.shape for port in ports}


def choose_preprocessing(loaded, dataset, preset=None, crop=None):
    """Return the `Preprocessing` to use: the option's, else the model's, else the dataset's.

    Args:
        loaded: what is known of the model's: the name of a preset, a dictionary, or None.
        dataset: `keras_nin.data.Dataset`.
        preset, crop: the options' values, or None.

    Returns:
        `Preprocessing`; None where the dataset has arrays that nothing prepares.

    Raises:
        InputError: `loaded` is no preprocessing, or an option for arrays that nothing prepares.
    """
    if dataset.preprocessing is None:
        if preset is not None or crop is not None:
            raise InputError("Expected --preprocessing and --crop for images. Received: a model on other inputs")
        return None
    chosen = preset or loaded
    if chosen is None:
        chosen = dataset.preprocessing
    elif isinstance(chosen, str):
        chosen = data.get_preset(chosen)
    else:
        chosen = data.Preprocessing.from_json(chosen)
    return chosen if crop is None else dataclasses.replace(chosen, crop_fraction=crop)


def check_output_folder(folder):
    """Raise `InputError` where files cannot be written to `folder`, before the work starts and without making it."""
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path) or not os.access(path, os.W_OK):
        raise InputError(f"Expected a folder that can be written to. Received: {str(folder)!r}")


@contextlib.contextmanager
def working(message):
    """Show `message` and the time on a terminal while the block runs; nothing where stderr is none."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.progress import SpinnerColumn

    with _progress(SpinnerColumn("line")) as progress:
        progress.add_task(message, total=None)
        yield


def track(items, message, total):
    """Yield `items` with a progress bar on a terminal; nothing is shown where stderr is none."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn

    with _progress(BarColumn(), MofNCompleteColumn()) as progress:
        task = progress.add_task(message, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _progress(*columns):
    from rich import progress
    from rich.console import Console

    # stderr by descriptor, because what is captured meanwhile replaces sys.stderr
    console = Console(file=os.fdopen(os.dup(2), "w"))
    columns = (progress.TextColumn("{task.description}"), *columns, progress.TimeElapsedColumn())
    return progress.Progress(*columns, console=console, transient=True)


def show_epochs(what, epochs=None):
    """Return a function of (epoch, logs) that prints a line after each epoch of a training, on a terminal."""

    def show(epoch, logs):
        if sys.stderr.isatty():
            of = f"/{epochs}" if epochs else ""
            note(
                f"{what}: epoch {epoch}{of}: loss {logs['loss']:.4f}, accuracy {logs['accuracy']:.4f}; "
                f"held out: loss {logs['val_loss']:.4f}, accuracy {logs['val_accuracy']:.4f}"
            )

    return show


def print_json(document):
    """Print a JSON document on stdout."""
    click.echo(files.dump_json(document), nl=False)
