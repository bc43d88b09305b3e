"""Kernels against operators: every one of both is in the rows, once, by its layer's name."""

import collections
import json
import pathlib

import numpy as np
import pytest
from branched_net import CHANNELS, SIZE, branched_net, recorded
from tflite_writer import operator, tensor, write

from keras_nin.benchmark import kernel_assignment as table
from keras_nin.benchmark import layer_times, measurement
from keras_nin.benchmark.kernel_assignment import OperatorNode, align_kernels
from keras_nin.tflite import reader, schema

GEMM, IGEMM = "Fully Connected (NC, F32) GEMM", "Convolution (NHWC, F32) IGEMM"
RESHAPE, COPY, CLAMP, ADD = "Static Reshape (NC)", "Copy (NC, X32)", "Clamp (NC)", "Add (ND)"
LOOKED_UP = "Invalid Unary Op"
POINTWISE, SPATIAL = OperatorNode("CONV_2D", is_product=True), OperatorNode("CONV_2D")


def kernel(name, us, kind="delegate", index=0):
    return {"kind": kind, "name": name, "index": index, "us": dict.fromkeys(("median", "mean", "p90", "typical"), us)}


@pytest.fixture
def net(tmp_path):
    return branched_net(tmp_path / "net.tflite")


def test_every_operator_of_the_table_is_one():
    known = set(schema.OPERATORS)
    own = {"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D"}
    used = set().union(*table._OPERATORS_BY_KERNEL.values(), table.NOTES_WITHOUT_KERNEL, table.PREPARED_OPERATORS)
    assert used - own <= known


def test_a_layer_in_several_kernels(tmp_path):
    image, whole = (tensor(name, (1, 4, size), "FLOAT32") for name, size in (("image", 4), ("whole", 8)))
    path = write(
        tmp_path / "net.tflite",
        [image, whole],
        [operator("CONCATENATION", [0, 0], [1], "ConcatenationOptions", axis=2)],
    )
    first, second = layer_times.join_layers(path, [kernel(COPY, 3.0), kernel(COPY, 2.0, index=1)], 5.0)[0]
    assert (first.name, first.operators, first.us.typical) == ("whole", (0,), 3.0)
    assert (second.name, second.op, second.operators) == ("whole (Copy)", "CONCATENATION", (0,))
    assert (first.macs, first.bytes, second.macs, second.bytes) == (0, 4 * 4 * (4 + 8), None, 0)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        (GEMM, "Fully Connected"),
        ("Convolution (NHWC, QU8) DWConv", "Convolution"),
        ("Transpose (ND, X8) Transpose", "Transpose"),
        (LOOKED_UP, LOOKED_UP),
        ("", ""),
        ("odd (name", "odd"),
    ],
)
def test_the_base_of_a_name(name, base):
    assert table.kernel_base_name(name) == base


@pytest.mark.parametrize(
    ("nodes", "names", "main", "inserted"),
    [
        ([POINTWISE, SPATIAL], [GEMM, IGEMM], {0: [0], 1: [1]}, {}),
        # What is no operator's is an insertion for the one that follows.
        ([OperatorNode("FULLY_CONNECTED")], [RESHAPE, GEMM], {1: [0]}, {0: 0}),
        ([OperatorNode("RESHAPE"), OperatorNode("FULLY_CONNECTED")], [RESHAPE, RESHAPE, GEMM], {0: [0], 2: [1]}, {1: 1}),
        ([OperatorNode("CONV_2D")], ["Convert (NC, F32, QDU8)", IGEMM], {1: [0]}, {0: 0}),
        # An operator without a kernel: the convolution that fits says which.
        ([OperatorNode("PAD"), SPATIAL], [IGEMM], {0: [1]}, {}),
        ([POINTWISE, OperatorNode("RESHAPE"), POINTWISE], [GEMM, GEMM], {0: [0], 1: [2]}, {}),
        ([OperatorNode("CONCATENATION", is_divisible=True), SPATIAL], [COPY, COPY, IGEMM], {0: [0], 1: [0], 2: [1]}, {}),
        ([OperatorNode("ADD", is_activated=True), OperatorNode("ADD")], [ADD, CLAMP, ADD], {0: [0], 2: [1]}, {1: 0}),
        ([OperatorNode("SUB"), OperatorNode("LOGISTIC"), OperatorNode("MUL"), OperatorNode("DEQUANTIZE")], [LOOKED_UP, "Convert (NC)"],
         {0: [0, 1, 2], 1: [3]}, {}),
        # Constants cost nothing, however many: not even less than one kernel of another variant.
        ([*[OperatorNode("DEQUANTIZE", is_constant=True)] * 9, SPATIAL], ["Convert (NC)", GEMM], {1: [9]}, {0: 9}),
        # A kernel that nothing explains stays so, and the others are found all the same.
        ([POINTWISE, SPATIAL], [GEMM, "New Kernel (NC)", IGEMM], {0: [0], 2: [1]}, {}),
        ([], [GEMM], {}, {}),
        ([POINTWISE], [], {}, {}),
    ],
)  # fmt: skip
def test_alignments(nodes, names, main, inserted):
    for late in (False, True):  # the same either way: there is one cheapest explanation
        found = align_kernels(nodes, names, late)
        assert (found.main, found.inserted) == (main, inserted)


