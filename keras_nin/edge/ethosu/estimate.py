"""Estimates of a .tflite file on Ethos-U accelerators: Vela's operations, joined to the layers of the network."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_nin.audit.api import Audit, audit_graph
from keras_nin.audit.records import AuditRow
from keras_nin.audit.tflite_reader import read_tflite_network
from keras_nin.edge.ethosu import records, vela
from keras_nin.edge.ethosu.records import NPU, EthosUEstimate, EthosUFinding, EthosULayer, EthosUResult, VelaOperation
from keras_nin.edge.ethosu.vela import VELA_SECONDS, VelaOptions, VelaTool
from keras_nin.errors import InputError
from keras_nin.formatting import format_count, format_percent
from keras_nin.tflite.reader import ModelSource, read_model
from keras_nin.tflite.records import TFLiteModel
from keras_nin.tflite.runtime_support import check_not_compiled, misfit_notes

_SPLIT_OPERATIONS = 100  # operations of one operator: a softmax becomes about 30
_SPLIT_SHARE = 0.05
_SUMMARY_TEXTS = ("system_config", "memory_mode")
_SUMMARY_NUMBERS = (
    *("core_clock", "cycles_total", "cycles_npu", "nn_macs", "total_original_weights", "total_npu_encoded_weights"),
    *(f"{name}_{column}" for _, name in records.MEMORIES.values() for column in ("memory_used", "total_bytes")),
)
_FAMILIES = tuple(dict.fromkeys(name.split("-")[1] for name in records.ACCELERATORS))  # such as "u55"


def estimate_ethosu(
    file: ModelSource,
    accelerators: Sequence[str] = (records.DEFAULT_ACCELERATOR,),
    *,
    options: VelaOptions | None = None,
    timeout: float = VELA_SECONDS,
    tool: VelaTool | None = None,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> EthosUResult:
    """Estimate a .tflite file on Ethos-U accelerators with Arm's compiler Vela, layer by layer.

    Args:
        file: path or record of the .tflite file.
        accelerators: names from `ACCELERATORS`.
        options, tool: options of Vela, and the Vela to run; None takes its defaults, and finds it.
        timeout: seconds that Vela may take for each accelerator.
        track: wraps the iteration over the accelerators, to show progress.

    Raises:
        InputError: Vela is not installed, the file is not valid or already compiled for a chip, or Vela compiles it for
            none of the accelerators.
    """
    records.parse_accelerators(accelerators)
    network = _read_network(file)
    tool = tool or vela.find_vela()
    estimates, refusals, first_error = [], [], None
    for accelerator in track(accelerators):
        try:
            estimates.append(_estimate_accelerator(network, accelerator, options or VelaOptions(), timeout, tool))
        except InputError as error:
            first_error = first_error or error
            refusals.append(records.EthosURefusal(accelerator, str(error)))
    if not estimates:
        raise first_error or InputError("Expected at least one accelerator", argument="accelerators")
    return EthosUResult(network.name, tuple(estimates), tuple(refusals), notes=misfit_notes(network.model))


@dataclass(frozen=True)
class _Network:
    """A file, the audit of it, and the names of the layers that compute a tensor, by its name, in the file's order."""

    name: str
    model: TFLiteModel
    audit: Audit
    layers_of_tensor: dict[str, list[str]]


def _read_network(file: ModelSource) -> _Network:
    model = read_model(file)
    check_not_compiled(model)
    audited = read_tflite_network(model)
    audit, layers = audit_graph(audited.graph), defaultdict(list)
    for tensor, row in zip(audited.tensor_names, audit.rows, strict=True):
        layers[tensor].append(row.name)
    return _Network(model.path.name if model.path else "model", model, audit, dict(layers))


