"""What it means when a file does not run on TFLite Micro: a larger arena would do, or none would."""

import re
import signal

from keras_nin.edge.micro import allocations
from keras_nin.edge.micro.records import ABORT, MISSING_OPERATOR, REFUSED, TIME_LIMIT, TOO_SMALL, Finding

_NO_OPERATOR = re.compile(
    r"Failed to get registration from op code\s+(\S+)|Didn't find op for builtin opcode '([^']+)'"
)
_MOST_TEXT = 400
# The kernel of SOFTMAX wants beta * scale * 2**26 (31 bits less the 5 of its differences) to be more than 1.
_SOFTMAX_LEAST = 2.0**-26
# It wants the sum of the exponentials, each at most 1, to be at most this, for shifts of 31 bits.
_SOFTMAX_MOST = 512


def judge(outcome, limit, arena=None, graph=None):
    """Return the `Finding` in the `Outcome` of a job that was not done.

    Args:
        outcome: `keras_nin.edge.micro.child.Outcome`.
        limit: seconds that it had.
        arena: its bytes; None for LiteRT, which has none.
        graph: of the file, to look in it for the reason of an abort.
    """
    if outcome.late:
        return Finding(TIME_LIMIT, f"not done after {limit:g} s")
    absent = _NO_OPERATOR.search(outcome.log)
    if absent:
        return Finding(MISSING_OPERATOR, f"TFLite Micro has no operator {absent[1] or absent[2]}, at any size")
    missing = allocations.missing_bytes(outcome.log) if arena is not None else None
    # A kernel may also crash on what it was not given.
    if missing is not None:
        return Finding(TOO_SMALL, f"does not fit into {arena:,} bytes: at least {missing:,} more are needed")
    phase = outcome.answer.get("phase", "start")
    if outcome.status < 0:
        return Finding(ABORT, f"the runtime ends with {_signal(-outcome.status)} at '{phase}'{_causes(graph, phase)}")
    return Finding(REFUSED, _reason(outcome))


def _signal(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _reason(outcome):
    """Return the error and what the runtime printed last before it, on one line."""
    lines = [line.strip() for line in outcome.log.splitlines() if line.strip()]
    error = outcome.answer.get("error")
    said = lines[-2:] if error else lines[-1:]
    return "; ".join([*said, *([error] if error else [])])[:_MOST_TEXT] or f"ended with status {outcome.status}"


def _causes(graph, phase):
    """Return what in the file is known to make the runtime abort in a phase, to end a sentence."""
    known = {"set up": _flat_softmaxes, "run": _wide_softmaxes}.get(phase) if graph else None
    found = "; ".join(known(graph)) if known else ""
    return f": {found}" if found else ""


def _flat_softmaxes(graph):
    for operator, tensor in _softmaxes(graph):
        scale = tensor.quantization.scales[0] * operator.options.get("beta", 1.0)
        if scale <= _SOFTMAX_LEAST:
            yield (
                f"the input of SOFTMAX (operator {operator.index}) has the scale {scale:.2g}, and its kernel aborts at "
                "2^-26 or less: what goes into it was almost constant in calibration, as with random weights"
            )


def _wide_softmaxes(graph):
    for operator, tensor in _softmaxes(graph):
        classes = tensor.shape[-1] if tensor.shape else 1
        if classes > _SOFTMAX_MOST:
            yield (
                f"perhaps SOFTMAX (operator {operator.index}), whose kernel aborts where more than {_SOFTMAX_MOST} of "
                f"its {classes:,} classes come out alike"
            )


def _softmaxes(graph):
    """Yield (operator, input tensor) of every int8 SOFTMAX with a scale."""
    for operator in graph.main.operators:
        if operator.op != "SOFTMAX" or not operator.inputs or operator.inputs[0] < 0:
            continue
        tensor = graph.main.tensors[operator.inputs[0]]
        if tensor.dtype == "int8" and tensor.quantization is not None:
            yield operator, tensor
