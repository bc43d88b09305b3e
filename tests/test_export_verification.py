"""Parity: right files pass with room to spare, and damage to any part of a file or of its model is found."""

import dataclasses
import importlib
import json
import math

import keras
import numpy as np
import pytest
from export_networks import POST_TRAINING, noise
from keras import layers as kl
from tflite_edits import edited, flipped, reordered, shifted
from tiers import by_tier

from keras_nin import InputError, data
from keras_nin.export import SCHEMES, ParityLimits, Tuning, convert_model
from keras_nin.export.conversion import ModelConverter
from keras_nin.export.parity import (
    ComparedTensor,
    ParityCheck,
    closing_error,
    compare_outputs,
    find_compared_tensor,
    worst_channel_rms,
)
from keras_nin.export.verification import verify_files, with_first_output
from keras_nin.export.weight_comparison import find_worst_weight
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import QuantizationParameters, TFLiteTensor
from keras_nin.tflite.runner import TFLiteRunner

tflite_writer = importlib.import_module("tflite_writer")
ALL = ("digits", "color", "wide", "mask", "linear")


@pytest.fixture(scope="module")
def trained(export_network):
    return export_network("digits")


@pytest.fixture(scope="module")
def color(export_network):
    return export_network("color")


def failed(parity):
    return {check.name for check in parity.checks if not check.passed}


def content(network, scheme):
    return network.files[scheme].data


# Right files


@pytest.mark.parametrize("name", by_tier(ALL))
def test_right_files_pass_with_room(export_network, name):
    network = export_network(name)
    schemes = [scheme for scheme in network.files if scheme in (*POST_TRAINING, "int8 uint8")]
    for scheme, parity in zip(schemes, network.compare(*(network.files[s].tflite for s in schemes)), strict=True):
        assert parity.passed
        # Far from the limit, so that failing it means something.
        room = {check.name: check.value / check.limit for check in parity.checks if check.name.endswith("lsb")}
        room.pop("closing_error_lsb", None)
        assert max(room.values()) <= (0.68 if "adaptive" in str(network.files[scheme].tuning) else 0.5), scheme
        assert parity.logits_snr_db is None or parity.logits_snr_db > 30
        assert ("max_abs_diff_lsb" in room) == (scheme == "float32")


@pytest.mark.slow
def test_every_kernel_is_compared(export_network):
    for name in ALL:
        network = export_network(name)
        for scheme, converted in network.files.items():
            worst = find_worst_weight(network.model, converted.tflite)
            assert worst.compared == len(list(kernels(converted.tflite)))
            assert worst.lsb < {"float32": 0.001, "float16": 0.07}.get(scheme, 4 if converted.tuning else 0.501)


def test_the_record_of_trained_digits(trained):
    float32, int8 = trained.compare(content(trained, "float32"), content(trained, "int8"))
    common = ["top1_match", "top1_drop_pp", "weight_diff_lsb"]
    assert [check.name for check in float32.checks] == ["max_abs_diff_lsb", *common]
    assert [check.name for check in int8.checks] == ["channel_rms_lsb", "closing_error_lsb", *common]
    assert (int8.lsb, int8.images, int8.source) == (1 / 256, len(trained.test), "tests")
    assert int8.top1_match >= 0.98
    assert int8.model_top5 is not None
    assert 0 < int8.rms_diff_lsb <= int8.max_abs_diff_lsb
    assert trained.compare(content(trained, "int8"))[0].to_json() == int8.to_json()


@pytest.mark.slow
def test_tuning_brings_a_trained_network_nearer_to_float(trained):
    source = data.open_dataset("digits")
    images = source.load(source.splits["test"], (8, 8), 1)
    expected = trained.model.predict(images, verbose=0)
    errors = []
    with ModelConverter(trained.model) as converter:
        for tuning in (Tuning.plain(), Tuning("minmax", "adaptive", True)):
            made, _ = converter.convert(SCHEMES["int8"], trained.calibration, tuning=tuning)
            errors.append(np.mean((TFLiteRunner(made).predict(images).astype(np.float64) - expected) ** 2))
    assert errors[1] < 0.9 * errors[0]


