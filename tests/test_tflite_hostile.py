"""Damaged .tflite files, as tools/fuzz_tflite.py makes them by the thousand: a result or one clear line, soon."""

import collections
import itertools
import sys
import tracemalloc

import fuzz_tflite as fuzz
import pytest
from edge_networks import quantized
from tflite_writer import operator, tensor, write

import keras_nin

FILES = 100
COMMANDS = ("check", "audit", "edgetpu")


@pytest.fixture(scope="module")
def seeds():
    return {"hand-written": fuzz.hand_written()}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_undamaged_file_passes(seeds, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(seeds["hand-written"])
    for command in COMMANDS:
        assert fuzz.run_command(command, path, 0, as_json=True).kind == "done"


def test_every_part_of_the_structure_is_found(seeds):
    places = fuzz.find_places(seeds["hand-written"])
    parts = "offset vtable length index shape tensor quantization subgraph signature name option".split()
    assert places.keys() == {*parts, "operator code"}
    assert all(place.position < len(seeds["hand-written"]) for place in itertools.chain(*places.values()))


def test_damaged_files_end_in_a_result_or_one_line(seeds):
    outcomes = list(fuzz.survey(COMMANDS, seeds, range(FILES)))
    assert [outcome for outcome in outcomes if outcome.failed] == []
    assert {outcome.kind for outcome in outcomes} == {"done", "refused"}
    assert {kind for outcome in outcomes for kind in outcome.changed} >= {"offset", "vtable", "subgraph", "truncated"}


def test_a_damaged_file_is_the_same_every_time(seeds):
    first, second = fuzz.Mutants(seeds), fuzz.Mutants(seeds)
    assert [first.draw(number) for number in range(50)] == [second.draw(number) for number in range(50)]


def test_refusing_takes_little_memory(seeds, tmp_path):
    """Lengths and offsets that promise gigabytes allocate nothing."""
    mutants, path = fuzz.Mutants(seeds), tmp_path / "net.tflite"
    fuzz.run_command("audit", path, 0, as_json=True)
    drawn = (mutants.draw(number) for number in range(300))
    contents = [mutants.content(*entry) for entry in drawn if {"length", "shape"} & {kind for kind, *_ in entry[1]}]
    tracemalloc.start()
    for content in contents[:25]:
        path.write_bytes(content)
        fuzz.run_command("audit", path, 0, as_json=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_failure_is_kept_with_the_changes_that_it_needs(seeds, monkeypatch):
    """Of a mutant with three changes the one that fails is left, and the report names it."""
    changes = [("bytes", "", 9, b"\1"), ("name", "Tensor.3", 700, b"!"), ("bytes", "", 11, b"\2")]
    monkeypatch.setattr(fuzz, "draw_changes", lambda *_: changes)

    def run(words):
        if fuzz.pathlib.Path(words[1]).read_bytes()[700] == ord("!"):
            raise ZeroDivisionError("division by zero")
        return 0

    monkeypatch.setattr(fuzz.cli, "run", run)
    (outcome,) = fuzz.survey(["audit"], seeds, [7])
    assert outcome.failed
    assert outcome.changed == ("hand-written", str(changes[1]))
    report = fuzz.format_report(["audit"], [fuzz.dataclasses.asdict(outcome), {"peak_mib": 70}])
    assert "| audit | 1 | 0 | 0 | 0 | 1 |" in report
    assert "FAILED: ZeroDivisionError" in report


def test_what_is_a_failure():
    assert fuzz._describe(0, "") == fuzz._describe(1, "FAIL\n") == "done"
    assert fuzz._describe(2, "Error: no file\n") == "refused"
    assert fuzz._describe(2, "Error: LiteRT was killed by SIGSEGV\n") == "crashed in the child process"
    for status, text in (
        (2, "Error: a\nb\n"),
        (70, "Error: unexpected\n"),
        (2, ""),
        (0, "Traceback"),
        (130, "Error: x\n"),
    ):
        assert fuzz._describe(status, text).startswith("FAILED")


def test_an_empty_batch_has_no_share_of_idle_channels(tmp_path):
    """Two convolutions of no images: neither has MACs, and the first has an odd number of channels."""
    shapes = {"image": [0, 8, 8, 4], "odd": [0, 8, 8, 5], "out": [0, 8, 8, 8], "a": [5, 1, 1, 4], "b": [8, 1, 1, 5]}
    tensors = [tensor(name, shape, data=1 if len(name) == 1 else None) for name, shape in shapes.items()]
    strides = {"strideW": 1, "strideH": 1}
    operators = [operator("CONV_2D", [at, 3 + at, -1], [1 + at], "Conv2DOptions", **strides) for at in (0, 1)]
    path = write(tmp_path / "net.tflite", tensors, operators, outputs=[2])
    assert fuzz.run_command("audit", path, 0, as_json=True).kind == "done"


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
