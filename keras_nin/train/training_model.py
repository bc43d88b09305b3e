"""A network as it is trained: augmentation and preprocessing before it in one compiled step, averaged weights after it.

Everything is `keras.ops`, so that it runs on every backend of Keras. What is random about a batch is drawn on the host,
a few numbers per image (see `keras_nin.train.batches.StepBatches`), so that it depends on the seed alone and not on
the backend or on how many devices share the batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from keras_nin._compat.keras import flatten_layers

if TYPE_CHECKING:
    from keras_nin.data.preprocessing import Preprocessing
    from keras_nin.train.training import Recipe

ops: Any = keras.ops  # whose annotations allow None everywhere
_FEATURE_WEIGHT = 4.0  # of the mean over the features, beside the divergence
_TINY = 1e-12
# Columns of the numbers that are drawn for each image.
TRANSFORM = ("mirrored", "down", "right", "cutout_top", "cutout_left")


class Distillation:
    """Soft targets: what another network answers to the same images (Hinton, Vinyals, Dean, arXiv:1503.02531).

    The loss is the divergence from its distribution over the classes, both at a `temperature`. It takes the place of
    the labels. With `features`, the trained network with more outputs, which the teacher has too, the mean squared
    difference of each counts as well (arXiv:1412.6550), as a share of the teacher's mean square.
    """

    def __init__(
        self,
        teacher: keras.Model,
        *,
        from_logits: bool,
        temperature: float = 2.0,
        features: keras.Model | None = None,
    ) -> None:
        self.teacher, self.from_logits, self.temperature = teacher, from_logits, temperature
        self.features = features

    def loss(self, x: Any, outputs: Any, features: Sequence[Any] = ()) -> Any:
        """Return the loss of `outputs` (B, classes), and of `features` where there are some, on a batch `x`."""
        answers, *expected = keras.tree.flatten(self.teacher(x, training=False))
        soft, learned = self._soften(answers), self._soften(outputs)
        loss = self.temperature**2 * ops.mean(ops.sum(ops.exp(soft) * (soft - learned), axis=-1))
        for first, second in zip(expected, features, strict=False):
            error = ops.mean(ops.square(first - second)) / (ops.mean(ops.square(first)) + _TINY)
            loss = loss + _FEATURE_WEIGHT / len(features) * error
        return loss

    def _soften(self, outputs: Any) -> Any:
        outputs = ops.cast(outputs, "float32")
        logits = outputs if self.from_logits else ops.log(ops.maximum(outputs, 1e-7))
        return ops.log_softmax(logits / self.temperature)


class TrainingModel(keras.Model):
    """A network behind its augmentation and its preprocessing.

    Inputs are a dictionary: ``image``, positions in the images on the device, int32 (B,), or uint8 images (B, H, W, C);
    and for a training step ``transform``, int32 (B, 5) with the columns of `TRANSFORM`, and with mixup ``share``,
    float32 (B,). Outputs are the network's; those of a test step are computed with the averaged weights.

    Args:
        network: keras.Model (B, H, W, C) -> (B, classes); its weights are trained in place.
        recipe: settings of the training.
        preprocessing: from pixels to the network's input; None for arrays that are fed as they are.
        images: array (N, H, W, C) to keep on the device, or None where each batch brings its images.
        distillation: targets instead of the labels, or None. The network computes as at inference then, as its teacher
            does: without dropout, and with the statistics of BatchNormalization as they are.
    """

    def __init__(
        self,
        network: keras.Model,
        recipe: Recipe,
        preprocessing: Preprocessing | None,
        images: npt.NDArray[Any] | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__(name=f"{network.name}_training")
        self.distillation = distillation
        self.network, self.recipe, self.preprocessing = network, recipe, preprocessing
        self.image_shape = tuple(network.input_shape[1:])
        self.pool = None if images is None else ImagePool(images)
        self.averages = WeightAverages(network, recipe.ema) if recipe.ema else None
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Return the network's outputs (B, classes)."""
        pixels = self._gather(inputs["image"], inputs.get("transform") if training else None)
        x = normalize_pixels(pixels, self.preprocessing)
        if training and self.recipe.cutout:
            x = cut_out(x, inputs["transform"][:, 3:], self.recipe.cutout)
        if training and self.recipe.mixup:
            x = mix_pairs(x, inputs["share"])
        if self.averages and training:
            self.averages.update(self.network)
        features: list[Any] = []
        if self.averages and not training:
            outputs = self.averages.run(self.network, x)
        elif self.distillation is None:
            outputs = self.network(x, training=training)
        else:
            outputs, *features = keras.tree.flatten((self.distillation.features or self.network)(x, training=False))
        if self.distillation:
            self.add_loss(self.distillation.loss(x, outputs, features if training else []))
        return outputs

    def keep_averages(self) -> None:
        """Give the network its averaged weights, where the recipe has them."""
        if self.averages:
            self.averages.assign_to(self.network)

    def _gather(self, image: Any, transform: Any | None) -> Any:
        """Return the float32 pixels (B, H, W, C) of a batch, shifted and mirrored."""
        height, width, channels = self.image_shape
        if self.pool is not None:
            flat, position = self.pool.pixels, ops.cast(image, "int32")
        elif transform is None:
            return ops.cast(image, "float32")
        else:
            flat, position = ops.reshape(image, (-1, channels)), ops.arange(ops.shape(image)[0], dtype="int32")
        rows, columns = _source_pixels(transform, height, width)
        index = (ops.reshape(position, (-1, 1, 1)) * height + rows[:, :, None]) * width + columns[:, None, :]
        return ops.cast(ops.take(flat, index, axis=0), "float32")


