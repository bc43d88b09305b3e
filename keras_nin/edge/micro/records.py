"""What a .tflite file needs with TFLite Micro: the arena, the operators, and how its outputs compare."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_nin.formatting import format_bytes
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.results import CheckedResult
from keras_nin.schemas import MICRO

MICRO_LIMITS = (LimitItem("arena", Unit.BYTES), LimitItem("flash", Unit.BYTES))

# Kinds of `MicroFinding`.
ABORT, MISSING_OPERATOR, REFUSED, COMPILED = "abort", "missing operator", "refused", "compiled file"
TIME_LIMIT, TOO_SMALL = "time limit", "too small"


@dataclass(frozen=True)
class MicroFinding:
    """Why no arena works, or why the outputs were not compared: one of the kinds above, and a sentence."""

    kind: str
    message: str


@dataclass(frozen=True)
class ArenaSection:
    """A section of the persistent memory: the runtime's name for it, and its bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Arena:
    """The smallest arena in which the runtime sets the network up and runs it, on this host.

    Attributes:
        tensor_bytes: the runtime's "head", not persistent: activations and scratch buffers, which share memory where
            they can.
        persistent_bytes: the "tail": structures, quantization parameters and kernel data. It holds pointers, and so is
            smaller on a 32-bit microcontroller. The runtime itemizes some of its `sections`; the last has the rest.
        step, tries: resolution of the size in bytes, and number of sizes tried.
        setup_bytes: the rest of the arena. The memory planner needs it beside the tail while it plans, in the place
            that tensors get after it; less than `step` is alignment.
    """

    bytes: int
    tensor_bytes: int
    persistent_bytes: int
    sections: tuple[ArenaSection, ...]
    step: int
    tries: int
    host_bits: int
    setup_bytes: int = 0


@dataclass(frozen=True)
class MicroOperator:
    """An operator type of the file, its number of uses, and the op resolver's method; None where there is none."""

    op: str
    count: int
    method: str | None
    is_custom: bool = False


@dataclass(frozen=True)
class MicroComparison:
    """Outputs of TFLite Micro compared with those of LiteRT's reference kernels on the same inputs.

    Attributes:
        outputs, differing: number of output values compared, and of those that differ in any bit.
        max_abs_diff: largest absolute difference, in quantization steps (LSB) for integer outputs.
    """

    source: str
    noise: bool
    samples: int
    outputs: int
    differing: int
    max_abs_diff: float

    @property
    def bit_exact(self) -> bool:
        """Whether all outputs are equal."""
        return self.differing == 0

    @property
    def inputs(self) -> str:
        """The inputs, such as ``"100 x test images of digits, preprocessing: unit, [0, 1]"``."""
        return f"{self.samples} x {self.source}{' (random numbers)' if self.noise else ''}"


@dataclass(frozen=True, repr=False)
class MicroResult(CheckedResult):
    """A file on TFLite Micro.

    Attributes:
        file_bytes: the flash that the model takes, without kernels and program.
        weight_bytes, other_constant_bytes: parts of it: the weights as the audit counts them, and shapes, axes and the
            like.
        resolver: C++ that declares an op resolver with the operators.
        arena, finding: the smallest arena up to `max_arena` bytes, or why none works.
        comparison, comparison_finding: the comparison of the outputs, or why there is none; both None without an arena.
        peak_activation_bytes: the audit's peak, to compare with `Arena.tensor_bytes`; None where it reads no such file.
        float_operators: number of operators that read or write floating point.
        package: version of tflite-micro.
        batch: samples in a run, all of which are in the arena at once.
    """

    file: str
    sha256: str
    file_bytes: int
    weight_bytes: int
    operators: tuple[MicroOperator, ...]
    resolver: str
    max_arena: int
    arena: Arena | None
    finding: MicroFinding | None
    comparison: MicroComparison | None
    comparison_finding: MicroFinding | None
    peak_activation_bytes: int | None
    float_operators: int
    package: str
    batch: int = 1
    other_constant_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``keras_nin.micro/1``."""
        return {"schema": MICRO, **self._fields_to_json(), **self._checks_to_json()}

    def _summary(self) -> str:
        arena = f"arena {format_bytes(self.arena.bytes)}" if self.arena else "no arena works"
        return f"{self.file}, {arena}, flash {format_bytes(self.file_bytes)}"

    def _rows(self) -> list[dict[str, Any]]:
        return [{"operator": use.op, "count": use.count, "method": use.method} for use in self.operators]


def parse_micro_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return the limits of a text such as ``"arena=256KiB,flash=1MiB"``; see `keras_nin.limits`."""
    return parse_limits(text, MICRO_LIMITS, argument=argument)


def check_micro_limits(result: MicroResult, limits: Iterable[Limit]) -> tuple[LimitCheck, ...]:
    """Compare the arena and the size of the file with limits; where no arena works, no limit on it is kept."""
    values = {"arena": result.arena and result.arena.bytes, "flash": result.file_bytes}
    reason = result.finding.message if result.finding else None
    return tuple(check_limit(limit, values[limit.name], reason=reason) for limit in limits)
