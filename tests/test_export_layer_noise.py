"""Signal to noise of every layer: each operator finds its layer, and the one that hurts is named."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers as kl
from tflite_edits import flipped
from tiers import by_tier

from keras_nin import InputError, export, models
from keras_nin.export.layer_noise import measure_layer_noise, run_layers
from keras_nin.export.operator_layers import map_operators
from keras_nin.layers import Fire
from keras_nin.tflite.layer_names import operator_paths
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.runner import TFLiteRunner

SHAPE = (12, 12, 3)
NO_NOISE = 90  # dB; between float32 sums in two orders there are more


def images(count=6, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).random((count, *shape), np.float32)


def untouched(model):
    """The model with BatchNormalization that does something."""
    generator = np.random.default_rng(5)
    for layer in model._flatten_layers():
        if isinstance(layer, kl.BatchNormalization):
            for weight in layer.weights:
                weight.assign(generator.uniform(0.5, 2, weight.shape))
    return model


@pytest.fixture(scope="module")
def nested():
    """A nested model, a block, BatchNormalization with and without ReLU, two paths that join, and padding."""
    keras.utils.set_random_seed(0)
    entry = keras.Input((6, 6, 8), name="inner_entry")
    x = kl.Conv2D(8, 1, use_bias=False, name="inner_conv")(entry)
    x = kl.BatchNormalization(name="inner_norm")(x)
    inner = keras.Model(entry, x, name="block")
    image = keras.Input(SHAPE, name="image")
    x = kl.ZeroPadding2D(1, name="pad")(image)
    x = kl.Conv2D(8, 3, strides=2, use_bias=False, name="conv1")(x)
    x = kl.BatchNormalization(name="norm1")(x)
    x = kl.ReLU(name="relu1")(x)
    joined = kl.Add(name="add")([inner(x), x])
    x = kl.ReLU(name="relu2")(joined)
    x = Fire(4, 6, 6, name="fire")(x)
    x = kl.Dropout(0.3, name="drop")(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    return untouched(keras.Model(image, kl.Dense(5, activation="softmax", name="classes")(x), name="nested"))


@pytest.fixture(scope="module")
def digits(export_network):
    """The trained network, a function from a scheme to its file, and a few images."""
    network = export_network("digits")
    return network.model, lambda scheme: network.files[scheme].tflite, network.test[:6]


@pytest.fixture(scope="module")
def int8_noise(digits):
    model, file, test = digits
    return compared(model, file("int8"), test)


def compared(model, source, test):
    return measure_layer_noise(model, TFLiteRunner(source), [(test[:4], None), (test[4:], None)])


@pytest.mark.slow
def test_every_operator_finds_the_last_layer_that_was_fused(nested):
    content = export.convert_model(nested, "float32").data
    noise = compared(nested, content, images())
    joined = [row.compared_with.partition("/") for row in noise.rows if row.reason is None]
    inside = ["fire"] * 4  # whose own layers are numbered
    assert [first for first, _, _ in joined] == ["pad", "relu1", "block", "relu2", *inside, "pool", "classes"]
    assert joined[2] == ("block", "/", "inner_norm")
    assert all(row.snr_db is None or row.snr_db > NO_NOISE for row in noise.rows if row.reason is None)
    (other,) = (row for row in noise.rows if row.reason)
    assert (other.op, other.layer, other.reason) == ("FULLY_CONNECTED", "classes", "a part of classes")
    layers = [row.layer for row in noise.rows]  # as every other command calls them
    assert layers[:2] == ["pad", "conv1"]
    assert layers[-2:] == ["classes", "classes/SOFTMAX"]
    assert (noise.rows[1].compared_with, other.compared_with) == ("relu1", None)


def test_the_model_is_left_as_it_was(nested):
    before = nested.predict(images(), verbose=0)
    assert len(run_layers(nested, {"first": nested.get_layer("conv1")}, images())["first"]) == 1
    assert "call" not in vars(nested.get_layer("conv1"))
    assert np.array_equal(before, nested.predict(images(), verbose=0))


@pytest.mark.slow
def test_files_that_the_plain_converter_made_are_read_by_their_names(nested):
    import tensorflow as tf

    entry = keras.Input(batch_shape=(1, *SHAPE))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(entry, nested(entry)))
    content = converter.convert()
    noise = compared(nested, content, images())
    joined = [row for row in noise.rows if row.reason is None]
    assert len(joined) >= 8
    assert all(row.snr_db is None or row.snr_db > NO_NOISE for row in joined)


SCHEMES = [
    "float32",
    "int8",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "dynamic", "int16x8")),
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_digits(digits, scheme):
    model, file, test = digits
    noise = compared(model, file(scheme), test)
    rows = [row for row in noise.rows if row.op not in ("DEQUANTIZE", "QUANTIZE")]
    assert noise.images == len(test)
    assert [row.reason for row in rows] == [None] * 13
    least = {"float32": NO_NOISE, "float16": 55, "dynamic": 30, "int8": 22, "int16x8": 30}[scheme]
    assert min(row.snr_db for row in rows) > least
    assert noise.worst.added_noise == max(row.added_noise for row in rows)
    # Both runtimes' kernels round: the delegate's integers may be a few steps away.
    assert noise.delegate_diff_lsb <= {"float32": 0.01, "float16": 0.01, "int16x8": 0}.get(scheme, 8)


@pytest.mark.slow
def test_the_last_row_is_the_output(digits):
    model, file, test = digits
    noise = compared(model, file("int16x8"), test)  # no delegate: the same kernels
    reference, output = model.predict(test, verbose=0), TFLiteRunner(file("int16x8")).predict(test)
    assert noise.rows[-1].layer == "mlpconv3_conv1x1b_softmax"
    assert noise.rows[-1].snr_db == pytest.approx(
        10 * math.log10((reference**2).sum() / ((reference - output) ** 2).sum()), abs=0.01
    )


def test_operators_are_called_what_every_command_calls_them(digits, int8_noise):
    _, file, _ = digits  # without a record: by the names in the file
    assert [row.layer for row in int8_noise.rows] == list(operator_paths(read_model(file("int8"))))


def test_changes_are_against_the_noisiest_input(int8_noise):
    first, second, third, *_ = int8_noise.rows
    assert second.snr_change_db == pytest.approx(second.snr_db - first.snr_db)
    shares = [10 ** (-row.snr_db / 10) for row in (second, third)]
    assert third.added_noise == pytest.approx(shares[1] - shares[0])


def test_the_noisiest_layer_is_named(digits):
    model, file, test = digits
    main = file("int8").main
    operator = main.operators[8]
    wrong = file("int8").content
    for element in range(0, 4000, 100):
        wrong = flipped(wrong, main.tensors[operator.inputs[1]], element)
    noise = compared(model, wrong, test)
    assert (noise.worst.index, noise.worst.layer) == (8, "mlpconv3_conv3x3")


def test_a_layer_that_is_used_twice_is_listed():
    keras.utils.set_random_seed(0)
    shared = kl.Conv2D(3, 1, activation="relu", name="shared")
    image = keras.Input(SHAPE, name="image")
    model = keras.Model(image, kl.Conv2D(2, 1, name="last")(shared(shared(image))), name="twice")
    noise = compared(model, export.convert_model(model, "float32").data, images())
    assert [row.reason for row in noise.rows] == ["a part of shared", "its layer is used 2 times", None]
    assert noise.worst.layer == "last"


def test_what_is_not_finite_is_named(digits):
    model, file, test = digits
    weights = model.get_weights()
    broken = keras.models.clone_model(model)
    broken.set_weights(weights)
    broken.get_layer("mlpconv2_conv1x1a").bias.assign(np.full(48, np.nan, np.float32))
    noise = compared(broken, file("int8"), test[:5])
    assert noise.worst.layer == "mlpconv2_conv1x1a"
    assert not math.isfinite(noise.worst.max_abs_diff_lsb)
    json.dumps(noise.to_json(), allow_nan=False)


def test_several_inputs_and_outputs_and_a_scale_that_was_folded():
    """The scale between the convolutions is folded into the second, so that the first still gives its own output."""
    keras.utils.set_random_seed(0)
    image, sensor = keras.Input(SHAPE, name="image"), keras.Input((5,), name="sensor")
    x = kl.Conv2D(6, 3, activation="relu", name="conv1")(image)
    x = kl.Rescaling(0.25, 0.1, name="scale")(x)
    x = kl.Conv2D(6, 3, activation="relu", name="conv2")(x)
    x = kl.Concatenate(name="join")([kl.GlobalAveragePooling2D(name="pool")(x), kl.Dense(4, name="dense")(sensor)])
    classes = kl.Dense(3, activation="softmax", name="classes")(x)
    model = keras.Model([image, sensor], [classes, kl.Dense(1, name="age")(x)], name="two")
    samples = {"image": images(6), "sensor": images(6, shape=(5,))}
    file = export.convert_model(model, "int8", samples, tuning=export.Tuning.plain()).tflite
    noise = measure_layer_noise(model, TFLiteRunner(file), [(samples, None)])
    joined = {row.layer: row.snr_db for row in noise.rows if row.reason is None}
    names = {name.partition("/")[0] for name in joined}
    assert names == {"conv1", "conv2", "pool", "dense", "join", "classes", "age"}
    assert min(joined.values()) > 20  # the pooling has the scale of what it is joined with
    assert (noise.images, noise.delegate_diff_lsb < 3) == (6, True)


def test_no_images(digits):
    model, file, _ = digits
    with pytest.raises(InputError, match="at least one image"):
        measure_layer_noise(model, TFLiteRunner(file("int8")), [])


def test_a_file_of_another_network(digits):
    _, file, test = digits
    keras.utils.set_random_seed(0)
    other = keras.Sequential([keras.Input((8, 8, 1)), kl.Conv2D(10, 8, name="only"), kl.Flatten(name="flat")])
    noise = compared(other, file("float32"), test)
    assert noise.worst is None or noise.worst.layer in ("only", "flat")
    assert len(noise.rows) == 13


@pytest.mark.parametrize(
    "name",
    by_tier(("squeezenet_v1_0_complex_bypass", "nin_cifar10_bn"), wide=("squeezenet_v1_0_complex_bypass",)),
)
def test_zoo(name):
    keras.utils.set_random_seed(0)
    model = untouched(models.build_model(name, input_shape=(64, 64, 3)))
    test = images(2, shape=(64, 64, 3))
    noise = compared(model, export.convert_model(model, "float32").data, test)
    assert all(row.reason is None and (row.snr_db is None or row.snr_db > NO_NOISE) for row in noise.rows)


@pytest.mark.parametrize("name", by_tier(["EfficientNetB0"], wide=["EfficientNetB0"]))
def test_keras_applications(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=7)
    graph = export.convert_model(model, "float32").tflite
    joined = [layer for layer in map_operators(model, graph).output_layers if layer]
    assert len(joined) > 0.9 * len(graph.main.operators)
    noise = compared(model, graph, images(2, shape=(64, 64, 3)))
    measured = [row for row in noise.rows if row.reason is None]
    assert len(measured) > 0.6 * len(noise.rows)
    wrong = [row for row in measured if row.snr_db is not None and row.snr_db < 70]
    assert not wrong
