"""`keras-nin evaluate`: the accuracy of a file."""

import dataclasses
import pathlib
from collections.abc import Callable

import click

from keras_nin.cli import options
from keras_nin.errors import InputError

SCHEMA = "keras_nin.evaluate/1"


@click.command("evaluate", epilog="Example: keras-nin evaluate exported/nin_digits_int8.tflite --data digits")
@click.argument("file")
@options.data_option
@options.preprocessing_options
@options.count_option
@click.option(
    "--seed", type=options.SEED, metavar="N", default=0, show_default=True, help="Seed of whatever is random."
)
@options.threads_option
@options.json_option
def command(file, data, labels, preprocessing, crop, test_count, seed, threads, as_json):
    """Measure the top-1 and top-5 accuracy of FILE (.tflite, .keras, .h5, or a model by name) on labelled images.

    The images are the test split of --data. Which they are and how they are prepared comes from the options, else from
    the JSON file that an export wrote beside FILE, else from the model and its dataset.
    """
    from keras_nin.cli import images, stages
    from keras_nin.export.verify import check_labels
    from keras_nin.metrics import top_k
    from keras_nin.report.parity import percent

    sources = images.Sources(None, data, labels, seed)
    subject = _open(file, threads, seed)
    dataset = sources.test_set(subject.dataset, subject.input_shape)
    chosen = stages.choose_preprocessing(subject.preprocessing, dataset, preprocessing, crop)
    test = images.evaluation_images(dataset, subject.input_shape, chosen, count=test_count, seed=seed)
    check_labels(dataset.labels_of(test.indices), subject.classes, dataset.name)
    outputs, truth = _run(subject.predict, test)
    record = {
        "schema": SCHEMA,
        "file": file,
        "images": len(test.indices),
        "top1": top_k(outputs, truth, 1),
        "top5": top_k(outputs, truth, 5),
        "data": dataset.name,
        "preprocessing": chosen.to_json(),
        "weights": subject.weights,
    }
    if as_json:
        stages.print_json(record)
        return
    top5 = "" if record["top5"] is None else f", top-5 {percent(record['top5'])}"
    random = f"; weights: {subject.weights}" if subject.random else ""
    click.echo(
        f"{file}: top-1 {percent(record['top1'])}{top5} on {record['images']} images of {dataset.name}, "
        f"prepared as {chosen.mode}{random}"
    )


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What is evaluated: how to run it, and what is known of its images and weights."""

    predict: Callable
    input_shape: tuple
    classes: int
    preprocessing: str | dict | None
    dataset: str | None
    weights: str | None
    random: bool = False


def _open(file, threads, seed):
    from keras_nin.cli import stages

    if file.endswith(".tflite"):
        from keras_nin.tflite.run import Runner

        runner = Runner(file, threads)
        sidecar = read_sidecar(file)
        return _Subject(
            runner.predict,
            _check_image(runner.input.shape[1:]),
            _classes(runner.output.shape[1:]),
            sidecar.get("preprocessing"),
            image_source(sidecar),
            sidecar.get("weights"),
        )
    loaded = stages.load_model(file, seed=seed)
    return _Subject(
        loaded.model.predict_on_batch,
        stages.input_shape(loaded.model),
        _classes(tuple(loaded.model.outputs[0].shape)[1:]),
        loaded.preprocessing,
        loaded.dataset,
        loaded.weights,
        loaded.random,
    )


def _check_image(shape):
    if len(shape) != 3:
        raise InputError(f"Expected a network on images (height, width, channels). Received: input {shape}")
    return shape


def _classes(shape):
    if len(shape) != 1 or shape[0] == 1:
        raise InputError(f"Expected a network that ends in classes. Received: output {shape}")
    return shape[0]


def read_sidecar(file):
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


def image_source(sidecar):
    """Return what names the images that an exported file was tested on, or None."""
    for part, key in (("options", "data"), ("parity", "source")):
        record = sidecar.get(part)
        if isinstance(record, dict) and isinstance(record.get(key), str):
            return record[key]
    return None


def _run(predict, test):
    import numpy as np

    outputs, truth = [], []
    for images, labels in test.batches("Evaluating"):
        outputs.append(np.asarray(predict(images)))
        truth.append(labels)
    return np.concatenate(outputs), np.concatenate(truth)
