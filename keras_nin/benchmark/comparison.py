"""Slower or faster: files measured beside one another, and the same files measured at two times."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keras_nin import files, schemas
from keras_nin.benchmark.records import BUSY_SHARE, BenchmarkResult, LayerTime, Profile
from keras_nin.errors import InputError, expected_error
from keras_nin.formatting import format_count
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_result, parse_limits, single_end
from keras_nin.results import Result

COMPARISON_LIMITS = (LimitItem("regression", Unit.SHARE),)
SLOWER, FASTER, UNCHANGED, UNKNOWN = "slower", "faster", "no significant change", "unknown"
_HOST_FIELDS = ("cpu", "cores", "system", "python", "litert")
# Smaller changes of a layer do not stand out from the profiler's resolution of 1 us and the varying clock.
_LAYER_RATIO, _LAYER_US = 1.05, 1.0
MIN_EFFECT = 0.02
# Run-to-run drift, as standard deviations of the logarithm of a median (docs/concepts/latency.md): the least to expect
# of files measured in one process each, on a quiet and on a busy machine, and the number of blocks that show more.
_MIN_DRIFT, _MIN_BUSY_DRIFT, _BLOCKS = 0.01, 0.15, 5
_MEDIAN_SPREAD = math.sqrt(math.pi / 2)  # how much more medians scatter than means
# Student's t for the 95% interval by degrees of freedom from 1.
_T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
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
    """A layer whose `KernelTime.typical` or kernel changed; None for a run that lacks it."""

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
    """One file on one number of threads, before and after: medians, and the runs behind them where recorded.

    `ratio` is after over before, with the 95% interval `low` to `high`, which includes run-to-run drift of `drift`
    either way. `verdict` is `SLOWER` or `FASTER` where the interval excludes 1 and the ratio is not within the smallest
    effect of interest, else `UNCHANGED`; `UNKNOWN` without an interval. `layers` are those that changed, largest change
    first.
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
    drift: float | None = None
    batch: int = 1

    def exceeds(self, limit: float) -> bool:
        """Return whether it is slower by more than `limit` (0.05 is 5%): its whole interval, so that noise does not."""
        return (self.ratio if self.low is None else self.low) > 1 + limit


@dataclass(frozen=True, repr=False)
class RunComparison(Result):
    """Two benchmarks compared.

    `changes` are those of every result in both, `only_before` and `only_after` (file, threads) of results in one of
    them; `hosts` has differences between the machines, and `warnings` those of both benchmarks, one line each.
    `min_effect` is the smallest change of interest, as a share.
    """

    changes: tuple[FileChange, ...]
    only_before: tuple[tuple[str, int], ...]
    only_after: tuple[tuple[str, int], ...]
    hosts: tuple[str, ...]
    warnings: tuple[str, ...]
    before_host: dict[str, Any] | None = None
    after_host: dict[str, Any] | None = None
    min_effect: float = MIN_EFFECT

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
    """Return the `LatencyRatio` of each profile to the first one with as many threads, of files measured in turns."""
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
        received = f"{str(path)!r}: {f'schema {schema!r}' if schema else 'no schema'}"
        message = f"Expected a JSON file of `keras-nin benchmark` ({schemas.BENCHMARK}). Received: {received}"
        raise InputError(message, path=path)
    try:
        return BenchmarkResult.from_json(document)
    except InputError as error:
        message = f"{str(path)!r} is a damaged JSON file of `keras-nin benchmark`: {error}"
        raise InputError(message, path=path) from error


def compare_runs(before: BenchmarkResult, after: BenchmarkResult, min_effect: float = MIN_EFFECT) -> RunComparison:
    """Return the `RunComparison` of results with equal file and number of threads; `InputError` without any."""
    if not 0 <= min_effect < math.inf:
        raise expected_error("min_effect", "to be a share such as 0.02", min_effect)
    old, new = (_by_key(side.profiles, "file", "threads") for side in (before, after))
    common = [key for key in new if key in old]
    if not common:
        names = [", ".join(dict.fromkeys(file for file, *_ in side)) or "none" for side in (old, new)]
        received = f"{names[0]} before, {names[1]} after"
        raise InputError(f"the benchmarks have no file and number of threads in common: {received}")
    fields = [(name, before.host.get(name), after.host.get(name)) for name in _HOST_FIELDS]
    return RunComparison(
        tuple(_file_change(old[key], new[key], min_effect) for key in common),
        tuple(key[:2] for key in old if key not in new),
        tuple(key[:2] for key in new if key not in old),
        tuple(f"{name}: {then} before, {now} after" for name, then, now in fields if then != now),
        tuple(f"{name}: {line}" for name, side in (("before", before), ("after", after)) for line in side.warnings),
        before.host,
        after.host,
        min_effect,
    )


