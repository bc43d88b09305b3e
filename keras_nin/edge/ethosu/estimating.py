"""From a .tflite file to what Vela expects of it on Ethos-U accelerators."""

import os
from dataclasses import dataclass

from keras_nin import files
from keras_nin.audit import build, tflite_reader
from keras_nin.audit.records import Audit
from keras_nin.edge.ethosu import accelerators, database, join, judging, messages, vela
from keras_nin.edge.ethosu.memories import MEMORIES
from keras_nin.edge.ethosu.records import NPU, Estimate, MemoryUse, Refusal, Sweep
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


def estimate(path, accelerator=accelerators.DEFAULT, *, options=None, limit=vela.SECONDS, tool=None):
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
    return _estimates(path, (accelerator,), options, limit, tool)[0][0]


def sweep(path, chosen=accelerators.ACCELERATORS, *, options=None, limit=vela.SECONDS, tool=None, track=iter):
    """Return the `Sweep` of a .tflite file over accelerators; what is refused on some of them is in its `refusals`.

    Args:
        path, options, limit, tool: as in `estimate`; the limit is for each accelerator.
        chosen: accelerators.
        track: function that the accelerators pass through, to show progress.

    Raises:
        InputError: as in `estimate`; a refusal only where no accelerator takes the file.
    """
    estimates, refusals = _estimates(path, chosen, options, limit, tool, track)
    return Sweep(os.path.basename(path), estimates, refusals)


def _estimates(path, chosen, options, limit, tool, track=iter):
    accelerators.chosen(chosen)
    network = _read(path)
    tool = tool or vela.find()
    estimates, refusals, refused = [], [], None
    for accelerator in track(chosen):
        try:
            estimates.append(_estimate(network, accelerator, options or vela.Options(), limit, tool))
        except InputError as error:
            refused = refused or error
            refusals.append(Refusal(accelerator, str(error)))
    if not estimates:
        raise refused
    return tuple(estimates), tuple(refusals)


def _read(path):
    content = files.read_bytes(path)
    file = tflite_reader.read_file(path)
    return _Network(os.fspath(path), content, build.audit_graph(file.graph), file.tensor_names)


def _estimate(network, accelerator, options, limit, tool):
    compiled = vela.compile_for(tool, network.content, accelerator, options, limit, network.path)
    operations = database.operations(compiled.database, len(network.audit.rows))
    summary = compiled.summary
    memories = tuple(_memories(summary))
    _check_sums(summary, operations, memories)
    layers = join.layers(network.audit.rows, operations, accelerator)
    said = messages.findings(compiled.log, network.computed())
    cycles, clock = _whole(summary, "cycles_total"), _figure(summary, "core_clock")
    return Estimate(
        file=os.path.basename(network.path),
        sha256=files.sha256(network.content),
        file_bytes=len(network.content),
        accelerator=accelerator,
        macs_per_cycle=accelerators.macs_per_cycle(accelerator),
        system_config=_word(summary, "system_config"),
        memory_mode=_word(summary, "memory_mode"),
        vela=tool.version,
        clock_hz=clock,
        us=cycles / clock * 1e6,
        cycles=cycles,
        npu_cycles=_whole(summary, "cycles_npu"),
        macs=_whole(summary, "nn_macs"),
        network_macs=None if network.audit.unknown else network.audit.total.macs,
        npu_share=_npu_share(layers),
        memories=memories,
        weight_bytes=_whole(summary, "total_original_weights"),
        encoded_weight_bytes=_whole(summary, "total_npu_encoded_weights"),
        compiled_bytes=len(compiled.data),
        layers=layers,
        findings=(*judging.findings(layers, accelerator, _word(summary, "system_config"), said), *said),
        log=compiled.log,
        compiled=compiled.data,
    )


def _npu_share(layers):
    """Return the share of the network's MACs that are in the NPU; None where they are not known or there are none."""
    macs = [layer.network_macs for layer in layers if layer.index is not None]
    if None in macs or not sum(macs):
        return None
    return sum(layer.network_macs for layer in layers if layer.index is not None and layer.target == NPU) / sum(macs)


def _memories(summary):
    for memory in MEMORIES:
        used = round(_figure(summary, f"{memory.summary}_memory_used") * 1024)  # from KiB
        if used or _whole(summary, f"{memory.summary}_total_bytes"):
            yield MemoryUse(memory.name, used, _whole(summary, f"{memory.summary}_total_bytes"))


def _check_sums(summary, operations, memories):
    """Raise `InputError` where the operations do not add up to Vela's own totals."""
    totals = {"cycles": "cycles_total", "npu_cycles": "cycles_npu", "macs": "nn_macs"}
    pairs = [
        (name, sum(getattr(operation, name) for operation in operations), _whole(summary, column))
        for name, column in totals.items()
    ]
    read, written = join.added(operations, "read"), join.added(operations, "written")
    pairs += [
        (f"bytes of {each.name}", read.get(each.name, 0) + written.get(each.name, 0), each.moved) for each in memories
    ]
    for name, found, total in pairs:
        if found != total:
            raise InputError(
                f"Expected tables of Vela that agree. Received: {found:,} {name} by operation, {total:,} in all"
            )


def _whole(summary, column):
    return round(_figure(summary, column))


def _figure(summary, column):
    try:
        return float(_word(summary, column))
    except ValueError:
        raise InputError(f"Expected a summary of Vela 5.2. Received: {summary.get(column)!r} as {column}") from None


def _word(summary, column):
    if not summary.get(column):
        raise InputError(f"Expected a summary of Vela 5.2. Received: one without {column}")
    return summary[column]
