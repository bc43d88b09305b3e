"""The Ethos-U accelerators, and what Vela estimates for a file on them, layer by layer."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.errors import unknown_name_error
from keras_nin.formatting import format_count, format_us
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, fail_idle, parse_limits
from keras_nin.results import CheckedResult
from keras_nin.schemas import ETHOSU

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Their names end in the MACs (8 by 8 bits) that all of their cores compute in a cycle.
ACCELERATORS = (
    *("ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256"),
    *("ethos-u65-256", "ethos-u65-512"),
    *("ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048"),
)
DEFAULT_ACCELERATOR = "ethos-u55-128"
ALL_ACCELERATORS = "all"
ETHOSU_LIMITS = (
    LimitItem("operators", Unit.SHARE, at_least=True),
    LimitItem("npu", Unit.SHARE, at_least=True),
    LimitItem("time", Unit.TIME),
    *(LimitItem(name, Unit.BYTES) for name in ("sram", "dram", "flash", "compiled")),
)
# The memories by our names, with those in Vela's debug database and in its summary. Without the accelerator's own ones
# (SHRAM, LUT RAM), whose use Vela counts for look-up tables only.
MEMORIES = {
    "SRAM": ("Sram", "sram"),
    "DRAM": ("Dram", "dram"),
    "on-chip flash": ("OnChipFlash", "on_chip_flash"),
    "off-chip flash": ("OffChipFlash", "off_chip_flash"),
}
NPU, CPU, BOTH, NOWHERE = "NPU", "CPU", "NPU+CPU", "none"
PASSTHROUGH = "Passthrough"  # Vela's name for an operation that it leaves to the CPU
NOTHING_ON_NPU = "no operator runs on the NPU"
_PRODUCTS = frozenset(["Conv2D", "DepthwiseConv2D", "TransposeConv2D", "FullyConnected", "MatMul"])


def macs_per_cycle(accelerator: str) -> int:
    """Return the peak MACs of an accelerator in a cycle: the end of its name."""
    return int(accelerator.rpartition("-")[2])


def parse_accelerators(names: Iterable[str]) -> tuple[str, ...]:
    """Return the accelerators in texts such as ``"ethos-u55-128,ethos-u85-256"`` or ``"all"``, without repeats."""
    words = [word.strip() for name in names for word in name.split(",")]
    for word in words:
        if word not in (*ACCELERATORS, ALL_ACCELERATORS):
            raise unknown_name_error("accelerator", word, (*ACCELERATORS, ALL_ACCELERATORS))
    return ACCELERATORS if ALL_ACCELERATORS in words else tuple(dict.fromkeys(words))


def parse_ethosu_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return the limits of a text such as ``"full"``, ``"95%"`` or ``"npu=95%,time=20ms,sram=512KiB"``.

    ``full`` is short for ``operators=full`` and a bare share for a share of ``npu``; see `keras_nin.limits`.
    """
    parts = ["operators=full" if part.strip() == "full" else part for part in text.split(",")]
    return parse_limits(",".join(parts), ETHOSU_LIMITS, argument=argument, bare_item="npu")


@dataclasses.dataclass(frozen=True)
class VelaOperation:
    """One operation that Vela generated; cycles, bytes read and bytes written by memory.

    Attributes:
        source: index of the file's operator that it comes from; None if unknown.
        cycles: the greater of `npu_cycles`, in which the NPU computes, and the cycles of the slowest memory.
    """

    id: str
    source: int | None
    operator: str
    name: str
    cycles: int
    npu_cycles: int
    macs: int
    access_cycles: dict[str, int]
    read: dict[str, int]
    written: dict[str, int]

    @property
    def is_product(self) -> bool:
        """Whether its MACs are multiplications with weights, not comparisons or copies."""
        return self.operator in _PRODUCTS

    @property
    def on_cpu(self) -> bool:
        """Whether Vela leaves it to the CPU."""
        return self.operator == PASSTHROUGH


