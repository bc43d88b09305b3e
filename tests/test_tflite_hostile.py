"""Damaged .tflite files, as tools/fuzz_tflite.py makes them by the thousand: an audit or one InputError, soon."""

import collections
import importlib.util
import pathlib
import sys
import tracemalloc

import pytest
from edge_networks import quantized
from tflite_writer import operator, tensor, write

import keras_nin

SCRIPT = pathlib.Path(__file__).parents[1] / "tools" / "fuzz_tflite.py"
FILES = 200


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_tflite", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(fuzz):
    return fuzz.hand_written()


def test_the_undamaged_file_is_audited(fuzz, base, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(base)
    assert fuzz.outcome(path)[0] == "audited"


def test_damaged_files_are_audited_or_refused(fuzz, base, tmp_path):
    path = tmp_path / "net.tflite"
    found = []
    for number in range(FILES):
        mutation, damaged = fuzz.mutant("hand-written", base, number)
        path.write_bytes(damaged)
        kind, seconds = fuzz.outcome(path)
        assert seconds < 1, (number, mutation)
        found.append((mutation, kind))
    assert {mutation for mutation, _ in found} == {change.__name__ for change in fuzz.MUTATIONS}
    assert {kind for _, kind in found} == {"audited", "refused"}


def test_a_damaged_file_is_the_same_every_time(fuzz, base):
    for number in range(len(fuzz.MUTATIONS)):
        assert fuzz.mutant("hand-written", base, number) == fuzz.mutant("hand-written", base, number)


def test_refusing_takes_little_memory(fuzz, base, tmp_path):
    path = tmp_path / "net.tflite"
    damaged = [
        fuzz.mutant("hand-written", base, number)[1] for number in range(fuzz.MUTATIONS.index(fuzz.rewired), 140, 7)
    ]
    path.write_bytes(base)
    fuzz.outcome(path)
    tracemalloc.start()
    for content in damaged:
        path.write_bytes(content)
        fuzz.outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_what_is_no_outcome_fails_the_survey(fuzz, tmp_path, monkeypatch, capsys):
    """A child that dies, or an exception of another kind, is counted and makes the report fail."""
    source = tmp_path / "base.tflite"
    source.write_bytes(b"too short to be damaged at all")
    monkeypatch.setattr(fuzz, "BASES", {"own": source.read_bytes})
    monkeypatch.setattr(
        fuzz, "survey", lambda *_: [[0, "noise", "ZeroDivisionError: 1", 0.0], [1, "noise", "refused", 2.0]]
    )
    assert fuzz.report(2) is False
    assert capsys.readouterr().out.count("FAILED") == 2


def chain_of(count):
    """Operators in a row."""
    return [quantized(f"t{index}", [1, 4]) for index in range(count + 1)], [
        (index, index + 1) for index in range(count)
    ]


def fan_of(count):
    """Operators that all read the input, each with an output of the network."""
    return [quantized(f"t{index}", [1, 4]) for index in range(count + 1)], [(0, index + 1) for index in range(count)]


def count_calls(work):
    """Return how many calls of Python functions some work takes."""
    calls = collections.Counter()
    sys.setprofile(lambda frame, event, _: calls.update([event]))
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls["call"]


@pytest.mark.parametrize("shape", [chain_of, fan_of])
@pytest.mark.parametrize(
    "work",
    [
        keras_nin.audit_model,
        pytest.param(keras_nin.check_file, marks=pytest.mark.slow),
        pytest.param(keras_nin.check_edgetpu, marks=pytest.mark.slow),
    ],
)
def test_work_is_linear_in_the_file(work, shape, tmp_path):
    counts = []
    for count in (8, 40, 160):  # the first for what happens once in a process
        tensors, edges = shape(count)
        operators = [operator("RELU", [before], [after]) for before, after in edges]
        ends = [after for _, after in edges] if shape is fan_of else [count]
        path = write(tmp_path / "net.tflite", tensors, operators, outputs=ends)
        counts.append(count_calls(lambda path=path: work(path)))
    assert counts[2] < 4.1 * counts[1]


def test_a_loop_that_two_loops_run_is_counted_once(tmp_path):
    """Each body runs the next one twice: 2^40 ways to the last."""
    tensors, operators, *ends = loop_over(1, 2)
    more = [subgraph for level in range(40) for subgraph in (condition(), loop_over(2 * level + 3, 2 * level + 4))]
    last = [quantized("a", [1, 4]), tensor("n", [1], "INT32"), quantized("b", [1, 4])]
    more += [condition(), (last, [operator("RELU", [0], [2])], [0, 1], [2, 1])]
    path = write(tmp_path / "net.tflite", tensors, operators, inputs=ends[0], outputs=ends[1], more=more)
    assert keras_nin.check_file(path).problems == ()
    assert len(keras_nin.audit_model(path).rows) == 4


def condition():
    tensors = [
        quantized("a", [1, 4]),
        tensor("n", [1], "INT32"),
        tensor("end", [1], "INT32", [3]),
        tensor("go", [1], "BOOL"),
    ]
    return tensors, [operator("LESS", [1, 2], [3], "LessOptions")], [0, 1], [3]


def loop_over(condition_index, body_index):
    """Two loops after another over the same body, and a counter that both leave behind one higher."""
    tensors = [
        quantized("a", [1, 4]),
        tensor("n", [1], "INT32"),
        tensor("zero", [1], "INT32", [0]),
        tensor("one", [1], "INT32", [1]),
    ]
    tensors += [
        quantized("b", [1, 4]),
        tensor("m", [1], "INT32"),
        quantized("c", [1, 4]),
        tensor("k", [1], "INT32"),
        tensor("up", [1], "INT32"),
    ]
    called = {"condSubgraphIndex": condition_index, "bodySubgraphIndex": body_index}
    operators = [
        operator("WHILE", [0, 2], [4, 5], "WhileOptions", **called),
        operator("WHILE", [4, 2], [6, 7], "WhileOptions", **called),
        operator("ADD", [1, 3], [8], "AddOptions"),
        operator("RELU", [6], [len(tensors)]),
    ]
    return [*tensors, quantized("d", [1, 4])], operators, [0, 1], [9, 8]
