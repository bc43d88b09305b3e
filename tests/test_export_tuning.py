"""Tuning: ranges, rounding and biases of a calibrated float file, and what the converter makes of them."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as kl

from keras_nin._compat.tensorflow import mlir_quantize
from keras_nin.export import SCHEMES, Tuning, convert_model, tuning
from keras_nin.export.conversion import ModelConverter
from keras_nin.export.tuning import (
    ROUNDING_REACH,
    ActivationHistogram,
    InputMoments,
    find_mse_range,
    observe_activations,
    output_mse,
    range_mse,
    round_adaptively,
    round_to_nearest,
    tune_file,
    weight_scales,
)
from keras_nin.tflite.float_file import FloatFile
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import TFLiteOperator, TFLiteSubgraph, TFLiteTensor
from keras_nin.tflite.runner import TFLiteRunner


def calibrated(model, images=None):
    """Return the calibrated float file of a model, and its samples."""
    kept = []
    images = noise(model, 6) if images is None else images
    with ModelConverter(model) as converter:
        converter.convert(SCHEMES["int8"], images, tuning=lambda *given: kept.extend(given) or given[0])
    return kept[0], kept[1]


def noise(model, count):
    """Images with a few large values, which a range would better leave out."""
    shapes = {tensor.name: tensor.shape[1:] for tensor in model.inputs}
    arrays = {name: np.random.default_rng(0).normal(size=(count, *shape)) ** 3 for name, shape in shapes.items()}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def every_kind_net():
    """Two inputs, and an operator of every kind that has weights, on windows of every kind."""
    keras.utils.set_random_seed(0)
    first, second = keras.Input((12, 10, 3), name="image"), keras.Input((6, 5, 2), name="another")
    x = kl.Conv2D(6, 3, strides=2, padding="same", name="strided")(first)
    x = kl.DepthwiseConv2D(3, padding="same", depth_multiplier=2, bias_initializer="normal", name="depthwise")(x)
    y = kl.Conv2D(4, 1, bias_initializer="normal", name="pointwise")(second)
    x = kl.Concatenate(name="join")([x, y])
    x = kl.Conv2D(8, (3, 2), dilation_rate=(2, 1), bias_initializer="normal", name="dilated")(x)
    shared = kl.Conv2D(8, 1, bias_initializer="normal", name="shared")  # whose weights two operators read
    x = kl.Flatten(name="flat")(shared(shared(x)))
    return keras.Model([first, second], kl.Dense(5, bias_initializer="normal", name="dense")(x), name="every_kind")


def same_scale_net():
    """Operators that copy or compare integers, on values whose extremes they leave out."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3), name="image")
    branches = [kl.Conv2D(4, size, padding="same", name=f"expand{size}")(x) for size in (1, 3)]
    x = kl.Concatenate(name="join")(branches)
    x = kl.MaxPooling2D(1, strides=2, name="max")(x)  # every second value
    x = kl.Conv2D(6, 1, name="between")(x)
    x = kl.AveragePooling2D(2, name="mean")(x)
    x = kl.Conv2D(6, 1, name="again")(x)
    x = kl.ZeroPadding2D(1, name="pad")(x[:, :3, :3])
    x = kl.UpSampling2D(2, name="larger")(x)
    x = kl.Conv2D(5, 1, name="head")(kl.Permute((2, 1, 3), name="turned")(x))
    return keras.Model(inputs, kl.Softmax(name="softmax")(kl.Flatten(name="flat")(x)), name="same_scale")


@pytest.fixture(scope="module")
def every_kind():
    return calibrated(every_kind_net())


@pytest.fixture(scope="module")
def same_scale():
    return calibrated(same_scale_net())


def moments_of(content, samples):
    file = FloatFile(content)
    moments = [InputMoments(weighted) for weighted in file.weighted_operators]
    observe_activations(file, samples, moments)
    return file, moments


def quantized(content):
    import tensorflow as tf

    return read_model(mlir_quantize(content, input_data_type=tf.int8, output_data_type=tf.int8))


# Files


def test_tuning_is_deterministic_and_moves_nothing(every_kind):
    assert tune_file(*every_kind, Tuning.plain()) is every_kind[0]
    first, second = (tune_file(*every_kind, Tuning()) for _ in range(2))
    assert first == second != every_kind[0]
    assert len(first) == len(every_kind[0])


