"""The rows of a sweep, and the CSV file that keeps them."""

import csv
import dataclasses
import io
import statistics

from keras_nin import files
from keras_nin.benchmark.sweep import CHANNEL_STEP, ConvLayer, SweepPoint, nearest_aligned
from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """What measuring a `Point` gave.

    Attributes:
        point: where in the grid.
        us, low_us, high_us: median of a whole run, and its 95 % confidence interval where known.
        kernel_us: typical time inside the runtime's kernels; None where it has no profiler.
        kernel_name: of the longest of these kernels.
        runs: how many runs the median is over.
        converged: whether the interval is within 1 %.
        load: the machine's load average when the group began.
        turn: which group of the sweep it was in, counted from 0; points of one turn were measured interleaved.
        error: why there are no times; None where there are.
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
    def gmacs_per_s(self):
        """10^9 MACs a second, inside the kernels where that is known, else of a whole run; None without times."""
        us = self.kernel_us or self.us
        return self.point.layer.macs / us / 1000 if us else None


_POINT_COLUMNS = ("size", "cin", "cout", "kernel", "scheme", "threads")
_VALUE_COLUMNS = tuple(field.name for field in dataclasses.fields(SweepRow) if field.name != "point")
_COMPUTED_COLUMNS = ("macs", "gmacs_per_s")
_MACHINE_COLUMNS = ("cpu", "cores", "litert", "keras_nin")
CSV_COLUMNS = (*_POINT_COLUMNS, *_VALUE_COLUMNS, *_COMPUTED_COLUMNS, *_MACHINE_COLUMNS)
_INTEGERS, _TEXTS = ("runs", "turn"), ("kernel_name", "error")


def identify_machine(host):
    """Return who measured, by the CSV's columns: a host as `keras_nin.tflite.host.describe_host` gives it, and our version."""
    import keras_nin

    return {name: str(host[name]) for name in _MACHINE_COLUMNS[:-1]} | {"keras_nin": keras_nin.__version__}


