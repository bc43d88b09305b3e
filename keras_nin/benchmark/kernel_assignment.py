"""Which operators of a file the delegate's kernels compute: the names in XNNPACK against those in TensorFlow Lite."""

import heapq
from dataclasses import dataclass

_PRODUCTS = frozenset({"CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"})
_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_SLICES = frozenset({"SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "UNPACK"})
_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_MEANS = frozenset({"MEAN", "AVERAGE_POOL_2D"})

_OPERATORS_BY_KERNEL = {
    "Fully Connected": _PRODUCTS,
    "Dynamic Fully Connected": _PRODUCTS,
    "Batch Matrix Multiply": frozenset({"BATCH_MATMUL"}),
    "Convolution": _CONVOLUTIONS,
    "Deconvolution": frozenset({"TRANSPOSE_CONV", "Convolution2DTransposeBias"}),
    "Max Pooling": frozenset({"MAX_POOL_2D"}),
    "ArgMax Pooling": frozenset({"MaxPoolingWithArgmax2D"}),
    "Unpooling": frozenset({"MaxUnpooling2D"}),
    "Average Pooling": _MEANS,
    "Mean": _MEANS,
    "Mean Squared": frozenset({"MEAN"}),
    "Sum": frozenset({"SUM", "MEAN"}),
    "Reduce Max": frozenset({"REDUCE_MAX"}),
    "Reduce Min": frozenset({"REDUCE_MIN"}),
    "Softmax": frozenset({"SOFTMAX"}),
    "Copy": frozenset({"CONCATENATION", "PACK"}) | _SLICES | _RESHAPES,
    "Slice": _SLICES,
    "Static Reshape": _RESHAPES,
    "Static Expand Dims": _RESHAPES,
    "Split Dims": _RESHAPES,
    "Fuse Dims": _RESHAPES,
    "Transpose": frozenset({"TRANSPOSE"}),
    "Constant Pad": frozenset({"PAD", "PADV2"}),
    "Resize Bilinear": frozenset({"RESIZE_BILINEAR"}),
    "Depth To Space": frozenset({"DEPTH_TO_SPACE"}),
    "Space To Depth": frozenset({"SPACE_TO_DEPTH"}),
    "Convert": frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"}),
    "Clamp": frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "MINIMUM", "MAXIMUM"}),
    "Add": frozenset({"ADD"}),
    "Subtract": frozenset({"SUB"}),
    "Multiply": frozenset({"MUL"}),
    "Divide": frozenset({"DIV"}),
    "Maximum": frozenset({"MAXIMUM"}),
    "Minimum": frozenset({"MINIMUM"}),
    "Squared Difference": frozenset({"SQUARED_DIFFERENCE"}),
    "Power": frozenset({"POW"}),
    "Modulus": frozenset({"FLOOR_MOD"}),
    "ATan2": frozenset({"ATAN2"}),
    "PReLU": frozenset({"PRELU"}),
    "Abs": frozenset({"ABS"}),
    "ApproxGELU": frozenset({"GELU"}),
    "Bankders Rounding": frozenset({"ROUND"}),  # so the runtime spells it
    "Ceiling": frozenset({"CEIL"}),
    "Cosine": frozenset({"COS"}),
    "ELU": frozenset({"ELU"}),
    "Exp": frozenset({"EXP"}),
    "Floor": frozenset({"FLOOR"}),
    "GELU": frozenset({"GELU"}),
    "HardSwish": frozenset({"HARD_SWISH"}),
    "LeakyReLU": frozenset({"LEAKY_RELU"}),
    "Log": frozenset({"LOG"}),
    "Negate": frozenset({"NEG"}),
    "Reciprocal Square Root": frozenset({"RSQRT"}),
    "Sigmoid": frozenset({"LOGISTIC"}),
    "Sign": frozenset({"SIGN"}),
    "Sine": frozenset({"SIN"}),
    "Square": frozenset({"SQUARE", "MUL"}),
    "Square Root": frozenset({"SQRT"}),
    "TanH": frozenset({"TANH"}),
    "Bitwise And": frozenset({"LOGICAL_AND"}),
    "Bitwise Or": frozenset({"LOGICAL_OR"}),
    "Bitwise Xor": frozenset({"BITWISE_XOR"}),
    "Bitwise Not": frozenset({"LOGICAL_NOT"}),
    "Shift Right Arithmetic": frozenset({"RIGHT_SHIFT"}),
    "Shift Right Logical": frozenset({"RIGHT_SHIFT"}),
}
# A table of 256 values has lost the name of its function, and may stand for several operators in a row: functions of
# one number, and sums or products with a constant.
_LOOKUP_KERNELS = frozenset({"Invalid Unary Op", "Unary Elementwise"})
_UNARY = frozenset().union(
    *(_OPERATORS_BY_KERNEL[name] for name in _OPERATORS_BY_KERNEL if name in {
        "Abs", "ApproxGELU", "Bankders Rounding", "Ceiling", "Clamp", "Convert", "Cosine", "ELU", "Exp", "Floor",
        "GELU", "HardSwish", "LeakyReLU", "Log", "Negate", "Reciprocal Square Root", "Sigmoid", "Sign", "Sine",
        "Square", "Square Root", "TanH",
    })
)  # fmt: skip
_BINARY = frozenset().union(
    *(
        _OPERATORS_BY_KERNEL[name]
        for name in ("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Squared Difference")
    )
)