def test_an_operator_of_every_kind_is_found(every_kind):
    found = FloatFile(every_kind[0]).weighted_operators
    expected = {("conv", 27, 1), ("depthwise", 9, 12), ("conv", 2, 1), ("conv", 96, 1), ("dense", 64, 1)}
    assert {(weighted.kind, weighted.terms, weighted.groups) for weighted in found} == expected  # none that is shared
    assert len(found) == len(expected)
    assert all(weighted.bias for weighted in found)


def test_what_is_written_is_read_back_and_nothing_else_changes(every_kind):
    file = FloatFile(every_kind[0])
    for weighted in file.weighted_operators:
        file.set_rows(weighted, file.rows(weighted))
    assert file.content() == every_kind[0]
    depthwise = next(weighted for weighted in file.weighted_operators if weighted.kind == "depthwise")
    file.set_rows(depthwise, file.rows(depthwise) + 1)
    other = FloatFile(file.content())
    for weighted in file.weighted_operators:
        expected = FloatFile(every_kind[0]).rows(weighted) + (weighted.kind == "depthwise")
        np.testing.assert_allclose(other.rows(weighted), expected, atol=1e-6)


def test_the_moments_of_the_terms_give_those_of_the_outputs(every_kind):
    """So the windows are those of the runtime, with stride, dilation and padding."""
    file, moments = moments_of(*every_kind)
    outputs = {weighted.operator.outputs[0]: [] for weighted in file.weighted_operators}

    def observe(read_tensor):
        for index, values in outputs.items():
            values.append(read_tensor(index).reshape(-1, read_tensor(index).shape[-1]))

    observe_activations(file, every_kind[1], [observe])
    for weighted, moment in zip(file.weighted_operators, moments, strict=True):
        values = np.concatenate(outputs[weighted.operator.outputs[0]]).astype(np.float64)
        rows, bias = file.rows(weighted), file.values(weighted.bias)
        np.testing.assert_allclose((rows * moment.mean()).sum(1) + bias, values.mean(0), atol=1e-4)
        power = output_mse(rows, moment.second_moment()) + 2 * bias * (values.mean(0) - bias) + bias**2
        np.testing.assert_allclose(power, (values**2).mean(0), rtol=1e-4)


def test_large_maps_are_sampled_at_the_same_positions(monkeypatch, every_kind):
    monkeypatch.setattr(tuning, "POSITIONS_PER_IMAGE", 7)
    (_, first), (_, second) = moments_of(*every_kind), moments_of(*every_kind)
    for one, other in zip(first, second, strict=True):
        assert one._count in (6 * 7, 6)
        np.testing.assert_array_equal(one.second_moment(), other.second_moment())


def test_little_memory_gives_the_same_bytes(monkeypatch, every_kind):
    expected = tune_file(*every_kind, Tuning())
    monkeypatch.setattr(tuning, "_MAX_MOMENT_ELEMENTS", 96**2)
    assert len(list(tuning._moment_batches(FloatFile(every_kind[0]), Tuning()))) > 1
    assert tune_file(*every_kind, Tuning()) == expected
    monkeypatch.setattr(tuning, "_MAX_MOMENT_ELEMENTS", 95**2)  # too little for an operator: it is rounded to nearest
    assert tune_file(*every_kind, Tuning()) != expected


@pytest.mark.parametrize("rounding", ["nearest", "adaptive"])
def test_bias_correction_keeps_the_mean_of_every_output(every_kind, rounding):
    before, moments = moments_of(*every_kind)
    after = FloatFile(tune_file(*every_kind, Tuning("minmax", rounding, True)))
    without = FloatFile(tune_file(*every_kind, Tuning("minmax", rounding, False)))
    for weighted, moment in zip(before.weighted_operators, moments, strict=True):
        mean = moment.mean()
        expected, found = ((f.rows(weighted) * mean).sum(1) + f.values(weighted.bias) for f in (before, after))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_array_equal(without.values(weighted.bias), before.values(weighted.bias))
        change = ((before.rows(weighted) - after.rows(weighted)) * mean).sum(1)
        assert np.abs(change).max() > 1e-4  # there was something to correct


@pytest.mark.parametrize("tuned", [Tuning("minmax", "adaptive", False), Tuning()], ids=["weights", "all"])
def test_the_converter_keeps_the_rounded_weights(every_kind, tuned):
    content = tune_file(*every_kind, tuned)
    file, integers = FloatFile(content), quantized(content)
    kernels = [
        integers.main.tensors[operator.inputs[1]]
        for operator in integers.main.operators
        if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    ]
    for weighted in file.weighted_operators:
        (tensor,) = (kernel for kernel in kernels if kernel.shape == weighted.weights.shape)
        scales = np.array(tensor.quantization.scales)
        shape = [-1 if axis == tensor.quantization.axis else 1 for axis in range(len(tensor.shape))]
        values = integers.data(tensor) * scales.reshape(shape)
        np.testing.assert_allclose(values, file.values(weighted.weights), atol=1e-6 * scales.max())


