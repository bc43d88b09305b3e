"""From a .tflite file to the verdict."""

import collections
import dataclasses
import functools
import os

from keras_nin.audit import tflite_reader
from keras_nin.audit.tflite_operators import KERNEL_OPERATORS
from keras_nin.edge.edgetpu import records
from keras_nin.edge.edgetpu.operators import EIGHT_BITS, bind_operators, format_shape
from keras_nin.edge.edgetpu.records import CompileFailure, EdgeTPUResult, OperatorVerdict, ParameterMemory
from keras_nin.edge.edgetpu.rules import DATA, RuleSource, find_refusal, suggest_fix
from keras_nin.errors import InputError
from keras_nin.tflite import reader as tflite_graph

COMPILED_OPERATOR = "edgetpu-custom-op"
# Elements of the largest that were seen mapped, of operators that are known to stay on the CPU where they are larger.
LARGEST_MAPPED = {"RESHAPE": 16_384, "TRANSPOSE": 1_024}


def check_edgetpu(path, *, multiple_subgraphs=False, without=None):
    """Return the `Verdict` of the last Edge TPU compiler on a file, as the rules predict it.

    Args:
        path: of the .tflite file; the sidecar that an export wrote beside it gives the layers their names.
        multiple_subgraphs: whether several parts may be mapped, as the compiler's option ``-a`` allows.
        without: a repository whose files are taken as unseen: what they alone taught is left out.

    Raises:
        InputError: the file cannot be read, is no valid .tflite file, has no operators, or is compiled already.
    """
    graph = tflite_graph.read_model(path)
    found = bind_operators(graph)
    _check_operators(path, found)
    kept, repeats = drop_repeats(found) if REPEATS.passed(without) else (found, {})
    refusals = {use.operator.index: find_refusal(use, without) for use in kept}
    refused = find_failure(kept)
    chosen = () if refused else partition_graph(kept, {index for index, refusal in refusals.items() if refusal is None})
    chosen = chosen if multiple_subgraphs else chosen[:1]
    mapped = frozenset(index for part in chosen for index in part)
    writer = _VerdictWriter(_layer_names(path, graph), repeats, refusals, mapped, refused)
    return EdgeTPUResult(
        model=os.fspath(path),
        multiple_subgraphs=multiple_subgraphs,
        failure=refused,
        operators=tuple(writer.verdict(use) for use in found),
        subgraphs=len(chosen),
        memory=place_parameters(kept, mapped),
        notes=_notes(graph),
    )


def _check_operators(path, found):
    if not found:
        raise InputError(f"Expected a .tflite file with operators. Received: {os.fspath(path)!r}, which has none")
    if any(use.op == COMPILED_OPERATOR for use in found):
        raise InputError(
            f"Expected a file before it was compiled for the Edge TPU. Received: {os.fspath(path)!r}, which holds "
            f"{COMPILED_OPERATOR}. Give the file that went into the compiler"
        )


def _layer_names(path, graph):
    paths = tflite_reader.name_operators(graph, tflite_reader.read_recorded_layers(path, graph), KERNEL_OPERATORS)
    return ["/".join(filter(None, pair)) for pair in paths]


