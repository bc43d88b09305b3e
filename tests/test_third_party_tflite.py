"""Files that other tools made: scales that fit no dimension, compiled operators, state, float inputs, and names."""

import contextlib
import importlib.util
import re

import micro_stand_in
import numpy as np
import pytest
from tflite_writer import _record, custom, operator, tensor, write

from keras_nin._compat import litert as interpreter
from keras_nin.audit import audit_model
from keras_nin.benchmark import measure_files
from keras_nin.benchmark.job import DelegateNotLoadedError
from keras_nin.benchmark.runner import litert, main
from keras_nin.benchmark.single_operators import cut_operators
from keras_nin.edge.edgetpu import check_edgetpu
from keras_nin.edge.ethosu import estimate_ethosu
from keras_nin.edge.micro import measure_micro
from keras_nin.errors import InputError
from keras_nin.tflite.isolated import IsolatedRunner
from keras_nin.tflite.layer_names import KERNEL_OPERATORS, operator_paths
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.runner import TFLiteRunner

HAS_MICRO = importlib.util.find_spec("tflite_micro") is not None
HAS_VELA = importlib.util.find_spec("ethosu") is not None
DEPTHWISE = {"padding": 0, "strideW": 1, "strideH": 1, "depthMultiplier": 8}
DEPTHWISE |= {"dilationWFactor": 1, "dilationHFactor": 1}
EIGHT = tuple(0.01 * (channel + 1) for channel in range(8))


def scales(*values, axis=0):
    return _record("QuantizationParameters", scale=list(values), zeroPoint=[0] * len(values), quantizedDimension=axis)


def write_depthwise(folder, **changed):
    """Write a depthwise convolution of 8 channels as person_detect.tflite begins, with other scales where asked for."""
    given = {"x": scales(0.1), "weights": scales(*EIGHT, axis=3), "bias": scales(*(0.1 * each for each in EIGHT))}
    given |= {"y": scales(0.1)} | changed
    tensors = [
        tensor("x", (1, 4, 4, 1), quantization=given["x"]),
        tensor("weights", (1, 3, 3, 8), data=3, quantization=given["weights"]),
        tensor("bias", (8,), "INT32", data=5, quantization=given["bias"]),
        tensor("y", (1, 4, 4, 8), quantization=given["y"]),
    ]
    made = operator("DEPTHWISE_CONV_2D", [0, 1, 2], [3], "DepthwiseConv2DOptions", **DEPTHWISE)
    return write(folder / "net.tflite", tensors, [made])


# Scales that fit no dimension


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"x": scales(0.1, 0.2)}, "tensor 0 (1x4x4x1) has 2 scales along dimension 0"),
        ({"weights": scales(*EIGHT)}, "tensor 1 (1x3x3x8) has 8 scales along dimension 0"),
        ({"bias": scales(*EIGHT, axis=3)}, "tensor 2 (8) has 8 scales along dimension 3"),
        ({"y": scales(0.1, axis=4)}, "tensor 3 (1x4x4x8) has 1 scale along dimension 4"),
        ({"y": scales(0.1, axis=-1)}, "tensor 3 (1x4x4x8) has 1 scale along dimension -1"),
        ({"x": scales(0.1, 0.2), "y": scales(0.1, axis=4)}, "2 scales along dimension 0 (and 1 other tensor)"),
    ],
)
def test_scales_that_litert_refuses_are_said_by_what_takes_the_file(tmp_path, changed, message):
    path = write_depthwise(tmp_path, **changed)
    with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match="scales must|must be in"):
        interpreter.interpreter(path.read_bytes(), threads=1).allocate_tensors()
    audit, verdict = audit_model(path), check_edgetpu(path)
    assert (audit.total.params, audit.total.macs) == (3 * 3 * 8 + 8, 4 * 4 * 8 * 3 * 3)
    assert len(audit.notes) == len(verdict.doubts) == (message is not None)
    if message is None:
        TFLiteRunner(path)
        return
    assert message in audit.notes[0]
    assert message in audit.to_text(depth=0)
    assert f"{message}, which do not fit: LiteRT refuses" in verdict.doubts[0]
    with pytest.raises(InputError, match="Expected a file that the LiteRT runtime runs") as caught:
        TFLiteRunner(path)
    assert message in str(caught.value)


