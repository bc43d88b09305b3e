"""Train a Keras 3 model for a scheme, starting from the weights that it has.

With tensorflow-model-optimization, except for qat_keras, which trains a network of Keras layers on any backend.
"""

import contextlib
import dataclasses
import importlib.metadata
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import check_choice, expected_error, first_line, input_error
from keras_nin.export.schemes import SCHEMES, Scheme, Tuning
from keras_nin.train.training import Recipe, get_recipe

if TYPE_CHECKING:
    import keras
    import tf_keras

    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.export.conversion import Samples
    from keras_nin.export.converted_model import Calibration
    from keras_nin.export.optimization.methods import PreparedNetwork
    from keras_nin.train.batches import TrainingBatches

    Logs = dict[str, Any]
    OnEpoch = Callable[[int, Logs], None]

PACKAGES = ("tf_keras", "tensorflow-model-optimization")
DEFAULT_EPOCHS = 20
# Of the learning rate that trained the network from random weights: these trainings start from its trained ones.
_LEARNING_RATE_SHARE = 0.2
_RANGE_IMAGES = 100
_HELD_OUT_BATCH = 256


@dataclasses.dataclass(frozen=True)
class OptimizationSettings:
    """How a model is trained for a scheme; the warm-up and the weight decay of the recipe are not used.

    `sparsity` is the share of the weights of each convolution and dense layer that "pruned" sets to zero, `clusters`
    the number of distinct weights that "clustered" leaves there. `weight_bits`, `calibration` and `tuning` are those of
    `keras_nin.quantize_aware`, for "qat_keras".
    """

    recipe: Recipe
    seed: int = 0
    sparsity: float = 0.5
    clusters: int = 16
    weight_bits: int = 8
    calibration: "Calibration | Samples | None" = dataclasses.field(default=None, repr=False, compare=False)
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        for argument, kind, is_valid, expected in (
            ("sparsity", numbers.Real, lambda value: 0 < value < 1, "above 0 and below 1"),
            ("clusters", numbers.Integral, lambda value: 2 <= value <= 256, "a whole number from 2 to 256"),
            ("weight_bits", numbers.Integral, lambda value: 2 <= value <= 8, "a whole number from 2 to 8"),
        ):
            value = getattr(self, argument)
            if not isinstance(value, kind) or isinstance(value, bool) or not is_valid(value):
                raise expected_error(argument, f"to be {expected}", value)


@dataclasses.dataclass(frozen=True, eq=False)
class OptimizedModel:
    """A model that was trained for a scheme.

    Attributes:
        model: keras.Model, a clone of the original with the trained weights; the quantize-aware network of "qat_keras".
        network: the trained tf_keras network of a quantization-aware training, from which the file is made; None for
            the others, whose file is made from `model`.
        record: what was done, as a dictionary for the export record: data, images, epochs, learning rate, batch size,
            seed, sparsity or clusters, the best epoch and its accuracy on held-out training images, the hash of the
            trained weights, versions.
        history: one dictionary per epoch, from 1, with the losses and accuracies; for "qat_keras" also `val_distance`,
            the mean squared distance to the probabilities of the float network.
    """

    scheme: Scheme
    model: "keras.Model"
    network: "tf_keras.Model | None"
    record: dict[str, Any]
    history: "tuple[Logs, ...]"


def train_for_scheme(
    model: "keras.Model",
    scheme: str | Scheme,
    dataset: "Dataset",
    *,
    preprocessing: "Preprocessing | None" = None,
    name: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    sparsity: float = 0.5,
    clusters: int = 16,
    weight_bits: int = 8,
    calibration: "Calibration | Samples | None" = None,
    tuning: Tuning | None = None,
    on_epoch: "OnEpoch | None" = None,
) -> OptimizedModel:
    """Train a copy of `model` for a scheme, from the weights that it has.

    Targets are the labels, and the weights of the most accurate epoch on held-out training images are kept. For
    "qat_keras" targets are the answers of `model` to mixed images (arXiv:1503.02531, arXiv:2106.05237), and those of
    the epoch are kept whose probabilities are nearest to the model's: perhaps of epoch 0, the untrained network.

    The same call on the same machine gives the same weights; for that it sets the global random seeds, and TensorFlow's
    deterministic mode while it runs.

    Args:
        model: keras.Model (B, H, W, C) -> (B, classes) that ends in a softmax, or in the logits before it.
        scheme: "qat", "qat_keras", "pruned" or "clustered", or the `Scheme`.
        dataset: `keras_nin.data.Dataset` with a train split.
        preprocessing: `keras_nin.data.Preprocessing`; None takes the dataset's own.
        name: the model's name in the tables of recipes; the default is its own.
        epochs, batch_size, learning_rate: of the training; None takes 20 epochs, and from the recipe of the model or
            of the dataset the batch size and a fifth of the learning rate.
        seed: of everything that is random.
        sparsity, clusters: share of zeros in each pruned layer, distinct weights in each clustered layer.
        weight_bits, calibration, tuning: for "qat_keras", as `keras_nin.quantize_aware` takes them; the calibration is
            a `Calibration`, or images as the model takes them.
        on_epoch: called with (epoch from 1, logs) after each epoch, as `keras_nin.train.fit_model` does.

    Raises:
        InputError: no labeled train split, labels beyond the classes, a scheme that does not train, an invalid setting,
            or a model that tf_keras cannot express (see `keras_nin.export.to_tf_keras`).
    """
    trained = [known.name for known in SCHEMES.values() if known.trained]
    check_choice("scheme", scheme.name if isinstance(scheme, Scheme) else scheme, trained)
    scheme = scheme if isinstance(scheme, Scheme) else SCHEMES[scheme]
    names = name or model.name, dataset.name
    if learning_rate is None:
        learning_rate = _LEARNING_RATE_SHARE * get_recipe(*names).learning_rate
    changes: dict[str, Any] = {"epochs": DEFAULT_EPOCHS if epochs is None else epochs, "learning_rate": learning_rate}
    changes |= {} if batch_size is None else {"batch_size": batch_size}
    recipe = get_recipe(*names, **changes)
    settings = OptimizationSettings(recipe, seed, sparsity, clusters, weight_bits, calibration, tuning)
    return _train_copy(model, scheme, dataset, preprocessing or dataset.preprocessing, settings, on_epoch)


