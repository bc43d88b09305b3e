"""Training for a comparison: the same images, order and steps for every network, over several seeds."""

import dataclasses
import statistics

import numpy as np

from keras_nin.claims.networks import run
from keras_nin.errors import InputError, one_of
from keras_nin.metrics import top_k
from keras_nin.train import Recipe

ACTIVATIONS = ("softmax", "sigmoid")
SIZE = (28, 28)
SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Training:
    """How the trained figures are made.

    Images are resized to the 28x28 that the articles' networks take, so that these keep their own parameters. Every
    network trains on the whole train split for the same number of epochs, without random changes to the images, and
    its last weights are tested: nothing is chosen by looking at any image.

    Args:
        data: a data set that `keras_nin.data.load` knows, with labels from 0 to 9, a train and a test split.
        epochs: passes over the training images; None takes the number that each claim names for itself.
        seeds: number of runs of each network, with the seeds 0, 1, ...
        activation: what the classifiers end in: ``"softmax"`` with its cross-entropy, or the article's ``"sigmoid"``
            with one cross-entropy a class.
        on_run: called with a line of text after each run; None says nothing.

    Raises:
        InputError: a number below 1, or another activation.
    """

    data: str = "digits"
    epochs: int | None = None
    seeds: int = SEEDS
    activation: str = "softmax"
    on_run: object = None

    def __post_init__(self):
        one_of("activation", self.activation, ACTIVATIONS)
        numbers = {"seeds": self.seeds} | ({} if self.epochs is None else {"epochs": self.epochs})
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"Expected `{name}` to be a whole number from 1. Received: {value!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Train and test images, float32 (N, 28, 28, 1), and their labels, int64 (N,)."""

    train: tuple
    test: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and its shares of right answers on the images it learned from and on the test images."""

    model: object
    train_accuracy: float
    test_accuracy: float

    @property
    def gap(self):
        """By how much it is better on the images that it learned from."""
        return self.train_accuracy - self.test_accuracy


def images(training):
    """Return the `Images` of a `Training`; `InputError` where its data set has no such splits or labels."""
    from keras_nin import data

    dataset = data.load(training.data)
    parts = []
    for split in ("train", "test"):
        indices = dataset.select(split)
        labels = dataset.labels_of(indices)
        if labels.min() < 0 or labels.max() > 9:
            raise InputError(
                f"Expected labels from 0 to 9. Received: {labels.min()} to {labels.max()} in {dataset.name!r}"
            )
        parts.append((dataset.load(indices, SIZE, 1), labels))
    return Images(*parts)


def train(build, training, pictures, epochs):
    """Return a `Trained` for each seed of `training`; the same arguments give the same numbers on one machine.

    Args:
        build: function without arguments that returns an untrained keras.Model (28, 28, 1) -> (10,).
        training: `Training`.
        pictures: `Images`.
        epochs: passes over the images where `training` names no number.
    """
    training = dataclasses.replace(training, epochs=training.epochs or epochs)
    results = []
    for seed in range(training.seeds):
        result = _train_once(build, training, pictures, seed)
        results.append(result)
        if training.on_run:
            training.on_run(
                f"{result.model.name}, seed {seed}: {result.train_accuracy:.2%} on training images, "
                f"{result.test_accuracy:.2%} on test images"
            )
    return results


def summary(values, unit=100):
    """Return mean and spread of `values` as text: ``"97.12 (96.90 to 97.40)"``; shares as percentages."""
    mean, low, high = (unit * value for value in (statistics.fmean(values), min(values), max(values)))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def _train_once(build, training, pictures, seed):
    import keras
    import tensorflow as tf

    from keras_nin.train.batches import Batches

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    model = build()
    # Much faster, and the ReLUs of the pointwise head die: every score is then the same.
    recipe = Recipe(epochs=training.epochs, batch_size=32, learning_rate=3e-3)
    batches = Batches(*pictures.train, recipe, seed)
    _compile(model, training.activation, recipe, recipe.epochs * len(batches))
    start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.start(epoch))
    # The batches have an order of their own; Keras's would depend on what ran before.
    model.fit(batches, epochs=recipe.epochs, callbacks=[start], shuffle=False, verbose=0)
    return Trained(model, *(_accuracy(model, *part) for part in (pictures.train, pictures.test)))


def _compile(model, activation, recipe, steps):
    import keras

    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    loss = _one_question_a_class if activation == "sigmoid" else "sparse_categorical_crossentropy"
    model.compile(optimizer, loss=loss, jit_compile=False)  # compiling takes longer than these short runs


def _one_question_a_class(labels, outputs):
    import keras

    wanted = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), outputs.shape[-1])
    return keras.losses.binary_crossentropy(wanted, outputs)


def _accuracy(model, pictures, labels, batch=512):
    outputs = np.concatenate([run(model, pictures[start : start + batch]) for start in range(0, len(labels), batch)])
    return top_k(outputs, labels, 1)
