"""`keras-nin list`: the zoo."""

import pathlib
import types

import click

from keras_nin.cli import options
from keras_nin.cli.options import json_option

LIST_SCHEMA = "keras_nin.list/1"
LIST_COLUMNS = ("model", "input", "params", "MACs", "weights", "dataset", "what it is")


@click.command("list", epilog="Example: keras-nin list")
@json_option
def list_command(as_json):
    """List the models of the zoo with their parameters and MACs.

    1 MAC = one multiply and one add, for one image of the default size.
    """
    from keras_nin import models
    from keras_nin.formatting import format_table
    from keras_nin.workflows.models import print_json

    rows = [models.get_spec(name) for name in models.list_models()]
    if as_json:
        print_json({"schema": LIST_SCHEMA, "models": [_model_document(row) for row in rows]})
        return
    cells = [
        [
            row.name,
            "x".join(map(str, row.input_shape)),
            f"{row.params:,}",
            f"{row.macs:,}",
            ", ".join(row.weights) or "none ship",
            row.dataset or "-",
            row.title,
        ]
        for row in rows
    ]
    click.echo(format_table(LIST_COLUMNS, cells, right=("params", "MACs")))


def _model_document(row):
    return {
        "name": row.name,
        "title": row.title,
        "paper": row.paper,
        "input_shape": list(row.input_shape),
        "classes": row.classes,
        "params": row.params,
        "macs": row.macs,
        "weights": list(row.weights),
        "dataset": row.dataset,
        "preprocessing": row.preprocessing,
    }


# MERGED `keras-nin import-weights`: weights of others as a Keras 3 weight file.

IMPORT_SCHEMA = "keras_nin.import-weights/1"
IMPORT_COLUMNS = ("tensor", "shape", "layer", "variable", "what was done")


@click.command(
    "import-weights",
    short_help="Turn weights of others into a file for a model.",
    epilog="Example: keras-nin import-weights squeezenet_v1_1 squeezenet1_1.pth -o squeezenet_v1_1.weights.h5",
)
@click.argument("model")
@click.argument("file")
@click.option("-o", "--out", required=True, metavar="OUT.weights.h5", help="Where the weights go.")
@options.shape_option
@options.set_option
@options.force_option
@options.json_option
def import_weights_command(**arguments):
    """Turn the weights in FILE, as others store them, into a Keras 3 weight file of MODEL.

    FILE is a legacy Keras .h5 (Keras 1 or 2; weights or a whole model), a .safetensors, or a PyTorch state dictionary
    (.pt or .pth, which needs the extra keras-nin[torch]). Layers go by the names that MODEL declares for such files, or
    by its own. Every weight must get a tensor and every tensor a place; what does not fit is listed, and nothing is
    written. Only tensors are read: a pickle that could execute code is refused.

    Weights of torchvision mean its poolings: build with pool_rounding=ceil (SqueezeNet) or padded_pools=true
    (Inception v3) where you use them.
    """
    return _import_weights(types.SimpleNamespace(**arguments))


def _import_weights(given):
    from keras_nin import models
    from keras_nin.models import registry
    from keras_nin.workflows import models as models_module

    source, out = _check_import_paths(given)
    loaded = models_module.load_model(given.model, "random", given.input_shape, given.settings)
    row = registry.REGISTRY.get(given.model)
    with models_module.working(f"Reading {source.name}"):
        made = models.load_weights(loaded.model, source, layer_names=row.layer_names if row else None)
    if made is None:
        raise _not_third_party(source)
    state = _write_weights(loaded.model, out, given.force)
    _print_import(given, loaded, made, out, state)


def _check_import_paths(given):
    """Return the paths of the file and of the output, before Keras starts."""
    from keras_nin.errors import InputError
    from keras_nin.models import weight_files
    from keras_nin.workflows import models as models_module

    source, out = pathlib.Path(given.file), pathlib.Path(given.out)
    if not source.is_file():
        what = "a folder" if source.is_dir() else "no file"
        raise InputError(f"Expected a weight file. Received: {given.file!r}, {what}")
    if not source.name.endswith(weight_files.THIRD_PARTY_SUFFIXES):
        raise _not_third_party(source)
    if not out.name.endswith(".weights.h5"):
        raise InputError(f"Expected the output to end in .weights.h5. Received: {given.out!r}")
    models_module.check_output_folder(out.parent)
    return source, out


def _not_third_party(source):
    from keras_nin.errors import InputError
    from keras_nin.models import weight_files

    return InputError(
        f"Expected weights as others store them ({', '.join(weight_files.THIRD_PARTY_SUFFIXES)}). Received: {source.name!r}. "
        "Files of our own kinds (.weights.h5, .keras, .npz) need no import: pass them to --weights"
    )


def _write_weights(model, out, force):
    """Write the weights whole or not at all; return "written" or "up to date"."""
    from keras_nin import files
    from keras_nin.errors import InputError

    with files.temporary_folder() as folder:
        temporary = folder / "new.weights.h5"
        model.save_weights(temporary)
        data = temporary.read_bytes()
    if out.is_file() and out.read_bytes() == data:
        return "up to date"
    if out.exists() and not (force and out.is_file()):
        raise InputError(f"Expected no other file at {str(out)!r}. Received: one with other content. Use --force")
    files.write_file(out, data)
    return "written"


