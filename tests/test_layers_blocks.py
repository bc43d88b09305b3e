import keras
import numpy as np
import pytest

from keras_nin import InputError, layers


def build(block, shape=(8, 8, 6), **arguments):
    x = keras.Input(shape)
    return keras.Model(x, block(x, **arguments))


def names(model):
    return [layer.name for layer in model.layers[1:]]


def test_conv1x1_multiplies_every_pixel_by_the_same_matrix():
    model = build(layers.conv1x1, filters=4, activation=None, name="mix")
    kernel, bias = np.random.default_rng(0).normal(size=(6, 4)), np.arange(4.0)
    model.get_layer("mix").set_weights([kernel[None, None], bias])
    image = np.random.default_rng(1).normal(size=(2, 8, 8, 6))
    np.testing.assert_allclose(np.asarray(model(image)), image @ kernel + bias, atol=1e-5)


def test_mlpconv_layers_and_parameters():
    model = build(layers.mlpconv, filters=(5, 4, 3), kernel_size=3, name="mlpconv1")
    assert names(model) == ["mlpconv1_conv3x3", "mlpconv1_conv1x1a", "mlpconv1_conv1x1b"]
    assert model.count_params() == (3 * 3 * 6 * 5 + 5) + (5 * 4 + 4) + (4 * 3 + 3)
    assert all(layer.activation is keras.activations.relu for layer in model.layers[1:])


def test_mlpconv_strides_and_padding_belong_to_the_first_layer():
    model = build(layers.mlpconv, (227, 227, 3), filters=(96, 96), kernel_size=11, strides=4, padding="valid")
    assert model.output_shape == (None, 55, 55, 96)


def test_fire_layers_and_parameters():
    model = build(layers.fire, squeeze=2, expand1x1=3, expand3x3=4, name="fire2")
    assert names(model) == ["fire2_squeeze1x1", "fire2_expand1x1", "fire2_expand3x3", "fire2_concat"]
    assert model.output_shape == (None, 8, 8, 3 + 4)
    assert model.count_params() == (6 * 2 + 2) + (2 * 3 + 3) + (3 * 3 * 2 * 4 + 4)


def test_simple_bypass_adds_the_input():
    plain = build(layers.fire, squeeze=2, expand1x1=3, expand3x3=3, name="f")
    bypassed = build(layers.fire, squeeze=2, expand1x1=3, expand3x3=3, bypass="simple", name="f")
    bypassed.set_weights(plain.get_weights())
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 6)).astype("float32")
    expected = np.asarray(plain(image)) + image
    np.testing.assert_allclose(np.asarray(bypassed(image)), expected, atol=1e-6)


def test_complex_bypass_is_a_linear_1x1_layer():
    model = build(layers.fire, squeeze=2, expand1x1=4, expand3x3=4, bypass="complex", name="f")
    shortcut = model.get_layer("f_bypass1x1")
    assert shortcut.activation is keras.activations.linear
    assert shortcut.kernel.shape == (1, 1, 6, 8)


def test_pointwise_head_averages_the_scores_over_the_map():
    model = build(layers.pointwise_head, classes=3, activation=None, classifier_activation=None, name="head")
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 6)).astype("float32")
    kernel, bias = model.get_layer("head").get_weights()
    expected = image.mean(axis=(1, 2)) @ kernel[0, 0] + bias
    np.testing.assert_allclose(np.asarray(model(image)), expected, atol=1e-5)


def test_padded_head_averages_over_the_border_too():
    model = build(layers.pointwise_head, classes=3, classifier_activation=None, zero_padding=1, name="head")
    assert model.get_layer("head").output.shape == (None, 10, 10, 3)


def test_batch_norm_takes_the_place_of_the_bias():
    model = build(layers.conv1x1, filters=4, batch_norm=True, name="c")
    assert names(model) == ["c", "c_bn", "c_relu"]
    assert model.count_params() == 6 * 4 + 4 * 4


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(
    ("side", "size", "rounding", "expected"),
    [(32, 3, "ceil", 16), (32, 3, "floor", 15), (111, 3, "ceil", 55), (111, 3, "floor", 55), (113, 2, "ceil", 57)],
)
def test_pooling_rounds_as_asked(kind, side, size, rounding, expected):
    model = build(layers.pool2d, (side, side, 2), kind=kind, size=size, rounding=rounding)
    assert model.output_shape == (None, expected, expected, 2)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("side", [6, 7])
def test_rounding_up_uses_only_what_is_there(kind, side):
    image = np.random.default_rng(0).normal(size=(1, side, side, 1)).astype("float32")
    pooled = np.asarray(build(layers.pool2d, (side, side, 1), kind=kind, rounding="ceil")(image))[0, ..., 0]
    reduce = {"max": np.max, "average": np.mean}[kind]
    out = -(-(side - 3) // 2) + 1
    starts = [2 * i for i in range(out)]
    expected = [[reduce(image[0, y : y + 3, x : x + 3]) for x in starts] for y in starts]
    np.testing.assert_allclose(pooled, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("block", "arguments", "message"),
    [
        (layers.conv1x1, {"filters": 0}, "`filters` to be a whole number of at least 1. Received: 0"),
        (layers.conv1x1, {"filters": 1.5}, "`filters` to be a whole number of at least 1. Received: 1.5"),
        (layers.mlpconv, {"filters": (), "kernel_size": 3}, "`filters` to list the channels"),
        (layers.fire, {"squeeze": 1, "expand1x1": 2, "expand3x3": 2, "bypass": "simple"}, "Expected 4 input channels"),
        (layers.fire, {"squeeze": 1, "expand1x1": 3, "expand3x3": 3, "bypass": "no"}, "`bypass` to be one of"),
        (layers.fire, {"squeeze": 0, "expand1x1": 3, "expand3x3": 3}, "`squeeze` to be a whole number of at least 1"),
        (layers.pointwise_head, {"classes": -1}, "Received: -1"),
        (layers.pool2d, {"kind": "median"}, "`kind` to be one of max, average"),
        (layers.pool2d, {"rounding": "up"}, "`rounding` to be one of floor, ceil"),
        (layers.pool2d, {"size": 9}, "at least 9x9"),
        (layers.pool2d, {"size": 5, "strides": 5, "rounding": "ceil"}, "rounds up with one padding"),
    ],
)
def test_arguments_that_do_not_fit(block, arguments, message):
    with pytest.raises(InputError, match=message):
        build(block, **arguments)


def test_a_vector_is_no_map():
    with pytest.raises(InputError, match="Expected a map"):
        layers.conv1x1(keras.Input((8,)), 4)


def test_rounding_up_needs_a_known_size():
    with pytest.raises(InputError, match="open size"):
        layers.pool2d(keras.Input((None, None, 3)), rounding="ceil")
    assert layers.pool2d(keras.Input((None, None, 3))).shape == (None, None, None, 3)
