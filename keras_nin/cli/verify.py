"""`keras-nin verify`: is a file as good as its model?"""

import os
import time
import types

import click

from keras_nin.cli import options
from keras_nin.errors import InputError
from keras_nin.workflows.evaluation import image_source, read_export_record

VERIFY_SCHEMA = "keras_nin.verify/1"


@click.command(
    "verify",
    short_help="Hold a .tflite file against its model.",
    epilog="Example: keras-nin verify nin_digits exported/nin_digits_int8.tflite",
)
@click.argument("model")
@click.argument("file")
@options.model_options
@options.data_option
@options.preprocessing_options
@options.count_option
@options.limit_options
@click.option("--per-layer", is_flag=True, help="Also compare every operator with its layer: which one hurts?")
@options.threads_option
@options.json_option
def verify_command(**arguments):
    """Run MODEL and FILE (.tflite) on the same images and compare their outputs.

    The images are the test split of --data; what the JSON file beside FILE says of images and their preparation is the
    default. Images that it says served to calibrate are left out. Exit status 1 where FILE is not as good as MODEL.
    """
    return _verify(types.SimpleNamespace(**arguments))


def _verify(given):
    from keras_nin.workflows import images, models, verification
    from keras_nin.workflows.evaluation import image_source, read_export_record

    models.check_model(given.model)
    sources = images.ImageSources(None, given.data, given.labels, given.seed)
    export_record = read_export_record(given.file)
    runner = verification.open_runner(given.file, given.threads, export_record.get("batch") or 1)
    loaded = models.load_model(given.model, given.weights, given.input_shape, given.settings, given.seed)
    shape = models.model_input(loaded.model)
    dataset = sources.test_set(image_source(export_record) or loaded.dataset, shape)
    known = export_record.get("preprocessing") or loaded.preprocessing
    preprocessing = models.choose_preprocessing(known, dataset, given.preprocessing, given.crop)
    seen = verification.calibration_digests(export_record, sources, shape)
    test = images.evaluation_images(dataset, shape, preprocessing, seen, given.test_count, given.seed)
    (parity,) = verification.compare_outputs(given, loaded, [runner], test)
    noise = verification.compare_layers(loaded, runner, test) if given.per_layer else None
    is_other = verification.has_other_preprocessing(given, loaded, export_record, runner, test)
    rows = [(given.file, os.path.getsize(given.file), parity, None)]
    if given.as_json:
        record = {"schema": VERIFY_SCHEMA, "model": loaded.name, "file": given.file, "weights": loaded.weights}
        record |= {
            "parity": parity.to_json(),
            "preprocessing": preprocessing.to_json() if preprocessing else None,
            "same_preprocessing": not is_other,
        }
        models.print_json(record | verification.layers_to_json(noise))
    else:
        click.echo(verification.format_headline(loaded, preprocessing))
        verification.print_table(rows, test, loaded.random)
        verification.print_details(parity, noise)
    verification.print_failures(rows)
    return 0 if parity.passed and not is_other else 1


# MERGED `keras-nin evaluate`: the accuracy of a file.

__all__ = ["EVALUATE_SCHEMA", "evaluate_command", "image_source", "read_export_record"]

EVALUATE_SCHEMA = "keras_nin.evaluate/1"
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
def evaluate_command(file, data, labels, preprocessing, crop, test_count, label_offset, output, seed, threads, as_json):
    """Measure what FILE (.tflite, .keras, .h5, or a model by name) recognises on labelled images.

    Top-1 and top-5 accuracy, every class, and what is taken for what. The images are the test split of --data. Which
    they are and how they are prepared comes from the options, else from the JSON file that an export wrote beside
    FILE, else from the model and its dataset. Images per second of a .tflite file count the runtime at batch 1, with
    the conversion of its input and output, without reading and preparing images.
    """
    from keras_nin.report.accuracy import score_outputs
    from keras_nin.workflows import images, models
    from keras_nin.workflows.evaluation import open_subject

    sources = images.ImageSources(None, data, labels, seed)
    subject = open_subject(file, threads, seed, output)
    dataset = sources.test_set(subject.dataset, subject.input_shape)
    chosen = models.choose_preprocessing(subject.preprocessing, dataset, preprocessing, crop)
    test = images.evaluation_images(dataset, subject.input_shape, chosen, count=test_count, seed=seed)
    offset = _label_offset(label_offset, dataset, test, subject.classes)
    outputs, truth, seconds = _predict(subject.predict, test)
    names = ("",) * offset + tuple(dataset.class_names) if dataset.class_names else ()
    found = score_outputs(outputs, truth + offset, names)
    record = {
        "schema": EVALUATE_SCHEMA,
        "file": file,
        **found.to_json(),
        "data": dataset.name,
        "preprocessing": chosen.to_json(),
        "weights": subject.weights,
        "label_offset": offset,
        "speed": _speed_document(subject, len(truth), seconds),
    }
    if as_json:
        models.print_json(record)
    else:
        _print_evaluation(record, found, subject, chosen)


def _label_offset(given, dataset, test, classes):
    """Return the output of label 0; `InputError` where labels and outputs do not go together."""
    from keras_nin.export.parity import check_labels

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
        from keras_nin.workflows import models

        models.note(f"Note: {classes} outputs, but {known} classes in {dataset.name}: the numbers of both must agree.")
    return offset


def _predict(predict, test):
    """Return the outputs, the labels and the seconds that `predict` took."""
    import numpy as np

    outputs, truth, seconds = [], [], 0.0
    for images, labels in test.batches("Evaluating"):
        start = time.perf_counter()
        outputs.append(np.asarray(predict(images)))
        seconds += time.perf_counter() - start
        truth.append(labels)
    return np.concatenate(outputs), np.concatenate(truth), seconds


def _speed_document(subject, images, seconds):
    """Return images per second with what a speed is printed beside; None for a Keras model, whose batches are larger.

    What happens once, such as packing weights, happened when the file was opened.
    """
    if subject.threads is None:
        return None
    from keras_nin.tflite.host import describe_host

    per_second = float(f"{images / seconds:.4g}")
    return {
        "images_per_second": per_second,
        "batch": 1,
        "threads": subject.threads,
        "runs": images,
        "host": describe_host(),
    }


def _print_evaluation(record, found, subject, preprocessing):
    from keras_nin.report.accuracy import format_percent, format_scores, inference_speed_line

    top5 = "" if found.top5 is None else f", top-5 {format_percent(found.top5)}"
    random = f"; weights: {subject.weights}" if subject.random else ""
    click.echo(
        f"{record['file']}: top-1 {format_percent(found.top1)}{top5} on {found.images} images of {record['data']}, "
        f"prepared as {preprocessing.mode}{random}"
    )
    click.echo(format_scores(found))
    if record["speed"]:
        click.echo(inference_speed_line(record["speed"]))
