"""Structured pruning of the two networks for CIFAR-10: measured latency and top-1 before and after.

python benchmarks/prune.py FOLDER [--network NAME ...] [--target latency=-30%] [--train-count 10000] [--epochs 1]
python benchmarks/prune.py FOLDER --fine-tune START.keras --network NAME --epochs 8 --out DIR
python benchmarks/prune.py FOLDER --score PRUNED.keras --network NAME

FOLDER has cifar10_train_jpeg.npz and cifar10_test_jpeg.npz. The first form prunes, fine-tunes and prints Markdown. The
second fine-tunes a network that `keras-nin prune --epochs 0` wrote, with its record beside it, on any backend of Keras
and without TensorFlow: KERAS_BACKEND=jax. The third compares such a network with the original one.
"""

import argparse
import dataclasses
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NETWORKS = ("squeezenet_cifar10", "nin_cifar10")
COLUMNS = ("network", "training", "latency", "int8", "params", "MACs", "top-1 model", "top-1 int8", "change of int8")


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--target", default="latency=-30%")
    parser.add_argument("--train-count", type=int, default=10_000)
    parser.add_argument("--test-count", type=int)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--keep", help="a record, or a folder of records <network>_pruned.json")
    parser.add_argument("--fine-tune", metavar="START.keras")
    parser.add_argument("--score", metavar="PRUNED.keras")
    parser.add_argument("--training", default="-", help="what to call the training of what is scored")
    parser.add_argument("--out", default="pruned")
    options = parser.parse_args()
    networks = options.network or list(NETWORKS)
    if options.fine_tune:
        fine_tune(options, networks[0])
    else:
        from keras_nin.formatting import format_markdown_table

        rows = [(score if options.score else prune)(options, network) for network in networks]
        print(format_markdown_table(COLUMNS, rows, right=COLUMNS[2:]))


def prune(options, network):
    """Return the row of a network that is pruned and fine-tuned here."""
    import keras_nin

    kept = options.keep
    if kept and os.path.isdir(kept):
        kept = os.path.join(kept, f"{network}_pruned.json")
    train, test = image_files(options)
    result = keras_nin.prune_channels(
        network,
        options.target,
        train,
        train,
        test,
        kept=kept,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        train_count=options.train_count,
        test_count=options.test_count,
        out=options.out,
        force=True,
    )
    training = "none"
    if result.training is not None:
        training = f"{result.training['train_images']:,} images x {result.training['recipe']['epochs']}"
    return make_row(
        network, training, result.benchmark, result.latency, result.audits, result.scores.model, result.scores.file
    )


def score(options, network):
    """Return the row of a network that was pruned and trained elsewhere; its int8 file is tuned, as `export` does."""
    import keras_nin

    train, test = image_files(options)
    exported = [
        keras_nin.export_model(
            model, "int8", train, test, preprocessing="standardize", test_count=options.test_count, out=options.out,
            force=True,
        )
        for model in (network, options.score)
    ]  # fmt: skip
    run = keras_nin.benchmark_models([result["int8"].path for result in exported], compare=True, layers=False)
    audits = [keras_nin.audit_model(model) for model in (network, options.score)]
    parities = [result["int8"].parity for result in exported]
    scores = [[getattr(parity, side) for parity in parities] for side in ("model_top1", "file_top1")]
    return make_row(network, options.training, run.benchmark, run.ratios[0], audits, *scores)


def image_files(options):
    """Return the paths of the training and of the test images."""
    return [str(options.folder / f"cifar10_{split}_jpeg.npz") for split in ("train", "test")]


def make_row(network, training, benchmark, ratio, audits, model, file):
    """Return the cells of a network."""
    from keras_nin.formatting import format_conditions, format_percent, format_us

    before, after = (profile.total.median for profile in benchmark.profiles)
    first, second = (audit.total for audit in audits)
    last = benchmark.profiles[-1]
    print(format_conditions(last.host, last.threads, last.runs), flush=True)
    return [
        network,
        training,
        f"{ratio.ratio - 1:+.1%} ({(ratio.low or 0) - 1:+.1%} to {(ratio.high or 0) - 1:+.1%})",
        f"{format_us(before)} -> {format_us(after)}",
        f"{first.params:,} -> {second.params:,}",
        f"{first.macs:,} -> {second.macs:,}",
        " -> ".join(format_percent(top1, 2) for top1 in model),
        " -> ".join(format_percent(top1, 2) for top1 in file),
        f"{100 * (file[1] - file[0]):+.2f} pp",
    ]


def fine_tune(options, network):
    """Train a pruned network on the answers of the original one, and write it."""
    from keras_nin.train.devices import prepared_backend

    with prepared_backend():
        from keras_nin import data, models, train
        from keras_nin.prune import find_channels, pair_features
        from keras_nin.workflows.fine_tuning import FineTuning, make_recipe

        original, start = models.load_model(network), models.load_model(options.fine_tune)
        record = json.loads(pathlib.Path(options.fine_tune).with_suffix(".json").read_text())
        teacher, features = pair_features(find_channels(original.model), record["kept"], start.model)
        dataset = data.open_dataset(str(options.folder / "cifar10_train_jpeg.npz"), split="train")
        chosen = dataset.select("train", options.train_count or None)
        dataset = dataclasses.replace(dataset, splits={"train": chosen})
        tuning = FineTuning(options.epochs, options.batch_size, options.learning_rate)
        result = train.fit_model(
            start.model,
            dataset,
            make_recipe(network, "cifar10", tuning),
            options.out,
            name=f"{network}_pruned",
            preprocessing=data.get_preset("standardize"),
            teacher=teacher,
            features=features,
            force=True,
            on_epoch=lambda epoch, entry: print(epoch, entry, flush=True),
        )
    print(result.record)


if __name__ == "__main__":
    main()
