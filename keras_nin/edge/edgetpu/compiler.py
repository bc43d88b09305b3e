"""The Edge TPU compiler where it is installed: run on a file, its output parsed and kept."""

import dataclasses
import pathlib
import re
import shutil
from collections import Counter

from keras_nin import files
from keras_nin.edge import process
from keras_nin.edge.edgetpu.records import MAPPED, SECOND_SUBGRAPH, normalize_status
from keras_nin.errors import InputError

COMMAND = "edgetpu_compiler"
COMPILER_SECONDS = 180
_LARGEST_LOG = 1 << 22
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_ROW = re.compile(r"^(?P<op>[A-Za-z][\w-]*)\s+(?P<count>\d+)\s+(?P<status>\S.*?)\s*$")
_SIZES = {
    "used_bytes": "On-chip memory used for caching model parameters",
    "remaining_bytes": "On-chip memory remaining for caching model parameters",
    "streamed_bytes": "Off-chip memory used for streaming uncached model parameters",
    "input_bytes": "Input size",
    "output_bytes": "Output size",
}
_COUNTS = {"subgraphs": "Number of Edge TPU subgraphs", "operations": "Total number of operations"}
_FAILURES = re.compile(
    r"^(ERROR:.*|Model not quantized.*|Model could not be parsed.*|Invalid model:.*|Internal compiler error.*|"
    r"Compilation failed.*)$",
    re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class EdgeTPUCompilation:
    """What the compiler said; None where it did not.

    Attributes:
        version: of the compiler.
        succeeded: whether it made a file.
        errors: its lines about what went wrong.
        rows: its table: (operator, count, status).
        used_bytes, remaining_bytes: on-chip memory for parameters.
        streamed_bytes: parameters that are streamed.
        input_bytes, output_bytes: of the files.
        subgraphs, operations: their numbers.
        text: all of its output.
    """

    version: str | None
    succeeded: bool
    errors: tuple[str, ...]
    rows: tuple[tuple[str, int, str], ...]
    used_bytes: int | None
    remaining_bytes: int | None
    streamed_bytes: int | None
    input_bytes: int | None
    output_bytes: int | None
    subgraphs: int | None
    operations: int | None
    text: str = dataclasses.field(repr=False)

    def to_json(self):
        """Return the record as a dictionary."""
        return dataclasses.asdict(self)


def parse_compiler_output(text):
    """Return the `Compilation` that the compiler's output, or its log file, describes."""
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    return EdgeTPUCompilation(
        version=version[1] if version else None,
        succeeded="compiled successfully in" in text,
        errors=tuple(line.strip() for line in _FAILURES.findall(text)),
        rows=_parse_rows(text),
        **{name: _parse_size(text, label) for name, label in _SIZES.items()},
        **{name: _parse_count(text, label) for name, label in _COUNTS.items()},
        text=text,
    )


def _parse_rows(text):
    """Return the table below its heading; a line that is no row ends it."""
    found = []
    for block in re.split(r"^Operator\s+Count\s+Status\s*$", text, flags=re.MULTILINE)[1:]:
        for line in block.strip().splitlines():
            match = _ROW.match(line)
            if match:
                found.append((match["op"], int(match["count"]), normalize_status(match["status"])))
            elif line.strip():
                break
    return tuple(dict.fromkeys(found))  # the output shows the table once, the log file again


def _parse_size(text, label):
    match = re.search(re.escape(label) + r":\s*([\d.]+)\s*(B|KiB|MiB|GiB)\b", text)
    return round(float(match[1]) * _UNITS[match[2]]) if match and match[1].count(".") <= 1 else None


def _parse_count(text, label):
    match = re.search(re.escape(label) + r":\s*(\d+)", text)
    return int(match[1]) if match else None


def is_compiler_installed():
    """Return whether the compiler is on PATH."""
    return shutil.which(COMMAND) is not None


def missing_compiler_error():
    """Return the `InputError` for a machine without the compiler."""
    return InputError(f"Expected {COMMAND} on PATH. Received: none. It runs on x86-64 Debian; leave --compile out")


def run_compiler(path, *, multiple_subgraphs=False, seconds=COMPILER_SECONDS):
    """Return the `Compilation` of a file by the compiler on PATH, made in a temporary folder that goes afterwards.

    Args:
        path: of the .tflite file.
        multiple_subgraphs: allow several mapped parts.
        seconds: limit, after which the compiler and its children are killed.

    Raises:
        InputError: the compiler is not on PATH, does not start, or was not done in time.
    """
    program = shutil.which(COMMAND)
    if program is None:
        raise missing_compiler_error()
    source = pathlib.Path(path).resolve()
    with files.temporary_folder() as folder:
        several = ["-a"] if multiple_subgraphs else []
        text = _compiler_output([program, "-s", *several, "-o", str(folder), str(source)], folder, seconds)
        logs = [_read_log(log) for log in sorted(folder.glob("*.log"))]
    return parse_compiler_output("\n".join([text, *logs]))


def _compiler_output(command, folder, seconds):
    """Return what a command printed; it and its children end with it."""
    try:
        ran = process.run(command, folder, seconds)
    except OSError as error:
        raise InputError(f"Expected {COMMAND} to start. Received: {error.strerror}") from None
    if ran.status is None:
        raise InputError(f"Expected {COMMAND} to be done within {seconds:g} s. Received: it was not. Use --timeout")
    return "\n".join(filter(None, [ran.out, ran.err]))


def _read_log(path):
    with open(path, "rb") as file:
        return file.read(_LARGEST_LOG).decode(errors="replace")


# MERGED A verdict against what the compiler made of the same file.


@dataclasses.dataclass(frozen=True)
class CompilerDifference:
    """Operators of one type and status whose number differs: `predicted` by the rules, `found` by the compiler."""

    op: str
    status: str
    predicted: int
    found: int


def count_rows(rows):
    """Return the compiler's rows (operator, count, status) as a Counter of (operator, status)."""
    found = Counter()
    for op, count, status in rows:
        found[op, normalize_status(status)] += count
    return found


def compare_with_compiler(verdict, rows):
    """Return a `Difference` for each row of the compiler's table that the verdict has otherwise.

    Args:
        verdict: `Verdict`.
        rows: the compiler's rows, (operator, count, status).
    """
    predicted, found = verdict.rows(), count_rows(rows)
    keys = sorted(set(predicted) | set(found))
    return tuple(CompilerDifference(*key, predicted[key], found[key]) for key in keys if predicted[key] != found[key])


def count_cpu_operators(rows):
    """Return a Counter of the operators that the compiler's rows leave on the CPU."""
    found = Counter()
    for (op, status), count in count_rows(rows).items():
        if status != MAPPED:
            found[op] += count
    return found


def allows_multiple_subgraphs(rows):
    """Return whether the compiler's rows are those of several subgraphs allowed: none came after the cut."""
    return all(status != SECOND_SUBGRAPH for _, status in count_rows(rows))


def count_matching(predicted, found, operators):
    """Return how many operators two Counters of those on the CPU agree on.

    Args:
        predicted, found: Counters by operator type.
        operators: Counter of all of them.
    """
    agreed = 0
    for op, count in operators.items():
        agreed += count - abs(predicted[op] - found[op])
    return agreed
