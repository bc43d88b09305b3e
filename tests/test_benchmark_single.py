"""Operators alone: each as a file of its own, that computes what it computes in the whole file."""

import numpy as np
import pytest
from branched_net import branched_net
from tflite_writer import custom, generated, operator, tensor, write

from keras_nin.benchmark import measure_file, measurement, single_operators
from keras_nin.benchmark.records import SINGLE_OPERATORS
from keras_nin.errors import InputError
from keras_nin.tflite import reader
from keras_nin.tflite.runner import TFLiteRunner


@pytest.fixture
def net(tmp_path):
    return branched_net(tmp_path / "net.tflite")


def quantized(name, shape, data=None, scale=0.02, zero_point=3):
    record = generated.QuantizationParametersT()
    record.scale, record.zeroPoint = [scale], [zero_point]
    return tensor(name, shape, "INT8", data, quantization=record)


def test_operators_one_by_one_give_what_the_whole_file_gives(net):
    file = reader.read_model(net)
    image = np.random.default_rng(1).normal(size=(1, 16, 16, 8)).astype(np.float32)
    values = {0: image}
    for each in single_operators.cut_operators(net):
        made = file.main.operators[each.index]
        runner = TFLiteRunner(each.content)
        names = {file.main.tensors[at].name: values[at] for at in made.inputs if at in values}
        fed = names if len(names) > 1 else next(iter(names.values()))
        values[made.outputs[0]] = runner.predict_raw(fed)
    np.testing.assert_allclose(values[15], TFLiteRunner(net).predict_raw(image), rtol=1e-5, atol=1e-5)


def test_weights_options_and_quantisation_are_those_of_the_file(tmp_path):
    weights = np.arange(-4, 4)
    path = write(
        tmp_path / "int8.tflite",
        [
            quantized("in", (1, 4, 4, 2)),
            quantized("w", (4, 1, 1, 2), weights, zero_point=0),
            tensor("b", (4,), "INT32", 7),
            quantized("out", (1, 2, 2, 4), scale=0.5),
        ],
        [operator("CONV_2D", [0, 1, 2], [3], "Conv2DOptions", strideW=2, strideH=2, fusedActivationFunction=1)],
    )
    (one,) = single_operators.cut_operators(path)
    before, after = reader.read_model(path), reader.read_model(one.content)
    assert after.main.operators[0].options == before.main.operators[0].options
    old, new = ([file.main.tensors[at] for at in (0, 1, 2, 3)] for file in (before, after))
    assert [(each.name, each.shape, each.dtype, each.quantization) for each in new] == [
        (each.name, each.shape, each.dtype, each.quantization) for each in old
    ]
    np.testing.assert_array_equal(after.data(new[1]), before.data(old[1]))
    assert (after.main.inputs, after.main.outputs) == ((0,), (3,))


def test_what_makes_constants_goes_with_what_reads_them(tmp_path):
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
    constant, dense = single_operators.cut_operators(path)
    assert constant.content is None
    assert "constants alone" in constant.reason
    assert [each.op for each in reader.read_model(dense.content).main.operators] == ["DEQUANTIZE", "FULLY_CONNECTED"]
    np.testing.assert_allclose(TFLiteRunner(dense.content).predict_raw(np.float32([[1, 2, 3, 4]])), [[10, 10, 10]])


def test_why_an_operator_does_not_run_alone(tmp_path):
    tensors = [tensor("in", (1, 4), "FLOAT32"), tensor("state", (1, 4), "FLOAT32", isVariable=True)]
    tensors += [tensor(f"out{at}", (1, 4), "FLOAT32") for at in range(3)]
    path = write(
        tmp_path / "net.tflite",
        tensors,
        [
            custom("Odd", [0], [2]),
            operator("ADD", [2, 1], [3], "AddOptions"),
            operator("WHILE", [3], [4], "WhileOptions", condSubgraphIndex=0, bodySubgraphIndex=0),
        ],
    )
    reasons = [each.reason for each in single_operators.cut_operators(path)]
    assert [each.split()[1:3] for each in reasons] == [["custom", "operator"], ["keeps", "values"], ["runs", "other"]]


def test_the_files_beside_them_run():
    np.testing.assert_array_equal(
        TFLiteRunner(single_operators.build_primer_file()).predict_raw(np.ones((256, 64), np.float32)), 0
    )
    np.testing.assert_array_equal(
        TFLiteRunner(single_operators.build_empty_file()).predict_raw(np.float32([[5]])).ravel(), [5]
    )


def statistics(us):
    return {"median": us, "mean": us + 1, "p90": us + 2}


def answering(times, refused=(), seen=None):
    """Return a `run` that answers for each file the us of its name in `times`, and refuses those in `refused`."""

    def run(job):
        names = [model["file"].rpartition("/")[2] for model in job["models"]]
        if seen is not None:
            seen.append(names)
        for name, model in zip(names, job["models"], strict=True):
            if name in refused:
                raise InputError(f"Expected a file that the LiteRT runtime runs. Received: {model['file']!r}: no")
        results = [
            {**model, "us": statistics(times.get(name, 4.0)), "runs": 12}
            for name, model in zip(names, job["models"], strict=True)
        ]
        return measurement.JobResult({}, tuple(results))

    return run


def test_what_running_nothing_takes_is_taken_off(net):
    run = answering({"nothing.tflite": 1.5, "operator_0.tflite": 31.5, "operator_6.tflite": 1.2})
    rows = single_operators.time_operators(net, 1, 1.0, run, median_us=60.0)
    assert [row.name for row in rows] == ["first", "normal", "second", "padded", "third", "both", "flat", "dense"]
    assert [row.operators for row in rows] == [(at,) for at in range(8)]
    first, flat = rows[0], rows[6]
    assert (first.us.median, first.us.mean, first.us.p90, first.us.typical) == (30.0, 31.0, 32.0, 30.0)
    assert (first.share, first.kernel, first.joined) == (0.5, None, True)
    assert flat.us.typical == 0  # never below


def test_an_operator_that_the_runtime_refuses_has_no_time(net):
    seen = []
    run = answering({"nothing.tflite": 1.0}, refused=("operator_2.tflite", "operator_5.tflite"), seen=seen)
    rows = single_operators.time_operators(net, 1, 1.0, run)
    assert [row.name for row in rows if row.us is None] == ["second", "both"]
    assert {row.note for row in rows if row.us is None} == {"it does not run alone"}
    assert [len(names) for names in seen] == [10, 9, 8]
    assert sum(row.share for row in rows if row.us) == pytest.approx(1)


def test_a_runtime_that_runs_nothing_is_an_error(net):
    with pytest.raises(InputError, match="runs"):
        single_operators.time_operators(net, 1, 1.0, answering({}, refused=("nothing.tflite",)))


def test_for_real(net):
    measured = measure_file(net, runs=20, seconds=0.1, method="single")
    assert measured.method == SINGLE_OPERATORS
    assert [row.operators for row in measured.layers] == [(at,) for at in range(8)]
    assert all(row.us is not None and row.note is None for row in measured.layers)
    assert measured.layers[4].us.median > 0
    assert sum(row.us.typical for row in measured.layers) + measured.overhead_us == pytest.approx(measured.total.median)
    assert measured.profiled_runs >= 10


def test_a_method_that_there_is_not(net):
    with pytest.raises(InputError, match="Expected `method` to be one of profiler, single"):
        measure_file(net, method="guess")