def format_sweep_csv(rows, who):
    """Return `Row`s as CSV text, sorted by point.

    Args:
        rows: of one machine.
        who: what `identity` returned.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: row.point):
        layer, rate = row.point.layer, row.gmacs_per_s
        values = dataclasses.asdict(layer) | {"scheme": row.point.scheme, "threads": row.point.threads}
        values |= {name: _format_cell(getattr(row, name)) for name in _VALUE_COLUMNS}
        writer.writerow(values | {"macs": layer.macs, "gmacs_per_s": _format_cell(rate)} | who)
    return out.getvalue()


def _format_cell(value):
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def read_sweep(path, who):
    """Return the `Row`s of a CSV file by their points; an empty dictionary where there is no file.

    Raises:
        InputError: the file is no such CSV, is damaged, or has rows of another machine or another version.
    """
    if not path.exists():
        return {}
    text = files.read_bytes(path).decode(errors="replace")
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != CSV_COLUMNS:
        raise InputError(f"Expected {str(path)!r} to be the CSV of a sweep. Received: other columns. Use another --out")
    rows = {}
    for record in reader:
        row = _parse_row(path, reader.line_num, record)
        theirs = {name: record[name] for name in _MACHINE_COLUMNS}
        if theirs != who:
            raise InputError(
                f"Expected rows of this machine and these versions in {str(path)!r}, since times of others do not "
                f"compare. Received: {', '.join(theirs.values())}; here: {', '.join(who.values())}. Use another --out, "
                "or --force to begin anew"
            )
        rows[row.point] = row
    return rows


def _parse_row(path, line, record):
    try:
        layer = ConvLayer(*(int(record[name]) for name in _POINT_COLUMNS[:4]))
        values = {name: _parse_cell(name, record[name]) for name in _VALUE_COLUMNS}
        return SweepRow(SweepPoint(layer, record["scheme"], int(record["threads"])), **values)
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"Expected the row of a sweep in line {line} of {str(path)!r}. Received: a damaged one. Mend or remove it, "
            "or use --force to begin anew"
        ) from None


def _parse_cell(name, text):
    if name == "converged":
        return {"True": True, "False": False}[text]
    if name in _INTEGERS:
        return int(text)
    if text == "":
        return None
    return text if name in _TEXTS else float(text)


# MERGED What a sweep shows: how time follows the MACs of a kernel, and what channel counts beside a multiple of 8 cost.


@dataclasses.dataclass(frozen=True)
class KernelRatio:
    """A layer with a larger kernel against the same layer with 1x1, measured in the same turn.

    `time` is the ratio of the kernels' times, `whole` that of whole runs; `macs` that of the MACs, the kernel squared.
    """

    point: SweepPoint
    macs: int
    time: float | None
    whole: float


@dataclasses.dataclass(frozen=True)
class AlignmentCost:
    """A layer whose number of channels is no multiple of 8 against the one with the multiple beside it.

    `axis` is "cin" or "cout"; `cost` the time for each channel over that of the aligned layer, 1 where none is lost.
    """

    point: SweepPoint
    axis: str
    channels: int
    aligned: int
    cost: float


@dataclasses.dataclass(frozen=True)
class RatioSummary:
    """Median, least and largest of `count` values of points that share `key`."""

    key: tuple
    count: int
    median: float
    least: float
    largest: float


def compute_kernel_ratios(rows):
    """Return the `KernelRatio` of each of the `Row`s (by point) that has a 1x1 layer beside it, sorted."""
    return [
        KernelRatio(point, point.layer.kernel**2, _divide(row.kernel_us, base.kernel_us), row.us / base.us)
        for point, row, base in _row_pairs(rows, lambda layer: dataclasses.replace(layer, kernel=1))
    ]


def compute_alignment_costs(rows):
    """Return the `Unaligned` of each of the `Row`s (by point) that has an aligned layer beside it, sorted."""
    found = []
    for axis in ("cin", "cout"):
        for point, row, base in _row_pairs(rows, lambda layer, axis=axis: _aligned_layer(layer, axis)):
            channels, whole = getattr(point.layer, axis), getattr(base.point.layer, axis)
            time = _divide(row.kernel_us, base.kernel_us) or row.us / base.us
            found.append(AlignmentCost(point, axis, channels, whole, time / (channels / whole)))
    return found


def _row_pairs(rows, partner):
    """Yield (point, row, row of its partner) where both have times of the same turn; `partner` maps layers."""
    for point in sorted(rows):
        other = dataclasses.replace(point, layer=partner(point.layer))
        row, base = rows[point], rows.get(other)
        if other != point and base and row.us and base.us and row.turn == base.turn:
            yield point, row, base


def _aligned_layer(layer: ConvLayer, axis):
    return dataclasses.replace(layer, **{axis: nearest_aligned(getattr(layer, axis))})


def _divide(value, base):
    return value / base if value and base else None


def summarize_ratios(found, key, value):
    """Return the `Summary` of each key among `found`, sorted by key; values that are None are left out.

    Args:
        found: records.
        key, value: functions of a record.
    """
    groups = {}
    for each in found:
        if value(each) is not None:
            groups.setdefault(key(each), []).append(value(each))
    return [
        RatioSummary(each, len(values), statistics.median(values), min(values), max(values))
        for each, values in sorted(groups.items())
    ]


def format_findings(rows):
    """Return the findings of `Row`s (by point) as lines of text, each with its number of layers and its range."""
    ratios, costs = compute_kernel_ratios(rows), compute_alignment_costs(rows)
    for what, value in (
        ("inside the kernels", lambda each: each.time),
        ("of a whole run", lambda each: each.whole),
    ):
        for one in summarize_ratios(ratios, lambda each: (each.point.scheme, each.point.threads, each.macs), value):
            scheme, threads, macs = one.key
            yield (
                f"{scheme}, {_format_threads(threads)}, {_format_kernel(macs)} against 1x1: {macs} times the MACs, {one.median:.1f} "
                f"times the time {what} (median of {_format_pairs(one.count)}, {one.least:.1f} to {one.largest:.1f})"
            )
    for one in summarize_ratios(costs, _cost_key, lambda each: each.cost):
        scheme, threads, kernel, axis, offset = one.key
        yield (
            f"{scheme}, {_format_threads(threads)}, {kernel}x{kernel}: {_format_offset(offset)} channels "
            f"{'in' if axis == 'cin' else 'out'} than a multiple of {CHANNEL_STEP}: {one.median - 1:+.0%} time for each "
            f"(median of {_format_pairs(one.count)}, {one.least - 1:+.0%} to {one.largest - 1:+.0%})"
        )


def _cost_key(each):
    return (
        each.point.scheme, each.point.threads, each.point.layer.kernel, each.axis, each.channels - each.aligned
    )  # fmt: skip


def _format_threads(count):
    return f"{count} thread{'s' if count > 1 else ''}"


def _format_pairs(count):
    return f"{count} pair{'s' if count > 1 else ''}"


def _format_kernel(macs):
    side = round(macs**0.5)
    return f"{side}x{side}"


def _format_offset(offset):
    return f"{abs(offset)} {'more' if offset > 0 else 'fewer'}"
