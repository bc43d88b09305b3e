"""From a .tflite file to what Vela expects of it on Ethos-U accelerators."""

import os
from collections import Counter
from dataclasses import dataclass

from keras_nin import files
from keras_nin.audit import api, tflite_reader
from keras_nin.audit.api import Audit
from keras_nin.edge.ethosu import records, vela
from keras_nin.edge.ethosu import records as records_module
from keras_nin.edge.ethosu.records import (
    BOTH,
    CPU,
    MEMORIES,
    NOWHERE,
    NPU,
    EthosUEstimate,
    EthosUFinding,
    EthosULayer,
    EthosURefusal,
    EthosUResult,
    MemoryUsage,
)
from keras_nin.errors import InputError


@dataclass(frozen=True)
class _Network:
    """A file: its path and content, the audit of it, and the names of the tensors that its operators compute."""

    path: str
    content: bytes
    audit: Audit
    tensor_names: tuple[str, ...]

    def computed(self):
        """Return a dictionary from the name of a tensor to the names of the layers that compute it, in their order."""
        found = {}
        for tensor, row in zip(self.tensor_names, self.audit.rows, strict=True):
            found.setdefault(tensor, []).append(row.name)
        return found


def estimate_accelerator(
    path, accelerator=records.DEFAULT_ACCELERATOR, *, options=None, limit=vela.VELA_SECONDS, tool=None
):
    """Return the `Estimate` of a .tflite file on one accelerator.

    Args:
        path: the file.
        accelerator: one of `ACCELERATORS`.
        options: `vela.Options`; None leaves all to Vela.
        limit: seconds that Vela may take.
        tool: `vela.Tool`; None finds it.

    Raises:
        InputError: Vela is not installed, or the file is not valid or not compiled.
    """
    return _run_accelerators(path, (accelerator,), options, limit, tool)[0][0]


def estimate_ethosu(path, chosen=records.ACCELERATORS, *, options=None, limit=vela.VELA_SECONDS, tool=None, track=iter):
    """Return the `Sweep` of a .tflite file over accelerators; what is refused on some of them is in its `refusals`.

    Args:
        path, options, limit, tool: as in `estimate`; the limit is for each accelerator.
        chosen: accelerators.
        track: function that the accelerators pass through, to show progress.

    Raises:
        InputError: as in `estimate`; a refusal only where no accelerator takes the file.
    """
    estimates, refusals = _run_accelerators(path, chosen, options, limit, tool, track)
    return EthosUResult(os.path.basename(path), estimates, refusals)


def _run_accelerators(path, chosen, options, limit, tool, track=iter):
    records.parse_accelerators(chosen)
    network = _read_network(path)
    tool = tool or vela.find_vela()
    estimates, refusals, refused = [], [], None
    for accelerator in track(chosen):
        try:
            estimates.append(_run_accelerator(network, accelerator, options or vela.VelaOptions(), limit, tool))
        except InputError as error:
            refused = refused or error
            refusals.append(EthosURefusal(accelerator, str(error)))
    if not estimates:
        raise refused
    return tuple(estimates), tuple(refusals)


def _read_network(path):
    content = files.read_bytes(path)
    file = tflite_reader.read_tflite_network(path)
    return _Network(os.fspath(path), content, api.audit_graph(file.graph), file.tensor_names)


