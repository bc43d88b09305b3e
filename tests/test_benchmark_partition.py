"""The order in which the runtime executes what a delegate takes and what it leaves."""

from branched_net import branched_net, recorded

from keras_nin.benchmark import kernel_assignment
from keras_nin.tflite import reader
from keras_nin.tflite.records import TFLiteOperator, TFLiteSubgraph, TFLiteTensor


def network(*operators):
    """Return a subgraph of (type, inputs, outputs); tensors from 90 on are resources."""
    count = 100
    tensors = tuple(
        TFLiteTensor(index, f"t{index}", (1,), None, "resource" if index >= 90 else "float32", None, 0, 0, False, False)
        for index in range(count)
    )
    made = tuple(TFLiteOperator(at, op, 1, inputs, outputs, {}) for at, (op, inputs, outputs) in enumerate(operators))
    return TFLiteSubgraph("main", tensors, made, (0,), (operators[-1][2][0],))


def test_a_chain_keeps_its_order():
    main = network(("ADD", (0,), (1,)), ("LRN", (1,), (2,)), ("ADD", (2,), (3,)), ("LRN", (3,), (4,)))
    assert kernel_assignment.partition_operators(main, {1, 3}) == [(True, [0]), (False, [1]), (True, [2]), (False, [3])]


def test_a_group_takes_what_is_ready_past_operators_of_the_other_kind():
    main = network(
        ("ADD", (0,), (1,)), ("LRN", (1,), (2,)), ("ADD", (1,), (3,)), ("ADD", (2, 3), (4,)), ("LRN", (0,), (5,))
    )
    # The second LRN could run first, but the group of the first ready operator comes first, and takes all it can.
    assert kernel_assignment.partition_operators(main, {1, 4}) == [(True, [0, 2]), (False, [1, 4]), (True, [3])]


def test_an_input_left_out_and_a_constant_are_there():
    main = network(("FULLY_CONNECTED", (0, 7, -1), (1,)), ("ADD", (1,), (2,)))
    assert kernel_assignment.partition_operators(main, set()) == [(True, [0, 1])]


def test_side_effects_keep_their_order():
    reads = [("READ_VARIABLE", (90,), (1,)), ("LRN", (0,), (2,)), ("ASSIGN_VARIABLE", (90, 2), ()), ("ADD", (1,), (3,))]
    assert kernel_assignment.partition_operators(network(*reads), {1, 2}) == [(True, [0, 3]), (False, [1, 2])]
    calls = [("IF", (0,), (1,)), ("ADD", (0,), (2,)), ("WHILE", (0,), (3,)), ("ADD", (3,), (4,))]
    assert kernel_assignment.partition_operators(network(*calls), {0}) == [(False, [0]), (True, [1, 2, 3])]
    assert kernel_assignment.partition_operators(network(*calls), {0, 1}) == [(False, [0, 1]), (True, [2, 3])]
    late = [("ADD", (0,), (5,)), *calls]
    # Without the order the WHILE would join the first ADD.
    assert kernel_assignment.partition_operators(network(*late), {1}) == [(True, [0, 2]), (False, [1]), (True, [3, 4])]


def test_operators_that_wait_for_one_another_end_it():
    main = network(("ADD", (2,), (1,)), ("ADD", (1,), (2,)), ("ADD", (0,), (3,)))
    assert kernel_assignment.partition_operators(main, set()) == [(True, [2]), (False, [0, 1])]


def test_kernels_are_found_by_group(tmp_path):
    main = reader.read_model(branched_net(tmp_path / "net.tflite")).main
    kernels = recorded()
    assert kernel_assignment.group_kernels(main, kernels) == [
        (True, [0, 2], [0, 1]),
        (False, [1], [2]),
        (True, [3, 4, 5, 6, 7], [3, 4, 5, 6, 7]),
    ]
    assert kernel_assignment.group_kernels(main, kernels[2:]) is not None  # a group may have no kernel
    assert kernel_assignment.group_kernels(main, [*kernels, kernels[2]]) is None
    assert kernel_assignment.group_kernels(main, [{**kernels[2], "index": 99}]) is None
