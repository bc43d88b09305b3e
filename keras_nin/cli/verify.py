"""`keras-nin verify`: is a file as good as its model?"""

import os
import types

import click

from keras_nin.cli import options

SCHEMA = "keras_nin.verify/1"


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
def command(**arguments):
    """Run MODEL and FILE (.tflite) on the same images and compare their outputs.

    The images are the test split of --data; what the JSON file beside FILE says of images and their preparation is the
    default. Images that it says served to calibrate are left out. Exit status 1 where FILE is not as good as MODEL.
    """
    return _run(types.SimpleNamespace(**arguments))


def _run(given):
    from keras_nin.cli import images, proof, stages
    from keras_nin.cli.subject import image_source, read_sidecar

    stages.check_model(given.model)
    sources = images.Sources(None, given.data, given.labels, given.seed)
    sidecar = read_sidecar(given.file)
    runner = proof.runner(given.file, given.threads, sidecar.get("batch") or 1)
    loaded = stages.load_model(given.model, given.weights, given.input_shape, given.settings, given.seed)
    shape = stages.model_input(loaded.model)
    dataset = sources.test_set(image_source(sidecar) or loaded.dataset, shape)
    known = sidecar.get("preprocessing") or loaded.preprocessing
    preprocessing = stages.choose_preprocessing(known, dataset, given.preprocessing, given.crop)
    seen = proof.calibrated_on(sidecar, sources, shape)
    test = images.evaluation_images(dataset, shape, preprocessing, seen, given.test_count, given.seed)
    (parity,) = proof.compare(given, loaded, [runner], test)
    noise = proof.per_layer(loaded, runner, test) if given.per_layer else None
    is_other = proof.other_origin(given, loaded, sidecar, runner, test)
    rows = [(given.file, os.path.getsize(given.file), parity, None)]
    if given.as_json:
        record = {"schema": SCHEMA, "model": loaded.name, "file": given.file, "weights": loaded.weights}
        record |= {
            "parity": parity.to_json(),
            "preprocessing": preprocessing.to_json() if preprocessing else None,
            "same_preprocessing": not is_other,
        }
        stages.print_json(record | proof.layers_to_json(noise))
    else:
        click.echo(proof.headline(loaded, preprocessing))
        proof.print_table(rows, test, loaded.random)
        proof.print_details(parity, noise)
    proof.print_failures(rows)
    return 0 if parity.holds and not is_other else 1