def test_commands_that_need_litert_end_in_one_line(cli, tmp_path):
    path = write_depthwise(tmp_path, bias=scales(*EIGHT, axis=3))
    for words in (["benchmark", path], ["evaluate", path, "--data", "digits"]):
        ran = cli(*words)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith(f"Error: Expected a file that the LiteRT runtime runs. Received: '{path}', whose ")
        assert ran.err.count("\n") == 1
    assert cli("check", path).status == 0  # LiteRT alone does not take it
    ran = cli("fit", path, "--targets", "cpu,edgetpu")
    assert ran.status == 0
    assert "Note: net.tflite: tensor 2 (8) has 8 scales along dimension 3: LiteRT refuses such a file" in ran.err


@pytest.mark.slow
@pytest.mark.skipif(not (HAS_MICRO and HAS_VELA), reason="needs the extras micro and ethosu")
def test_tflite_micro_and_vela_take_such_a_file(cli, tmp_path):
    path = write_depthwise(tmp_path, bias=scales(*EIGHT, axis=3))
    ran = cli("micro", path, "--json", "--max-arena", "2KiB")
    assert ran.json["arena"]["tensor_bytes"] >= 4 * 4 * (1 + 8)
    assert ran.json["comparison"] is None
    assert "LiteRT's reference kernels do not run it" in ran.json["comparison_finding"]["message"]
    assert "LiteRT refuses such a file, TFLite Micro and Vela may take it" in ran.err
    ran = cli("ethosu", path)
    assert (ran.status, ran.err.count("LiteRT refuses such a file")) == (0, 1)
    assert "NPU: 100.0% of the network's MACs" in ran.out


# Files that are compiled for a chip


def write_vela(folder, scratch=8256):
    """Write a file as Vela does: commands and encoded weights, a working memory that is named twice, input, output."""
    tensors = [
        tensor("ethos_u_command_stream", (36,), "UINT8", data=1),
        tensor("read_only", (60,), "UINT8", data=2),
        tensor("scratch", (scratch,), "UINT8"),
        tensor("x", (1, 64)),
        tensor("y", (1, 10)),
    ]
    return write(folder / "net.tflite", tensors, [custom("ethos-u", [0, 1, 2, 2, 3], [4])], inputs=[3])


def write_edgetpu(folder):
    tensors = [tensor(name, (1, 64)) for name in "xyz"]
    return write(folder / "net.tflite", tensors, [custom("edgetpu-custom-op", [at], [at + 1]) for at in (0, 1)])


@pytest.mark.parametrize(
    ("make", "words", "peak"),
    [
        (write_vela, "compiled for Ethos-U: 1 custom operator", 8256),
        (write_edgetpu, "compiled for the Edge TPU: 2 custom operators", 2 * 64),
    ],
)
def test_a_compiled_file_is_recognized_by_every_command(cli, tmp_path, monkeypatch, make, words, peak):
    path = make(tmp_path)
    audit = audit_model(path)
    assert (audit.total.params, audit.total.macs_unknown) == (0, len(audit.rows))
    # What the compiler has laid out holds the operator's input and output too.
    assert audit.total.peak_activation_bytes == audit.total.peak_activation_bytes_int8 == peak
    assert f"Note: {words}; its layers, MACs and parameters are in the chip's code" in cli("audit", path).out
    assert cli("audit", path, "--json").json["notes"][0].startswith(words)
    for command in (["edgetpu"], ["ethosu"], ["benchmark"], ["evaluate", "--data", "digits"], ["compare", path]):
        ran = cli(*command, path)
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), command
        assert f"which is {words}. Use the file from before the compilation" in ran.err
    assert cli("check", path).status == 0
    ran = cli("fit", path, "--targets", "cpu,edgetpu")
    assert (ran.status, ran.out.count(words)) == (0, 2)
    micro_stand_in.install_engine(monkeypatch)
    ran = cli("micro", path)
    assert f"Arena: none works, compiled file: {words}, which runs on the chip with its driver, not here" in ran.out
    assert "int8" not in ran.out.replace("uint8", "")


