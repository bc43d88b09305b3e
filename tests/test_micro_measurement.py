"""A file on TFLite Micro: the smallest arena, the inputs, and the comparison with LiteRT."""

import dataclasses

import micro_stand_in
import numpy as np
import pytest
import tflite_writer as writer
from hypothesis import given
from hypothesis import strategies as st

from keras_nin import files
from keras_nin.edge.micro import (
    MicroComparison,
    MicroFinding,
    check_micro_limits,
    measure_micro,
    measurement,
    parse_micro_limits,
    prepare_samples,
)
from keras_nin.edge.micro.records import ArenaSection
from keras_nin.edge.micro.runtime import RuntimeOutcome
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.runner import TFLiteRunner


@pytest.fixture
def file(tmp_path):
    return micro_stand_in.softmax(tmp_path / "net.tflite")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    micro_stand_in.install(tmp_path, monkeypatch)


@pytest.mark.usefixtures("stand_in")
def test_a_file_that_runs(file):
    micro = measure_micro(file)
    assert micro.arena.bytes == 1328  # 1,328 bytes are needed and 1,312 are not enough
    assert (micro.arena.tensor_bytes, micro.arena.persistent_bytes) == (320, 1008)
    assert (micro.arena.tries, micro.arena.step, micro.arena.host_bits) == (4, 16, 64)
    assert micro.arena.sections == (ArenaSection("Things", 24), ArenaSection("not itemized by the runtime", 984))
    assert micro.arena.setup_bytes == 0
    assert micro.comparison == MicroComparison("noise", True, 4, 40, 0, 0.0)
    assert (micro.finding, micro.comparison_finding, micro.package) == (None, None, "0.stand-in")
    assert (micro.file_bytes, micro.sha256) == (file.stat().st_size, files.sha256(file.read_bytes()))
    assert (micro.weight_bytes, micro.float_operators, micro.peak_activation_bytes) == (0, 0, 20)
    assert micro.to_json()["arena"]["bytes"] == 1328


def test_a_model_without_a_file(file):
    micro = measure_micro(read_model(file.read_bytes()), run=micro_stand_in.Engine())
    assert (micro.file, micro.arena.bytes, micro.comparison.differing) == ("model", 1328, 0)