def test_batches_change_nothing(trained):
    runners = [TFLiteRunner(trained.files[scheme].tflite) for scheme in ("float32", "int8")]
    batches = [(trained.test[:40], trained.labels[:40]), (trained.test[40:], trained.labels[40:])]
    together = verify_files(trained.model, runners, batches, source="tests")
    alone = trained.compare(*(runner.model for runner in runners))
    assert [parity.to_json() for parity in together] == [parity.to_json() for parity in alone]


# Another model


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, kl.Conv2D)]


def swapped_classes(model):
    """The order of the last layer's filters in which the smallest and the largest change places."""
    last = convolutions(model)[-1]
    order = np.argsort(last.bias.numpy() + last.kernel.numpy().sum((0, 1, 2)))
    places = np.arange(last.filters)
    places[[order[0], order[-1]]] = places[[order[-1], order[0]]]
    return places


def swap_classes(model):
    places, last = swapped_classes(model), convolutions(model)[-1]
    last.set_weights([weight[..., places] for weight in last.get_weights()])


def with_swapped_classes(tflite, places):
    """The file of a model whose classes are swapped, which says so in weights, biases and their scales."""
    operator = [operator for operator in tflite.main.operators if operator.op == "CONV_2D"][-1]
    content = tflite.content
    for index in operator.inputs[1:]:
        content = reordered(content, tflite.main.tensors[index], 0, places)
    return content


def shift_biases(model):
    """Biases of one layer, by a fifth of the range of the layer's weighted sums."""
    layer = convolutions(model)[1]
    until = keras.Model(model.inputs, layer.output)
    sums = until.predict(noise(16, model.input_shape[1:], 3), verbose=0)
    layer.bias.assign_add(np.full(layer.filters, 0.2 * np.ptp(sums)))


def permute_weights(model):
    generator = np.random.default_rng(9)
    model.set_weights([generator.permutation(weight.ravel()).reshape(weight.shape) for weight in model.get_weights()])