# Kernels that the runtime puts in beside those of the operators: to flatten what a matrix product reads, to change its
# numbers to 8 bits while running, to bring data into the order that a kernel wants.
INSERTED_KERNELS = frozenset({
    "Static Reshape", "Static Expand Dims", "Split Dims", "Fuse Dims", "Convert", "Copy", "Transpose", "Reduce Min",
    "Reduce Max",
})  # fmt: skip
# The insertions that are usual, and the operators whose inputs they prepare.
PREPARING_KERNELS = frozenset({"Static Reshape", "Convert"})
PREPARED_OPERATORS = _PRODUCTS | _CONVOLUTIONS | {"TRANSPOSE_CONV"}
# Operators that may leave no kernel, and what became of them.
NOTES_WITHOUT_KERNEL = {
    **dict.fromkeys(_RESHAPES, "reads its input in place"),
    **dict.fromkeys(("PAD", "PADV2"), "fused into the convolution that follows"),
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"), "fused into the kernel before"),
}


def kernel_base_name(kernel):
    """Return a kernel's name without data types and variant: ``"Convolution"`` of "Convolution (NHWC, F32) IGEMM"."""
    return kernel.partition("(")[0].strip()


def kernel_computes(kernel, op):
    """Return whether a kernel of the delegate by this name may compute an operator `op` ("CONV_2D")."""
    name = kernel_base_name(kernel)
    if name in _LOOKUP_KERNELS:
        return op in _UNARY | _BINARY
    return op in (_BINARY if name == "Binary Elementwise" else _OPERATORS_BY_KERNEL.get(name, ()))


def reads_lookup_table(kernel):
    """Return whether the kernel reads a table, into which the runtime folds element-wise operators in a row."""
    return kernel_base_name(kernel) in _LOOKUP_KERNELS


def is_expected_variant(kernel, op, is_product):
    """Return whether it is the variant that the delegate takes for a convolution that is a matrix product, or is not.

    A 1x1 convolution with stride 1 is a plain matrix product, others are indirect ones (IGEMM).
    """
    return op != "CONV_2D" or kernel.endswith("DWConv") or (kernel_base_name(kernel) == "Fully Connected") == is_product


# MERGED Which operators TensorFlow Lite hands to the delegate together, and in which order everything then runs.

_SIDE_EFFECTS = frozenset({"CALL_ONCE", "IF", "WHILE"})
_STATE_DTYPE = "resource"


def partition_operators(main, alone):
    """Return the operators of a graph in order of execution, as the runtime groups them for a delegate.

    As `PartitionGraphIntoIndependentNodeSubsets` of TensorFlow Lite does it: each group takes, in the file's order,
    every operator of its kind whose inputs are there, also past operators of the other kind, so that operators of
    parallel branches may change places.

    Args:
        main: `keras_nin.tflite.reader.TFLiteSubgraph`.
        alone: indexes of the operators that TensorFlow Lite runs itself; the delegate has the others.

    Returns:
        List of (whether the delegate has them, indexes of operators), the two kinds in turns.
    """
    waiting = {tensor for operator in main.operators for tensor in operator.outputs}
    left = list(main.operators)
    before = _previous_side_effect(main)
    done, groups = set(), []
    while left:
        delegated, members = None, []
        progress = True
        while progress:
            later = []
            for operator in left:
                ready = waiting.isdisjoint(operator.inputs) and before.get(operator.index, -1) in done | {-1}
                if ready and delegated in (None, operator.index not in alone):
                    delegated = operator.index not in alone
                    members.append(operator.index)
                    waiting.difference_update(operator.outputs)
                    done.add(operator.index)
                else:
                    later.append(operator)
            progress, left = len(later) < len(left), later
        if not members:  # a file whose operators wait for one another: as it stands
            return [*groups, (False, [operator.index for operator in left])]
        groups.append((delegated, members))
    return groups


