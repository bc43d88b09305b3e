"""Fit a model on a dataset: a recipe, the best weights kept, an interrupted run resumed, history and results saved."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import numbers
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_nin import files, schemas
from keras_nin.data.dataset import Dataset, Indices, seeded_generator
from keras_nin.data.preprocessing import Preprocessing
from keras_nin.errors import (
    InputError,
    check_choice,
    check_whole_number,
    expected_error,
    input_error,
    unknown_name_error,
)
from keras_nin.metrics import top_k_accuracy
from keras_nin.models.weight_files import save_weights
from keras_nin.results import Result
from keras_nin.train.checkpoints import HISTORY, RESTART_HINT, Checkpoints, Entry, find_best_epoch, read_run_file

if TYPE_CHECKING:
    import keras

    from keras_nin.train.batches import FixedBatches, StepBatches
    from keras_nin.train.training_model import Distillation, TrainingModel

EpochCallback = Callable[[int, Entry], object]
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
KEEP = ("best", "last")
# Images of more bytes than this are loaded batch by batch instead of once, and stay on the host.
_MAX_RESIDENT_BYTES = 2**30
_TEST_BATCH = 256
_DECODERS = 8
# Activations that answer one question for each class, so that the outputs are no distribution over the classes.
_SIGMOIDS = ("sigmoid", "hard_sigmoid")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        epochs, batch_size: passes over the training images, and images per step, over all devices.
        learning_rate: AdamW's (arXiv:1711.05101) at its highest; it falls to 0 along a cosine (arXiv:1608.03983).
        warmup: share of all steps over which it first rises from 0 (arXiv:1706.02677).
        weight_decay: AdamW's, of kernels alone.
        clip_norm: largest norm of the gradient over all weights; 0 for any.
        label_smoothing: share of the target that is spread over all classes (arXiv:1512.00567).
        ema: decay of an exponential moving average of the weights, which is what is validated and kept; 0 for none.
        shift, flip: largest random shift in pixels, in each direction, and whether to mirror left and right at random.
            Pixels that a shift uncovers reflect the image.
        cutout: side in pixels of a square at random that is set to 0 after the preprocessing (arXiv:1708.04552).
        mixup: parameter of the beta distribution by which pairs of images are mixed (arXiv:1710.09412); 0 for none.
        precision: Keras's dtype policy of all layers but the last. The weights stay float32.
        validation: share of the training images kept out to validate each epoch.
        keep: "best" keeps the weights of the epoch with the best validation accuracy, "last" those of the last one.

    Raises:
        InputError: a value out of range.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    shift: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0
    precision: str = "float32"
    validation: float = 0.1
    keep: str = "best"

    def __post_init__(self) -> None:
        check_whole_number("epochs", self.epochs)
        check_whole_number("batch_size", self.batch_size)
        check_whole_number("shift", self.shift, minimum=0)
        check_whole_number("cutout", self.cutout, minimum=0)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("keep", self.keep, KEEP)
        if not isinstance(self.flip, bool):
            raise expected_error("flip", "to be True or False", self.flip)
        ranges: dict[str, tuple[str, Callable[[float], bool]]] = {
            "learning_rate": ("above 0", lambda value: 0 < value < math.inf),
            "weight_decay": ("0 or above", lambda value: 0 <= value < math.inf),
            "warmup": ("0 or above and below 1", lambda value: 0 <= value < 1),
            "clip_norm": ("0 or above", lambda value: 0 <= value < math.inf),
            "label_smoothing": ("0 or above and below 1", lambda value: 0 <= value < 1),
            "ema": ("0 or above and below 1", lambda value: 0 <= value < 1),
            "mixup": ("0 or above", lambda value: 0 <= value < math.inf),
            "validation": ("above 0 and below 1", lambda value: 0 < value < 1),
        }
        for field, (text, is_in_range) in ranges.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not is_in_range(float(value)):
                raise expected_error(field, f"to be {text}", value)
        if self.mixup and self.batch_size % 2:
            raise expected_error("batch_size", "to be even, because mixup mixes pairs of images", self.batch_size)

    def step_size(self, count: int) -> int:
        """Return the images per step where there are `count`: the batch size, or fewer; even with mixup."""
        size = min(self.batch_size, count)
        return size - size % 2 if self.mixup and size > 1 else size


# What trained the weights of three networks for CIFAR-10; only the number of epochs differs.
_CIFAR10_RECIPE = Recipe(
    epochs=295,
    batch_size=256,
    learning_rate=2e-3,
    warmup=0.1,
    weight_decay=0.05,
    clip_norm=1.0,
    label_smoothing=0.1,
    ema=0.999,
    shift=4,
    flip=True,
    cutout=8,
    precision="mixed_bfloat16",
    validation=0.05,
    keep="last",
)
_DIGITS_RECIPE = Recipe(
    epochs=60,
    batch_size=32,
    learning_rate=2e-3,
    weight_decay=0.05,
    label_smoothing=0.1,
    ema=0.99,
    shift=1,
    keep="last",
)
_MODEL_RECIPES = {
    "nin_digits": Recipe(epochs=80, batch_size=32, learning_rate=2e-3, weight_decay=1e-3, shift=1),
    "inception_digits": _DIGITS_RECIPE,
    "convnet_linear_head": dataclasses.replace(_DIGITS_RECIPE, epochs=40, shift=3),
    # Few parameters: a higher rate, and nothing that keeps it from fitting.
    "convnet_pointwise_head": dataclasses.replace(
        _DIGITS_RECIPE, epochs=120, learning_rate=1e-2, weight_decay=1e-3, clip_norm=1.0, label_smoothing=0.0, shift=2
    ),
    "nin_cifar10": _CIFAR10_RECIPE,
    "squeezenet_cifar10": dataclasses.replace(_CIFAR10_RECIPE, epochs=109),
    "googlenet_cifar10": dataclasses.replace(_CIFAR10_RECIPE, epochs=17),
}
_DATASET_RECIPES = {
    "digits": Recipe(epochs=60, batch_size=32, learning_rate=2e-3, shift=1),
    "mnist": Recipe(epochs=12, batch_size=128, shift=2),
    "cifar10": Recipe(epochs=150, batch_size=128, weight_decay=1e-3, shift=4, flip=True),
}


def get_recipe(model: str, dataset: str, **changes: Any) -> Recipe:
    """Return the recipe of a model, else of a dataset, else the general one; `changes` are fields that are not None."""
    recipe = _MODEL_RECIPES.get(model) or _DATASET_RECIPES.get(dataset) or Recipe()
    changes = {field: value for field, value in changes.items() if value is not None}
    for field in set(changes) - {field.name for field in dataclasses.fields(Recipe)}:
        raise unknown_name_error("recipe", field, [known.name for known in dataclasses.fields(Recipe)])
    return dataclasses.replace(recipe, **changes)


@dataclasses.dataclass(frozen=True, repr=False)
class TrainResult(Result):
    """A finished training run.

    Attributes:
        folder: where its files are: <model>.weights.h5, <model>.keras, <model>.json, history.json.
        record: the content of <model>.json: model, dataset, recipe, seed, preprocessing, backend, devices, accuracies,
            and the epoch whose weights were kept (`best_epoch`).
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
        kept = f"epoch {self.record['best_epoch']} of {len(self.history)} kept"
        return f"{self.record['model']} on {self.record['dataset']}, {kept}"

    def _rows(self) -> list[dict[str, Any]]:
        return self.history


