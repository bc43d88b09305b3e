"""`keras-nin verify`: is a file as good as its model?"""

import os
import types

import click

from keras_nin.cli import options

SCHEMA = "keras_nin.verify/1"


@click.command("verify", epilog="Example: keras-nin verify nin_digits exported/nin_digits_int8.tflite")
@click.argument("model")
@click.argument("file")
@options.model_options
@options.data_option
@options.preprocessing_options
@options.count_option
@options.limit_options
@options.threads_option
@options.json_option
def command(**arguments):
    """Run MODEL and FILE (.tflite) on the same images and compare their outputs.

    The images are the test split of --data; what the JSON file beside FILE says of images and their preparation is the
    default. Exit status 1 where FILE is not as good as MODEL.
    """
    return _run(types.SimpleNamespace(**arguments))


def _run(given):
    from keras_nin.cli import images, proof, stages
    from keras_nin.cli.evaluate import image_source, read_sidecar

    stages.check_model(given.model)
    sources = images.Sources(None, given.data, given.labels, given.seed)
    runner = proof.runner(given.file, given.threads)
    sidecar = read_sidecar(given.file)
    loaded = stages.load_model(given.model, given.weights, given.input_shape, given.settings, given.seed)
    shape = stages.input_shape(loaded.model)
    dataset = sources.test_set(image_source(sidecar) or loaded.dataset, shape)
    known = sidecar.get("preprocessing") or loaded.preprocessing
    preprocessing = stages.choose_preprocessing(known, dataset, given.preprocessing, given.crop)
    test = images.evaluation_images(dataset, shape, preprocessing, count=given.test_count, seed=given.seed)
    (parity,) = proof.compare(given, loaded, [runner], test)
    _warn_of_other_weights(loaded, sidecar)
    rows = [(given.file, os.path.getsize(given.file), parity, None)]
    if given.as_json:
        record = {"schema": SCHEMA, "model": loaded.name, "file": given.file, "weights": loaded.weights}
        stages.print_json(record | {"parity": parity.to_json()})
    else:
        click.echo(f"{loaded.name}, weights: {loaded.weights}; input prepared as {preprocessing.mode}")
        proof.print_table(rows, test, loaded.random)
    proof.print_failures(rows)
    return 0 if parity.holds else 1


def _warn_of_other_weights(loaded, sidecar):
    from keras_nin.cli import stages
    from keras_nin.models import weights_digest

    made_from = sidecar.get("weights_sha256")
    if made_from and made_from != weights_digest(loaded.model):
        stages.note(f"Note: the file was made from other weights ({sidecar.get('weights')}) than {loaded.weights}.")
