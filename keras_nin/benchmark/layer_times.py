"""The time of each layer: executed kernels joined to the operators of the file and their layers, and sums over them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from keras_nin.benchmark import kernel_assignment
from keras_nin.benchmark.kernel_assignment import KernelAssignment, Role, kernel_base_name
from keras_nin.benchmark.records import InnerKernel, KernelTime, LayerTime, Profile
from keras_nin.errors import InputError
from keras_nin.formatting import format_count
from keras_nin.tflite.layer_names import operator_paths
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteSubgraph

# The delegate's clock rounds down to whole microseconds: it loses half of one on average, for what takes longer.
_CLOCK_LOSS_US = 0.5
_MAX_NAMED_KERNELS = 3
_RESOLVED_US = 5  # shorter kernels take longer with the profiler than without
_FREE_KERNELS = frozenset({"Static Reshape", "Static Expand Dims", "Split Dims", "Fuse Dims"})
# Kinds whose integers (biases) are weights; elsewhere integers are shapes, axes and paddings.
_KINDS_WITH_BIAS = frozenset({"pointwise", "spatial", "depthwise", "dense"})
_INTEGER_DTYPES = frozenset({"int32", "int64"})


@dataclass(frozen=True)
class _LayerFacts:
    name: str
    kind: str = "other"
    role: str | None = None
    block: str | None = None
    macs: int | None = None


def join_layers(
    model: TFLiteModel,
    kernels: Sequence[dict[str, Any]],
    median_us: float,
    loops: Mapping[int, KernelTime] | None = None,
) -> tuple[tuple[LayerTime, ...], float]:
    """Return the `LayerTime` of each kernel and operator of a profiled file in order, and the runtime's overhead in us.

    That is the median of runs without the profiler less the typical times (see `correct_kernel_times`): dispatch,
    copies of inputs and outputs, and, below zero, noise between the runs with and without the profiler. `loops` are
    the times of operators that run other subgraphs, measured alone, by their indexes.
    """
    kernels = [_with_call_time(model, kernel, loops or {}) if kernel.get("inner") else kernel for kernel in kernels]
    times = correct_kernel_times(kernels, median_us)
    rows = [
        (assignment, None, None)
        if assignment.kernel is None
        else (assignment, kernels[assignment.kernel], times[assignment.kernel])
        for assignment in kernel_assignment.assign_kernels(model.main, kernels)
    ]
    return build_layer_times(model, rows, median_us), median_us - sum(us.typical for us in times)


def correct_kernel_times(kernels: Sequence[dict[str, Any]], median_us: float) -> list[KernelTime]:
    """Return the `KernelTime` of each kernel, with what the delegate's clock rounded off added to `typical`.

    Each kernel gets the same part of what the sum lacks to the median of a whole run, at most half a microsecond; not
    TensorFlow Lite's own operators, timed by differences of a clock, which lose nothing on average, and no reshapes.
    """
    times = [KernelTime(**kernel["us"]) for kernel in kernels]
    is_rounded = [
        kernel["kind"] == "delegate" and kernel_base_name(kernel["name"]) not in _FREE_KERNELS for kernel in kernels
    ]
    missing_us = median_us - sum(us.typical for us in times)
    loss_us = min(max(missing_us / max(sum(is_rounded), 1), 0), _CLOCK_LOSS_US)
    return [replace(us, typical=us.typical + loss_us * rounded) for us, rounded in zip(times, is_rounded, strict=True)]


def _with_call_time(model: TFLiteModel, kernel: dict[str, Any], loops: Mapping[int, KernelTime]) -> dict[str, Any]:
    """Return an operator that runs other subgraphs with its time measured alone, or else the sum of its kernels.

    What the profiler recorded of it is too long: it adds about 20 us to each call of a subgraph.
    """
    us = sum(inner.us for inner in _inner_kernels(model, kernel))
    return kernel | {"us": asdict(loops.get(kernel["index"]) or KernelTime(None, us, None, us))}


def _inner_kernels(model: TFLiteModel, kernel: dict[str, Any]) -> tuple[InnerKernel, ...]:
    """Return the kernels that an operator ran in other subgraphs, without those that stand for further subgraphs."""
    return tuple(
        InnerKernel(inner["subgraph"], inner["name"], inner["executions"], inner["us"])
        for inner in kernel.get("inner", ())
        if inner["kind"] == "delegate"
        or (inner["kind"] == "operator" and not _operator_of(model, inner).called_subgraphs)
    )


def _operator_of(model: TFLiteModel, inner: dict[str, Any]) -> TFLiteOperator:
    return model.subgraphs[inner["subgraph"]].operators[inner["index"]]


def _count_iterations(operator: TFLiteOperator, kernel: dict[str, Any]) -> int | None:
    """Return how often the body of a loop ran; None for another operator."""
    body = operator.options.get("body_subgraph_index")
    calls = (inner for inner in kernel["inner"] if inner["kind"] == "invoke" and inner["subgraph"] == body)
    return None if body is None else sum(inner["executions"] for inner in calls)


def _describe_call(iterations: int | None, inner: Sequence[InnerKernel], is_timed: bool) -> str:
    """Return what an operator ran in other subgraphs: how often, and the kernels that the profiler's clock resolves."""
    times: Counter[str] = Counter()
    for kernel in inner:
        if kernel.us >= _RESOLVED_US * kernel.executions:
            times[kernel_base_name(kernel.kernel)] += kernel.us  # type: ignore[assignment]
    text = format_count(len(inner), "kernel")
    text = f"runs {text}" if iterations is None else f"{format_count(iterations, 'iteration')} of {text}"
    slow = ", ".join(f"{name} {us:,.1f} us" for name, us in times.most_common(_MAX_NAMED_KERNELS))
    how = "timed alone" if is_timed else "the time of the kernels; what lies between them is runtime overhead"
    return f"{text}{f', such as {slow}' if slow else ''}; {how}"


