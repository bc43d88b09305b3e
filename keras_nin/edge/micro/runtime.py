"""The process in which a file runs: ``python -m keras_nin.edge.micro.runtime``, with one job as JSON on stdin.

It answers in lines of JSON on stdout; everything else that is printed, by the runtimes too, goes to stderr.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import time

from keras_nin.edge.micro.records import (
    ABORT,
    MISSING_OPERATOR,
    REFUSED,
    TIME_LIMIT,
    TOO_SMALL,
    ArenaSection,
    MicroFinding,
)
from keras_nin.errors import InputError
from keras_nin.tflite.runner import TFLiteRunner

MICRO, REFERENCE = "micro", "reference"
_PR_SET_PDEATHSIG = 1


def main():
    """Do the job on stdin; return the exit status.

    The job holds "engine" (`MICRO` or `REFERENCE`), "file", and "arena" in bytes for the former. With "inputs" (an .npz
    file with an array of samples for each input, by its number) it runs them until "seconds" are over, at least one,
    and writes the outputs to "outputs" in the same way; without, the network is only set up.
    """
    _guard()
    say = _redirect_stdout()
    job = json.loads(sys.stdin.readline())
    try:
        say({"phase": "load"})
        start = {MICRO: _prepare_micro, REFERENCE: _prepare_reference}[job["engine"]](job, say)
        say({"phase": "set up"})
        run, finish = start()
        if "inputs" in job:
            say({"phase": "run"})
            say({"samples": _run_samples(run, job)})
        finish()
    except (RuntimeError, ValueError) as error:  # what both runtimes raise
        say({"error": " ".join(str(error).split())})
        return 1
    say({"phase": "done"})
    return 0


def _prepare_micro(job, say):
    """Return a function that sets the network up in an arena and returns two more: run a sample, and end."""
    try:
        import tflite_micro
        from tflite_micro import runtime
    except ImportError as error:
        say({"not_loaded": str(error)})
        raise RuntimeError("tflite-micro does not load") from None
    say({"package": tflite_micro.__version__})
    with open(job["file"], "rb") as file:
        content = file.read()

    def start():
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=job["arena"])

        def run(sample):
            for index, array in enumerate(sample):
                interpreter.set_input(array, index)
            interpreter.invoke()
            return [interpreter.get_output(index) for index in range(job["output_count"])]

        return run, interpreter.print_allocations

    return start


def _prepare_reference(job, _):
    """Return the same for LiteRT's reference kernels."""

    def start():
        return TFLiteRunner(job["file"], batch=None, reference_kernels=True).run_raw, lambda: None

    return start


def _run_samples(run, job):
    """Run samples until the time is over and keep their outputs; return how many."""
    import numpy as np

    with np.load(job["inputs"]) as stored:
        arrays = [stored[str(index)] for index in range(len(stored.files))]
    end = time.monotonic() + job["seconds"]
    found = []
    for sample in zip(*arrays, strict=True) if arrays else [()]:
        found.append([np.array(output) for output in run(sample)])
        if time.monotonic() > end:
            break
    np.savez(job["outputs"], **{str(index): np.stack(each) for index, each in enumerate(zip(*found, strict=True))})
    return len(found)


def _guard():
    """End with the parent, and leave no core file when a runtime aborts (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _redirect_stdout():
    """Return a function that writes a line of JSON to stdout, and send everything else there to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(document):
        stream.write(json.dumps(document) + "\n")
        stream.flush()

    return say


if __name__ == "__main__":
    sys.exit(main())


# MERGED What the runtime prints about its memory: `print_allocations` of tflite-micro, and messages of its allocators.

_TOTAL = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_SECTION = re.compile(r"\] '([^']+)' used (\d+) bytes")
# "Failed to allocate tail memory. Requested: 104, available 16, missing: 88", and the same of a buffer to resize.
_MISSING = re.compile(r"Failed to (?:allocate|resize)[^\n]*missing: (\d+)")


def parse_allocations(log):
    """Return (bytes of head, bytes of tail, `Part` records) of what `print_allocations` printed.

    Raises:
        InputError: the totals are not there; the package prints them in another way.
    """
    totals = {name: int(count) for name, count in _TOTAL.findall(log)}
    if set(totals) != {"total", "head", "tail"} or totals["total"] != totals["head"] + totals["tail"]:
        raise InputError(
            "Expected tflite-micro to print its allocations as total, head and tail. Received: "
            f"{totals or 'none of them'}. Use the version of the extra: pip install 'keras-nin[micro]'"
        )
    return (
        totals["head"],
        totals["tail"],
        tuple(ArenaSection(name, int(count)) for name, count in _SECTION.findall(log)),
    )


def parse_missing_bytes(log):
    """Return how many bytes the arena lacked at least, by the runtime's last message; None where none says so."""
    found = _MISSING.findall(log)
    return int(found[-1]) if found else None


# MERGED What it means when a file does not run on TFLite Micro: a larger arena would do, or none would.

_NO_OPERATOR = re.compile(
    r"Failed to get registration from op code\s+(\S+)|Didn't find op for builtin opcode '([^']+)'"
)
_MOST_TEXT = 400
# The kernel of SOFTMAX wants beta * scale * 2**26 (31 bits less the 5 of its differences) to be more than 1.
_SOFTMAX_LEAST = 2.0**-26
# It wants the sum of the exponentials, each at most 1, to be at most this, for shifts of 31 bits.
_SOFTMAX_MOST = 512


def diagnose_outcome(outcome, limit, arena=None, graph=None):
    """Return the `Finding` in the `Outcome` of a job that was not done.

    Args:
        outcome: `keras_nin.edge.micro.child.Outcome`.
        limit: seconds that it had.
        arena: its bytes; None for LiteRT, which has none.
        graph: of the file, to look in it for the reason of an abort.
    """
    if outcome.late:
        return MicroFinding(TIME_LIMIT, f"not done after {limit:g} s")
    absent = _NO_OPERATOR.search(outcome.log)
    if absent:
        return MicroFinding(MISSING_OPERATOR, f"TFLite Micro has no operator {absent[1] or absent[2]}, at any size")
    missing = parse_missing_bytes(outcome.log) if arena is not None else None
    # A kernel may also crash on what it was not given.
    if missing is not None:
        return MicroFinding(TOO_SMALL, f"does not fit into {arena:,} bytes: at least {missing:,} more are needed")
    phase = outcome.answer.get("phase", "start")
    if outcome.status < 0:
        return MicroFinding(
            ABORT, f"the runtime ends with {_signal_name(-outcome.status)} at '{phase}'{_known_causes(graph, phase)}"
        )
    return MicroFinding(REFUSED, _error_text(outcome))


def _signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _error_text(outcome):
    """Return the error and what the runtime printed last before it, on one line."""
    lines = [line.strip() for line in outcome.log.splitlines() if line.strip()]
    error = outcome.answer.get("error")
    said = lines[-2:] if error else lines[-1:]
    return "; ".join([*said, *([error] if error else [])])[:_MOST_TEXT] or f"ended with status {outcome.status}"


def _known_causes(graph, phase):
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
