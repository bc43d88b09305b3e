"""The Edge TPU compiler itself, where it is installed: a run, its parsed log, and a comparison with the verdict."""

import os
import pathlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable

from keras_nin import files
from keras_nin.child_process import run_process
from keras_nin.edge.edgetpu.records import CompilerDifference, CompilerRow, EdgeTPUCompilation, EdgeTPUResult
from keras_nin.errors import InputError

COMMAND = "edgetpu_compiler"
COMPILER_SECONDS = 180.0

_LARGEST_LOG = 1 << 22
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_ROW = re.compile(r"^(?P<op>[A-Za-z][\w-]*)\s+(?P<count>\d+)\s+(?P<status>\S.*?)\s*$")
_FAILURES = re.compile(
    r"^(ERROR:.*|Model not quantized.*|Model could not be parsed.*|Invalid model:.*|Internal compiler error.*|"
    r"Compilation failed.*)$",
    re.MULTILINE,
)


def run_compiler(
    path: str | os.PathLike[str], *, multiple_subgraphs: bool = False, timeout: float = COMPILER_SECONDS
) -> EdgeTPUCompilation:
    """Run the compiler on PATH on a .tflite file, for `timeout` seconds at most, and parse its output."""
    program = find_compiler()
    options = ["-s", *(["-a"] if multiple_subgraphs else [])]
    with files.temporary_folder() as folder:
        command = [program, *options, "-o", str(folder), str(pathlib.Path(path).resolve())]
        result = run_process(command, timeout=timeout, folder=folder)
        if result.timed_out:
            raise InputError(f"{COMMAND} did not finish within {timeout:g} s; raise `timeout`", argument="timeout")
        logs = [log.read_bytes()[:_LARGEST_LOG].decode(errors="replace") for log in sorted(folder.glob("*.log"))]
    return parse_compiler_output("\n".join(filter(None, [result.stdout, result.stderr, *logs])))


def find_compiler() -> str:
    """Return the path of the compiler; raise `InputError` where it is not on PATH."""
    program = shutil.which(COMMAND)
    if program is None:
        raise InputError(f"{COMMAND} is not on PATH; it runs on x86-64 Debian", received=None)
    return program


def parse_compiler_output(text: str) -> EdgeTPUCompilation:
    """Parse what the compiler printed, or its log file."""
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    return EdgeTPUCompilation(
        version=version[1] if version else None,
        succeeded="compiled successfully in" in text,
        errors=tuple(line.strip() for line in _FAILURES.findall(text)),
        rows=_parse_rows(text),
        used_bytes=_parse_size(text, "On-chip memory used for caching model parameters"),
        remaining_bytes=_parse_size(text, "On-chip memory remaining for caching model parameters"),
        streamed_bytes=_parse_size(text, "Off-chip memory used for streaming uncached model parameters"),
        input_bytes=_parse_size(text, "Input size"),
        output_bytes=_parse_size(text, "Output size"),
        subgraphs=_parse_count(text, "Number of Edge TPU subgraphs"),
        operations=_parse_count(text, "Total number of operations"),
        text=text,
    )


def _parse_rows(text: str) -> tuple[CompilerRow, ...]:
    """Return the rows below the table's heading, up to the first line that is not a row."""
    rows = []
    for block in re.split(r"^Operator\s+Count\s+Status\s*$", text, flags=re.MULTILINE)[1:]:
        for line in block.strip().splitlines():
            if match := _ROW.match(line):
                rows.append((match["op"], int(match["count"]), match["status"]))
            elif line.strip():
                break
    return tuple(dict.fromkeys(rows))  # the output shows the table once, the log file again


def _parse_size(text: str, label: str) -> int | None:
    match = re.search(re.escape(label) + r":\s*([\d.]+)\s*(B|KiB|MiB|GiB)\b", text)
    return round(float(match[1]) * _UNITS[match[2]]) if match and match[1].count(".") <= 1 else None


def _parse_count(text: str, label: str) -> int | None:
    match = re.search(re.escape(label) + r":\s*(\d+)", text)
    return int(match[1]) if match else None


def count_rows(rows: Iterable[CompilerRow]) -> Counter[tuple[str, str]]:
    """Return the compiler's rows as counts by (operator, status)."""
    counts: Counter[tuple[str, str]] = Counter()
    for op, count, status in rows:
        counts[op, status] += count
    return counts


def compare_with_compiler(result: EdgeTPUResult, rows: Iterable[CompilerRow]) -> tuple[CompilerDifference, ...]:
    """Return every (operator, status) that the predicted result and the compiler's rows count differently."""
    predicted, compiled = result.count_rows(), count_rows(rows)
    keys = sorted((op, str(status)) for op, status in {*predicted, *compiled})
    differing = [key for key in keys if predicted[key] != compiled[key]]
    return tuple(CompilerDifference(*key, predicted[key], compiled[key]) for key in differing)
