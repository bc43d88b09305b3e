"""Kernels against operators: the order of execution, and which kernel computes what."""

import pytest
from branched_net import branched_net, recorded

from keras_nin.benchmark import kernel_assignment
from keras_nin.benchmark.kernel_assignment import (
    NOTE_NOT_FOUND,
    align_kernels,
    assign_kernels,
    group_kernels,
    kernel_base_name,
    partition_operators,
)
from keras_nin.benchmark.kernel_assignment import OperatorNode as Node
from keras_nin.tflite import schema
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import TFLiteOperator, TFLiteSubgraph, TFLiteTensor

GEMM, IGEMM = "Fully Connected (NC, F32) GEMM", "Convolution (NHWC, F32) IGEMM"
RESHAPE, COPY, CLAMP, ADD = "Static Reshape (NC)", "Copy (NC, X32)", "Clamp (NC)", "Add (ND)"
LOOKUP = "Invalid Unary Op"
POINTWISE, SPATIAL = Node("CONV_2D", is_product=True), Node("CONV_2D")


def network(*operators):
    """Return a subgraph of (type, inputs, outputs); tensors from 90 on are resources."""
    tensors = tuple(
        TFLiteTensor(index, f"t{index}", (1,), None, "resource" if index >= 90 else "float32", None, 0, 0, False, False)
        for index in range(100)
    )
    records = tuple(
        TFLiteOperator(index, op, 1, inputs, outputs, {}) for index, (op, inputs, outputs) in enumerate(operators)
    )
    return TFLiteSubgraph("main", tensors, records, (0,), (operators[-1][2][0],))


def test_a_chain_keeps_its_order():
    main = network(("ADD", (0,), (1,)), ("LRN", (1,), (2,)), ("ADD", (2,), (3,)), ("LRN", (3,), (4,)))
    assert partition_operators(main, {1, 3}) == [(True, [0]), (False, [1]), (True, [2]), (False, [3])]


def test_a_group_takes_what_is_ready_past_operators_of_the_other_kind():
    main = network(
        ("ADD", (0,), (1,)), ("LRN", (1,), (2,)), ("ADD", (1,), (3,)), ("ADD", (2, 3), (4,)), ("LRN", (0,), (5,))
    )
    # The second LRN could run first, but the group of the first ready operator comes first, and takes all it can.
    assert partition_operators(main, {1, 4}) == [(True, [0, 2]), (False, [1, 4]), (True, [3])]


def test_an_omitted_input_and_a_constant_are_ready():
    main = network(("FULLY_CONNECTED", (0, 7, -1), (1,)), ("ADD", (1,), (2,)))
    assert partition_operators(main, set()) == [(True, [0, 1])]


def test_side_effects_keep_their_order():
    reads = [("READ_VARIABLE", (90,), (1,)), ("LRN", (0,), (2,)), ("ASSIGN_VARIABLE", (90, 2), ()), ("ADD", (1,), (3,))]
    assert partition_operators(network(*reads), {1, 2}) == [(True, [0, 3]), (False, [1, 2])]
    calls = [("IF", (0,), (1,)), ("ADD", (0,), (2,)), ("WHILE", (0,), (3,)), ("ADD", (3,), (4,))]
    assert partition_operators(network(*calls), {0}) == [(False, [0]), (True, [1, 2, 3])]
    assert partition_operators(network(*calls), {0, 1}) == [(False, [0, 1]), (True, [2, 3])]
    late = [("ADD", (0,), (5,)), *calls]
    # Without the order the WHILE would join the first ADD.
    assert partition_operators(network(*late), {1}) == [(True, [0, 2]), (False, [1]), (True, [3, 4])]


def test_operators_that_wait_for_one_another_end_it():
    main = network(("ADD", (2,), (1,)), ("ADD", (1,), (2,)), ("ADD", (0,), (3,)))
    assert partition_operators(main, set()) == [(True, [2]), (False, [0, 1])]


def test_kernels_are_found_by_group(tmp_path):
    main = read_model(branched_net(tmp_path / "net.tflite")).main
    kernels = recorded()
    assert group_kernels(main, kernels) == [
        (True, [0, 2], [0, 1]),
        (False, [1], [2]),
        (True, [3, 4, 5, 6, 7], [3, 4, 5, 6, 7]),
    ]
    assert group_kernels(main, kernels[2:]) is not None  # a group may have no kernel
    assert group_kernels(main, [*kernels, kernels[2]]) is None
    assert group_kernels(main, [{**kernels[2], "index": 99}]) is None