@dataclasses.dataclass(frozen=True)
class _VerdictWriter:
    """Puts into words what was found.

    Attributes:
        names: layer of each operator.
        repeats: index of the first by the index of a repeated operator.
        refusals: (rule, why) or None by index.
        mapped: indexes.
        failure: `Failure` or None.
    """

    names: list
    repeats: dict
    refusals: dict
    mapped: frozenset
    failure: CompileFailure | None

    def verdict(self, use):
        """Return the `OperatorVerdict` of one operator."""
        index = use.operator.index
        if index in self.repeats:
            why = f"it repeats operator {self.repeats[index]} on the same data: the compiled file does without it"
            return self._of(use, None, why, rule="repeated")
        if index in self.mapped:
            return self._of(use, records.MAPPED)
        refusal = self.refusals[index]
        why, fix = (refusal[1], suggest_fix(refusal[0], use)) if refusal else (None, None)
        if self.failure:
            why, fix = why or "the compiler refuses the file", fix or self.failure.fix
            return self._of(use, self.failure.message, why, fix, self.failure.rule)
        if refusal:
            return self._of(use, refusal[0].status, why, fix, refusal[0].name)
        return self._of(use, records.SECOND_SUBGRAPH, self._after_cut, "map what comes before it", "one-part")

    @functools.cached_property
    def _after_cut(self):
        first = min(self.mapped, default=0)
        end = next((index for index, refusal in self.refusals.items() if refusal and index > first), None)
        return "one part of the graph is mapped, and this comes after the cut" + (
            "" if end is None else f" at operator {end}"
        )

    def _of(self, use, words, why=None, fix=None, rule=None):
        return OperatorVerdict(
            index=use.operator.index,
            op=use.op,
            layer=self.names[use.operator.index],
            mapped=words == records.MAPPED,
            status=words,
            why=why,
            fix=fix,
            rule=rule,
            is_custom=use.operator.is_custom,
        )


def _notes(graph):
    """Return what the verdict rests on and cannot decide."""
    found = []
    tensors = graph.main.tensors
    for index in graph.main.inputs:
        tensor = tensors[index]
        signature = tensor.shape_signature or ()
        if any(size < 0 for size in signature[1:]):
            found.append(
                f"the input {tflite_reader.printable_name(tensor.name)!r} is open beside the batch; judged at "
                f"{format_shape(tensor.shape)}, as the compiler takes it"
            )
    return (*found, *_large_operator_notes(graph))


def _large_operator_notes(graph):
    """Yield a note on operators larger than any of their kind that was seen mapped."""
    tensors = graph.main.tensors
    for op, seen in LARGEST_MAPPED.items():
        outputs = {
            each.index: tensors[each.outputs[0]] for each in graph.main.operators if each.op == op and each.outputs
        }
        sizes = {index: each.elements for index, each in outputs.items() if each.dtype in EIGHT_BITS}
        large = {index: size for index, size in sizes.items() if size > seen}
        if large:
            yield (
                f"{op} of up to {max(large.values()):,} elements at {', '.join(map(str, large))}: the most seen mapped "
                f"is {seen:,}, and large ones may stay on the CPU"
            )


# MERGED What the compiler does with the graph: leave repeated operators out, and cut it into parts.

REPEATS = RuleSource(
    DATA,
    "of 31 equal decoders, one that reads dequantised tensors and 30 that read those tensors themselves, the first "
    "alone is in the compiled file, in three files of one author; whether the compiler did that is not known",
    learned_from=("google-coral/test_data",),
)


def drop_repeats(uses):
    """Return the uses without custom operators that repeat an earlier one on the same data, and those left out.

    Data is the same where it is the same tensor, also through DEQUANTIZE. What read a repeat reads the first instead.

    Args:
        uses: `Use` records in execution order.

    Returns:
        Tuple of the uses that stay, and a dictionary from the index of one left out to that of the first.
    """
    origins, firsts, renamed, repeats, kept = {}, {}, {}, {}, []
    for use in uses:
        operator = use.operator
        if operator.op == "DEQUANTIZE" and operator.inputs:
            origins.update(dict.fromkeys(operator.outputs, origins.get(operator.inputs[0], operator.inputs[0])))
        key = (operator.op, tuple(origins.get(index, index) for index in operator.inputs), len(operator.outputs))
        first = firsts.setdefault(key, operator) if operator.is_custom else operator
        if first is not operator:
            repeats[operator.index] = first.index
            renamed.update(zip(operator.outputs, first.outputs, strict=True))
            continue
        inputs = tuple(renamed.get(index, index) for index in operator.inputs)
        kept.append(dataclasses.replace(use, operator=dataclasses.replace(operator, inputs=inputs)))
    return tuple(kept), repeats