def drop_filters(model):
    """A quarter of a layer's filters is gone."""
    layer = convolutions(model)[0]
    kernel = layer.kernel.numpy()
    kernel[..., : layer.filters // 4] = 0
    layer.kernel.assign(kernel)


@pytest.mark.parametrize(
    ("damage", "name"),  # each damage before a softmax, a sigmoid or no function
    [
        (swap_classes, "digits"),
        (shift_biases, "wide"),
        (permute_weights, "digits"),
        (permute_weights, "mask"),
        (drop_filters, "linear"),
        *(pytest.param(damage, name, marks=pytest.mark.slow) for damage, name in (
            (swap_classes, "wide"), (swap_classes, "linear"),
            (shift_biases, "digits"), (shift_biases, "linear"), (shift_biases, "mask"),
            (permute_weights, "wide"), (permute_weights, "linear"),
            (drop_filters, "digits"), (drop_filters, "wide"), (drop_filters, "mask"))),
    ],
)  # fmt: skip
def test_another_model_fails(export_network, damage, name):
    network = export_network(name)
    wrong = network.copy()
    damage(wrong)
    for parity in network.compare(content(network, "float32"), content(network, "int8"), model=wrong):
        assert {"weight_diff_lsb", "max_abs_diff_lsb", "channel_rms_lsb"} & failed(parity)
        assert failed(parity) != {"weight_diff_lsb"}  # the outputs show it too


def test_a_model_with_nan_fails(export_network):
    linear = export_network("linear")
    wrong = linear.copy()
    wrong.layers[-1].bias.assign(np.full(6, np.nan))
    assert not any(p.passed for p in linear.compare(content(linear, "float32"), content(linear, "int8"), model=wrong))


def test_the_output_alone_would_miss_swapped_classes(export_network):
    """Why what goes into the softmax is compared: behind it nothing of a network with many classes is left."""
    wide = export_network("wide")
    (parity,) = wide.compare(with_swapped_classes(wide.files["int8"].tflite, swapped_classes(wide.model)))
    assert parity.rms_diff_lsb < 1
    assert failed(parity) == {"channel_rms_lsb", "weight_diff_lsb"}


def test_accuracy_shows_swapped_classes(trained):
    (parity,) = trained.compare(with_swapped_classes(trained.files["float32"].tflite, swapped_classes(trained.model)))
    assert failed(parity) == {"max_abs_diff_lsb", "top1_match", "top1_drop_pp", "weight_diff_lsb"}
    assert parity.file_top1 < parity.model_top1


# Damaged files


def kernels(tflite):
    """The constants of a file that convolutions and dense layers multiply with, as it stores them."""
    for operator in tflite.main.operators:
        if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            yield tflite.main.stored_constant(operator.inputs[1])


@pytest.mark.parametrize("scheme", POST_TRAINING)
def test_one_flipped_bit_or_two_swapped_filters_fail_in_any_kernel(trained, color, scheme):
    generator = np.random.default_rng(0)
    for network in (color, trained) if scheme == "int8" else (color,):
        tflite = network.files[scheme].tflite
        for tensor in kernels(tflite):
            axis = 3 if tensor.shape[0] == 1 else 0  # depthwise: the channels are the last axis
            order = [1, 0, *range(2, tensor.shape[axis])]
            for wrong in (
                flipped(tflite.content, tensor, generator.integers(tensor.elements)),
                reordered(tflite.content, tensor, axis, order),
            ):
                assert not find_worst_weight(network.model, read_model(wrong)).lsb <= 4, tensor.name  # or NaN


@pytest.mark.parametrize("scheme", POST_TRAINING)
def test_red_and_blue_that_changed_places_fail(color, scheme):
    """In the first kernel, and in the images that the file alone is given."""
    tflite = color.files[scheme].tflite
    (parity,) = color.compare(reordered(tflite.content, next(kernels(tflite)), 3, [2, 1, 0]))
    assert {"weight_diff_lsb"} < failed(parity)  # and the outputs show it
    runner, compared = TFLiteRunner(tflite), find_compared_tensor(tflite)
    reference = color.model.predict(color.test, verbose=0)
    assert compare_outputs(reference, runner.predict(color.test), compared=compared).passed
    assert not compare_outputs(reference, runner.predict(color.test[..., ::-1]), compared=compared).passed


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_a_corrupted_kernel_fails(export_network, scheme):
    def corrupt(model, subgraph):
        buffers = [model.buffers[tensor.buffer] for tensor in subgraph.tensors]
        largest = max(buffers, key=lambda buffer: 0 if buffer.data is None else len(buffer.data))
        values = np.array(largest.data, np.uint8)
        weights = values.view(np.float32 if scheme == "float32" else np.int8)
        weights[: len(weights) // 8] = np.abs(weights).max()
        largest.data = values

    for name in ("digits", "wide", "linear"):
        network = export_network(name)
        assert not network.compare(edited(content(network, scheme), corrupt))[0].passed


@pytest.mark.parametrize("name", ["digits", "mask", "linear"])
@pytest.mark.parametrize("which", ["weights", "output"])
def test_a_wrong_scale_fails(export_network, name, which):
    def rescale(_, subgraph):
        convolution = next(operator for operator in reversed(subgraph.operators) if len(operator.inputs) == 3)
        tensor = subgraph.tensors[convolution.inputs[1] if which == "weights" else subgraph.outputs[0]]
        # The runtime takes the multiplier of a convolution from the scales: a smaller one of the output clips.
        tensor.quantization.scale = np.array(tensor.quantization.scale, np.float32) * np.float32(0.5)

    network = export_network(name)
    wrong = edited(content(network, "int8"), rescale)
    if which == "output" and name == "digits":  # the output of a softmax has one scale, which the runtime knows
        with pytest.raises(InputError, match="a file that the LiteRT runtime runs"):
            network.compare(wrong)
    else:
        assert not network.compare(wrong)[0].passed


@pytest.mark.parametrize("by", [4, 16, -16])
@pytest.mark.parametrize("which", ["before", "after"])
def test_a_wrong_zero_point_around_a_pooling_fails(trained, by, which):
    """Elsewhere both sides read the same zero point, and only what is clipped is lost."""
    main = trained.files["int8"].tflite.main
    pooling = next(operator for operator in main.operators if operator.op == "AVERAGE_POOL_2D")
    tensor = main.tensors[(pooling.inputs if which == "before" else pooling.outputs)[0]]
    wrong = shifted(content(trained, "int8"), tensor, by)
    if by < 0:  # the least of an int8 already: the runtime refuses less
        with pytest.raises(InputError, match="a file that the LiteRT runtime runs"):
            trained.compare(wrong)
    else:
        assert "channel_rms_lsb" in failed(trained.compare(wrong)[0])


def test_a_wrong_zero_point_of_the_output_fails(trained):
    """The runtime knows the softmax's own; a cast behind it may say anything."""
    main = trained.files["int8 uint8"].tflite.main
    wrong = shifted(content(trained, "int8 uint8"), main.tensors[main.outputs[0]], 9)
    assert not trained.compare(wrong)[0].passed
    main = trained.files["int16x8"].tflite.main
    with pytest.raises(InputError, match="a file that the LiteRT runtime runs"):
        trained.compare(shifted(content(trained, "int16x8"), main.tensors[main.operators[0].outputs[0]], 1))


def test_a_calibration_on_nothing_fails(export_network):
    linear = export_network("linear")
    dark = convert_model(linear.model, "int8", np.zeros_like(linear.calibration[:4]), tuning=Tuning.plain()).tflite
    assert not linear.compare(dark)[0].passed


def test_weights_without_a_counterpart_are_not_checked(color):
    other = keras.Sequential([keras.Input((12, 12, 3)), kl.Conv2D(4, 3, name="nobody")])
    assert find_worst_weight(other, color.files["int8"].tflite) is None


@pytest.mark.slow
def test_float_operators_inside_a_quantized_file():
    """In the middle, and at the end: the output is quantized again after the last of them, and compared there."""
    stack = [kl.Conv2D(4, 3, name="conv1"), kl.Conv2D(4, 1, name="conv2")]
    floats = [kl.Lambda(lambda x: keras.ops.arctan2(x, x + 9), name=f"arctan{number}") for number in (1, 2)]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), stack[0], floats[0], stack[1], floats[1]])
    images = noise(20, (8, 8, 3), 1)
    converted = convert_model(model, "int8", images, allow_float=True, tuning=Tuning.plain())
    assert len(converted.float_operators) > 1
    runner = TFLiteRunner(converted.tflite)
    compared = find_compared_tensor(runner.model)
    assert (compared.closing, compared.tensor.dtype) == (None, "int8")
    (parity,) = verify_files(model, [runner], [(images, None)], source="tests", random_weights=True)
    assert [check.name for check in parity.checks] == ["channel_rms_lsb", "weight_diff_lsb"]
    assert parity.passed


