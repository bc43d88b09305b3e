"""The verdict on a file: which operators the Edge TPU compiler maps, which it leaves on the CPU, and why."""

import collections
import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_nin.edge.edgetpu import rules
from keras_nin.edge.edgetpu.evidence import fit_evidence
from keras_nin.edge.edgetpu.operators import EIGHT_BITS, BoundOperator, bind_operators, format_shape
from keras_nin.edge.edgetpu.records import (
    CompileFailure,
    Confidence,
    EdgeTPUResult,
    OperatorVerdict,
    ParameterMemory,
    Status,
)
from keras_nin.edge.edgetpu.rules import Finding, compile_failure
from keras_nin.errors import InputError
from keras_nin.formatting import escape_unprintable
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, fail_idle, parse_limits
from keras_nin.tflite.layer_names import operator_paths
from keras_nin.tflite.reader import ModelSource, read_model
from keras_nin.tflite.records import TFLiteModel
from keras_nin.tflite.runtime_support import check_not_compiled, describe_misfit_scales

EDGETPU_LIMITS = (LimitItem("edgetpu", Unit.SHARE, at_least=True),)
NOTHING_ON_EDGETPU = "no operator runs on the Edge TPU"
_CONVERSIONS = frozenset(["QUANTIZE", "DEQUANTIZE", "CAST"])
_MIB = 1 << 20
# The program and the activations take their part of the chip's 8 MiB. "Used" plus "remaining" for parameters in ten
# published logs of compilers 2.1 to 16.0: 1.1, 1.9, 6.1, 6.2, 6.9, 7.0, 7.0, 7.2, 7.7, 8.2 MiB.
MIN_PARAMETER_MEMORY, MAX_PARAMETER_MEMORY = int(1.1 * _MIB), int(8.2 * _MIB)
USUAL_PARAMETER_MEMORY = int(6.9 * _MIB)


def check_edgetpu(
    file: ModelSource, *, multiple_subgraphs: bool = False, without: str | Collection[str] = ()
) -> EdgeTPUResult:
    """Predict what the last Edge TPU compiler (16.0) does with a .tflite file, operator by operator.

    Args:
        file: path or record of the .tflite file; an export record beside it names the layers.
        multiple_subgraphs: whether more than one subgraph may be mapped, as with the compiler's option ``-a``.
        without: author or repository, or several, whose files count for nothing, to test the verdict on new ones.

    Raises:
        InputError: the file cannot be read, is not a valid .tflite file, has no operators, or is already compiled.
    """
    model = read_model(file)
    operators = bind_operators(model)
    if not operators:
        raise InputError(f"{model.source} has no operators", path=model.path)
    check_not_compiled(model)
    evidence = fit_evidence(frozenset([without] if isinstance(without, str) else without))
    kept, repeats = drop_repeats(operators)
    removed = evidence.confirmed(rules.REPEATED)
    if not removed.files:
        kept = operators
    findings = {operator.index: rules.check_operator(operator, evidence) for operator in kept}
    if repeats and not removed.files:
        never = dataclasses.replace(findings[min(repeats)], confidence=Confidence.DOCUMENTED, evidence="may be removed")
        findings |= dict.fromkeys(repeats, never)
    failure = find_failure(kept)
    partition = _Partition.of(kept, findings, multiple_subgraphs=multiple_subgraphs, failed=failure is not None)
    removal = Finding(None, None, Confidence.OBSERVED, f"removed in {removed}", removed)
    verdicts = _Verdicts(operator_paths(model), repeats if removed.files else {}, removal, findings, partition, failure)
    return EdgeTPUResult(
        model=str(model.path or "model"),
        multiple_subgraphs=multiple_subgraphs,
        failure=failure,
        operators=tuple(map(verdicts.conclude, operators)),
        subgraphs=partition.subgraphs,
        memory=place_parameters(kept, partition.mapped),
        doubts=tuple(_find_doubts(model)),
        sha256=model.sha256,
    )


