"""Runs of files in a process of their own: the same results, and one line where the runtime crashes or hangs."""

import os

import numpy as np
import pytest
from edge_networks import quantized
from tflite_writer import generated, operator, tensor, write

from keras_nin.errors import InputError
from keras_nin.tflite import isolated
from keras_nin.tflite.isolated import IsolatedRunner, estimate_time_limit
from keras_nin.tflite.reader import read_checked_model
from keras_nin.tflite.runner import TFLiteRunner

SAMPLES = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def real(name, shape, data=None, **fields):
    return tensor(name, shape, "FLOAT32", data, **fields)


@pytest.fixture(scope="module")
def crashing(tmp_path_factory):
    """A file that LiteRT crashes on: an index of its sparse weights lies far outside."""

    def vector(values):
        made = generated.Int32VectorT()
        made.values = values
        return made

    rows, columns = generated.DimensionMetadataT(), generated.DimensionMetadataT()
    rows.denseSize, columns.format = 4, 1
    columns.arraySegmentsType = columns.arrayIndicesType = generated.SparseIndexVector.Int32Vector
    columns.arraySegments, columns.arrayIndices = vector([0, 1, 2, 3, 4]), vector([0, 1, 2, 1 << 28])
    sparsity = generated.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap, sparsity.dimMetadata = [0, 1], [], [rows, columns]
    weights = real("weights", [4, 4], 1, sparsity=sparsity)
    weights.values = weights.values[:16]
    tensors = [real("in", [1, 4]), weights, real("dense", [4, 4]), real("out", [1, 4])]
    operators = [
        operator("DENSIFY", [1], [2], "DensifyOptions"),
        operator("FULLY_CONNECTED", [0, 2], [3], "FullyConnectedOptions"),
    ]
    return write(tmp_path_factory.mktemp("isolated") / "crashing.tflite", tensors, operators)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A loop whose condition always holds."""
    called = {"condSubgraphIndex": 1, "bodySubgraphIndex": 2}
    condition = [real("a", [1, 4]), real("zero", [], [0.0]), tensor("go", [], "BOOL")]
    body = [real("a", [1, 4]), real("b", [1, 4])], [operator("RELU", [0], [1])], [0], [1]
    return write(
        tmp_path_factory.mktemp("isolated") / "endless.tflite",
        [real("in", [1, 4]), real("out", [1, 4])],
        [operator("WHILE", [0], [1], "WhileOptions", **called)],
        more=[(condition, [operator("EQUAL", [1, 1], [2], "EqualOptions")], [0], [2]), body],
    )


def network(path, dtype):
    make = quantized if dtype == "INT8" else real
    weights = make("weights", [4, 4], data=list(range(-8, 8)))
    tensors = [make("in", [1, 4]), weights, make("hidden", [1, 4]), make("out", [1, 4])]
    operators = [
        operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions"),
        operator("TANH" if dtype == "FLOAT32" else "RELU", [2], [3]),
    ]
    return write(path, tensors, operators)


@pytest.mark.parametrize("dtype", [pytest.param("FLOAT32", marks=pytest.mark.slow), "INT8"])
def test_the_results_are_the_same(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "_EXCHANGED_BYTES", 40)  # so that the samples take several requests
    path = network(tmp_path / "net.tflite", dtype)
    here = TFLiteRunner(path, keep_tensors=True)
    with IsolatedRunner(path, keep_tensors=True) as there:
        assert (there.inputs, there.outputs) == (here.inputs, here.outputs)
        np.testing.assert_array_equal(there.predict(SAMPLES), here.predict(SAMPLES))
        tensors = here.model.main.tensors[:3]
        for own, other in zip(
            here.tensor_values(SAMPLES[:1], tensors), there.tensor_values(SAMPLES[:1], tensors), strict=True
        ):
            np.testing.assert_array_equal(own, other)
        assert there.predict(SAMPLES[:0]).shape == (0, 4)
        pid = there._process._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with IsolatedRunner(path, batch=4) as there:
        np.testing.assert_array_equal(there.predict(SAMPLES), TFLiteRunner(path, batch=4).predict(SAMPLES))


def run_isolated(source):
    with IsolatedRunner(source) as runner:
        return runner.predict(SAMPLES)


def test_a_crash_is_one_error(crashing):
    with pytest.raises(InputError, match="on which the runtime was killed by SIGSEGV$") as caught:
        run_isolated(read_checked_model(crashing))
    assert (caught.value.path, caught.value.status) == (str(crashing), -11)


@pytest.mark.slow
def test_a_hang_is_one_error(endless, monkeypatch):
    assert 60 < estimate_time_limit(read_checked_model(endless)) < 61
    monkeypatch.setattr(isolated, "_SECONDS", 0.5)
    monkeypatch.setattr(isolated, "_LOOP_SECONDS", 0.0)
    with IsolatedRunner(endless) as runner:
        with pytest.raises(InputError, match="on which the runtime was not done after 1 s$|not done after 0 s$"):
            runner.predict(SAMPLES)
        with pytest.raises(InputError, match="not done after"):  # and once more: the process is gone
            runner.predict(SAMPLES)


@pytest.mark.slow
def test_too_much_memory_is_one_error(tmp_path):
    side = 1 << 17
    tensors = [real("in", [1, 4]), tensor("dims", [2], "INT32", [side, side]), real("one", [], [1.0])]
    tensors += [
        real("filled", [side, side]),
        tensor("axes", [2], "INT32", [0, 1]),
        real("sum", []),
        real("out", [1, 4]),
    ]
    operators = [
        operator("FILL", [1, 2], [3]),
        operator("SUM", [3, 4], [5], "ReducerOptions"),
        operator("ADD", [0, 5], [6], "AddOptions"),
    ]
    path = write(tmp_path / "large.tflite", tensors, operators)
    with pytest.raises(InputError, match=r"large.tflite'.*memory"):
        run_isolated(path)


@pytest.mark.slow
def test_the_runtimes_own_errors_are_the_same(tmp_path):
    tensors = [real("in", [1, 4]), tensor("shape", [2], "INT32", [5, 5]), real("out", [5, 5])]
    path = write(tmp_path / "bad.tflite", tensors, [operator("RESHAPE", [0, 1], [2], "ReshapeOptions")])
    errors = []
    for runner_class in (TFLiteRunner, IsolatedRunner):
        with pytest.raises(InputError) as caught:
            runner_class(path)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["evaluate"], ["evaluate", "--workers", "2"], ["compare"]])
def test_commands_outlive_the_runtime(words, crashing, cli, tmp_path):
    data = tmp_path / "data.npz"
    np.savez(data, images=np.repeat(SAMPLES, 8, 0), labels=np.zeros(72, int))
    files = [crashing] * (2 if words == ["compare"] else 1)
    ran = cli(words[0], *files, *words[1:], "--data", data)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert "killed by SIGSEGV" in ran.err
