"""What is found about a file on TFLite Micro."""

import dataclasses
from dataclasses import dataclass

MICRO_SCHEMA = "keras_nin.micro/1"

# Kinds of `Finding`.
ABORT = "abort"
MISSING_OPERATOR = "missing operator"
REFUSED = "refused"
TIME_LIMIT = "time limit"
TOO_SMALL = "too small"


@dataclass(frozen=True)
class MicroFinding:
    """Why no arena works, or why outputs could not be compared: one of the kinds above, and a sentence."""

    kind: str
    message: str


@dataclass(frozen=True)
class ArenaSection:
    """What a part of the persistent memory is for, as the runtime calls it, and its bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Arena:
    """The smallest arena in which the runtime sets the network up and runs it, on a host of `host_bits` bits.

    Attributes:
        bytes: its size, a multiple of `step`.
        tensor_bytes: non-persistent part (the runtime's "head"): activations and scratch buffers, planned to overlap.
        persistent_bytes: persistent part (the "tail"): structures, quantisation parameters, kernels' data. It holds
            pointers, so that it is smaller on a microcontroller of 32 bits.
        parts: `Part` records of the persistent part that the runtime itemises; they are not all of it.
        step: to which the size is exact, in bytes.
        tries: how many sizes were tried.
        host_bits: width of a pointer where it was measured.
    """

    bytes: int
    tensor_bytes: int
    persistent_bytes: int
    parts: tuple[ArenaSection, ...]
    step: int
    tries: int
    host_bits: int


@dataclass(frozen=True)
class MicroOperator:
    """An operator type of the file: how often it is used, and the resolver's method, None where there is no such."""

    op: str
    count: int
    method: str | None
    is_custom: bool = False


@dataclass(frozen=True)
class MicroComparison:
    """Outputs of TFLite Micro against those of LiteRT's reference kernels on the same inputs.

    Attributes:
        source: what the inputs are.
        noise: whether they are random numbers.
        samples: inputs that both ran.
        outputs: output values compared.
        differing: how many of them differ in any bit.
        largest: largest absolute difference, in steps where the output is an integer.
    """

    source: str
    noise: bool
    samples: int
    outputs: int
    differing: int
    largest: float


@dataclass(frozen=True)
class MicroResult:
    """A file on TFLite Micro.

    Attributes:
        file: its name.
        sha256: of its content.
        file_bytes: its size, which is the flash that the model takes; kernels and program come on top.
        weight_bytes: of it, values of constant tensors.
        operators: `OperatorUse` of every operator type, sorted.
        resolver: C++ that declares a resolver with them.
        max_arena: largest arena tried, in bytes.
        arena: `Arena`, or None where no size up to `max_arena` works.
        finding: the `Finding` that ended the search; None where an arena was found.
        comparison: `Comparison`; None where it could not be made.
        comparison_finding: the `Finding` why; None where it was made, or where there is no arena.
        peak_activation_bytes: as the audit counts it for the same file, to set beside `Arena.tensor_bytes`.
        float_operators: how many operators read or write floating point.
        package: version of tflite-micro.
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

    def to_json(self):
        """Return the record as a JSON-ready dictionary (schema ``keras_nin.micro/1``)."""
        return {"schema": MICRO_SCHEMA, **dataclasses.asdict(self)}