def test_every_operator_of_the_table_is_one():
    custom = {"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D"}
    table = kernel_assignment
    used = set().union(*table._OPERATORS_BY_KERNEL.values(), table._NOTES_WITHOUT_KERNEL, table._PREPARED_OPERATORS)
    assert used - custom <= set(schema.OPERATORS)
    lookup = table._OPERATORS_BY_KERNEL[LOOKUP]
    assert {"SQUARED_DIFFERENCE", "LOGISTIC", "QUANTIZE", "RELU6", "SQUARE"} <= lookup
    assert set(table._OPERATORS_BY_KERNEL) >= table._LOOKUP_KERNELS | table._INSERTED_KERNELS | table._PREPARING_KERNELS


def test_the_base_of_a_name():
    names = {
        GEMM: "Fully Connected", "Convolution (NHWC, QU8) DWConv": "Convolution", LOOKUP: LOOKUP, "": "",
        "Transpose (ND, X8) Transpose": "Transpose", "odd (name": "odd",
    }  # fmt: skip
    assert {name: kernel_base_name(name) for name in names} == names


@pytest.mark.parametrize(
    ("nodes", "names", "computed", "inserted"),
    [
        ([POINTWISE, SPATIAL], [GEMM, IGEMM], {0: [0], 1: [1]}, {}),
        # A kernel that is no operator's is an insertion for the operator that follows.
        ([Node("FULLY_CONNECTED")], [RESHAPE, GEMM], {1: [0]}, {0: 0}),
        ([Node("RESHAPE"), Node("FULLY_CONNECTED")], [RESHAPE, RESHAPE, GEMM], {0: [0], 2: [1]}, {1: 1}),
        ([Node("CONV_2D")], ["Convert (NC, F32, QDU8)", IGEMM], {1: [0]}, {0: 0}),
        # An operator without a kernel: the convolution that fits says which.
        ([Node("PAD"), SPATIAL], [IGEMM], {0: [1]}, {}),
        ([POINTWISE, Node("RESHAPE"), POINTWISE], [GEMM, GEMM], {0: [0], 1: [2]}, {}),
        ([Node("CONCATENATION", is_divisible=True), SPATIAL], [COPY, COPY, IGEMM], {0: [0], 1: [0], 2: [1]}, {}),
        ([Node("ADD", is_activated=True), Node("ADD")], [ADD, CLAMP, ADD], {0: [0], 2: [1]}, {1: 0}),
        ([Node("SUB"), Node("LOGISTIC"), Node("MUL"), Node("DEQUANTIZE")], [LOOKUP, "Convert (NC)"],
         {0: [0, 1, 2], 1: [3]}, {}),
        # Also one that might have no kernel: the table has it.
        ([Node("LOGISTIC"), Node("RELU")], [LOOKUP], {0: [0, 1]}, {}),
        # Constants cost nothing, however many: not even less than one kernel of another variant.
        ([*[Node("DEQUANTIZE", is_constant=True)] * 9, SPATIAL], ["Convert (NC)", GEMM], {1: [9]}, {0: 9}),
        # A kernel that nothing explains stays so, and the others are found all the same.
        ([POINTWISE, SPATIAL], [GEMM, "New Kernel (NC)", IGEMM], {0: [0], 2: [1]}, {}),
        # The variant decides between operators.
        ([POINTWISE, SPATIAL, POINTWISE], [IGEMM, GEMM], {0: [1], 1: [2]}, {}),
        ([POINTWISE, SPATIAL, POINTWISE], [GEMM, IGEMM], {0: [0], 1: [1]}, {}),
        ([], [GEMM], {}, {}),
        ([POINTWISE], [], {}, {}),
    ],
)  # fmt: skip
def test_alignments(nodes, names, computed, inserted):
    assert align_kernels(nodes, names) == (computed, inserted)


def test_too_much_to_explain_is_left_unexplained(monkeypatch):
    monkeypatch.setattr(kernel_assignment, "_MAX_STATES", 10)
    assert align_kernels([POINTWISE] * 20, [ADD] * 20) == ({}, {})