def partition_graph(uses, mappable):
    """Return the parts that a delegate would take, as lists of operator indexes, in order.

    Greedy, as TensorFlow Lite partitions a graph for a delegate: a part takes every operator whose inputs are there and
    that goes to the same side, then the other side has its turn.

    Args:
        uses: `Use` records in execution order.
        mappable: indexes of the operators that could be mapped.
    """
    missing, readers = _dependencies(uses)
    ready = {True: collections.deque(), False: collections.deque()}
    for use in uses:
        if not missing[use.operator.index]:
            ready[use.operator.index in mappable].append(use.operator.index)
    side = bool(ready[True]) and (not ready[False] or ready[True][0] < ready[False][0])
    found = []
    while ready[True] or ready[False]:
        part = []
        while ready[side]:
            index = ready[side].popleft()
            part.append(index)
            for reader in readers[index]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready[reader in mappable].append(reader)
        if side and part:
            found.append(sorted(part))
        side = not side
    return found


def _dependencies(uses):
    """Return how many operators each one waits for, and which wait for it."""
    writers, missing, readers = {}, {}, collections.defaultdict(list)
    for use in uses:
        before = {writers[index] for index in use.operator.inputs if index in writers}
        missing[use.operator.index] = len(before)
        for index in before:
            readers[index].append(use.operator.index)
        writers.update(dict.fromkeys(use.operator.outputs, use.operator.index))
    return missing, readers


# MERGED What makes the compiler refuse a whole file.

