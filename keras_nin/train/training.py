"""How each network is trained: one row a model or dataset."""

import dataclasses
import math
import numbers
import pathlib

import numpy as np

from keras_nin import files
from keras_nin.data.dataset import seeded_generator
from keras_nin.errors import InputError
from keras_nin.metrics import top_k_accuracy
from keras_nin.train import checkpoints as states


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        epochs, batch_size: passes over the training images, and images a step.
        learning_rate: AdamW's (arXiv:1711.05101) at its highest; it falls to 0 along a cosine (arXiv:1608.03983).
        warmup: share of all steps over which it first rises from 0 (arXiv:1706.02677).
        weight_decay: AdamW's.
        shift: largest random shift in pixels, in each direction.
        flip: whether to mirror left and right at random.
        validation: share of the training images kept out to choose the best epoch.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    shift: int = 0
    flip: bool = False
    validation: float = 0.1

    def __post_init__(self):
        for field, smallest in (("epochs", 1), ("batch_size", 1), ("shift", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise InputError(f"Expected `{field}` to be a whole number from {smallest}. Received: {value!r}")
        self._check("learning_rate", "above 0", lambda value: 0 < value < math.inf)
        self._check("weight_decay", "0 or above", lambda value: 0 <= value < math.inf)
        self._check("warmup", "0 or above and below 1", lambda value: 0 <= value < 1)
        self._check("validation", "above 0 and below 1", lambda value: 0 < value < 1)

    def _check(self, field, range_, fits):
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not fits(value):
            raise InputError(f"Expected `{field}` to be {range_}. Received: {value!r}")


_MODEL_RECIPES = {
    "nin_digits": Recipe(epochs=80, batch_size=32, learning_rate=2e-3, weight_decay=1e-3, shift=1),
}
_DATASET_RECIPES = {
    "digits": Recipe(epochs=60, batch_size=32, learning_rate=2e-3, shift=1),
    "mnist": Recipe(epochs=12, batch_size=128, shift=2),
    "cifar10": Recipe(epochs=150, batch_size=128, weight_decay=1e-3, shift=4, flip=True),
}


def get_recipe(model, dataset, **changes):
    """Return the recipe of a model, else of a dataset, else the general one, with what `changes` gives replaced.

    Args:
        model, dataset: their names.
        **changes: fields of `Recipe`; None leaves a field as it is.

    Raises:
        InputError: a value that makes no sense.
    """
    recipe = _MODEL_RECIPES.get(model) or _DATASET_RECIPES.get(dataset) or Recipe()
    return dataclasses.replace(recipe, **{field: value for field, value in changes.items() if value is not None})


# MERGED Fit a model on a dataset: progress, best weights kept, history saved, an interrupted run taken up again.

SCHEMA = "keras_nin.train/1"
# Activations that answer one question a class, each on its own.
_SIGMOIDS = ("sigmoid", "hard_sigmoid")


@dataclasses.dataclass(frozen=True)
class TrainResult:
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
    resumed_epochs: int


def fit_model(model, dataset, recipe: Recipe, folder, *, name, preprocessing, seed=0, force=False, on_epoch=None):
    """Train `model`, keep the weights of the best epoch on held-out training images, and test those.

    Args:
        model: keras.Model (B, H, W, C) -> (B, classes) that ends in a softmax, or in the scores before it.
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
        InputError: no labelled train split, labels beyond the model's classes, a model of another kind, or another,
            a finished or a damaged run in `folder`.
    """
    *size, channels = get_image_shape(model)
    identity = {
        "schema": SCHEMA,
        "model": name,
        "dataset": dataset.name,
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "preprocessing": preprocessing.to_json(),
        "input_shape": [*size, channels],
    }
    train, held_out = split_validation(dataset, recipe, seed)
    check_classes(model, dataset, np.concatenate([train, held_out, dataset.splits.get("test", train[:0])]))
    _compile(model, recipe, len(train), dataset.load(train[:8], size, channels, preprocessing))
    folder = _claim_folder(pathlib.Path(folder), identity, name, force)
    state = states.Checkpoints(folder)
    images = [dataset.load(part, size, channels, preprocessing) for part in (train, held_out)]
    labels = [dataset.labels[part] for part in (train, held_out)]
    resumed_epochs = len(state.history)
    _fit_epochs(model, images, labels, recipe, state, seed, on_epoch)
    state.restore(model, states.find_best_epoch(state.history)["epoch"])
    record = identity | _test_best_epoch(model, dataset, state.history, preprocessing)
    _save_results(model, folder, name, record, state)
    return TrainResult(folder, record, state.history, resumed_epochs)


def get_image_shape(model):
    """Return the (H, W, C) of a model's only input; `InputError` where it has none such."""
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 3 or None in shapes[0]:
        raise InputError(
            f"Expected a model with one input (height, width, channels) of fixed size. Received: {model.name!r} with "
            f"{', '.join(map(str, shapes))}. Pass --input-shape where the network leaves it open"
        )
    return shapes[0]


def split_validation(dataset, recipe, seed):
    """Return the indices of the training images and of those held out of them.

    Raises:
        InputError: no train split, no labels, no seed, or nothing left to train on.
    """
    indices = np.asarray(dataset.select("train"))
    dataset.labels_of(indices)
    seeded_generator(seed)  # refuses what is no seed
    order = np.random.default_rng(seed).permutation(len(indices))
    count = max(1, round(recipe.validation * len(indices)))
    if count >= len(indices):
        raise InputError(f"Expected more training images than one. Received: {len(indices)} in {dataset.name!r}")
    return np.sort(indices[order[count:]]), np.sort(indices[order[:count]])


def check_classes(model, dataset, indices):
    """Raise `InputError` where a model does not end in classes, or not in those of the images at `indices`."""
    shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 1:
        shown = ", ".join(map(str, shapes))
        raise InputError(f"Expected a model that ends in classes. Received: {model.name!r} with output {shown}")
    ((classes,),) = shapes
    labels = dataset.labels_of(indices)
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= classes:
        hint = f". Pass --set classes={largest + 1}" if smallest >= 0 else ""
        raise InputError(
            f"Expected labels from 0 to {classes - 1} for {model.name!r}. "
            f"Received: {smallest if smallest < 0 else largest} in {dataset.name!r}{hint}"
        )


def _claim_folder(folder, identity, name, force):
    """Make `folder` this run's own: empty, or holding the same run interrupted."""
    marker = files.make_folder(folder) / "run.json"
    if force:
        (folder / states.HISTORY).unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
    elif marker.exists() and states.read_run_file(marker) != identity:
        raise InputError(
            f"Expected the run that was interrupted in {str(folder)!r}. Received: other settings. Use the same, "
            "--force or another --out"
        )
    elif not marker.exists() and any((folder / file).exists() for file in (states.HISTORY, f"{name}.json")):
        raise InputError(f"Expected no finished run in {str(folder)!r}. Received: one. Use --force or another --out")
    files.write_file(marker, files.dump_json(identity))
    return folder


def _compile(model, recipe, count, some_images):
    """Compile `model` for training on `count` images."""
    import keras

    steps = recipe.epochs * -(-count // recipe.batch_size)
    warmup = int(recipe.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else recipe.learning_rate,
        steps - warmup,
        warmup_target=recipe.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=outputs_logits(model, some_images)),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def outputs_logits(model, images):
    """Return whether the outputs are scores before a softmax; those after one are at least 0 and sum to 1."""
    import keras

    activation = getattr(getattr(model.layers[-1], "activation", None), "__name__", None)
    if activation in _SIGMOIDS:
        raise InputError(
            f"Expected a model that ends in a softmax, or in scores without activation. "
            f"Received: {model.name!r}, which ends in a {activation}"
        )
    outputs = np.asarray(keras.ops.convert_to_numpy(model(images, training=False)), np.float64)
    # The softmax may be inside a layer. 1e-2: half precision, many classes.
    is_softmax = outputs.min() >= 0 and np.allclose(outputs.sum(axis=1), 1, atol=1e-2)
    return activation != "softmax" and not is_softmax


def _fit_epochs(model, images, labels, recipe, state, seed, on_epoch):
    from keras_nin.train.batches import EpochCallback, TrainingBatches

    done = len(state.history)
    if done:
        state.restore(model, done)
    if done < recipe.epochs:
        batches = TrainingBatches(images[0], labels[0], recipe, seed)
        model.fit(
            batches,
            validation_data=(images[1], labels[1]),
            initial_epoch=done,
            epochs=recipe.epochs,
            callbacks=[EpochCallback(state, batches, on_epoch)],
            shuffle=False,  # the batches have an order of their own; Keras's would depend on what ran before
            verbose=0,
        )


def _test_best_epoch(model, dataset, history, preprocessing):
    best = states.find_best_epoch(history)
    results = {"best_epoch": best["epoch"], "val_accuracy": best["val_accuracy"], "test_images": 0, "test_top1": None}
    if len(dataset.splits.get("test", ())) == 0:
        return results
    indices = dataset.select("test")
    images = dataset.load(indices, model.input_shape[1:3], model.input_shape[3], preprocessing)
    top1 = top_k_accuracy(model.predict(images, verbose=0), dataset.labels[indices], 1)
    return results | {"test_images": len(indices), "test_top1": top1}


def _save_results(model, folder, name, record, state):
    """Write the results; the JSON file last, because it says that the run is finished."""
    import keras

    model = keras.Model(model.inputs, model.outputs, name=model.name)  # the same layers without the optimizer's state
    with files.replace_file(folder / f"{name}.weights.h5") as path:
        model.save_weights(path)
    with files.replace_file(folder / f"{name}.keras") as path:
        model.save(path)
    files.write_file(folder / f"{name}.json", files.dump_json(record))
    (folder / "run.json").unlink()
    state.remove()
