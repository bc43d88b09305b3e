"""Weights of files compared with the model's, where the converter folds scales before and behind them."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from tflite_edits import flipped

from keras_nin.export import Tuning, convert_model
from keras_nin.export.layer_noise import measure_layer_noise
from keras_nin.export.weight_comparison import find_worst_weight
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.runner import TFLiteRunner

KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def scaled_network():
    """Pixels from 0 to 255, and a scale before or behind every kind of kernel."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 1), name="image")
    x = kl.RandomFlip("horizontal", name="flip")(image)
    x = kl.Normalization(mean=[120.0], variance=[4000.0], name="normalization")(x)
    x = kl.DepthwiseConv2D(3, depth_multiplier=4, activation="relu", name="depthwise")(x)
    x = kl.Rescaling(0.25, 1, name="behind_relu")(x)
    x = kl.Conv2D(6, 3, name="conv1")(x)
    x = keras.ops.multiply(x, 0.125)
    x = kl.Conv2D(6, 3, padding="same", name="conv2")(x)
    x = kl.Rescaling(4.0, -1, name="behind_linear")(x)
    x = kl.Conv2D(5, 3, activation="relu", name="conv3")(x)
    x = keras.ops.subtract(keras.ops.divide(x, 127.5), 1.0)
    x = kl.SeparableConv2D(6, 3, activation="relu", name="separable")(x)
    x = kl.Conv2DTranspose(4, 3, strides=2, name="up")(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    x = kl.Rescaling(0.5, name="behind_pool")(x)
    x = kl.Dense(3, name="dense")(x)
    return keras.Model(image, kl.Rescaling(100.0, 5, name="degrees")(x), name="scaled")


@pytest.fixture(scope="module")
def scaled():
    """The network and its int8 file."""
    model = scaled_network()
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 1)).astype(np.float32)
    return model, convert_model(model, "int8", images, tuning=Tuning.plain()).tflite


def test_scales_are_derived_from_the_graph(scaled):
    worst = find_worst_weight(*scaled)
    assert worst.compared == 8
    assert worst.lsb < 0.501, worst


def test_a_scale_passes_through_a_padding_with_zeros():
    """The stem of EfficientNet: the converter makes one convolution of the padding and the scale before it."""
    keras.utils.set_random_seed(0)
    stem = [kl.Rescaling(1 / 255), kl.ZeroPadding2D(((0, 1), (0, 1))), kl.Conv2D(4, 3, strides=2, name="stem")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stem])
    assert find_worst_weight(model, convert_model(model, "float32").tflite).lsb < 0.001


class Gain(kl.Layer):
    """Multiplies each channel by a weight."""

    def build(self, shape):
        values = np.linspace(0.3, 3, shape[-1], dtype=np.float32)
        self.factor = self.add_weight(shape=values.shape, initializer=lambda *_, **__: values, name="factor")

    def call(self, inputs):
        return inputs * self.factor


class Squared(kl.Layer):
    """(2 max(x, 0))^2 / factor, of which the converter folds the 2 and the factor into the kernels around it."""

    factor = 16.0

    def call(self, inputs):
        return keras.ops.square(keras.ops.relu(inputs * 2.0)) / self.factor


def gained_network():
    """A scale of each channel behind every kind of layer and right before a kernel, which may take it up."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3), name="image")
    x = Gain(name="gain1")(kl.Conv2D(6, 1, name="conv1")(image))
    x = Gain(name="gain2")(kl.Conv2D(5, 3, activation="relu", name="conv2")(x))
    x = kl.Conv2D(6, 1, name="conv3")(x) * np.linspace(2, 0.5, 6, dtype=np.float32)
    x = kl.DepthwiseConv2D(3, name="depthwise")(kl.ReLU(name="relu")(x))
    x = kl.BatchNormalization(name="norm")(x)
    x = Squared(name="squared")(kl.Conv2D(4, 3, name="conv4")(Gain(name="gain3")(x)))
    x = Gain(name="gain4")(kl.MaxPooling2D(name="pool")(kl.Conv2D(4, 1, name="conv5")(x)))
    x = Gain(name="gain5")(kl.Dense(6, name="dense1")(kl.GlobalAveragePooling2D(name="mean")(x)))
    return keras.Model(image, kl.Dense(3, name="dense2")(x), name="gained")


@pytest.fixture(scope="module")
def gained():
    """The network, its images, and its float32 and int8 files."""
    model = gained_network()
    images = np.random.default_rng(0).uniform(-1, 1, (8, 12, 12, 3)).astype(np.float32)
    return (
        model,
        images,
        {scheme: convert_model(model, scheme, images, tuning=Tuning.plain()) for scheme in ("float32", "int8")},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "limit"), [("float32", 0.001), ("int8", 0.501)])
def test_a_scale_between_two_kernels_is_in_one_of_them(gained, scheme, limit):
    model, images, files = gained
    worst = find_worst_weight(model, files[scheme].tflite)
    assert worst.compared == 8
    assert worst.lsb < limit, worst
    noise = measure_layer_noise(model, TFLiteRunner(files[scheme].tflite), [(images, None)])
    assert all(row.snr_db is None or row.snr_db > 25 for row in noise.rows), noise.rows


@pytest.mark.slow
def test_weights_too_small_for_their_range_are_rounded_to_its_steps():
    """As those of ConvNeXt's layers before a scale of 1e-6: TensorFlow takes no range below 5e-7."""
    keras.utils.set_random_seed(0)
    layers = [kl.Conv2D(4, 3, name="conv"), kl.Rescaling(1e-6, name="small"), kl.Flatten(), kl.Dense(3, name="dense")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model.get_layer("dense").kernel.assign(1e6 * model.get_layer("dense").kernel)
    images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    tflite = convert_model(model, "int8", images, tuning=Tuning.plain()).tflite
    kernel = tflite.main.stored_constant(tflite.main.operators[0].inputs[1])
    assert np.abs(tflite.data(kernel)).max() < 100
    assert find_worst_weight(model, tflite).lsb < 0.501
    wrong = read_model(flipped(tflite.content, kernel, kernel.elements // 2))
    assert find_worst_weight(model, wrong).lsb > 100


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda factor: factor * 1.3, lambda factor: factor / factor])
@pytest.mark.parametrize("name", ["gain1", "gain5", "norm", "squared"])
def test_a_scale_that_is_in_neither_is_a_difference(gained, name, change):
    model, _, files = gained
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    layer = other.get_layer(name)
    if name == "norm":
        layer.gamma.assign(2 * change(layer.gamma))
    elif name == "squared":
        layer.factor = change(layer.factor)
    else:
        layer.factor.assign(change(layer.factor))
    for scheme in files:
        assert find_worst_weight(other, files[scheme].tflite).lsb > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normalization", "behind_relu", "behind_linear", "behind_pool", "degrees"])
def test_another_scale_is_another_weight(scaled, name):
    model, tflite = scaled
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    layer = other.get_layer(name)
    if name == "normalization":
        layer.variance = layer.variance * 1.3
    else:
        layer.scale = layer.scale * 1.3
    assert find_worst_weight(other, tflite).lsb > 10


@pytest.mark.slow
def test_a_flipped_byte_is_found_in_every_kernel(scaled):
    model, tflite = scaled
    kernels = [tflite.main.stored_constant(op.inputs[1]) for op in tflite.main.operators if op.op in KERNELS]
    assert len(kernels) == 8
    for tensor in kernels:
        wrong = read_model(flipped(tflite.content, tensor, tensor.elements // 2))
        assert find_worst_weight(model, wrong).lsb > 4, tensor.name
