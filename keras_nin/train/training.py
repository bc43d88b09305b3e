"""Fit a model on a dataset: a recipe, the best weights kept, an interrupted run resumed, history and results saved."""

from __future__ import annotations

import dataclasses
import math
import numbers
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import files, schemas
from keras_nin.data.dataset import Dataset, Indices, seeded_generator
from keras_nin.data.preprocessing import Preprocessing
from keras_nin.errors import InputError, check_whole_number, expected_error, input_error
from keras_nin.metrics import top_k_accuracy
from keras_nin.results import Result
from keras_nin.train.checkpoints import HISTORY, RESTART_HINT, Checkpoints, Entry, find_best_epoch, read_run_file

if TYPE_CHECKING:
    import keras

    from keras_nin.train.batches import TrainingBatches

EpochCallback = Callable[[int, Entry], object]
# Activations that answer one question for each class, so that the outputs are no distribution over the classes.
_SIGMOIDS = ("sigmoid", "hard_sigmoid")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        epochs, batch_size: passes over the training images, and images per step.
        learning_rate: AdamW's (arXiv:1711.05101) at its highest; it falls to 0 along a cosine (arXiv:1608.03983).
        warmup: share of all steps over which it first rises from 0 (arXiv:1706.02677).
        weight_decay: AdamW's.
        shift, flip: largest random shift in pixels, in each direction; whether to mirror left and right at random.
        validation: share of the training images kept out to choose the best epoch.

    Raises:
        InputError: a value out of range.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    shift: int = 0
    flip: bool = False
    validation: float = 0.1

    def __post_init__(self) -> None:
        check_whole_number("epochs", self.epochs)
        check_whole_number("batch_size", self.batch_size)
        check_whole_number("shift", self.shift, minimum=0)
        ranges: dict[str, tuple[str, Callable[[float], bool]]] = {
            "learning_rate": ("above 0", lambda value: 0 < value < math.inf),
            "weight_decay": ("0 or above", lambda value: 0 <= value < math.inf),
            "warmup": ("0 or above and below 1", lambda value: 0 <= value < 1),
            "validation": ("above 0 and below 1", lambda value: 0 < value < 1),
        }
        for field, (text, is_in_range) in ranges.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not is_in_range(float(value)):
                raise expected_error(field, f"to be {text}", value)


_MODEL_RECIPES = {"nin_digits": Recipe(epochs=80, batch_size=32, learning_rate=2e-3, weight_decay=1e-3, shift=1)}
_DATASET_RECIPES = {
    "digits": Recipe(epochs=60, batch_size=32, learning_rate=2e-3, shift=1),
    "mnist": Recipe(epochs=12, batch_size=128, shift=2),
    "cifar10": Recipe(epochs=150, batch_size=128, weight_decay=1e-3, shift=4, flip=True),
}


def get_recipe(model: str, dataset: str, **changes: Any) -> Recipe:
    """Return the recipe of a model, else of a dataset, else the general one; `changes` are fields that are not None."""
    recipe = _MODEL_RECIPES.get(model) or _DATASET_RECIPES.get(dataset) or Recipe()
    return dataclasses.replace(recipe, **{field: value for field, value in changes.items() if value is not None})