def _previous_side_effect(main):
    """Return for each operator with side effects the index of the one before it, which must run first."""
    with_effects = [
        operator.index
        for operator in main.operators
        if operator.op in _SIDE_EFFECTS
        or any(main.tensors[each].dtype == _STATE_DTYPE for each in (*operator.inputs, *operator.outputs) if each >= 0)
    ]
    return dict(zip(with_effects[1:], with_effects, strict=False))


def group_kernels(main, kernels):
    """Return which operators are behind which kernels: the runtime's own one by one, the delegate's in groups.

    Args:
        main: `keras_nin.tflite.reader.TFLiteSubgraph`.
        kernels: the runner's, in order of execution.

    Returns:
        List of (whether the delegate ran them, indexes of operators, positions in `kernels`) in order of execution;
        None where the kernels do not come in the order in which these operators would run.
    """
    alone = {kernel["index"] for kernel in kernels if kernel["kind"] == "operator"}
    found, at = [], 0
    for delegated, operators in partition_operators(main, alone):
        if delegated:
            end = at
            while end < len(kernels) and kernels[end]["kind"] == "delegate":
                end += 1
            found.append((True, operators, list(range(at, end))))
            at = end
            continue
        for index in operators:
            if at == len(kernels) or (kernels[at]["kind"], kernels[at]["index"]) != ("operator", index):
                return None
            found.append((False, [index], [at]))
            at += 1
    return found if at == len(kernels) else None


# MERGED The kernels that ran for a partition against its operators: the cheapest way to explain the ones by the others.

# What it costs to take a match for another variant than the expected one, a kernel for an insertion, an operator for
# one without kernel; and to leave one without an explanation. Whole numbers: ties are ties.
_OTHER_VARIANT_COST, _INSERTED_COST, _NO_KERNEL_COST, _UNEXPLAINED_COST = 2, 1, 1, 8
_ACTIVATION = "Clamp"
_MAX_STATES = 500_000


@dataclass(frozen=True)
class OperatorNode:
    """An operator: its type, and what its kernels depend on.

    Whether it is a plain matrix product, has a fused activation, may have several kernels, reads constants alone.
    """

    op: str
    is_product: bool = False
    is_activated: bool = False
    is_divisible: bool = False
    is_constant: bool = False


@dataclass(frozen=True)
class Alignment:
    """What the kernels are, all by position; a kernel in neither dictionary is unexplained.

    `main` is from kernels to lists of the nodes that they compute, `inserted` from kernels to the node that each was
    put in for.
    """

    main: dict
    inserted: dict


def align_kernels(nodes, names, late=False):
    """Return the `Alignment` of the kernels of a partition with its operators, both in order of execution.

    Args:
        nodes: sequence of `Node`.
        names: of the kernels.
        late: of equally good explanations take the one that matches later operators, in place of earlier ones.
    """
    goal = (len(nodes), len(names), False)
    best, came = {(0, 0, False): (0, 0)}, {}
    queue = [(0, 0, (0, 0, False))]
    while queue:
        cost, second, state = heapq.heappop(queue)
        if state[:2] == goal[:2]:
            return _trace_back(came, state)
        if best[state] < (cost, second):
            continue
        if len(best) > _MAX_STATES:
            break
        for step, added, reached in _next_steps(nodes, names, *state):
            preference = (len(nodes) - state[0] if late else state[0]) if step == "main" else 0
            new = (cost + added, second + preference)
            if new < best.get(reached, (float("inf"), 0)):
                best[reached] = new
                came[reached] = (state, step)
                heapq.heappush(queue, (*new, reached))
    return Alignment({}, {})


def _next_steps(nodes, names, node, kernel, opened):
    """Yield (what, cost, state) from a state: nodes and kernels that are explained, and whether the last pair is open.

    Then more kernels may belong to the node, or more nodes to the kernel.
    """
    following = nodes[node] if node < len(nodes) else None
    if kernel < len(names):
        name = names[kernel]
        if opened and nodes[node - 1].is_divisible and kernel_computes(name, nodes[node - 1].op):
            yield "part", 0, (node, kernel + 1, True)
        if opened and nodes[node - 1].is_activated and kernel_base_name(name) == _ACTIVATION:
            yield "activation", 0, (node, kernel + 1, False)
        if following and kernel_computes(name, following.op):
            other = not is_expected_variant(name, following.op, following.is_product)
            yield "main", _OTHER_VARIANT_COST * (other or following.is_constant), (node + 1, kernel + 1, True)
        if kernel_base_name(name) in INSERTED_KERNELS:
            expected = following and following.op in PREPARED_OPERATORS and kernel_base_name(name) in PREPARING_KERNELS
            yield "inserted", 0 if expected else _INSERTED_COST, (node, kernel + 1, False)
        else:
            yield "unexplained", _UNEXPLAINED_COST, (node, kernel + 1, False)
    if following:
        if opened and reads_lookup_table(names[kernel - 1]) and kernel_computes(names[kernel - 1], following.op):
            yield "folded", 0, (node + 1, kernel, True)
        yield "without", _cost_without_kernel(following), (node + 1, kernel, False)