# Limits


def test_the_limits_are_arithmetic(trained):
    """Nine kernels and four operators without weights; only the large kernels are stored as int8 by `dynamic`."""
    limits = {name: find_compared_tensor(made.tflite) for name, made in trained.files.items()}
    assert limits["float32"] is None
    assert limits["int8"].limit == pytest.approx(8 * math.sqrt(13 / 6))
    assert limits["int8 uint8"].limit == pytest.approx(8 * math.sqrt(15 / 6))  # and a cast at either end
    assert limits["int16x8"].limit == pytest.approx(257 * 8 * math.sqrt(9 / 12))
    small = sum(tensor.dtype == "float32" for tensor in kernels(trained.files["dynamic"].tflite))
    assert limits["dynamic"].limit == pytest.approx(8 * math.sqrt((9 - small) / 6))
    assert limits["float16"].limit == pytest.approx(8 * math.sqrt(9) * 42.5 * 2.1e-4)
    assert (limits["int8"].closing_limit, limits["int16x8"].closing_limit) == (2, 22)
    assert limits["int8 uint8"].tensor.dtype == "int8"  # behind the cast
    assert limits["dynamic"].lsb is None
    assert {compared.closing for compared in limits.values() if compared} == {"SOFTMAX"}


def test_a_file_of_4_bit_weights_and_one_with_a_loop_have_the_limits_of_what_they_are(tmp_path):
    """Neither is a float32 file: the weights are rounded, of the second inside a loop."""
    kernel = np.random.default_rng(0).normal(0, 1, (8, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((8,), name="x"), kl.Dense(4, use_bias=False, name="dense")])
    model.layers[-1].kernel.assign(kernel)
    scales = np.abs(kernel).max(0) / 7
    levels = np.round(kernel / scales).T.astype(np.int8).reshape(-1, 2)
    quantization = tflite_writer.quantization(scales.tolist())
    weights = tflite_writer.tensor("w", (4, 8), data=(levels[:, 0] & 15 | levels[:, 1] << 4), quantization=quantization)
    weights.type = tflite_writer.generated.TensorType.INT4
    ends = [tflite_writer.tensor("x", (1, 8), "FLOAT32"), weights, tflite_writer.tensor("y", (1, 4), "FLOAT32")]
    dense = tflite_writer.operator("FULLY_CONNECTED", [0, 1, -1], [2], "FullyConnectedOptions")
    tflite = read_model(tflite_writer.write(tmp_path / "int4.tflite", ends, [dense]))
    np.testing.assert_array_equal(tflite.data(tflite.main.tensors[1]), levels.reshape(4, 8))
    samples = np.random.default_rng(1).normal(0, 1, (40, 8)).astype(np.float32)
    (parity,) = verify_files(model, [TFLiteRunner(tflite)], [(samples, None)], source="tests", random_weights=True)
    assert [(check.name, check.passed) for check in parity.checks] == [
        ("channel_rms_lsb", True),
        ("weight_diff_lsb", True),
    ]
    assert parity.checks[1].value == pytest.approx(0.5, abs=0.2)  # of a step of 4 bits
    assert parity.checks[0].limit == pytest.approx(8 * math.sqrt(1 / 6 + (127 / 7) ** 2 / 12))
    assert parity.checks[0].value > 1  # far beyond the limit of float32
    body = [tflite_writer.tensor("x", (1, 8), "FLOAT32"),
            tflite_writer.tensor("w", (8, 8), data=1, quantization=tflite_writer.quantization([0.1])),
            tflite_writer.tensor("y", (1, 8), "FLOAT32")]  # fmt: skip
    loop = tflite_writer.operator("WHILE", [0], [1], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=1)
    main = [tflite_writer.tensor("x", (1, 8), "FLOAT32"), tflite_writer.tensor("y", (1, 8), "FLOAT32")]
    more = ((body, [tflite_writer.operator("FULLY_CONNECTED", [0, 1, -1], [2], "FullyConnectedOptions")]),)
    looped = read_model(tflite_writer.write(tmp_path / "loop.tflite", main, [loop], more=more))
    assert find_compared_tensor(looped).limit == pytest.approx(8 * math.sqrt(1 / 6))


