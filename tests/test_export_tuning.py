"""Tuning: ranges, rounding and biases of a calibrated float file, and what the converter makes of them."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import InputError, data, export, layers, models
from keras_nin.export import calibration as calibration_module
from keras_nin.export import conversion, float_file, rounding, schemes
from keras_nin.export.conversion import Quantizer
from keras_nin.export.float_file import FloatFile
from keras_nin.export.schemes import SCHEMES, Tuning
from keras_nin.tflite import reader
from keras_nin.tflite.runner import TFLiteRunner

EVERYTHING = Tuning("mse", "adaptive", True)
INT8 = SCHEMES["int8"]


class Keep:
    """A tuning that changes nothing and keeps what it is given."""

    def apply(self, content, samples):
        self.content, self.samples = content, samples
        return content


def calibrated(model, count=6):
    """Return the calibrated float file of a model, and its samples."""
    keep = Keep()
    with conversion.ModelConverter(model) as source:
        source.convert(INT8, noise(model, count), tuning=keep)
    return keep.content, keep.samples


def noise(model, count):
    """Images with a few large values, which a range would better leave out."""
    values = np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])) ** 3
    return values.astype(np.float32)


def dense_net(activation=None):
    """A layer of every kind that has weights, on windows of every kind."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 10, 3), name="image")
    x = kl.Conv2D(6, 3, strides=2, padding="same", activation=activation, name="strided")(x)
    x = kl.DepthwiseConv2D(3, padding="same", depth_multiplier=2, bias_initializer="normal", name="depthwise")(x)
    x = kl.Conv2D(8, (3, 2), dilation_rate=(2, 1), bias_initializer="normal", name="dilated")(x)
    x = kl.Flatten(name="flat")(x)
    return keras.Model(inputs, kl.Dense(5, bias_initializer="normal", name="dense")(x), name="every_kind")


