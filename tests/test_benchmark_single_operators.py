"""Operators alone: each as a file of its own, that computes what it computes in the whole file."""

import pathlib

import numpy as np
import pytest
from branched_net import branched_net
from loop_net import UNITS, loop_net
from tflite_writer import custom, generated, operator, tensor, write

from keras_nin.benchmark import FileRefusedError, measure_file
from keras_nin.benchmark.job import JobResult
from keras_nin.benchmark.records import SINGLE_OPERATORS
from keras_nin.benchmark.single_operators import (
    MATMUL_DTYPES,
    build_empty_file,
    build_matmul,
    cut_operators,
    is_narrowable,
    narrow_operator,
    time_operators,
)
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.runner import TFLiteRunner


@pytest.fixture
def net(tmp_path):
    return read_model(branched_net(tmp_path / "net.tflite"))


def quantized(name, shape, data=None, scale=0.02, zero_point=3):
    record = generated.QuantizationParametersT()
    record.scale, record.zeroPoint = [scale], [zero_point]
    return tensor(name, shape, "INT8", data, quantization=record)


def test_operators_one_by_one_give_what_the_whole_file_gives(net):
    image = np.random.default_rng(1).normal(size=(1, 16, 16, 8)).astype(np.float32)
    values = {0: image}
    for file in cut_operators(net):
        record = net.main.operators[file.index]
        inputs = {net.main.tensors[index].name: values[index] for index in record.inputs if index in values}
        images = inputs if len(inputs) > 1 else next(iter(inputs.values()))
        values[record.outputs[0]] = TFLiteRunner(file.content).predict_raw(images)
    np.testing.assert_allclose(values[15], TFLiteRunner(net).predict_raw(image), rtol=1e-5, atol=1e-5)


def test_weights_options_and_quantization_are_those_of_the_file(tmp_path):
    path = write(
        tmp_path / "int8.tflite",
        [
            quantized("in", (1, 4, 4, 2)),
            quantized("w", (4, 1, 1, 2), np.arange(-4, 4), zero_point=0),
            tensor("b", (4,), "INT32", 7),
            quantized("out", (1, 2, 2, 4), scale=0.5),
        ],
        [operator("CONV_2D", [0, 1, 2], [3], "Conv2DOptions", strideW=2, strideH=2, fusedActivationFunction=1)],
    )
    before = read_model(path)
    (file,) = cut_operators(before)
    after = read_model(file.content)
    assert after.main.operators[0].options == before.main.operators[0].options
    fields = ("name", "shape", "dtype", "quantization")
    old, new = ([[getattr(record, field) for field in fields] for record in m.main.tensors] for m in (before, after))
    assert sorted(map(repr, new)) == sorted(map(repr, old))
    weights = next(record for record in after.main.tensors if record.name == "w")
    np.testing.assert_array_equal(after.data(weights).ravel(), np.arange(-4, 4))
    assert [after.main.tensors[index].name for index in (*after.main.inputs, *after.main.outputs)] == ["in", "out"]


def test_what_computes_constants_goes_with_what_reads_them(tmp_path):
    path = write(
        tmp_path / "half.tflite",
        [
            tensor("in", (1, 4), "FLOAT32"),
            tensor("w16", (3, 4), "FLOAT16", 1),
            tensor("w", (3, 4), "FLOAT32"),
            tensor("out", (1, 3), "FLOAT32"),
        ],
        [operator("DEQUANTIZE", [1], [2]), operator("FULLY_CONNECTED", [0, 2, -1], [3], "FullyConnectedOptions")],
    )
    constant, dense = cut_operators(read_model(path))
    assert constant.content is None
    assert "reads only constants" in constant.reason
    assert [record.op for record in read_model(dense.content).main.operators] == ["DEQUANTIZE", "FULLY_CONNECTED"]
    np.testing.assert_allclose(TFLiteRunner(dense.content).predict_raw(np.float32([[1, 2, 3, 4]])), [[10, 10, 10]])


def test_why_an_operator_does_not_run_alone(tmp_path):
    tensors = [tensor("in", (1, 4), "FLOAT32"), tensor("state", (1, 4), "RESOURCE")]
    tensors += [tensor(f"out{index}", (1, 4), "FLOAT32") for index in range(3)]
    path = write(
        tmp_path / "net.tflite",
        tensors,
        [
            custom("Odd", [0], [2]),
            operator("ADD", [2, 1], [3], "AddOptions"),
            operator("WHILE", [3], [4], "WhileOptions", condSubgraphIndex=0, bodySubgraphIndex=0),
        ],
    )
    reasons = [file.reason for file in cut_operators(read_model(path))]
    words = [reason.split()[1:3] for reason in reasons]
    assert words == [["custom", "operator"], ["keeps", "values"], ["runs", "other"]]


def test_a_loop_goes_with_its_condition_and_body(tmp_path):
    whole = read_model(loop_net(tmp_path / "loop.tflite"))
    relu, loop, dense = (read_model(file.content) for file in cut_operators(whole))
    assert [[record.op for record in subgraph.operators] for subgraph in loop.subgraphs] == [
        ["WHILE"], ["LESS"], ["ADD", "FULLY_CONNECTED", "TANH"],
    ]  # fmt: skip
    image = np.random.default_rng(1).normal(size=(1, UNITS)).astype(np.float32)
    state = TFLiteRunner(loop, output=2).predict_raw(np.maximum(image, 0))
    np.testing.assert_allclose(
        TFLiteRunner(dense).predict_raw(state), TFLiteRunner(whole).predict_raw(image), rtol=1e-5, atol=1e-5
    )
    unknown = read_model(loop_net(tmp_path / "loop.tflite", steps=None))
    assert cut_operators(unknown)[1].reason == "it runs other subgraphs, which depends on its inputs"


