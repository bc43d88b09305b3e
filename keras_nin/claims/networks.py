"""What the reproductions build and run: small networks with seeded weights and inputs."""

import dataclasses
import statistics

import numpy as np

from keras_nin.errors import InputError, check_choice
from keras_nin.metrics import top_k_accuracy
from keras_nin.train import Recipe


def build_network(graph, input_shape, name):
    """Return the keras.Model of `graph`, a function from a tensor (B, H, W, C), for `input_shape` (H, W, C)."""
    import keras

    inputs = keras.Input(input_shape, name="input")
    return keras.Model(inputs, graph(inputs), name=name)


def audit_zoo_model(name):
    """Return the `keras_nin.audit.Audit` of the zoo's model `name`, built at its defaults."""
    from keras_nin import models
    from keras_nin.audit import audit_model

    return audit_model(models.build_model(name))


def convolution_rows(audit):
    """Return the rows of an audit that have a kernel and weights."""
    return [row for row in audit.rows if row.kernel is not None and row.params]


def randomize_weights(model, seed=0):
    """Fill every weight of `model`, biases too, with seeded normal numbers and return `model`.

    Each output stays near the size of the inputs; Keras starts biases at 0, where an equality would not test them.
    """
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4
        values.append((rng.standard_normal(weight.shape) / np.sqrt(fan_in)).astype(np.float32))
    model.set_weights(values)
    return model


def random_input(*shape, seed=1):
    """Return seeded normal numbers, float32, of `shape`."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_model(model, inputs):
    """Return the outputs of `model` for `inputs` as an array."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))


def relative_difference(values, reference):
    """Return the largest absolute difference of two arrays of one shape, divided by the largest absolute reference."""
    if values.shape != reference.shape:
        raise ValueError(f"compared arrays of shapes {values.shape} and {reference.shape}")
    reference = reference.astype(np.float64)
    return float(np.abs(values.astype(np.float64) - reference).max() / np.abs(reference).max())


def count_kernel_weights(model):
    """Return the number of weights of `model` without its biases."""
    return sum(int(np.prod(weight.shape)) for weight in model.weights if len(weight.shape) > 1)


# MERGED Two linear layers in a row as the one layer that they are: the composition that shows what a ReLU between is for.


def compose_convolutions(first, second):
    """Return (kernel, bias) of the convolution equal to `first` followed by the 1x1 convolution `second`.

    W = W1 . W2 at every position of the kernel, b = b1 . W2 + b2. Exact where nothing stands between the two.

    Args:
        first: (kernel (h, w, Cin, C), bias (C,)).
        second: (kernel (1, 1, C, Cout), bias (Cout,)).
    """
    (kernel1, bias1), (kernel2, bias2) = _as_float64(first), _as_float64(second)
    matrix = kernel2[0, 0]
    return kernel1 @ matrix, bias1 @ matrix + bias2


def compose_with_dense(first, dense, positions):
    """Return (kernel, bias) of the dense layer equal to a 1x1 convolution, Flatten, and a dense layer.

    Args:
        first: (kernel (1, 1, C, C'), bias (C',)).
        dense: (kernel (positions * C', units), bias (units,)).
        positions: of the map.
    """
    (kernel1, bias1), (kernel2, bias2) = _as_float64(first), _as_float64(dense)
    matrix = kernel1[0, 0]
    places = kernel2.reshape(positions, matrix.shape[1], -1)
    kernel = (matrix @ places).reshape(positions * matrix.shape[0], -1)
    return kernel, np.einsum("c,pcu->u", bias1, places) + bias2


def _as_float64(weights):
    return [np.asarray(weight, np.float64) for weight in weights]


# MERGED Training for a comparison: the same images, order and steps for every network, over several seeds.

CLASSIFIER_ACTIVATIONS = ("softmax", "sigmoid")
TRAINING_SIZE = (28, 28)
DEFAULT_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class ClaimTraining:
    """How the trained figures are made.

    Images are resized to the 28x28 that the articles' networks take, so that these keep their own parameters. Every
    network trains on the whole train split for the same number of epochs, without random changes to the images, and
    its last weights are tested: nothing is chosen by looking at any image.

    Args:
        data: a data set that `keras_nin.data.open_dataset` knows, with labels from 0 to 9, a train and a test split.
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
    seeds: int = DEFAULT_SEEDS
    activation: str = "softmax"
    on_run: object = None

    def __post_init__(self):
        check_choice("activation", self.activation, CLASSIFIER_ACTIVATIONS)
        numbers = {"seeds": self.seeds} | ({} if self.epochs is None else {"epochs": self.epochs})
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"Expected `{name}` to be a whole number from 1. Received: {value!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """Train and test images, float32 (N, 28, 28, 1), and their labels, int64 (N,)."""

    train: tuple
    test: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network and its shares of right answers on the images it learned from and on the test images."""

    model: object
    train_accuracy: float
    test_accuracy: float

    @property
    def gap(self):
        """By how much it is better on the images that it learned from."""
        return self.train_accuracy - self.test_accuracy


def load_training_images(training):
    """Return the `Images` of a `Training`; `InputError` where its data set has no such splits or labels."""
    from keras_nin import data

    dataset = data.open_dataset(training.data)
    parts = []
    for split in ("train", "test"):
        indices = dataset.select(split)
        labels = dataset.labels_of(indices)
        if labels.min() < 0 or labels.max() > 9:
            raise InputError(
                f"Expected labels from 0 to 9. Received: {labels.min()} to {labels.max()} in {dataset.name!r}"
            )
        parts.append((dataset.load(indices, TRAINING_SIZE, 1), labels))
    return TrainingImages(*parts)


def train_over_seeds(build, training, pictures, epochs):
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


def format_mean_and_range(values, unit=100):
    """Return mean and spread of `values` as text: ``"97.12 (96.90 to 97.40)"``; shares as percentages."""
    mean, low, high = (unit * value for value in (statistics.fmean(values), min(values), max(values)))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def _train_once(build, training, pictures, seed):
    import keras
    import tensorflow as tf

    from keras_nin.train.batches import TrainingBatches

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    model = build()
    # Much faster, and the ReLUs of the pointwise head die: every score is then the same.
    recipe = Recipe(epochs=training.epochs, batch_size=32, learning_rate=3e-3)
    batches = TrainingBatches(*pictures.train, recipe, seed)
    _compile(model, training.activation, recipe, recipe.epochs * len(batches))
    start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch))
    # The batches have an order of their own; Keras's would depend on what ran before.
    model.fit(batches, epochs=recipe.epochs, callbacks=[start], shuffle=False, verbose=0)
    return TrainedNetwork(model, *(_accuracy(model, *part) for part in (pictures.train, pictures.test)))


def _compile(model, activation, recipe, steps):
    import keras

    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    loss = _binary_crossentropy_per_class if activation == "sigmoid" else "sparse_categorical_crossentropy"
    model.compile(optimizer, loss=loss, jit_compile=False)  # compiling takes longer than these short runs


def _binary_crossentropy_per_class(labels, outputs):
    import keras

    wanted = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), outputs.shape[-1])
    return keras.losses.binary_crossentropy(wanted, outputs)


def _accuracy(model, pictures, labels, batch=512):
    outputs = np.concatenate(
        [run_model(model, pictures[start : start + batch]) for start in range(0, len(labels), batch)]
    )
    return top_k_accuracy(outputs, labels, 1)
