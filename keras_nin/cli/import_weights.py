"""`keras-nin import-weights`: weights of others as a Keras 3 weight file."""

import pathlib
import types

import click

from keras_nin.cli import options

SCHEMA = "keras_nin.import-weights/1"
COLUMNS = ("tensor", "shape", "layer", "variable", "what was done")


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
def command(**arguments):
    """Turn the weights in FILE, as others store them, into a Keras 3 weight file of MODEL.

    FILE is a legacy Keras .h5 (Keras 1 or 2; weights or a whole model), a .safetensors, or a PyTorch state dictionary
    (.pt or .pth, which needs the extra keras-nin[torch]). Layers go by the names that MODEL declares for such files, or
    by its own. Every weight must get a tensor and every tensor a place; what does not fit is listed, and nothing is
    written. Only tensors are read: a pickle that could execute code is refused.

    Weights of torchvision mean its poolings: build with pool_rounding=ceil (SqueezeNet) or padded_pools=true
    (Inception v3) where you use them.
    """
    return _run(types.SimpleNamespace(**arguments))


def _run(given):
    from keras_nin import models
    from keras_nin.cli import stages
    from keras_nin.models import registry

    source, out = _check(given)
    loaded = stages.load_model(given.model, "random", given.input_shape, given.settings)
    row = registry.REGISTRY.get(given.model)
    with stages.working(f"Reading {source.name}"):
        made = models.load_weights(loaded.model, source, layer_names=row.layer_names if row else None)
    if made is None:
        raise _no_foreign_file(source)
    state = _write(loaded.model, out, given.force)
    _report(given, loaded, made, out, state)


def _check(given):
    """Return the paths of the file and of the output, before Keras starts."""
    from keras_nin.cli import stages
    from keras_nin.errors import InputError
    from keras_nin.models import weight_files

    source, out = pathlib.Path(given.file), pathlib.Path(given.out)
    if not source.is_file():
        what = "a folder" if source.is_dir() else "no file"
        raise InputError(f"Expected a weight file. Received: {given.file!r}, {what}")
    if not source.name.endswith(weight_files.FOREIGN):
        raise _no_foreign_file(source)
    if not out.name.endswith(".weights.h5"):
        raise InputError(f"Expected the output to end in .weights.h5. Received: {given.out!r}")
    stages.check_output_folder(out.parent)
    return source, out


def _no_foreign_file(source):
    from keras_nin.errors import InputError
    from keras_nin.models import weight_files

    return InputError(
        f"Expected weights as others store them ({', '.join(weight_files.FOREIGN)}). Received: {source.name!r}. "
        "Files of our own kinds (.weights.h5, .keras, .npz) need no import: pass them to --weights"
    )


def _write(model, out, force):
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
    files.write(out, data)
    return "written"


def _report(given, loaded, made, out, state):
    import dataclasses

    from keras_nin import models
    from keras_nin.cli import stages
    from keras_nin.tables import text_table

    for message in made.notes:
        stages.note(f"note: {message}")
    if given.as_json:
        document = {
            "schema": SCHEMA,
            "model": loaded.name,
            "file": given.file,
            "convention": made.convention,
            "tensors": [dataclasses.asdict(row) for row in made.rows],
            "notes": list(made.notes),
            "weights_sha256": models.weights_digest(loaded.model),
            "path": str(out),
            "state": state,
        }
        stages.print_json(document)
        return
    placed = sum(row.layer is not None for row in made.rows)
    left_out = f", {len(made.rows) - placed} left out as declared" if placed < len(made.rows) else ""
    click.echo(f"{given.file}: {made.convention} names, {len(made.rows)} tensors, {placed} placed{left_out}")
    cells = [
        [row.tensor, "x".join(map(str, row.shape)) or "scalar", row.layer or "-", row.variable or "-", row.change]
        for row in made.rows
    ]
    click.echo(text_table(COLUMNS, cells))
    click.echo(f"{state}: {out}")