def test_an_operator_of_another_maker_still_needs_its_inputs(tmp_path):
    tensors = [tensor(name, (1, 4)) for name in "xyz"]
    path = write(tmp_path / "net.tflite", tensors, [custom("my-op", [0, 1], [2])])
    with pytest.raises(InputError, match="reads tensor 1, which nothing before it computes"):
        audit_model(path)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_VELA, reason="needs the extra ethosu")
def test_what_vela_writes_is_recognized(cli, tmp_path):
    estimate = estimate_ethosu(write_depthwise(tmp_path)).estimates[0]
    compiled = tmp_path / "compiled.tflite"
    compiled.write_bytes(estimate.compiled)
    audit = audit_model(compiled)
    assert audit.notes[0].startswith("compiled for Ethos-U: 1 custom operator")
    assert audit.total.peak_activation_bytes == estimate.used_bytes("SRAM")


# Memory


def write_autoencoder(folder, *units):
    """Write int8 layers of `units` outputs between a QUANTIZE and a DEQUANTIZE, for a float input and output."""
    tensors = [tensor("x", (1, units[0]), "FLOAT32"), tensor("t0", (1, units[0]), quantization=scales(0.1))]
    operators = [operator("QUANTIZE", [0], [1])]
    for before, after in zip(units, units[1:], strict=False):
        at = len(tensors)
        tensors += [
            tensor(f"w{at}", (after, before), data=1, quantization=scales(0.1)),
            tensor(f"t{at}", (1, after), quantization=scales(0.1)),
        ]
        operators.append(operator("FULLY_CONNECTED", [at - 1, at], [at + 1], "FullyConnectedOptions"))
    tensors.append(tensor("y", (1, units[-1]), "FLOAT32"))
    operators.append(operator("DEQUANTIZE", [len(tensors) - 2], [len(tensors) - 1]))
    return write(folder / "net.tflite", tensors, operators)


ANOMALY_DETECTOR = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)  # MLPerf Tiny


@pytest.mark.parametrize(
    ("units", "peak"),
    [
        (ANOMALY_DETECTOR, 640 * 4 + 640),  # the float input and its int8 values, which are four times smaller
        ((64, 16, 256), 256 + 256 * 4),  # the same at the output
        ((8, 100, 100, 8), 100 + 100),  # between two layers
    ],
)
def test_a_value_that_changes_its_size_needs_memory_of_its_own(tmp_path, units, peak):
    total = audit_model(write_autoencoder(tmp_path, *units)).total
    assert total.peak_activation_bytes == peak
    # At one byte for every element QUANTIZE may work in place.
    assert total.peak_activation_bytes_int8 == max(map(sum, zip(units, units[1:], strict=False)))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MICRO, reason="needs the extra micro")
def test_tflite_micro_lays_the_same_bytes_out(tmp_path):
    micro = measure_micro(write_autoencoder(tmp_path, *ANOMALY_DETECTOR))
    assert micro.arena.tensor_bytes == micro.peak_activation_bytes == 640 * 4 + 640