def _by_key(items: Iterable[_Item], *fields: str) -> dict[tuple[Any, ...], _Item]:
    """Return items by (*values of their fields, how many items with these values came before)."""
    by_key, counts = {}, collections.Counter()
    for item in items:
        key = tuple(getattr(item, name) for name in fields)
        by_key[*key, counts[key]] = item
        counts[key] += 1
    return by_key


def _file_change(before: Profile, after: Profile, min_effect: float) -> FileChange:
    old, new = before.total, after.total
    low, high, drift, verdict, ratio = None, None, None, UNKNOWN, new.median / old.median
    if old.low is not None and old.high is not None and new.low is not None and new.high is not None:
        from keras_nin.benchmark.runner.timing import independent_ratio_interval

        low, high = independent_ratio_interval((new.median, new.low, new.high), (old.median, old.low, old.high))
        reach = _drift_reach(before, after)
        low = ratio * math.exp(-math.hypot(math.log(ratio / low), reach))
        high = ratio * math.exp(math.hypot(math.log(high / ratio), reach))
        drift = math.expm1(reach)
        verdict = UNCHANGED
        if low > 1 and ratio >= 1 + min_effect:
            verdict = SLOWER
        elif high < 1 and 1 / ratio >= 1 + min_effect:
            verdict = FASTER
    times = (old.median, new.median, ratio, low, high)
    layers = tuple(_layer_changes(before.layers, after.layers, max(_LAYER_RATIO, 1 + (drift or 0))))
    is_same, runs = before.sha256 == after.sha256, (before.runs, after.runs)
    return FileChange(after.file, after.threads, is_same, *times, verdict, layers, *runs, drift, after.batch)


def _drift_reach(before: Profile, after: Profile) -> float:
    """Return how far drift between runs of one file may move the logarithm of the ratio of two, 95% sure.

    Processes tell it where both were measured in several. One process does not know what another start of the program
    or a later hour changes: then the blocks of each run stand for it, which see what the machine does meanwhile.
    """
    processes = [[math.log(us) for us in side.processes_us] for side in (before, after)]
    if all(len(logs) > 1 for logs in processes):
        freedom = sum(len(logs) - 1 for logs in processes)
        variance = sum((len(logs) - 1) * statistics.variance(logs) for logs in processes) / freedom
        quantile = _T_QUANTILES[freedom - 1] if freedom <= len(_T_QUANTILES) else 1.96 + 2.5 / freedom
        return quantile * _MEDIAN_SPREAD * math.sqrt(variance * sum(1 / len(logs) for logs in processes))
    return 1.96 * math.hypot(_block_drift(before), _block_drift(after))


def _block_drift(profile: Profile) -> float:
    """Return the standard deviation of the logarithms of the medians of successive blocks of a run, or the least."""
    least = _MIN_BUSY_DRIFT if (profile.others_share or 0.0) > BUSY_SHARE else _MIN_DRIFT
    size = len(profile.rounds_us) // _BLOCKS
    blocks = [profile.rounds_us[index * size : (index + 1) * size] for index in range(_BLOCKS)]
    return max(least, statistics.stdev(math.log(statistics.median(block)) for block in blocks)) if size > 1 else least


def _layer_changes(before: Sequence[LayerTime], after: Sequence[LayerTime], min_ratio: float) -> list[LayerChange]:
    """Return the changes of layers with the same name, largest first; none where one side has no layers."""
    if not before or not after:
        return []
    sides = [_by_key(layers, "name") for layers in (before, after)]
    changes = []
    for key in dict.fromkeys((*sides[1], *sides[0])):
        old, new = (side.get(key) for side in sides)
        old_us, new_us = (layer.us.typical if layer and layer.us else None for layer in (old, new))
        changes.append(LayerChange(key[0], old_us, new_us, old and old.kernel, new and new.kernel))
    significant = (change for change in changes if _is_significant(change, min_ratio))
    return sorted(significant, key=lambda change: -abs(change.added_us))


def _is_significant(change: LayerChange, min_ratio: float) -> bool:
    if change.before_kernel != change.after_kernel:
        return True
    if change.before_us is None or change.after_us is None:
        return change.before_us != change.after_us
    low, high = sorted((change.before_us, change.after_us))
    return high - low > _LAYER_US and high > min_ratio * low


def parse_comparison_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits such as ``"regression=5%"``: by how much a file may be slower; see `keras_nin.limits`."""
    return parse_limits(text, COMPARISON_LIMITS, argument=argument)


def check_comparison_limits(comparison: RunComparison, limits: Iterable[Limit]) -> tuple[LimitCheck, ...]:
    """Compare every change with limits; it fails one that it certainly exceeds, see `FileChange.exceeds`."""
    return tuple(
        check_result(
            limit,
            change.ratio - 1,
            not change.exceeds(float(single_end(limit, argument="require"))),
            subject=f"{change.file} on {format_count(change.threads, 'thread')}",
        )
        for change in comparison.changes
        for limit in limits
    )
