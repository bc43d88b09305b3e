"""Twelve networks as engineers write them: built, trained for some dozen steps and saved as `.keras`, with data."""

import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from sklearn.datasets import load_digits

sys.path.insert(0, os.path.dirname(__file__))  # as a user's own module beside her model
import custom  # noqa: E402

COUNT = 200  # samples in each .npz: every fifth calibrates, the others test
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Samples:
    """What a network trains on, and other samples as an .npz holds them: the arrays of its inputs, and its labels."""

    inputs: Any
    targets: Any
    arrays: Arrays


@functools.cache
def digits(size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return 1,797 handwritten digits, uint8 (N, size, size, 1), and their labels."""
    source = load_digits()
    images = (source.images * 255 / 16).round().astype(np.uint8).repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    return images[..., np.newaxis], source.target


def colored_digits(size: int, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` digits below `classes` in random colors, uint8 (N, size, size, 3), and their labels."""
    images, labels = digits(size)
    chosen = np.flatnonzero(labels < classes)[:count]
    colors = np.random.default_rng(0).uniform(0.5, 1, (count, 1, 1, 3))
    return (images[chosen] * colors).astype(np.uint8), labels[chosen]


def shapes(count: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images of a disk (1) and a square (2), uint8 (N, size, size, 1), and their masks (N, size, size)."""
    random = np.random.default_rng(1)
    rows, columns = np.mgrid[:size, :size]
    images, masks = random.integers(0, 60, (count, size, size, 1), np.uint8), np.zeros((count, size, size), np.int64)
    for image, mask in zip(images, masks, strict=True):
        for kind in (1, 2):
            (y, x), radius = random.integers(6, size - 6, 2), random.integers(4, 7)
            inside = np.hypot(rows - y, columns - x) <= radius
            if kind == 2:
                inside = (abs(rows - y) < radius) & (abs(columns - x) < radius)
            mask[inside] = kind
            image[inside] = image[inside] // 2 + (110 if kind == 1 else 200)
    return images, masks


def tones(count: int, length: int = 256, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return sine waves in noise at one of four pitches, float32 (N, length, 1) in [-1, 1], and which pitch."""
    random = np.random.default_rng(2)
    labels = random.integers(0, classes, count)
    time = np.arange(length)[np.newaxis]
    frequency = (0.02 * 2.0**labels * random.uniform(0.95, 1.05, count))[:, np.newaxis]
    waves = 0.6 * np.sin(2 * np.pi * (frequency * time + random.random((count, 1)))) + random.normal(
        0, 0.1, (count, length)
    )
    return waves.clip(-1, 1).astype(np.float32)[..., np.newaxis], labels


def train(model: keras.Model, samples: Samples, loss: Any, epochs: int = 3, rate: float = 0.1) -> keras.Model:
    """Train for some dozen steps on other samples than the commands get.

    With plain SGD, the optimizer with the smallest graph: tracing the graph takes most of the time.
    """
    model.compile(keras.optimizers.SGD(rate), loss, jit_compile=False)
    model.fit(samples.inputs, samples.targets, batch_size=32, epochs=epochs, verbose=0)
    return model


CROSS_ENTROPY = "sparse_categorical_crossentropy"


def image_samples(images: np.ndarray, labels: np.ndarray, scale: float = 1.0, count: int = COUNT) -> Samples:
    """Return images to train on, multiplied by `scale`, and `count` others as an .npz holds them."""
    train = slice(count, count + 1280)
    arrays = {"images": images[:count], "labels": labels[:count]}
    return Samples(images[train].astype(np.float32) * scale, labels[train], arrays)


def separable_cnn() -> tuple[keras.Model, Samples]:
    samples = image_samples(*digits(), scale=1 / 255)
    inputs = keras.Input((16, 16, 1))
    x = kl.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem")(inputs)
    x = kl.ReLU(6.0)(kl.BatchNormalization(momentum=0.6)(x))
    for filters in (24, 32):
        x = kl.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = kl.ReLU(6.0)(kl.BatchNormalization(momentum=0.6)(x))
        x = kl.Conv2D(filters, 1, use_bias=False)(x)
        x = kl.ReLU(6.0)(kl.BatchNormalization(momentum=0.6)(x))
    x = kl.SeparableConv2D(32, 3, activation="relu", name="separable")(x)
    outputs = kl.Dense(10, activation="softmax", name="digit")(kl.GlobalAveragePooling2D()(x))
    return train(keras.Model(inputs, outputs, name="separable_cnn"), samples, CROSS_ENTROPY, rate=0.2), samples


def augmented_cnn() -> tuple[keras.Model, Samples]:
    samples = image_samples(*digits())
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            kl.RandomTranslation(0.1, 0.1),
            kl.RandomRotation(0.03),
            kl.RandomZoom(0.1),
            kl.Rescaling(1 / 255),
            kl.Conv2D(16, 3, activation="relu"),
            kl.MaxPooling2D(),
            kl.Conv2D(24, 3, activation="relu"),
            kl.Dropout(0.2),
            kl.Flatten(),
            kl.Dense(10, activation="softmax"),
        ],
        name="augmented_cnn",
    )
    return train(model, samples, CROSS_ENTROPY, rate=0.15), samples