def test_every_limit_can_be_set(trained):
    sources = [trained.files[scheme].tflite for scheme in POST_TRAINING]
    strict = ParityLimits(max_error=0.0, min_snr=500.0, max_weight=-1.0, max_rms=0.0, max_closing=0.0)
    for scheme, parity in zip(POST_TRAINING, trained.compare(*sources, limits=strict), strict=True):
        others = set() if scheme == "float32" else {"channel_rms_lsb", "closing_error_lsb"}
        assert failed(parity) == {"max_abs_diff_lsb", "snr_db", "weight_diff_lsb"} | others
    for parity in trained.compare(*sources, limits=ParityLimits(0, 100, 1e9, 1e9, 1e9, -1e9, None)):
        assert parity.passed
        assert "weight_diff_lsb" not in {check.name for check in parity.checks}


def test_the_default_limits_are_those_of_the_documentation():
    assert ParityLimits() == ParityLimits(0.9, 2.5, None, None, None, None, 4.0)
    assert ParityLimits().untrained() == ParityLimits(None, None, None, None, None, None, 4.0)


def test_limits_of_classes():
    reference = np.eye(10, dtype=np.float32)
    output = reference.copy()
    output[0] = reference[1]
    parity = compare_outputs(reference, output, np.arange(10), limits=ParityLimits(0.9, 10))
    assert [(check.name, check.passed) for check in parity.checks[1:]] == [("top1_match", True), ("top1_drop_pp", True)]
    parity = compare_outputs(reference, output, np.arange(10), limits=ParityLimits(0.91, 9.9))
    assert parity.checks[1:] == (
        ParityCheck("top1_match", 0.9, 0.91, False),
        ParityCheck("top1_drop_pp", 10.0, 9.9, False),
    )


