"""`keras-nin list`, `train`, `import-weights` and `cards`: the zoo and its weights."""

from __future__ import annotations

from typing import Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, print_json, print_notes, print_result


@click.command("list", cls=options.Command, epilog="Example: keras-nin list")
@options.json_option
def list_command(as_json: bool) -> None:
    """List the models of the zoo with their parameters and MACs.

    1 MAC = one multiply and one add, for one image of the default size.
    """
    from keras_nin import models, schemas
    from keras_nin.formatting import format_table

    specs = [models.get_spec(name) for name in models.list_models()]
    if as_json:
        fields = ("name", "title", "paper", "classes", "params", "macs", "dataset", "preprocessing")
        documents = [
            {name: getattr(spec, name) for name in fields}
            | {"input_shape": list(spec.input_shape), "weights": list(spec.bundled_weights)}
            | {"downloads": [{"name": name} | download.to_json() for name, download in spec.downloads.items()]}
            for spec in specs
        ]
        print_json({"schema": schemas.LIST, "models": documents})
        return
    cells = [
        [
            spec.name,
            "x".join(map(str, spec.input_shape)),
            f"{spec.params:,}",
            f"{spec.macs:,}",
            spec.describe_weights(),
            spec.dataset or "-",
            spec.title,
        ]
        for spec in specs
    ]
    columns = ("model", "input", "params", "MACs", "weights", "dataset", "description")
    echo(format_table(columns, cells, right=("params", "MACs")))


@click.command("train", cls=options.Command, epilog="Example: keras-nin train nin_digits")
@click.argument("model")
@options.model_options
@click.option("--data", metavar="DATASET|DIR|FILE.npz", help="Images to train on. [default: the model's own dataset]")
@options.image_options
@click.option("--epochs", type=int, metavar="N", help="Passes over the images. [default: the recipe's]")
@click.option("--batch-size", type=int, metavar="N", help="Batch size. [default: the recipe's]")
@click.option("--learning-rate", type=float, metavar="RATE", help="Initial learning rate. [default: the recipe's]")
@click.option("--out", metavar="DIR", help="Where the files go. [default: runs/<model>]")
@click.option("--force", is_flag=True, help="Start over, whatever the folder holds.")
@options.json_option
def train_command(as_json: bool, **arguments: Any) -> None:
    """Train MODEL on labeled images, from random weights or from --weights.

    Keeps the weights of the best epoch on a validation split of the training images, and tests those on the test split.
    Writes <model>.weights.h5, <model>.keras, <model>.json and history.json. An interrupted run resumes when the same
    command is repeated.
    """
    from keras_nin.workflows.training import train_model

    result = train_model(**arguments, progress=TerminalProgress())
    record = result.record
    if as_json:
        print_json(record | {"folder": str(result.folder), "history": result.history})
        return
    from keras_nin.formatting import format_percent

    resumed = f" (resumed after epoch {result.resumed_epochs})" if result.resumed_epochs else ""
    test = "not tested" if record["test_top1"] is None else f"test {format_percent(record['test_top1'])}"
    echo(
        f"{record['model']} on {record['dataset']}: {len(result.history)} epochs{resumed}, best {record['best_epoch']} "
        f"with {format_percent(record['val_accuracy'])} on validation images; {test} on {record['test_images']} images"
    )
    echo(f"written: {result.folder / record['model']}.weights.h5, .keras and .json, and history.json")


@click.command(
    "import-weights",
    cls=options.Command,
    epilog="Example: keras-nin import-weights squeezenet_v1_1 squeezenet1_1.pth -o squeezenet_v1_1.weights.h5",
)
@click.argument("model")
@click.argument("file")
@click.option("-o", "--out", required=True, metavar="OUT.weights.h5", help="Where the weights go.")
@options.input_shape_option
@options.set_option
@options.import_option
@options.force_option
@options.json_option
def import_weights_command(as_json: bool, **arguments: Any) -> None:
    """Turn the third-party weights in FILE into a Keras 3 weight file of MODEL.

    FILE is a legacy Keras .h5 (Keras 1 or 2; weights or a whole model), a .safetensors, or a PyTorch state dictionary
    (.pt or .pth, read without PyTorch). Layers go by the names that MODEL declares for such files, or
    by its own. Every weight must get a tensor and every tensor a weight; what does not fit is listed, and nothing is
    written. Only tensors are read: a pickle that could execute code is refused.

    torchvision's networks need arguments of the builder, such as pool_rounding=ceil, which --weights imagenet of the
    other commands sets: see the page on weights.
    """
    from keras_nin.formatting import format_table
    from keras_nin.workflows.training import import_weights

    result = import_weights(**arguments, progress=TerminalProgress())
    print_notes(result.imported.notes)
    cells = [
        [row.tensor, "x".join(map(str, row.shape)) or "scalar", row.layer or "-", row.variable or "-", row.change]
        for row in result.imported.rows
    ]
    table = format_table(("tensor", "shape", "layer", "variable", "change"), cells)
    print_result(result, as_json, lambda: f"{result.summary()}\n{table}\n{result.state}: {result.path}")


@click.command("cards", cls=options.Command, epilog="Example: keras-nin cards --check")
@click.option("--out", default="models", metavar="DIR", help="Where the cards are.")
@click.option("--check", is_flag=True, help="Write nothing; exit status 1 where a card is out of date.")
@options.json_option
def cards_command(out: str, check: bool, as_json: bool) -> int:
    """Write a card and an audit.json for every model of the zoo, and the index, from the package's own records."""
    from keras_nin.workflows.reports import build_cards

    result = build_cards(out, check=check, progress=TerminalProgress())
    stale = [f"out of date: {result.folder / name}" for name in result.stale if check]
    print_result(result, as_json, lambda: "\n".join([result.summary(), *stale]))
    return 0 if result.passed else 1
