"""How much slower or faster: files measured beside one another, and the same files measured at two times."""

import collections
import dataclasses
import math
from dataclasses import dataclass

from keras_nin import files
from keras_nin.benchmark.records import SCHEMA, BenchmarkResult
from keras_nin.errors import InputError

COMPARISON_SCHEMA = "keras_nin.compare_runs/1"
SLOWER, FASTER, UNCHANGED, UNKNOWN = "slower", "faster", "alike", "unknown"
_HOST_FIELDS = ("cpu", "cores", "system", "python", "litert")
# A layer that changed by less is not told from the profiler's resolution of 1 us and the clock's moods.
_LAYER_RATIO, _LAYER_US = 1.05, 1.0


@dataclass(frozen=True)
class LatencyRatio:
    """Time of `file` over that of `base`, measured in turns; `low` to `high` is its 95 % interval, None if unknown."""

    file: str
    base: str
    threads: int
    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LayerChange:
    """A layer that became slower or faster, or that another kernel computes; us are `KernelTime.typical`.

    What is on one side alone has None on the other.
    """

    name: str
    before_us: float | None
    after_us: float | None
    before_kernel: str | None
    after_kernel: str | None

    @property
    def added_us(self):
        """By how much the layer adds to a run."""
        return (self.after_us or 0.0) - (self.before_us or 0.0)


@dataclass(frozen=True)
class FileChange:
    """One file on so many threads, before and after; `low` to `high` is the 95 % interval of the ratio, if known.

    `verdict` is slower or faster where the interval leaves out 1, alike where it does not, unknown without one. The
    medians are over so many runs; None in documents of before they were recorded.
    """

    file: str
    threads: int
    same_content: bool
    before_us: float
    after_us: float
    ratio: float
    low: float | None
    high: float | None
    verdict: str
    layers: tuple[LayerChange, ...]
    before_runs: int | None = None
    after_runs: int | None = None

    def exceeds(self, limit):
        """Return whether it is slower by more than `limit` (0.05 is 5 %), its whole interval above that.

        A smaller difference than the interval fails no build. Without an interval the medians decide.
        """
        return (self.ratio if self.low is None else self.low) > 1 + limit


@dataclass(frozen=True)
class RunComparison:
    """Two benchmarks side by side.

    Attributes:
        changes: `Change` of every result in both, in the order of the second.
        only_before, only_after: (file, threads) of what is in one alone.
        hosts: what differs between the machines, a line each.
        warnings: of both benchmarks, a line each.
        before_host, after_host: the machines; None in documents of before they were recorded.
    """

    changes: tuple[FileChange, ...]
    only_before: tuple[tuple[str, int], ...]
    only_after: tuple[tuple[str, int], ...]
    hosts: tuple[str, ...]
    warnings: tuple[str, ...]
    before_host: dict | None = None
    after_host: dict | None = None

    def regressions(self, limit):
        """Return the changes that `Change.exceeds` the limit."""
        return tuple(change for change in self.changes if change.exceeds(limit))

    def to_json(self):
        """Return the comparison as a JSON-ready dictionary (schema ``keras_nin.compare_runs/1``)."""
        return {"schema": COMPARISON_SCHEMA, **dataclasses.asdict(self)}


def compute_ratios(profiles):
    """Return the `Ratio` of each profile to the first with as many threads; of files measured with `interleave`.

    Rounds of two files that were measured in one turn are a pair. The ratio is the median over the pairs' ratios: what
    slows the machine meets both of a pair alike and falls out. The interval is that of `runner.timing.interval`:
    between two of the sorted ratios, whatever their distribution is, wider where those of neighbouring turns are alike.

    Args:
        profiles: `Profile` records of one benchmark.

    Raises:
        InputError: a profile has no rounds.
    """
    for profile in profiles:
        if not profile.rounds_us:
            raise InputError(f"Expected files measured in rounds. Received: {profile.file!r} without rounds")
    bases = {}
    for profile in profiles:
        bases.setdefault(profile.threads, profile)
    return tuple(
        _paired_ratio(profile, bases[profile.threads]) for profile in profiles if profile is not bases[profile.threads]
    )


def _paired_ratio(profile, base):
    import statistics

    from keras_nin.benchmark.runner.timing import median_interval

    pairs = [ours / theirs for ours, theirs in zip(profile.rounds_us, base.rounds_us, strict=False)]
    low, high = median_interval(pairs)
    known = math.isfinite(low)
    return LatencyRatio(
        profile.file,
        base.file,
        profile.threads,
        statistics.median(pairs),
        low if known else None,
        high if known else None,
    )


