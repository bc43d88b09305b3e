"""Which operators of a file each kernel computes that the runtime executed.

TensorFlow Lite hands operators to the XNNPACK delegate in groups (`partition_operators`), which computes them with
kernels of other names and in other numbers: some operators are fused, some kernels inserted. Per group, the cheapest
explanation of the kernels by the operators is taken (`align_kernels`).
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


def kernel_computes(kernel: str, op: str) -> bool:
    """Return whether a kernel of the delegate by this name may compute an operator `op` ("CONV_2D")."""
    return op in _OPERATORS_BY_KERNEL.get(kernel_base_name(kernel), ())


def is_expected_variant(kernel: str, op: str, is_product: bool) -> bool:
    """Return whether it is the variant that the delegate takes for a convolution that is, or is not, a matrix product.

    A 1x1 convolution with stride 1 is a plain matrix product, others are indirect ones (IGEMM).
    """
    return op != "CONV_2D" or kernel.endswith("DWConv") or (kernel_base_name(kernel) == "Fully Connected") == is_product


# The order of execution.

_SIDE_EFFECTS = frozenset({"CALL_ONCE", "IF", "WHILE"})
_STATE_DTYPE = "resource"


def partition_operators(main: TFLiteSubgraph, alone: Collection[int]) -> list[tuple[bool, list[int]]]:
    """Return the operators of a graph in order of execution, as the runtime groups them for a delegate.

    As in `PartitionGraphIntoIndependentNodeSubsets` of TensorFlow Lite: each group takes, in the file's order, every
    operator of its kind whose inputs are computed, also past operators of the other kind, so that operators of parallel
    branches may change places.
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
    indexes = [
        operator.index
        for operator in main.operators
        if operator.op in _SIDE_EFFECTS
        or any(
            main.tensors[index].dtype == _STATE_DTYPE for index in (*operator.inputs, *operator.outputs) if index >= 0
        )
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

# Cost of taking another variant than the expected one, a kernel for an insertion, an operator for one without kernel;
# and of leaving one without an explanation. Whole numbers, so that ties are ties.
_OTHER_VARIANT_COST, _INSERTED_COST, _NO_KERNEL_COST, _UNEXPLAINED_COST = 2, 1, 1, 8
_ACTIVATION_KERNEL = "Clamp"
_MAX_STATES = 500_000
_State = tuple[int, int, bool]  # explained nodes, explained kernels, whether the last pair may be continued


@dataclass(frozen=True)
class OperatorNode:
    """An operator: its type, and what its kernels depend on.

    Whether it is a plain matrix product, has a fused activation, may have several kernels, reads only constants.
    """

    op: str
    is_product: bool = False
    is_activated: bool = False
    is_divisible: bool = False
    is_constant: bool = False


@dataclass(frozen=True)
class KernelAlignment:
    """What the kernels of a group are, by index; a kernel in neither dictionary is unexplained.

    Attributes:
        computed: the nodes that a kernel computes.
        inserted: the node that a kernel was inserted for.
    """

    computed: dict[int, list[int]]
    inserted: dict[int, int]


def align_kernels(nodes: Sequence[OperatorNode], names: Sequence[str]) -> KernelAlignment:
    """Return the cheapest explanation of a group's kernels by its operators, both in order of execution.

    Of equally cheap ones it is the one that matches earlier operators.
    """
    start: _State = (0, 0, False)
    best: dict[_State, tuple[int, int]] = {start: (0, 0)}
    previous: dict[_State, tuple[_State, str]] = {}
    queue: list[tuple[int, int, _State]] = [(0, 0, start)]
    while queue:
        cost, tie, state = heapq.heappop(queue)
        if state[:2] == (len(nodes), len(names)):
            return _trace_back(previous, state)
        if best[state] < (cost, tie):
            continue
        if len(best) > _MAX_STATES:
            break
        for step, step_cost, reached in _next_steps(nodes, names, *state):
            rank = (cost + step_cost, tie + (state[0] if step == "computes" else 0))
            if reached not in best or rank < best[reached]:
                best[reached] = rank
                previous[reached] = (state, step)
                heapq.heappush(queue, (*rank, reached))
    return KernelAlignment({}, {})


def _next_steps(
    nodes: Sequence[OperatorNode], names: Sequence[str], node: int, kernel: int, is_open: bool
) -> Iterator[tuple[str, int, _State]]:
    """Yield (step, cost, state) from a state.

    While the last pair is open, more kernels may belong to its node, or more nodes to its kernel.
    """
    following = nodes[node] if node < len(nodes) else None
    if kernel < len(names):
        name = names[kernel]
        base = kernel_base_name(name)
        if is_open and nodes[node - 1].is_divisible and kernel_computes(name, nodes[node - 1].op):
            yield "part", 0, (node, kernel + 1, True)
        if is_open and nodes[node - 1].is_activated and base == _ACTIVATION_KERNEL:
            yield "activation", 0, (node, kernel + 1, False)
        if following and kernel_computes(name, following.op):
            is_other = following.is_constant or not is_expected_variant(name, following.op, following.is_product)
            yield "computes", _OTHER_VARIANT_COST * is_other, (node + 1, kernel + 1, True)
        if base in _INSERTED_KERNELS:
            is_usual = following and following.op in _PREPARED_OPERATORS and base in _PREPARING_KERNELS
            yield "inserted", 0 if is_usual else _INSERTED_COST, (node, kernel + 1, False)
        else:
            yield "unexplained", _UNEXPLAINED_COST, (node, kernel + 1, False)
    if following:
        # The runtime folds element-wise operators in a row into one lookup table.
        last = names[kernel - 1] if is_open else ""
        if kernel_base_name(last) in _LOOKUP_KERNELS and kernel_computes(last, following.op):
            yield "folded", 0, (node + 1, kernel, True)
        cost = _NO_KERNEL_COST if following.op in _NOTES_WITHOUT_KERNEL else _UNEXPLAINED_COST
        yield "no kernel", 0 if following.is_constant else cost, (node + 1, kernel, False)


def _trace_back(previous: dict[_State, tuple[_State, str]], state: _State) -> KernelAlignment:
    computed: dict[int, list[int]] = {}
    inserted: dict[int, int] = {}
    count = state[0]
    while state in previous:
        (node, kernel, _), step = previous[state]
        if step == "computes":
            computed.setdefault(kernel, []).append(node)
        elif step == "part":
            computed[kernel] = [node - 1]
        elif step == "folded":
            computed.setdefault(kernel - 1, []).append(node)
        elif step == "activation":
            inserted[kernel] = node - 1
        elif step == "inserted":
            inserted[kernel] = min(node, count - 1)
        state = previous[state][0]
    return KernelAlignment({kernel: sorted(members) for kernel, members in computed.items()}, inserted)


# All kernels and operators.

_DIVISIBLE = frozenset({"CONCATENATION", "PACK", "SPLIT", "SPLIT_V", "UNPACK"})


class Role(enum.Enum):
    """What a kernel, or an operator without one, is."""

    COMPUTES = "computes one or several operators"
    PART = "computes a further part of an operator"
    INSERTED = "inserted by the runtime"
    UNKNOWN = "unknown"
    NO_KERNEL = "an operator without a kernel"


@dataclass(frozen=True)
class KernelAssignment:
    """A kernel and its operators, or an operator without a kernel.

    Attributes:
        role: what it is.
        kernel: index in order of execution; None with `Role.NO_KERNEL`.
        owner: index of the main operator, for an insertion that of the operator it was made for; None if unknown.
        operators: indexes of the operators that it computes, in order of execution.
        note: why there is no kernel.
    """

    role: Role
    kernel: int | None
    owner: int | None = None
    operators: tuple[int, ...] = ()
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
            names = [kernels[index]["name"] for index in indexes]
            assignments += _Partition(main, operators, names, indexes).assignments()
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
    owners = {assignment.owner for assignment in assignments}
    return assignments + [
        KernelAssignment(Role.NO_KERNEL, None, index, (index,), NOTE_NOT_FOUND)
        for index in operators
        if index not in owners
    ]


class _Partition:
    """A partition of the delegate: its operators, and names and indexes of its kernels, in order of execution."""

    def __init__(
        self, main: TFLiteSubgraph, operators: Sequence[int], names: Sequence[str], kernels: Sequence[int]
    ) -> None:
        self._operators = [main.operators[index] for index in operators]
        self._kernels = kernels
        self._nodes = [_operator_node(main, operator) for operator in self._operators]
        self._alignment = align_kernels(self._nodes, names)
        # The first kernel of each node; where kernels share a node, the others are parts.
        computed = self._alignment.computed
        self._kernel_of_node = {nodes[0]: kernel for kernel, nodes in sorted(computed.items(), reverse=True)}
        self._fused = self._find_fused()

    def _find_fused(self) -> dict[int, int]:
        """Return the kernel of each node that became part of another node's kernel."""
        fused = {node: kernel for kernel, nodes in self._alignment.computed.items() for node in nodes[1:]}
        computed = {node for nodes in self._alignment.computed.values() for node in nodes}
        for node, spec in enumerate(self._nodes):
            other = None
            if node not in computed and spec.op in _PADDINGS:
                other = self._only_consumer(node)
            elif node not in computed and spec.op in _ACTIVATIONS:
                other = self._producer(node)
            if other in self._kernel_of_node:
                fused[node] = self._kernel_of_node[other]
        return fused

    def _only_consumer(self, node: int) -> int | None:
        outputs = self._operators[node].outputs
        consumers = [
            index for index, operator in enumerate(self._operators) if not set(outputs).isdisjoint(operator.inputs)
        ]
        return consumers[0] if len(consumers) == 1 and self._nodes[consumers[0]].op in _CONVOLUTIONS else None

    def _producer(self, node: int) -> int | None:
        inputs = set(self._operators[node].inputs)
        producers = (index for index, operator in enumerate(self._operators) if inputs & set(operator.outputs))
        return next(producers, None)

    def assignments(self) -> list[KernelAssignment]:
        """Return the kernels in order, and operators without a kernel behind their predecessors."""
        rows = [(kernel, 0, self._assign_kernel(kernel)) for kernel in range(len(self._kernels))]
        last = -1
        for node in range(len(self._nodes)):
            if node in self._kernel_of_node or node in self._fused:
                last = max(last, self._kernel_of_node.get(node, -1))
            else:
                rows.append((last, 1 + node, self._without_kernel(node)))
        return [row for _, _, row in sorted(rows, key=lambda row: row[:2])]

    def _assign_kernel(self, kernel: int) -> KernelAssignment:
        position, nodes = self._kernels[kernel], self._alignment.computed.get(kernel)
        if nodes:
            fused = [node for node, fused_kernel in self._fused.items() if fused_kernel == kernel]
            members = tuple(self._operators[node].index for node in sorted({*nodes, *fused}))
            role = Role.COMPUTES if self._kernel_of_node[nodes[0]] == kernel else Role.PART
            return KernelAssignment(role, position, self._operators[nodes[0]].index, members)
        if kernel in self._alignment.inserted and self._operators:
            owner = self._operators[self._alignment.inserted[kernel]]
            return KernelAssignment(Role.INSERTED, position, owner.index)
        return KernelAssignment(Role.UNKNOWN, position)

    def _without_kernel(self, node: int) -> KernelAssignment:
        index, spec = self._operators[node].index, self._nodes[node]
        note = NOTE_CONSTANT if spec.is_constant else _NOTES_WITHOUT_KERNEL.get(spec.op, NOTE_NOT_FOUND)
        return KernelAssignment(Role.NO_KERNEL, None, index, (index,), note)


def _operator_node(main: TFLiteSubgraph, operator: TFLiteOperator) -> OperatorNode:
    window = main.tensors[operator.inputs[1]].shape[1:3] if operator.op == "CONV_2D" else None
    strides = {operator.options.get("stride_h"), operator.options.get("stride_w")}
    return OperatorNode(
        op=operator.op,
        is_product=window == (1, 1) and strides == {1},
        is_activated=operator.options.get("fused_activation", "NONE") != "NONE",
        is_divisible=operator.op in _DIVISIBLE,
        is_constant=all(main.tensors[index].is_constant for index in operator.inputs if index >= 0),
    )