def _cost_without_kernel(node):
    if node.is_constant:
        return 0
    return _NO_KERNEL_COST if node.op in NOTES_WITHOUT_KERNEL else _UNEXPLAINED_COST


def _trace_back(came, state):
    main, inserted, (count, _, _) = {}, {}, state
    while state in came:
        (node, kernel, _), step = came[state]
        if step == "main":
            main.setdefault(kernel, []).append(node)
        elif step == "part":
            main[kernel] = [node - 1]
        elif step == "folded":
            main.setdefault(kernel - 1, []).append(node)
        elif step == "activation":
            inserted[kernel] = node - 1
        elif step == "inserted":
            inserted[kernel] = min(node, count - 1)
        state = came[state][0]
    return Alignment({kernel: sorted(members) for kernel, members in main.items()}, inserted)


# MERGED What each kernel computes: one operator of the file, several, a part of one, or what the runtime put in between.

COMPUTES, PART, INSERTED, UNKNOWN, NO_KERNEL = "computes", "part", "inserted", "unknown", "no kernel"
NOTE_CONSTANT = "reads constants alone: done when the file is loaded"
NOTE_NOT_FOUND = "no kernel was found for it"
_DIVISIBLE = frozenset({"CONCATENATION", "PACK", "SPLIT", "SPLIT_V", "UNPACK"})
_PADDED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_ACTIVATIONS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"})


@dataclass(frozen=True)
class KernelAssignment:
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


def assign_kernels(main, kernels):
    """Return `Executed` records in order of execution, in which every kernel and every operator is once.

    Args:
        main: `keras_nin.tflite.reader.TFLiteSubgraph` that ran.
        kernels: the runner's, in order of execution.
    """
    groups = group_kernels(main, kernels)
    if groups is None:
        return _assign_by_index(main, kernels)
    found = []
    for delegated, operators, positions in groups:
        if delegated:
            found += _Partition(main, operators, [kernels[at]["name"] for at in positions], positions).executed()
        else:
            found.append(KernelAssignment(COMPUTES, positions[0], operators[0], tuple(operators)))
    return found


def _assign_by_index(main, kernels):
    """What is known where the order is not the one that was expected: the operators that have their own index."""
    known = range(len(main.operators))
    found = [
        KernelAssignment(COMPUTES, at, kernel["index"], (kernel["index"],))
        if kernel["kind"] == "operator" and kernel["index"] in known
        else KernelAssignment(UNKNOWN, at)
        for at, kernel in enumerate(kernels)
    ]
    seen = {each.owner for each in found}
    return found + [
        KernelAssignment(NO_KERNEL, None, index, (index,), NOTE_NOT_FOUND) for index in known if index not in seen
    ]


class _Partition:
    """One partition of the delegate: `operators` by index, its kernels' names and positions, all in their order."""

    def __init__(self, main, operators, names, positions):
        self.main, self.operators, self.names, self.positions = main, operators, names, positions
        self.nodes = [_operator_node(main, main.operators[index]) for index in operators]
        self.alignment = align_kernels(self.nodes, names)
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
            return KernelAssignment(what, position, self.operators[nodes[0]], members)
        if at in self.alignment.inserted and self.operators:
            return KernelAssignment(INSERTED, position, self.operators[self.alignment.inserted[at]])
        return KernelAssignment(UNKNOWN, position)

    def _without(self, node):
        index = self.operators[node]
        note = (
            NOTE_CONSTANT
            if self.nodes[node].is_constant
            else NOTES_WITHOUT_KERNEL.get(self.nodes[node].op, NOTE_NOT_FOUND)
        )
        return KernelAssignment(NO_KERNEL, None, index, (index,), note)


def _operator_node(main, operator):
    window = main.tensors[operator.inputs[1]].shape[1:3] if operator.op == "CONV_2D" else None
    strides = {operator.options.get("stride_h"), operator.options.get("stride_w")}
    return OperatorNode(
        op=operator.op,
        is_product=window == (1, 1) and strides == {1},
        is_activated=operator.options.get("fused_activation", "NONE") != "NONE",
        is_divisible=operator.op in _DIVISIBLE,
        is_constant=all(main.tensors[at].is_constant for at in operator.inputs if at >= 0),
    )
