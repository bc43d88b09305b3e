"""Conversion: a static batch, the same bytes every time, and the layer behind every operator of the file."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import InputError, export, layers
from keras_nin.audit import audit_model
from keras_nin.export import operator_layers
from keras_nin.tflite.runner import TFLiteRunner

INT8_AND_FLOAT32 = ("float32", "int8")


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def sequential(*stack, shape=(8, 8, 3), name="net"):
    return keras.Sequential([keras.Input(shape), *stack], name=name)


def noise(model, count=4):
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), np.float32)


def operators_of(model, scheme="float32"):
    made = export.convert_model(model, scheme, noise(model))
    return [(operator.op, layer) for operator, layer in zip(made.tflite.main.operators, made.layers, strict=True)]


def layer_names(model):
    return [layer.name for layer in model._flatten_layers()]


@keras.saving.register_keras_serializable(package="tests")
class Error(kl.Layer):
    """An operator that TFLite does not have."""

    def call(self, inputs):
        return keras.ops.erf(inputs)


@keras.saving.register_keras_serializable(package="tests")
class LocalResponse(kl.Layer):
    """An operator that TFLite has for float32 alone."""

    def call(self, inputs):
        import tensorflow as tf

        return tf.nn.local_response_normalization(inputs)


class Moody(kl.Layer):
    """Works until it is told to fail."""

    fails = False

    def call(self, inputs):
        if self.fails:
            raise ValueError("not today\nnor tomorrow")
        return inputs * 2


@pytest.mark.parametrize("scheme", INT8_AND_FLOAT32)
def test_the_file_has_batch_1_and_computes_what_the_model_does(scheme):
    model = sequential(kl.Conv2D(4, 3, activation="relu"), kl.Conv2D(5, 1), kl.GlobalAveragePooling2D(), kl.Softmax())
    made = export.convert_model(model, scheme, noise(model))
    main = made.tflite.main
    for index, shape in ((main.inputs[0], (1, 8, 8, 3)), (main.outputs[0], (1, 5))):
        tensor = main.tensors[index]
        assert (tensor.shape, tensor.dtype) == (shape, scheme)
        assert -1 not in (tensor.shape_signature or ())
    difference = TFLiteRunner(made.data).predict(noise(model)) - model.predict(noise(model), verbose=0)
    assert np.abs(difference).max() < (1e-6 if scheme == "float32" else 4 / 256)


def test_the_bytes_depend_on_nothing_but_the_model_and_the_images():
    model = sequential(kl.Conv2D(4, 3, name="a"), kl.ReLU(name="b"))
    first = export.convert_model(model, "int8", noise(model)).data
    float32 = export.convert_model(model, "float32").data
    sequential(kl.Conv2D(4, 3), name="another")
    assert export.convert_model(model, "int8", noise(model)).data == first
    assert export.convert_model(model, "float32", noise(model)).data == float32
    assert export.convert_model(model, "int8", noise(model) / 2).data != first


def test_names_are_the_models_own_again_afterwards():
    inner = sequential(kl.Conv2D(3, 1, name="c"), name="inner net")
    model = sequential(inner, kl.ReLU(name="r"), name="the model")
    names, variables = layer_names(model), [variable.value.name for variable in model.variables]
    export.convert_model(model, "float32")
    assert layer_names(model) == names
    assert [variable.value.name for variable in model.variables] == variables


@pytest.mark.parametrize("odd", [Error, Moody])
def test_names_are_the_models_own_again_after_a_failure(odd, monkeypatch):
    model = sequential(kl.Conv2D(3, 1, name="a b"), odd(name="odd"))
    names, variables = layer_names(model), [variable.value.name for variable in model.variables]
    monkeypatch.setattr(Moody, "fails", True)
    with pytest.raises(InputError):
        export.convert_model(model, "float32")
    assert layer_names(model) == names
    assert [variable.value.name for variable in model.variables] == variables


@pytest.mark.parametrize("scheme", INT8_AND_FLOAT32)
def test_a_fused_operator_is_its_convolution(scheme):
    model = sequential(
        kl.Conv2D(4, 3, use_bias=False, name="conv1"),
        kl.BatchNormalization(name="bn"),
        kl.ReLU(name="relu"),
        kl.Conv2D(4, 1, name="conv1_1"),  # what the converter would call a second conv1
        kl.Conv2D(4, 1, activation="relu", name="conv1_1_2"),
        kl.GlobalAveragePooling2D(name="pool"),
        kl.Dense(3, activation="softmax", name="classes"),
    )
    assert operators_of(model, scheme) == [
        ("CONV_2D", "conv1"),
        ("CONV_2D", "conv1_1"),
        ("CONV_2D", "conv1_1_2"),
        ("MEAN", "pool"),
        ("FULLY_CONNECTED", "classes"),
        ("SOFTMAX", "classes"),
    ]


@pytest.mark.parametrize("scheme", INT8_AND_FLOAT32)
def test_branches(scheme):
    x = inputs = keras.Input((8, 8, 3))
    left = kl.Conv2D(4, 1, activation="relu", name="left")(x)
    right = kl.Conv2D(4, 3, padding="same", name="right")(x)
    x = kl.Concatenate(name="both")([left, right])
    x = kl.Add(name="sum")([x, kl.Conv2D(8, 1, name="bypass")(x)])
    x = kl.ReLU(name="relu")(x)
    model = keras.Model(inputs, kl.Flatten(name="flat")(kl.MaxPooling2D(name="pool")(x)))
    found = operators_of(model, scheme)
    assert sorted(found[:2]) == [("CONV_2D", "left"), ("CONV_2D", "right")]
    assert [pair for pair in found if pair[0] != "QUANTIZE"][2:] == [
        ("CONCATENATION", "both"),
        ("CONV_2D", "bypass"),
        ("ADD", "sum"),
        ("MAX_POOL_2D", "pool"),
        ("RESHAPE", "flat"),
    ]


def test_nested_models_have_paths():
    inner = sequential(kl.Conv2D(4, 1, name="c"), kl.BatchNormalization(), kl.ReLU(), shape=(8, 8, 4), name="inner")
    outer = sequential(inner, kl.Conv2D(4, 1, name="c"), kl.ReLU(name="r"), shape=(8, 8, 4), name="outer")
    model = sequential(kl.Conv2D(4, 1, name="c"), outer)
    assert operators_of(model) == [("CONV_2D", "c"), ("CONV_2D", "outer/inner/c"), ("CONV_2D", "outer/c")]


def test_blocks_as_layers_have_paths_as_the_audit_has_them():
    model = sequential(
        layers.Fire(4, 4, 4, bypass="simple", name="fire"), layers.PointwiseHead(5, name="head"), shape=(8, 8, 8)
    )
    found = operators_of(model, "int8")
    assert [op for op, _ in found] == ["CONV_2D"] * 3 + ["CONCATENATION", "ADD", "CONV_2D", "MEAN", "SOFTMAX"]
    assert {layer for _, layer in found} <= {row.name for row in audit_model(model).rows}


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([kl.Dropout, kl.GlobalAveragePooling2D], ("MEAN", "global_average_pooling2d")),
        ([kl.GlobalAveragePooling2D, kl.Dropout], ("MEAN", "global_average_pooling2d")),
        ([kl.Dropout, lambda: kl.Activation("linear")], ("CONV_2D", "c")),
        ([kl.BatchNormalization, kl.ReLU, lambda: kl.SpatialDropout2D(0.5)], ("CONV_2D", "c")),
        ([kl.GlobalAveragePooling2D, lambda: kl.Reshape((4,)), lambda: kl.Softmax(name="s")], ("SOFTMAX", "s")),
        ([lambda: kl.Flatten(name="f")], ("RESHAPE", "f")),
    ],
)
def test_the_last_operator(tail, expected):
    keras.backend.clear_session()
    make = [(lambda kind=kind: kind(0.5)) if kind is kl.Dropout else kind for kind in tail]
    model = sequential(kl.Conv2D(4, 3, name="c"), *(each() for each in make))
    assert operators_of(model)[-1] == expected


def test_a_layer_that_is_used_twice():
    conv = kl.Conv2D(3, 1, name="conv")
    x = inputs = keras.Input((8, 8, 3))
    x = kl.ReLU(name="relu")(conv(x))
    model = keras.Model(inputs, conv(kl.MaxPooling2D(name="pool")(conv(x))))
    assert operators_of(model) == [
        ("CONV_2D", "conv"),
        ("CONV_2D", "conv"),
        ("MAX_POOL_2D", "pool"),
        ("CONV_2D", "conv"),
    ]


def test_names_that_tensorflow_does_not_accept():
    names = ["Größe 1", "Größe_1", "gr sse;x:1", "_under", "a.", "a", "a._1", "A", "-"]
    model = sequential(*(kl.Conv2D(4, 1, name=name) for name in names), name="ein Modell: ü")
    made = export.convert_model(model, "float32")
    assert list(made.layers) == names
    np.testing.assert_allclose(TFLiteRunner(made.data).predict(noise(model)), model(noise(model)), atol=1e-6)


def test_an_operation_of_no_layer_has_no_name():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, kl.ReLU(name="r")(keras.ops.sqrt(kl.Conv2D(3, 1, name="c")(inputs))))
    assert operators_of(model) == [("CONV_2D", "c"), ("SQRT", None), ("RELU", "r")]


def test_padding_belongs_to_the_convolution_that_it_is_fused_into():
    model = sequential(
        kl.ZeroPadding2D(((0, 1), (0, 1)), name="pad"),
        kl.DepthwiseConv2D(3, strides=2, use_bias=False, name="depthwise"),
        kl.BatchNormalization(name="bn"),
        kl.ReLU(6, name="relu"),
        kl.Conv2D(4, 1, name="pointwise"),
    )
    assert operators_of(model) == [("DEPTHWISE_CONV_2D", "depthwise"), ("CONV_2D", "pointwise")]


def test_factors_belong_to_the_convolution_that_they_are_fused_into():
    model = sequential(kl.Rescaling(1 / 255, name="before"), kl.Conv2D(4, 1, name="c"), kl.Rescaling(2.0, name="after"))
    assert operators_of(model) == [("CONV_2D", "c")]


def test_marks_are_told_from_the_numbers_that_the_converter_appends():
    marks = {"conv1.": "conv1", "conv1_1.": "conv1_1", "a b.": "a b"}
    assert operator_layers.read_scope("main_1/net_1/conv1._1/convolution1", marks) == ("conv1",)
    assert operator_layers.read_scope("main_1/net_1/conv1_1._3/Relu", marks) == ("conv1_1",)
    assert operator_layers.read_scope("main_1/conv1._1/conv1_1./x", marks) == ("conv1", "conv1_1")
    assert operator_layers.read_scope("main_1/conv1_1/convolution", marks) == ()


def test_an_operator_that_tflite_does_not_have(capfd):
    model = sequential(kl.Conv2D(3, 1, name="c"), Error(name="odd one"))
    with pytest.raises(InputError) as caught:
        export.convert_model(model, "float32")
    assert str(caught.value) == (
        "Expected a network that converts to float32. Received: TensorFlow operators that have no counterpart in "
        "TFLite (Erf of layer 'odd one')"
    )
    assert capfd.readouterr() == ("", "")


def test_a_layer_that_fails(monkeypatch, capfd):
    model = sequential(Moody(name="moody"))
    monkeypatch.setattr(Moody, "fails", True)
    with pytest.raises(InputError, match="converts to float32. Received: .*not today") as caught:
        export.convert_model(model, "float32")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_int8_does_not_have():
    model = sequential(kl.Conv2D(4, 3), LocalResponse(name="lrn"), kl.Conv2D(4, 1))
    assert ("LOCAL_RESPONSE_NORMALIZATION", "lrn") in operators_of(model)
    named = "LOCAL_RESPONSE_NORMALIZATION of layer 'lrn'"
    with pytest.raises(InputError, match=rf"floating point \({named}\). Allow them with --allow-float$"):
        export.convert_model(model, "int8", noise(model))
    allowed = export.convert_model(model, "int8", noise(model), allow_float=True)
    assert allowed.float_operators == (named,)
    assert {"TFLITE_BUILTINS", "TFLITE_BUILTINS_INT8"} == set(allowed.flags["supported_ops"])


def test_int8_of_a_network_that_computes_nothing():
    model = sequential(kl.Dropout(0.5))
    assert export.convert_model(model, "float32").layers == ()
    with pytest.raises(InputError, match="computes something, .* become int8. Received: float32 and 0 operators"):
        export.convert_model(model, "int8", noise(model))


def test_weights_that_are_not_finite():
    model = sequential(kl.Conv2D(3, 1, name="c"))
    model.layers[0].kernel.assign(np.full((1, 1, 3, 3), np.nan))
    with pytest.raises(InputError, match="finite weights. Received: NaN or infinity in '.*c/kernel'"):
        export.convert_model(model, "float32")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, r"calibration images \(N, 8, 8, 3\). Received: none"),
        (np.zeros((0, 8, 8, 3)), r"Received: shape \(0, 8, 8, 3\)"),
        (np.zeros((4, 8, 8, 1)), r"Received: shape \(4, 8, 8, 1\)"),
        (np.zeros((8, 8, 3)), r"Received: shape \(8, 8, 3\)"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], "Received: list of other things"),
        ("photos/", "Received: str of other things"),
        (np.full((2, 8, 8, 3), np.nan), "of finite numbers. Received: NaN or infinity in 2 of them"),
        (np.full((2, 8, 8, 3), np.inf), "of finite numbers. Received: NaN or infinity in 2 of them"),
    ],
)
def test_calibration_images_that_do_not_fit(images, message):
    with pytest.raises(InputError, match=message):
        export.convert_model(sequential(kl.Conv2D(3, 1)), "int8", images)


def test_calibration_takes_lists_and_other_numbers():
    model = sequential(kl.Conv2D(3, 1))
    images = noise(model)
    assert (
        export.convert_model(model, "int8", images.astype(np.float64)).data
        == export.convert_model(model, "int8", list(images)).data
    )


def test_an_unknown_scheme():
    with pytest.raises(
        InputError,
        match="`scheme` to be one of float32, .*, int8, .* Received: 'int4'",
    ):
        export.convert_model(sequential(kl.Conv2D(3, 1)), "int4")
