"""From the kernels that the runtime executed to the operators of the file and the layers of the network."""

import dataclasses
from collections import Counter
from dataclasses import dataclass

from keras_nin.benchmark import kernel_assignment
from keras_nin.benchmark import kernel_assignment as table
from keras_nin.benchmark.records import KernelTime, LayerTime
from keras_nin.errors import InputError
from keras_nin.tflite import reader

# The delegate's clock cuts off parts of a microsecond: half of one on average, for what takes more than one.
_CLOCK_LOSS_US = 0.5
_MOVES_NOTHING = frozenset({"Static Reshape", "Static Expand Dims", "Split Dims", "Fuse Dims"})
# Kinds whose whole numbers (biases) are weights; elsewhere they are shapes, axes and paddings.
_KINDS_WITH_BIAS = frozenset({"pointwise", "spatial", "depthwise", "dense"})
_INTEGER_DTYPES = frozenset({"int32", "int64"})


@dataclass(frozen=True)
class LayerFacts:
    """What the audit knows of an operator's layer; MACs None where not known."""

    name: str
    kind: str = "other"
    role: str | None = None
    block: str | None = None
    macs: int | None = None


def join_layers(path, kernels, median_us):
    """Return the `LayerTime` records of a profiled file, in order of execution, and the runtime's overhead in us.

    Every kernel and every operator of the main subgraph is in them. `typical` is corrected for the cut-off of the
    profiler's clock (`corrected`), the other times are as measured. The overhead is what the median has beyond the
    typical times: dispatch, copies of inputs and outputs, and, below zero, noise between the runs with and without the
    profiler.

    Args:
        path: the .tflite file.
        kernels: what the runner's `events.summary` says of each: ``{"kind", "name", "index", "us"}``.
        median_us: of a whole run without the profiler.

    Raises:
        InputError: the file is not a valid .tflite file.
    """
    file = reader.read_model(path)
    rows = LayerTimeBuilder(file.main, read_layer_facts(path, file.main), median_us)
    times = correct_kernel_times(kernels, median_us)
    for each in kernel_assignment.assign_kernels(file.main, kernels):
        name, us = (None, None) if each.kernel is None else (kernels[each.kernel]["name"], times[each.kernel])
        rows.add(each, name, us)
    return tuple(rows.found), median_us - sum(us.typical for us in times)


def correct_kernel_times(kernels, median_us):
    """Return the `KernelTime` of each kernel, `typical` with what the delegate's clock cut off of it.

    The clock of the delegate's kernels gives whole microseconds, cut off: it loses half of one of each kernel on
    average, less of a kernel of under one. Each gets the same part of what is missing to the whole median, half a
    microsecond at most, so that the sum does not exceed the median by it. TensorFlow Lite's own operators are timed by
    differences of a clock, which lose nothing on average; reshapes move nothing.
    """
    times = [KernelTime(**kernel["us"]) for kernel in kernels]
    cut = [
        kernel["kind"] == "delegate" and table.kernel_base_name(kernel["name"]) not in _MOVES_NOTHING
        for kernel in kernels
    ]
    missing = median_us - sum(us.typical for us in times)
    lost = min(max(missing / max(sum(cut), 1), 0), _CLOCK_LOSS_US)
    return [
        dataclasses.replace(us, typical=us.typical + lost) if is_cut else us
        for us, is_cut in zip(times, cut, strict=True)
    ]


def read_layer_facts(path, main):
    """Return the `Facts` of each operator of a file's main subgraph: the audit's, or its type where that refuses it."""
    from keras_nin.audit import tflite_reader
    from keras_nin.audit.api import audit_graph

    try:
        rows = audit_graph(tflite_reader.read_tflite_graph(path)).rows
    except InputError:  # such as an input without a fixed size, which the runtime runs at size 1
        return [LayerFacts(f"{operator.op.lower()} {operator.index}") for operator in main.operators]
    return [LayerFacts(row.name, row.kind, row.role, row.block, row.macs) for row in rows]


