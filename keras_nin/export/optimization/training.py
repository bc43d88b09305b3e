"""What decides a training before the conversion."""

import contextlib
import dataclasses
import importlib.metadata
import numbers
from typing import Any

import numpy as np

from keras_nin.errors import InputError, check_choice
from keras_nin.export.schemes import SCHEMES, Scheme
from keras_nin.train.training import Recipe, get_recipe

DEFAULT_EPOCHS = 20
# Of the learning rate that trained the network from random weights: these start from its trained ones.
_SHARE_OF_RATE = 0.2


@dataclasses.dataclass(frozen=True)
class OptimizationSettings:
    """How a scheme is trained.

    Attributes:
        recipe: `keras_nin.train.Recipe`; its warm-up and weight decay are not used.
        seed: of the held-out choice, the order, the random changes and whatever else is random.
        sparsity: share of the weights of each convolution and dense layer that "pruned" sets to zero.
        clusters: number of distinct weights that "clustered" leaves each convolution and dense layer.
    """

    recipe: Recipe
    seed: int = 0
    sparsity: float = 0.5
    clusters: int = 16

    def __post_init__(self):
        if not _is_number(self.sparsity, numbers.Real) or not 0 < self.sparsity < 1:
            raise InputError(f"Expected `sparsity` to be above 0 and below 1. Received: {self.sparsity!r}")
        if not _is_number(self.clusters, numbers.Integral) or not 2 <= self.clusters <= 256:
            raise InputError(f"Expected `clusters` to be a whole number from 2 to 256. Received: {self.clusters!r}")