# Numbers


def test_what_the_numbers_mean():
    reference = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 5.0]], np.float32)
    output = np.array([[4.0, 4.0, 0.0], [0.0, 0.0, 5.0]], np.float32)
    parity = compare_outputs(reference, output)
    assert parity.snr_db == pytest.approx(10 * math.log10(50))
    assert parity.cosine == pytest.approx(53 / math.sqrt(50 * 57))
    assert parity.mean_abs_diff_lsb == pytest.approx(parity.max_abs_diff_lsb / 6)
    assert parity.max_abs_diff_lsb == pytest.approx(255 / 5)
    assert (parity.ties, parity.top1_match) == (1, 0.5)  # a tie goes to the lower class, and that is another one here
    assert parity.top1_in_top5 is None
    exact = compare_outputs(reference, reference, limits=ParityLimits(min_snr=90))
    assert exact.snr_db is None
    assert exact.passed
    assert "snr_db" in {check.name for check in exact.checks}
    counting = np.tile(np.arange(10, dtype=np.float32), (10, 1))
    assert compare_outputs(np.eye(10, dtype=np.float32), counting).top1_in_top5 == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_not_finite_never_passes(trained, value, side, quantized, recwarn):
    pair = [np.full((3, 10), 0.1, np.float32) for _ in range(2)]
    pair[side][1, 4] = value
    compared = find_compared_tensor(trained.files["int8"].tflite) if quantized else None
    parity = compare_outputs(*pair, compared=compared, values=np.log(np.abs(pair[1])), limits=ParityLimits())
    assert not parity.passed
    document = json.loads(json.dumps(parity.to_json(), allow_nan=False))
    assert document["max_abs_diff_lsb"] is None
    assert not recwarn.list


@pytest.mark.parametrize("value", [0.0, 1e-3, -7.0, np.nan])
def test_constant_outputs_get_no_verdict(value):
    reference = np.full((5, 1), value, np.float32)
    parity = compare_outputs(reference, reference, limits=ParityLimits())
    assert (parity.passed, parity.checks) == (False, ())
    assert parity.no_verdict.endswith(" for all 5 images")
    assert parity.top1_match is None  # one output is no vector of classes
    alone = compare_outputs(reference[:1], reference[:1], limits=ParityLimits())
    assert alone.passed == np.isfinite(value)  # one image may have any output
    nearly = reference + np.float32([0, 0, 0, 0, 1e-2])[:, None]
    assert compare_outputs(nearly, np.nextafter(nearly, np.float32(1))).passed == np.isfinite(value)
    assert not compare_outputs(nearly, nearly + 1e-3).passed