@dataclasses.dataclass(frozen=True)
class EthosULayer:
    """One operator of the file, or operations that belong to none.

    Attributes:
        index, op: position and type of the operator in the file; None without an operator.
        kind: as the audit has it, "other" without an operator.
        target: `NPU`, `CPU`, `BOTH`, or `NOWHERE` where Vela generates no operation, as for a concatenation whose
            inputs are written in place.
        cycles, share: of the NPU, and as a share of all; 0 on the CPU, for which Vela has no time.
        npu_cycles: cycles in which the NPU computes; in the others it waits for memory.
        macs, product_macs, network_macs: MACs of a sample as Vela counts them, with the comparisons of pooling; those
            of the convolutions and matrix products alone; as the audit counts them, None where unknown.
        utilization: MACs of a run as a share of the accelerator's peak in `cycles`; None without cycles.
        bound: what most cycles are spent on: `NPU`, or the memory that it waits for; None without cycles.
        access_cycles, read, written: cycles, bytes read and bytes written, by memory and without zeros.
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
    access_cycles: dict[str, int]
    read: dict[str, int]
    written: dict[str, int]

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computes at least a part of the layer."""
        return self.target in (CPU, BOTH)

    @property
    def group(self) -> str:
        """The 1x1 role, as in ``"1x1 expand"``, or the kind."""
        return f"1x1 {self.role or 'other'}" if self.kind == "pointwise" else self.kind


@dataclasses.dataclass(frozen=True)
class EthosUFinding:
    """Something to know about an estimate: the rule, one sentence, and the layers that it is about."""

    rule: str
    message: str
    layers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MemoryUsage:
    """A memory: the bytes in use at most, and the bytes that a run reads and writes."""

    name: str
    used: int
    moved: int


@dataclasses.dataclass(frozen=True)
class EthosUSubtotal:
    """Sums over the layers of one `EthosULayer.group`; `share` is that of all cycles, 0 to 1."""

    group: str
    layers: int
    macs: int
    cycles: int
    share: float | None
    utilization: float | None


