"""The accelerators that Vela compiles for."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from keras_nin.errors import unknown_name_error

# Their names end in the MACs (8 by 8 bits) that all their cores do in a cycle.
ACCELERATORS = (
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-128",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
)
DEFAULT_ACCELERATOR = "ethos-u55-128"
ALL_ACCELERATORS = "all"


def macs_per_cycle(accelerator):
    """Return how many MACs an accelerator does in a cycle at most."""
    return int(accelerator.rpartition("-")[2])


def accelerator_family(accelerator):
    """Return the part of the name that says the generation, such as ``"u55"``."""
    return accelerator.split("-")[1]


def parse_accelerators(words):
    """Return the accelerators that words such as ``"ethos-u55-128,ethos-u85-256"`` or ``"all"`` name, each once.

    Raises:
        InputError: an unknown name.
    """
    names = [name.strip() for word in words for name in word.split(",")]
    for name in names:
        if name not in (*ACCELERATORS, ALL_ACCELERATORS):
            raise unknown_name_error("accelerator", name, (*ACCELERATORS, ALL_ACCELERATORS))
    return ACCELERATORS if ALL_ACCELERATORS in names else tuple(dict.fromkeys(names))


# MERGED The memories that Vela counts, by the names that its tables give them.


class VelaMemory(NamedTuple):
    """Names of a memory: ours, and those of Vela's debug database and of its summary."""

    name: str
    database: str
    summary: str


# Not the accelerator's own (SHRAM, LUT RAM), whose use Vela counts for look-up tables alone.
MEMORIES = (
    VelaMemory("SRAM", "Sram", "sram"),
    VelaMemory("DRAM", "Dram", "dram"),
    VelaMemory("on-chip flash", "OnChipFlash", "on_chip_flash"),
    VelaMemory("off-chip flash", "OffChipFlash", "off_chip_flash"),
)


# MERGED What Vela says of a file on an accelerator, joined to the layers of the network.

ETHOSU_SCHEMA = "keras_nin.ethosu/1"
_PRODUCTS = ("Conv2D", "DepthwiseConv2D", "TransposeConv2D", "FullyConnected", "MatMul")
NPU, CPU, BOTH, NOWHERE = "NPU", "CPU", "NPU+CPU", "none"


@dataclass(frozen=True)
class VelaOperation:
    """One operation that Vela made; `source` is the index of the file's operator that it comes from, None if unknown.

    `cycles` are those that it takes, the most of `npu_cycles` (computing) and `access_cycles` (by memory); `read` and
    `written` are bytes by memory. `macs` are as Vela counts them: the comparisons of a pooling are among them.
    """

    id: str
    source: int | None
    operator: str
    name: str
    cycles: int
    npu_cycles: int
    macs: int
    access_cycles: dict
    read: dict
    written: dict

    @property
    def is_product(self):
        """Whether its MACs are multiplications of weights, and not comparisons or copies."""
        return self.operator in _PRODUCTS

    @property
    def on_cpu(self):
        """Whether Vela left it to the CPU."""
        return self.operator == "Passthrough"


@dataclass(frozen=True)
class EthosULayer:
    """What became of one operator of the file, or of operations that belong to none.

    Attributes:
        index: of the operator in the file; None for operations that could not be joined.
        name, kind, role, block: of the layer, as the audit has them; kind "other" where nothing was joined.
        op: the operator's type in the file; None where nothing was joined.
        target: `NPU`, `CPU`, `BOTH`, or `NOWHERE`: Vela made no operation of it, as where the parts of a concatenation
            are written in place.
        operations: how many operations Vela made of it.
        cycles: of the NPU; 0 on the CPU, for which Vela has no time.
        npu_cycles: those in which it computes; the rest waits for memory.
        share: of all cycles, 0 to 1; None where there are none.
        macs: as Vela counts them; product_macs: those of its convolutions and products alone, without activations and
            copies; network_macs: as the audit counts them, None where not known.
        utilisation: `macs` as a share of what the accelerator does at most in `cycles`; None without cycles.
        bound: what takes the cycles: `NPU`, or the memory that it waits for; None without cycles.
        access_cycles, read, written: cycles and bytes by memory, those that are not 0.
    """

    index: int | None
    name: str
    op: str | None
    kind: str
    role: str | None
    block: str | None
    target: str
    operations: int
    cycles: int
    npu_cycles: int
    share: float | None
    macs: int
    product_macs: int
    network_macs: int | None
    utilization: float | None
    bound: str | None
    access_cycles: dict
    read: dict
    written: dict