@pytest.mark.slow
def test_outputs_of_class_indices():
    """The scores before an argmax are compared, also where the converter drops a softmax; else the indices alone."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3), name="image")
    features = kl.Conv2D(8, 3, padding="same", activation="relu", name="conv")(image)
    scores = kl.Conv2D(4, 1, name="scores")(features)
    outputs = {
        "soft": keras.ops.argmax(kl.Softmax()(scores), axis=-1),
        "kept": keras.ops.cast(keras.ops.argmax(scores, axis=-1, keepdims=True), "uint8"),
        "class": keras.ops.argmax(keras.ops.mean(scores, (1, 2)), axis=-1),
        "positive": keras.ops.cast(scores[..., 0] > 0, "int32"),
    }
    model = keras.Model(image, [kl.Identity(name=name)(tensor) for name, tensor in outputs.items()], name="choices")
    images = np.random.default_rng(0).random((40, 12, 12, 3), np.float32)
    files = [
        TFLiteRunner(convert_model(model, name, images, tuning=Tuning.plain()).tflite) for name in ("float32", "int8")
    ]
    limits = ParityLimits(max_drop=15)
    truth = dict(zip(outputs, (np.asarray(values) for values in model(images)), strict=True))
    for parity in verify_files(model, files, [(images, truth)], source="noise", limits=limits):
        by_name = {output.output: output for output in parity.outputs}
        assert (failed(parity), list(by_name)) == (set(), list(outputs))
        tasks = [output.task for output in by_name.values()]
        assert tasks == ["segmentation", "segmentation", "classification", "segmentation"]
        checks = {name: {check.name for check in output.checks} for name, output in by_name.items()}
        assert all(("argmax_match" in names) == (name != "positive") for name, names in checks.items())
        assert checks["positive"] == {"pixel_match", "mean_iou_drop_pp"}
        assert by_name["positive"].snr_db is None
        assert by_name["class"].model_top1 == 1
        assert by_name["soft"].match == by_name["kept"].match == by_name["kept"].scores["file"]["pixel_accuracy"]
    untrained = verify_files(model, files[:1], [(images, None)], source="noise", random_weights=True)[0]
    reasons = {output.output: output.no_verdict for output in untrained.outputs}
    assert [name for name, reason in reasons.items() if reason] == ["positive"]
    layer = model.get_layer("scores")
    layer.set_weights([weights[..., ::-1] for weights in layer.get_weights()])
    damaged = verify_files(model, files[:1], [(images, None)], source="noise", random_weights=True)[0]
    named = {(check.output, check.name) for check in damaged.checks if not check.passed}
    assert {("soft", "max_abs_diff_lsb"), ("kept", "max_abs_diff_lsb"), ("class", "max_abs_diff_lsb")} <= named


def test_labels():
    reference = np.array([[0.1, 0.2, 0.7]], np.float32)
    parity = compare_outputs(reference, reference, np.array([2]), limits=ParityLimits())
    assert (parity.images, parity.top1_match, parity.model_top1, parity.passed) == (1, 1.0, 1.0, True)
    assert parity.model_top5 is parity.file_top5 is None  # of three classes
    parity = compare_outputs(reference, reference, None, limits=ParityLimits())
    assert parity.model_top1 is parity.file_top1 is parity.model_top5 is None
    assert [check.name for check in parity.checks] == ["max_abs_diff_lsb", "top1_match"]
    with pytest.raises(InputError, match="labels from 0 to 2, .* Received: 536 in 'photos'"):
        compare_outputs(reference, reference, np.array([536]), source="photos")


def test_the_record_is_rounded_so_that_the_same_command_writes_the_same_bytes():
    reference = np.linspace(0, 1, 20, dtype=np.float32).reshape(2, 10)
    parity = compare_outputs(reference, reference + np.float32(1e-7))
    largest = parity.max_abs_diff_lsb
    assert parity.to_json()["max_abs_diff_lsb"] == float(f"{largest:.5g}")
    assert parity.to_json() == dataclasses.replace(parity, max_abs_diff_lsb=largest * (1 + 1e-9)).to_json()


def test_shapes_that_differ(export_network, trained):
    linear = export_network("linear")
    with pytest.raises(InputError, match=r"outputs of shape \(3,\). Received: a file with \(4,\)"):
        compare_outputs(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"with the input \(8, 8, 1\) of 'nin_digits'. Received: .* \(12, 12, 3\)"):
        linear.compare(content(linear, "float32"), model=trained.model)
    short = keras.Model(trained.model.inputs, kl.Dense(4)(trained.model.outputs[0]), name="short")
    with pytest.raises(InputError, match=r"with the output \(4,\) of 'short'. Received: the bytes given with \(10,\)"):
        trained.compare(content(trained, "float32"), model=short)
    with pytest.raises(InputError, match="at least one image"):
        verify_files(trained.model, [TFLiteRunner(content(trained, "float32"))], [], source="none")


# What is compared behind a softmax or a sigmoid


def test_the_tensor_that_is_compared(export_network):
    expected = {"digits": "SOFTMAX", "wide": "SOFTMAX", "mask": "LOGISTIC", "linear": None, "color": None}
    for name, closing in expected.items():
        files = export_network(name).files
        assert find_compared_tensor(files["float32"].tflite) is None
        assert find_compared_tensor(files["int8"].tflite).closing == closing


def test_the_file_up_to_its_softmax(trained):
    tflite = trained.files["int8"].tflite
    compared = find_compared_tensor(tflite)
    inner = with_first_output(tflite, compared.tensor)
    assert read_model(inner.content) == inner
    logits = TFLiteRunner(inner).predict(trained.test)
    assert closing_error(TFLiteRunner(tflite).predict(trained.test), logits, compared) <= 1.01
    before = keras.Model(trained.model.inputs, trained.model.layers[-2].output)
    differences = (logits - before.predict(trained.test, verbose=0)) / compared.tensor.quantization.scales[0]
    assert np.sqrt((differences**2).mean()) < 2


def compared_at(closing, scale):
    """A compared tensor with the range of +-127 steps of `scale`."""
    quantization = QuantizationParameters((scale,), (0,), 0)
    tensor = TFLiteTensor(0, "logits", (1, 10), None, "int8", quantization, 0, 0, False, False)
    return ComparedTensor(tensor, closing, 1 / 256, 10.0, 2.0)


def test_logits_are_found_again_from_probabilities():
    compared = compared_at("SOFTMAX", 0.1)
    logits = np.random.default_rng(0).normal(0, 2, (50, 10))
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    assert worst_channel_rms(probabilities, logits + 3, compared) < 1e-3  # a softmax forgets a constant
    wrong = logits.copy()
    wrong[:, 4] += 0.2
    assert worst_channel_rms(probabilities, wrong, compared) == pytest.approx(2, abs=0.1)


def test_probabilities_that_say_only_which_class_is_largest():
    compared = compared_at("SOFTMAX", 1.0)
    probabilities = np.eye(10, dtype=np.float32)[[3]]
    right = np.full((1, 10), -100.0)
    right[0, 3] = 0
    assert worst_channel_rms(probabilities, right, compared) == 0
    assert worst_channel_rms(probabilities, right[:, ::-1], compared) > compared.limit


def test_sigmoids_are_inverted_too():
    compared = compared_at("LOGISTIC", 1.0)
    logits = np.linspace(-100, 100, 41).reshape(41, 1)
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert worst_channel_rms(probabilities, logits, compared) < 0.1
    assert worst_channel_rms(probabilities, -logits, compared) > compared.limit