@dataclasses.dataclass(frozen=True, repr=False)
class TrainResult(Result):
    """A finished training run.

    Attributes:
        folder: where its files are: <model>.weights.h5, <model>.keras, <model>.json, history.json.
        record: the content of <model>.json: model, dataset, recipe, seed, preprocessing, best epoch, accuracies.
        history: one entry per epoch: its number and the metrics.
        resumed_epochs: number of epochs that an earlier, interrupted run had done.
    """

    folder: pathlib.Path
    record: dict[str, Any]
    history: list[Entry]
    resumed_epochs: int

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints."""
        return self.record | {"folder": str(self.folder), "history": self.history}

    def _summary(self) -> str:
        best = f"best epoch {self.record['best_epoch']} of {len(self.history)}"
        return f"{self.record['model']} on {self.record['dataset']}, {best}"

    def _rows(self) -> list[dict[str, Any]]:
        return self.history


def fit_model(
    model: keras.Model,
    dataset: Dataset,
    recipe: Recipe,
    folder: str | pathlib.Path,
    *,
    name: str,
    preprocessing: Preprocessing,
    seed: int = 0,
    force: bool = False,
    on_epoch: EpochCallback | None = None,
) -> TrainResult:
    """Train `model`, keep the weights of the best epoch on held-out training images, and test those.

    Args:
        model: keras.Model (B, H, W, C) -> (B, classes) that ends in a softmax, or in logits.
        dataset: with a train split; a test split is used once, at the end.
        recipe: settings of the run.
        folder: where to write. A run that was interrupted there is resumed; a finished one is replaced only with
            `force`, which starts again, whatever is there.
        name, preprocessing: the model's name for files, and the preprocessing of the images.
        seed: of the held-out choice, the order and the random changes.
        on_epoch: called with (epoch from 1, metrics) after each epoch.

    Raises:
        InputError: no labeled train split, labels beyond the model's classes, a model of another kind, or another,
            a finished or a damaged run in `folder`.
    """
    from keras_nin.train.batches import TrainingBatches

    folder = pathlib.Path(folder)
    *size, channels = get_image_shape(model)
    identity = {
        "schema": schemas.TRAIN,
        "model": name,
        "dataset": dataset.name,
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "preprocessing": preprocessing.to_json(),
        "input_shape": [*size, channels],
    }

    def load(indices: Indices) -> Any:
        return dataset.load(indices, size, channels, preprocessing)

    train, held_out = split_validation(dataset, recipe, seed)
    test = dataset.splits.get("test", train[:0])
    check_classes(model, dataset, np.concatenate([train, held_out, test]))
    _compile(model, recipe, len(train), load(train[:8]))
    _claim_folder(folder, identity, name, force)
    checkpoints = Checkpoints(folder)
    resumed_epochs = len(checkpoints.history)
    batches = TrainingBatches(load(train), dataset.labels_of(train), recipe, seed)
    _fit_epochs(model, batches, (load(held_out), dataset.labels_of(held_out)), checkpoints, on_epoch)
    best = find_best_epoch(checkpoints.history)
    checkpoints.restore(model, best["epoch"])
    accuracy = None
    if len(test):
        outputs = model.predict(load(test), verbose=0)  # pyright: ignore[reportArgumentType]
        accuracy = top_k_accuracy(outputs, dataset.labels_of(test), 1)
    results = {"best_epoch": best["epoch"], "val_accuracy": best["val_accuracy"]}
    record = identity | results | {"test_images": len(test), "test_top1": accuracy}
    _save_results(model, folder, name, record)
    checkpoints.remove()
    return TrainResult(folder, record, checkpoints.history, resumed_epochs)


def get_image_shape(model: keras.Model) -> tuple[int, int, int]:
    """Return the (H, W, C) of a model whose only input is an image; `InputError` for any other model."""
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 3 or None in shapes[0]:
        inputs = ", ".join(f"{tensor.name!r} {shape}" for tensor, shape in zip(model.inputs, shapes, strict=True))
        hint = ". Pass `input_shape` where the network leaves it open" if any(None in shape for shape in shapes) else ""
        expected = "a model whose only input is an image of fixed size (height, width, channels)"
        raise input_error(expected, f"{model.name!r} with {inputs}{hint}", argument="model")
    return shapes[0]


def split_validation(dataset: Dataset, recipe: Recipe, seed: int) -> tuple[Indices, Indices]:
    """Return the indices of the training images and of those held out of them."""
    indices = dataset.select("train")
    dataset.labels_of(indices)
    seeded_generator(seed)  # checks the seed
    order = np.random.default_rng(seed).permutation(len(indices))
    count = max(1, round(recipe.validation * len(indices)))
    if count >= len(indices):
        raise input_error("at least two training images", f"{len(indices)} in {dataset.name!r}", argument="data")
    return np.sort(indices[order[count:]]), np.sort(indices[order[:count]])


def check_classes(model: keras.Model, dataset: Dataset, indices: Indices) -> None:
    """Raise `InputError` where a model does not end in classes, or not in those of the images at `indices`."""
    shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 1:
        received = f"{model.name!r} with output {', '.join(map(str, shapes))}"
        raise input_error("a model that ends in classes", received, argument="model")
    ((classes,),) = shapes
    labels = dataset.labels_of(indices)
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= classes:
        hint = f". Build the model with classes={largest + 1}" if smallest >= 0 and classes > 1 else ""
        if classes == 1:
            hint = ". A model with one output is a regression, or tells two classes apart"
        received = f"{smallest if smallest < 0 else largest} in {dataset.name!r}{hint}"
        raise input_error(f"labels from 0 to {classes - 1} for {model.name!r}", received, argument="data")


def outputs_logits(model: keras.Model, images: Any) -> bool:
    """Return whether the outputs are logits before a softmax; those after one are at least 0 and sum to 1."""
    import keras

    activation = getattr(getattr(model.layers[-1], "activation", None), "__name__", None)
    if activation in _SIGMOIDS:
        received = f"{model.name!r}, which ends in a {activation}"
        raise input_error("a model that ends in a softmax, or in logits", received, argument="model")
    outputs = np.asarray(keras.ops.convert_to_numpy(model(images, training=False)), np.float64)
    # The softmax may be inside a layer. 1e-2: half precision, many classes.
    is_softmax = outputs.min() >= 0 and np.allclose(outputs.sum(axis=1), 1, atol=1e-2)
    return activation != "softmax" and not is_softmax


def _compile(model: keras.Model, recipe: Recipe, count: int, some_images: Any) -> None:
    """Compile `model` for training on `count` images."""
    import keras

    steps = recipe.epochs * -(-count // recipe.batch_size)
    warmup = int(recipe.warmup * steps)
    first_rise = {"warmup_target": recipe.learning_rate, "warmup_steps": warmup} if warmup else {}
    first_rate = 0.0 if warmup else recipe.learning_rate
    schedule: Any = keras.optimizers.schedules.CosineDecay(first_rate, steps - warmup, **first_rise)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=outputs_logits(model, some_images)),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    model.optimizer.build(model.trainable_variables)  # else Keras traces the first step twice


def _claim_folder(folder: pathlib.Path, identity: dict[str, Any], name: str, force: bool) -> None:
    """Make `folder` this run's own: empty, or holding the same run interrupted."""
    marker = files.make_folder(folder) / "run.json"
    if force:
        (folder / HISTORY).unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
    elif marker.exists() and read_run_file(marker) != identity:
        raise InputError(
            f"{str(folder)!r} holds an interrupted run with other settings. Use the same, `force` or another `folder`",
            argument="folder",
            path=folder,
        )
    elif not marker.exists() and any((folder / file).exists() for file in (HISTORY, f"{name}.json")):
        raise InputError(f"{str(folder)!r} holds a finished run. {RESTART_HINT}", argument="folder", path=folder)
    files.write_file(marker, files.dump_json(identity))