def _train_copy(
    model: "keras.Model",
    scheme: Scheme,
    dataset: "Dataset",
    preprocessing: "Preprocessing | None",
    settings: OptimizationSettings,
    on_epoch: "OnEpoch | None",
) -> OptimizedModel:
    import keras

    from keras_nin._compat.tensorflow import deterministic_ops
    from keras_nin.export.optimization.methods import PreparedNetwork, fold_batch_norms, prepare_network
    from keras_nin.export.optimization.tf_keras_model import check_tfmot_installed, from_tf_keras, to_tf_keras
    from keras_nin.export.quantize_aware_file import quantize_network
    from keras_nin.models import hash_weights
    from keras_nin.train.batches import TrainingBatches
    from keras_nin.train.training import check_classes, get_image_shape, outputs_logits, split_validation

    method, recipe = scheme.trained or "", settings.recipe
    is_keras = method == "qat_keras"
    if not is_keras:
        check_tfmot_installed()
    *size, channels = get_image_shape(model)
    parts = split_validation(dataset, recipe, settings.seed)
    check_classes(model, dataset, np.concatenate(parts))
    images: list[Any] = [dataset.load(part, size, channels, preprocessing) for part in parts]
    labels = [dataset.labels_of(part) for part in parts]
    steps = recipe.epochs * -(-len(images[0]) // recipe.batch_size)
    keras.utils.set_random_seed(settings.seed)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    with deterministic_ops() if on_tensorflow else contextlib.nullcontext():  # the same sums in the same order
        if is_keras:
            bits, tuning = settings.weight_bits, settings.tuning
            copy = quantize_network(model, settings.calibration, weight_bits=bits, tuning=tuning)
            folded, prepared = [], PreparedNetwork(copy, lambda network: network)  # type: ignore[arg-type, return-value]
        else:
            copy = _clone_model(model)
            folded = fold_batch_norms(copy) if method == "clustered" else []
            prepared = prepare_network(method, to_tf_keras(copy), settings, steps, images[0][:_RANGE_IMAGES])
        from_logits = outputs_logits(model, images[0][:8])
        answers = _Answers(model, from_logits) if is_keras else None
        _compile(prepared.network, recipe, steps, from_logits, answers)
        batches = TrainingBatches(images[0], labels[0], recipe, settings.seed, answers)
        held_out = _HeldOutImages(images[1], labels[1], answers)
        history, best = _fit_network(prepared, batches, held_out, on_epoch)
    finished = prepared.finish(prepared.network)
    if not is_keras:
        from_tf_keras(finished, copy)
    record = {
        "method": method,
        "data": dataset.name,
        "preprocessing": preprocessing.to_json() if preprocessing else None,
        "images": len(parts[0]),
        "held_out": len(parts[1]),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "shift": recipe.shift,
        "flip": recipe.flip,
        "seed": settings.seed,
        **({"sparsity": settings.sparsity} if method == "pruned" else {}),
        **({"clusters": settings.clusters} if method == "clustered" else {}),
        **({"weight_bits": settings.weight_bits} if is_keras else {}),
        "best_epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "weights_sha256": hash_weights(copy),
        "versions": {name: importlib.metadata.version(name) for name in (("keras",) if is_keras else PACKAGES)},
        "folded": folded,
    }
    return OptimizedModel(scheme, copy, finished if method == "qat" else None, record, tuple(history))


def _clone_model(model: "keras.Model") -> "keras.Model":
    import keras

    try:
        copy = keras.models.clone_model(model)
    except Exception as error:  # many types, from the configurations of the layers
        received = f"{model.name!r}: {first_line(error)}"
        raise input_error("a model that keras.models.clone_model can copy", received) from error
    copy.set_weights(model.get_weights())
    return copy


class _Answers:
    """The probabilities (n, classes) that a float network gives for images (n, H, W, C).

    Quantization-aware training should restore them, so they are its targets, and they decide which epoch is kept.
    The labels of images on which the network was trained hardly tell two epochs apart.
    """

    def __init__(self, model: "keras.Model", from_logits: bool) -> None:
        self.model, self.from_logits = model, from_logits

    def __call__(self, images: np.ndarray, network: Any = None) -> np.ndarray:
        """Return the probabilities of the float network, or those of another `network` with the same outputs."""
        from scipy.special import softmax

        network, starts = network or self.model, range(0, len(images), _HELD_OUT_BATCH)
        # `predict` sets up a pipeline for each call, which takes longer than a training step of a small network.
        outputs = np.concatenate([network.predict_on_batch(images[at : at + _HELD_OUT_BATCH]) for at in starts])
        return softmax(outputs, axis=-1) if self.from_logits else outputs


def _compile(
    network: "tf_keras.Model | keras.Model", recipe: Recipe, steps: int, from_logits: bool, answers: _Answers | None
) -> None:
    library: Any = _library_of(network)
    prefix = "Sparse" if answers is None else ""  # targets are classes, or probabilities
    network.compile(
        library.optimizers.Adam(library.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)),
        loss=getattr(library.losses, f"{prefix}CategoricalCrossentropy")(from_logits=from_logits),
        metrics=[getattr(library.metrics, f"{prefix}CategoricalAccuracy")(name="accuracy")],
    )


