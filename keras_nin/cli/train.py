"""`keras-nin train`: fit a model."""

import pathlib
import types

import click

from keras_nin.cli import options

SCHEMA = "keras_nin.train/1"


@click.command("train", short_help="Train a model on labelled images.", epilog="Example: keras-nin train nin_digits")
@click.argument("model")
@options.model_options
@click.option("--data", metavar="DATASET|DIR|FILE.npz", help="Images to train on. [default: the model's own dataset]")
@options.preprocessing_options
@click.option("--epochs", type=int, metavar="N", help="Passes over the images. [default: the recipe's]")
@click.option("--batch-size", type=int, metavar="N", help="Images a step. [default: the recipe's]")
@click.option("--learning-rate", type=float, metavar="RATE", help="At the start. [default: the recipe's]")
@click.option("--out", metavar="DIR", help="Where the files go. [default: runs/<model>]")
@click.option("--force", is_flag=True, help="Start again, whatever is there.")
@options.json_option
def command(**arguments):
    """Train MODEL on labelled images, from random weights or from --weights.

    Keeps the weights of the best epoch on training images that are held out, and tests those on the test split. Writes
    <model>.weights.h5, <model>.keras, <model>.json and history.json. A run that was interrupted goes on when the same
    command is given again.
    """
    return _run(types.SimpleNamespace(**arguments))


def _run(given):
    from keras_nin import train
    from keras_nin.cli import images, stages

    folder = given.out or str(pathlib.Path("runs") / pathlib.Path(given.model.replace(":", "_")).stem)
    stages.check_output_folder(folder)
    stages.check_model(given.model)
    sources = images.Sources(None, given.data, given.labels, given.seed)
    stages.start_keras()
    loaded = _load(given)
    dataset = sources.test_set(loaded.dataset, stages.input_shape(loaded.model))
    recipe = train.recipe_for(
        loaded.name,
        dataset.name,
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
    )
    run = train.fit(
        loaded.model,
        dataset,
        recipe,
        folder,
        name=loaded.name,
        preprocessing=stages.choose_preprocessing(loaded.preprocessing, dataset, given.preprocessing, given.crop),
        seed=given.seed,
        force=given.force,
        on_epoch=stages.show_epochs(loaded.name, recipe.epochs),
    )
    _report(given, run)


def _load(given):
    """Return the model with the weights to start from; the same command gives the same run."""
    import keras
    import tensorflow as tf

    from keras_nin.cli import stages

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(given.seed)
    weights = given.weights or _start(given.model)
    return stages.load_model(given.model, weights, given.input_shape, given.settings, given.seed)


def _start(model):
    """Return what to train from: a saved model's own weights, random ones otherwise, also where weights ship."""
    return None if model.endswith((".keras", ".h5")) else "random"


def _report(given, run):
    from keras_nin.cli import stages
    from keras_nin.report.parity import percent

    record = run.record
    if given.as_json:
        stages.print_json(record | {"folder": str(run.folder), "history": run.history})
        return
    resumed = f" (resumed after epoch {run.resumed_at})" if run.resumed_at else ""
    click.echo(
        f"{record['model']} on {record['dataset']}: {len(run.history)} epochs{resumed}, best {record['best_epoch']} "
        f"with {percent(record['val_accuracy'])} on held-out images; test {percent(record['test_top1'])} on "
        f"{record['test_images']} images"
    )
    click.echo(f"written: {run.folder / record['model']}.weights.h5, .keras and .json, and history.json")