def test_the_overhead_says_what_it_includes(tmp_path):
    measured = measure_file(loop_net(tmp_path / "loop.tflite", steps=None), runs=20, seconds=0.1, method="single")
    (untimed,) = [row for row in measured.layers if row.us is None]
    assert untimed.op == "WHILE"
    assert f"runtime overhead includes rows that do not run alone: {untimed.name}" in measured.notes


def test_the_file_that_does_nothing_runs():
    np.testing.assert_array_equal(TFLiteRunner(build_empty_file()).predict_raw(np.float32([[5]])).ravel(), [5])


@pytest.mark.parametrize("dtype", MATMUL_DTYPES)
def test_the_product_is_a_matrix_product(dtype, tmp_path):
    model = read_model(build_matmul(5, 24, 7, dtype))
    assert [record.op for record in model.main.operators] == ["FULLY_CONNECTED"]
    weights = model.data(model.main.tensors[1]).astype(np.float64)
    assert weights.shape == (7, 24)
    assert len(np.unique(weights)) > 24
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model.content)
    interpreter.allocate_tensors()
    values = np.random.default_rng(1).random((5, 24), np.float32)
    if dtype == "int8":
        values = np.rint(values * 100).astype(np.int8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = values.astype(np.float64) @ weights.T
    if dtype == "int8":
        scale = model.main.tensors[3].quantization.scales[0]
        expected = np.clip(np.rint(expected / 128**2 / scale), -128, 127)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-3 if dtype == "float32" else 1)
    with pytest.raises(InputError, match="int4"):
        build_matmul(1, 1, 1, "int4")


def answering(times, refused=(), jobs=None):
    """Return a `run` that answers for each file the us of its name in `times`, and refuses those in `refused`."""

    def run(job):
        names = [pathlib.Path(model["file"]).name for model in job["models"]]
        if jobs is not None:
            jobs.append(names)
        for index, name in enumerate(names):
            if name in refused:
                raise FileRefusedError(f"{name} does not run", model=index)
        us = [times.get(name, 4.0) for name in names]
        results = [{"us": {"median": value, "mean": value + 1, "p90": value + 2}, "runs": 12} for value in us]
        return JobResult({}, tuple(results))

    return run


def test_the_time_of_an_invocation_is_subtracted(net):
    run = answering({"empty.tflite": 1.5, "operator_0.tflite": 31.5, "operator_6.tflite": 1.2})
    rows, runs = time_operators(net, 1, 1.0, run, median_us=60.0)
    assert [row.name for row in rows] == ["first", "normal", "second", "padded", "third", "both", "flat", "dense"]
    assert [row.operators for row in rows] == [(index,) for index in range(8)]
    first, flat = rows[0], rows[6]
    assert (first.us.median, first.us.mean, first.us.p90, first.us.typical) == (30.0, 31.0, 32.0, 30.0)
    assert (first.share, first.kernel, first.joined) == (0.5, None, True)
    assert flat.us.typical == 0  # never below
    assert runs == 12


def test_an_operator_that_the_runtime_refuses_has_no_time(net):
    jobs = []
    run = answering({"empty.tflite": 1.0}, refused=("operator_2.tflite", "operator_5.tflite"), jobs=jobs)
    rows, _ = time_operators(net, 1, 1.0, run)
    assert [row.name for row in rows if row.us is None] == ["second", "both"]
    assert {row.note for row in rows if row.us is None} == {"it does not run alone"}
    assert [len(names) for names in jobs] == [10, 9, 8]
    assert sum(row.share for row in rows if row.us) == pytest.approx(1)
    with pytest.raises(FileRefusedError, match="empty"):
        time_operators(net, 1, 1.0, answering({}, refused=("empty.tflite",)))


def test_a_real_measurement(net):
    measured = measure_file(net, runs=20, seconds=0.1, method="single")
    assert measured.method == SINGLE_OPERATORS
    assert [row.operators for row in measured.layers] == [(index,) for index in range(8)]
    assert all(row.us is not None and row.note is None for row in measured.layers)
    assert measured.layers[4].us.median > 0
    assert sum(row.us.typical for row in measured.layers) + measured.overhead_us == pytest.approx(measured.total.median)
    assert measured.profiled_runs >= 10
    with pytest.raises(InputError, match="Expected `method` to be one of profiler, single"):
        measure_file(net, method="guess")


@pytest.mark.slow
def test_narrowed_operators_run_with_fewer_channels(exported):
    """The first channels of a convolution compute what they did, where the inputs that are left out are zero."""
    model = read_model(exported("nin_digits", "float32"))
    for cut in cut_operators(model):
        operator = model.main.operators[cut.index]
        if not is_narrowable(operator) or cut.content is None:
            continue
        whole = TFLiteRunner(cut.content)
        *_, inputs = whole.inputs[0].shape
        *_, outputs = whole.outputs[0].shape
        kept = max(1, inputs // 2), max(1, outputs // 3)
        narrow = TFLiteRunner(narrow_operator(cut.content, kept))
        images = np.random.default_rng(0).random((1, *whole.inputs[0].shape[1:]), np.float32)
        images[..., kept[0] :] = 0
        expected = whole.predict(images)[..., : kept[1]]
        np.testing.assert_allclose(narrow.predict(images[..., : kept[0]]), expected, atol=1e-5)
