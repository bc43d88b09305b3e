"""`keras-nin list`, `train`, `prune`, `import-weights` and `cards`: the zoo and its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, print_json, print_notes, print_result

if TYPE_CHECKING:
    from keras_nin.prune.records import PruneResult


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


@click.command("prune", cls=options.Command, epilog="Example: keras-nin prune nin_digits --target latency=-30%")
@click.argument("model")
@click.option("--target", required=True, metavar="ITEM=-SHARE%|ITEM=VALUE",
              help="What to reach: latency=-30%, macs=-40%, params=-50%; or a value, such as latency=2ms, macs=50M, "
              "params=500k.")  # fmt: skip
@options.model_options
@click.option("--calibration", metavar=options.DATASET,
              help="Images that say which channels matter, with their labels where they have some. [default: the "
              "calibration split of the model's own dataset]")  # fmt: skip
@click.option("--calibration-count", type=options.COUNT, metavar="N", default=256, help="Number of them.")
@click.option("--train", metavar=options.DATASET,
              help="Labeled images to fine-tune on. [default: the model's own dataset]")  # fmt: skip
@click.option("--train-count", type=options.COUNT, metavar="N", help="Number of them. [default: all]")
@click.option("--epochs", type=click.IntRange(0), metavar="N", default=2,
              help="Passes of the fine-tuning; 0: none.")  # fmt: skip
@click.option("--batch-size", type=options.COUNT, metavar="N", default=32, help="Batch size of the fine-tuning.")
@click.option("--learning-rate", type=options.Number(0, min_open=True), metavar="RATE",
              help="Highest learning rate. [default: a tenth of the recipe's]")  # fmt: skip
@click.option("--keep", "kept", metavar="RECORD.json",
              help="Remove the channels that this record of another run removed, instead of measuring.")  # fmt: skip
@click.option("--distill/--no-distill", default=True,
              help="Train on the answers and features of the original network, else on labels.")  # fmt: skip
@options.data_option
@options.image_options
@options.test_count_option
@click.option("--scheme", type=click.Choice(["int8", "float32"]), default="int8",
              help="Of the files whose latency is measured.")  # fmt: skip
@click.option("--multiple", type=options.COUNT, metavar="N", default=8,
              help="Keep numbers of channels that are multiples of N.")  # fmt: skip
@options.threads_option
@click.option("--out", default="pruned", metavar="DIR", help="Where the files go.")
@options.force_option
@options.json_option
def prune_command(as_json: bool, **arguments: Any) -> None:
    """Remove channels from MODEL until its file is measured to be faster, or smaller, by --target; then fine-tune it.

    Writes <model>_pruned.keras, a plain Keras model with fewer filters, and its record beside it. Channels that are
    added, concatenated, normalized or flattened go together with all weights that read them; inputs and outputs of the
    network stay, and so do channels that reach a layer without a rule, which is named.

    The channels that change the loss least, by activations and gradients on the calibration images, go first, from the
    layers where that saves the most time: each operator is timed at several widths, and the whole file in turns with
    the original until the target is met. What a layer loses is compensated in its weights. Fine-tuning takes the recipe
    of the network at a lower rate, with the answers and features of the original network as targets.
    """
    from keras_nin.workflows.pruning import prune_channels

    result = prune_channels(**arguments, progress=TerminalProgress())
    print_notes(map(options.with_own_flags, result.notes))
    print_result(result, as_json, lambda: "\n".join(_pruning_lines(result)))


def _pruning_lines(result: PruneResult) -> Iterator[str]:
    from keras_nin.formatting import format_conditions, format_count, format_percent, format_table, format_us
    from keras_nin.prune.channels import NO_RULE

    def change(before: float, after: float) -> str:
        return f"{after / before - 1:+.1%}" if before else "-"

    before, after = result.benchmark.profiles
    first, second = (audit.total for audit in result.audits)
    rows = [
        [
            label,
            f"{getattr(first, name):,}",
            f"{getattr(second, name):,}",
            change(getattr(first, name), getattr(second, name)),
        ]
        for name, label in (("params", "params"), ("macs", "MACs"), ("peak_activation_bytes_int8", "peak int8 bytes"))
    ]
    times = [format_us(profile.total.median) for profile in (before, after)]
    rows.append([f"latency, {result.scheme}", *times, f"{result.latency.ratio - 1:+.1%}"])
    if result.scores is not None:
        for label, (old, new) in (("model", result.scores.model), (result.scheme, result.scores.file)):
            rows.append(
                [f"top-1, {label}", format_percent(old, 2), format_percent(new, 2), f"{100 * (new - old):+.2f} pp"]
            )
    yield f"{result.name}, weights: {result.options['weights']}; target: {result.target}"
    yield format_table(("", "before", "after", "change"), rows, right=("before", "after", "change"))
    removed = [
        [" + ".join(group.layers), str(group.before), str(group.after), change(group.before, group.after)]
        for group in result.groups
        if group.after < group.before
    ]
    columns = ("channels of", "before", "after", "change")
    yield f"\n{format_table(columns, removed, right=columns[1:])}"
    roles = [
        [f"1x1 {role.role}", str(role.layers), *(f"{a:,} -> {b:,}" for a, b in (role.filters, role.params, role.macs))]
        for role in result.roles
    ]
    if roles:
        columns = ("kind", "layers", "filters", "params", "MACs")
        yield f"\n{format_table(columns, roles, right=columns[1:])}"
    low, high = result.latency.low, result.latency.high
    within = "" if low is None or high is None else f" (95% interval {low - 1:+.1%} to {high - 1:+.1%})"
    yield f"\nLatency{within}: {format_conditions(after.host, after.threads, after.runs)}, in turns with the original."
    if result.scores is not None:
        yield f"Tested on {result.scores.images:,} images of {result.scores.data}."
    if result.training is not None:
        epochs = format_count(result.training["recipe"]["epochs"], "epoch")
        images = format_count(result.training["train_images"], "image")
        targets = "the answers and features of the original" if "teacher" in result.training else "labels"
        yield f"Fine-tuned for {epochs} on {images} of {result.training['dataset']}, on {targets}."
    stayed = {reason for reason in result.blocked.values() if reason.endswith(NO_RULE)}
    if stayed:
        yield f"Not removed: channels that reach a layer without a rule ({', '.join(sorted(stayed))})."
    if result.path is not None:
        yield f"written: {result.path} and {result.path.with_suffix('.json').name}"


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