def _library_of(network: "tf_keras.Model | keras.Model") -> Any:
    """Return the library of a network: keras or tf_keras."""
    import keras

    if isinstance(network, keras.Model):
        return keras
    import tf_keras

    return tf_keras


class _HeldOutImages:
    """Images (n, H, W, C) that decide which epoch is kept: the most accurate one, or the one nearest to `answers`."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, answers: _Answers | None) -> None:
        self.images, self.targets, self.answers = images, labels, answers
        if answers is not None:
            self.probabilities = answers(images)
            self.targets = np.eye(self.probabilities.shape[1], dtype=np.float32)[labels]

    def measure(self, network: Any) -> "Logs":
        """Return the loss and the accuracy, and with answers the squared distance to them, the mean over the images."""
        logs = network.evaluate(self.images, self.targets, batch_size=_HELD_OUT_BATCH, verbose=0, return_dict=True)
        if self.answers is not None:
            difference = self.answers(self.images, network) - self.probabilities
            logs["distance"] = np.square(difference).sum(axis=-1).mean()
        return {f"val_{key}": float(value) for key, value in logs.items()}

    def find_best(self, history: "list[Logs]") -> "Logs":
        """Return the entry of the epoch to keep; the earliest of equal ones."""
        from keras_nin.train.checkpoints import find_best_epoch

        if self.answers is None:
            return find_best_epoch(history)
        return min(history, key=lambda entry: entry["val_distance"])


def _fit_network(
    prepared: "PreparedNetwork", batches: "TrainingBatches", held_out: _HeldOutImages, on_epoch: "OnEpoch | None"
) -> "tuple[list[Logs], Logs]":
    """Train, and keep the weights of the best epoch that is as compressed as asked; return the history and that epoch.

    Where the answers of the float network are the targets, the untrained network is epoch 0.
    """
    import keras

    network: Any = prepared.network
    callback, recipe = prepared.callback, batches.recipe
    # Keras 3 goes on with its metrics from step to step.
    options = {} if isinstance(network, keras.Model) else {"reset_metrics": False}
    if callback:
        callback.set_model(network)
        callback.on_train_begin()
    history, candidates, best_weights = [], [], None
    if held_out.answers is not None:
        candidates.append({"epoch": 0} | held_out.measure(network))
        best_weights = network.get_weights()
    for epoch in range(1, recipe.epochs + 1):
        batches.start_epoch(epoch - 1)
        network.reset_metrics()
        logs: Any = {}
        for position in range(len(batches)):
            logs = network.train_on_batch(*batches[position], return_dict=True, **options)
        if callback:
            callback.on_epoch_end(epoch - 1)
        entry = {"epoch": epoch} | {key: float(value) for key, value in logs.items()} | held_out.measure(network)
        history.append(entry)
        if not np.isfinite([entry["loss"], entry["val_loss"]]).all():
            received = f"{entry['loss']} in epoch {epoch}. Pass a smaller `learning_rate`"
            raise input_error("a training whose loss stays finite", received, argument="learning_rate")
        if epoch * len(batches) > prepared.final_step:
            candidates.append(entry)
            if held_out.find_best(candidates) is entry:
                best_weights = network.get_weights()
        if on_epoch:
            on_epoch(epoch, entry)
    network.set_weights(best_weights)
    return history, held_out.find_best(candidates)
