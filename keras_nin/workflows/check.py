"""Whether .tflite files are in order, without running them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from keras_nin import files, schemas
from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.formatting import format_count, format_table, printable
from keras_nin.results import Result
from keras_nin.tflite import schema
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.validation import ERROR, WARNING, Problem, find_problems

_SHOWN = 50  # problems in the table of a file


@dataclasses.dataclass(frozen=True, repr=False)
class CheckResult(Result):
    """What is wrong with a .tflite file; ``str`` gives it as text."""

    file: str
    sha256: str
    size_bytes: int
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> int:
        """Number of errors: what no runtime takes."""
        return sum(problem.severity == ERROR for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Number of warnings: what some targets do not take."""
        return len(self.problems) - self.errors

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.check/1``)."""
        entry: dict[str, Any] = {"file": self.file, "sha256": self.sha256, "size_bytes": self.size_bytes}
        entry |= {"valid": self.passed, "errors": self.errors, "warnings": self.warnings}
        return {"schema": schemas.CHECK, "files": [entry | {"problems": self._rows()}]}

    def _summary(self) -> str:
        counts = f"{format_count(self.errors, ERROR)}, {format_count(self.warnings, WARNING)}"
        return f"{printable(self.file)}: {counts if self.problems else 'no problems'}"

    def _rows(self) -> list[dict[str, Any]]:
        return [problem.to_json() for problem in self.problems]

    def __str__(self) -> str:
        if not self.problems:
            return self._summary()
        rows = [
            [problem.severity, problem.rule, ", ".join(problem.targets) or "all", problem.message]
            for problem in self.problems[:_SHOWN]
        ]
        hidden = len(self.problems) - len(rows)
        more = f"\n and {hidden:,} more; --json has all" if hidden else ""
        return format_table(("severity", "rule", "targets", "problem"), rows, title=self._summary()) + more


def check_file(file: AnyPath) -> CheckResult:
    """Check a .tflite file without running it, in a time that is linear in its size.

    Every offset and vector of the flatbuffer, shapes against the buffers' sizes, indexes, the number of inputs and
    outputs of operators and the type of their options, the order of operators, subgraphs that run themselves,
    quantization, signatures.

    Raises:
        InputError: the file cannot be read, or is no .tflite file at all: it lacks the mark TFL3.
    """
    path = pathlib.Path(file)
    content = files.read_bytes(path)
    if content[4:8] != schema.IDENTIFIER:
        problem = f"{str(path)!r}, which lacks the mark {schema.IDENTIFIER.decode()!r} at byte 4"
        raise InputError(f"Expected a .tflite file. Received: {problem}", path=path)
    try:
        problems = find_problems(read_model(content))
    except InputError as error:
        problems = [Problem(ERROR, "structure", str(error.received))]
    return CheckResult(os.fspath(file), files.sha256(content), len(content), tuple(problems))