class LayerTimeBuilder:
    """Builds `LayerTime` records, `found`, with names that differ.

    Args:
        main: the file's main subgraph.
        known: `Facts` of each operator.
        median_us: of a whole run.
    """

    def __init__(self, main, known, median_us):
        self._main, self._known, self._median = main, known, median_us
        self._uses = Counter()
        self.found = []

    def add(self, executed, kernel, us):
        """Add the row of an `assignment.Executed`, whose kernel has this name and `KernelTime` (None without one)."""
        facts = None if executed.owner is None else self._known[executed.owner]
        macs = self._macs(executed)
        self.found.append(
            LayerTime(
                name=self._unique(_layer_name(executed, facts, kernel)),
                op=self._main.operators[executed.owner].op if executed.operators else None,
                operators=executed.operators,
                kernel=kernel,
                kind=facts.kind if executed.operators else "other",
                role=facts.role if executed.operators else None,
                block=facts and facts.block,
                us=us,
                share=None if us is None else us.typical / self._median,
                macs=macs,
                gmacs_per_s=macs / us.typical / 1000 if macs and us and us.typical else None,
                bytes=self._bytes(executed),
                dtype=self._dtype(executed),
                joined=executed.what != kernel_assignment.UNKNOWN and executed.note != kernel_assignment.NOTE_NOT_FOUND,
                note=executed.note,
            )
        )

    def _unique(self, name):
        self._uses[name] += 1
        return name if self._uses[name] == 1 else f"{name} ({self._uses[name]})"

    def _macs(self, executed):
        """Their sum over the operators; of an operator's further kernels, or where one is not known, None."""
        macs = [self._known[index].macs for index in executed.operators]
        return None if executed.what == kernel_assignment.PART or not macs or None in macs else sum(macs)

    def _bytes(self, executed):
        operators = [self._main.operators[index] for index in executed.operators]
        if executed.what == kernel_assignment.PART:
            return 0
        with_bias = {index for index in executed.operators if self._known[index].kind in _KINDS_WITH_BIAS}
        read = {at for each in operators for at in each.inputs if at >= 0 and self._counts(at, each.index in with_bias)}
        inside = {at for each in operators for at in each.outputs} & read
        written = {at for each in operators for at in each.outputs} - inside
        return sum(self._main.tensors[at].nbytes or 0 for at in (read - inside) | written)

    def _counts(self, at, with_bias):
        tensor = self._main.tensors[at]
        return with_bias or not (tensor.is_constant and tensor.dtype in _INTEGER_DTYPES)

    def _dtype(self, executed):
        outputs = () if not executed.operators else self._main.operators[executed.owner].outputs
        return self._main.tensors[outputs[0]].dtype if outputs else None


def _layer_name(executed, facts, kernel):
    if facts is None:
        return kernel
    is_layer = executed.what in (kernel_assignment.COMPUTES, kernel_assignment.NO_KERNEL)
    return facts.name if is_layer else f"{facts.name} ({table.kernel_base_name(kernel)})"


# MERGED What the layers of a profile cost together: 1x1 by role, other convolutions, and by block.

POINTWISE = "pointwise"
ROLES = ("reduce", "expand", "mix", "projection", "head")
_CONVOLUTION_KINDS = ("spatial", "depthwise", "dense")
OTHER, OVERHEAD, NO_BLOCK = "other", "runtime overhead", "(no block)"


@dataclass(frozen=True)
class LatencySubtotal:
    """Sums over `rows` rows of a profile.

    Attributes:
        name: "1x1 reduce", "spatial", a block's, or `OVERHEAD`, which has no rows.
        rows: how many.
        us: their typical times together, in microseconds.
        share: of the whole median.
        macs: together; rows where they are not known count 0.
        gmacs_per_s: 10^9 MACs a second; None without MACs or time.
    """

    name: str
    rows: int
    us: float
    share: float
    macs: int
    gmacs_per_s: float | None


def sum_by_role(profile):
    """Return a `Subtotal` for each kind of layer in a `Profile`, the 1x1 layers by role, and last the overhead.

    Together they are the whole median. Kinds and roles without a row are left out; pools, merges, activations and what
    the runtime inserted are "other".
    """
    names = (*(f"1x1 {role}" for role in ROLES), *_CONVOLUTION_KINDS, OTHER)
    return _sum_groups(profile, _role_or_kind, names)


def sum_by_block(profile):
    """Return a `Subtotal` for each block of a `Profile` in order of execution, and last the overhead."""
    return _sum_groups(profile, lambda layer: layer.block or NO_BLOCK, ())


def sum_pointwise(profile):
    """Return the `Subtotal` of all 1x1 layers of a `Profile`, named "1x1"."""
    return _sum_layers(profile, "1x1", [layer for layer in profile.layers if layer.kind == POINTWISE])


def _role_or_kind(layer):
    if layer.kind == POINTWISE:
        return f"1x1 {layer.role}"
    return layer.kind if layer.kind in _CONVOLUTION_KINDS else OTHER


def _sum_groups(profile, key, first):
    groups = {name: [] for name in first}
    for layer in profile.layers:
        groups.setdefault(key(layer), []).append(layer)
    found = [_sum_layers(profile, name, layers) for name, layers in groups.items() if layers]
    if profile.overhead_us is not None:
        share = profile.overhead_us / profile.total.median
        found.append(LatencySubtotal(OVERHEAD, 0, profile.overhead_us, share, 0, None))
    return tuple(found)


def _sum_layers(profile, name, layers):
    us = sum(layer.us.typical for layer in layers if layer.us)
    macs = sum(layer.macs or 0 for layer in layers)
    rate = macs / us / 1000 if macs and us else None
    return LatencySubtotal(name, len(layers), us, us / profile.total.median, macs, rate)