@dataclass(frozen=True)
class EthosUFinding:
    """Something that a reader must know: the rule, one sentence, the names of the layers that it is about."""

    rule: str
    message: str
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes of a memory that are in use at most, and bytes that are moved, read or written, in a run."""

    name: str
    used: int
    moved: int


@dataclass(frozen=True)
class EthosUEstimate:
    """What Vela expects of one file on one accelerator, at batch 1; nothing of it is measured.

    Attributes:
        file, sha256, file_bytes: its name, hash and size.
        accelerator: such as "ethos-u55-128".
        macs_per_cycle: of the accelerator at most.
        system_config, memory_mode: those that Vela took.
        vela: its version.
        clock_hz: of the accelerator.
        us: time of a run in microseconds: `cycles` at the clock. What is left to the CPU is not in it.
        cycles, npu_cycles, macs: sums over `layers`, and Vela's own totals.
        network_macs: as the audit counts them; None where a layer's are not known.
        npu_share: share of `network_macs` in the NPU, 0 to 1; None where not known.
        memories: `MemoryUse` of each memory in use.
        weight_bytes, encoded_weight_bytes: of the NPU's weights, in the file and as Vela writes them.
        compiled_bytes: size of the compiled file.
        layers: `Layer` records in the file's order; then what belongs to no operator.
        findings: `Finding` records.
        log: all that Vela printed.
        compiled: the compiled file.
    """

    file: str
    sha256: str
    file_bytes: int
    accelerator: str
    macs_per_cycle: int
    system_config: str
    memory_mode: str
    vela: str
    clock_hz: float
    us: float
    cycles: int
    npu_cycles: int
    macs: int
    network_macs: int | None
    npu_share: float | None
    memories: tuple[MemoryUsage, ...]
    weight_bytes: int
    encoded_weight_bytes: int
    compiled_bytes: int
    layers: tuple[EthosULayer, ...]
    findings: tuple[EthosUFinding, ...]
    log: str
    compiled: bytes = dataclasses.field(repr=False)

    @property
    def utilization(self):
        """MACs as a share of what the accelerator does at most in the cycles; None where there are no cycles."""
        return self.macs / (self.cycles * self.macs_per_cycle) if self.cycles else None

    @property
    def left_to_cpu(self):
        """The `Layer`s that the CPU computes at least in part."""
        return tuple(layer for layer in self.layers if layer.target in (CPU, BOTH))

    def used(self, memory):
        """Return the bytes of a memory in use at most, 0 where it is not used."""
        return next((each.used for each in self.memories if each.name == memory), 0)

    def to_json(self):
        """Return the estimate as a JSON-ready dictionary, without the compiled file."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["compiled"]
        for name in ("memories", "layers", "findings"):
            fields[name] = [dataclasses.asdict(each) for each in fields[name]]
        fields["utilisation"] = self.utilization
        fields["subtotals"] = [dataclasses.asdict(each) for each in summarize_groups(self)]
        return fields


@dataclass(frozen=True)
class EthosUSubtotal:
    """Sums over the layers of one group: a 1x1 role as in ``"1x1 expand"``, or a kind; `share` of all cycles."""

    group: str
    layers: int
    macs: int
    cycles: int
    share: float | None
    utilization: float | None


def layer_group(layer):
    """Return the group that a layer belongs to: its 1x1 role, or its kind."""
    return f"1x1 {layer.role or 'other'}" if layer.kind == "pointwise" else layer.kind


def summarize_groups(estimate):
    """Return the `Subtotal`s of an `Estimate`, 1x1 roles first, each part by cycles; together they have every layer."""
    grouped = {}
    for layer in estimate.layers:
        grouped.setdefault(layer_group(layer), []).append(layer)
    found = [_summarize_group(group, members, estimate) for group, members in grouped.items()]
    return tuple(sorted(found, key=lambda each: (not each.group.startswith("1x1 "), -each.cycles, each.group)))


def _summarize_group(group, members, estimate):
    macs, cycles = sum(layer.macs for layer in members), sum(layer.cycles for layer in members)
    return EthosUSubtotal(
        group=group,
        layers=len(members),
        macs=macs,
        cycles=cycles,
        share=cycles / estimate.cycles if estimate.cycles else None,
        utilization=macs / (cycles * estimate.macs_per_cycle) if cycles else None,
    )


@dataclass(frozen=True)
class EthosURefusal:
    """Why Vela made nothing of a file for an accelerator."""

    accelerator: str
    message: str


@dataclass(frozen=True)
class EthosUResult:
    """Estimates of one file on several accelerators, and refusals of others."""

    file: str
    estimates: tuple[EthosUEstimate, ...]
    refusals: tuple[EthosURefusal, ...] = ()

    def to_json(self):
        """Return the sweep as a JSON-ready dictionary (schema ``keras_nin.ethosu/1``)."""
        return {
            "schema": ETHOSU_SCHEMA,
            "file": self.file,
            "results": [estimate.to_json() for estimate in self.estimates],
            "refusals": [dataclasses.asdict(refusal) for refusal in self.refusals],
        }
