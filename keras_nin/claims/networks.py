"""What the reproductions build, run and train: small networks with seeded weights and inputs."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike

from keras_nin import data, models
from keras_nin._compat.keras import variables_without_values
from keras_nin.audit.api import audit_model
from keras_nin.errors import InputError, check_choice, check_whole_number
from keras_nin.metrics import top_k_accuracy

if TYPE_CHECKING:
    import keras

    from keras_nin.audit import Audit, AuditRow
    from keras_nin.audit.records import Shape

Weights: TypeAlias = Sequence[ArrayLike]

CLASSIFIER_ACTIVATIONS = ("softmax", "sigmoid")
TRAINING_SIZE = (28, 28)
DEFAULT_SEEDS = 3


def build_network(
    graph: "Callable[[keras.KerasTensor], keras.KerasTensor]", input_shape: tuple[int, ...], name: str
) -> "keras.Model":
    """Return the model of `graph`, a function from a tensor (B, H, W, C), for `input_shape` (H, W, C)."""
    import keras

    inputs: Any = keras.Input(input_shape, name="input")
    return keras.Model(inputs, graph(inputs), name=name)


def audit_zoo_model(name: str) -> "Audit":
    """Return the audit of the zoo model `name`, built with its defaults."""
    with variables_without_values():
        return audit_model(models.build_model(name))


def convolution_rows(audit: "Audit") -> "list[AuditRow]":
    """Return the rows of an audit that have a kernel and weights."""
    return [row for row in audit.rows if row.kernel is not None and row.params]


def map_shape(shape: "Shape | tuple[Shape, ...] | None") -> "Shape":
    """Return the shape of a row's only tensor without the batch."""
    return cast("Shape", shape)[1:]


def randomize_weights(model: "keras.Model", seed: int = 0) -> "keras.Model":
    """Set every weight of `model`, biases too, to seeded normal numbers, and return `model`.

    Each output stays near the size of the inputs. Keras starts biases at 0, where an equality would not test them.
    """
    rng = np.random.default_rng(seed)
    weights = []
    for weight in model.weights:
        fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4
        weights.append((rng.standard_normal(weight.shape) / np.sqrt(fan_in)).astype(np.float32))
    model.set_weights(weights)
    return model


def random_input(*shape: int, seed: int = 1) -> np.ndarray:
    """Return seeded normal numbers, float32, of `shape`."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_model(model: "keras.Model", inputs: np.ndarray) -> np.ndarray:
    """Return the outputs of `model` for `inputs` as an array."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))


def run_up_to(model: "keras.Model", layer: str, inputs: np.ndarray) -> np.ndarray:
    """Return the outputs of one layer of `model` for `inputs` as an array."""
    import keras

    return run_model(keras.Model(model.input, model.get_layer(layer).output), inputs)


