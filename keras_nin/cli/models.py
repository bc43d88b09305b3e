"""`keras-nin list`, `train`, `import-weights` and `cards`: the zoo and its weights."""

from __future__ import annotations

import re
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


# fmt: off
recipe_options = options.fold(
    "recipe", "builtins:dict",
    click.option("--warmup", type=float, metavar="SHARE",
                 help="Share of all steps over which the learning rate rises from 0; then it falls along a cosine."),
    click.option("--weight-decay", type=float, metavar="RATE", help="AdamW's decay, of kernels alone."),
    click.option("--clip-norm", type=float, metavar="NORM", help="Largest norm of the gradient; 0: any."),
    click.option("--label-smoothing", type=float, metavar="SHARE", help="Share of the target spread over all classes."),
    click.option("--ema", type=float, metavar="DECAY",
                 help="Validate and keep an exponential moving average of the weights; 0: the weights themselves."),
    click.option("--shift", type=int, metavar="PIXELS", help="Largest random shift; images are reflected at the edge."),
    click.option("--flip/--no-flip", default=None, help="Mirror left and right at random."),
    click.option("--cutout", type=int, metavar="PIXELS", help="Side of a random square that is set to 0; 0: none."),
    click.option("--mixup", type=float, metavar="ALPHA",
                 help="Mix pairs of images by a share from beta(ALPHA, ALPHA); 0: none."),
    click.option("--precision", type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
                 help="What the layers compute in; weights stay float32."),
    click.option("--validation", type=float, metavar="SHARE", help="Share of the training images held out."),
    click.option("--keep", type=click.Choice(["best", "last"]),
                 help="Keep the epoch with the best validation accuracy, or the last one."),
    optional=True,
)
# fmt: on


def parse_devices(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    """Return a number of devices, or "all"."""
    if value == "all":
        return value
    if not re.fullmatch("[0-9]{1,9}", value) or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a number from 1 nor all")
    return int(value)


@click.command("train", cls=options.Command, epilog="Example: keras-nin train nin_digits")
@click.argument("model")
@options.model_options
@click.option("--data", metavar="DATASET|DIR|FILE.npz", help="Images to train on. [default: the model's own dataset]")
@options.image_options
@click.option("--epochs", type=int, metavar="N", help="Passes over the images. [default: the recipe's]")
@click.option("--batch-size", type=int, metavar="N", help="Batch size. [default: the recipe's]")
@click.option("--learning-rate", type=float, metavar="RATE", help="Highest learning rate. [default: the recipe's]")
@recipe_options
@click.option("--devices", metavar="N|all", default="1", callback=parse_devices,
              help="Devices that share each batch, with KERAS_BACKEND=jax or tensorflow.")  # fmt: skip
@click.option("--out", metavar="DIR", help="Where the files go. [default: runs/<model>]")
@click.option("--force", is_flag=True, help="Start over, whatever the folder holds.")
@options.json_option
def train_command(as_json: bool, **arguments: Any) -> None:
    """Train MODEL on labeled images, from random weights or from --weights.

    Keeps the weights of the best epoch on a validation split of the training images, or of the last one, and tests
    those on the test split. Writes <model>.weights.h5, <model>.keras, <model>.json and history.json. An interrupted run
    resumes when the same command is repeated. What is not given is from the recipe of the model, else of the dataset.
    KERAS_BACKEND=jax, torch or tensorflow chooses what Keras runs on.
    """
    from keras_nin.workflows.training import train_model

    result = train_model(**arguments, progress=TerminalProgress())
    record = result.record
    if as_json:
        print_json(record | {"folder": str(result.folder), "history": result.history})
        return
    from keras_nin.formatting import format_count, format_percent

    resumed = f" (resumed after epoch {result.resumed_epochs})" if result.resumed_epochs else ""
    test = "not tested, because there is no test split"
    if record["test_top1"] is not None:
        test = f"test {format_percent(record['test_top1'])} on {format_count(record['test_images'], 'image')}"
    kept = "last" if record["recipe"]["keep"] == "last" else f"best {record['best_epoch']}"
    echo(
        f"{record['model']} on {record['dataset']}: {format_count(len(result.history), 'epoch')}{resumed}, {kept} "
        f"with {format_percent(record['val_accuracy'])} on validation images; {test}"
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


@click.command("cards", cls=options.Command, epilog="Example: keras-nin cards --check nin_digits")
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@click.option("--measure", is_flag=True, help="Measure each MODEL too, and extend its record.")
@click.option("--check", is_flag=True,
              help="Write nothing; measure what the records hold again. Exit status 1 where it differs, or a card is "
              "out of date.")  # fmt: skip
@options.data_option
@click.option("--calibration", metavar=options.DATASET,
              help="Images that calibrate. [default: the calibration split of the model's own dataset]")  # fmt: skip
@click.option("--weights", metavar="NAME|PATH", help="Trained weights of the MODEL. [default: bundled ones]")
@click.option("--scheme", metavar="S[,S...]",
              help="Schemes to measure, also qat. [default: float32,dynamic,int8,int16x8; to check, the "
              "record's]")  # fmt: skip
@click.option("--threads", type=options.COUNT, metavar="N", default=1, help="Threads of the latency measurement.")
@click.option("--on", "device", metavar="URL",
              help="Measure the latency on a device: ssh://[user@]host[:port]. [default: this machine]")  # fmt: skip
@click.option("--python", metavar="PATH", help="The interpreter on the device. [default: python3]")
@click.option("--out", "folder", default="models", metavar="DIR", help="Where the cards are.")
@options.json_option
def cards_command(as_json: bool, **arguments: Any) -> int:
    """Write the model cards of the zoo (default: of every MODEL) and the table of all networks.

    Each card shows the record beside it, card.json: counts, which are made anew, and what --measure found: accuracy of
    the model and its files with 95% intervals, sizes, latencies of several hosts, and the int8 file on the Edge TPU, an
    Ethos-U and TFLite Micro. A measurement replaces what it measures again; latencies of other hosts stay.

    \b
    Tolerances of --check; what is not here has to be equal:
      top-1, top-5                   0.1 points, or one image; 1 point where a scheme trains
      bytes, arena, Ethos-U's time   1%
      latency                        a factor of 1.5, on the same processor and LiteRT

    Networks whose images are not at hand are named, and not measured again, unless they are chosen.
    """
    from keras_nin.workflows.cards import build_cards

    result = build_cards(**arguments, progress=TerminalProgress())
    print_notes(result.notes)
    lines = [f"out of date: {result.folder / name}" for name in result.stale if result.checked]
    lines += [f"differs: {difference}" for difference in result.differences]
    print_result(result, as_json, lambda: "\n".join([result.summary(), *lines]))
    return 0 if result.passed else 1