def _read_layer_facts(model: TFLiteModel) -> list[_LayerFacts]:
    """Return what the audit knows of each operator of a file; the name alone where the audit refuses the file."""
    from keras_nin.audit import api, tflite_reader

    try:
        rows = api.audit_graph(tflite_reader.read_tflite_graph(model)).rows
    except InputError:  # such as an input without a fixed size, which the runtime runs at size 1
        return [_LayerFacts(path) for path in operator_paths(model)]
    return [_LayerFacts(row.name, row.kind, row.role, row.block, row.macs) for row in rows]


def build_layer_times(
    model: TFLiteModel,
    rows: Iterable[tuple[KernelAssignment, dict[str, Any] | None, KernelTime | None]],
    median_us: float | None,
) -> tuple[LayerTime, ...]:
    """Return the `LayerTime` of each assignment with its kernel and time; names are made distinct."""
    facts, main = _read_layer_facts(model), model.main
    name_counts: Counter[str] = Counter()
    layers = []
    for assignment, executed, us in rows:
        kernel: str | None = executed["name"] if executed else None
        own = None if assignment.owner is None else facts[assignment.owner]
        operators = [main.operators[index] for index in assignment.operators]
        owner = main.operators[assignment.owner] if operators and assignment.owner is not None else None
        if own is None:
            name = kernel or "unknown"
        elif kernel is None or assignment.role is Role.COMPUTES:
            name = own.name
        else:
            name = f"{own.name} ({kernel_base_name(kernel)})"
        name_counts[name] += 1
        # MACs and bytes of an operator with several kernels count for the first.
        macs, size = None, 0
        if assignment.role is not Role.PART:
            counts = [facts[operator.index].macs for operator in operators]
            macs = None if None in counts or not counts else sum(count or 0 for count in counts)
            outputs = {tensor for operator in operators for tensor in operator.outputs}
            inputs = {
                tensor for index in assignment.operators for tensor in _data_inputs(main, index, facts[index].kind)
            }
            # What passes between the operators of a kernel is neither read nor written.
            size = sum(main.tensors[index].nbytes or 0 for index in inputs ^ outputs)
        inner, iterations, note = (), None, assignment.note
        if executed and owner and executed.get("inner"):
            inner, iterations = _inner_kernels(model, executed), _count_iterations(owner, executed)
            note = _describe_call(iterations, inner, executed["us"]["median"] is not None)
        layers.append(
            LayerTime(
                name=name if name_counts[name] == 1 else f"{name} ({name_counts[name]})",
                op=owner and owner.op,
                operators=assignment.operators,
                kernel=kernel,
                kind=own.kind if own and owner else "other",
                role=own.role if own and owner else None,
                block=own and own.block,
                us=us,
                share=us.typical / median_us if us and median_us else None,
                macs=macs,
                gmacs_per_s=model.batch * macs / us.typical / 1000 if macs and us and us.typical else None,
                bytes=size,
                dtype=main.tensors[owner.outputs[0]].dtype if owner and owner.outputs else None,
                joined=assignment.is_joined,
                note=note,
                iterations=iterations,
                inner=inner,
            )
        )
    return tuple(layers)