@pytest.mark.parametrize("needs", [1200, 1409])
def test_the_recorded_total_is_only_a_guess(file, needs):
    micro = measure_micro(file, max_arena=2000, run=micro_stand_in.Engine(needs))
    assert micro.arena.bytes == -(-needs // 16) * 16


def test_the_parts_of_an_arena_add_up(file):
    """As of an unrolled LSTM, whose memory planner needs more than the tensors that it places."""
    arena = measure_micro(file, run=micro_stand_in.Engine(needs=90_620)).arena
    assert (arena.bytes, arena.setup_bytes) == (90_624, 90_624 - 320 - 1008)
    assert arena.tensor_bytes + arena.persistent_bytes + arena.setup_bytes == arena.bytes
    assert sum(section.bytes for section in arena.sections) == arena.persistent_bytes


@pytest.mark.parametrize(
    ("data", "number", "message"),
    [
        ("UINT8", 1, "CONV_2D (operator 1) has uint8 input and uint8 weights, for which TFLite Micro has no kernel. "
         "Quantize the network to int8 (input and output may stay uint8)"),
        ("FLOAT32", 1, "CONV_2D (operator 1) has float32 input and uint8 weights, for which TFLite Micro has no kernel"
         ": dynamic-range quantization. Export the network to int8, or to float32"),
        ("UINT8", 0, "conv_common.cc Hybrid models are not supported on TFLite Micro.; Node CONV_2D (number 0) failed "
         "to prepare with status 1; it failed"),  # in another subgraph
    ],
)  # fmt: skip
def test_types_without_a_kernel_are_named(tmp_path, data, number, message):
    tensors = [writer.tensor(name, (1, 4, 4, 1), data) for name in "ab"]
    tensors += [writer.tensor("weights", (1, 1, 1, 1), "UINT8", 1), writer.tensor("c", (1, 4, 4, 1), data)]
    operators = [
        writer.operator("RELU", [0], [1]),
        writer.operator("CONV_2D", [1, 2], [3], "Conv2DOptions", strideH=1, strideW=1),
    ]
    path = writer.write(tmp_path / "net.tflite", tensors, operators)
    log = (
        "conv_common.cc Hybrid models are not supported on TFLite Micro.\n"
        f"Node CONV_2D (number {number}) failed to prepare with status 1\n"
    )
    refused = RuntimeOutcome(1, log, {"phase": "set up", "error": "it failed"})
    micro = measure_micro(path, run=micro_stand_in.Engine(micro=refused))
    assert (micro.arena, micro.finding) == (None, MicroFinding("refused", message))


def test_outputs_that_differ_are_counted(file):
    compared = measure_micro(file, run=micro_stand_in.Engine(wrong=2)).comparison
    assert (compared.outputs, compared.differing, compared.max_abs_diff) == (40, 4, 2)
    assert not compared.bit_exact


def test_an_arena_that_does_not_suffice(file):
    micro = measure_micro(file, max_arena=4100, run=micro_stand_in.Engine(5000))
    message = "does not fit into 4,096 bytes: at least 904 more are needed"
    assert (micro.arena, micro.comparison, micro.finding) == (None, None, MicroFinding("too small", message))


@pytest.mark.usefixtures("stand_in")
def test_an_abort_ends_the_search(file, monkeypatch):
    monkeypatch.setenv("STAND_IN_SAYS", "bad thing")
    micro = measure_micro(file)
    assert micro.finding == MicroFinding("abort", "the runtime was killed by SIGABRT at 'set up'")
    assert (micro.arena, micro.max_arena) == (None, 2**21)


def test_a_reference_that_does_not_run_leaves_the_arena(file):
    refused = RuntimeOutcome(1, "no such thing", {"phase": "load"})
    micro = measure_micro(file, run=micro_stand_in.Engine(reference=refused))
    assert micro.arena.bytes == 1328
    assert micro.comparison is None
    message = "LiteRT's reference kernels do not run it: no such thing"
    assert micro.comparison_finding == MicroFinding("refused", message)


def test_a_package_that_does_not_load(file, tmp_path, monkeypatch):
    micro_stand_in.install(tmp_path, monkeypatch, "raise ImportError('no yaml')")
    with pytest.raises(InputError, match=r"does not load \(no yaml\). Install it.* pip install 'keras-nin\[micro\]'"):
        measure_micro(file)


def test_the_reference_runs_without_a_delegate(tmp_path):
    ends = [writer.tensor(name, (1, 8), "FLOAT32") for name in "ab"]
    path = writer.write(tmp_path / "net.tflite", ends, [writer.operator("RELU", [0], [1])])

    def operators(**options):
        return {details["op_name"] for details in TFLiteRunner(path, **options)._interpreter._get_ops_details()}

    assert operators(reference_kernels=True) == {"RELU"}
    assert operators() != {"RELU"}


@pytest.mark.parametrize("arena", [0, 1023, 2**30 + 1, 4096.0])
def test_arenas_of_no_use(file, arena):
    with pytest.raises(InputError, match="Expected `max_arena` to be 1024 to 1,073,741,824 bytes"):
        measure_micro(file, max_arena=arena)


def test_images_are_quantised_as_the_file_wants(tmp_path):
    path = tmp_path / "net.tflite"
    ends = [writer.tensor(name, (2, 1, 1, 1), quantization=micro_stand_in.quantization(0.5, 3)) for name in "ab"]
    graph = read_model(writer.write(path, ends, [writer.operator("RELU", [0], [1])]))
    images = np.array([0, 1, -0.5, 1000], np.float32).reshape(4, 1, 1, 1)
    made = prepare_samples(graph, [images], "four")
    assert (made.source, made.noise) == ("four", False)
    assert [array.ravel().tolist() for array in made.arrays[0]] == [[3, 5], [2, 127]]
    for wrong in ([images[:3]], [images.reshape(2, 2, 1, 1)], [images, images]):
        with pytest.raises(InputError, match="Expected samples for inputs of shapes"):
            prepare_samples(graph, wrong, "wrong")


def test_noise_for_every_kind_of_input(tmp_path):
    path = tmp_path / "net.tflite"
    ends = [
        writer.tensor("a", (1, 500), quantization=micro_stand_in.quantization(0.5, 3)),
        writer.tensor("b", (1, 4), "FLOAT32"),
        writer.tensor("c", (1, 4), "INT32"),
        writer.tensor("d", (1, 4)),
    ]
    graph = read_model(writer.write(path, ends, [writer.custom("x", [0, 1, 2], [3])], inputs=(0, 1, 2)))
    one, again, other = (measurement.make_noise(graph, 3, seed) for seed in (0, 0, 1))
    whole, reals, indexes = one.arrays
    assert (whole.shape, whole.dtype, whole.min(), whole.max()) == ((3, 1, 500), np.int8, -128, 127)
    assert (reals.dtype, reals.min() >= 0, reals.max() < 1) == (np.float32, True, True)
    assert (indexes.dtype, indexes.any()) == (np.int32, False)
    assert np.array_equal(whole, again.arrays[0])
    assert not np.array_equal(whole, other.arrays[0])


def test_inputs_that_are_no_numbers_or_too_large(tmp_path):
    path = tmp_path / "net.tflite"
    for tensor, message in [
        (writer.tensor("a", (1, 4), "STRING"), "Expected numeric inputs. Received: 'a' of type string"),
        (writer.tensor("a", (1, 2**30)), "Expected inputs of at most 268,435,456 bytes in total"),
    ]:
        graph = read_model(writer.write(path, [tensor, writer.tensor("b", (1, 4))], [writer.custom("x", [0], [1])]))
        with pytest.raises(InputError, match=message):
            measurement.make_noise(graph, 4)


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ([0.0, np.nan, 1], [0.0, np.nan, 1], 0),
        ([0.0, 1, 2], [-0.0, 1, 2], 1),
        ([[1, 2], [3, 4]], [[1, 5], [6, 4]], 2),
        ([1, 2], [[1, 2]], 2),
        ([], [], 0),
    ],
)
def test_bits_are_compared(one, other, count):
    assert measurement.count_differing(np.array(one, np.float32), np.array(other, np.float32)) == count


