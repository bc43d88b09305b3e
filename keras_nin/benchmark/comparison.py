"""Slower or faster: files measured beside one another, and the same files measured at two times."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keras_nin import files, schemas
from keras_nin.benchmark.records import BenchmarkResult, LatencyStatistics, LayerTime, Profile
from keras_nin.errors import InputError
from keras_nin.formatting import format_count
from keras_nin.results import Result

SLOWER, FASTER, UNCHANGED, UNKNOWN = "slower", "faster", "no significant change", "unknown"
_HOST_FIELDS = ("cpu", "cores", "system", "python", "litert")
# Smaller changes of a layer do not stand out from the profiler's resolution of 1 us and the varying clock.
_LAYER_RATIO, _LAYER_US = 1.05, 1.0
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class LatencyRatio:
    """Time of `file` over that of `base`, measured in turns; `low` to `high` is its 95% interval, None if unknown."""

    file: str
    base: str
    threads: int
    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LayerChange:
    """A layer that became slower or faster, or that another kernel computes; us are `KernelTime.typical`.

    A layer that is in one of the two runs only has None for the other.
    """

    name: str
    before_us: float | None
    after_us: float | None
    before_kernel: str | None
    after_kernel: str | None

    @property
    def added_us(self) -> float:
        """How much later the layer lets a run end."""
        return (self.after_us or 0.0) - (self.before_us or 0.0)


@dataclass(frozen=True)
class FileChange:
    """One file on one number of threads, before and after.

    Attributes:
        file, threads: which.
        same_content: whether the file has the same content.
        before_us, after_us: the medians.
        ratio: after over before.
        low, high: its 95% interval; None where a result has too few runs.
        verdict: `SLOWER` or `FASTER` where the interval excludes 1, `UNCHANGED` where it does not, `UNKNOWN` without.
        layers: those that changed, largest change first.
        before_runs, after_runs: runs behind the medians; None in documents that do not record them.
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

    def exceeds(self, limit: float) -> bool:
        """Return whether it is slower by more than `limit` (0.05 is 5%), its whole interval above that.

        So noise fails no build. Without an interval the medians decide.
        """
        return (self.ratio if self.low is None else self.low) > 1 + limit