def _data_inputs(main: TFLiteSubgraph, operator: int, kind: str) -> list[int]:
    """Return the tensors that an operator reads, without shapes, axes and paddings."""
    tensors = (main.tensors[index] for index in main.operators[operator].inputs if index >= 0)
    excluded = frozenset() if kind in _KINDS_WITH_BIAS else _INTEGER_DTYPES
    return [tensor.index for tensor in tensors if not (tensor.is_constant and tensor.dtype in excluded)]


# Sums over the layers of a profile.

POINTWISE = "pointwise"
ROLES = ("reduce", "expand", "mix", "projection", "head")
OTHER, OVERHEAD, NO_BLOCK = "other", "runtime overhead", "(no block)"
_CONVOLUTION_KINDS = ("spatial", "depthwise", "dense")


@dataclass(frozen=True)
class LatencySubtotal:
    """Sums over `rows` rows of a profile, such as "1x1 reduce", "spatial" or a block; `OVERHEAD` has none."""

    name: str
    rows: int
    us: float
    share: float
    macs: int
    gmacs_per_s: float | None


def sum_by_role(profile: Profile) -> tuple[LatencySubtotal, ...]:
    """Return the subtotals of a profile by kind of layer, 1x1 layers by role, and last the overhead."""

    def role_or_kind(layer: LayerTime) -> str:
        if layer.kind == POINTWISE:
            return f"1x1 {layer.role}"
        return layer.kind if layer.kind in _CONVOLUTION_KINDS else OTHER

    return _sum_groups(profile, role_or_kind, (*(f"1x1 {role}" for role in ROLES), *_CONVOLUTION_KINDS, OTHER))


def sum_by_block(profile: Profile) -> tuple[LatencySubtotal, ...]:
    """Return a subtotal for each block of a profile in order of execution, and last the overhead."""
    return _sum_groups(profile, lambda layer: layer.block or NO_BLOCK, ())


def sum_pointwise(profile: Profile) -> LatencySubtotal:
    """Return the subtotal of all 1x1 layers of a profile, named "1x1"."""
    return _sum_layers(profile, "1x1", [layer for layer in profile.layers if layer.kind == POINTWISE])


def _sum_groups(profile: Profile, key: Callable[[LayerTime], str], order: Iterable[str]) -> tuple[LatencySubtotal, ...]:
    groups: dict[str, list[LayerTime]] = {name: [] for name in order}
    for layer in profile.layers:
        groups.setdefault(key(layer), []).append(layer)
    subtotals = [_sum_layers(profile, name, layers) for name, layers in groups.items() if layers]
    if profile.overhead_us is not None:
        share = profile.overhead_us / profile.total.median
        subtotals.append(LatencySubtotal(OVERHEAD, 0, profile.overhead_us, share, 0, None))
    return tuple(subtotals)


def _sum_layers(profile: Profile, name: str, layers: Sequence[LayerTime]) -> LatencySubtotal:
    us = sum(layer.us.typical for layer in layers if layer.us)
    macs = sum(layer.macs or 0 for layer in layers)
    rate = profile.batch * macs / us / 1000 if macs and us else None
    return LatencySubtotal(name, len(layers), us, us / profile.total.median, macs, rate)


def total_kernel_us(profile: Profile) -> float | None:
    """Return the sum of the typical times of all kernels of a profile in us; None without a profiler."""
    return sum(layer.us.typical for layer in profile.layers if layer.us and layer.kernel is not None) or None