def _estimate_accelerator(
    network: _Network, accelerator: str, options: VelaOptions, timeout: float, tool: VelaTool
) -> EthosUEstimate:
    audit, model = network.audit, network.model
    output = vela.compile_with_vela(tool, model, accelerator, options, timeout)
    operations = vela.parse_operations(output.database, len(audit.rows))
    totals = _parse_summary(output.summary)
    memories = []
    for memory, (_, name) in records.MEMORIES.items():
        used, moved = round(totals[f"{name}_memory_used"] * 1024), round(totals[f"{name}_total_bytes"])  # used: in KiB
        if used or moved:
            memories.append(records.MemoryUsage(memory, used, moved))
    _check_sums(totals, operations, memories)
    on_cpu = vela.parse_cpu_operators(output.database, len(audit.rows))
    layers = join_layers(audit.rows, operations, accelerator, on_cpu, audit.batch)
    log_findings = vela.parse_log(output.log, network.layers_of_tensor)
    system_config = output.summary["system_config"]
    cycles, clock_hz = round(totals["cycles_total"]), totals["core_clock"]
    return EthosUEstimate(
        file=network.name,
        sha256=model.sha256,
        file_bytes=model.size_bytes,
        accelerator=accelerator,
        macs_per_cycle=records.macs_per_cycle(accelerator),
        system_config=system_config,
        memory_mode=output.summary["memory_mode"],
        vela=tool.version,
        clock_hz=clock_hz,
        us=cycles / clock_hz * 1e6,
        cycles=cycles,
        npu_cycles=round(totals["cycles_npu"]),
        macs=sum(layer.macs for layer in layers),
        network_macs=None if audit.unknown else audit.total.macs,
        npu_share=_npu_share(layers),
        memories=tuple(memories),
        weight_bytes=round(totals["total_original_weights"]),
        encoded_weight_bytes=round(totals["total_npu_encoded_weights"]),
        compiled_bytes=len(output.compiled),
        layers=layers,
        findings=(
            *find_layer_findings(layers, accelerator, system_config, log_findings),
            *log_findings,
        ),
        log=output.log,
        compiled=output.compiled,
        batch=audit.batch,
    )


def _npu_share(layers: Sequence[EthosULayer]) -> float | None:
    """Return the share of the network's MACs on the NPU; None where it is unknown or there are no MACs."""
    operators = [layer for layer in layers if layer.index is not None]
    if any(layer.network_macs is None for layer in operators):
        return None
    total = sum(layer.network_macs or 0 for layer in operators)
    return sum(layer.network_macs or 0 for layer in operators if layer.target == NPU) / total if total else None


