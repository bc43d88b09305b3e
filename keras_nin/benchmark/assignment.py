"""What each kernel computes: one operator of the file, several, a part of one, or what the runtime put in between."""

from dataclasses import dataclass

from keras_nin.benchmark import kernels as table
from keras_nin.benchmark.align import Node, align
from keras_nin.benchmark.partition import kernel_groups

COMPUTES, PART, INSERTED, UNKNOWN, NO_KERNEL = "computes", "part", "inserted", "unknown", "no kernel"
CONSTANT = "reads constants alone: done when the file is loaded"
NOT_FOUND = "no kernel was found for it"
_DIVISIBLE = frozenset({"CONCATENATION", "PACK", "SPLIT", "SPLIT_V", "UNPACK"})
_PADDED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_ACTIVATIONS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"})


@dataclass(frozen=True)
class Executed:
    """A kernel and its operators, or an operator without a kernel.

    Attributes:
        what: `COMPUTES`, `PART` (a further kernel of the same operator), `INSERTED`, `UNKNOWN` or `NO_KERNEL`.
        kernel: its position in order of execution; None with `NO_KERNEL`.
        owner: the main operator's index, of an insertion that of the operator which it was made for; None if unknown.
        operators: indexes of the operators that it computes, in order of execution.
        note: what a reader may wonder about, in words.
    """

    what: str
    kernel: int | None
    owner: int | None = None
    operators: tuple[int, ...] = ()
    note: str | None = None


def assign(main, kernels):
    """Return `Executed` records in order of execution, in which every kernel and every operator is once.

    Args:
        main: `keras_nin.tflite.graph.Subgraph` that ran.
        kernels: the runner's, in order of execution.
    """
    groups = kernel_groups(main, kernels)
    if groups is None:
        return _by_index_alone(main, kernels)
    found = []
    for delegated, operators, positions in groups:
        if delegated:
            found += _Partition(main, operators, [kernels[at]["name"] for at in positions], positions).executed()
        else:
            found.append(Executed(COMPUTES, positions[0], operators[0], tuple(operators)))
    return found


def _by_index_alone(main, kernels):
    """What is known where the order is not the one that was expected: the operators that have their own index."""
    known = range(len(main.operators))
    found = [
        Executed(COMPUTES, at, kernel["index"], (kernel["index"],))
        if kernel["kind"] == "operator" and kernel["index"] in known
        else Executed(UNKNOWN, at)
        for at, kernel in enumerate(kernels)
    ]
    seen = {each.owner for each in found}
    return found + [Executed(NO_KERNEL, None, index, (index,), NOT_FOUND) for index in known if index not in seen]


class _Partition:
    """One partition of the delegate: `operators` by index, its kernels' names and positions, all in their order."""

    def __init__(self, main, operators, names, positions):
        self.main, self.operators, self.names, self.positions = main, operators, names, positions
        self.nodes = [_node(main, main.operators[index]) for index in operators]
        self.alignment = align(self.nodes, names)
        # The first kernel of each node; where kernels share a node, the others are parts.
        self.kernel_of = {nodes[0]: at for at, nodes in sorted(self.alignment.main.items(), reverse=True)}
        self.fused = self._fused()

    def _fused(self):
        """Return for each node that became part of another kernel that kernel."""
        found = {node: at for at, nodes in self.alignment.main.items() for node in nodes[1:]}
        computed = {node for nodes in self.alignment.main.values() for node in nodes}
        for node, spec in enumerate(self.nodes):
            if node not in computed:
                other = self._consumer(node) if spec.op in ("PAD", "PADV2") else None
                other = self._producer(node) if spec.op in _ACTIVATIONS else other
                if other in self.kernel_of:
                    found[node] = self.kernel_of[other]
        return found

    def _consumer(self, node):
        made = set(self._operator(node).outputs)
        readers = [at for at in range(len(self.nodes)) if made & set(self._operator(at).inputs)]
        return readers[0] if len(readers) == 1 and self.nodes[readers[0]].op in _PADDED else None

    def _producer(self, node):
        read = set(self._operator(node).inputs)
        return next((at for at in range(len(self.nodes)) if read & set(self._operator(at).outputs)), None)

    def _operator(self, node):
        return self.main.operators[self.operators[node]]

    def executed(self):
        """Return the records of the kernels in order, those of operators without a kernel behind their predecessors."""
        rows = [(at, 0, self._of_kernel(at)) for at in range(len(self.names))]
        behind = -1
        for node in range(len(self.nodes)):
            if node in self.kernel_of or node in self.fused:
                behind = max(behind, self.kernel_of.get(node, -1))
            else:
                rows.append((behind, 1 + node, self._without(node)))
        return [row for _, _, row in sorted(rows, key=lambda row: row[:2])]

    def _of_kernel(self, at):
        position, nodes = self.positions[at], self.alignment.main.get(at)
        if nodes:
            fused = [node for node, kernel in self.fused.items() if kernel == at]
            members = tuple(self.operators[node] for node in sorted({*nodes, *fused}))
            what = COMPUTES if self.kernel_of[nodes[0]] == at else PART
            return Executed(what, position, self.operators[nodes[0]], members)
        if at in self.alignment.inserted and self.operators:
            return Executed(INSERTED, position, self.operators[self.alignment.inserted[at]])
        return Executed(UNKNOWN, position)

    def _without(self, node):
        index = self.operators[node]
        note = CONSTANT if self.nodes[node].is_constant else table.WITHOUT_KERNEL.get(self.nodes[node].op, NOT_FOUND)
        return Executed(NO_KERNEL, None, index, (index,), note)


def _node(main, operator):
    window = main.tensors[operator.inputs[1]].shape[1:3] if operator.op == "CONV_2D" else None
    strides = {operator.options.get("stride_h"), operator.options.get("stride_w")}
    return Node(
        op=operator.op,
        is_product=window == (1, 1) and strides == {1},
        is_activated=operator.options.get("fused_activation", "NONE") != "NONE",
        is_divisible=operator.op in _DIVISIBLE,
        is_constant=all(main.tensors[at].is_constant for at in operator.inputs if at >= 0),
    )