@dataclasses.dataclass(frozen=True)
class EthosUEstimate:
    """What Vela estimates for one run of a file, of `batch` samples, on one accelerator. Nothing is measured.

    Attributes:
        macs_per_cycle: peak MACs of the accelerator in a cycle.
        vela: version of Vela.
        us: time of a run, `cycles` at the clock; without operators on the CPU.
        macs: of a sample, as Vela counts them.
        network_macs, npu_share: MACs of a sample as the audit counts them, their share on the NPU; None where unknown.
        weight_bytes, encoded_weight_bytes: size of the NPU's weights in the file, and as Vela encodes them.
        layers: in the file's order, then operations that belong to no operator.
        log, compiled: everything that Vela printed, and the compiled file.
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
    batch: int = 1

    @property
    def utilization(self) -> float | None:
        """MACs of a run as a share of the accelerator's peak in the cycles; None without cycles."""
        return self.batch * self.macs / (self.cycles * self.macs_per_cycle) if self.cycles else None

    @property
    def cpu_layers(self) -> tuple[EthosULayer, ...]:
        """The layers that the CPU computes at least in part."""
        return tuple(layer for layer in self.layers if layer.on_cpu)

    @property
    def uses_npu(self) -> bool:
        """Whether any operation runs on the NPU."""
        return any(layer.target in (NPU, BOTH) for layer in self.layers)

    @property
    def operator_count(self) -> int:
        """Number of operators of the file."""
        return sum(layer.index is not None for layer in self.layers)

    @property
    def subtotals(self) -> tuple[EthosUSubtotal, ...]:
        """Sums by group, 1x1 roles first and then by falling cycles; together they have every layer once."""
        groups: dict[str, list[EthosULayer]] = {}
        for layer in self.layers:
            groups.setdefault(layer.group, []).append(layer)
        subtotals = []
        for group, layers in groups.items():
            macs, cycles = sum(layer.macs for layer in layers), sum(layer.cycles for layer in layers)
            share = cycles / self.cycles if self.cycles else None
            utilization = self.batch * macs / (cycles * self.macs_per_cycle) if cycles else None
            subtotals.append(EthosUSubtotal(group, len(layers), macs, cycles, share, utilization))
        return tuple(sorted(subtotals, key=lambda sub: (not sub.group.startswith("1x1 "), -sub.cycles, sub.group)))

    def used_bytes(self, *memories: str) -> int:
        """Return the bytes in use at most in the named memories, 0 for one that is not used."""
        return sum(memory.used for memory in self.memories if memory.name in memories)

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as a JSON-ready dictionary, without the compiled file."""
        fields = dataclasses.asdict(self)
        del fields["compiled"]
        return fields | {"utilization": self.utilization, "subtotals": list(map(dataclasses.asdict, self.subtotals))}


@dataclasses.dataclass(frozen=True)
class EthosURefusal:
    """Why Vela does not compile a file for an accelerator."""

    accelerator: str
    message: str


@dataclasses.dataclass(frozen=True, repr=False)
class EthosUResult(CheckedResult):
    """Estimates of one file on one or more accelerators, and the accelerators for which Vela does not compile it."""

    file: str
    estimates: tuple[EthosUEstimate, ...]
    refusals: tuple[EthosURefusal, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``keras_nin.ethosu/1``."""
        return {
            "schema": ETHOSU,
            "file": self.file,
            "results": [estimate.to_json() for estimate in self.estimates],
            "refusals": list(map(dataclasses.asdict, self.refusals)),
            **self._checks_to_json(),
        }

    def plot(self) -> "Figure":
        """Return a matplotlib figure: a bar per accelerator, its time by 1x1 role and kind."""
        from keras_nin.plots import sweeps

        return sweeps.plot_accelerators(self)

    def _summary(self) -> str:
        times = ", ".join(
            f"{estimate.accelerator} {format_us(estimate.us)}{' + CPU' if estimate.cpu_layers else ''}"
            for estimate in self.estimates
        )
        return f"{self.file}, estimated by Vela: {times}"

    def _rows(self) -> list[dict[str, Any]]:
        """Return the layers of a single estimate, or one row per accelerator."""
        if len(self.estimates) == 1:
            columns = ("name", "kind", "role", "target", "macs", "cycles", "share", "utilization", "bound")
            return [{column: getattr(layer, column) for column in columns} for layer in self.estimates[0].layers]
        columns = ("accelerator", "us", "cycles", "utilization", "npu_share", "compiled_bytes")
        return [
            {column: getattr(estimate, column) for column in columns} | {"sram_bytes": estimate.used_bytes("SRAM")}
            for estimate in self.estimates
        ]


def check_ethosu_limits(result: EthosUResult, limits: Sequence[Limit]) -> tuple[LimitCheck, ...]:
    """Compare every estimate with limits on `ETHOSU_LIMITS`; on a refused accelerator no limit is kept."""
    checks = [_check_estimate(estimate, limit) for estimate in result.estimates for limit in limits]
    for refusal in result.refusals:
        reason, subject = "Vela does not compile the file", refusal.accelerator
        checks += [check_limit(limit, None, reason=reason, subject=subject) for limit in limits]
    return tuple(checks)


def _check_estimate(estimate: EthosUEstimate, limit: Limit) -> LimitCheck:
    on_cpu = len(estimate.cpu_layers)
    # Operators of other subgraphs, such as the body of a WHILE, are layers without an index.
    operators = estimate.operator_count + sum(layer.index is None for layer in estimate.cpu_layers)
    value = {
        "operators": 1 - on_cpu / operators if operators else None,
        "npu": estimate.npu_share,
        "time": estimate.us,
        "sram": estimate.used_bytes("SRAM"),
        "dram": estimate.used_bytes("DRAM"),
        "flash": estimate.used_bytes("on-chip flash", "off-chip flash"),
        "compiled": estimate.compiled_bytes,
    }[limit.name]
    if not estimate.uses_npu:
        return fail_idle(limit, NOTHING_ON_NPU, subject=estimate.accelerator)
    bounds, reason = (value, value), "the MACs are unknown"
    if limit.name == "time" and on_cpu:
        bounds, reason = (value, None), f"{format_count(on_cpu, 'operator')} on the CPU, whose time is unknown"
    return check_limit(limit, value, bounds=bounds, reason=reason, subject=estimate.accelerator)