def _run_accelerator(network, accelerator, options, limit, tool):
    compiled = vela.compile_with_vela(tool, network.content, accelerator, options, limit, network.path)
    operations = vela.parse_operations(compiled.database, len(network.audit.rows))
    summary = compiled.summary
    memories = tuple(_memory_usage(summary))
    _check_sums(summary, operations, memories)
    layers = join_layers(network.audit.rows, operations, accelerator)
    said = vela.parse_messages(compiled.log, network.computed())
    cycles, clock = _summary_int(summary, "cycles_total"), _summary_float(summary, "core_clock")
    return EthosUEstimate(
        file=os.path.basename(network.path),
        sha256=files.sha256(network.content),
        file_bytes=len(network.content),
        accelerator=accelerator,
        macs_per_cycle=records.macs_per_cycle(accelerator),
        system_config=_summary_text(summary, "system_config"),
        memory_mode=_summary_text(summary, "memory_mode"),
        vela=tool.version,
        clock_hz=clock,
        us=cycles / clock * 1e6,
        cycles=cycles,
        npu_cycles=_summary_int(summary, "cycles_npu"),
        macs=_summary_int(summary, "nn_macs"),
        network_macs=None if network.audit.unknown else network.audit.total.macs,
        npu_share=_npu_share(layers),
        memories=memories,
        weight_bytes=_summary_int(summary, "total_original_weights"),
        encoded_weight_bytes=_summary_int(summary, "total_npu_encoded_weights"),
        compiled_bytes=len(compiled.data),
        layers=layers,
        findings=(*collect_findings(layers, accelerator, _summary_text(summary, "system_config"), said), *said),
        log=compiled.log,
        compiled=compiled.data,
    )


def _npu_share(layers):
    """Return the share of the network's MACs that are in the NPU; None where they are not known or there are none."""
    macs = [layer.network_macs for layer in layers if layer.index is not None]
    if None in macs or not sum(macs):
        return None
    return sum(layer.network_macs for layer in layers if layer.index is not None and layer.target == NPU) / sum(macs)


def _memory_usage(summary):
    for memory in MEMORIES:
        used = round(_summary_float(summary, f"{memory.summary}_memory_used") * 1024)  # from KiB
        if used or _summary_int(summary, f"{memory.summary}_total_bytes"):
            yield MemoryUsage(memory.name, used, _summary_int(summary, f"{memory.summary}_total_bytes"))


def _check_sums(summary, operations, memories):
    """Raise `InputError` where the operations do not add up to Vela's own totals."""
    totals = {"cycles": "cycles_total", "npu_cycles": "cycles_npu", "macs": "nn_macs"}
    pairs = [
        (name, sum(getattr(operation, name) for operation in operations), _summary_int(summary, column))
        for name, column in totals.items()
    ]
    read, written = sum_by_memory(operations, "read"), sum_by_memory(operations, "written")
    pairs += [
        (f"bytes of {each.name}", read.get(each.name, 0) + written.get(each.name, 0), each.moved) for each in memories
    ]
    for name, found, total in pairs:
        if found != total:
            raise InputError(
                f"Expected tables of Vela that agree. Received: {found:,} {name} by operation, {total:,} in all"
            )


def _summary_int(summary, column):
    return round(_summary_float(summary, column))


def _summary_float(summary, column):
    try:
        return float(_summary_text(summary, column))
    except ValueError:
        raise InputError(f"Expected a summary of Vela 5.2. Received: {summary.get(column)!r} as {column}") from None


def _summary_text(summary, column):
    if not summary.get(column):
        raise InputError(f"Expected a summary of Vela 5.2. Received: one without {column}")
    return summary[column]


# MERGED From the operations that Vela made to the operators of the file and the layers of the network.


def join_layers(rows, operations, accelerator):
    """Return the `Layer` records of a file: one for each operator, in its order, then what belongs to none.

    Every operation is in exactly one of them, so that their sums are those over the operations.

    Args:
        rows: the audit's, one for each operator of the file.
        operations: `Operation` records.
        accelerator: its name.
    """
    joined, others = {}, {}
    for operation in operations:
        group = others if operation.source is None else joined
        group.setdefault(operation.name if operation.source is None else operation.source, []).append(operation)
    most = records_module.macs_per_cycle(accelerator)
    whole = sum(operation.cycles for operation in operations)
    known = [
        _sum_layer(joined.get(index, ()), whole, most, index=index, name=row.name, op=row.type, kind=row.kind,
               role=row.role, block=row.block, network_macs=row.macs)
        for index, row in enumerate(rows)
    ]  # fmt: skip
    unknown = [
        _sum_layer(members, whole, most, index=None, name=name, op=None, kind="other", role=None, block=None,
               network_macs=None)
        for name, members in others.items()
    ]  # fmt: skip
    return (*known, *unknown)