@pytest.mark.parametrize("case", ["no weights", "dead channels"])
def test_networks_with_nothing_to_round(case):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3), name="image")
    if case == "no weights":
        model = keras.Model(inputs, kl.AveragePooling2D(2, name="pool")(inputs), name="pooled")
    else:
        model = keras.Sequential([inputs, kl.Conv2D(4, 3, activation="relu", name="a"), kl.Conv2D(2, 1, name="b")])
        kernel, bias = model.get_layer("a").get_weights()
        kernel[..., 1], bias[2] = 0, -1000
        model.get_layer("a").set_weights([kernel, bias])
    images = noise(model, 6)
    expected = model.predict(images, verbose=0)
    output = TFLiteRunner(convert_model(model, "int8", images).tflite).predict(images)
    assert np.abs(output - expected).max() < 0.1 * np.ptp(expected)


# Ranges


def test_operators_that_copy_integers_get_one_range_and_the_answer_keeps_its_own(same_scale):
    before, after = FloatFile(same_scale[0]), FloatFile(tune_file(*same_scale, Tuning("mse", "nearest", False)))
    main, old, new = before.model.main, before.ranges(), after.ranges()
    tied = {
        operator.op: {index for index in (*operator.inputs, *operator.outputs) if index in old}
        for operator in main.operators
        if operator.op not in ("CONV_2D", "RESHAPE", "SOFTMAX")
    }
    assert set(tied) == {"CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D", "STRIDED_SLICE", "PAD", "TRANSPOSE",
                         "TILE"}  # fmt: skip
    for op, tensors in tied.items():
        assert len(tensors) > 1
        assert len({new[index] for index in tensors}) == 1, op
    for op in ("CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D"):  # there was something to tie
        assert len({old[index] for index in tied[op]}) > 1, op
    (softmax,) = (operator for operator in main.operators if operator.op == "SOFTMAX")
    assert all(old[index] == new[index] for index in (*softmax.inputs, *softmax.outputs))
    assert any(old[index] != new[index] for index in tied["CONCATENATION"])
    integers = quantized(after.content())
    assert not any(operator.op == "QUANTIZE" for operator in integers.main.operators)
    for operator in integers.main.operators:
        if operator.op in tied:
            scales = {integers.main.tensors[index].quantization for index in (operator.inputs[0], *operator.outputs)}
            assert len({quantization.scales for quantization in scales}) == 1


def test_every_operator_that_copies_or_compares_integers_ties_its_tensors():
    """Those of the quantization specification of LiteRT, and no others."""
    named = """
        AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION DEPTH_TO_SPACE EXPAND_DIMS GATHER MAX_POOL_2D MAXIMUM MINIMUM
        MIRROR_PAD PACK PAD PADV2 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SELECT SELECT_V2 SLICE
        SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TILE TRANSPOSE UNPACK
    """
    tensors = tuple(TFLiteTensor(i, str(i), (1, 4), None, "float32", None, 0, 0, False, False) for i in range(3))
    for op in (*named.split(), "ADD", "CONV_2D", "MEAN", "MUL", "RELU", "SOFTMAX"):
        operators = (TFLiteOperator(0, op, 1, (0,), (1,), {}), TFLiteOperator(1, "CONV_2D", 1, (1,), (2,), {}))
        groups = tuning._same_scale_groups(TFLiteSubgraph("main", tensors, operators, (0,), (2,)))
        assert groups == ([[0, 1], [2]] if op in named.split() else [[0], [1], [2]]), op


def test_the_range_of_least_square_error():
    histogram = ActivationHistogram([0], -0.5, 50.0)
    values = np.append(np.random.default_rng(0).normal(0, 1, 1_000_000).clip(-0.5, None), 50).astype(np.float32)
    histogram(lambda index: values)
    assert histogram.counts.sum() == len(values)
    minimum, maximum = find_mse_range(histogram)
    found = range_mse(histogram, minimum, maximum)
    shares = np.linspace(0.3, 1, 15)
    assert found <= min(range_mse(histogram, -0.5 * low, 50 * high) for low in shares for high in shares)
    assert found < 0.7 * range_mse(histogram, -0.5, 50)
    scale = (maximum - minimum) / 255
    rounded = np.clip(np.round((values - minimum) / scale), 0, 255) * scale + minimum
    assert found == pytest.approx(np.mean((rounded.astype(np.float64) - values) ** 2), rel=0.1)