def relative_difference(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest absolute difference of two arrays of one shape, divided by the largest absolute reference."""
    if values.shape != reference.shape:
        raise ValueError(f"compared arrays of shapes {values.shape} and {reference.shape}")
    reference = reference.astype(np.float64)
    return float(np.abs(values.astype(np.float64) - reference).max() / np.abs(reference).max())


def compose_convolutions(first: Weights, second: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel and bias of the convolution that equals `first` followed by the 1x1 convolution `second`.

    W = W1 . W2 at every position of the kernel, b = b1 . W2 + b2. Exact where nothing is between the two. The kernels
    are (h, w, Cin, C) and (1, 1, C, Cout).
    """
    (kernel1, bias1), (kernel2, bias2) = _as_float64(first), _as_float64(second)
    matrix = kernel2[0, 0]
    return kernel1 @ matrix, bias1 @ matrix + bias2


def compose_with_dense(first: Weights, dense: Weights, positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel and bias of the dense layer that equals a 1x1 convolution, Flatten, and a dense layer.

    The kernels are (1, 1, C, C') and (positions * C', units), for the positions of the map.
    """
    (kernel1, bias1), (kernel2, bias2) = _as_float64(first), _as_float64(dense)
    matrix = kernel1[0, 0]
    by_position = kernel2.reshape(positions, matrix.shape[1], -1)
    kernel = (matrix @ by_position).reshape(positions * matrix.shape[0], -1)
    return kernel, np.einsum("c,pcu->u", bias1, by_position) + bias2


def _as_float64(weights: Weights) -> list[np.ndarray]:
    return [np.asarray(weight, np.float64) for weight in weights]


@dataclasses.dataclass(frozen=True)
class ClaimTraining:
    """How the networks of claims about accuracy are trained.

    Images are resized to the 28x28 of the articles' networks, which keeps their parameter counts. Every network trains
    on the whole train split for the same number of epochs, without augmentation, and its last weights are tested:
    nothing is selected by looking at any image.

    Args:
        data: a dataset for `keras_nin.data.open_dataset`, with labels from 0 to 9, a train and a test split.
        epochs: passes over the training images; None takes each claim's own number.
        seeds: number of runs of each network, with the seeds 0, 1, ...
        activation: activation of the classifiers: ``"softmax"`` with its cross-entropy, or the article's ``"sigmoid"``
            with one cross-entropy per class.
        on_run: called with a line of text after each run.

    Raises:
        InputError: a number below 1, or another activation.
    """

    data: str = "digits"
    epochs: int | None = None
    seeds: int = DEFAULT_SEEDS
    activation: str = "softmax"
    on_run: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, CLASSIFIER_ACTIVATIONS)
        check_whole_number("seeds", self.seeds)
        if self.epochs is not None:
            check_whole_number("epochs", self.epochs)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """Train and test split: images, float32 (N, 28, 28, 1), and their labels, int64 (N,)."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network and its accuracy on the training and on the test images, 0 to 1."""

    model: "keras.Model"
    train_accuracy: float
    test_accuracy: float

    @property
    def gap(self) -> float:
        """Training accuracy minus test accuracy."""
        return self.train_accuracy - self.test_accuracy


def load_training_images(training: ClaimTraining) -> TrainingImages:
    """Return the images; `InputError` where the dataset has no train and test split with labels from 0 to 9."""
    dataset = data.open_dataset(training.data)
    splits = []
    for split in ("train", "test"):
        indices = dataset.select(split)
        labels = dataset.labels_of(indices)
        if labels.min() < 0 or labels.max() > 9:
            raise InputError(
                f"Expected labels from 0 to 9. Received: {labels.min()} to {labels.max()} in {dataset.name!r}",
                argument="data",
                received=training.data,
            )
        splits.append((dataset.load(indices, TRAINING_SIZE, 1), labels))
    return TrainingImages(*splits)


def train_over_seeds(
    build: "Callable[[], keras.Model]", training: ClaimTraining, images: TrainingImages, default_epochs: int
) -> list[TrainedNetwork]:
    """Return one trained network (28, 28, 1) -> (10,) per seed; the same numbers each time on one machine."""
    runs = []
    for seed in range(training.seeds):
        run = _train_once(build, images, seed, training.epochs or default_epochs, training.activation)
        runs.append(run)
        if training.on_run:
            training.on_run(
                f"{run.model.name}, seed {seed}: {run.train_accuracy:.2%} on training images, "
                f"{run.test_accuracy:.2%} on test images"
            )
    return runs


def _train_once(
    build: "Callable[[], keras.Model]", images: TrainingImages, seed: int, epochs: int, activation: str
) -> TrainedNetwork:
    import keras
    import tensorflow as tf

    from keras_nin.train import Recipe
    from keras_nin.train.batches import TrainingBatches

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    model = build()
    # At a much higher learning rate the ReLUs of the pointwise head die: every score is then the same.
    recipe = Recipe(epochs=epochs, batch_size=32, learning_rate=3e-3)
    batches = TrainingBatches(*images.train, recipe, seed)
    schedule: Any = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, epochs * len(batches))
    optimizer: Any = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    loss: Any = _binary_crossentropy_per_class if activation == "sigmoid" else "sparse_categorical_crossentropy"
    # Compiling with XLA takes longer than these short runs.
    model.compile(optimizer, loss=loss, jit_compile=False)  # pyright: ignore[reportArgumentType]
    start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch))
    # The batches have an order of their own; that of Keras would depend on what ran before.
    model.fit(batches, epochs=epochs, callbacks=[start], shuffle=False, verbose=0)  # pyright: ignore[reportArgumentType]
    return TrainedNetwork(model, _accuracy(model, *images.train), _accuracy(model, *images.test))


def _binary_crossentropy_per_class(labels: Any, outputs: Any) -> Any:
    import keras

    targets = keras.ops.one_hot(keras.ops.reshape(labels, (-1,)), outputs.shape[-1])
    return keras.losses.binary_crossentropy(targets, outputs)


def _accuracy(model: "keras.Model", images: np.ndarray, labels: np.ndarray, batch: int = 512) -> float:
    starts = range(0, len(labels), batch)
    outputs = np.concatenate([run_model(model, images[start : start + batch]) for start in starts])
    return cast(float, top_k_accuracy(outputs, labels, 1))  # not None: there are ten classes


def format_mean_and_range(values: Sequence[float]) -> str:
    """Return mean and range of shares as percentages: ``"97.12 (96.90 to 97.40)"``."""
    mean, low, high = (100 * value for value in (statistics.fmean(values), min(values), max(values)))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
