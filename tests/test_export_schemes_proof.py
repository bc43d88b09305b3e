"""Parity of every scheme: right files hold with room to spare, and damage to any part of a file is seen."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from keras import layers as kl
from tflite_edits import flipped, reordered, shifted

from keras_nin import InputError, data, export, models
from keras_nin.export import Limits, tolerance
from keras_nin.export.parity import compare_outputs
from keras_nin.export.schemes import SCHEMES
from keras_nin.export.verification import find_worst_weight, verify_files
from keras_nin.tflite import reader as tflite_graph
from keras_nin.tflite.runner import TFLiteRunner

NAMES = [scheme.name for scheme in SCHEMES.values() if not scheme.trained]


class Network:
    """A model, images, and its files by scheme."""

    def __init__(self, model, calibration, test, labels=None):
        self.model, self.test, self.labels = model, test, labels
        made = export.convert_schemes(model, [*NAMES, SCHEMES["int8"].with_io("uint8")], calibration)
        self.files = dict(zip([*NAMES, "uint8"], (each.data for each in made), strict=True))

    def compare(self, content, limits=None):
        (parity,) = verify_files(
            self.model,
            [TFLiteRunner(content)],
            [(self.test, self.labels)],
            source="tests",
            random_weights=self.labels is None,
            limits=limits,
        )
        return parity


@pytest.fixture(scope="module")
def digits():
    source = data.open_dataset("digits")
    parts = {split: source.select(split, 100) for split in ("calibration", "test")}
    images = {split: source.load(indices, (8, 8), 1) for split, indices in parts.items()}
    model = models.build_model("nin_digits", weights="digits")
    return Network(model, images["calibration"], images["test"], source.labels_of(parts["test"]))


@pytest.fixture(scope="module")
def random():
    """Colour images, BatchNormalization that is folded in, a depthwise and a dense layer, and no softmax."""
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
    model = keras.Sequential([keras.Input((12, 12, 3), name="image"), *stack], name="random")
    generator = np.random.default_rng(0)
    for weight in model.get_layer("norm").weights:
        weight.assign(generator.uniform(0.5, 2, weight.shape))
    kernel = model.get_layer("conv").kernel
    kernel.assign(8 * kernel)  # so that the image matters more than the offsets
    # Noise of one brightness has no channel order: most photographs have more of one colour.
    calibration, test = generator.random((2, 40, 12, 12, 3), np.float32) * np.float32([1, 0.5, 0.1])
    return Network(model, calibration, test)


@pytest.fixture(params=["digits", "random"])
def network(request):
    return request.getfixturevalue(request.param)


def kernels(content):
    """The constants of a file that convolutions and dense layers multiply with, as it stores them."""
    main = tflite_graph.read_model(content).main
    producers = {operator.outputs[0]: operator for operator in main.operators}
    for operator in main.operators:
        if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            cast = producers.get(operator.inputs[1])
            is_cast = cast is not None and cast.op == "DEQUANTIZE"
            yield main.tensors[cast.inputs[0] if is_cast else operator.inputs[1]]


@pytest.mark.parametrize("scheme", [*NAMES, "uint8"])
def test_a_right_file_holds_with_room(network, scheme):
    parity = network.compare(network.files[scheme])
    assert parity.passed
    values = {check.name: check.value / check.limit for check in parity.checks if check.name.endswith("steps")}
    values.pop("closing_error_lsb", None)
    assert max(values.values()) <= 0.5
    assert parity.cosine > 0.999
    assert parity.snr_db > 30
    assert ("max_abs_diff_lsb" in values) == (scheme == "float32")


@pytest.mark.parametrize("scheme", NAMES)
def test_one_flipped_bit_in_any_kernel_fails(network, scheme):
    content = network.files[scheme]
    generator = np.random.default_rng(0)
    for tensor in kernels(content):
        wrong = flipped(content, tensor, generator.integers(tensor.elements))
        failed = {check.name for check in network.compare(wrong).checks if not check.passed}
        assert "weight_diff_lsb" in failed, tensor.name


@pytest.mark.parametrize("scheme", NAMES)
def test_two_filters_that_changed_places_fail_in_any_kernel(network, scheme):
    content = network.files[scheme]
    for tensor in kernels(content):
        axis = 3 if tensor.shape[0] == 1 else 0  # depthwise: the channels are the last axis
        order = [1, 0, *range(2, tensor.shape[axis])]
        assert not network.compare(reordered(content, tensor, axis, order)).passed, tensor.name


@pytest.mark.parametrize("scheme", NAMES)
def test_red_and_blue_that_changed_places_fail(random, scheme):
    content = random.files[scheme]
    first = next(kernels(content))
    parity = random.compare(reordered(content, first, 3, [2, 1, 0]))
    assert {"weight_diff_lsb"} < {check.name for check in parity.checks if not check.passed}  # and the outputs show it


@pytest.mark.parametrize("scheme", NAMES)
def test_images_whose_channels_changed_places_fail(random, scheme):
    """The file alone is given blue before red: the outputs show it."""
    runner = TFLiteRunner(random.files[scheme])
    place = tolerance.find_compared_tensor(runner.model)
    reference = random.model.predict(random.test, verbose=0)
    assert compare_outputs(reference, runner.predict(random.test), place=place).passed
    assert not compare_outputs(reference, runner.predict(random.test[..., ::-1]), place=place).passed


@pytest.mark.parametrize("by", [4, 16, -16])
@pytest.mark.parametrize("which", ["before", "after"])
def test_a_wrong_zero_point_around_a_pooling_fails(digits, by, which):
    """Elsewhere both sides read the same zero point, and only what is cut off is lost."""
    content = digits.files["int8"]
    main = tflite_graph.read_model(content).main
    pooling = next(operator for operator in main.operators if operator.op == "AVERAGE_POOL_2D")
    tensor = main.tensors[(pooling.inputs if which == "before" else pooling.outputs)[0]]
    if by < 0:  # the least of an int8 already: the runtime refuses less
        with pytest.raises(InputError, match="a file that the LiteRT runtime runs"):
            digits.compare(shifted(content, tensor, by))
    else:
        failed = [check.name for check in digits.compare(shifted(content, tensor, by)).checks if not check.passed]
        assert "channel_rms_lsb" in failed


def test_a_wrong_zero_point_at_uint8_ends_fails(digits):
    """The runtime knows the softmax's own; a cast behind it may say anything."""
    content = digits.files["uint8"]
    main = tflite_graph.read_model(content).main
    (parity, wrong) = (digits.compare(each) for each in (content, shifted(content, main.tensors[main.outputs[0]], 9)))
    assert parity.passed
    assert not wrong.passed