def test_the_variant_decides_between_operators():
    nodes = [POINTWISE, SPATIAL, POINTWISE]
    assert align_kernels(nodes, [IGEMM, GEMM]).main == {0: [1], 1: [2]}
    assert align_kernels(nodes, [GEMM, IGEMM]).main == {0: [0], 1: [1]}


def test_too_much_to_explain_is_left_unexplained(monkeypatch):
    monkeypatch.setattr("keras_nin.benchmark.kernel_assignment._MAX_STATES", 10)
    assert align_kernels([POINTWISE] * 20, [ADD] * 20).main == {}


def test_rows_in_order_of_execution(net):
    rows, _ = layer_times.join_layers(net, recorded(), 20.0)
    assert [(row.name, row.op, row.operators) for row in rows] == [
        ("first", "CONV_2D", (0,)),
        ("second", "CONV_2D", (2,)),
        ("normal", "LOCAL_RESPONSE_NORMALIZATION", (1,)),
        ("third", "CONV_2D", (3, 4)),
        ("both", "CONCATENATION", (5,)),
        ("flat", "RESHAPE", (6,)),
        ("dense (Static Reshape)", None, ()),
        ("dense", "FULLY_CONNECTED", (7,)),
    ]
    assert all(row.joined for row in rows)


def test_facts_of_a_row(net):
    rows, _ = layer_times.join_layers(net, recorded(), 20.0)
    first, third, inserted, dense = rows[0], rows[3], rows[6], rows[7]
    positions = SIZE * SIZE
    assert (first.kind, first.macs, first.dtype) == ("pointwise", positions * CHANNELS * CHANNELS, "float32")
    assert first.bytes == 4 * (2 * positions * CHANNELS + CHANNELS * CHANNELS + CHANNELS)
    # The padding is part of it: what lies between the two is neither read nor written, and paddings are no weights.
    assert third.bytes == 4 * (2 * positions * CHANNELS + 9 * CHANNELS * CHANNELS + CHANNELS)
    assert (inserted.kind, inserted.macs, inserted.bytes, inserted.dtype) == ("other", None, 0, None)
    assert dense.macs == positions * 2 * CHANNELS * 10
    assert first.gmacs_per_s == pytest.approx(first.macs / first.us.typical / 1000)
    assert first.share == pytest.approx(first.us.typical / 20)


def test_an_operator_without_kernel_says_why(net):
    kernels = recorded()
    rows, _ = layer_times.join_layers(
        net, kernels[:5] + kernels[6:], 20.0
    )  # one reshape less: it is the dense layer's or its own
    assert {index for row in rows for index in row.operators} == set(range(8))
    rows, _ = layer_times.join_layers(net, kernels[:4] + kernels[7:], 20.0)
    flat, both = (next(row for row in rows if row.name == name) for name in ("flat", "both"))
    assert (flat.kernel, flat.us, flat.share, flat.joined) == (None, None, None, True)
    assert flat.note == "reads its input in place"
    assert (both.us, both.joined, both.note) == (None, False, "no kernel was found for it")
    assert [row.name for row in rows[-3:]] == ["both", "flat", "dense"]


def test_a_kernel_that_is_not_known_is_shown_as_such(net):
    kernels = recorded()
    strange = kernel("New Kernel (NC)", 5.0, index=9)
    rows, overhead = layer_times.join_layers(net, [*kernels, strange, strange], 40.0)
    assert [(row.name, row.op, row.joined, row.kind) for row in rows[-2:]] == [
        ("New Kernel (NC)", None, False, "other"),
        ("New Kernel (NC) (2)", None, False, "other"),
    ]
    assert sum(row.us.typical for row in rows) + overhead == pytest.approx(40)


