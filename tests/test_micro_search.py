"""The smallest arena, the messages that tell what a failure means, and the operators to register."""

import micro_stand_in
import pytest
import tflite_writer as writer

from keras_nin.edge.micro import cpp, format_resolver, list_operators, measurement, runtime
from keras_nin.edge.micro.child import Outcome
from keras_nin.edge.micro.records import ABORT, MISSING_OPERATOR, REFUSED, TIME_LIMIT, TOO_SMALL, ArenaSection
from keras_nin.edge.micro.runtime import diagnose_outcome
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model

MOST = 2**21
# What tflite-micro printed of a network of 13 operators.
PRINTED = """\
[RecordingMicroAllocator] Arena allocation total 11840 bytes
[RecordingMicroAllocator] Arena allocation head 5120 bytes
[RecordingMicroAllocator] Arena allocation tail 6720 bytes
[RecordingMicroAllocator] 'TfLiteEvalTensor data' used 792 bytes with alignment overhead (requested 792 bytes for 33 \
allocations)
[RecordingMicroAllocator] 'Persistent buffer data' used 4052 bytes with alignment overhead (requested 4012 bytes)
"""


class Trier:
    def __init__(self, need):
        self.need, self.tried = need, []

    def __call__(self, size):
        assert size % 16 == 0
        assert 0 < size < MOST
        assert size not in self.tried
        self.tried.append(size)
        return size >= self.need