def fit_model(
    model: keras.Model,
    dataset: Dataset,
    recipe: Recipe,
    folder: str | pathlib.Path,
    *,
    name: str,
    preprocessing: Preprocessing | None,
    seed: int = 0,
    devices: int = 1,
    force: bool = False,
    teacher: keras.Model | None = None,
    features: keras.Model | None = None,
    jit_compile: bool | Literal["auto"] = "auto",
    on_epoch: EpochCallback | None = None,
) -> TrainResult:
    """Train `model`, keep the weights that the recipe says, validated on held-out training images, and test those.

    Args:
        model: keras.Model (B, H, W, C) -> (B, classes) that ends in a softmax, or in logits.
        dataset: with a train split; a test split is used once, at the end.
        recipe: settings of the run.
        folder: where to write. A run that was interrupted there is resumed; a finished one is replaced only with
            `force`, which starts again, whatever is there.
        name, preprocessing: the model's name for files, and the preprocessing of the images; None for arrays that are
            fed as they are.
        seed: of the held-out choice, the order and the random changes.
        devices: how many share a batch, as `keras_nin.train.devices.share_batches` yields it, in whose block the model
            must have been built and this is called.
        teacher: a network with the same input and output whose answers are the targets instead of the labels, or None.
        features: a model that shares the layers of `model` and has more outputs behind its own, or None. The teacher
            then has as many, of the same shapes; each is trained to be like the teacher's.
        jit_compile: as in `keras.Model.compile`.
        on_epoch: called with (epoch from 1, metrics) after each epoch.

    Raises:
        InputError: no labeled train split, labels beyond the model's classes, a model of another kind, a batch that the
            devices cannot share, or another, a finished or a damaged run in `folder`.
    """
    import keras

    from keras_nin.train.devices import is_first_process, on_one_device, predict_here, prepare_fit, synchronize
    from keras_nin.train.training_model import Distillation, mixed_precision

    folder = pathlib.Path(folder)
    *size, channels = get_image_shape(model)
    identity = {
        "schema": schemas.TRAIN,
        "model": name,
        "dataset": dataset.name,
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "preprocessing": preprocessing.to_json() if preprocessing else None,
        "input_shape": [*size, channels],
        "backend": keras.backend.backend(),
        **({} if teacher is None else {"teacher": teacher.name}),
    }
    train, held_out = split_validation(dataset, recipe, seed)
    test = dataset.splits.get("test", train[:0])
    check_classes(model, dataset, np.concatenate([train, held_out, test]))
    _check_sizes(recipe, size, len(train), devices)
    with on_one_device(model) as local:
        from_logits = outputs_logits(local, dataset.load(train[:8], size, channels, preprocessing))
    is_first = is_first_process()
    if is_first:
        _claim_folder(folder, identity, files.safe_stem(name), force)
    synchronize("claimed")
    checkpoints = Checkpoints(folder, writes=is_first)
    resumed_epochs = len(checkpoints.history)
    parts = train, held_out[: len(held_out) // devices * devices or None]
    soft = None if teacher is None else Distillation(teacher, from_logits=from_logits, features=features)
    training, batches, validation = prepare_training(model, dataset, parts, recipe, preprocessing, seed, soft)
    with mixed_precision(model, recipe.precision):
        compile_training(training, recipe, len(batches), from_logits, devices, jit_compile)
        prepare_fit(training)
        _fit_epochs(training, batches, validation, checkpoints, on_epoch)
    synchronize("trained")
    kept = checkpoints.history[-1] if recipe.keep == "last" else find_best_epoch(checkpoints.history)
    checkpoints.restore(training, kept["epoch"])
    training.keep_averages()
    accuracy = None
    if len(test):
        test_batches = dataset.batches(test, size, channels, _TEST_BATCH, preprocessing)
        with on_one_device(model) as local:
            predict = predict_here(local)
            outputs = [predict(images) for images, _ in test_batches]
        accuracy = top_k_accuracy(np.concatenate(outputs), dataset.labels_of(test), 1)
    results = {"best_epoch": kept["epoch"], "val_accuracy": kept["val_accuracy"], "devices": devices}
    record = identity | results | {"test_images": len(test), "test_top1": accuracy}
    synchronize("restored")
    with on_one_device(model) as local:
        if is_first:
            _save_results(local, folder, files.safe_stem(name), record)
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


def _check_sizes(recipe: Recipe, size: Sequence[int], count: int, devices: int) -> None:
    """Raise `InputError` for a recipe that does not fit the images or the devices."""
    for field, largest in (("shift", min(size) - 1), ("cutout", min(size))):
        if getattr(recipe, field) > largest:
            expected = f"to be at most {largest} for images of {size[0]}x{size[1]}"
            raise expected_error(field, expected, getattr(recipe, field))
    step = recipe.step_size(count)
    if step % (devices * (2 if recipe.mixup else 1)):
        pairs = " and mixes pairs" if recipe.mixup else ""
        raise expected_error("batch_size", f"to be a multiple of what {devices} devices share{pairs}", step)


def prepare_training(
    model: keras.Model,
    dataset: Dataset,
    parts: tuple[Indices, Indices],
    recipe: Recipe,
    preprocessing: Preprocessing | None,
    seed: int,
    distillation: Distillation | None = None,
) -> tuple[TrainingModel, StepBatches, FixedBatches]:
    """Return the model to train, and its batches of the images to train on and of those held out (`parts`).

    The images are on the device, and the batches hold their positions, where there are not too many, and where the
    device can keep them.
    """
    from keras_nin.train.batches import FixedBatches, StepBatches
    from keras_nin.train.devices import batch_share, can_keep_images
    from keras_nin.train.training_model import TrainingModel

    height, width, channels = get_image_shape(model)
    indices, count = np.concatenate(parts), len(parts[0])
    is_loaded = len(indices) * height * width * channels <= _MAX_RESIDENT_BYTES

    def load_pixels(positions: Indices) -> Any:
        return dataset.load_pixels(indices[positions], (height, width), channels, preprocessing)

    def load(positions: Indices) -> Any:
        if pixels is not None:
            return positions.astype(np.int32) if is_resident else pixels[positions]
        with concurrent.futures.ThreadPoolExecutor() as threads:  # which decode photographs
            return np.concatenate(list(threads.map(load_pixels, np.array_split(positions, _DECODERS))))

    pixels = load_pixels(np.arange(len(indices))) if is_loaded else None
    is_resident = is_loaded and can_keep_images()
    training = TrainingModel(model, recipe, preprocessing, pixels if is_resident else None, distillation)
    labels, classes = dataset.labels_of(indices), model.output_shape[-1]
    share = batch_share()
    batches = StepBatches(load, labels[:count], classes, (height, width), recipe, seed, share)
    validation = FixedBatches(
        lambda positions: load(count + positions), labels[count:], classes, batches.batch_size, share
    )
    return training, batches, validation


def compile_training(
    training: TrainingModel,
    recipe: Recipe,
    steps_per_epoch: int,
    from_logits: bool,
    devices: int = 1,
    jit_compile: Any = "auto",
) -> None:
    """Compile the model for training by the recipe."""
    import keras

    from keras_nin.train.training_model import build_optimizer

    # XLA does not compile the exchange between TensorFlow's replicas.
    if devices > 1 and keras.backend.backend() == "tensorflow":
        jit_compile = False
    labels = (
        None if training.distillation else keras.losses.CategoricalCrossentropy(from_logits, recipe.label_smoothing)
    )
    training.compile(
        build_optimizer(training.network, recipe, recipe.epochs * steps_per_epoch),
        loss=labels,
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        auto_scale_loss=False,  # the optimizer does it
        jit_compile=jit_compile,
    )
    training.optimizer.build(training.trainable_variables)  # else Keras traces the first step twice


def _claim_folder(folder: pathlib.Path, identity: dict[str, Any], name: str, force: bool) -> None:
    """Make `folder` this run's own: empty, or holding the same run interrupted."""
    marker = files.make_folder(folder) / "run.json"
    if force:
        (folder / HISTORY).unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
    elif marker.exists() and read_run_file(marker) != identity:
        raise InputError(
            f"{str(folder)!r} holds an interrupted run with other settings. Use the same, `force` or another folder",
            argument="folder",
            path=folder,
        )
    elif not marker.exists() and any((folder / file).exists() for file in (HISTORY, f"{name}.json")):
        raise InputError(f"{str(folder)!r} holds a finished run. {RESTART_HINT}", argument="folder", path=folder)
    files.write_file(marker, files.dump_json(identity))


def _fit_epochs(
    training: TrainingModel,
    batches: StepBatches,
    validation: FixedBatches,
    checkpoints: Checkpoints,
    on_epoch: EpochCallback | None,
) -> None:
    """Train from the last checkpoint to the last epoch."""
    import keras

    done, epochs = len(checkpoints.history), batches.recipe.epochs
    if done:
        checkpoints.restore(training, done)
    if done == epochs:
        return

    def end_epoch(epoch: int, logs: dict[str, float]) -> None:
        entry = checkpoints.save(training, logs)  # first, so that nothing is lost where `on_epoch` raises
        if on_epoch:
            on_epoch(epoch + 1, entry)

    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch), on_epoch_end=end_epoch
    )
    # The batches have an order of their own; Keras's would depend on what ran before.
    options: Any = {"initial_epoch": done, "epochs": epochs, "callbacks": [callback], "shuffle": False, "verbose": 0}
    training.fit(batches, validation_data=validation, **options)


def _save_results(model: keras.Model, folder: pathlib.Path, name: str, record: dict[str, Any]) -> None:
    """Write the results; the JSON file last, because it says that the run is finished."""
    import keras

    model = keras.Model(model.inputs, model.outputs, name=model.name)  # the same layers without the optimizer's state
    with files.replace_file(folder / f"{name}.weights.h5") as path:
        save_weights(model, path)
    with files.replace_file(folder / f"{name}.keras") as path:
        model.save(path)
    files.write_file(folder / f"{name}.json", files.dump_json(record))
    (folder / "run.json").unlink()