# Highest versions that a TensorFlow later than compiler 16 registers (lite/kernels/register.cc, with CONV_2D 6); the
# compiler is known to refuse CONV_2D 6, TRANSPOSE_CONV 4 and EXP 2.
HIGHEST_VERSIONS = {
    "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "TRANSPOSE_CONV": 3, "FULLY_CONNECTED": 9, "EXP": 1, "ADD": 4, "SUB": 5,
    "MUL": 5, "AVERAGE_POOL_2D": 3, "MAX_POOL_2D": 3, "CONCATENATION": 3, "SOFTMAX": 3, "LOGISTIC": 3, "TANH": 3,
    "RELU": 3, "RELU6": 3, "RELU_N1_TO_1": 1, "RESHAPE": 1, "MEAN": 3, "SUM": 2, "REDUCE_MAX": 3, "REDUCE_MIN": 3,
    "PAD": 4, "PADV2": 4, "PACK": 3, "SPLIT": 4, "SQUEEZE": 2, "STRIDED_SLICE": 6, "SLICE": 5, "TRANSPOSE": 5,
    "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "MAXIMUM": 4, "MINIMUM": 4, "L2_NORMALIZATION": 2, "PRELU": 1,
    "SPACE_TO_DEPTH": 2, "DEPTH_TO_SPACE": 2, "RSQRT": 2, "SQUARED_DIFFERENCE": 2, "EXPAND_DIMS": 1, "QUANTIZE": 3,
    "DEQUANTIZE": 5, "CAST": 4, "GATHER": 5, "LEAKY_RELU": 2, "DIV": 2, "HARD_SWISH": 1, "ELU": 1, "BATCH_MATMUL": 4,
    "LOCAL_RESPONSE_NORMALIZATION": 1, "ARG_MAX": 3, "SELECT_V2": 1, "EQUAL": 3, "LESS_EQUAL": 2,
}  # fmt: skip
_DYNAMIC_OUTPUTS = frozenset(["WHERE", "UNIQUE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "RANGE"])
_MOVING = frozenset(["QUANTIZE", "DEQUANTIZE", "CAST"])
# 512x512x64 (issue 60) and 512x512x151 (issue 176) did not compile; the largest map
# in a file that did has 11,107,248 elements (361x641x48).
REFUSED_MAP = 512 * 512 * 64


def find_failure(uses):
    """Return the first `Failure` of a file, None where it compiles.

    Args:
        uses: `Use` records.
    """
    for check in (_unknown_version, _flex, _dynamic, _not_quantized, _large_map):
        if found := check(uses):
            return found
    return None


def _unknown_version(uses):
    for use in uses:
        version = use.operator.version
        if version > HIGHEST_VERSIONS.get(use.op, version):
            return CompileFailure(
                records.UNKNOWN_VERSION.format(op=use.op, version=version),
                f"operator {use.operator.index} has version {version}; the last compiler, of 2021, knows none above "
                f"{HIGHEST_VERSIONS[use.op]}",
                "convert with an older TensorFlow, or with per-tensor weights where their kind raised the version",
                "operator-version",
            )
    return None


def _flex(uses):
    for use in uses:
        if use.operator.is_custom and use.op.startswith("Flex"):
            return CompileFailure(
                records.FLEX,
                f"operator {use.operator.index} is {use.op}, which only TensorFlow runs",
                "convert without SELECT_TF_OPS",
                "flex",
            )
    return None


def _dynamic(uses):
    for use in uses:
        computed = [tensor for tensor in use.shape_operands if not tensor.is_constant]
        if computed or use.op in _DYNAMIC_OUTPUTS:
            return CompileFailure(
                records.DYNAMIC,
                f"the output of operator {use.operator.index} ({use.op}) has a size that is computed",
                "export with a static batch and static shapes",
                "dynamic",
            )
    return None


def _is_quantized(use):
    if use.op in _MOVING or use.data is None or use.output is None:
        return False
    return all(each.dtype in EIGHT_BITS and each.quantization is not None for each in (use.data, use.output))


def _not_quantized(uses):
    if any(_is_quantized(use) for use in uses):
        return None
    kinds = ", ".join(sorted({use.output.dtype for use in uses if use.output is not None}))
    return CompileFailure(
        records.NOT_QUANTIZED,
        f"no operator computes with 8-bit integers, but with {kinds or 'nothing'}",
        "export with full-integer quantisation (--scheme int8)",
        "not-quantized",
    )


def _large_map(uses):
    for use in uses:
        for tensor in use.activations:
            if tensor.dtype in EIGHT_BITS and tensor.elements >= REFUSED_MAP:
                return CompileFailure(
                    records.LARGE,
                    f"operator {use.operator.index} ({use.op}) has a map of {format_shape(tensor.shape)}, {tensor.elements:,} "
                    f"bytes; {REFUSED_MAP:,} did not compile",
                    "use a smaller input or fewer channels",
                    "large-map",
                )
    return None


# MERGED Parameters: what fits into the chip's memory, and what is streamed from the host at every inference.

MIB = 1 << 20
# Of the chip's 8 MiB the program and the activations take their part. "Used" plus "remaining" for parameters in ten
# published outputs of compilers 2.1 to 16.0: 1.1, 1.9, 6.1, 6.2, 6.9, 7.0, 7.0, 7.2, 7.7, 8.2 MiB.
LEAST_PARAMETER_MEMORY, MOST_PARAMETER_MEMORY = int(1.1 * MIB), int(8.2 * MIB)
USUAL_PARAMETER_MEMORY = int(6.9 * MIB)


def place_parameters(uses, mapped):
    """Return the `Memory` that the constants of the mapped operators take.

    Args:
        uses: `Use` records.
        mapped: indexes of the mapped operators.
    """
    constants = {}
    for use in uses:
        if use.operator.index in mapped:
            shapes = {tensor.index for tensor in use.shape_operands}
            for tensor in use.inputs:
                if tensor is not None and tensor.is_constant and tensor.index not in shapes:
                    constants[tensor.buffer] = tensor.buffer_bytes
    total = sum(constants.values())
    if total <= LEAST_PARAMETER_MEMORY:
        return ParameterMemory(total, "on-chip", 0)
    if total <= USUAL_PARAMETER_MEMORY:
        return ParameterMemory(total, "usually on-chip", 0)
    return ParameterMemory(
        total,
        "streamed" if total > MOST_PARAMETER_MEMORY else "usually streamed",
        max(0, total - MOST_PARAMETER_MEMORY),
    )
