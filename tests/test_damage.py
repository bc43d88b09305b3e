"""A damage suite: files and models that are not right, of the zoo and of others, all fail verification.

It guards every change of a check: none may be bought with a looser one.
"""

import functools

import keras
import numpy as np
import own_networks
import pytest
from tflite_edits import flipped, reordered, shifted

from keras_nin import InputError
from keras_nin.tflite.reader import read_model

pytestmark = pytest.mark.slow

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
NAMES = ("digits", "depthwise", "unet")
SCHEMES = ("float32", "int8")


@pytest.fixture(scope="module")
def network(export_network):
    """A function that returns a network by its name, converted once."""
    own = functools.cache(lambda name: getattr(own_networks, name)())
    return lambda name: export_network(name) if name == "digits" else own(name)


def weighted(tflite):
    """Yield the weights, the axis of their filters, and the bias or None of every operator that has them."""
    for operator in tflite.main.operators:
        if operator.op in WEIGHTED:
            bias = operator.inputs[3 if operator.op == "TRANSPOSE_CONV" else 2 :]
            bias = tflite.main.stored_constant(bias[0]) if bias else None
            axis = 3 if operator.op == "DEPTHWISE_CONV_2D" else 0
            yield tflite.main.stored_constant(operator.inputs[1]), axis, bias


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_a_right_file_passes(network, name, scheme):
    (parity,) = network(name).compare(network(name).files[scheme].tflite)
    assert parity.passed, [check for check in parity.checks if not check.passed]
    assert len(parity.outputs) == (2 if name == "unet" else 0)


def snr_lost(network, parity):
    """Return by how many dB an output is worse than that of the right int8 file, at most."""
    (right,) = network.compare(network.files["int8"].tflite)
    outputs = zip(right.outputs or [right], parity.outputs or [parity], strict=True)
    return max((before.snr_db or np.inf) - (after.snr_db or np.inf) for before, after in outputs)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_fails_in_any_weight_and_bias(network, name, scheme):
    """Of the biases the largest: one of a channel that is always 0 changes nothing."""
    tflite = network(name).files[scheme].tflite
    flips = [(kernel, kernel.elements // 2) for kernel, _, _ in weighted(tflite)]
    flips += [(bias, int(tflite.data(bias).argmax())) for _, _, bias in weighted(tflite) if bias is not None]
    wrong = [flipped(tflite.content, tensor, element) for tensor, element in flips]
    for (tensor, _), parity in zip(flips, network(name).compare(*wrong), strict=True):
        assert not parity.passed, tensor.name


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_two_swapped_filters_fail_in_any_layer(network, name, scheme):
    tflite = network(name).files[scheme].tflite
    kernels = [(kernel, axis) for kernel, axis, _ in weighted(tflite) if kernel.shape[axis] > 1]
    wrong = [reordered(tflite.content, kernel, axis, [1, 0, *range(2, kernel.shape[axis])]) for kernel, axis in kernels]
    for (kernel, _), parity in zip(kernels, network(name).compare(*wrong), strict=True):
        assert not parity.passed, kernel.name


@pytest.mark.parametrize("name", NAMES)
def test_a_shifted_zero_point_fails_or_changes_nothing(network, name):
    """Both sides of a tensor read the same zero point: what it clips shows it, or a runtime refuses it.

    Where the values leave room for the shift nothing is clipped, and the file computes the same.
    """
    tflite = network(name).files["int8"].tflite
    for operator in tflite.main.operators:
        tensor = tflite.main.tensors[operator.outputs[0]]
        point = tensor.quantization.zero_points[0]
        extreme = (126 if point < 0 else -127) - point
        shifts = {by for by in (-96, 24, 96, extreme) if -128 <= point + by <= 127}
        verdicts = {by: compare_shifted(network(name), shifted(tflite.content, tensor, by)) for by in shifts}
        for by, parity in verdicts.items():
            assert parity is None or not parity.passed or snr_lost(network(name), parity) < 5, (tensor.name, by)
        assert verdicts[extreme] is None or not verdicts[extreme].passed, tensor.name


def compare_shifted(network, wrong):
    """Return the `Parity` of a file, or None where a runtime refuses it."""
    try:
        return network.compare(wrong)[0]
    except InputError:
        return None


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["depthwise", "unet"])
def test_red_and_blue_that_changed_places_fail(network, name, scheme):
    tflite = network(name).files[scheme].tflite
    kernel = next(weighted(tflite))[0]
    (parity,) = network(name).compare(reordered(tflite.content, kernel, 3, [2, 1, 0]))
    assert len([check for check in parity.checks if not check.passed]) > 1  # the weights and the outputs


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_mean_or_scale_fails(network, scheme):
    """The file is of a model that was normalized in another way; its weights may be the same."""
    right, other = network("depthwise"), own_networks.depthwise(mean=(103.9, 116.8, 123.7))
    (parity,) = right.compare(other.files[scheme].tflite)
    assert not parity.passed
    unet = network("unet")
    copy = keras.models.clone_model(unet.model)
    copy.set_weights(unet.model.get_weights())
    copy.get_layer("scale").scale = 3.0
    (parity,) = unet.compare(unet.files[scheme].tflite, model=copy)
    assert not parity.passed


def test_every_output_is_checked_by_name(network):
    """A change behind one output fails that output alone."""
    tflite = network("unet").files["int8"].tflite
    last = tflite.main.producers[dict(tflite.signatures[0].outputs)["age"]]
    kernel, wrong = tflite.main.stored_constant(last.inputs[1]), tflite.content
    for element in range(kernel.elements):
        wrong = flipped(wrong, kernel, element)
    (parity,) = network("unet").compare(read_model(wrong))
    assert {output.output: output.passed for output in parity.outputs} == {"mask": True, "age": False}
    assert {check.output for check in parity.checks if not check.passed} <= {"age", None}
    assert [output.task for output in parity.outputs] == ["segmentation", "regression"]
    mask, age = parity.outputs
    assert mask.scores["model"]["mean_iou"] > 0.9
    assert age.scores["model"]["r2"] > 0.5
    assert age.scores["file"]["rmse"] > age.scores["model"]["rmse"]


def test_outputs_without_information_get_no_verdict(network):
    unet = network("unet")
    dead = unet.copy()
    dead.get_layer("age").kernel.assign(np.zeros_like(dead.get_layer("age").kernel))
    (parity,) = unet.compare(unet.files["int8"].tflite, model=dead)
    assert not parity.passed
    assert parity.no_verdict == "output 'age': it is the same for all 24 images"
    assert {check.output for check in parity.checks} == {"mask", None}