def _fit_epochs(
    model: keras.Model,
    batches: TrainingBatches,
    held_out: Any,
    checkpoints: Checkpoints,
    on_epoch: EpochCallback | None,
) -> None:
    """Train from the last checkpoint to the last epoch; `held_out` are images and labels."""
    import keras

    done, epochs = len(checkpoints.history), batches.recipe.epochs
    if done:
        checkpoints.restore(model, done)
    if done == epochs:
        return

    def end_epoch(epoch: int, logs: dict[str, float]) -> None:
        entry = checkpoints.save(model, logs)  # first, so that nothing is lost where `on_epoch` raises
        if on_epoch:
            on_epoch(epoch + 1, entry)

    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch), on_epoch_end=end_epoch
    )
    # The batches have an order of their own; Keras's would depend on what ran before.
    options: Any = {"initial_epoch": done, "epochs": epochs, "callbacks": [callback], "shuffle": False, "verbose": 0}
    model.fit(batches, validation_data=held_out, **options)


def _save_results(model: keras.Model, folder: pathlib.Path, name: str, record: dict[str, Any]) -> None:
    """Write the results; the JSON file last, because it says that the run is finished."""
    import keras

    model = keras.Model(model.inputs, model.outputs, name=model.name)  # the same layers without the optimizer's state
    with files.replace_file(folder / f"{name}.weights.h5") as path:
        model.save_weights(path)
    with files.replace_file(folder / f"{name}.keras") as path:
        model.save(path)
    files.write_file(folder / f"{name}.json", files.dump_json(record))
    (folder / "run.json").unlink()
