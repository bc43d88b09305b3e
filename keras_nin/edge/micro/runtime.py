"""Runs of a file on TFLite Micro, or on LiteRT's reference kernels, each in a process of its own: it may crash or hang.

The process is ``python -m keras_nin.edge.micro.runtime``: it reads one job as JSON from stdin and answers in lines of
JSON on stdout; everything else that is printed, by the runtimes too, goes to stderr.
"""

import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.child_process import describe_status, python_command, run_process
from keras_nin.child_runtime import claim_stdout, end_with_parent, one_line
from keras_nin.edge.micro import records
from keras_nin.edge.micro.records import ArenaSection, MicroFinding
from keras_nin.errors import InputError
from keras_nin.formatting import format_names
from keras_nin.tflite.records import FLOAT_DTYPES
from keras_nin.tflite.runtime_support import describe_compilation

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.tflite.records import TFLiteModel, TFLiteOperator

    Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    Report = Callable[[dict[str, Any]], None]

MICRO, REFERENCE = "micro", "reference"


@dataclasses.dataclass(frozen=True)
class RuntimeJob:
    """A run of a file: .npz files for the inputs and the outputs; after `seconds` no further sample is started."""

    engine: str
    file: str
    inputs: str
    outputs: str
    seconds: float
    arena: int = 0
    output_count: int = 0