def nested_mobilenet() -> tuple[keras.Model, Samples]:
    samples = image_samples(*colored_digits(32, 5, 570), count=250)  # 50 of them calibrate
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    settle(base)
    inputs = keras.Input((32, 32, 3))
    x = base(kl.Rescaling(1 / 127.5, -1)(inputs))
    outputs = kl.Dense(5, activation="softmax")(kl.Dropout(0.2)(kl.GlobalAveragePooling2D()(x)))
    model = keras.Model(inputs, outputs, name="nested_mobilenet")
    return train(model, samples, CROSS_ENTROPY, rate=0.05), samples


def settle(base: keras.Model) -> None:
    """Let the moving averages of a keras.applications network follow a short training."""
    for layer in base.layers:
        if isinstance(layer, kl.BatchNormalization):
            layer.momentum = 0.5


def two_inputs() -> tuple[keras.Model, Samples]:
    images, labels = digits()
    hint = np.random.default_rng(3).normal(0, 0.3, (len(labels), 4)).astype(np.float32)
    hint[:, 0] += labels % 2
    scaled = images.astype(np.float32) / 255
    targets = {"digit": labels, "odd": (labels % 2).astype(np.float32)[:, np.newaxis]}
    picture, sensor = keras.Input((16, 16, 1), name="picture"), keras.Input((4,), name="sensor")
    x = kl.MaxPooling2D()(kl.Conv2D(16, 3, activation="relu", name="conv1")(picture))
    x = kl.Flatten()(kl.Conv2D(16, 3, activation="relu", name="conv2")(x))
    x = kl.Concatenate()([x, kl.Dense(8, activation="relu", name="sensor_dense")(sensor)])
    x = kl.Dense(32, activation="relu", name="both")(x)
    outputs = {
        "digit": kl.Dense(10, activation="softmax", name="digit")(x),
        "odd": kl.Dense(1, activation="sigmoid", name="odd")(x),
    }
    samples = Samples(
        {"picture": scaled[COUNT:], "sensor": hint[COUNT:]},
        {name: target[COUNT:] for name, target in targets.items()},
        {
            "picture": scaled[:COUNT],
            "sensor": hint[:COUNT],
            "labels_digit": labels[:COUNT],
            "labels_odd": labels[:COUNT] % 2,
        },
    )
    model = keras.Model({"picture": picture, "sensor": sensor}, outputs, name="two_inputs")
    return train(model, samples, {"digit": CROSS_ENTROPY, "odd": "binary_crossentropy"}, rate=0.15), samples


