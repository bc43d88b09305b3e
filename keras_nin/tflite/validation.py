"""What is wrong with a .tflite file whose bytes are in order: problems of its graph, its numbers and its signatures.

An error is what no runtime takes: it refuses the file, or would compute undefined values. A warning names the targets
that do not take it. All checks are linear in the file, and nothing is run.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from keras_nin.formatting import format_count, printable
from keras_nin.tflite import schema
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteSubgraph, TFLiteTensor
from keras_nin.tflite.runtime_support import describe_scales, is_compiled

ERROR, WARNING = "error", "warning"
_LITERT, _MICRO, _EDGETPU, _ETHOSU = "LiteRT", "TFLite Micro", "Edge TPU", "Ethos-U"
_MAX_BYTES = 1 << 63
_INTEGERS = {
    f"{sign}int{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("", "u")
    for bits in (2, 4, 8, 16, 32, 64)
}


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a file.

    Attributes:
        severity: "error" or "warning".
        rule: what is checked, such as "arity".
        message: what is wrong and where, as it continues "a file where".
        subgraph, operator, tensor: number of the place; None where it is another.
        targets: those that do not take the file; empty for all.
    """

    severity: str
    rule: str
    message: str
    subgraph: int | None = None
    operator: int | None = None
    tensor: int | None = None
    targets: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the problem as a JSON-ready dictionary."""
        return dataclasses.asdict(self)


def find_problems(model: TFLiteModel) -> list[Problem]:
    """Return what is wrong with a file, in the order of its subgraphs."""
    problems = list(_find_cycles(model))
    for number, subgraph in enumerate(model.subgraphs):
        for tensor in subgraph.tensors:
            problems += _find_tensor_problems(number, tensor)
        for operator in subgraph.operators:
            if is_compiled(operator):
                message = f"{_describe(operator)} is what a chip's compiler wrote"
                targets = (_LITERT, _EDGETPU, _ETHOSU)
                problems.append(Problem(WARNING, "compiled", message, number, operator.index, targets=targets))
            problems += _find_arity_problems(operator)
            problems += _find_call_problems(model, operator)
        problems += _find_flow_problems(number, subgraph)
    problems += _find_signature_problems(model)
    flatbuffer_end = max((first + size for first, size in model.buffer_spans), default=0)
    if flatbuffer_end >= 1 << 31:
        message = f"the values reach to byte {flatbuffer_end:,}, beyond 2 GiB"
        problems.append(Problem(WARNING, "size", message, targets=(_MICRO, _EDGETPU, _ETHOSU)))
    return problems


def _find_cycles(model: TFLiteModel) -> Iterator[Problem]:
    """Yield a problem for each operator through which a subgraph runs itself."""
    callers = [
        [operator for operator in subgraph.operators if operator.called_subgraphs] for subgraph in model.subgraphs
    ]
    calls = [[(operator, number) for operator in own for number in operator.called_subgraphs] for own in callers]
    is_open: dict[int, bool] = {}  # whether the subgraphs that one calls are still being looked at
    for root in range(len(model.subgraphs)):
        stack = [] if root in is_open else [(root, iter(calls[root]))]
        is_open.setdefault(root, True)
        while stack:
            number, rest = stack[-1]
            operator, called = next(rest, (None, -1))
            if operator is None:
                is_open[number] = False
                stack.pop()
            elif called not in is_open:
                is_open[called] = True
                stack.append((called, iter(calls[called])))
            elif is_open[called]:
                message = f"{_describe(operator)} runs subgraph {called}, by which it is run itself"
                yield Problem(ERROR, "recursion", message, number, operator.index)


def _describe(operator: TFLiteOperator) -> str:
    return f"operator {operator.index} of subgraph {operator.subgraph} ({printable(operator.op)})"


def _find_tensor_problems(subgraph: int, tensor: TFLiteTensor) -> Iterator[Problem]:
    owner = f"tensor {tensor.index}" + (f" of subgraph {subgraph}" if subgraph else "")
    place = (subgraph, None, tensor.index)
    if tensor.elements >= _MAX_BYTES or (tensor.nbytes or 0) >= _MAX_BYTES:
        yield Problem(ERROR, "size", f"{owner} of shape {tensor.shape} is larger than any memory", *place)
    quantization = tensor.quantization
    if tensor.has_misfit_scales:
        yield Problem(WARNING, "scales", f"{describe_scales(tensor)}, which do not fit", *place, targets=(_LITERT,))
    if quantization is None or tensor.dtype not in _INTEGERS:
        return
    scales, zero_points = quantization.scales, quantization.zero_points
    # A channel of weights that are all 0 may have the scale 0; kernels divide by the scale of what they compute.
    least = 0.0 if tensor.is_constant or tensor.dtype not in ("int8", "uint8", "int16") else math.ulp(0.0)
    wrong = next((scale for scale in scales if not (math.isfinite(scale) and scale >= least)), None)
    if wrong is not None:
        yield Problem(ERROR, "scale", f"{owner} has the scale {wrong:g}", *place)
    low, high = _INTEGERS[tensor.dtype]
    if min(zero_points) < low or max(zero_points) > high:
        outside = next(point for point in zero_points if not low <= point <= high)
        yield Problem(ERROR, "zero-point", f"{owner} of {tensor.dtype} has the zero point {outside}", *place)


def _find_arity_problems(operator: TFLiteOperator) -> Iterator[Problem]:
    arity = None if operator.is_custom else schema.ARITIES.get(operator.op)
    if arity is None:
        return
    place = (operator.subgraph, operator.index)
    for noun, (least, most), given in (
        ("input", arity.inputs, operator.inputs),
        ("output", arity.outputs, operator.outputs),
    ):
        if len(given) < least or (most is not None and len(given) > most):
            counts = str(least) if most == least else f"{least} to {most}" if most else f"at least {least}"
            message = f"{_describe(operator)} has {format_count(len(given), noun)}, but takes {counts}"
            yield Problem(ERROR, "arity", message, *place)
    least = arity.inputs[0]
    if operator.inputs and min(operator.inputs[:least], default=0) < 0:
        position = operator.inputs.index(-1)
        yield Problem(ERROR, "arity", f"{_describe(operator)} lacks input {position}, which it needs", *place)


def _find_call_problems(model: TFLiteModel, operator: TFLiteOperator) -> Iterator[Problem]:
    """Yield a problem for each subgraph with another number of inputs or outputs than the operator that runs it."""
    options, inputs, outputs = operator.options, len(operator.inputs), len(operator.outputs)
    expected: dict[str, tuple[int, int]] = {
        "IF": {"then_subgraph_index": (inputs - 1, outputs), "else_subgraph_index": (inputs - 1, outputs)},
        "WHILE": {"cond_subgraph_index": (inputs, 1), "body_subgraph_index": (inputs, inputs)},
        "CALL_ONCE": {"init_subgraph_index": (0, 0)},
        "STABLEHLO_COMPOSITE": {"decomposition_subgraph_index": (inputs, outputs)},
    }.get(operator.op, {})
    for option, counts in expected.items() if not operator.is_custom else ():
        called = model.subgraphs[options[option]]
        received = len(called.inputs), len(called.outputs)
        if received != counts:
            message = (
                f"{_describe(operator)} runs subgraph {options[option]} with {counts[0]} inputs and {counts[1]} "
                f"outputs, which has {received[0]} and {received[1]}"
            )
            yield Problem(ERROR, "arity", message, operator.subgraph, operator.index)
    if operator.op == "WHILE" and inputs != outputs and not operator.is_custom:
        message = f"{_describe(operator)} has {inputs} inputs, but {outputs} outputs"
        yield Problem(ERROR, "arity", message, operator.subgraph, operator.index)


def _find_flow_problems(number: int, subgraph: TFLiteSubgraph) -> Iterator[Problem]:
    """Yield a problem for each tensor that is read before it is computed, or computed twice."""
    tensors, computed = subgraph.tensors, set(subgraph.inputs)

    def is_known(index: int) -> bool:
        if index < 0 or index in computed:
            return True
        tensor = tensors[index]
        return tensor.is_constant or tensor.is_variable or 0 in tensor.shape

    for operator in subgraph.operators:
        for position, index in enumerate(operator.inputs):
            # A RESHAPE has the shape as an option; a compiled operator works in memory that it is given.
            is_needed = (operator.op, position) != ("RESHAPE", 1) and not is_compiled(operator)
            if is_needed and not is_known(index):
                message = f"{_describe(operator)} reads tensor {index}, which nothing before it computes"
                yield Problem(ERROR, "order", message, number, operator.index, index)
        for index in operator.outputs:
            if index in computed:
                message = f"tensor {index} is computed twice, by {_describe(operator)} too"
                yield Problem(ERROR, "order", message, number, operator.index, index)
            computed.add(index)
    for index in dict.fromkeys(subgraph.outputs):
        if not is_known(index):
            message = f"tensor {index}, an output of subgraph {number}, is never computed"
            yield Problem(ERROR, "order", message, number, None, index)


def _find_signature_problems(model: TFLiteModel) -> Iterator[Problem]:
    """Yield a problem for each name that a signature gives to something else than an input or output."""
    keys = set()
    for signature in model.signatures:
        subgraph, owner = model.subgraphs[signature.subgraph], f"signature {printable(signature.key)!r}"
        if signature.key in keys:
            yield Problem(WARNING, "signature", f"{owner} exists twice", signature.subgraph, targets=(_LITERT,))
        keys.add(signature.key)
        for noun, pairs, known in (
            ("input", signature.inputs, set(subgraph.inputs)),
            ("output", signature.outputs, set(subgraph.outputs)),
        ):
            names = [name for name, _ in pairs]
            if len(set(names)) < len(names):
                message = f"{owner} has two {noun}s of one name"
                yield Problem(WARNING, "signature", message, signature.subgraph, targets=(_LITERT,))
            for name, index in pairs:
                if index not in known:
                    message = f"{printable(name)!r} of {owner} is tensor {index}, no {noun} of its subgraph"
                    yield Problem(WARNING, "signature", message, signature.subgraph, None, index, (_LITERT,))