def _print_import(given, loaded, made, out, state):
    import dataclasses

    from keras_nin import models
    from keras_nin.formatting import format_table
    from keras_nin.workflows import models as models_module

    for message in made.notes:
        models_module.note(f"note: {message}")
    if given.as_json:
        document = {
            "schema": IMPORT_SCHEMA,
            "model": loaded.name,
            "file": given.file,
            "convention": made.convention,
            "tensors": [dataclasses.asdict(row) for row in made.rows],
            "notes": list(made.notes),
            "weights_sha256": models.hash_weights(loaded.model),
            "path": str(out),
            "state": state,
        }
        models_module.print_json(document)
        return
    placed = sum(row.layer is not None for row in made.rows)
    left_out = f", {len(made.rows) - placed} left out as declared" if placed < len(made.rows) else ""
    click.echo(f"{given.file}: {made.convention} names, {len(made.rows)} tensors, {placed} placed{left_out}")
    cells = [
        [row.tensor, "x".join(map(str, row.shape)) or "scalar", row.layer or "-", row.variable or "-", row.change]
        for row in made.rows
    ]
    click.echo(format_table(IMPORT_COLUMNS, cells))
    click.echo(f"{state}: {out}")


# MERGED `keras-nin train`: fit a model.


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
def train_command(**arguments):
    """Train MODEL on labelled images, from random weights or from --weights.

    Keeps the weights of the best epoch on training images that are held out, and tests those on the test split. Writes
    <model>.weights.h5, <model>.keras, <model>.json and history.json. A run that was interrupted goes on when the same
    command is given again.
    """
    return _train(types.SimpleNamespace(**arguments))


def _train(given):
    from keras_nin import train
    from keras_nin.workflows import images, models

    folder = given.out or str(pathlib.Path("runs") / pathlib.Path(given.model.replace(":", "_")).stem)
    models.check_output_folder(folder)
    models.check_model(given.model)
    sources = images.ImageSources(None, given.data, given.labels, given.seed)
    models.start_keras()
    loaded = _load_for_training(given)
    dataset = sources.test_set(loaded.dataset, models.input_shape(loaded.model))
    recipe = train.get_recipe(
        loaded.name,
        dataset.name,
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
    )
    run = train.fit_model(
        loaded.model,
        dataset,
        recipe,
        folder,
        name=loaded.name,
        preprocessing=models.choose_preprocessing(loaded.preprocessing, dataset, given.preprocessing, given.crop),
        seed=given.seed,
        force=given.force,
        on_epoch=models.show_epochs(loaded.name, recipe.epochs),
    )
    _print_training(given, run)


def _load_for_training(given):
    """Return the model with the weights to start from; the same command gives the same run."""
    import keras
    import tensorflow as tf

    from keras_nin.workflows import models

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(given.seed)
    weights = given.weights or _initial_weights(given.model)
    return models.load_model(given.model, weights, given.input_shape, given.settings, given.seed)


def _initial_weights(model):
    """Return what to train from: a saved model's own weights, random ones otherwise, also where weights ship."""
    return None if model.endswith((".keras", ".h5")) else "random"


def _print_training(given, run):
    from keras_nin.report.accuracy import format_percent
    from keras_nin.workflows import models

    record = run.record
    if given.as_json:
        models.print_json(record | {"folder": str(run.folder), "history": run.history})
        return
    resumed = f" (resumed after epoch {run.resumed_epochs})" if run.resumed_epochs else ""
    click.echo(
        f"{record['model']} on {record['dataset']}: {len(run.history)} epochs{resumed}, best {record['best_epoch']} "
        f"with {format_percent(record['val_accuracy'])} on held-out images; test {format_percent(record['test_top1'])} on "
        f"{record['test_images']} images"
    )
    click.echo(f"written: {run.folder / record['model']}.weights.h5, .keras and .json, and history.json")


# MERGED `keras-nin cards`: the shelf of model cards.


@click.command(
    "cards",
    short_help="Write the shelf: a card and an audit of every model.",
    epilog="Example: keras-nin cards --check",
)
@click.option("--out", default="models", show_default=True, metavar="DIR", help="Where the shelf is.")
@click.option("--check", is_flag=True, help="Write nothing; exit status 1 where the shelf is not up to date.")
@options.json_option
def cards_command(out, check, as_json):
    """Write a card and an audit.json for every model of the zoo, and the index, from the package's own records."""
    from keras_nin import files
    from keras_nin.workflows import models as models_module

    folder = pathlib.Path(out)
    if not check:
        models_module.check_output_folder(folder)
    contents = build_cards()
    stale = [name for name, text in contents.items() if not _is_current(folder / name, text)]
    if not check:
        for name in stale:
            files.write_file(folder / name, contents[name])
    if as_json:
        models_module.print_json({"schema": "keras_nin.cards/1", "folder": out, "files": len(contents), "stale": stale})
    else:
        state = "not up to date" if check else "written"
        click.echo(f"{len(contents)} files of {out}: {len(stale)} {state}, {len(contents) - len(stale)} up to date")
        for name in stale if check else ():
            click.echo(f"not up to date: {folder / name}")
    return 1 if check and stale else 0


def build_cards():
    """Return the text of every file of the shelf by its path within it."""
    from keras_nin import files, models
    from keras_nin.audit import audit_model
    from keras_nin.models import weight_files
    from keras_nin.report import cards
    from keras_nin.workflows import models as models_module

    models_module.start_keras()
    entries, contents = [], {}
    names = models.list_models()
    for name in models_module.track(names, "Auditing", len(names)):
        spec = models.get_spec(name)
        result = audit_model(models.build_model(name))
        metrics = {weights: weight_files.read_bundled_metrics(name, weights) for weights in spec.weights}
        contents[f"{name}/README.md"] = cards.format_card(spec, result, metrics)
        contents[f"{name}/audit.json"] = files.dump_json(result.to_json())
        entries.append((spec, result))
    return {"README.md": cards.format_card_index(entries)} | contents


def _is_current(path, text):
    return path.is_file() and path.read_bytes() == text.encode()