def _source_pixels(transform: Any | None, height: int, width: int) -> tuple[Any, Any]:
    """Return from which row (B, H) and column (B, W) of its image each pixel comes; B is 1 without transform."""
    rows, columns = (ops.reshape(ops.arange(side, dtype="int32"), (1, side)) for side in (height, width))
    if transform is None:
        return rows, columns
    mirrored, down, right = (ops.reshape(transform[:, column], (-1, 1)) for column in range(3))
    rows, columns = _reflect(rows - down, height), _reflect(columns - right, width)
    return rows, ops.where(mirrored == 1, width - 1 - columns, columns)


def _reflect(position: Any, size: int) -> Any:
    """Return positions outside 0 to `size` - 1 reflected at the first and the last, as NumPy's mode "reflect"."""
    return (size - 1) - ops.abs((size - 1) - ops.abs(position))


def normalize_pixels(pixels: Any, preprocessing: Preprocessing | None) -> Any:
    """Return float32 `pixels` (B, H, W, C), 0 to 255, as `Preprocessing.normalize` does; unchanged where None."""
    if preprocessing is None:
        return pixels
    if preprocessing.reverses_channels:
        pixels = ops.flip(pixels, axis=-1)
    if preprocessing.mode == "standardize":
        centered = pixels - ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(centered), axis=(1, 2, 3), keepdims=True))
        return centered / ops.maximum(deviation, 1 / math.sqrt(math.prod(pixels.shape[1:])))
    scale, mean, std, _ = preprocessing.constants
    x = pixels * scale
    x = x if mean is None else x - np.asarray(mean, np.float32)
    return x if std is None else x / np.asarray(std, np.float32)


def cut_out(x: Any, corner: Any, size: int) -> Any:
    """Return images (B, H, W, C) with a square of `size` pixels set to 0; `corner` (B, 2) is its top and left."""
    top, left = ops.reshape(corner[:, 0], (-1, 1)), ops.reshape(corner[:, 1], (-1, 1))

    def covers(start: Any, side: int) -> Any:
        position = ops.reshape(ops.arange(side, dtype="int32"), (1, side))
        return ops.logical_and(position >= start, position < start + size)

    inside = ops.logical_and(covers(top, x.shape[1])[:, :, None, None], covers(left, x.shape[2])[:, None, :, None])
    return ops.where(inside, ops.zeros_like(x), x)


def mix_pairs(x: Any, share: Any) -> Any:
    """Return each image mixed with its neighbor, 0 with 1, 2 with 3, ...; `share` (B,) is what stays of it."""
    share = ops.reshape(share, (-1, 1, 1, 1))
    pairs = ops.reshape(x, (-1, 2, *x.shape[1:]))
    return share * x + (1 - share) * ops.reshape(ops.flip(pairs, axis=1), (-1, *x.shape[1:]))