def test_an_unexpected_order_joins_only_what_has_an_index(net):
    kernels = [kernel("LOCAL_RESPONSE_NORMALIZATION", 2.0, "operator", 1), *recorded()]
    rows, _ = layer_times.join_layers(net, kernels, 40.0)
    assert collections.Counter(row.joined for row in rows) == {True: 2, False: 7 + 7}
    assert {index for row in rows for index in row.operators} == set(range(8))


def test_what_the_clock_cuts_off_comes_back():
    kernels = [kernel(GEMM, 3.0), kernel(RESHAPE, 0.0), kernel("SOFTMAX", 0.5, "operator"), kernel(ADD, 0.0)]
    assert [us.typical for us in layer_times.correct_kernel_times(kernels, 4.1)] == pytest.approx([3.3, 0, 0.5, 0.3])
    assert [us.typical for us in layer_times.correct_kernel_times(kernels, 99)] == pytest.approx([3.5, 0, 0.5, 0.5])
    assert [us.typical for us in layer_times.correct_kernel_times(kernels, 2)] == [3.0, 0.0, 0.5, 0.0]
    assert [us.median for us in layer_times.correct_kernel_times(kernels, 99)] == [3.0, 0.0, 0.5, 0.0]


def test_a_file_that_the_audit_refuses_has_rows_all_the_same(net, monkeypatch):
    monkeypatch.setattr("keras_nin.audit.tflite_reader.read_tflite_graph", refuse)
    rows, _ = layer_times.join_layers(net, recorded(), 20.0)
    assert (rows[0].name, rows[0].kind, rows[0].macs) == ("conv_2d 0", "other", None)


def refuse(path):
    from keras_nin.errors import InputError

    raise InputError("no")


def profiled(path, runs=20):
    job = {"models": [{"file": str(path), "threads": 1}], "runs": runs, "seconds": 5, "profile": True}
    return measurement.run_job(job).results[0]


def test_what_runs_here_is_what_was_recorded(net):
    kernels = profiled(net)["profile"]["kernels"]
    assert [(each["kind"], each["name"], each["index"]) for each in kernels] == [
        (each["kind"], each["name"], each["index"]) for each in recorded()
    ]


def check(path):
    """Profile a file, and return its rows, which have every kernel and every operator."""
    result = profiled(path)
    kernels, median = result["profile"]["kernels"], result["us"]["median"]
    rows, overhead = layer_times.join_layers(path, kernels, median)
    operators = range(len(reader.read_model(path).main.operators))
    assert {index for row in rows for index in row.operators} == set(operators), path
    assert collections.Counter(row.kernel for row in rows if row.kernel) == collections.Counter(
        each["name"] for each in kernels
    )
    assert all(row.joined for row in rows), [row.name for row in rows if not row.joined]
    assert len({row.name for row in rows}) == len(rows)
    assert sum(row.us.typical for row in rows if row.us) + overhead == pytest.approx(median)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["float32", "int8"])
@pytest.mark.parametrize("name", ["nin_digits", "squeezenet_cifar10", "googlenet_cifar10", "convnet_pointwise_head"])
def test_every_convolution_of_an_export_is_its_layer(tmp_path, name, scheme):
    from keras_nin import models
    from keras_nin.export import convert_model

    model = models.build_model(name)
    images = np.random.default_rng(0).random((8, *model.input_shape[1:]), np.float32)
    path = tmp_path / f"{name}.tflite"
    convert_model(model, scheme=scheme, calibration=images if scheme == "int8" else None).save(path)
    rows = check(path)
    recorded_layers = [
        each["layer"] for each in json.loads(path.with_suffix(".json").read_text())["operators"]
    ]  # what the export wrote of each operator
    for row in rows:
        if row.op in ("CONV_2D", "FULLY_CONNECTED"):
            assert row.name == recorded_layers[row.operators[-1]]
            assert row.us is not None


@pytest.mark.external
@pytest.mark.slow
def test_files_of_others_are_joined_whole(external_data):
    found, refused = 0, []
    for path in sorted(pathlib.Path(external_data, "edgetpu").glob("*.tflite")):
        if any(operator.is_custom for operator in reader.read_model(path).main.operators):
            continue
        try:
            found += bool(check(path))
        except measurement.FileRefused as error:
            refused.append(str(error))
    # XNNPACK does not take the resizing of one pixel in one of them.
    assert found > 80
    assert all("failed to delegate RESIZE_BILINEAR" in each for each in refused)
    assert len(refused) <= 1
