"""What a sweep shows: how time follows the MACs of a kernel, and what channel counts beside a multiple of 8 cost."""

import dataclasses
import statistics

from keras_nin.benchmark.grid import STEP, Layer, Point, aligned


@dataclasses.dataclass(frozen=True)
class KernelRatio:
    """A layer with a larger kernel against the same layer with 1x1, measured in the same turn.

    `time` is the ratio of the kernels' times, `whole` that of whole runs; `macs` that of the MACs, the kernel squared.
    """

    point: Point
    macs: int
    time: float | None
    whole: float


@dataclasses.dataclass(frozen=True)
class Unaligned:
    """A layer whose number of channels is no multiple of 8 against the one with the multiple beside it.

    `axis` is "cin" or "cout"; `cost` the time for each channel over that of the aligned layer, 1 where none is lost.
    """

    point: Point
    axis: str
    channels: int
    aligned: int
    cost: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Median, least and largest of `count` values of points that share `key`."""

    key: tuple
    count: int
    median: float
    least: float
    largest: float


def kernel_ratios(rows):
    """Return the `KernelRatio` of each of the `Row`s (by point) that has a 1x1 layer beside it, sorted."""
    return [
        KernelRatio(point, point.layer.kernel**2, _over(row.kernel_us, base.kernel_us), row.us / base.us)
        for point, row, base in _pairs(rows, lambda layer: dataclasses.replace(layer, kernel=1))
    ]


def unaligned(rows):
    """Return the `Unaligned` of each of the `Row`s (by point) that has an aligned layer beside it, sorted."""
    found = []
    for axis in ("cin", "cout"):
        for point, row, base in _pairs(rows, lambda layer, axis=axis: _aligned(layer, axis)):
            channels, whole = getattr(point.layer, axis), getattr(base.point.layer, axis)
            time = _over(row.kernel_us, base.kernel_us) or row.us / base.us
            found.append(Unaligned(point, axis, channels, whole, time / (channels / whole)))
    return found


def _pairs(rows, partner):
    """Yield (point, row, row of its partner) where both have times of the same turn; `partner` maps layers."""
    for point in sorted(rows):
        other = dataclasses.replace(point, layer=partner(point.layer))
        row, base = rows[point], rows.get(other)
        if other != point and base and row.us and base.us and row.turn == base.turn:
            yield point, row, base


def _aligned(layer: Layer, axis):
    return dataclasses.replace(layer, **{axis: aligned(getattr(layer, axis))})


def _over(value, base):
    return value / base if value and base else None


def summaries(found, key, value):
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
        Summary(each, len(values), statistics.median(values), min(values), max(values))
        for each, values in sorted(groups.items())
    ]


def sentences(rows):
    """Return the findings of `Row`s (by point) as lines of text, each with its number of layers and its range."""
    ratios, costs = kernel_ratios(rows), unaligned(rows)
    for what, value in (
        ("inside the kernels", lambda each: each.time),
        ("of a whole run", lambda each: each.whole),
    ):
        for one in summaries(ratios, lambda each: (each.point.scheme, each.point.threads, each.macs), value):
            scheme, threads, macs = one.key
            yield (
                f"{scheme}, {_threads(threads)}, {_kernel(macs)} against 1x1: {macs} times the MACs, {one.median:.1f} "
                f"times the time {what} (median of {_pairs_of(one.count)}, {one.least:.1f} to {one.largest:.1f})"
            )
    for one in summaries(costs, _cost_key, lambda each: each.cost):
        scheme, threads, kernel, axis, offset = one.key
        yield (
            f"{scheme}, {_threads(threads)}, {kernel}x{kernel}: {_offset(offset)} channels "
            f"{'in' if axis == 'cin' else 'out'} than a multiple of {STEP}: {one.median - 1:+.0%} time for each "
            f"(median of {_pairs_of(one.count)}, {one.least - 1:+.0%} to {one.largest - 1:+.0%})"
        )


def _cost_key(each):
    return (
        each.point.scheme, each.point.threads, each.point.layer.kernel, each.axis, each.channels - each.aligned
    )  # fmt: skip


def _threads(count):
    return f"{count} thread{'s' if count > 1 else ''}"


def _pairs_of(count):
    return f"{count} pair{'s' if count > 1 else ''}"


def _kernel(macs):
    side = round(macs**0.5)
    return f"{side}x{side}"


def _offset(offset):
    return f"{abs(offset)} {'more' if offset > 0 else 'fewer'}"