def parse_edgetpu_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits on the share of mapped operators, such as ``"full"`` or ``"95%"``; see `keras_nin.limits`."""
    return parse_limits(text, EDGETPU_LIMITS, argument=argument, bare_item="edgetpu")


def check_edgetpu_limits(result: EdgeTPUResult, limits: Iterable[Limit]) -> tuple[LimitCheck, ...]:
    """Compare the share of mapped operators with limits; where nothing is mapped, no limit is kept."""
    if result.failure or not result.mapped:
        return tuple(fail_idle(limit, NOTHING_ON_EDGETPU) for limit in limits)
    return tuple(check_limit(limit, result.share) for limit in limits)


@dataclasses.dataclass(frozen=True)
class _Partition:
    """The mapped operators, and those that are mapped or not as the uncertain ones before them are."""

    mapped: frozenset[int]
    dependent: frozenset[int]
    subgraphs: int

    @classmethod
    def of(
        cls,
        operators: Sequence[BoundOperator],
        findings: Mapping[int, Finding],
        *,
        multiple_subgraphs: bool,
        failed: bool,
    ) -> "_Partition":
        """Cut the graph as predicted, and as if every uncertain operator were mapped, or none."""
        if failed:
            return cls(frozenset(), frozenset(), 0)
        mappable = {index for index, finding in findings.items() if not finding.rule}
        uncertain = {index for index, finding in findings.items() if not finding.is_certain}
        last = None if multiple_subgraphs else 1
        cuts = [
            partition_graph(operators, kept)[:last] for kept in (mappable, mappable | uncertain, mappable - uncertain)
        ]
        predicted, most, least = (frozenset(index for subgraph in cut for index in subgraph) for cut in cuts)
        return cls(predicted, (most ^ predicted) | (least ^ predicted), len(cuts[0]))


@dataclasses.dataclass(frozen=True)
class _Verdicts:
    """Combines what was found, by operator index, into the verdict on each operator."""

    layers: Sequence[str]
    repeats: Mapping[int, int]
    removal: Finding
    findings: Mapping[int, Finding]
    partition: _Partition
    failure: CompileFailure | None

    @functools.cached_property
    def first_uncertain(self) -> int | None:
        """Index of the first operator whose own verdict is uncertain."""
        return next((index for index, found in self.findings.items() if not found.is_certain), None)

    @functools.cached_property
    def cut(self) -> str:
        """Where the mapped subgraph ends, in words."""
        first = min(self.partition.mapped, default=0)
        return next(
            (f" at operator {index}" for index, found in self.findings.items() if found.rule and index > first), ""
        )

    def conclude(self, operator: BoundOperator) -> OperatorVerdict:
        """Return the verdict on one operator."""
        index, is_custom = operator.index, operator.record.is_custom
        verdict = functools.partial(OperatorVerdict, index, operator.op, self.layers[index], is_custom=is_custom)
        if index in self.repeats:
            why = f"it repeats operator {self.repeats[index]} on the same data, and the compiler removes it"
            return verdict(False, None, why, rule=rules.REPEATED, **_confidence(self.removal))
        finding = self.findings[index]
        fix = rules.suggest_fix(finding.rule, operator) if finding.rule else None
        if self.failure:
            why, fix = finding.why or "the compiler rejects the file", fix or self.failure.fix
            confidence = {"confidence": Confidence.DOCUMENTED, "evidence": "reported, in none of the files"}
            return verdict(False, self.failure.message, why, fix, self.failure.rule, **confidence)
        confidence = _confidence(finding)
        if finding.is_certain and index in self.partition.dependent:
            text = f"as operator {self.first_uncertain} or a later one"
            confidence = {"confidence": Confidence.DEPENDENT, "evidence": text}
        if index in self.partition.mapped:
            return verdict(True, Status.MAPPED, **confidence)
        if finding.rule:
            return verdict(False, finding.rule.status, finding.why, fix, finding.rule.name, **confidence)
        why = f"only one subgraph is mapped, and this operator comes after the cut{self.cut}"
        if confidence["confidence"] != Confidence.DEPENDENT:
            confidence = {"confidence": Confidence.OBSERVED, "evidence": "after the cut"}
        return verdict(
            False, Status.SECOND_SUBGRAPH, why, "get the operators before it mapped", "one-part", **confidence
        )


def _confidence(finding: Finding) -> dict[str, Any]:
    """Return the confidence of a verdict as its fields."""
    seen = finding.support
    counts = {"files": seen.files, "authors": seen.authors} if seen.files else {}
    return {"confidence": finding.confidence, "evidence": finding.evidence} | counts


def _find_doubts(model: TFLiteModel) -> Iterator[str]:
    """Yield misfit scales, and inputs of open shape."""
    if (misfit := describe_misfit_scales(model)) is not None:
        yield f"{misfit}, which do not fit: LiteRT refuses such a file, and the compiler may too"
    for index in model.main.inputs:
        tensor = model.main.tensors[index]
        if any(size < 0 for size in (tensor.shape_signature or ())[1:]):
            yield (
                f"the input {escape_unprintable(tensor.name)!r} is open in more than the batch; the verdict is for "
                f"{format_shape(tensor.shape)}, as the compiler takes it"
            )


def drop_repeats(operators: Sequence[BoundOperator]) -> tuple[tuple[BoundOperator, ...], dict[int, int]]:
    """Return the operators without custom ones that repeat an earlier one on the same data, also through DEQUANTIZE.

    The others read the first occurrence, whose index is returned by the index of each operator that was removed.
    """
    origins: dict[int, int] = {}
    renamed: dict[int, int] = {}
    repeats: dict[int, int] = {}
    first_by_key, kept = {}, []
    for operator in operators:
        record = operator.record
        if record.op == "DEQUANTIZE" and record.inputs:
            origins.update(dict.fromkeys(record.outputs, origins.get(record.inputs[0], record.inputs[0])))
        key = (record.op, tuple(origins.get(index, index) for index in record.inputs), len(record.outputs))
        first = first_by_key.setdefault(key, record) if record.is_custom else record
        if first is not record:
            repeats[record.index] = first.index
            renamed.update(zip(record.outputs, first.outputs, strict=True))
            continue
        inputs = tuple(renamed.get(index, index) for index in record.inputs)
        if inputs != record.inputs:
            operator = dataclasses.replace(operator, record=dataclasses.replace(record, inputs=inputs))
        kept.append(operator)
    return tuple(kept), repeats


def partition_graph(operators: Sequence[BoundOperator], mappable: Collection[int]) -> list[list[int]]:
    """Return the subgraphs that a delegate would take, as lists of operator indexes, in order.

    Greedy, as TensorFlow Lite partitions a graph for a delegate: a subgraph takes every operator whose inputs are
    available and that runs on the same side; then the other side has its turn.
    """
    writers: dict[int, int] = {}
    waiting: dict[int, int] = {}  # for how many operators each one waits
    readers: dict[int, list[int]] = collections.defaultdict(list)
    ready: dict[bool, collections.deque[int]] = {True: collections.deque(), False: collections.deque()}
    for operator in operators:
        before = {writers[index] for index in operator.record.inputs if index in writers}
        waiting[operator.index] = len(before)
        for index in before:
            readers[index].append(operator.index)
        writers.update(dict.fromkeys(operator.record.outputs, operator.index))
        if not before:
            ready[operator.index in mappable].append(operator.index)
    side = bool(ready[True]) and (not ready[False] or ready[True][0] < ready[False][0])
    subgraphs = []
    while ready[True] or ready[False]:
        subgraph = []
        while ready[side]:
            subgraph.append(ready[side].popleft())
            for reader in readers[subgraph[-1]]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready[reader in mappable].append(reader)
        if side and subgraph:
            subgraphs.append(sorted(subgraph))
        side = not side
    return subgraphs


def find_failure(operators: Sequence[BoundOperator]) -> CompileFailure | None:
    """Return the first reason why the compiler rejects a file, None where it compiles."""
    dtypes = ", ".join(sorted({operator.output.dtype for operator in operators if operator.output is not None}))
    not_quantized = compile_failure("not-quantized", dtypes=dtypes or "empty")
    is_quantized = any(map(_is_quantized, operators))
    for operator in operators:
        version, highest = operator.record.version, rules.HIGHEST_VERSIONS.get(operator.op)
        if highest is not None and version > highest:
            failure = compile_failure("operator-version", operator, version=version, highest=highest)
            # A dynamic-range file has high versions too, but they are not what is wrong with it.
            return failure if is_quantized else dataclasses.replace(failure, fix=not_quantized.fix)
    for operator in operators:
        if operator.record.is_custom and operator.op.startswith("Flex"):
            return compile_failure("flex", operator)
    for operator in operators:
        if operator.op in rules.DYNAMIC_OUTPUTS or not all(tensor.is_constant for tensor in operator.shape_operands):
            return compile_failure("dynamic", operator)
    return None if is_quantized or any(map(_reads_float16, operators)) else not_quantized


def _reads_float16(operator: BoundOperator) -> bool:
    """Return whether it converts float16 weights: of such a file the compiler prints a table of the operators."""
    return operator.op == "DEQUANTIZE" and operator.data is not None and operator.data.dtype == "float16"


def _is_quantized(operator: BoundOperator) -> bool:
    if operator.op in _CONVERSIONS or operator.data is None or operator.output is None:
        return False
    return all(
        tensor.dtype in EIGHT_BITS and tensor.quantization is not None for tensor in (operator.data, operator.output)
    )


def place_parameters(operators: Sequence[BoundOperator], mapped: Collection[int]) -> ParameterMemory:
    """Return the size of the mapped operators' constants, and where they are kept."""
    sizes = {
        tensor.buffer: tensor.buffer_bytes
        for operator in operators
        if operator.index in mapped
        for tensor in operator.inputs
        if tensor is not None and tensor.is_constant and tensor not in operator.shape_operands
    }
    total = sum(sizes.values())
    if total <= USUAL_PARAMETER_MEMORY:
        return ParameterMemory(total, "on-chip" if total <= MIN_PARAMETER_MEMORY else "usually on-chip", 0)
    state = "streamed" if total > MAX_PARAMETER_MEMORY else "usually streamed"
    return ParameterMemory(total, state, max(0, total - MAX_PARAMETER_MEMORY))
