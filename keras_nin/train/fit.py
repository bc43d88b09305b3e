"""Fit a model on a dataset: progress, best weights kept, history saved, an interrupted run taken up again."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np

from keras_nin import files
from keras_nin.errors import InputError
from keras_nin.metrics import top_k
from keras_nin.train.recipes import Recipe

SCHEMA = "keras_nin.train/1"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: where its files are: <model>.weights.h5, <model>.keras, <model>.json, history.json.
        record: what <model>.json holds: model, dataset, recipe, seed, preprocessing, best epoch, accuracies.
        history: one dictionary an epoch.
        resumed_at: number of epochs that an earlier, interrupted run had done.
    """

    folder: pathlib.Path
    record: dict
    history: list
    resumed_at: int


def fit(model, dataset, recipe: Recipe, folder, *, name, preprocessing, seed=0, force=False, on_epoch=None):
    """Train `model`, keep the weights of the best epoch on held-out training images, and test those.

    Args:
        model: keras.Model (B, H, W, C) -> (B, classes), outputs that sum to 1.
        dataset: `keras_nin.data.Dataset` with a train split; a test split is used once, at the end.
        recipe: `Recipe`.
        folder: where to write. A run that was interrupted there is taken up again; of a finished one nothing is lost
            without `force`.
        name: the model's name for files.
        preprocessing: `keras_nin.data.Preprocessing`.
        seed: of the held-out choice, the order and the random changes.
        force: start again, whatever is there.
        on_epoch: called with (epoch from 1, logs) after each epoch.

    Returns:
        `Run`.

    Raises:
        InputError: no labelled train split, labels beyond the model's classes, another or a finished run in `folder`.
    """
    identity = {
        "schema": SCHEMA,
        "model": name,
        "dataset": dataset.name,
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "preprocessing": preprocessing.to_json(),
    }
    train, held_out = _split(dataset, recipe, seed)
    _check_classes(model, dataset, np.concatenate([train, held_out]))
    folder = _claim(pathlib.Path(folder), identity, name, force)
    *size, channels = model.input_shape[1:]
    images = [dataset.load(part, tuple(size), channels, preprocessing) for part in (train, held_out)]
    labels = [dataset.labels[part] for part in (train, held_out)]
    history, resumed_at = _run(model, images, labels, recipe, folder, seed, on_epoch)
    model.load_weights(folder / "best.weights.h5")
    record = identity | _results(model, dataset, history, preprocessing)
    return _finish(model, folder, name, record, history, resumed_at)


def _split(dataset, recipe, seed):
    indices = np.asarray(dataset.select("train"))
    dataset.labels_of(indices)
    order = np.random.default_rng(seed).permutation(len(indices))
    count = max(1, round(recipe.validation * len(indices)))
    if count >= len(indices):
        raise InputError(f"Expected more training images than one. Received: {len(indices)} in {dataset.name!r}")
    return np.sort(indices[order[count:]]), np.sort(indices[order[:count]])


def _check_classes(model, dataset, indices):
    shape = model.output_shape
    if len(shape) != 2:
        raise InputError(f"Expected a model that ends in classes. Received: {model.name!r} with output {shape[1:]}")
    largest = int(dataset.labels_of(indices).max())
    if largest >= shape[1]:
        raise InputError(
            f"Expected labels from 0 to {shape[1] - 1} for {model.name!r}. Received: {largest} in {dataset.name!r}. "
            f"Pass --set classes={largest + 1}"
        )


def _claim(folder, identity, name, force):
    """Make `folder` this run's own: empty, or holding the same run interrupted."""
    if force:
        for stale in (folder / "backup", *(folder / file for file in ("run.json", "history.json", "best.weights.h5"))):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    elif (folder / f"{name}.json").exists():
        raise InputError(f"Expected no finished run of {name} in {str(folder)!r}. Received: one. Use --force or --out")
    files.make_folder(folder)
    marker = folder / "run.json"
    if not marker.exists():
        files.write(marker, files.to_json(identity))
    elif json.loads(marker.read_text()) != identity:
        raise InputError(
            f"Expected the run that was interrupted in {str(folder)!r}. Received: other settings. Use the same, "
            "--force or another --out"
        )
    return folder


def _run(model, images, labels, recipe, folder, seed, on_epoch):
    import keras

    from keras_nin.train.batches import Batches
    from keras_nin.train.callbacks import Keep

    batches = Batches(images[0], labels[0], recipe, seed)
    keep = Keep(folder, batches, on_epoch)
    resumed_at = len(keep.history)
    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.epochs * len(batches))
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    # Every epoch's state is stored twice over, so that an interruption while storing loses one epoch at most.
    backup = keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)
    model.fit(
        batches,
        validation_data=(images[1], labels[1]),
        epochs=recipe.epochs,
        callbacks=[backup, keep],
        verbose=0,
    )
    return keep.history, resumed_at


def _results(model, dataset, history, preprocessing):
    best = max(history, key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))
    results = {"best_epoch": best["epoch"], "val_accuracy": best["val_accuracy"], "test_images": 0, "test_top1": None}
    if len(dataset.splits.get("test", ())) == 0:
        return results
    indices = dataset.select("test")
    images = dataset.load(indices, model.input_shape[1:3], model.input_shape[3], preprocessing)
    top1 = top_k(model.predict(images, verbose=0), dataset.labels[indices], 1)
    return results | {"test_images": len(indices), "test_top1": top1}


def _finish(model, folder, name, record, history, resumed_at):
    import keras

    model = keras.Model(model.inputs, model.outputs, name=model.name)  # the same layers without the optimizer's state
    with files.replacing(folder / f"{name}.weights.h5") as path:
        model.save_weights(path)
    with files.replacing(folder / f"{name}.keras") as path:
        model.save(path)
    files.write(folder / f"{name}.json", files.to_json(record))
    for done in ("run.json", "best.weights.h5"):
        (folder / done).unlink()
    shutil.rmtree(folder / "backup", ignore_errors=True)
    return Run(folder, record, history, resumed_at)