def read_benchmark(path):
    """Return the `Benchmark` in a JSON file; `InputError` where it is none."""
    document = files.read_json(path)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        found = f"schema {schema!r}" if schema else "none"
        raise InputError(f"Expected a JSON file of `keras-nin benchmark` ({SCHEMA}). Received: {str(path)!r}: {found}")
    try:
        benchmark = BenchmarkResult.from_json(document)
        _check_numbers(benchmark)
        return benchmark
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise InputError(
            f"Expected a whole JSON file of `keras-nin benchmark`. Received: {str(path)!r} ({problem})"
        ) from error


def _check_numbers(benchmark):
    """Raise `ValueError` or `TypeError` where what is compared is not made of positive numbers."""
    for profile in benchmark.profiles:
        total = profile.total
        values = [total.median, *(each for each in (total.low, total.high) if each is not None)]
        values += [1 + layer.us.typical for layer in profile.layers if layer.us]
        if not all(math.isfinite(value) and value > 0 for value in values):
            raise ValueError(f"a time of {profile.file!r} is no positive number")
    benchmark.host.get("cpu")


def compare_runs(before, after):
    """Return the `RunComparison` of two `Benchmark` records, matched by file and threads.

    The runs are independent: the interval of the ratio combines those of the two medians, on a logarithmic scale, by
    the square root of the sum of squares of their reaches (MOVER: Zou and Donner, Statistics in Medicine 27, 2008).

    Raises:
        InputError: they have no result in common.
    """
    ours, theirs = _profiles_by_key(after), _profiles_by_key(before)
    common = [key for key in ours if key in theirs]
    if not common:
        names = [", ".join(dict.fromkeys(file for file, *_ in found)) or "none" for found in (theirs, ours)]
        raise InputError(f"Expected results of the same files on as many threads. Received: {names[0]} and {names[1]}")
    return RunComparison(
        tuple(_file_change(theirs[key], ours[key]) for key in common),
        tuple(key[:2] for key in theirs if key not in ours),
        tuple(key[:2] for key in ours if key not in theirs),
        tuple(_host_differences(before.host, after.host)),
        tuple(f"{name}: {line}" for name, each in (("before", before), ("after", after)) for line in each.warnings),
        before.host,
        after.host,
    )


def _profiles_by_key(benchmark):
    """Return the profiles by (file, threads, how many with these came before)."""
    seen, found = collections.Counter(), {}
    for profile in benchmark.profiles:
        key = profile.file, profile.threads
        found[*key, seen[key]] = profile
        seen[key] += 1
    return found


def _host_differences(before, after):
    for name in _HOST_FIELDS:
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name)} before, {after.get(name)} after"


def _file_change(before, after):
    ratio = after.total.median / before.total.median
    low, high = _independent_interval(before.total, after.total)
    same = before.sha256 == after.sha256
    return FileChange(
        after.file, after.threads, same, before.total.median, after.total.median, ratio, low, high, _verdict(low, high),
        tuple(_layer_changes(before.layers, after.layers)), before.runs, after.runs,
    )  # fmt: skip


def _verdict(low, high):
    if low is None:
        return UNKNOWN
    return SLOWER if low > 1 else FASTER if high < 1 else UNCHANGED


def _independent_interval(before, after):
    """Return the 95 % interval of the ratio of two independent medians; (None, None) where one has none."""
    if None in (before.low, before.high, after.low, after.high):
        return None, None

    def reach(one, other):
        return max(0.0, math.log(one / other))

    ratio = after.median / before.median
    down = math.hypot(reach(after.median, after.low), reach(before.high, before.median))
    up = math.hypot(reach(after.high, after.median), reach(before.median, before.low))
    return ratio * math.exp(-down), ratio * math.exp(up)


def _layer_changes(before, after):
    """Yield the `LayerChange` records of layers by name, those that changed most first."""
    sides = [_layers_by_key(layers) for layers in (before, after)]
    changes = []
    for key in dict.fromkeys((*sides[1], *sides[0])) if before and after else ():
        old, new = (side.get(key) for side in sides)
        changes.append(
            LayerChange(
                key[0],
                *(layer.us.typical if layer and layer.us else None for layer in (old, new)),
                *(layer.kernel if layer else None for layer in (old, new)),
            )
        )
    yield from sorted(filter(_is_significant, changes), key=lambda change: -abs(change.added_us))


def _layers_by_key(layers):
    seen, found = collections.Counter(), {}
    for layer in layers:
        found[layer.name, seen[layer.name]] = layer
        seen[layer.name] += 1
    return found


def _is_significant(change):
    if change.before_kernel != change.after_kernel:
        return True
    if change.before_us is None or change.after_us is None:
        return change.before_us != change.after_us
    low, high = sorted((change.before_us, change.after_us))
    return high - low > _LAYER_US and high > _LAYER_RATIO * low