def test_another_type_differs_everywhere():
    assert measurement.count_differing(np.zeros(3, np.int8), np.zeros(3, np.uint8)) == 3


# the search


MOST = 2**21


class Trier:
    def __init__(self, need):
        self.need, self.tried = need, []

    def __call__(self, size):
        assert size % 16 == 0
        assert 0 < size < MOST
        assert size not in self.tried
        self.tried.append(size)
        return size >= self.need


@given(need=st.integers(1, MOST), guess=st.integers(0, 2 * MOST))
def test_the_smallest_multiple_of_16_that_works(need, guess):
    trier = Trier(need)
    assert measurement.find_smallest_size(trier, MOST, guess) == -(-need // 16) * 16
    assert len(trier.tried) <= 2 * 17 + 2


@pytest.mark.parametrize(("guess", "tries"), [(11840, 2), (11830, 2), (11824, 2), (11808, 4), (11856, 4)])
def test_a_good_guess_takes_few_tries(guess, tries):
    trier = Trier(11840)
    assert measurement.find_smallest_size(trier, MOST, guess) == 11840
    assert len(trier.tried) == tries


# limits


def test_limits(file):
    micro = measure_micro(file, run=micro_stand_in.Engine())
    checks = check_micro_limits(micro, parse_micro_limits("arena=1328B,arena=1327B,flash=1MiB"))
    assert [check.passed for check in checks] == [True, False, True]
    none = dataclasses.replace(micro, arena=None, finding=MicroFinding("abort", "it aborts"))
    (check,) = check_micro_limits(none, parse_micro_limits("arena=1GiB"))
    assert (check.passed, check.reason) == (False, "it aborts")
    assert repr(none).startswith("<MicroResult: net.tflite, no arena works, flash ")
    assert list(micro.to_dataframe()["operator"]) == ["SOFTMAX"]
