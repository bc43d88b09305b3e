"""The Keras layer behind every operator of a file, read from the names that the conversion marks."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import InputError, layers
from keras_nin.audit import audit_model
from keras_nin.export import Tuning, convert_model, convert_schemes
from keras_nin.export.operator_layers import read_scope
from keras_nin.tflite.runner import TFLiteRunner


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def sequential(*stack, shape=(8, 8, 3), name="net"):
    return keras.Sequential([keras.Input(shape), *stack], name=name)


def noise(model, count=4):
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), np.float32)


def pairs(converted):
    operators = converted.tflite.main.operators
    return [(operator.op, layer) for operator, layer in zip(operators, converted.layers, strict=True)]


def operators_of(model):
    return pairs(convert_model(model, "float32"))


@pytest.mark.slow
def test_a_network_with_everything():
    """Fused and shared layers, names that look numbered, branches, padding, nested models, blocks and an operation."""
    x = inputs = keras.Input((8, 8, 4))
    x = kl.Conv2D(4, 3, use_bias=False, padding="same", name="conv1")(x)
    x = kl.ReLU(name="relu")(kl.BatchNormalization(name="bn")(x))
    x = kl.Conv2D(4, 1, name="conv1_1")(x)  # what the converter would call a second conv1
    inner = sequential(kl.Conv2D(4, 1, name="c"), kl.BatchNormalization(), kl.ReLU(), shape=(8, 8, 4), name="inner")
    x = sequential(inner, kl.Conv2D(4, 1, name="c"), kl.ReLU(name="r"), shape=(8, 8, 4), name="outer")(x)
    shared = kl.Conv2D(4, 1, activation="relu", name="shared")
    x = shared(keras.ops.square(shared(x)))
    x = kl.DepthwiseConv2D(3, name="depthwise")(kl.ZeroPadding2D(1, name="padded")(x))
    left = kl.Conv2D(4, 1, activation="relu", name="left")(x)
    right = kl.Conv2D(4, 3, padding="same", name="right")(x)
    x = kl.Concatenate(name="both")([left, right])
    x = kl.ReLU(name="after")(kl.Add(name="sum")([x, kl.Conv2D(8, 1, name="bypass")(x)]))
    x = kl.MaxPooling2D(name="pool")(x)
    x = layers.Fire(4, 4, 4, bypass="simple", name="fire")(x)
    x = kl.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(inputs, kl.Dense(3, activation="softmax", name="classes")(x))
    expected = [
        ("CONV_2D", "conv1"),
        ("CONV_2D", "conv1_1"),
        ("CONV_2D", "outer/inner/c"),
        ("CONV_2D", "outer/c"),
        ("CONV_2D", "shared"),
        ("SQUARE", None),
        ("CONV_2D", "shared"),
        ("DEPTHWISE_CONV_2D", "depthwise"),
        ("CONV_2D", "left"),
        ("CONV_2D", "right"),
        ("CONCATENATION", "both"),
        ("CONV_2D", "bypass"),
        ("ADD", "sum"),
        ("MAX_POOL_2D", "pool"),
    ]
    tail = [("MEAN", "mean"), ("FULLY_CONNECTED", "classes"), ("SOFTMAX", "classes")]
    float32, int8 = convert_schemes(
        model, ["float32", "int8"], noise(model, 2), allow_float=True, tuning=Tuning.plain()
    )
    rows = {row.name for row in audit_model(model).rows}
    for converted in (float32, int8):
        found = [pair for pair in pairs(converted) if pair[0] not in ("QUANTIZE", "DEQUANTIZE")]
        found = [(op if layer else "SQUARE", layer) for op, layer in found]  # int8 multiplies
        assert found[:14] == expected
        assert found[-3:] == tail
        block = found[14:-3]
        assert [op for op, _ in block] == ["CONV_2D"] * 3 + ["CONCATENATION", "ADD"]
        assert {layer for _, layer in block} <= rows  # paths as the audit has them


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([lambda: kl.Dropout(0.5), lambda: kl.GlobalAveragePooling2D(name="mean")], ("MEAN", "mean")),
        pytest.param(
            [kl.BatchNormalization, kl.ReLU, lambda: kl.SpatialDropout2D(0.5)], ("CONV_2D", "c"), marks=pytest.mark.slow
        ),
        ([lambda: kl.Dropout(0.5), lambda: kl.Activation("linear")], ("CONV_2D", "c")),
        pytest.param([lambda: kl.Flatten(name="f")], ("RESHAPE", "f"), marks=pytest.mark.slow),
    ],
)
def test_the_last_operator_is_named_after_the_signature(tail, expected):
    model = sequential(kl.Conv2D(4, 3, name="c"), *(make() for make in tail))
    assert operators_of(model)[-1] == expected


def test_factors_belong_to_the_convolution_that_they_are_fused_into():
    model = sequential(kl.Rescaling(1 / 255, name="before"), kl.Conv2D(4, 1, name="c"), kl.Rescaling(2.0, name="after"))
    assert operators_of(model) == [("CONV_2D", "c")]


@pytest.mark.slow
def test_names_that_tensorflow_does_not_accept():
    names = ["Größe 1", "Größe_1", "gr sse;x:1", "_under", "a.", "a", "a._1", "A", "-"]
    model = sequential(*(kl.Conv2D(4, 1, name=name) for name in names), name="ein Modell: ü")
    converted = convert_model(model, "float32")
    assert list(converted.layers) == names
    np.testing.assert_allclose(TFLiteRunner(converted.data).predict(noise(model)), model(noise(model)), atol=1e-6)


def test_marks_are_told_from_the_numbers_that_the_converter_appends():
    marks = {"conv1.": "conv1", "conv1_1.": "conv1_1", "a b.": "a b"}
    assert read_scope("main_1/net_1/conv1._1/convolution1", marks) == ("conv1",)
    assert read_scope("main_1/net_1/conv1_1._3/Relu", marks) == ("conv1_1",)
    assert read_scope("main_1/conv1._1/conv1_1./x", marks) == ("conv1", "conv1_1")
    assert read_scope("main_1/conv1_1/convolution", marks) == ()


class Failing(kl.Layer):
    """Works until it is told to fail."""

    fails = False

    def call(self, inputs):
        if self.fails:
            raise ValueError("not today\nnor tomorrow")
        return inputs * 2


@pytest.mark.parametrize("fails", [False, True])
def test_names_are_the_models_own_again_afterwards(fails):
    inner = sequential(kl.Conv2D(3, 1, name="a b"), name="inner net")
    model = sequential(inner, Failing(name="f") if fails else kl.ReLU(name="r"), name="the model")

    def names():
        variables = [variable.value.name for variable in model.variables]
        return [layer.name for layer in model._flatten_layers()], variables

    before = names()
    if fails:
        model.get_layer("f").fails = True
        with pytest.raises(InputError, match="not today"):
            convert_model(model, "float32")
    else:
        convert_model(model, "float32")
    assert names() == before