def test_a_wrong_zero_point_of_16_bits_is_refused(digits):
    content = digits.files["int16x8"]
    main = tflite_graph.read_model(content).main
    with pytest.raises(InputError, match="a file that the LiteRT runtime runs"):
        digits.compare(shifted(content, main.tensors[main.operators[0].outputs[0]], 1))


def test_the_limits_are_arithmetic(digits):
    """Nine kernels and four operators without weights; only the large kernels are stored as int8 by `dynamic`."""
    limits = {
        name: tolerance.find_compared_tensor(tflite_graph.read_model(content)) for name, content in digits.files.items()
    }
    assert limits["float32"] is None
    assert limits["int8"].limit == pytest.approx(8 * math.sqrt(13 / 6))
    assert limits["uint8"].limit == pytest.approx(8 * math.sqrt(15 / 6))  # and a cast at either end
    assert limits["int16x8"].limit == pytest.approx(257 * 8 * math.sqrt(9 / 12))
    small = sum(tensor.dtype == "float32" for tensor in kernels(digits.files["dynamic"]))
    assert limits["dynamic"].limit == pytest.approx(8 * math.sqrt((9 - small) / 6))
    assert limits["float16"].limit == pytest.approx(8 * math.sqrt(9) * 42.5 * 2.1e-4)
    assert (limits["int8"].closing_limit, limits["int16x8"].closing_limit) == (2, 22)
    assert limits["uint8"].tensor.dtype == "int8"  # behind the cast
    assert limits["dynamic"].step is None
    assert {place.closing for place in limits.values() if place} == {"SOFTMAX"}


@pytest.mark.parametrize("scheme", NAMES)
def test_every_limit_can_be_set(digits, scheme):
    given = Limits(max_error=0.0, min_snr=500.0, max_weight=-1.0, max_rms=0.0, max_closing=0.0)
    failed = {check.name for check in digits.compare(digits.files[scheme], given).checks if not check.passed}
    others = set() if scheme == "float32" else {"channel_rms_lsb", "closing_error_lsb"}
    assert failed == {"max_abs_diff_lsb", "snr_db", "weight_diff_lsb"} | others
    least = Limits(0, 100, 1e9, 1e9, 1e9, -1e9, None)
    checks = digits.compare(digits.files[scheme], least).checks
    assert all(check.passed for check in checks)
    assert "weight_diff_lsb" not in {check.name for check in checks}


def test_every_kernel_is_compared(network):
    for name, content in network.files.items():
        worst = find_worst_weight(network.model, tflite_graph.read_model(content))
        assert worst.compared == len(list(kernels(content)))
        assert worst.steps < {"float32": 0.001, "float16": 0.07}.get(name, 0.501)


def test_weights_without_a_counterpart_are_not_judged(random):
    keras.utils.set_random_seed(0)
    other = keras.Sequential([keras.Input((12, 12, 3)), kl.Conv2D(4, 3, name="nobody")])
    assert find_worst_weight(other, tflite_graph.read_model(random.files["int8"])) is None


def test_two_runs_agree(digits):
    one, two = (digits.compare(digits.files["int8"]) for _ in range(2))
    assert one.to_json() == two.to_json()


def test_what_the_numbers_mean():
    reference = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 5.0]], np.float32)
    output = np.array([[4.0, 4.0, 0.0], [0.0, 0.0, 5.0]], np.float32)
    parity = compare_outputs(reference, output)
    assert parity.snr_db == pytest.approx(10 * math.log10(50))
    assert parity.cosine == pytest.approx(53 / math.sqrt(50 * 57))
    assert parity.mean_abs_diff_lsb == pytest.approx(parity.max_abs_diff_lsb / 6)
    assert (parity.ties, parity.top1_match) == (1, 0.5)  # a tie goes to the lower class, and that is another one here
    assert parity.top1_in_top5 is None
    assert compare_outputs(reference, reference).snr_db is None
    assert json_of(compare_outputs(reference, reference * np.nan))["snr_db"] is None


def json_of(parity):
    return dataclasses.replace(parity).to_json()


def test_the_class_among_the_five_largest():
    reference = np.eye(10, dtype=np.float32)
    output = np.tile(np.arange(10, dtype=np.float32), (10, 1))
    assert compare_outputs(reference, output).top1_in_top5 == 0.5


def test_exact_outputs_have_any_signal_to_noise():
    reference = np.eye(10, dtype=np.float32)
    (check,) = (
        each for each in compare_outputs(reference, reference, limits=Limits(min_snr=90)).checks if "snr" in each.name
    )
    assert check.passed
