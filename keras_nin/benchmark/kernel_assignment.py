"""Which operators of a file each kernel computes that the runtime executed.

TensorFlow Lite hands operators to the XNNPACK delegate in groups, which fuses some and inserts kernels: per group, the
cheapest explanation of the kernels by the operators is taken.
"""

import enum
import heapq
import pathlib
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keras_nin.tflite.records import TFLiteOperator, TFLiteSubgraph

_TABLE = tomllib.loads((pathlib.Path(__file__).parent / "xnnpack_kernels.toml").read_text())
_OPERATORS_BY_KERNEL: dict[str, frozenset[str]] = {
    name: frozenset(operators) for name, operators in _TABLE["computes"].items()
}
_LOOKUP_KERNELS = frozenset({"Invalid Unary Op", "Unary Elementwise"})
_INSERTED_KERNELS, _PREPARING_KERNELS, _PREPARED_OPERATORS = (
    frozenset(_TABLE["inserted"][name]) for name in ("kernels", "usual", "prepared_operators")
)
_NOTES_WITHOUT_KERNEL: dict[str, str] = _TABLE["without_kernel"]
_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_ACTIVATIONS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"})
_PADDINGS = frozenset({"PAD", "PADV2"})
NOTE_CONSTANT = "reads only constants: computed when the file is loaded"
NOTE_NOT_FOUND = "no kernel was found for it"


def kernel_base_name(kernel: str) -> str:
    """Return a kernel's name without data types and variant: ``"Convolution"`` of "Convolution (NHWC, F32) IGEMM"."""
    return kernel.partition("(")[0].strip()


def _may_compute(kernel: str, op: str) -> bool:
    return op in _OPERATORS_BY_KERNEL.get(kernel_base_name(kernel), ())


# The order of execution.

_SIDE_EFFECTS = frozenset({"CALL_ONCE", "IF", "WHILE"})


def partition_operators(main: TFLiteSubgraph, alone: Collection[int]) -> list[tuple[bool, list[int]]]:
    """Return the operators of a graph in order of execution, in groups for the delegate and without it (`alone`).

    As in `PartitionGraphIntoIndependentNodeSubsets` of TensorFlow Lite: each group takes, in the file's order, every
    operator of its kind whose inputs are computed, so that operators of parallel branches may change places.
    """
    waiting = {tensor for operator in main.operators for tensor in operator.outputs}
    remaining = list(main.operators)
    previous = _previous_side_effect(main)
    done: set[int] = set()
    groups: list[tuple[bool, list[int]]] = []
    while remaining:
        is_delegated: bool | None = None
        members: list[int] = []
        progress = True
        while progress:
            later = []
            for operator in remaining:
                ready = waiting.isdisjoint(operator.inputs) and previous.get(operator.index, -1) in done | {-1}
                if ready and is_delegated in (None, operator.index not in alone):
                    is_delegated = operator.index not in alone
                    members.append(operator.index)
                    waiting.difference_update(operator.outputs)
                    done.add(operator.index)
                else:
                    later.append(operator)
            progress, remaining = len(later) < len(remaining), later
        if is_delegated is None:  # a file whose operators wait for one another: in its own order
            return [*groups, (False, [operator.index for operator in remaining])]
        groups.append((is_delegated, members))
    return groups


def _previous_side_effect(main: TFLiteSubgraph) -> dict[int, int]:
    """Return for each operator with side effects the index of the one before it, which must run first."""
    states = {tensor.index for tensor in main.tensors if tensor.dtype == "resource"}
    indexes = [
        operator.index
        for operator in main.operators
        if operator.op in _SIDE_EFFECTS or not states.isdisjoint((*operator.inputs, *operator.outputs))
    ]
    return dict(zip(indexes[1:], indexes, strict=False))


def group_kernels(
    main: TFLiteSubgraph, kernels: Sequence[dict[str, Any]]
) -> list[tuple[bool, list[int], list[int]]] | None:
    """Return which operators are behind which kernels: the runtime's own one by one, the delegate's in groups."""
    alone = {kernel["index"] for kernel in kernels if kernel["kind"] == "operator"}
    groups: list[tuple[bool, list[int], list[int]]] = []
    start = 0
    for is_delegated, operators in partition_operators(main, alone):
        if is_delegated:
            end = start
            while end < len(kernels) and kernels[end]["kind"] == "delegate":
                end += 1
            groups.append((True, operators, list(range(start, end))))
            start = end
            continue
        for index in operators:
            if start == len(kernels) or (kernels[start]["kind"], kernels[start]["index"]) != ("operator", index):
                return None
            groups.append((False, [index], [start]))
            start += 1
    return groups if start == len(kernels) else None


# The kernels of a group.

# Cost of another variant than the expected one, of an insertion, of an operator without kernel, and of leaving one
# without an explanation. Whole numbers, so that ties are ties.
_OTHER_VARIANT_COST, _INSERTED_COST, _NO_KERNEL_COST, _UNEXPLAINED_COST = 2, 1, 1, 8
_MAX_STATES = 500_000
_State = tuple[int, int, bool]  # explained nodes, explained kernels, whether the last pair may be continued
_Meaning = tuple[str, int, int]  # what a kernel is, or that there is none, for which node


