"""`keras-nin evaluate`: the accuracy of a file."""

import time

import click

from keras_nin.cli import options
from keras_nin.cli.subject import image_source, read_sidecar
from keras_nin.errors import InputError

__all__ = ["SCHEMA", "command", "image_source", "read_sidecar"]

SCHEMA = "keras_nin.evaluate/1"
_IMAGENET_WITH_BACKGROUND = 1001


@click.command(
    "evaluate",
    short_help="Measure accuracy on labelled images.",
    epilog="Example: keras-nin evaluate exported/nin_digits_int8.tflite --data digits",
)
@click.argument("file")
@options.data_option
@options.preprocessing_options
@options.count_option
@click.option(
    "--label-offset",
    type=click.IntRange(min=0),
    metavar="K",
    help="Output of label 0, such as 1 where the first output is a background class. [default: 0]",
)
@click.option("--output", type=click.IntRange(min=0), metavar="N", help="Which output, of a file that has several.")
@click.option(
    "--seed", type=options.SEED, metavar="N", default=0, show_default=True, help="Seed of whatever is random."
)
@options.threads_option
@options.json_option
def command(file, data, labels, preprocessing, crop, test_count, label_offset, output, seed, threads, as_json):
    """Measure what FILE (.tflite, .keras, .h5, or a model by name) recognises on labelled images.

    Top-1 and top-5 accuracy, every class, and what is taken for what. The images are the test split of --data. Which
    they are and how they are prepared comes from the options, else from the JSON file that an export wrote beside
    FILE, else from the model and its dataset. Images per second of a .tflite file count the runtime at batch 1, with
    the conversion of its input and output, without reading and preparing images.
    """
    from keras_nin.cli import images, stages
    from keras_nin.cli.subject import open_subject
    from keras_nin.report.evaluation import evaluation

    sources = images.Sources(None, data, labels, seed)
    subject = open_subject(file, threads, seed, output)
    dataset = sources.test_set(subject.dataset, subject.input_shape)
    chosen = stages.choose_preprocessing(subject.preprocessing, dataset, preprocessing, crop)
    test = images.evaluation_images(dataset, subject.input_shape, chosen, count=test_count, seed=seed)
    offset = _label_offset(label_offset, dataset, test, subject.classes)
    outputs, truth, seconds = _run(subject.predict, test)
    names = ("",) * offset + tuple(dataset.class_names) if dataset.class_names else ()
    found = evaluation(outputs, truth + offset, names)
    record = {
        "schema": SCHEMA,
        "file": file,
        **found.to_json(),
        "data": dataset.name,
        "preprocessing": chosen.to_json(),
        "weights": subject.weights,
        "label_offset": offset,
        "speed": _speed(subject, len(truth), seconds),
    }
    if as_json:
        stages.print_json(record)
    else:
        _print(record, found, subject, chosen)


def _label_offset(given, dataset, test, classes):
    """Return the output of label 0; `InputError` where labels and outputs do not go together."""
    from keras_nin.export.verify import check_labels

    labels = dataset.labels_of(test.indices)
    known = len(dataset.class_names) or None
    largest = int(labels.max())
    is_background = classes == (known or 0) + 1 or (classes == _IMAGENET_WITH_BACKGROUND and known is None)
    if given is None and is_background and largest < classes - 1:
        raise InputError(
            f"Expected --label-offset for {classes} outputs and labels up to {largest} in {dataset.name!r}. Received: "
            "none. Use 1 where the first output is a background class, 0 where it is the first label's"
        )
    offset = given or 0
    check_labels(labels + offset, classes, dataset.name)
    if known is not None and known + offset != classes:
        from keras_nin.cli import stages

        stages.note(f"Note: {classes} outputs, but {known} classes in {dataset.name}: the numbers of both must agree.")
    return offset


def _run(predict, test):
    """Return the outputs, the labels and the seconds that `predict` took."""
    import numpy as np

    outputs, truth, seconds = [], [], 0.0
    for images, labels in test.batches("Evaluating"):
        start = time.perf_counter()
        outputs.append(np.asarray(predict(images)))
        seconds += time.perf_counter() - start
        truth.append(labels)
    return np.concatenate(outputs), np.concatenate(truth), seconds


def _speed(subject, images, seconds):
    """Return images per second with what a speed is printed beside; None for a Keras model, whose batches are larger.

    What happens once, such as packing weights, happened when the file was opened.
    """
    if subject.threads is None:
        return None
    from keras_nin.tflite.host import host

    per_second = float(f"{images / seconds:.4g}")
    return {"images_per_second": per_second, "batch": 1, "threads": subject.threads, "runs": images, "host": host()}


def _print(record, found, subject, preprocessing):
    from keras_nin.report.evaluation import describe, speed_line
    from keras_nin.report.parity import percent

    top5 = "" if found.top5 is None else f", top-5 {percent(found.top5)}"
    random = f"; weights: {subject.weights}" if subject.random else ""
    click.echo(
        f"{record['file']}: top-1 {percent(found.top1)}{top5} on {found.images} images of {record['data']}, "
        f"prepared as {preprocessing.mode}{random}"
    )
    click.echo(describe(found))
    if record["speed"]:
        click.echo(speed_line(record["speed"]))