@dataclasses.dataclass(frozen=True)
class RuntimeOutcome:
    """How a job ended: `status` is None where it exceeded the time limit; "phase" in `answer` is how far it came."""

    status: int | None
    log: str
    answer: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the job was completed."""
        return self.status == 0 and self.answer.get("phase") == "done"


def run_job(job: RuntimeJob, timeout: float) -> RuntimeOutcome:
    """Run a job in a process that is killed, with all that it started, after `timeout` seconds."""
    command, environment = python_command("keras_nin.edge.micro.runtime")
    result = run_process(command, timeout=timeout, job=dataclasses.asdict(job), environment=environment)
    answer: dict[str, Any] = {}
    for document in result.documents():
        answer |= document
    return RuntimeOutcome(result.status, result.stderr.replace("\r", ""), answer)


# The process


def main() -> int:
    """Do the job on stdin; return the exit status."""
    end_with_parent()
    report = claim_stdout()
    job = RuntimeJob(**json.loads(sys.stdin.readline()))
    try:
        report({"phase": "load"})
        run, finish = _start_micro(job, report) if job.engine == MICRO else _start_reference(job, report)
        report({"phase": "run"})
        report({"samples": _run_samples(run, job)})
        finish()
    except (RuntimeError, ValueError) as error:  # what both runtimes raise
        report({"error": one_line(error)})
        return 1
    report({"phase": "done"})
    return 0


def _start_micro(job: RuntimeJob, report: "Report") -> "tuple[Run, Callable[[], None]]":
    """Set the network up in an arena; return a function that runs a sample, and one that prints the allocations."""
    try:
        import tflite_micro  # pyright: ignore[reportMissingImports]
        from tflite_micro import runtime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        report({"not_loaded": str(error)})
        raise RuntimeError("tflite-micro does not load") from None
    from keras_nin.tflite.reader import read_model

    report({"package": tflite_micro.__version__})
    with open(job.file, "rb") as file:
        content = file.read()
    report({"phase": "set up"})
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=job.arena)
    keeps_state = bool(read_model(content).variables)

    def run(sample: "Sequence[np.ndarray]") -> "list[np.ndarray]":
        if keeps_state:
            interpreter.reset()
        for index, array in enumerate(sample):
            interpreter.set_input(array, index)
        interpreter.invoke()
        return [interpreter.get_output(index) for index in range(job.output_count)]

    return run, interpreter.print_allocations


def _start_reference(job: RuntimeJob, report: "Report") -> "tuple[Run, Callable[[], None]]":
    from keras_nin.tflite.runner import TFLiteRunner

    report({"phase": "set up"})
    return TFLiteRunner(job.file, batch=None, reference_kernels=True).run_raw, lambda: None


def _run_samples(run: "Run", job: RuntimeJob) -> int:
    """Run samples until the time is over, write their outputs, and return how many there were."""
    import numpy as np

    arrays = load_arrays(job.inputs)
    end = time.monotonic() + job.seconds
    outputs = []
    for sample in zip(*arrays, strict=True) if arrays else [()]:
        outputs.append([np.array(output) for output in run(sample)])
        if time.monotonic() > end:
            break
    np.savez(job.outputs, *map(np.stack, zip(*outputs, strict=True)))
    return len(outputs)


def load_arrays(path: str | os.PathLike[str]) -> "list[np.ndarray]":
    """Return the arrays of an .npz file in the order in which they were saved."""
    import numpy as np

    with np.load(path) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]


# What the runtime prints: `print_allocations` of tflite-micro, and messages of its allocators

_TOTAL = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_SECTION = re.compile(r"\] '([^']+)' used (\d+) bytes")
# "Failed to allocate tail memory. Requested: 104, available 16, missing: 88", and the same for resizing a buffer.
_MISSING = re.compile(r"Failed to (?:allocate|resize)[^\n]*missing: (\d+)")
_NO_OPERATOR = re.compile(
    r"Failed to get registration from op code\s+(\S+)|Didn't find op for builtin opcode '([^']+)'"
)
_FAILED_OPERATOR = re.compile(r"Node (\S+) \(number (\d+)\) failed")
# What its kernels say of every combination of input and weights that they lack, also where both are uint8.
_NO_KERNEL = "Hybrid models are not supported"
NOT_ITEMIZED = "not itemized by the runtime"
_MAX_TEXT = 400
# The kernel of SOFTMAX requires beta * scale * 2**26 (31 bits less the 5 of its differences) to be above 1,
_MIN_SOFTMAX_SCALE = 2.0**-26
# and the sum of the exponentials, each at most 1, to be at most this, for shifts of 31 bits.
_MAX_SOFTMAX_SUM = 512


def parse_allocations(log: str) -> tuple[int, int, tuple[ArenaSection, ...]]:
    """Return the bytes of the head, the bytes of the tail and the sections that `print_allocations` printed."""
    totals = {name: int(count) for name, count in _TOTAL.findall(log)}
    if set(totals) != {"total", "head", "tail"} or totals["total"] != totals["head"] + totals["tail"]:
        expected = "Expected tflite-micro to print its allocations as total, head and tail"
        fix = "Use the version of the extra: pip install 'keras-nin[micro]'"
        raise InputError(f"{expected}. Received: {totals or 'none of them'}. {fix}")
    sections = [ArenaSection(name, int(count)) for name, count in _SECTION.findall(log)]
    rest = totals["tail"] - sum(section.bytes for section in sections)
    return totals["head"], totals["tail"], (*sections, ArenaSection(NOT_ITEMIZED, rest))


def diagnose_outcome(
    outcome: RuntimeOutcome, timeout: float, arena: int | None = None, model: "TFLiteModel | None" = None
) -> MicroFinding:
    """Return what it means that a job was not completed: a larger arena would work, or none would."""
    if outcome.status is None:
        return MicroFinding(records.TIME_LIMIT, f"not done after {timeout:g} s")
    if model is not None and (compilation := describe_compilation(model)) is not None:
        return MicroFinding(records.COMPILED, f"{compilation}, which runs on the chip with its driver, not here")
    if absent := _NO_OPERATOR.search(outcome.log):
        return MicroFinding(
            records.MISSING_OPERATOR, f"TFLite Micro has no operator {absent[1] or absent[2]}, at any size"
        )
    missing = None if arena is None else _MISSING.findall(outcome.log)
    if missing:  # also where a kernel then crashes on memory that it did not get
        more = f"at least {int(missing[-1]):,} more are needed"
        return MicroFinding(records.TOO_SMALL, f"does not fit into {arena:,} bytes: {more}")
    if outcome.status < 0:
        phase = outcome.answer.get("phase", "start")
        causes = format_names([*_find_abort_causes(model, phase)] if model else [], separator="; ")
        ended = f"the runtime was {describe_status(outcome.status)} at '{phase}'"
        return MicroFinding(records.ABORT, f"{ended}: {causes}" if causes else ended)
    if model is not None and _NO_KERNEL in outcome.log and (operator := _find_failed_operator(model, outcome.log)):
        return MicroFinding(records.REFUSED, _describe_types(model, operator))
    lines, error = [line.strip() for line in outcome.log.splitlines() if line.strip()], outcome.answer.get("error")
    parts = [*lines[-2:], error] if error else lines[-1:]
    return MicroFinding(records.REFUSED, "; ".join(parts)[:_MAX_TEXT] or f"ended with status {outcome.status}")


def _find_failed_operator(model: "TFLiteModel", log: str) -> "TFLiteOperator | None":
    failed = _FAILED_OPERATOR.search(log)
    if failed is None or int(failed[2]) >= len(model.main.operators):
        return None
    operator = model.main.operators[int(failed[2])]
    return operator if operator.op == failed[1] else None  # else it belongs to another subgraph


def _describe_types(model: "TFLiteModel", operator: "TFLiteOperator") -> str:
    """Return which types of input and weights have no kernel, and what to do."""
    tensors = [model.main.tensors[index] for index in operator.inputs if index >= 0]
    data, weights = next(tensor for tensor in tensors if not tensor.is_constant).dtype, tensors[1].dtype
    types = f"{data} input and {weights} weights"
    subject = f"{operator.op} (operator {operator.index}) has {types}, for which TFLite Micro has no kernel"
    if data in FLOAT_DTYPES:
        return f"{subject}: dynamic-range quantization. Export the network to int8, or to float32"
    return f"{subject}. Quantize the network to int8 (input and output may stay {data})"


def _find_abort_causes(model: "TFLiteModel", phase: str) -> Iterator[str]:
    """Yield what is known to make the runtime abort in a phase: quantized int8 SOFTMAX operators."""
    for operator in model.main.operators:
        if operator.op != "SOFTMAX" or not operator.inputs or operator.inputs[0] < 0:
            continue
        tensor = model.main.tensors[operator.inputs[0]]
        if tensor.dtype != "int8" or tensor.quantization is None:
            continue
        scale = tensor.quantization.scales[0] * operator.options.get("beta", 1.0)
        classes = tensor.shape[-1] if tensor.shape else 1
        if phase == "set up" and scale <= _MIN_SOFTMAX_SCALE:
            yield (
                f"the input of SOFTMAX (operator {operator.index}) has the scale {scale:.2g}, and its kernel aborts at "
                "2^-26 or less: its input was almost constant in calibration, as with random weights"
            )
        elif phase == "run" and classes > _MAX_SOFTMAX_SUM:
            yield (
                f"perhaps SOFTMAX (operator {operator.index}), whose kernel aborts where more than {_MAX_SOFTMAX_SUM} "
                f"of its {classes:,} classes get the same score"
            )


if __name__ == "__main__":
    sys.exit(main())
