"""From the kernels that the runtime executed to the operators of the file and the layers of the network."""

import dataclasses
from collections import Counter
from dataclasses import dataclass

from keras_nin.benchmark import assignment
from keras_nin.benchmark import kernels as table
from keras_nin.benchmark.records import KernelTime, LayerTime
from keras_nin.errors import InputError
from keras_nin.tflite import graph

# The delegate's clock cuts off parts of a microsecond: half of one on average, for what takes more than one.
_CUT_OFF_US = 0.5
_MOVES_NOTHING = frozenset({"Static Reshape", "Static Expand Dims", "Split Dims", "Fuse Dims"})
# Kinds whose whole numbers (biases) are weights; elsewhere they are shapes, axes and paddings.
_WITH_BIAS = frozenset({"pointwise", "spatial", "depthwise", "dense"})
_WHOLE = frozenset({"int32", "int64"})


@dataclass(frozen=True)
class Facts:
    """What the audit knows of an operator's layer; MACs None where not known."""

    name: str
    kind: str = "other"
    role: str | None = None
    block: str | None = None
    macs: int | None = None


def layers(path, kernels, median_us):
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
    file = graph.read(path)
    rows = Rows(file.main, facts(path, file.main), median_us)
    times = corrected(kernels, median_us)
    for each in assignment.assign(file.main, kernels):
        name, us = (None, None) if each.kernel is None else (kernels[each.kernel]["name"], times[each.kernel])
        rows.add(each, name, us)
    return tuple(rows.found), median_us - sum(us.typical for us in times)


def corrected(kernels, median_us):
    """Return the `KernelTime` of each kernel, `typical` with what the delegate's clock cut off of it.

    The clock of the delegate's kernels gives whole microseconds, cut off: it loses half of one of each kernel on
    average, less of a kernel of under one. Each gets the same part of what is missing to the whole median, half a
    microsecond at most, so that the sum does not exceed the median by it. TensorFlow Lite's own operators are timed by
    differences of a clock, which lose nothing on average; reshapes move nothing.
    """
    times = [KernelTime(**kernel["us"]) for kernel in kernels]
    cut = [kernel["kind"] == "delegate" and table.base(kernel["name"]) not in _MOVES_NOTHING for kernel in kernels]
    missing = median_us - sum(us.typical for us in times)
    lost = min(max(missing / max(sum(cut), 1), 0), _CUT_OFF_US)
    return [
        dataclasses.replace(us, typical=us.typical + lost) if is_cut else us
        for us, is_cut in zip(times, cut, strict=True)
    ]


def facts(path, main):
    """Return the `Facts` of each operator of a file's main subgraph: the audit's, or its type where that refuses it."""
    from keras_nin.audit import tflite_reader
    from keras_nin.audit.build import audit_graph

    try:
        rows = audit_graph(tflite_reader.read(path)).rows
    except InputError:  # such as an input without a fixed size, which the runtime runs at size 1
        return [Facts(f"{operator.op.lower()} {operator.index}") for operator in main.operators]
    return [Facts(row.name, row.kind, row.role, row.block, row.macs) for row in rows]


class Rows:
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
                name=self._unique(_name(executed, facts, kernel)),
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
                joined=executed.what != assignment.UNKNOWN and executed.note != assignment.NOT_FOUND,
                note=executed.note,
            )
        )

    def _unique(self, name):
        self._uses[name] += 1
        return name if self._uses[name] == 1 else f"{name} ({self._uses[name]})"

    def _macs(self, executed):
        """Their sum over the operators; of an operator's further kernels, or where one is not known, None."""
        macs = [self._known[index].macs for index in executed.operators]
        return None if executed.what == assignment.PART or not macs or None in macs else sum(macs)

    def _bytes(self, executed):
        operators = [self._main.operators[index] for index in executed.operators]
        if executed.what == assignment.PART:
            return 0
        with_bias = {index for index in executed.operators if self._known[index].kind in _WITH_BIAS}
        read = {at for each in operators for at in each.inputs if at >= 0 and self._counts(at, each.index in with_bias)}
        inside = {at for each in operators for at in each.outputs} & read
        written = {at for each in operators for at in each.outputs} - inside
        return sum(self._main.tensors[at].nbytes or 0 for at in (read - inside) | written)

    def _counts(self, at, with_bias):
        tensor = self._main.tensors[at]
        return with_bias or not (tensor.is_constant and tensor.dtype in _WHOLE)

    def _dtype(self, executed):
        outputs = () if not executed.operators else self._main.operators[executed.owner].outputs
        return self._main.tensors[outputs[0]].dtype if outputs else None


def _name(executed, facts, kernel):
    if facts is None:
        return kernel
    is_layer = executed.what in (assignment.COMPUTES, assignment.NO_KERNEL)
    return facts.name if is_layer else f"{facts.name} ({table.base(kernel)})"