class ImagePool(keras.layers.Layer):
    """Images that stay on the device, in a weight of their own that no checkpoint holds: ``pixels`` (N * H * W, C)."""

    def __init__(self, images: npt.NDArray[Any]) -> None:
        super().__init__(trainable=False, name="images")
        flat = images.reshape(-1, images.shape[-1])
        self.pixels = self.add_weight(
            shape=flat.shape,
            dtype=flat.dtype.name,
            initializer=_constant(flat),
            trainable=False,
            autocast=False,
            name="pixels",
        )
        self.built = True

    def save_own_variables(self, store: Any) -> None:
        """Save nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing."""


class WeightAverages(keras.layers.Layer):
    """Exponential moving averages of all weights of a network, statistics of BatchNormalization included.

    After n steps they decay by min(`momentum`, (1 + n) / (10 + n)), so that they soon forget the random weights.
    A step first takes in the weights that the step before it left.
    """

    def __init__(self, network: keras.Model, momentum: float) -> None:
        super().__init__(trainable=False, name="averages")
        self.momentum = momentum
        self._averages = [
            self.add_weight(
                shape=weight.shape,
                dtype=weight.dtype,
                initializer=_constant(ops.convert_to_numpy(weight)),
                trainable=False,
                autocast=False,
                aggregation="mean",
                name=f"average_{number}",
            )
            for number, weight in enumerate(network.weights)
        ]
        counter: Any = {"dtype": "int32", "aggregation": "only_first_replica", "trainable": False, "name": "steps"}
        self.steps = self.add_weight(shape=(), initializer="zeros", **counter)
        self.built = True

    def update(self, network: keras.Model) -> None:
        """Take in the weights that the network has now."""
        done = ops.cast(self.steps, "float32")
        momentum = ops.minimum(self.momentum, done / (9 + done))
        for average, weight in zip(self._averages, network.weights, strict=True):
            average.assign(momentum * average + (1 - momentum) * ops.stop_gradient(ops.convert_to_tensor(weight)))
        self.steps.assign(self.steps + 1)

    def run(self, network: keras.Model, x: Any) -> Any:
        """Return the network's outputs at inference with the averaged weights."""
        averages = zip(network.weights, self._averages, strict=True)
        with keras.StatelessScope(state_mapping=[(weight, average.value) for weight, average in averages]):
            return network(x, training=False)

    def assign_to(self, network: keras.Model) -> None:
        """Give the network the averaged weights."""
        for average, weight in zip(self._averages, network.weights, strict=True):
            weight.assign(average.value)


def _constant(values: npt.NDArray[Any]) -> Any:
    """Return an initializer with these values."""
    return lambda *_, **__: ops.convert_to_tensor(values)


@contextlib.contextmanager
def mixed_precision(network: keras.Model, policy: str) -> Iterator[None]:
    """Let the float32 layers of a network compute by another `policy` while the block runs; the last one stays.

    The weights stay float32.
    """
    changed = [layer for layer in flatten_layers(network) if layer.dtype_policy.name == "float32"]
    changed = [layer for layer in changed if layer not in (network, network.layers[-1])]
    try:
        for layer in changed:
            layer.dtype_policy = policy
        yield
    finally:
        for layer in changed:
            layer.dtype_policy = "float32"


def build_optimizer(network: keras.Model, recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    """Return the recipe's AdamW for a training of `steps` steps: weight decay on kernels alone."""
    from keras_nin.train.devices import build_adamw

    warmup = int(recipe.warmup * steps)
    rise = {"warmup_target": recipe.learning_rate, "warmup_steps": warmup} if warmup else {}
    first_rate = 0.0 if warmup else recipe.learning_rate
    schedule: Any = keras.optimizers.schedules.CosineDecay(first_rate, max(1, steps - warmup), **rise)
    optimizer = build_adamw(schedule, recipe.weight_decay, recipe.clip_norm)
    others = [variable for variable in network.trainable_variables if not variable.path.endswith("kernel")]
    optimizer.exclude_from_weight_decay(var_list=others)
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