def _is_number(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def optimization_settings(model, dataset, *, seed=0, sparsity=0.5, clusters=16, **changes):
    """Return the `Settings` of a model and a dataset by their names; `changes` replace fields of the recipe.

    Raises:
        InputError: a value that makes no sense.
    """
    rate = _SHARE_OF_RATE * get_recipe(model, dataset).learning_rate
    given = {key: value for key, value in changes.items() if value is not None}
    recipe = get_recipe(model, dataset, **{"epochs": DEFAULT_EPOCHS, "learning_rate": rate} | given)
    return OptimizationSettings(recipe, seed, sparsity, clusters)


# MERGED Train a Keras 3 model for a scheme, starting from the weights that it has.

TRAINING_PACKAGES = ("tf_keras", "tensorflow-model-optimization")
_RANGE_IMAGES = 100


@dataclasses.dataclass(frozen=True, eq=False)
class OptimizedModel:
    """A model that was trained for a scheme.

    Attributes:
        scheme: `Scheme`.
        model: keras.Model, a clone of the original with the trained weights.
        network: the trained tf_keras network of a quantisation-aware training, from which the file is made; None for
            the others, whose file is made from `model`.
        record: what was done, as a dictionary for the sidecar: data, images, epochs, learning rate, batch size, seed,
            sparsity or clusters, the best epoch and its accuracy on held-out training images, the hash of the trained
            weights, versions.
        history: one dictionary an epoch.
    """

    scheme: Scheme
    model: Any
    network: Any
    record: dict
    history: tuple


def train_for_scheme(
    model,
    scheme,
    dataset,
    *,
    preprocessing=None,
    name=None,
    epochs=None,
    batch_size=None,
    learning_rate=None,
    seed=0,
    sparsity=0.5,
    clusters=16,
    on_epoch=None,
):
    """Train a copy of `model` for a scheme with tensorflow-model-optimization, from the weights that it has.

    The weights of the best epoch on held-out training images are kept. The same call on the same machine gives the
    same weights; for that it sets the global random seeds, and TensorFlow's deterministic mode while it runs.

    Args:
        model: keras.Model (B, H, W, C) -> (B, classes) that ends in a softmax, or in the scores before it.
        scheme: "qat", "pruned" or "clustered", or the `Scheme`.
        dataset: `keras_nin.data.Dataset` with a train split.
        preprocessing: `keras_nin.data.Preprocessing`; None takes the dataset's own.
        name: the model's name in the tables of recipes; the default is its own.
        epochs, batch_size, learning_rate: of the training; None takes 20 epochs, and from the recipe of the model or
            of the dataset the batch size and a fifth of the learning rate.
        seed: of whatever is random.
        sparsity: share of zeros in each pruned layer.
        clusters: distinct weights in each clustered layer.
        on_epoch: called with (epoch from 1, logs) after each epoch, as `keras_nin.train.fit_model` does.

    Returns:
        `Trained`.

    Raises:
        InputError: no labelled train split, labels beyond the classes, a scheme that trains nothing, a setting that
            makes no sense, or a model without a twin in tf_keras (see `keras_nin.export.to_tf_keras`).
    """
    trained = [each.name for each in SCHEMES.values() if each.trained]
    scheme = scheme if isinstance(scheme, Scheme) else SCHEMES[check_choice("scheme", scheme, trained)]
    check_choice("scheme", scheme.name, trained)
    recipe = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    settings = optimization_settings(
        name or model.name, dataset.name, seed=seed, sparsity=sparsity, clusters=clusters, **recipe
    )
    return _train_copy(model, scheme, dataset, preprocessing or dataset.preprocessing, settings, on_epoch)


def _train_copy(model, scheme, dataset, preprocessing, settings, on_epoch):
    from keras_nin.export.optimization.methods import fold_batch_norms, prepare_network
    from keras_nin.export.optimization.tf_keras_model import check_tfmot_installed, from_tf_keras, to_tf_keras
    from keras_nin.train.training import check_classes, get_image_shape, outputs_logits, split_validation

    check_tfmot_installed()
    *size, channels = get_image_shape(model)
    parts = split_validation(dataset, settings.recipe, settings.seed)
    check_classes(model, dataset, np.concatenate(parts))
    images = [dataset.load(part, size, channels, preprocessing) for part in parts]
    labels = [dataset.labels[part] for part in parts]
    steps = settings.recipe.epochs * -(-len(images[0]) // settings.recipe.batch_size)
    with _deterministic(settings.seed):
        copy = _clone_model(model)
        folded = fold_batch_norms(copy) if scheme.trained == "clustered" else []
        prepared = prepare_network(scheme.trained, to_tf_keras(copy), settings, steps, images[0][:_RANGE_IMAGES])
        _compile(prepared.network, settings.recipe, steps, outputs_logits(model, images[0][:8]))
        history, best = _fit_network(prepared, images, labels, settings, on_epoch)
    finished = prepared.finish(prepared.network)
    from_tf_keras(finished, copy)
    record = _training_record(copy, scheme, dataset, preprocessing, settings, parts, best) | {"folded": folded}
    return OptimizedModel(scheme, copy, finished if scheme.trained == "qat" else None, record, tuple(history))


@contextlib.contextmanager
def _deterministic(seed):
    """Let everything random depend on `seed`, and TensorFlow compute the same sums in the same order."""
    import keras
    import tensorflow as tf
    from tensorflow.python.framework import config

    keras.utils.set_random_seed(seed)
    before = config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            config.disable_op_determinism()


def _compile(network, recipe, steps, from_scores):
    import tf_keras

    schedule = tf_keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    network.compile(
        tf_keras.optimizers.Adam(schedule),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=from_scores),
        metrics=[tf_keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def _fit_network(prepared, images, labels, settings, on_epoch):
    """Train; leave the weights of the best epoch that is as compressed as asked; return the history and that epoch."""
    from keras_nin.train.batches import TrainingBatches
    from keras_nin.train.checkpoints import find_best_epoch

    network, callback, recipe = prepared.network, prepared.callback, settings.recipe
    batches = TrainingBatches(images[0], labels[0], recipe, settings.seed)
    if callback:
        callback.set_model(network)
        callback.on_train_begin()
    history, ready, kept = [], [], None
    for epoch in range(1, recipe.epochs + 1):
        logs = _train_epoch(network, batches, epoch - 1, callback)
        held_out = network.evaluate(images[1], labels[1], batch_size=256, verbose=0, return_dict=True)
        history.append({"epoch": epoch} | logs | {f"val_{key}": float(value) for key, value in held_out.items()})
        _check_finite_loss(history[-1])
        if epoch * len(batches) > prepared.ready:
            ready.append(history[-1])
            if find_best_epoch(ready) is history[-1]:
                kept = network.get_weights()
        if on_epoch:
            on_epoch(epoch, history[-1])
    network.set_weights(kept)
    return history, find_best_epoch(ready)


def _train_epoch(network, batches, number, callback):
    """Train for one epoch (from 0) and return its loss and accuracy."""
    batches.start_epoch(number)
    network.reset_metrics()
    for position in range(len(batches)):
        logs = network.train_on_batch(*batches[position], reset_metrics=False, return_dict=True)
    if callback:
        callback.on_epoch_end(number)
    return {key: float(value) for key, value in logs.items()}


def _check_finite_loss(entry):
    if not np.isfinite([entry["loss"], entry["val_loss"]]).all():
        raise InputError(
            f"Expected a training whose loss stays finite. Received: {entry['loss']} in epoch {entry['epoch']}. Pass a "
            "smaller learning rate"
        )


def _clone_model(model):
    import keras

    try:
        copy = keras.models.clone_model(model)
    except Exception as error:  # many kinds, from the configurations of the layers
        raise InputError(
            f"Expected a model that keras.models.clone_model can copy. Received: {model.name!r}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    copy.set_weights(model.get_weights())
    return copy


def _training_record(model, scheme, dataset, preprocessing, settings, parts, best):
    from keras_nin.models import hash_weights

    recipe = settings.recipe
    own = {"pruned": {"sparsity": settings.sparsity}, "clustered": {"clusters": settings.clusters}}
    return {
        "method": scheme.trained,
        "data": dataset.name,
        "preprocessing": preprocessing.to_json(),
        "images": len(parts[0]),
        "held_out": len(parts[1]),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "shift": recipe.shift,
        "flip": recipe.flip,
        "seed": settings.seed,
        **own.get(scheme.trained, {}),
        "best_epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "weights_sha256": hash_weights(model),
        "versions": {package: importlib.metadata.version(package) for package in TRAINING_PACKAGES},
    }