def test_weights_are_those_of_the_audit_and_other_constants_have_their_own_name(tmp_path):
    tensors = [
        tensor("x", (1, 4, 4, 1), quantization=scales(0.1)),
        tensor("shape", (2,), "INT32", data=[1, 16]),
        tensor("flat", (1, 16), quantization=scales(0.1)),
        tensor("w", (3, 16), data=1, quantization=scales(0.1)),
        tensor("y", (1, 3), quantization=scales(0.1)),
    ]
    operators = [operator("RESHAPE", [0, 1], [2])]
    operators.append(operator("FULLY_CONNECTED", [2, 3], [4], "FullyConnectedOptions"))
    path = write(tmp_path / "net.tflite", tensors, operators)
    micro = measure_micro(path, run=micro_stand_in.Engine())
    assert micro.weight_bytes == audit_model(path).total.weight_bytes == 3 * 16
    assert micro.other_constant_bytes == 2 * 4


# Files that keep values between runs


def write_svdf(folder, units=3, memory=5):
    tensors = [
        tensor("x", (1, 4), "FLOAT32"),
        tensor("feature", (units, 4), "FLOAT32", data=1),
        tensor("time", (units, memory), "FLOAT32", data=1),
        tensor("bias", (units,), "FLOAT32", data=0),
        tensor("state", (1, memory * units), "FLOAT32", isVariable=True),
        tensor("scores", (1, units), "FLOAT32"),
        tensor("y", (1, units), "FLOAT32"),
    ]
    operators = [operator("SVDF", [0, 1, 2, 3, 4], [5], "SVDFOptions", rank=1)]
    operators.append(operator("SOFTMAX", [5], [6], "SoftmaxOptions", beta=1.0))
    return write(folder / "net.tflite", tensors, operators)


@pytest.mark.parametrize("runner", [TFLiteRunner, IsolatedRunner])
def test_outputs_of_a_file_with_state_depend_on_their_own_images_alone(tmp_path, runner):
    images = np.float32([[1, 2, 3, 4], [5, 0, 0, 0], [1, 2, 3, 4]])
    tensors = [
        tensor("x", (1, 4), "FLOAT32"),
        tensor("feature", (1, 4), "FLOAT32", data=1),
        tensor("time", (1, 5), "FLOAT32", data=1),
        tensor("state", (1, 5), "FLOAT32", isVariable=True),
        tensor("y", (1, 1), "FLOAT32"),
    ]
    path = write(tmp_path / "sum.tflite", tensors, [operator("SVDF", [0, 1, 2, -1, 3], [4], "SVDFOptions", rank=1)])
    with runner(path) as file:
        np.testing.assert_array_equal(file.predict(images).ravel(), images.sum(axis=1))  # not a sum over images


def test_a_file_with_state_runs_in_the_interpreter_and_so_does_each_of_its_operators(tmp_path):
    path = write_svdf(tmp_path)
    with pytest.raises(litert.UnsupportedModelError):
        litert.CompiledModel(path)
    with contextlib.ExitStack() as stack:
        entry = {"file": str(path), "threads": 1}
        measured = main.MeasuredModel(stack, entry, {"models": [entry], "profile": True, "seconds": 0.01})
        measured.times.run_round(2)
        assert (measured.result()["api"], measured.result()["profile"]) == ("interpreter", None)
    svdf, softmax = cut_operators(read_model(path))
    assert (svdf.reason, softmax.reason) == (None, None)
    cut = read_model(svdf.content).main
    assert [cut.tensors[index].name for index in cut.inputs] == ["x"]
    assert [entry.name for entry in cut.tensors if entry.is_variable] == ["state"]
    TFLiteRunner(svdf.content).predict_raw(np.ones((1, 4), np.float32))


@pytest.mark.slow
def test_the_latency_of_a_file_with_state(tmp_path):
    (profile,) = measure_files([write_svdf(tmp_path)], seconds=0.2).profiles
    assert (profile.api, profile.method, len(profile.layers)) == ("interpreter", "single operators", 2)
    assert all(layer.us is not None for layer in profile.layers)
    assert profile.notes == (
        "it keeps values from run to run, in 1 variable tensor",
        "LiteRT's compiled model does not take the file: it ran in the interpreter",
    )