def test_a_range_without_outliers_stays():
    histogram = ActivationHistogram([0], 0.0, 1.0)
    histogram(lambda index: np.linspace(0, 1, 10_000, dtype=np.float32))
    assert find_mse_range(histogram) == (0, pytest.approx(1, abs=0.011))


# Rounding


def correlated(groups, terms, seed=1):
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(groups, 50, terms)) + 2 * rng.normal(size=(groups, 50, 1))
    return samples.transpose(0, 2, 1) @ samples / 50


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 24), st.integers(2, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_adaptive_rounding_stays_on_the_grid_and_never_does_worse(outputs, terms, depthwise, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(outputs, terms)) * (rng.random(terms) > 0.2)  # some terms are 0, as in a sparse layer
    moment = correlated(outputs if depthwise else 1, terms, seed)
    rounded, nearest = round_adaptively(rows, moment), round_to_nearest(rows)
    levels = rounded / weight_scales(rows)[:, None]
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
    np.testing.assert_array_equal(np.abs(rounded).max(1), np.abs(nearest).max(1))
    assert (np.abs(rounded - rows) < (ROUNDING_REACH + 1) * weight_scales(rows)[:, None]).all()
    assert not rounded[rows == 0].any()
    assert (output_mse(rounded - rows, moment) <= output_mse(nearest - rows, moment) + 1e-18).all()


@pytest.mark.parametrize(("groups", "terms"), [(1, 9), (64, 9), (1, 300)])
def test_adaptive_rounding_halves_the_error(groups, terms):
    rows, moment = np.random.default_rng(0).uniform(-1, 1, size=(64, terms)), correlated(groups, terms)
    nearest, adaptive = (
        output_mse(f - rows, moment).sum() for f in (round_to_nearest(rows), round_adaptively(rows, moment))
    )
    assert adaptive < 0.5 * nearest


def test_adaptive_rounding_is_near_the_best_there_is():
    rows, moment = np.array([[1.0, 0.3017, -0.5043, 0.2501]]), correlated(1, 4)
    scale = weight_scales(rows)[0]
    best = min(
        output_mse(np.array([[1.0, *(np.floor(rows[0, 1:] / scale) + up) * scale]]) - rows, moment)[0]
        for up in itertools.product((0, 1), repeat=3)
    )
    adaptive, nearest = (
        output_mse(rounded - rows, moment)[0] for rounded in (round_adaptively(rows, moment), round_to_nearest(rows))
    )
    assert best <= adaptive + 1e-15
    assert adaptive <= 0.5 * (best + nearest)


def test_weights_move_as_far_as_they_may():
    values = np.random.default_rng(0).normal(size=(500, 24)) @ np.random.default_rng(1).normal(size=(24, 24)) ** 3
    rows = np.random.default_rng(2).normal(size=(64, 24))
    rounded = round_adaptively(rows, (values.T @ values / len(values))[None])
    assert 1 < (np.abs(rounded - rows) / weight_scales(rows)[:, None]).max() < ROUNDING_REACH + 1


@pytest.mark.parametrize("groups", [1, 8])
def test_blocks_only_save_time(monkeypatch, groups):
    rows, moment = np.random.default_rng(0).normal(size=(8, 40)), correlated(groups, 40)
    expected = round_adaptively(rows, moment)
    monkeypatch.setattr(tuning, "_BLOCK", 7)
    np.testing.assert_allclose(round_adaptively(rows, moment), expected, atol=1e-12)


def test_dead_rows_and_terms_stay_what_they_are():
    rows, moment = np.zeros((2, 3)), np.zeros((1, 3, 3))
    rows[1] = 1, 0.26, 0
    rounded = round_adaptively(rows, moment)
    assert not rounded[0].any()
    np.testing.assert_allclose(rounded[1], round_to_nearest(rows)[1])


def test_moments_that_rounding_errors_leave_indefinite():
    # Two terms that are always the same: singular but for the damping, and below zero by a rounding error.
    moment = np.full((1, 3, 3), 1e8)
    moment[0, 0, 1] = moment[0, 1, 0] = 1.05e8
    rows = np.random.default_rng(0).normal(size=(4, 3))
    assert np.isfinite(round_adaptively(rows, moment)).all()
