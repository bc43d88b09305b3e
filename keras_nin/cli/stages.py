"""What commands do alike: load a model, open its images, show progress."""

import contextlib
import dataclasses
import os
import sys

import click

from keras_nin import data, files, models
from keras_nin.cli.options import builder_arguments
from keras_nin.errors import InputError
from keras_nin.quiet import captured


def note(message):
    """Print a line for the reader, on stderr so that stdout holds results alone."""
    click.echo(message, err=True)


def start_keras():
    """Load Keras on TensorFlow without what TensorFlow prints on its way."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with working("Starting TensorFlow"), captured():
        import keras
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.get_visible_devices()  # what the runtime says on its first use goes here too
        keras.backend.clear_session()


def load_model(model, weights=None, input_shape=None, settings=(), seed=0):
    """Return the `keras_nin.models.Loaded` of a MODEL argument."""
    if not str(model).startswith("keras:") and not os.path.exists(model) and not model.endswith((".keras", ".h5")):
        models.spec(model)  # an unknown name is an error before Keras starts
    start_keras()
    return models.load(model, weights=weights, input_shape=input_shape, seed=seed, **builder_arguments(settings))


def input_shape(model):
    """Return the (H, W, C) of a model's only input; `InputError` where it has none such."""
    from keras_nin.export.convert import input_shape

    return input_shape(model)


def choose_preprocessing(loaded, dataset, preset=None, crop=None):
    """Return the `Preprocessing` to use: the option's, else the model's, else the dataset's."""
    chosen = preset or loaded
    if chosen is None:
        chosen = dataset.preprocessing
    elif isinstance(chosen, str):
        chosen = data.preset(chosen)
    elif isinstance(chosen, dict):
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
    with _progress() as progress:
        progress.add_task(message, total=None)
        yield


def track(items, message, total):
    """Yield `items` with a progress bar on a terminal; nothing is shown where stderr is none."""
    if not sys.stderr.isatty():
        yield from items
        return
    with _progress() as progress:
        task = progress.add_task(message, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _progress():
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    # stderr by descriptor, because what is captured meanwhile replaces sys.stderr
    return progress.Progress(*columns, console=Console(file=os.fdopen(os.dup(2), "w")), transient=True)


def print_json(document):
    """Print a JSON document on stdout."""
    click.echo(files.to_json(document), nl=False)