@pytest.mark.slow
def test_a_compiled_file_may_run_with_the_delegate_of_the_chip(tmp_path):
    with pytest.raises(DelegateNotLoadedError):
        measure_files([write_edgetpu(tmp_path)], delegate=str(tmp_path / "no_such.so"))


# Names


def write_convolutions(folder, *parts):
    """Write (operator, names fused into its output) in a row, each with a kernel whose name says nothing."""
    tensors, operators = [tensor("x", (1, 4, 4, 2))], []
    options = {
        "CONV_2D": ("Conv2DOptions", (2, 1, 1, 2)),
        "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (1, 1, 1, 2)),
    }
    for op, names in parts:
        at = len(tensors)
        tensors += [tensor(f"const{at}", options[op][1], data=at), tensor(names, (1, 4, 4, 2))]
        operators.append(operator(op, [at - 1, at], [at + 1], options[op][0], strideW=1, strideH=1))
    return read_model(write(folder / "net.tflite", tensors, operators))


def test_a_name_is_of_the_layer_and_not_of_one_that_shares_a_constant(tmp_path):
    numbers = ("", "_1", "_2", "_3", "_4")
    shared = [
        ("CONV_2D", f"net/re_lu{number}/Relu;net/conv2d{number}/BiasAdd;net/conv2d_4/Conv2D") for number in numbers
    ]
    assert operator_paths(write_convolutions(tmp_path, *shared)) == tuple(f"conv2d{number}" for number in numbers)
    zeros = "net/depthwise_conv2d/depthwise"
    of_another_kind = [
        ("CONV_2D", f"net/conv2d/BiasAdd;{zeros}"),
        ("DEPTHWISE_CONV_2D", f"net/batch_normalization/FusedBatchNormV3;{zeros}"),
        ("CONV_2D", f"net/activation_2/Relu;{zeros}"),
    ]
    names = operator_paths(write_convolutions(tmp_path, *of_another_kind))
    assert names == ("conv2d", "depthwise_conv2d", "activation_2")


def test_both_halves_of_a_separable_convolution_are_of_its_layer(tmp_path):
    halves = [("DEPTHWISE_CONV_2D", "net/twin/separable_conv2d/depthwise"), ("CONV_2D", "net/twin/separable_conv2d")]
    assert operator_paths(write_convolutions(tmp_path, *halves)) == ("twin", "twin/CONV_2D")


def test_names_are_distinct(tmp_path):
    long = [f"net/{'a' * 200}{middle}{'b' * 200}/Conv2D" for middle in "xy"]
    names = ["net/conv/Conv2D", "net/conv/Conv2D", "net/conv (2)/Conv2D", "net/conv/Conv2D", *long]
    paths = operator_paths(write_convolutions(tmp_path, *(("CONV_2D", name) for name in names)))
    assert len(set(paths)) == len(paths)
    assert paths[:4] == ("conv", "conv (2)", "conv (2) (2)", "conv (3)")


@pytest.mark.external
def test_names_in_files_of_many_authors(external_data):
    """Distinct in every file; an operator has the layer of its kernel, where the kernel names one."""
    products = 0
    for path in sorted(external_data.glob("edgetpu*/*.tflite")):
        file = read_model(path)
        paths = operator_paths(file)
        assert len(set(paths)) == len(paths), path
        for each, name in zip(file.main.operators, paths, strict=True):
            kernel = file.main.stored_constant(each.inputs[1]) if each.op in KERNEL_OPERATORS else None
            first, _, end = (kernel.name if kernel else "").partition(";")[0].rpartition("/")
            if re.match("conv2d|depthwise|matmul", end, re.IGNORECASE) and "/" in first:
                assert name.rpartition("/")[2] == first.rpartition("/")[2], (path, each.index)
                products += 1
    assert products > 500