@dataclass(frozen=True)
class OperatorNode:
    """An operator: a plain matrix product, with a fused activation, of several kernels, of nothing but constants."""

    op: str
    is_product: bool = False
    is_activated: bool = False
    is_divisible: bool = False
    is_constant: bool = False


def align_kernels(nodes: Sequence[OperatorNode], names: Sequence[str]) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Return the cheapest explanation of a group's kernels by its operators, both in order of execution.

    It is the nodes that each kernel computes, and the node that each inserted kernel is for; kernels in neither are
    unexplained. Of equally cheap explanations it is the one that matches earlier operators.
    """
    computed: dict[int, list[int]] = {}
    inserted: dict[int, int] = {}
    start: _State = (0, 0, False)
    best: dict[_State, tuple[int, int]] = {start: (0, 0)}
    previous: dict[_State, tuple[_State, _Meaning]] = {}
    queue: list[tuple[int, int, _State]] = [(0, 0, start)]
    while queue and len(best) <= _MAX_STATES:
        cost, tie, state = heapq.heappop(queue)
        if state[:2] == (len(nodes), len(names)):
            while state in previous:
                state, (step, kernel, node) = previous[state]
                if step == "computes":
                    computed.setdefault(kernel, []).insert(0, node)
                elif step == "inserted":
                    inserted[kernel] = min(node, len(nodes) - 1)
            break
        if best[state] < (cost, tie):
            continue
        for step_cost, reached, meaning in _next_steps(nodes, names, *state):
            is_match = reached[:2] == (state[0] + 1, state[1] + 1)
            rank = (cost + step_cost, tie + state[0] * is_match)
            if reached not in best or rank < best[reached]:
                best[reached] = rank
                previous[reached] = (state, meaning)
                heapq.heappush(queue, (*rank, reached))
    return computed, inserted


def _next_steps(
    nodes: Sequence[OperatorNode], names: Sequence[str], node: int, kernel: int, is_open: bool
) -> Iterator[tuple[int, _State, _Meaning]]:
    """Yield (cost, state, meaning); while `is_open`, the last pair may get more kernels for its node, or more nodes."""
    following = nodes[node] if node < len(nodes) else None
    if kernel < len(names):
        name = names[kernel]
        base = kernel_base_name(name)
        if is_open and nodes[node - 1].is_divisible and _may_compute(name, nodes[node - 1].op):
            yield 0, (node, kernel + 1, True), ("computes", kernel, node - 1)
        if is_open and nodes[node - 1].is_activated and base == "Clamp":
            yield 0, (node, kernel + 1, False), ("inserted", kernel, node - 1)
        if following and _may_compute(name, following.op):
            # A 1x1 convolution with stride 1 is a plain matrix product, others are indirect ones (IGEMM).
            is_other_product = following.op == "CONV_2D" and (base == "Fully Connected") != following.is_product
            is_other = following.is_constant or (is_other_product and not name.endswith("DWConv"))
            yield _OTHER_VARIANT_COST * is_other, (node + 1, kernel + 1, True), ("computes", kernel, node)
        if base in _INSERTED_KERNELS:
            is_usual = following and following.op in _PREPARED_OPERATORS and base in _PREPARING_KERNELS
            yield 0 if is_usual else _INSERTED_COST, (node, kernel + 1, False), ("inserted", kernel, node)
        else:
            yield _UNEXPLAINED_COST, (node, kernel + 1, False), ("unexplained", kernel, node)
    if following:
        # The runtime folds element-wise operators in a row into one lookup table.
        last = names[kernel - 1] if is_open else ""
        if kernel_base_name(last) in _LOOKUP_KERNELS and _may_compute(last, following.op):
            yield 0, (node + 1, kernel, True), ("computes", kernel - 1, node)
        cost = _NO_KERNEL_COST if following.op in _NOTES_WITHOUT_KERNEL else _UNEXPLAINED_COST
        yield 0 if following.is_constant else cost, (node + 1, kernel, False), ("no kernel", kernel, node)


# All kernels and operators.

_DIVISIBLE = frozenset({"CONCATENATION", "PACK", "SPLIT", "SPLIT_V", "UNPACK"})
# What a kernel, or an operator without one, is; a PART is a further kernel of an operator that has one.
Role = enum.Enum("Role", ["COMPUTES", "PART", "INSERTED", "UNKNOWN", "NO_KERNEL"])


@dataclass(frozen=True)
class KernelAssignment:
    """A kernel, by its index in order of execution, and its operators; or an operator without a kernel, and why."""

    role: Role
    kernel: int | None
    owner: int | None = None  # the main operator, or the one that an insertion was made for
    operators: tuple[int, ...] = ()  # that it computes, in order of execution
    note: str | None = None

    @property
    def is_joined(self) -> bool:
        """Whether it is known what the kernel computes, or why the operator has none."""
        return self.role is not Role.UNKNOWN and self.note != NOTE_NOT_FOUND


def assign_kernels(main: TFLiteSubgraph, kernels: Sequence[dict[str, Any]]) -> list[KernelAssignment]:
    """Return assignments in order of execution, in which every kernel and every operator appears once."""
    groups = group_kernels(main, kernels)
    if groups is None:
        return _assign_by_index(main, kernels)
    assignments: list[KernelAssignment] = []
    for is_delegated, operators, indexes in groups:
        if is_delegated:
            assignments += _assign_group(main, operators, {index: kernels[index]["name"] for index in indexes})
        else:
            assignments.append(KernelAssignment(Role.COMPUTES, indexes[0], operators[0], tuple(operators)))
    return assignments


def _assign_by_index(main: TFLiteSubgraph, kernels: Sequence[dict[str, Any]]) -> list[KernelAssignment]:
    """Return what is known where the order is not the expected one: the kernels that have an operator's index."""
    operators = range(len(main.operators))
    assignments = [
        KernelAssignment(Role.COMPUTES, position, kernel["index"], (kernel["index"],))
        if kernel["kind"] == "operator" and kernel["index"] in operators
        else KernelAssignment(Role.UNKNOWN, position)
        for position, kernel in enumerate(kernels)
    ]
    missing = set(operators).difference(assignment.owner for assignment in assignments if assignment.owner is not None)
    return assignments + [_without_kernel(index, NOTE_NOT_FOUND) for index in sorted(missing)]