@dataclass(frozen=True, repr=False)
class RunComparison(Result):
    """Two benchmarks compared.

    Attributes:
        changes: of every result in both, in the order of the second.
        only_before, only_after: (file, threads) of results in one of them only.
        hosts: differences between the machines, one line each.
        warnings: of both benchmarks, one line each.
        before_host, after_host: the machines; None in documents that do not record them.
    """

    changes: tuple[FileChange, ...]
    only_before: tuple[tuple[str, int], ...]
    only_after: tuple[tuple[str, int], ...]
    hosts: tuple[str, ...]
    warnings: tuple[str, ...]
    before_host: dict[str, Any] | None = None
    after_host: dict[str, Any] | None = None

    def regressions(self, limit: float) -> tuple[FileChange, ...]:
        """Return the changes that `FileChange.exceeds` the limit."""
        return tuple(change for change in self.changes if change.exceeds(limit))

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON-ready dictionary (schema ``keras_nin.compare_runs/1``)."""
        return {"schema": schemas.COMPARE_RUNS, **dataclasses.asdict(self)}

    def _summary(self) -> str:
        return "; ".join(
            f"{change.file}, {format_count(change.threads, 'thread')}: {change.ratio:.3f} times, {change.verdict}"
            for change in self.changes
        )

    def _rows(self) -> list[dict[str, Any]]:
        names = ("file", "threads", "before_us", "after_us", "ratio", "low", "high", "verdict")
        return [{name: getattr(change, name) for name in names} for change in self.changes]


def compute_ratios(profiles: Sequence[Profile]) -> tuple[LatencyRatio, ...]:
    """Return the `LatencyRatio` of each profile to the first one with as many threads, of files measured in turns.

    Rounds of two files measured in one turn are a pair; the ratio is the median of the pairs' ratios, see
    `keras_nin.benchmark.runner.timing.paired_ratio`.
    """
    from keras_nin.benchmark.runner.timing import paired_ratio

    for profile in profiles:
        if not profile.rounds_us:
            raise InputError(f"Expected files measured in rounds. Received: {profile.file!r} without rounds")
    bases: dict[int, Profile] = {}
    ratios = []
    for profile in profiles:
        base = bases.setdefault(profile.threads, profile)
        if profile is not base:
            ratio = paired_ratio(profile.rounds_us, base.rounds_us)
            ratios.append(LatencyRatio(profile.file, base.file, profile.threads, *ratio))
    return tuple(ratios)


def read_benchmark(path: str) -> BenchmarkResult:
    """Return the `BenchmarkResult` in a JSON file."""
    document = files.read_json(path)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != schemas.BENCHMARK:
        received = f"schema {schema!r}" if schema else "no schema"
        raise InputError(
            f"Expected a JSON file of `keras-nin benchmark` ({schemas.BENCHMARK}). Received: {str(path)!r}: {received}",
            path=path,
        )
    try:
        return BenchmarkResult.from_json(document)
    except InputError as error:
        raise InputError(
            f"{str(path)!r} is a damaged JSON file of `keras-nin benchmark`: {error}", path=path
        ) from error


def compare_runs(before: BenchmarkResult, after: BenchmarkResult) -> RunComparison:
    """Return the `RunComparison` of two benchmarks, whose results are matched by file and number of threads.

    The runs are independent: see `keras_nin.benchmark.runner.timing.independent_ratio_interval`.

    Raises:
        InputError: they have no result in common.
    """
    old, new = (_by_key(side.profiles, lambda profile: (profile.file, profile.threads)) for side in (before, after))
    common = [key for key in new if key in old]
    if not common:
        names = [", ".join(dict.fromkeys(file for file, *_ in side)) or "none" for side in (old, new)]
        raise InputError(
            f"the benchmarks have no file and number of threads in common: {names[0]} before, {names[1]} after"
        )
    return RunComparison(
        tuple(_file_change(old[key], new[key]) for key in common),
        tuple(key[:2] for key in old if key not in new),
        tuple(key[:2] for key in new if key not in old),
        tuple(
            f"{name}: {before.host.get(name)} before, {after.host.get(name)} after"
            for name in _HOST_FIELDS
            if before.host.get(name) != after.host.get(name)
        ),
        tuple(f"{name}: {line}" for name, side in (("before", before), ("after", after)) for line in side.warnings),
        before.host,
        after.host,
    )


def _by_key(items: Iterable[_Item], key: Callable[[_Item], tuple[Any, ...]]) -> dict[tuple[Any, ...], _Item]:
    """Return items by (*key, how many items with this key came before)."""
    counts: collections.Counter[tuple[Any, ...]] = collections.Counter()
    by_key = {}
    for item in items:
        by_key[*key(item), counts[key(item)]] = item
        counts[key(item)] += 1
    return by_key


def _file_change(before: Profile, after: Profile) -> FileChange:
    low, high = _ratio_interval(before.total, after.total)
    verdict = UNKNOWN
    if low is not None and high is not None:
        verdict = SLOWER if low > 1 else FASTER if high < 1 else UNCHANGED
    return FileChange(
        file=after.file,
        threads=after.threads,
        same_content=before.sha256 == after.sha256,
        before_us=before.total.median,
        after_us=after.total.median,
        ratio=after.total.median / before.total.median,
        low=low,
        high=high,
        verdict=verdict,
        layers=tuple(_layer_changes(before.layers, after.layers)),
        before_runs=before.runs,
        after_runs=after.runs,
    )


def _ratio_interval(before: LatencyStatistics, after: LatencyStatistics) -> tuple[float | None, float | None]:
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None, None
    from keras_nin.benchmark.runner.timing import independent_ratio_interval

    return independent_ratio_interval((after.median, after.low, after.high), (before.median, before.low, before.high))


def _layer_changes(before: Sequence[LayerTime], after: Sequence[LayerTime]) -> list[LayerChange]:
    """Return the changes of layers with the same name, largest first; none where one side has no layers."""
    if not before or not after:
        return []
    old, new = (_by_key(layers, lambda layer: (layer.name,)) for layers in (before, after))
    changes = [_layer_change(key[0], old.get(key), new.get(key)) for key in dict.fromkeys((*new, *old))]
    return sorted(filter(_is_significant, changes), key=lambda change: -abs(change.added_us))


def _layer_change(name: str, before: LayerTime | None, after: LayerTime | None) -> LayerChange:
    return LayerChange(
        name,
        before.us.typical if before and before.us else None,
        after.us.typical if after and after.us else None,
        before and before.kernel,
        after and after.kernel,
    )


def _is_significant(change: LayerChange) -> bool:
    if change.before_kernel != change.after_kernel:
        return True
    if change.before_us is None or change.after_us is None:
        return change.before_us != change.after_us
    low, high = sorted((change.before_us, change.after_us))
    return high - low > _LAYER_US and high > _LAYER_RATIO * low
