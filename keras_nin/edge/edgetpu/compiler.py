"""The Edge TPU compiler where it is installed: run on a file, its output parsed and kept."""

import dataclasses
import pathlib
import re
import shutil

from keras_nin import files
from keras_nin.edge import process
from keras_nin.edge.edgetpu.status import plain
from keras_nin.errors import InputError

COMMAND = "edgetpu_compiler"
SECONDS = 180
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
class Compilation:
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


def parse(text):
    """Return the `Compilation` that the compiler's output, or its log file, describes."""
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    return Compilation(
        version=version[1] if version else None,
        succeeded="compiled successfully in" in text,
        errors=tuple(line.strip() for line in _FAILURES.findall(text)),
        rows=_rows(text),
        **{name: _size(text, label) for name, label in _SIZES.items()},
        **{name: _count(text, label) for name, label in _COUNTS.items()},
        text=text,
    )


def _rows(text):
    """Return the table below its heading; a line that is no row ends it."""
    found = []
    for block in re.split(r"^Operator\s+Count\s+Status\s*$", text, flags=re.MULTILINE)[1:]:
        for line in block.strip().splitlines():
            match = _ROW.match(line)
            if match:
                found.append((match["op"], int(match["count"]), plain(match["status"])))
            elif line.strip():
                break
    return tuple(dict.fromkeys(found))  # the output shows the table once, the log file again


def _size(text, label):
    match = re.search(re.escape(label) + r":\s*([\d.]+)\s*(B|KiB|MiB|GiB)\b", text)
    return round(float(match[1]) * _UNITS[match[2]]) if match and match[1].count(".") <= 1 else None


def _count(text, label):
    match = re.search(re.escape(label) + r":\s*(\d+)", text)
    return int(match[1]) if match else None


def installed():
    """Return whether the compiler is on PATH."""
    return shutil.which(COMMAND) is not None


def missing():
    """Return the `InputError` for a machine without the compiler."""
    return InputError(f"Expected {COMMAND} on PATH. Received: none. It runs on x86-64 Debian; leave --compile out")


def run(path, *, multiple_subgraphs=False, seconds=SECONDS):
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
        raise missing()
    source = pathlib.Path(path).resolve()
    with files.temporary_folder() as folder:
        several = ["-a"] if multiple_subgraphs else []
        text = _output([program, "-s", *several, "-o", str(folder), str(source)], folder, seconds)
        logs = [_text(log) for log in sorted(folder.glob("*.log"))]
    return parse("\n".join([text, *logs]))


def _output(command, folder, seconds):
    """Return what a command printed; it and its children end with it."""
    try:
        ran = process.run(command, folder, seconds)
    except OSError as error:
        raise InputError(f"Expected {COMMAND} to start. Received: {error.strerror}") from None
    if ran.status is None:
        raise InputError(f"Expected {COMMAND} to be done within {seconds:g} s. Received: it was not. Use --timeout")
    return "\n".join(filter(None, [ran.out, ran.err]))


def _text(path):
    with open(path, "rb") as file:
        return file.read(_LARGEST_LOG).decode(errors="replace")