def _sum_layer(operations, whole, most, **known):
    cycles, macs = sum(each.cycles for each in operations), sum(each.macs for each in operations)
    return EthosULayer(
        **known,
        target=_layer_target(operations),
        operations=len(operations),
        cycles=cycles,
        npu_cycles=sum(each.npu_cycles for each in operations),
        share=cycles / whole if whole else None,
        macs=macs,
        product_macs=sum(each.macs for each in operations if each.is_product),
        utilization=macs / (cycles * most) if cycles else None,
        bound=_layer_bound(operations),
        **{name: sum_by_memory(operations, name) for name in ("access_cycles", "read", "written")},
    )


def sum_by_memory(records, name):
    """Return the sums of an attribute of `records` that is a dictionary of numbers."""
    sums = Counter()
    for record in records:
        sums.update(getattr(record, name))
    return dict(sums)


def _layer_target(operations):
    placed = {each.on_cpu for each in operations}
    return {frozenset(): NOWHERE, frozenset({False}): NPU, frozenset({True}): CPU}.get(frozenset(placed), BOTH)


def _layer_bound(operations):
    """Return what most of the cycles go to: for each operation the NPU, or the memory that keeps it longest."""
    cycles = Counter()
    for each in operations:
        waits = each.cycles > each.npu_cycles and each.access_cycles
        cycles[max(each.access_cycles, key=each.access_cycles.get) if waits else NPU] += each.cycles
    ((bound, most),) = cycles.most_common(1) or [(None, 0)]
    return bound if most else None


# MERGED What an estimate shows that its reader must know, beyond what Vela says itself.

_SPLIT = 100  # operations of one operator: a softmax becomes about 30
_SPLIT_SHARE = 0.05
_FAMILIES = tuple(dict.fromkeys(map(records.accelerator_family, records.ACCELERATORS)))


def collect_findings(layers, accelerator, system_config, said):
    """Yield `Finding`s.

    Args:
        layers: `Layer` records.
        accelerator, system_config: their names.
        said: `Finding`s of what Vela printed.
    """
    cpu = [layer.name for layer in layers if layer.target not in (NPU, NOWHERE)]
    explained = {name for finding in said for name in finding.layers}
    silent = tuple(name for name in cpu if name not in explained)
    if silent:
        yield EthosUFinding("cpu", "Vela gives no reason", silent)
    if cpu:
        yield _cpu_finding(layers, cpu, said)
    for layer in layers:
        if layer.operations >= _SPLIT and (layer.share or 0) >= _SPLIT_SHARE:
            yield _split_finding(layer)
    products = [layer for layer in layers if layer.target == NPU and layer.network_macs]
    others = tuple(layer.name for layer in products if layer.product_macs != layer.network_macs)
    if others:
        yield EthosUFinding("macs", "Vela counts other MACs than the audit", others)
    yield from _family_findings(accelerator, system_config)


def describe_operator_count(operators):
    """Return how many there are, as the subject of a sentence: ``"1 operator is"``."""
    return f"{len(operators):,} operator{' is' if len(operators) == 1 else 's are'}"


def _cpu_finding(layers, cpu, said):
    if any(layer.target not in (CPU, NOWHERE) for layer in layers):
        left = f"{describe_operator_count(cpu)} left to the CPU, for which Vela has no time"
        return EthosUFinding("time-without-cpu", f"{left}: the run takes longer than it says")
    floating = any("Float" in finding.message for finding in said)
    hint = ", since it computes in floating point; an int8 file (export --scheme int8) runs on the NPU"
    return EthosUFinding("nothing-on-npu", f"the whole network is left to the CPU{hint if floating else ''}")


def _split_finding(layer):
    taken = f"{layer.share:.0%} of all cycles at {layer.utilization:.1%} of the MACs that the accelerator can do"
    why = "Vela cuts what the accelerator does not do at once, such as a stride above 3"
    return EthosUFinding("split", f"becomes {layer.operations:,} operations that take {taken}: {why}", (layer.name,))


def _family_findings(accelerator, system_config):
    named = [each for each in _FAMILIES if each in system_config.lower()]
    if named and records.accelerator_family(accelerator) not in named:
        meant = f"system configuration {system_config} is of another family than {accelerator}"
        yield EthosUFinding("other-family", f"{meant}, which may not come with its clock and memories")
