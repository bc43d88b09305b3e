"""The rows of a sweep, the CSV file that keeps them, and what they show of larger kernels and odd channel counts."""

import csv
import dataclasses
import io
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_nin import files
from keras_nin.errors import InputError
from keras_nin.formatting import escape_csv, format_count, format_csv
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits

SWEEP_LIMITS = (LimitItem("latency", Unit.TIME),)
_MAX_CSV_BYTES = 1 << 25
CHANNEL_STEP = 8  # channels that the runtime's kernels process at once, or a divisor of that


@dataclasses.dataclass(frozen=True, order=True)
class ConvLayer:
    """A convolution with padding "same" and stride 1 on a map of `size` x `size` x `cin`, with `cout` filters."""

    size: int
    cin: int
    cout: int
    kernel: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates at every position of the output; those on padding count too."""
        return self.size**2 * self.kernel**2 * self.cin * self.cout


@dataclasses.dataclass(frozen=True, order=True)
class SweepPoint:
    """A layer in one scheme on one number of threads."""

    layer: ConvLayer
    scheme: str
    threads: int

    def __str__(self) -> str:
        size, kernel = (f"{side}x{side}" for side in (self.layer.size, self.layer.kernel))
        channels = f"{self.layer.cin} to {self.layer.cout} channels"
        return f"{kernel} on {size}, {channels}, {self.scheme}, {format_count(self.threads, 'thread')}"


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """The measurement of a point: median of whole runs and its 95% interval, or an `error`.

    `kernel_us` is the typical time inside the kernels, None without a profiler, and `kernel_name` the longest of them;
    `load` is the load average when the group began; points of one `turn` were measured interleaved.
    """

    point: SweepPoint
    us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    kernel_us: float | None = None
    kernel_name: str | None = None
    runs: int = 0
    converged: bool = False
    load: float | None = None
    turn: int = 0
    error: str | None = None

    @property
    def gmacs_per_s(self) -> float | None:
        """10^9 MACs per second, inside the kernels where that is known, else of a whole run; None without times."""
        us = self.kernel_us or self.us
        return self.point.layer.macs / us / 1000 if us else None


_POINT_COLUMNS = ("size", "cin", "cout", "kernel", "scheme", "threads")
_VALUE_COLUMNS = tuple(field.name for field in dataclasses.fields(SweepRow) if field.name != "point")
_MACHINE_COLUMNS = ("cpu", "cores", "litert", "keras_nin")
CSV_COLUMNS = (*_POINT_COLUMNS, *_VALUE_COLUMNS, "macs", "gmacs_per_s", *_MACHINE_COLUMNS)


def _parse_count(text: str) -> int:
    if len(text) > 18:
        raise ValueError("a number of more digits")
    return int(text)


def _parse_time(text: str) -> float | None:
    if text and not math.isfinite(float(text)):
        raise ValueError("not a finite number")
    return float(text) if text else None


_PARSERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("runs", "turn"), _parse_count),
    "converged": {"True": True, "False": False}.__getitem__,
    **dict.fromkeys(("kernel_name", "error"), lambda text: text or None),
}


def identify_machine(host: Mapping[str, Any]) -> dict[str, str]:
    """Return the machine and versions of a measurement, by the columns of the CSV file."""
    import keras_nin

    return {name: escape_csv(str(host[name])) for name in _MACHINE_COLUMNS[:-1]} | {"keras_nin": keras_nin.__version__}


def format_sweep_csv(rows: Iterable[SweepRow], machine: Mapping[str, str]) -> str:
    """Return rows as CSV text, sorted by point."""
    lines = []
    for row in sorted(rows, key=lambda row: row.point):
        layer = row.point.layer
        values = dataclasses.asdict(layer) | {name: getattr(row, name) for name in _VALUE_COLUMNS}
        values |= {"scheme": row.point.scheme, "threads": row.point.threads, "macs": layer.macs}
        values |= {"gmacs_per_s": row.gmacs_per_s, **machine}
        lines.append([f"{value:.6g}" if isinstance(value, float) else value for value in map(values.get, CSV_COLUMNS)])
    return format_csv(CSV_COLUMNS, lines)


def read_sweep(path: pathlib.Path, machine: Mapping[str, str]) -> dict[SweepPoint, SweepRow]:
    """Return the rows of a CSV file by their points; an empty dictionary where there is no file."""
    if not path.exists():
        return {}
    try:
        text = files.read_bytes(path, _MAX_CSV_BYTES).decode(errors="replace")
        reader = csv.DictReader(io.StringIO(text))
        columns, records = reader.fieldnames or (), [(reader.line_num, record) for record in reader]
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is not the CSV file of a sweep: {error}", path=path) from None
    if tuple(columns) != CSV_COLUMNS:
        raise InputError(f"{str(path)!r} is not the CSV file of a sweep: it has other columns", path=path)
    rows = {}
    for line, record in records:
        row = _parse_row(path, line, record)
        other = {name: record[name] for name in _MACHINE_COLUMNS}
        if other != machine:
            machines = f"{', '.join(other.values())}; here: {', '.join(machine.values())}"
            what = f"{str(path)!r} has rows of another machine or other versions, which cannot be compared: {machines}"
            raise InputError(f"{what}. Use another `out`, or `force` to start over", argument="out", path=path)
        rows[row.point] = row
    return rows


def _parse_row(path: pathlib.Path, line: int, record: Mapping[str, str]) -> SweepRow:
    try:
        layer = ConvLayer(*(_parse_count(record[name]) for name in _POINT_COLUMNS[:4]))
        values = {name: _PARSERS.get(name, _parse_time)(record[name]) for name in _VALUE_COLUMNS}
        return SweepRow(SweepPoint(layer, record["scheme"], _parse_count(record["threads"])), **values)
    except (ValueError, TypeError, KeyError):
        what = f"line {line} of {str(path)!r} is a damaged row of a sweep"
        raise InputError(f"{what}. Fix or delete the row, or use `force` to start over", path=path) from None


@dataclasses.dataclass(frozen=True)
class KernelRatio:
    """A layer over the same with 1x1, measured in the same turn: MACs, `time` inside the kernels, whole runs."""

    point: SweepPoint
    macs: int
    time: float | None
    whole: float


@dataclasses.dataclass(frozen=True)
class AlignmentCost:
    """Time per channel of a layer over that of the one with `aligned` channels, the nearest multiple of 8."""

    point: SweepPoint
    axis: str
    channels: int
    aligned: int
    cost: float


def nearest_aligned(channels: int) -> int:
    """Return the multiple of `CHANNEL_STEP` nearest to a number of channels, the upper one of two."""
    return max(CHANNEL_STEP, (channels + CHANNEL_STEP // 2) // CHANNEL_STEP * CHANNEL_STEP)


def compute_kernel_ratios(rows: Mapping[SweepPoint, SweepRow]) -> list[KernelRatio]:
    """Return the `KernelRatio` of each row that has a 1x1 layer beside it, sorted."""
    return [
        KernelRatio(row.point, row.point.layer.kernel**2, kernel_ratio, ratio)
        for row, _, kernel_ratio, ratio in _row_pairs(rows, lambda layer: dataclasses.replace(layer, kernel=1))
    ]


def compute_alignment_costs(rows: Mapping[SweepPoint, SweepRow]) -> list[AlignmentCost]:
    """Return the `AlignmentCost` of each row that has an aligned layer beside it, sorted."""
    costs = []
    for axis in ("cin", "cout"):

        def align(layer: ConvLayer, axis: str = axis) -> ConvLayer:
            return dataclasses.replace(layer, **{axis: nearest_aligned(getattr(layer, axis))})

        for row, base, kernel_ratio, ratio in _row_pairs(rows, align):
            channels, aligned = getattr(row.point.layer, axis), getattr(base.point.layer, axis)
            cost = (kernel_ratio or ratio) / (channels / aligned)
            costs.append(AlignmentCost(row.point, axis, channels, aligned, cost))
    return costs


def _row_pairs(
    rows: Mapping[SweepPoint, SweepRow], base_of: Callable[[ConvLayer], ConvLayer]
) -> Iterator[tuple[SweepRow, SweepRow, float | None, float]]:
    """Yield (row, base row, ratio of kernel times, ratio of whole runs) of rows of one turn; `base_of` maps layers."""
    for point in sorted(rows):
        base_point = dataclasses.replace(point, layer=base_of(point.layer))
        row, base = rows[point], rows.get(base_point)
        if base_point != point and base and row.us and base.us and row.turn == base.turn:
            kernel_ratio = row.kernel_us / base.kernel_us if row.kernel_us and base.kernel_us else None
            yield row, base, kernel_ratio, row.us / base.us


def format_findings(rows: Mapping[SweepPoint, SweepRow]) -> Iterator[str]:
    """Yield what the rows show as lines of text, each with its number of layers and its range."""
    ratios = compute_kernel_ratios(rows)
    for what, name in (("inside the kernels", "time"), ("of a whole run", "whole")):
        pairs = (((*_series(ratio.point), ratio.macs), getattr(ratio, name)) for ratio in ratios)
        for (*series, macs), median, spread in _summarize(pairs, ".1f"):
            yield f"{_format_series(*series)} vs 1x1: {macs} times the MACs, {median} times the time {what} {spread}"
    costs = (
        ((*_series(cost.point), cost.axis, cost.channels - cost.aligned), cost.cost - 1)
        for cost in compute_alignment_costs(rows)
    )
    for (*series, axis, offset), median, spread in _summarize(costs, "+.0%"):
        channels = format_count(abs(offset), "input channel" if axis == "cin" else "output channel")
        which = f"{channels} {'more' if offset > 0 else 'fewer'} than a multiple of {CHANNEL_STEP}"
        yield f"{_format_series(*series)}: {which}: {median} time per channel {spread}"


def _series(point: SweepPoint) -> tuple[str, int, int]:
    return point.scheme, point.threads, point.layer.kernel


def _format_series(scheme: str, threads: int, kernel: int) -> str:
    return f"{scheme}, {format_count(threads, 'thread')}, {kernel}x{kernel}"


def _summarize(pairs: Iterable[tuple[Any, float | None]], form: str) -> Iterator[tuple[Any, str, str]]:
    """Yield each key among (key, value) pairs, sorted, the median of its values, and their number and range."""
    groups: dict[Any, list[float]] = {}
    for key, value in pairs:
        if value is not None:
            groups.setdefault(key, []).append(value)
    for key, values in sorted(groups.items()):
        median, low, high = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
        yield key, median, f"(median of {format_count(len(values), 'pair')}, {low} to {high})"


def parse_sweep_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits on the latency of the slowest point: ``"latency=500us"``; see `keras_nin.limits`."""
    return parse_limits(text, SWEEP_LIMITS, argument=argument)


def check_sweep_limits(rows: Iterable[SweepRow], limits: Sequence[Limit]) -> tuple[LimitCheck, ...]:
    """Compare the slowest row with limits; a row without a time does not pass."""
    slowest = max(rows, key=lambda row: math.inf if row.us is None else row.us)
    return tuple(check_limit(limit, slowest.us, reason=slowest.error, subject=str(slowest.point)) for limit in limits)
