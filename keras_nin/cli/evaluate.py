"""`keras-nin evaluate`: the accuracy of a file."""

import json
import pathlib

import click

from keras_nin.cli.options import count_option, data_option, json_option, preprocessing_options, threads_option
from keras_nin.errors import InputError

SCHEMA = "keras_nin.evaluate/1"


@click.command("evaluate", epilog="Example: keras-nin evaluate exported/nin_digits_int8.tflite --data digits")
@click.argument("file")
@data_option
@preprocessing_options
@count_option
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of images.")
@threads_option
@json_option
def command(file, data, labels, preprocessing, crop, test_count, seed, threads, as_json):
    """Measure the top-1 and top-5 accuracy of FILE (.tflite, .keras, .h5, or a model by name) on labelled images.

    The images are the test split of --data. How they are prepared comes from --preprocessing, else from the JSON file
    that an export wrote beside FILE, else from the dataset.
    """
    from keras_nin.cli import images, stages
    from keras_nin.metrics import top_k
    from keras_nin.report.parity import percent

    sources = images.Sources(None, data, labels, seed)
    predict, shape, known, own = _open(file, threads)
    dataset = sources.test_set(own, shape)
    chosen = stages.choose_preprocessing(known, dataset, preprocessing, crop)
    test = images.evaluation_images(dataset, shape, chosen, count=test_count, seed=seed)
    dataset.labels_of(test.indices)
    outputs, truth = _run(predict, test)
    record = {
        "schema": SCHEMA,
        "file": file,
        "images": len(test.indices),
        "top1": top_k(outputs, truth, 1),
        "top5": top_k(outputs, truth, 5),
        "data": dataset.name,
        "preprocessing": chosen.to_json(),
    }
    if as_json:
        stages.print_json(record)
        return
    top5 = "" if record["top5"] is None else f", top-5 {percent(record['top5'])}"
    click.echo(
        f"{file}: top-1 {percent(record['top1'])}{top5} on {record['images']} images of {dataset.name}, "
        f"prepared as {chosen.mode}"
    )


def _open(file, threads):
    """Return (predict, input shape, preprocessing or None, dataset name or None)."""
    from keras_nin.cli import stages

    if file.endswith(".tflite"):
        from keras_nin.tflite.run import Runner

        runner = Runner(file, threads)
        sidecar = read_sidecar(file)
        return runner.predict, runner.input.shape[1:], sidecar.get("preprocessing"), image_source(sidecar)
    loaded = stages.load_model(file)
    shape = stages.input_shape(loaded.model)
    return loaded.model.predict_on_batch, shape, loaded.preprocessing, loaded.dataset


def read_sidecar(file):
    """Return the JSON document that an export wrote beside `file`, or an empty one.

    Raises:
        InputError: the file there is not such a document.
    """
    path = pathlib.Path(file).with_suffix(".json")
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict):
        raise InputError(f"Expected the JSON file that an export writes beside {file!r}. Received: {str(path)!r}")
    return document


def image_source(sidecar):
    """Return the name of the images that an exported file was tested on, or None."""
    return (sidecar.get("parity") or {}).get("source")


def _run(predict, test):
    import numpy as np

    if len(test.input_shape) != 3:
        raise InputError(f"Expected a network on images (height, width, channels). Received: input {test.input_shape}")
    outputs, truth = [], []
    for images, labels in test.batches("Evaluating"):
        outputs.append(np.asarray(predict(images)))
        truth.append(labels)
    outputs = np.concatenate(outputs)
    if outputs.ndim != 2:
        raise InputError(f"Expected a network that ends in classes. Received: output {outputs.shape[1:]}")
    return outputs, np.concatenate(truth)