def unet() -> tuple[keras.Model, Samples]:
    images, masks = shapes(COUNT // 2 + 384)
    samples = Samples(
        images[COUNT // 2 :].astype(np.float32) / 255,
        masks[COUNT // 2 :],
        {"images": images[: COUNT // 2], "labels": masks[: COUNT // 2]},
    )

    def double(x, filters, name):
        x = kl.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_a")(x)
        return kl.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_b")(x)

    inputs = keras.Input((32, 32, 1))
    down1 = double(inputs, 8, "down1")
    down2 = double(kl.MaxPooling2D()(down1), 16, "down2")
    x = double(kl.MaxPooling2D()(down2), 24, "middle")
    x = kl.Conv2DTranspose(16, 2, strides=2, activation="relu", name="up2_transpose")(x)
    x = double(kl.Concatenate()([x, down2]), 16, "up2")
    x = kl.Conv2DTranspose(8, 2, strides=2, activation="relu", name="up1_transpose")(x)
    x = double(kl.Concatenate()([x, down1]), 8, "up1")
    outputs = kl.Conv2D(3, 1, activation="softmax", name="mask")(x)
    return train(keras.Model(inputs, outputs, name="unet"), samples, CROSS_ENTROPY, epochs=4, rate=0.3), samples


def regression() -> tuple[keras.Model, Samples]:
    """Where the disk is, (row, column) from -1 to 1."""
    images, masks = shapes(2 * COUNT + 800)  # few calibration images would clip the largest outputs
    rows = np.arange(32)
    disk = (masks == 1) / (masks == 1).sum(axis=(1, 2), keepdims=True).clip(1)
    center = np.stack([(disk.sum(axis=2) * rows).sum(axis=1), (disk.sum(axis=1) * rows).sum(axis=1)], axis=-1)
    targets = (center / 16 - 1).astype(np.float32)
    samples = Samples(
        images[2 * COUNT :].astype(np.float32) / 255,
        targets[2 * COUNT :],
        {"images": images[: 2 * COUNT], "labels": targets[: 2 * COUNT]},
    )
    inputs = keras.Input((32, 32, 1))
    x = kl.Conv2D(8, 3, strides=2, activation="relu", name="conv1")(inputs)
    x = kl.Conv2D(16, 3, strides=2, activation="relu", name="conv2")(x)
    x = kl.Flatten()(kl.Conv2D(8, 1, activation="relu", name="squeeze")(x))
    outputs = kl.Dense(2, name="position")(kl.Dense(32, activation="relu", name="hidden")(x))
    return train(keras.Model(inputs, outputs, name="regression"), samples, "mse", epochs=5, rate=0.3), samples


def subclassed() -> tuple[keras.Model, Samples]:
    samples = image_samples(*digits(), scale=1 / 255)
    return train(custom.DigitNet(name="subclassed"), samples, CROSS_ENTROPY, rate=0.1), samples


def custom_layers() -> tuple[keras.Model, Samples]:
    samples = image_samples(*digits(), scale=1 / 255)
    inputs = keras.Input((16, 16, 1))
    x = custom.SquareReLU(name="square")(kl.Conv2D(16, 3, strides=2, name="conv1")(inputs))
    x = custom.ChannelScale(name="scale")(kl.Conv2D(16, 1, name="conv2")(x))
    x = kl.Conv2D(16, 3, activation="relu", name="conv3")(x)
    outputs = kl.Dense(10, activation="softmax", name="digit")(kl.Flatten()(x))
    return train(keras.Model(inputs, outputs, name="custom_layers"), samples, CROSS_ENTROPY, rate=0.1), samples


def lambda_layer() -> tuple[keras.Model, Samples]:
    samples = image_samples(*digits(), scale=1 / 255)
    inputs = keras.Input((16, 16, 1))
    x = kl.Lambda(lambda pixels: pixels * 2 - 1, output_shape=(16, 16, 1), name="center")(inputs)
    x = kl.Conv2D(16, 3, strides=2, activation="relu", name="conv1")(x)
    outputs = kl.Dense(10, activation="softmax", name="digit")(kl.Flatten()(x))
    return train(keras.Model(inputs, outputs, name="lambda_layer"), samples, CROSS_ENTROPY, epochs=1), samples


def audio() -> tuple[keras.Model, Samples]:
    waves, labels = tones(COUNT + 800)
    samples = Samples(waves[COUNT:], labels[COUNT:], {"waveform": waves[:COUNT], "labels": labels[:COUNT]})
    inputs = keras.Input((256, 1), name="waveform")
    x = kl.Conv1D(8, 9, strides=4, activation="relu", name="conv1")(inputs)
    x = kl.MaxPooling1D(2)(kl.Conv1D(16, 5, activation="relu", name="conv2")(x))
    x = kl.Conv1D(16, 1, activation="relu", name="mix")(x)
    outputs = kl.Dense(4, activation="softmax", name="pitch")(kl.GlobalAveragePooling1D()(x))
    return train(keras.Model(inputs, outputs, name="audio"), samples, CROSS_ENTROPY, rate=0.3), samples


def recurrent() -> tuple[keras.Model, Samples]:
    images, labels = digits(8)
    rows = images[..., 0].astype(np.float32) / 255
    samples = Samples(rows[COUNT:], labels[COUNT:], {"rows": rows[:COUNT], "labels": labels[:COUNT]})
    inputs = keras.Input((8, 8), name="rows")
    x = kl.GRU(16, name="gru")(kl.LSTM(16, return_sequences=True, name="lstm")(inputs))
    outputs = kl.Dense(10, activation="softmax", name="digit")(x)
    return train(keras.Model(inputs, outputs, name="recurrent"), samples, CROSS_ENTROPY, epochs=4, rate=1.0), samples


def mobilenet_96() -> tuple[keras.Model, Samples]:
    samples = image_samples(*colored_digits(96, 3, 380), scale=1 / 127.5, count=60)
    model = keras.applications.MobileNet((96, 96, 3), alpha=0.25, weights=None, classes=3)
    settle(model)
    shifted = dataclasses.replace(samples, inputs=samples.inputs - 1)
    return train(model, shifted, CROSS_ENTROPY, rate=0.05), samples


_BUILDERS = (
    separable_cnn,
    augmented_cnn,
    nested_mobilenet,
    two_inputs,
    unet,
    regression,
    subclassed,
    custom_layers,
    lambda_layer,
    audio,
    recurrent,
    mobilenet_96,
)
NETWORKS: dict[str, Callable[[], tuple[keras.Model, Samples]]] = {build.__name__: build for build in _BUILDERS}


def write(name: str, folder: pathlib.Path) -> float:
    """Build and train a network, write `<name>.keras` and `<name>.npz`, and return the share of the loss that went."""
    keras.utils.set_random_seed(0)
    model, samples = NETWORKS[name]()
    model.save(folder / f"{name}.keras")
    np.savez(folder / f"{name}.npz", **samples.arrays)
    losses = model.history.history["loss"]
    return 1 - losses[-1] / losses[0]