@pytest.mark.parametrize("guess", [0, 1, 16, 999, 11840, 11841, 40000, MOST - 16, MOST, 2 * MOST])
@pytest.mark.parametrize("need", [1, 16, 17, 11825, 11840, 11841, 1023024, MOST - 15, MOST])
def test_the_smallest_multiple_of_16_that_works(need, guess):
    trier = Trier(need)
    assert measurement.find_smallest_size(trier, MOST, guess) == -(-need // 16) * 16
    assert len(trier.tried) <= 2 * 17 + 2


@pytest.mark.parametrize(("guess", "tries"), [(11840, 2), (11830, 2), (11824, 2), (11808, 4), (11856, 4)])
def test_a_good_guess_takes_few_tries(guess, tries):
    trier = Trier(11840)
    assert measurement.find_smallest_size(trier, MOST, guess) == 11840
    assert len(trier.tried) == tries


def test_allocations_as_the_runtime_prints_them():
    parts = (ArenaSection("TfLiteEvalTensor data", 792), ArenaSection("Persistent buffer data", 4052))
    assert runtime.parse_allocations(PRINTED) == (5120, 6720, parts)


@pytest.mark.parametrize("log", ["", PRINTED.replace("5120", "5121"), PRINTED.replace("tail", "end")])
def test_allocations_in_another_form_are_no_figures(log):
    with pytest.raises(InputError, match="Expected tflite-micro to print its allocations"):
        runtime.parse_allocations(log)


def outcome(log="", status=1, late=False, **answer):
    return Outcome(status, late, log, {"phase": "set up"} | answer)


TAIL = "Failed to allocate tail memory. Requested: 104, available 16, missing: 88\n"
BUFFER = "Failed to resize buffer. Requested: 2074464, available 1922664, missing: 151800\n"
ABSENT = (
    "Didn't find op for builtin opcode 'LOCAL_RESPONSE_NORMALIZATION'\n"
    "Failed to get registration from op code LOCAL_RESPONSE_NORMALIZATION\n"
)
ABSENT_CUSTOM = "Failed to get registration from op code CUSTOM\n"
HYBRID = "conv_common.cc Hybrid models are not supported on TFLite Micro.\nNode CONV_2D failed to prepare\n"
ERROR = {"error": "TFLM failed to allocate tensors"}


@pytest.mark.parametrize(
    ("found", "kind", "message"),
    [
        (outcome(TAIL, -11), TOO_SMALL, "at least 88 more"),
        (outcome(BUFFER, 1, **ERROR), TOO_SMALL, "does not fit into 2,097,152 bytes: at least 151,800 more"),
        (outcome(ABSENT, 1, **ERROR), MISSING_OPERATOR, "no operator LOCAL_RESPONSE_NORMALIZATION"),
        (outcome(ABSENT_CUSTOM, 1, **ERROR), MISSING_OPERATOR, "no operator CUSTOM"),
        (outcome(ABSENT + TAIL, 1, **ERROR), MISSING_OPERATOR, "no operator LOCAL_RESPONSE_NORMALIZATION"),
        (outcome("", -6), ABORT, "ends with SIGABRT at 'set up'"),
        (outcome("", -6, phase="run"), ABORT, "ends with SIGABRT at 'run'"),
        (outcome(HYBRID, 1, **ERROR), REFUSED, "Hybrid models are not supported on TFLite Micro.; Node CONV_2D"),
        (outcome("Traceback\nAttributeError: none\n", 1), REFUSED, "AttributeError: none"),
        (outcome("", 3), REFUSED, "ended with status 3"),
        (outcome(TAIL, -9, late=True), TIME_LIMIT, "not done after 7 s"),
    ],
)
def test_what_a_failure_means(found, kind, message):
    finding = diagnose_outcome(found, 7, MOST)
    assert finding.kind == kind
    assert message in finding.message


def test_a_runtime_without_an_arena_is_never_too_small():
    assert diagnose_outcome(outcome(TAIL, -11), 7).kind == ABORT


@pytest.mark.parametrize(("scale", "beta", "named"), [(7.8e-9, 1, True), (2.0**-26, 1, True), (2e-8, 1, False),
                                                      (2e-8, 0.5, True), (7.8e-9, 3, False)])  # fmt: skip
def test_an_abort_names_a_softmax_whose_input_is_flat(tmp_path, scale, beta, named):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite", scale, beta))
    assert ("SOFTMAX (operator 0)" in diagnose_outcome(outcome("", -6), 7, MOST, graph).message) == named


@pytest.mark.parametrize(("classes", "named"), [(512, False), (513, True)])
def test_an_abort_in_a_run_names_a_softmax_of_many_classes(tmp_path, classes, named):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite", classes=classes))
    assert (
        "perhaps SOFTMAX (operator 0)" in diagnose_outcome(outcome("", -6, phase="run"), 7, MOST, graph).message
    ) == named
    assert "SOFTMAX" not in diagnose_outcome(outcome("", -6), 7, MOST, graph).message


@pytest.mark.parametrize(
    ("op", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("MAX_POOL_2D", "AddMaxPool2D"),
        ("PADV2", "AddPadV2"),
        ("CUMSUM", "AddCumSum"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
        ("L2_NORMALIZATION", "AddL2Normalization"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
        ("LOCAL_RESPONSE_NORMALIZATION", None),
        ("RELU_N1_TO_1", None),
    ],
)
def test_methods_have_the_names_of_the_resolver(op, method):
    assert cpp.resolver_method(op) == method
    assert cpp.resolver_method(op, is_custom=True) is None


def test_a_declaration_of_every_operator_once(tmp_path):
    path = tmp_path / "net.tflite"
    tensors = [writer.tensor(name, (1, 4)) for name in "abcdef"]
    made = [
        writer.operator("RELU", [0], [1]),
        writer.custom("SignalWindow", [1], [2]),
        writer.operator("RELU", [2], [3]),
        writer.custom("mine\\", [3], [4]),
        writer.operator("LOCAL_RESPONSE_NORMALIZATION", [4], [5]),
    ]
    more = [([writer.tensor(name, (1, 4)) for name in "xy"], [writer.operator("TANH", [0], [1])])]
    writer.write(path, tensors, made, more=more)
    assert format_resolver(list_operators(read_model(path))).splitlines() == [
        "tflite::MicroMutableOpResolver<4> resolver;",
        "resolver.AddRelu();",
        "resolver.AddTanh();",
        "resolver.AddWindow();",
        "// resolver.AddCustom(...) for the custom operator mine?",
        "// TFLite Micro has no operator LOCAL_RESPONSE_NORMALIZATION",
    ]


def test_a_file_without_operators_has_a_resolver_that_compiles():
    assert format_resolver(()) == "tflite::MicroMutableOpResolver<1> resolver;"
