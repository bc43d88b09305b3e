"""The Edge TPU compiler's status messages, and the verdict on a file: one record per operator."""

import dataclasses
import enum
from collections import Counter
from typing import Any

from keras_nin.formatting import format_count, format_percent
from keras_nin.results import CheckedResult
from keras_nin.schemas import EDGETPU


class Status(enum.StrEnum):
    """Status of an operator in the compiler's words, in the order in which its tables list them."""

    MAPPED = "Mapped to Edge TPU"
    UNSPECIFIED = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
    SECOND_SUBGRAPH = "More than one subgraph is not supported"
    NOT_SUPPORTED = "Operation not supported"
    VERSION = "Operation version not supported"
    DATA_TYPE = "Operation is working on an unsupported data type"
    RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
    # The second line of a longer message; the compiler's table does not show the first.
    BATCH = "For example, a fully-connected or softmax layer with 2D output"
    PRECISION = "Image-interpolation layer won't run precisely enough on Edge TPU"  # compiler 2.0


class Confidence(enum.StrEnum):
    """What a verdict on an operator rests on; only the first is certain.

    `OBSERVED`: files of which the compiler's result is known show the same. `BETWEEN`: a size lies between the largest
    known to be mapped and the smallest known not to be, or beyond all known. `DOCUMENTED`: the documentation says so,
    and no file shows it. `DEPENDENT`: the operator is mapped or not as an uncertain one before it is.
    """

    OBSERVED = "observed"
    BETWEEN = "between bounds"
    DOCUMENTED = "documented only"
    DEPENDENT = "depends on others"


class FailureMessage(enum.StrEnum):
    """What the compiler prints when it rejects a file."""

    NOT_QUANTIZED = "Model not quantized"
    UNKNOWN_VERSION = "Didn't find op for builtin opcode '{op}' version '{version}'"
    DYNAMIC = (
        "Attempting to use a delegate that only supports static-sized tensors with a graph that has "
        "dynamic-sized tensors"
    )
    FLEX = "Regular TensorFlow ops are not supported by this interpreter"


@dataclasses.dataclass(frozen=True)
class OperatorVerdict:
    """The verdict on one operator of the main subgraph; `why`, `fix` and `rule` are None for a mapped one.

    Attributes:
        op: name of the builtin in capitals, or the custom code where `is_custom`.
        layer: Keras layer that the export recorded, else a name derived from the tensor's.
        status: the compiler's message; None where the compiler removes the operator.
        confidence: what the verdict rests on; None in documents of version 0.2.0.
        evidence: that in words.
        files, authors: in how many files of how many authors the same was seen; None where that is not counted.
    """

    index: int
    op: str
    layer: str
    mapped: bool
    status: str | None
    why: str | None = None
    fix: str | None = None
    rule: str | None = None
    is_custom: bool = False
    confidence: Confidence | None = None
    evidence: str | None = None
    files: int | None = None
    authors: int | None = None

    @property
    def is_certain(self) -> bool:
        """Whether files of which the compiler's result is known show the same."""
        return self.confidence in (None, Confidence.OBSERVED)

    @property
    def basis(self) -> str:
        """What the verdict rests on, in a few words."""
        if self.files is None or not self.is_certain:
            return (self.evidence if self.is_certain else self.confidence) or "-"
        return f"{format_count(self.files, 'file')}, {format_count(self.authors or 0, 'author')}"

    @property
    def dropped(self) -> bool:
        """Whether the compiler removes the operator."""
        return self.status is None

    @property
    def on_cpu(self) -> bool:
        """Whether the operator stays outside the compiled subgraph."""
        return not self.mapped and not self.dropped


@dataclasses.dataclass(frozen=True)
class CompileFailure:
    """Why the compiler rejects the whole file: its message, the reason, a fix and the name of the rule."""

    message: str
    why: str
    fix: str
    rule: str


@dataclasses.dataclass(frozen=True)
class ParameterMemory:
    """Size of the mapped operators' constants, and a lower bound of the bytes that are streamed at every inference.

    `state` is "on-chip", "usually on-chip", "usually streamed" or "streamed", as far as published logs tell.
    """

    parameter_bytes: int
    state: str
    streamed_bytes: int


CompilerRow = tuple[str, int, str]  # operator, count, status


