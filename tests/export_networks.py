"""Networks of every kind of ending, with their images and their files by scheme, for the tests of the export."""

import functools

import keras
import numpy as np
from keras import layers as kl

from keras_nin import data, models
from keras_nin.export import SCHEMES, ConvertedModel, Parity, ParityLimits, convert_schemes, verify_files
from keras_nin.tflite.runner import TFLiteRunner

POST_TRAINING = ("float32", "float16", "dynamic", "int8", "int16x8")
_OTHERS = ("float16", "dynamic", "int16x8", "int8 uint8")


class ExportNetwork:
    """A model, its images, and its files by scheme: "int8", or "int8 uint8" with another input and output type."""

    def __init__(self, model, calibration, test, labels=None, others=()):
        self.model, self.calibration, self.test, self.labels = model, calibration, test, labels
        self.others = others

    @functools.cached_property
    def files(self) -> dict[str, ConvertedModel]:
        """The files in float32, int8 and the others that were asked for; traced and calibrated once."""
        schemes = ("float32", "int8", *self.others)
        words = (name.split() for name in schemes)
        records = [SCHEMES[name].with_io(*io) if io else SCHEMES[name] for name, *io in words]
        return dict(zip(schemes, convert_schemes(self.model, records, self.calibration), strict=True))

    def compare(self, *sources, model=None, limits: ParityLimits | None = None) -> list[Parity]:
        """Return the `Parity` of files with the model."""
        return verify_files(
            model or self.model,
            [TFLiteRunner(source) for source in sources],
            [(self.test, self.labels)],
            source="tests",
            random_weights=self.labels is None,
            limits=limits,
        )

    def copy(self):
        """Return a copy of the model, to be damaged."""
        copy = keras.models.clone_model(self.model)
        copy.set_weights(self.model.get_weights())
        return copy


def noise(count, shape, seed):
    return np.random.default_rng(seed).random((count, *shape), np.float32)


def digits():
    """The trained network of the zoo."""
    source = data.open_dataset("digits")
    parts = {split: source.select(split, 60) for split in ("calibration", "test")}
    images = {split: source.load(indices, (8, 8), 1) for split, indices in parts.items()}
    model = models.build_model("nin_digits", weights="digits")
    labels = source.labels_of(parts["test"])
    return ExportNetwork(model, images["calibration"], images["test"], labels, _OTHERS)


def color():
    """Color images, BatchNormalization that is folded in, a depthwise and a dense layer, and no softmax."""
    keras.utils.set_random_seed(3)
    stack = [
        kl.Conv2D(8, 3, use_bias=False, name="conv"),
        kl.BatchNormalization(name="norm"),
        kl.ReLU(name="relu"),
        kl.DepthwiseConv2D(3, activation="relu", name="depthwise"),
        kl.Conv2D(128, 1, activation="relu", name="expand"),
        kl.GlobalAveragePooling2D(name="pool"),
        kl.Dense(10, name="dense"),
    ]
    model = keras.Sequential([keras.Input((12, 12, 3), name="image"), *stack], name="color")
    generator = np.random.default_rng(0)
    for weight in model.get_layer("norm").weights:
        weight.assign(generator.uniform(0.5, 2, weight.shape))
    kernel = model.get_layer("conv").kernel
    kernel.assign(8 * kernel)  # so that the image matters more than the offsets
    # Noise of one brightness has no channel order: most photographs have more of one color.
    calibration, test = generator.random((2, 40, 12, 12, 3), np.float32) * np.float32([1, 0.5, 0.1])
    return ExportNetwork(model, calibration, test, others=(*_OTHERS, "int8 float32", "int16x8 float32"))


def wide():
    """100 classes whose probabilities all lie within a few steps of 1/256."""
    keras.utils.set_random_seed(1)
    stack = [kl.Conv2D(12, 3, activation="relu", name=f"conv{number}") for number in (1, 2, 3)]
    head = [kl.Conv2D(100, 1, name="conv4"), kl.GlobalAveragePooling2D(), kl.Softmax()]
    model = keras.Sequential([keras.Input((12, 12, 3)), *stack, *head])
    return ExportNetwork(model, noise(60, (12, 12, 3), 1), noise(60, (12, 12, 3), 2))


def mask():
    """A map of probabilities behind a sigmoid."""
    keras.utils.set_random_seed(1)
    model = models.build_model("deepphys_softconv", input_shape=(12, 12, 3))
    return ExportNetwork(model, noise(60, (12, 12, 3), 1), noise(60, (12, 12, 3), 2))


def linear():
    """The output is that of the last convolution."""
    keras.utils.set_random_seed(1)
    stack = [kl.Conv2D(8, 3, activation="relu", name="conv1"), kl.Conv2D(6, 1, name="conv2")]
    model = keras.Sequential([keras.Input((12, 12, 3)), *stack])
    return ExportNetwork(model, noise(60, (12, 12, 3), 1), noise(60, (12, 12, 3), 2))


NETWORKS = {function.__name__: function for function in (digits, color, wide, mask, linear)}