def branching_net():
    """Tensors that share a scale: two branches, joined and pooled."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="image")
    a, b = (kl.Conv2D(4, size, padding="same", activation="relu", name=f"expand{size}")(x) for size in (1, 3))
    x = kl.MaxPooling2D(name="pool")(kl.Concatenate(name="join")([a, b]))
    x = kl.Conv2D(5, 1, name="head")(x)
    x = kl.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, kl.Softmax(name="softmax")(x), name="branching")


@pytest.fixture(scope="module")
def every_kind():
    return calibrated(dense_net())


@pytest.fixture(scope="module")
def branching():
    return calibrated(branching_net())


def moments_of(content, samples):
    file = FloatFile(content)
    moments = [float_file.InputMoments(layer) for layer in file.layers]
    float_file.observe_activations(file, samples, moments)
    return file, moments


def quantized(content):
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    return reader.read_model(mlir_quantize(content, input_data_type=tf.int8, output_data_type=tf.int8))


def test_without_tuning_the_file_is_the_converters(every_kind):
    content, samples = every_kind
    assert Tuning().apply(content, samples) is content
    model = dense_net()
    plain, tuned = (export.convert_model(model, "int8", noise(model, 6), tuning=t).data for t in (None, Tuning()))
    assert plain == tuned


def test_the_same_call_gives_the_same_bytes(every_kind):
    first, second = (EVERYTHING.apply(*every_kind) for _ in range(2))
    assert first == second != every_kind[0]
    assert len(first) == len(every_kind[0])


def test_a_layer_of_every_kind_is_found(every_kind):
    file = FloatFile(every_kind[0])
    assert [layer.kind for layer in file.layers] == ["conv", "depthwise", "conv", "dense"]
    assert [(layer.terms, layer.groups) for layer in file.layers] == [(27, 1), (9, 12), (72, 1), (8 * 2 * 4, 1)]
    assert all(layer.bias for layer in file.layers)


def test_what_is_written_is_read_back_and_nothing_else_changes(every_kind):
    file = FloatFile(every_kind[0])
    for layer in file.layers:
        file.set_rows(layer, file.rows(layer))
    assert file.content() == every_kind[0]
    layer = file.layers[1]
    file.set_rows(layer, file.rows(layer) + 1)
    other = FloatFile(file.content())
    for layer in file.layers:
        expected = FloatFile(every_kind[0]).rows(layer) + (layer.kind == "depthwise")
        np.testing.assert_allclose(other.rows(layer), expected, atol=1e-6)


def test_the_mean_of_the_terms_gives_the_mean_of_the_output(every_kind):
    """So the windows are those of the runtime, with stride, dilation and padding."""
    file, moments = moments_of(*every_kind)
    outputs = {layer.operator.outputs[0]: [] for layer in file.layers}

    def watch(tensor):
        for index, seen in outputs.items():
            seen.append(tensor(index).reshape(-1, tensor(index).shape[-1]))

    float_file.observe_activations(file, every_kind[1], [watch])
    for layer, moment in zip(file.layers, moments, strict=True):
        seen = np.concatenate(outputs[layer.operator.outputs[0]]).astype(np.float64)
        rows, bias = file.rows(layer), file.values(layer.bias)
        np.testing.assert_allclose((rows * moment.mean()).sum(1) + bias, seen.mean(0), atol=1e-4)
        power = rounding.output_mse(rows, moment.second()) + 2 * bias * (seen.mean(0) - bias) + bias**2
        np.testing.assert_allclose(power, (seen**2).mean(0), rtol=1e-4)


def test_large_maps_are_sampled_at_the_same_positions(monkeypatch, every_kind):
    monkeypatch.setattr(float_file, "POSITIONS_PER_IMAGE", 7)
    (_, first), (_, second) = moments_of(*every_kind), moments_of(*every_kind)
    for one, other in zip(first, second, strict=True):
        assert one._count in (6 * 7, 6)
        np.testing.assert_array_equal(one.second(), other.second())


def correlated(groups, terms):
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(groups, 50, terms)) + 2 * rng.normal(size=(groups, 50, 1))
    return samples.transpose(0, 2, 1) @ samples / 50


@pytest.mark.parametrize(("groups", "terms"), [(1, 9), (64, 9), (1, 300)])
def test_adaptive_rounding_changes_the_output_less(groups, terms):
    rows = np.random.default_rng(0).uniform(-1, 1, size=(64, terms))
    moment = correlated(groups, terms)
    plain, rounded = rounding.round_to_nearest(rows), rounding.round_adaptively(rows, moment)
    error, carried = (rounding.output_mse(each - rows, moment) for each in (plain, rounded))
    assert (carried <= error).all()
    assert carried.sum() < 0.5 * error.sum()
    levels = rounded / rounding.weight_scales(rows)[:, None]
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
    np.testing.assert_array_equal(np.abs(rounded).max(1), np.abs(plain).max(1))


@pytest.mark.parametrize("groups", [1, 8])
def test_blocks_only_save_time(monkeypatch, groups):
    rows, moment = np.random.default_rng(0).normal(size=(8, 40)), correlated(groups, 40)
    expected = rounding.round_adaptively(rows, moment)
    monkeypatch.setattr(rounding, "_BLOCK", 7)
    np.testing.assert_allclose(rounding.round_adaptively(rows, moment), expected, atol=1e-12)


def test_adaptive_rounding_is_near_the_best_there_is():
    rows, moment = np.array([[1.0, 0.3017, -0.5043, 0.2501]]), correlated(1, 4)
    step = rounding.weight_scales(rows)[0]
    best = min(
        rounding.output_mse(np.array([[1.0, *(np.floor(rows[0, 1:] / step) + up) * step]]) - rows, moment)[0]
        for up in itertools.product((0, 1), repeat=3)
    )
    found, plain = (rounding.output_mse(f(rows) - rows, moment)[0] for f in (
        lambda rows: rounding.round_adaptively(rows, moment), rounding.round_to_nearest))  # fmt: skip
    assert best <= found + 1e-15
    assert found <= 0.5 * (best + plain)


def test_dead_rows_and_terms_stay_what_they_are():
    rows, moment = np.zeros((2, 3)), np.zeros((1, 3, 3))
    rows[1] = 1, 0.26, 0
    rounded = rounding.round_adaptively(rows, moment)
    assert not rounded[0].any()
    np.testing.assert_allclose(rounded[1], rounding.round_to_nearest(rows)[1])


@pytest.mark.parametrize("rounded", ["nearest", "adaptive"])
def test_bias_correction_keeps_the_mean_of_every_output(every_kind, rounded):
    before, moments = moments_of(*every_kind)
    after = FloatFile(Tuning(rounding=rounded, bias_correction=True).apply(*every_kind))
    without = FloatFile(Tuning(rounding=rounded).apply(*every_kind)) if rounded == "adaptive" else before
    for layer, moment in zip(before.layers, moments, strict=True):
        mean = moment.mean()
        expected, found = ((f.rows(layer) * mean).sum(1) + f.values(layer.bias) for f in (before, after))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_array_equal(without.values(layer.bias), before.values(layer.bias))
        shifted = ((before.rows(layer) - after.rows(layer)) * mean).sum(1)
        assert np.abs(shifted).max() > 1e-4  # there was something to correct


@pytest.mark.parametrize("tuned", [Tuning(rounding="adaptive"), EVERYTHING])
def test_the_converter_keeps_the_rounded_weights(every_kind, tuned):
    content = tuned.apply(*every_kind)
    file, integers = FloatFile(content), quantized(content)
    operators = [operator for operator in integers.main.operators if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    operators += [operator for operator in integers.main.operators if operator.op == "FULLY_CONNECTED"]
    for layer, operator in zip(file.layers, sorted(operators, key=lambda each: each.index), strict=True):
        tensor = integers.main.tensors[operator.inputs[1]]
        scales = np.array(tensor.quantization.scales)
        shape = [-1 if axis == tensor.quantization.axis else 1 for axis in range(len(tensor.shape))]
        found = integers.data(tensor) * scales.reshape(shape)
        np.testing.assert_allclose(found, file.values(layer.weights), atol=1e-6 * scales.max())


def test_the_range_of_least_square_error():
    histogram = rounding.ActivationHistogram([0], -0.5, 50.0)
    values = np.append(np.random.default_rng(0).normal(0, 1, 1_000_000).clip(-0.5, None), 50).astype(np.float32)
    histogram(lambda index: values)
    assert histogram.counts.sum() == len(values)
    least, largest = rounding.find_mse_range(histogram)
    found = rounding.range_mse(histogram, least, largest)
    shares = np.linspace(0.3, 1, 15)
    errors = [rounding.range_mse(histogram, -0.5 * low, 50 * high) for low in shares for high in shares]
    assert found <= min(errors)
    assert found < 0.7 * rounding.range_mse(histogram, -0.5, 50)
    rounded = np.clip(np.round((values - least) / (largest - least) * 255), 0, 255) / 255 * (largest - least) + least
    exact = np.mean((rounded.astype(np.float64) - values) ** 2)
    assert rounding.range_mse(histogram, least, largest) == pytest.approx(exact, rel=0.1)


def test_a_range_without_outliers_stays():
    histogram = rounding.ActivationHistogram([0], 0.0, 1.0)
    histogram(lambda index: np.linspace(0, 1, 10_000, dtype=np.float32))
    assert rounding.find_mse_range(histogram) == (0, pytest.approx(1, abs=0.011))


def test_tied_tensors_get_one_range_and_the_answer_keeps_its_own(branching):
    before, after = FloatFile(branching[0]), FloatFile(Tuning(ranges="mse").apply(*branching))
    by_op = {}
    for operator in before.graph.main.operators:
        by_op.setdefault(operator.op, []).append(operator)
    joined = by_op["CONCATENATION"][0]
    tied = {*joined.inputs, *joined.outputs, *by_op["MAX_POOL_2D"][0].outputs}
    old, new = before.ranges(), after.ranges()
    assert len(tied) == 4
    assert len({old[index] for index in tied}) > 1
    assert len({new[index] for index in tied}) == 1
    answer = {*by_op["SOFTMAX"][0].inputs, *by_op["SOFTMAX"][0].outputs}
    assert all(old[index] == new[index] for index in answer)
    changed = {index for index in old if old[index] != new[index]}
    assert before.graph.main.inputs[0] in changed
    integers = quantized(after.content())
    scales = {
        integers.main.tensors[index].quantization.scales[0]
        for operator in integers.main.operators
        if operator.op in ("CONCATENATION", "MAX_POOL_2D")
        for index in operator.inputs
    }
    assert list(scales) == [pytest.approx(new[joined.outputs[0]][1] / 255, rel=1e-5)]
    assert not any(operator.op == "QUANTIZE" for operator in integers.main.operators)


def test_weights_that_two_operators_read_are_left_alone():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3), name="image")
    shared = kl.Conv2D(3, 1, bias_initializer="normal", name="shared")
    model = keras.Model(inputs, kl.Conv2D(2, 1, name="own")(shared(shared(inputs))), name="twice")
    content, samples = calibrated(model)
    file = FloatFile(content)
    assert [layer.weights.shape for layer in file.layers] == [(2, 1, 1, 3)]
    assert EVERYTHING.apply(content, samples) != content


def test_networks_without_weights_and_with_dead_channels():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3), name="image")
    pooled = keras.Model(inputs, kl.AveragePooling2D(2, name="pool")(inputs), name="pooled")
    assert len(EVERYTHING.apply(*calibrated(pooled))) > 0
    dead = keras.Sequential([inputs, kl.Conv2D(4, 3, activation="relu", name="a"), kl.Conv2D(2, 1, name="b")])
    kernel, bias = dead.get_layer("a").get_weights()
    kernel[..., 1], bias[2] = 0, -1000
    dead.get_layer("a").set_weights([kernel, bias])
    outputs = TFLiteRunner(export.convert_model(dead, "int8", noise(dead, 6), tuning=EVERYTHING).data).predict(
        noise(dead, 3)
    )
    step = np.ptp(dead.predict(noise(dead, 6), verbose=0)) / 255
    assert np.abs(outputs - dead.predict(noise(dead, 3), verbose=0)).max() < 20 * step


def test_operators_that_stay_in_floating_point():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 8), name="image")
    x = kl.Conv2D(8, 1, activation="relu", name="a")(inputs)
    x = layers.LocalResponseNormalization(name="norm")(x)
    model = keras.Model(inputs, kl.Conv2D(4, 1, name="b")(x), name="normalised")
    made = export.convert_model(model, "int8", noise(model, 6), allow_float=True, tuning=EVERYTHING)
    assert made.float_operators == ("LOCAL_RESPONSE_NORMALIZATION of layer 'norm'",)


def test_several_inputs_by_name():
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    first, second = keras.Input((6, 6, 3), 1, name="left"), keras.Input((6, 6, 2), 1, name="right")
    x = kl.Concatenate(name="join")([kl.Conv2D(4, 1, name="a")(first), kl.Conv2D(4, 1, name="b")(second)])
    model = keras.Model([first, second], kl.Conv2D(3, 3, name="c")(x), name="two")
    rng = np.random.default_rng(0)
    shapes = {"left": (1, 6, 6, 3), "right": (1, 6, 6, 2)}
    samples = [{key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()} for _ in range(5)]
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    keep = Keep()
    Quantizer(samples, keep).attach(converter)
    converter.convert()
    file, moments = moments_of(keep.content, samples)
    named = dict(file.graph.signatures[0].inputs)
    assert named["left"] != named["right"]
    by_source = {moment.layer.source: moment for moment in moments}
    for key, index in named.items():
        expected = np.mean([sample[key] for sample in samples], axis=(0, 1, 2, 3))
        np.testing.assert_allclose(by_source[index].mean()[0], expected, atol=1e-6)
    assert EVERYTHING.apply(keep.content, samples) != keep.content


def test_little_memory_gives_the_same_bytes(monkeypatch, every_kind):
    expected = EVERYTHING.apply(*every_kind)
    monkeypatch.setattr(schemes, "_MAX_MOMENT_ELEMENTS", 72**2)
    assert len(EVERYTHING._parts(FloatFile(every_kind[0]))) > 1
    assert EVERYTHING.apply(*every_kind) == expected
    monkeypatch.setattr(schemes, "_MAX_MOMENT_ELEMENTS", 71**2)  # too little for a layer: it is rounded to the nearest
    assert EVERYTHING.apply(*every_kind) != expected


def test_a_trained_network_comes_nearer_to_float():
    loaded, dataset = models.load_model("nin_digits"), data.open_dataset("digits")
    shape = calibration_module.image_input_shape(loaded.model)
    calibration = export.load_calibration(dataset, shape)
    images = dataset.load(dataset.splits["test"], shape[:2], shape[2], dataset.preprocessing)
    expected = loaded.model.predict(images, verbose=0).astype(np.float64)
    errors = []
    for tuned in (None, Tuning(rounding="adaptive", bias_correction=True)):
        runner = TFLiteRunner(export.convert_model(loaded.model, "int8", calibration, tuning=tuned).data)
        errors.append(((runner.predict(images) - expected) ** 2).mean())
    assert errors[1] < 0.9 * errors[0]


def test_the_record():
    assert Tuning.from_json(EVERYTHING.to_json()) == EVERYTHING
    assert hash(EVERYTHING) == hash(Tuning(ranges="mse", rounding="adaptive", bias_correction=True))
    for wrong in ({"ranges": "median"}, {"rounding": "up"}, {"bias_correction": "yes"}, {"colour": 1}, None):
        with pytest.raises(InputError):
            Tuning.from_json(wrong)


def test_moments_that_rounding_errors_leave_indefinite():
    # Two terms that are always the same: singular but for the damping, and below zero by a rounding error.
    moment = np.full((1, 3, 3), 1e8)
    moment[0, 0, 1] = moment[0, 1, 0] = 1.05e8
    rows = np.random.default_rng(0).normal(size=(4, 3))
    rounded = rounding.round_adaptively(rows, moment)
    step = rounding.weight_scales(rows)[:, None]
    assert np.isfinite(rounded).all()
    assert (np.abs(rounded - rows) < (rounding.REACH + 1) * step).all()


def test_adaptive_rounding_keeps_near_every_weight_and_leaves_what_lies_on_the_grid():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 24)) @ rng.normal(size=(24, 24)) ** 3
    rows = rng.normal(size=(64, 24))
    rows[:, 3:6] = 0
    rounded = rounding.round_adaptively(rows, (values.T @ values / len(values))[None])
    steps = np.abs(rounded - rows) / rounding.weight_scales(rows)[:, None]
    assert 1 < steps.max() < rounding.REACH + 1
    assert not rounded[:, 3:6].any()
    assert np.abs(rounded / rounding.weight_scales(rows)[:, None]).max() <= 127 + 1e-9