@dataclasses.dataclass(frozen=True)
class EdgeTPUCompilation:
    """What the compiler printed; None where it did not print a value.

    Attributes:
        used_bytes, remaining_bytes: on-chip memory used, and left, for parameters.
        streamed_bytes: parameters that are streamed from the host.
        input_bytes, output_bytes: size of the file, and of the compiled file.
    """

    version: str | None
    succeeded: bool
    errors: tuple[str, ...]
    rows: tuple[CompilerRow, ...]
    used_bytes: int | None
    remaining_bytes: int | None
    streamed_bytes: int | None
    input_bytes: int | None
    output_bytes: int | None
    subgraphs: int | None
    operations: int | None
    text: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class CompilerDifference:
    """A row that the verdict and the compiler count differently."""

    op: str
    status: str
    predicted: int
    compiled: int


@dataclasses.dataclass(frozen=True, repr=False)
class EdgeTPUResult(CheckedResult):
    """The predicted verdict of the Edge TPU compiler on a file, with all operators in the file's order.

    Attributes:
        multiple_subgraphs: whether more than one subgraph may be mapped.
        subgraphs: number of mapped subgraphs.
        doubts: what the verdict cannot decide.
        compilation, differences: what the compiler printed, where it was run, and the rows that differ from it.
        sha256: hash of the file; None in documents of version 0.2.0.
    """

    model: str
    multiple_subgraphs: bool
    failure: CompileFailure | None
    operators: tuple[OperatorVerdict, ...]
    subgraphs: int
    memory: ParameterMemory
    doubts: tuple[str, ...] = ()
    compilation: EdgeTPUCompilation | None = None
    differences: tuple[CompilerDifference, ...] = ()
    sha256: str | None = None

    @property
    def compiles(self) -> bool:
        """Whether the compiler accepts the file."""
        return self.failure is None

    @property
    def mapped(self) -> int:
        """Number of operators that the Edge TPU runs."""
        return sum(operator.mapped for operator in self.operators)

    @property
    def kept(self) -> int:
        """Number of operators that the compiler does not remove."""
        return sum(not operator.dropped for operator in self.operators)

    @property
    def share(self) -> float:
        """Mapped operators as a share of the kept ones, 0 to 1."""
        return self.mapped / self.kept if self.kept else 0.0

    @property
    def uncertain(self) -> int:
        """Number of operators of which no file shows what the compiler does with them."""
        return self.count_uncertain().total()

    @property
    def fully_mapped(self) -> bool:
        """Whether the Edge TPU runs every operator."""
        return self.compiles and self.mapped == self.kept > 0

    @property
    def blocking_operators(self) -> tuple[str, ...]:
        """Operators that cannot be mapped, each with its reason: ``"2 TANH (the limit)"``.

        Operators that stay on the CPU only because they come after a blocking one are left out.
        """
        counts = Counter(
            (operator.op, operator.why)
            for operator in self.operators
            if operator.on_cpu and operator.rule != "one-part"
        )
        return tuple(f"{count} {op} ({why})" if count > 1 else f"{op} ({why})" for (op, why), count in counts.items())

    def count_uncertain(self) -> Counter[str]:
        """Return the number of uncertain operators of each confidence."""
        return Counter(str(operator.confidence) for operator in self.operators if not operator.is_certain)

    def count_cpu_operators(self) -> Counter[str]:
        """Return the number of operators of each type that stay on the CPU."""
        return Counter(operator.op for operator in self.operators if operator.on_cpu)

    def count_rows(self) -> Counter[tuple[str, str | None]]:
        """Return the compiler's table: how many operators have each (type, status); all custom ones are CUSTOM."""
        kept = (operator for operator in self.operators if not operator.dropped)
        return Counter(("CUSTOM" if operator.is_custom else operator.op, operator.status) for operator in kept)

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``keras_nin.edgetpu/1``."""
        fields = self._fields_to_json()
        compilation, differences = fields["compilation"], fields["differences"]
        return {
            "schema": EDGETPU,
            "model": self.model,
            "sha256": self.sha256,
            "multiple_subgraphs": self.multiple_subgraphs,
            "compiles": self.compiles,
            "failure": fields["failure"],
            "operators": fields["operators"],
            "total": {
                "operators": len(self.operators),
                "mapped": self.mapped,
                "cpu": self.kept - self.mapped,
                "dropped": len(self.operators) - self.kept,
                "share": self.share,
                "uncertain": self.uncertain,
                "subgraphs": self.subgraphs,
                "parameter_bytes": self.memory.parameter_bytes,
                "parameters": self.memory.state,
                "streamed_bytes": self.memory.streamed_bytes,
            },
            "doubts": list(self.doubts),
            **({"compiler": compilation | {"differences": list(differences)}} if compilation else {}),
            **self._checks_to_json(),
        }

    def _summary(self) -> str:
        if self.failure:
            return f"{self.model} does not compile: {self.failure.message}"
        return f"{self.model}, {self.mapped} of {self.kept} operators mapped ({format_percent(self.share)})"

    def _rows(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(operator) for operator in self.operators]