def _without_kernel(operator: int, note: str) -> KernelAssignment:
    return KernelAssignment(Role.NO_KERNEL, None, operator, (operator,), note)


def _assign_group(main: TFLiteSubgraph, indexes: Sequence[int], names: dict[int, str]) -> list[KernelAssignment]:
    """Return the kernels of a group of the delegate in order, operators without a kernel behind their predecessors."""
    operators = [main.operators[index] for index in indexes]
    nodes = [_operator_node(main, operator) for operator in operators]
    computed, inserted = align_kernels(nodes, list(names.values()))
    # The first kernel of each node; where kernels share a node, the others are parts.
    first_kernel = {members[0]: kernel for kernel, members in sorted(computed.items(), reverse=True)}
    fused = _find_fused(operators, computed, first_kernel)
    rows: list[tuple[int, int, KernelAssignment]] = []
    for kernel, position in enumerate(names):
        assignment = KernelAssignment(Role.UNKNOWN, position)
        if kernel in computed:
            first, *others = computed[kernel]
            others += [node for node, fused_kernel in fused.items() if fused_kernel == kernel]
            role = Role.COMPUTES if first_kernel[first] == kernel else Role.PART
            members = tuple(operators[node].index for node in sorted({first, *others}))
            assignment = KernelAssignment(role, position, operators[first].index, members)
        elif kernel in inserted and operators:
            assignment = KernelAssignment(Role.INSERTED, position, operators[inserted[kernel]].index)
        rows.append((kernel, 0, assignment))
    last = -1
    for node, spec in enumerate(nodes):
        if node in first_kernel or node in fused:
            last = max(last, first_kernel.get(node, -1))
        else:
            note = NOTE_CONSTANT if spec.is_constant else _NOTES_WITHOUT_KERNEL.get(spec.op, NOTE_NOT_FOUND)
            rows.append((last, 1 + node, _without_kernel(operators[node].index, note)))
    return [assignment for _, _, assignment in sorted(rows, key=lambda row: row[:2])]


def _find_fused(
    operators: Sequence[TFLiteOperator], computed: dict[int, list[int]], first_kernel: dict[int, int]
) -> dict[int, int]:
    """Return the kernel of each node that became part of another node's kernel."""
    fused = {node: kernel for kernel, members in computed.items() for node in members[1:]}
    done = set().union(*computed.values())
    for node, operator in enumerate(operators):
        neighbors: list[int] = []
        if node not in done and operator.op in _PADDINGS:
            readers = [index for index, reader in enumerate(operators) if {*operator.outputs} & {*reader.inputs}]
            neighbors = [index for index in readers if len(readers) == 1 and operators[index].op in _CONVOLUTIONS]
        elif node not in done and operator.op in _ACTIVATIONS:
            neighbors = [index for index, writer in enumerate(operators) if {*operator.inputs} & {*writer.outputs}]
        if neighbors and neighbors[0] in first_kernel:
            fused[node] = first_kernel[neighbors[0]]
    return fused


def _operator_node(main: TFLiteSubgraph, operator: TFLiteOperator) -> OperatorNode:
    window = main.tensors[operator.inputs[1]].shape[1:3] if operator.op == "CONV_2D" else None
    strides = {operator.options.get("stride_h"), operator.options.get("stride_w")}
    is_product = window == (1, 1) and strides == {1}
    is_activated = operator.options.get("fused_activation", "NONE") != "NONE"
    is_constant = all(main.tensors[index].is_constant for index in operator.inputs if index >= 0)
    return OperatorNode(operator.op, is_product, is_activated, operator.op in _DIVISIBLE, is_constant)