def assigned(main, *names):
    """What `assign_kernels` says of kernels of the delegate by these names."""
    kernels = [{"kind": "delegate", "name": name, "index": index} for index, name in enumerate(names)]
    return [(row.role.name, row.kernel, row.owner, row.operators) for row in assign_kernels(main, kernels)]


def test_every_kernel_and_operator_is_assigned_once(tmp_path):
    main = read_model(branched_net(tmp_path / "net.tflite")).main
    rows = assign_kernels(main, recorded())
    assert [(row.role.name, row.owner, row.operators) for row in rows] == [
        *[("COMPUTES", operator, (operator,)) for operator in (0, 2, 1)],
        ("COMPUTES", 4, (3, 4)),  # the padding is part of the convolution
        *[("COMPUTES", operator, (operator,)) for operator in (5, 6)],
        ("INSERTED", 7, ()),
        ("COMPUTES", 7, (7,)),
    ]
    assert [row.kernel for row in rows] == list(range(8))
    assert all(row.is_joined for row in rows)


def test_paddings_and_activations_become_part_of_their_neighbors():
    chain = network(("PAD", (0, 50), (1,)), ("CONV_2D", (1, 51), (2,)), ("RELU6", (2,), (3,)))
    assert assigned(chain, IGEMM) == [("COMPUTES", 0, 1, (0, 1, 2))]
    more = network(("PAD", (0, 50), (1,)), ("CONV_2D", (1, 51), (2,)), ("RESHAPE", (2,), (3,)), ("ADD", (3, 3), (4,)))
    assert assigned(more, IGEMM, ADD) == [
        ("COMPUTES", 0, 1, (0, 1)), ("NO_KERNEL", None, 2, (2,)), ("COMPUTES", 1, 3, (3,)),
    ]  # fmt: skip
    # One that two convolutions read, or something else, is no part of either.
    twice = network(("PAD", (0, 50), (1,)), ("CONV_2D", (1, 51), (2,)), ("CONV_2D", (1, 52), (3,)))
    assert assigned(twice, IGEMM, IGEMM) == [
        ("NO_KERNEL", None, 0, (0,)), ("COMPUTES", 0, 1, (1,)), ("COMPUTES", 1, 2, (2,)),
    ]  # fmt: skip
    added = network(("CONV_2D", (0, 50), (1,)), ("PAD", (1, 51), (2,)), ("ADD", (2, 2), (3,)))
    assert assigned(added, IGEMM, ADD) == [
        ("COMPUTES", 0, 0, (0,)), ("NO_KERNEL", None, 1, (1,)), ("COMPUTES", 1, 2, (2,)),
    ]  # fmt: skip


def test_parts_and_what_is_unknown():
    joined = network(("CONCATENATION", (0, 1), (2,)), ("ADD", (2, 2), (3,)))
    assert assigned(joined, COPY, COPY, "New Kernel (NC)", ADD) == [
        ("COMPUTES", 0, 0, (0,)), ("PART", 1, 0, (0,)), ("UNKNOWN", 2, None, ()), ("COMPUTES", 3, 1, (1,)),
    ]  # fmt: skip
    # An operator that the kernels do not explain comes behind its predecessor.
    lost = network(("ADD", (0, 0), (1,)), ("MUL", (1, 1), (2,)), ("ADD", (2, 2), (3,)))
    kernels = [{"kind": "delegate", "name": ADD, "index": index} for index in range(2)]
    rows = assign_kernels(lost, kernels)
    assert [(row.kernel, row.owner, row.is_joined) for row in rows] == [(0, 0, True), (None, 1, False), (1, 2, True)]
    assert [row.note for row in rows] == [None, NOTE_NOT_FOUND, None]


def test_in_another_order_only_an_index_tells():
    main = network(("ADD", (0, 0), (1,)), ("LRN", (1,), (2,)), ("ADD", (2, 2), (3,)))
    kernels = [{"kind": "operator", "name": "LRN", "index": index} for index in (1, 99)]
    rows = assign_kernels(main, [*kernels, {"kind": "delegate", "name": ADD, "index": 0}])
    assert [(row.role.name, row.kernel, row.owner) for row in rows] == [
        ("COMPUTES", 0, 1), ("UNKNOWN", 1, None), ("UNKNOWN", 2, None), ("NO_KERNEL", None, 0), ("NO_KERNEL", None, 2),
    ]  # fmt: skip