def _parse_summary(columns: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers of Vela's summary by column; `InputError` where one of them, or a text, is missing."""
    numbers = {}
    for column in (*_SUMMARY_TEXTS, *_SUMMARY_NUMBERS):
        text = columns.get(column)
        try:
            numbers[column] = 0.0 if text and column in _SUMMARY_TEXTS else float(text or "")
        except ValueError:
            received = f"{text!r} as {column}" if text else f"one without {column}"
            raise InputError(f"Expected a summary of Vela 5.2. Received: {received}") from None
    return numbers


def _check_sums(
    totals: Mapping[str, float], operations: Sequence[VelaOperation], memories: Iterable[records.MemoryUsage]
) -> None:
    """Raise `InputError` where the operations do not add up to Vela's own totals."""
    moved = sum_by_memory([record for operation in operations for record in (operation.read, operation.written)])
    sums = {
        "cycles": (sum(operation.cycles for operation in operations), round(totals["cycles_total"])),
        "NPU cycles": (sum(operation.npu_cycles for operation in operations), round(totals["cycles_npu"])),
        "MACs": (sum(operation.macs for operation in operations), round(totals["nn_macs"])),
        **{f"bytes of {memory.name}": (moved.get(memory.name, 0), memory.moved) for memory in memories},
    }
    for name, (by_operation, total) in sums.items():
        if by_operation != total:
            received = f"{by_operation:,} {name} by operation, {total:,} in all"
            raise InputError(f"Expected Vela's tables to agree. Received: {received}")


def join_layers(
    rows: Sequence[AuditRow],
    operations: Sequence[VelaOperation],
    accelerator: str,
    on_cpu: Collection[int] = frozenset(),
    batch: int = 1,
) -> tuple[EthosULayer, ...]:
    """Return the layers of a file: one per operator, in the file's order, then operations that belong to none.

    Every operation is in exactly one layer, so sums over the layers are sums over the operations. `on_cpu` are indexes
    of operators that are left to the CPU even where no operation is theirs. MACs are those of one sample of a `batch`.
    """
    groups: dict[int | str, list[VelaOperation]] = defaultdict(list)
    for operation in operations:
        groups[operation.name if operation.source is None else operation.source].append(operation)
    total_cycles, peak = sum(operation.cycles for operation in operations), records.macs_per_cycle(accelerator)
    joined = [
        _sum_layer(groups[index], total_cycles, peak, batch, index=index, name=row.name, op=row.type, kind=row.kind,
                   role=row.role, block=row.block, network_macs=row.macs, is_left=index in on_cpu)
        for index, row in enumerate(rows)
    ]  # fmt: skip
    unjoined = [
        _sum_layer(members, total_cycles, peak, batch, index=None, name=name, op=None, kind="other", role=None,
                   block=None, network_macs=None)
        for name, members in groups.items() if isinstance(name, str)
    ]  # fmt: skip
    return (*joined, *unjoined)


def _sum_layer(
    operations: Sequence[VelaOperation],
    total_cycles: int,
    peak: int,
    batch: int,
    is_left: bool = False,
    **identity: Any,
) -> EthosULayer:
    cycles, macs = sum(operation.cycles for operation in operations), sum(operation.macs for operation in operations)
    on_cpu = tuple(sorted({operation.on_cpu for operation in operations}))
    targets = {
        (): records.CPU if is_left else records.NOWHERE,
        (False,): NPU,
        (True,): records.CPU,
        (False, True): records.BOTH,
    }
    bounds: Counter[str] = Counter()  # by what the cycles are spent on: the NPU, or the memory that is slowest
    for operation in operations:
        waits = operation.cycles > operation.npu_cycles and operation.access_cycles
        slowest = max(operation.access_cycles, key=operation.access_cycles.__getitem__) if waits else NPU
        bounds[slowest] += operation.cycles
    return EthosULayer(
        **identity,
        target=targets[on_cpu],
        operations=len(operations),
        cycles=cycles,
        npu_cycles=sum(operation.npu_cycles for operation in operations),
        share=cycles / total_cycles if total_cycles else None,
        macs=round(macs / batch),
        product_macs=round(sum(operation.macs for operation in operations if operation.is_product) / batch),
        utilization=macs / (cycles * peak) if cycles else None,
        bound=max(bounds, key=bounds.__getitem__) if cycles else None,
        access_cycles=sum_by_memory(operation.access_cycles for operation in operations),
        read=sum_by_memory(operation.read for operation in operations),
        written=sum_by_memory(operation.written for operation in operations),
    )


def sum_by_memory(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sums of numbers by memory."""
    sums: Counter[str] = Counter()
    for count in counts:
        sums.update(count)
    return dict(sums)


def find_layer_findings(
    layers: Sequence[EthosULayer],
    accelerator: str,
    system_config: str,
    log_findings: Sequence[EthosUFinding],
) -> Iterator[EthosUFinding]:
    """Yield what a reader of the layers must know, beyond what Vela says itself."""
    cpu = [layer.name for layer in layers if layer.on_cpu]
    explained = {name for finding in log_findings for name in finding.layers}
    if unexplained := tuple(name for name in cpu if name not in explained):
        yield EthosUFinding("cpu", vela.NO_REASON, unexplained)
    if cpu and any(layer.target in (NPU, records.BOTH) for layer in layers):
        left = f"{format_count(len(cpu), 'operator')} left to the CPU, for which Vela has no time"
        yield EthosUFinding("time-without-cpu", f"{left}: a run takes longer than the estimate")
    elif cpu:
        is_float = any("Float" in finding.message for finding in log_findings)
        hint = ", because it computes in floating point; an int8 file runs on the NPU" if is_float else ""
        yield EthosUFinding("nothing-on-npu", f"the whole network is left to the CPU{hint}")
    for layer in layers:
        if layer.operations >= _SPLIT_OPERATIONS and (layer.share or 0) >= _SPLIT_SHARE:
            message = (
                f"becomes {layer.operations:,} operations that take {format_percent(layer.share)} of all cycles at "
                f"{format_percent(layer.utilization)} of the accelerator's peak MACs: Vela splits what the "
                "accelerator cannot do at once, such as a stride above 3"
            )
            yield EthosUFinding("split", message, (layer.name,))
    products = [layer for layer in layers if layer.target == NPU and layer.network_macs]
    if differing := tuple(layer.name for layer in products if layer.product_macs != layer.network_macs):
        yield EthosUFinding("macs", "Vela counts other MACs than the audit", differing)
    families = [family for family in _FAMILIES if family in system_config.lower()]
    if families and accelerator.split("-")[1] not in families:
        message = f"the system configuration {system_config} is for another family than {accelerator}, which may not"
        yield EthosUFinding("other-family", f"{message} have its clock and memories")
