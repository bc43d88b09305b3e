"""The compiler's own words, and the order in which tables give them."""

import dataclasses
from collections import Counter

MAPPED = "Mapped to Edge TPU"
UNSPECIFIED = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
SECOND_SUBGRAPH = "More than one subgraph is not supported"
NOT_SUPPORTED = "Operation not supported"
VERSION = "Operation version not supported"
DATA_TYPE = "Operation is working on an unsupported data type"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
# The second line of a longer reason, whose first the compiler's table does not show.
BATCH = "For example, a fully-connected or softmax layer with 2D output"
PRECISION = "Image-interpolation layer won't run precisely enough on Edge TPU"  # compiler 2.0

STATUSES = (MAPPED, UNSPECIFIED, SECOND_SUBGRAPH, NOT_SUPPORTED, VERSION, DATA_TYPE, RANK, BATCH, PRECISION)

NOT_QUANTIZED = "Model not quantized"
UNKNOWN_VERSION = "Didn't find op for builtin opcode '{op}' version '{version}'"
DYNAMIC = (
    "Attempting to use a delegate that only supports static-sized tensors with a graph that has dynamic-sized tensors"
)
FLEX = "Regular TensorFlow ops are not supported by this interpreter"
LARGE = "Compilation failed due to large activation tensors in model"

_NOTE = "(second line of a longer reason) "


def normalize_status(status):
    """Return a status without the remark that collections of logs put before `BATCH`."""
    return status.removeprefix(_NOTE)


# MERGED Records of a verdict: what becomes of each operator, and of the file.

EDGETPU_SCHEMA = "keras_nin.edgetpu/1"


@dataclasses.dataclass(frozen=True)
class OperatorVerdict:
    """What becomes of one operator of the main subgraph.

    Attributes:
        index: its place in the file.
        op: the builtin's name in capitals, or the custom code.
        layer: the Keras layer that the export recorded, else a name from the tensor's.
        mapped: whether the Edge TPU runs it.
        status: the compiler's words; None where the compiled file does without the operator.
        why: the limit that applies, None where it is mapped.
        fix: what would change that, None where nothing is known.
        rule: name of the rule that decided, None where it is mapped.
        is_custom: whether `op` is a custom code.
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

    @property
    def dropped(self):
        """Whether the compiled file does without it."""
        return self.status is None

    def to_json(self):
        """Return the record as a dictionary."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class CompileFailure:
    """Why the compiler refuses the whole file: its words, the reason, the remedy, the name of the rule."""

    message: str
    why: str
    fix: str
    rule: str


@dataclasses.dataclass(frozen=True)
class ParameterMemory:
    """Parameters of the mapped operators.

    Attributes:
        parameter_bytes: weights, biases and other constants that the mapped operators compute with.
        state: "on-chip", "usually on-chip", "usually streamed" or "streamed", as far as published outputs tell.
        streamed_bytes: the least that is streamed at every inference.
    """

    parameter_bytes: int
    state: str
    streamed_bytes: int


@dataclasses.dataclass(frozen=True)
class EdgeTPUResult:
    """What the compiler would make of a file.

    Attributes:
        model: the file.
        multiple_subgraphs: whether several parts may be mapped.
        failure: `Failure`, or None where the file compiles.
        operators: `OperatorVerdict` of every operator, in the file's order.
        subgraphs: how many parts are mapped.
        memory: `Memory`.
        notes: what else is worth knowing.
    """

    model: str
    multiple_subgraphs: bool
    failure: CompileFailure | None
    operators: tuple[OperatorVerdict, ...]
    subgraphs: int
    memory: ParameterMemory
    notes: tuple[str, ...] = ()

    @property
    def compiles(self):
        """Whether the compiler accepts the file."""
        return self.failure is None

    @property
    def mapped(self):
        """Number of operators that the Edge TPU runs."""
        return sum(each.mapped for each in self.operators)

    @property
    def kept(self):
        """Number of operators that the compiled file stands for."""
        return sum(not each.dropped for each in self.operators)

    @property
    def share(self):
        """Mapped operators as a share of those kept, 0 to 1."""
        return self.mapped / self.kept if self.kept else 0.0

    @property
    def full(self):
        """Whether the Edge TPU runs everything."""
        return self.compiles and self.mapped == self.kept > 0

    def on_cpu(self):
        """Return a Counter of the operators that stay outside the compiled part."""
        return Counter(each.op for each in self.operators if not each.mapped and not each.dropped)

    @property
    def obstacles(self):
        """What keeps operators off the Edge TPU by itself, as text: ``"2 TANH (the limit)"``; not what comes after."""
        found = Counter(
            (each.op, each.why)
            for each in self.operators
            if not each.mapped and not each.dropped and each.rule != "one-part"
        )
        return tuple(f"{count} {op} ({why})" if count > 1 else f"{op} ({why})" for (op, why), count in found.items())

    def rows(self):
        """Return the compiler's table: a Counter of (operator, status); custom operators are all CUSTOM in it."""
        kept = (each for each in self.operators if not each.dropped)
        return Counter(("CUSTOM" if each.is_custom else each.op, each.status) for each in kept)

    def to_json(self):
        """Return the document of schema keras_nin.edgetpu/1."""
        return {
            "schema": EDGETPU_SCHEMA,
            "model": self.model,
            "multiple_subgraphs": self.multiple_subgraphs,
            "compiles": self.compiles,
            "failure": dataclasses.asdict(self.failure) if self.failure else None,
            "operators": [each.to_json() for each in self.operators],
            "total": {
                "operators": len(self.operators),
                "mapped": self.mapped,
                "cpu": self.kept - self.mapped,
                "dropped": len(self.operators) - self.kept,
                "share": self.share,
                "subgraphs": self.subgraphs,
                "parameter_bytes": self.memory.parameter_bytes,
                "parameters": self.memory.state,
                "streamed_bytes": self.memory.streamed_bytes,
            },
            "notes": list(self.notes),
        }
