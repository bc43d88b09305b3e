"""The timing loop, and the statistics of what it and the profiler measured: the only ones of both in keras-nin."""

import collections
import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

ROUND_SECONDS = 0.01
MIN_ROUNDS = 10
PRECISION = 0.01
_LOOK_GROWTH = 1.25
_WARM_UP_SECONDS = 2.0
_STABLE = 0.02
_MIN_WARM_UP_RUNS = 3
_MAX_RUNS_PER_ROUND = 10_000
_MAX_CORRELATION = 0.95
_EXACT_COUNT = 100


@dataclasses.dataclass(frozen=True)
class TimeBudget:
    """How long to measure: exactly `runs` of each, or for None until every median is known to within 1%.

    All together take at most `seconds` then, but at least `min_rounds`; `round_seconds` of 0 makes rounds of one run.
    """

    runs: int | None = None
    seconds: float = 5.0
    round_seconds: float = ROUND_SECONDS
    min_rounds: int = 1
    warm_up_seconds: float = _WARM_UP_SECONDS


class TimedRuns:
    """The ns of something that can be run again and again, by round, the `medians` of the rounds, and all `runs`."""

    def __init__(
        self,
        run: Callable[[], object],
        before_run: Callable[[], object] | None = None,
        after_round: Callable[[int], object] | None = None,
        clock: Callable[[], float] = time.perf_counter_ns,
        max_round: int = _MAX_RUNS_PER_ROUND,
    ) -> None:
        self._run, self._before_run, self._after_round, self._clock = run, before_run, after_round, clock
        self.max_round = max_round  # runs, where what comes before each of them takes longer than the run
        self.rounds: list[np.ndarray] = []
        self.medians: list[float] = []
        self.runs = 0

    def run_round(self, runs: int) -> None:
        """Run `runs` times, and keep the times as one round."""
        self.rounds.append(self._time(runs))
        self.medians.append(float(np.median(self.rounds[-1])))
        self.runs += runs
        if self._after_round is not None:
            self._after_round(runs)

    def _time(self, runs: int) -> np.ndarray:
        times = np.empty(runs)
        for index in range(runs):
            if self._before_run is not None:
                self._before_run()
            start = self._clock()
            self._run()
            times[index] = self._clock() - start
        return times

    def warm_up(self, seconds: float = _WARM_UP_SECONDS, block_seconds: float = ROUND_SECONDS) -> float:
        """Run until two blocks in a row take the same time within 2%, or `seconds` are over; return the ns of a run."""
        end = self._clock() + seconds * 1e9
        ns, previous = float(self._time(1)[0]), math.inf
        while True:
            runs_left = max(1, math.ceil((end - self._clock()) / max(ns, 1)))
            runs = min(max(_MIN_WARM_UP_RUNS, count_runs(ns, block_seconds)), runs_left, self.max_round)
            ns = float(np.median(self._time(runs)))
            if abs(ns - previous) <= _STABLE * ns or self._clock() >= end:
                return ns
            previous = ns

    @property
    def precision(self) -> float:
        """The distance from the median to the further end of its 95% interval, as a share of the median."""
        # By rounds, which are closer to independent than runs on a machine whose clock changes or that others use.
        low, high = median_interval(self.medians)
        median = float(np.median(self.medians))
        return max(high - median, median - low) / median if median else math.inf

    @property
    def converged(self) -> bool:
        """Whether the interval lies within 1% on either side of the median."""
        return len(self.rounds) >= MIN_ROUNDS and self.precision <= PRECISION

    def summary(self) -> dict[str, Any]:
        """Return the statistics in us as a JSON-ready dictionary."""
        us = np.concatenate(self.rounds) / 1000
        p10, median, p90, p99 = map(float, np.percentile(us, [10, 50, 90, 99]))
        low, high = median_interval(self.medians)
        # The interval is of the rounds' medians: with few runs the median of all runs may lie just beside it.
        interval = {"low": min(low / 1000, median), "high": max(high / 1000, median)}
        times = {"median": median, "mean": float(us.mean()), "p10": p10, "p90": p90, "p99": p99, "min": float(us.min())}
        return {
            "us": times | (interval if math.isfinite(low) else dict.fromkeys(interval)),
            "runs": self.runs,
            "converged": self.converged,
            "rounds_us": [ns / 1000 for ns in self.medians],
        }


def count_runs(ns: float, seconds: float = ROUND_SECONDS) -> int:
    """Return how many runs of `ns` nanoseconds take about `seconds`."""
    return max(1, min(_MAX_RUNS_PER_ROUND, round(seconds * 1e9 / max(ns, 1))))


def time_in_turns(
    subjects: Sequence[TimedRuns],
    budget: TimeBudget,
    progress: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter_ns,
) -> None:
    """Warm all subjects up, then run them in turns, one round each, until `budget` is used or all medians are known."""
    # Checking the interval after every round would favor stopping when it is narrow by chance: checks get rarer.
    next_look = MIN_ROUNDS
    end = clock() + budget.seconds * 1e9
    warm_up_seconds = min(budget.warm_up_seconds, budget.seconds)
    sizes = [
        min(
            subject.max_round,
            count_runs(subject.warm_up(warm_up_seconds, budget.round_seconds), budget.round_seconds),
        )
        for subject in subjects
    ]
    if budget.runs is not None:
        sizes = [max(1, min(size, budget.runs // MIN_ROUNDS)) for size in sizes]
    for rounds in itertools.count(1):
        for subject, size in zip(subjects, sizes, strict=True):
            runs = size if budget.runs is None else min(size, budget.runs - subject.runs)
            if runs > 0:
                subject.run_round(runs)
        if progress is not None:
            progress()
        if budget.runs is not None:
            if all(subject.runs >= budget.runs for subject in subjects):
                return
        elif clock() >= end:
            if rounds >= budget.min_rounds:
                return
        elif rounds >= next_look:
            if all(subject.converged for subject in subjects):
                return
            next_look = math.ceil(rounds * _LOOK_GROWTH)


def median_interval(values: Sequence[float], independent: bool = False) -> tuple[float, float]:
    """Return the 95% confidence interval of the median of values in the order in which they were measured.

    It lies between two of the sorted values, whatever their distribution; fewer than six independent values have an
    infinite one. Where neighbors in time are correlated, many values say only as much as fewer independent ones: the
    interval is wider by the root of their ratio, unless they are known to be independent, as of separate processes.
    """
    count = len(values)
    ordered = sorted(values)
    widening = 1.0 if independent else math.sqrt(count / _effective_count(values))
    reach = (count / 2 - interval_rank(count)) * widening
    position = math.floor(count / 2 - reach + 1e-9)
    return (ordered[position - 1], ordered[count - position]) if position >= 1 else (-math.inf, math.inf)


@functools.cache
def interval_rank(count: int) -> int:
    """Return the largest k for which the k-th values from either end hold the median, 95% sure; 0 without one."""
    if count >= _EXACT_COUNT:  # the number of values below the median is binomial with probability one half
        return math.floor(count / 2 - 0.98 * math.sqrt(count))
    outside = itertools.accumulate(math.comb(count, below) for below in range(count + 1))
    return next(k for k, ways in enumerate(outside) if 40 * ways > 2**count)  # both sides together more than 5%


def _effective_count(values: Sequence[float]) -> float:
    """Return how many independent values say as much, from the correlation of the ranks of neighbors."""
    count = len(values)
    _, position, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - ties / 2)[position] - count / 2  # equal values share the middle of their ranks
    # Of independent values the estimate is 1 / count too small on average.
    correlation = float(ranks[1:] @ ranks[:-1] / max(ranks @ ranks, 1.0)) + 1 / max(count, 1)
    correlation = min(max(correlation, 0.0), _MAX_CORRELATION)
    return count * (1 - correlation) / (1 + correlation)


def paired_ratio(values: Sequence[float], bases: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the median of the ratios of values to bases measured in turns, and its 95% interval, or None."""
    pairs = [value / base for value, base in zip(values, bases, strict=False)]
    low, high = median_interval(pairs)
    median = statistics.median(pairs)
    return (median, low, high) if math.isfinite(low) else (median, None, None)


def independent_ratio_interval(value: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the ratio of two independent medians, each (median, low, high).

    It combines their intervals on a logarithmic scale by the root of the sum of squares of their reaches (MOVER: Zou
    and Donner, Statistics in Medicine 27, 2008).
    """

    def reach(larger: float, smaller: float) -> float:
        return max(0.0, math.log(larger / smaller))

    (median, low, high), (base_median, base_low, base_high) = value, base
    ratio = median / base_median
    down = math.hypot(reach(median, low), reach(base_high, base_median))
    up = math.hypot(reach(high, median), reach(base_median, base_low))
    return ratio * math.exp(-down), ratio * math.exp(up)


# The profiler's events.

INVOKE = "Invoke"
_DEFAULT, _OPERATOR, _DELEGATE_KERNEL = 1, 2, 8
_FAR_OUT = 3  # Tukey's: so many interquartile ranges from the quartiles
_RESOLUTION_US = 1
EVENT_KINDS = {_OPERATOR: "operator", _DELEGATE_KERNEL: "delegate"}


@dataclasses.dataclass(frozen=True)
class ProfiledRuns:
    """Runs that executed the same kernels: `total_us` of shape (runs,), `kernel_us` of shape (runs, kernels).

    `kernels` are (kind, name, index) in order: "operator" for one that TensorFlow Lite itself runs, with its index in
    the file, "delegate" for a kernel of the delegate, whose index counts from 0 in each partition. An operator that
    runs other subgraphs (WHILE, IF) has `inner` kernels: (position of the operator in `kernels`, subgraph, kind, name,
    index, executions in a run), also of kind "invoke" for the subgraph itself; `inner_us` is the sum of a run.
    """

    kernels: tuple[tuple[str, str, int], ...]
    total_us: np.ndarray
    kernel_us: np.ndarray
    inner: tuple[tuple[int, int, str, str, int, int], ...]
    inner_us: np.ndarray


def split_runs(events: np.ndarray, names: Mapping[int, str]) -> list[ProfiledRuns]:
    """Return one `ProfiledRuns` per sequence of kernels in what `CompiledModel.profile` returned."""
    tags, types = events["tag"], events["type"]
    invokes = (types == _DEFAULT) & np.isin(tags, [tag for tag, name in names.items() if name == INVOKE])
    if not invokes.any():
        return []
    is_inner = events["subgraph"] != events["subgraph"][invokes][0]
    run = np.cumsum(invokes & ~is_inner) - 1
    is_kernel = np.isin(types, list(EVENT_KINDS)) & (run >= 0)
    # The kernel of each event as an index of the distinct ones; several addresses may have the same name.
    texts = sorted(set(names.values()))
    addresses, which = np.unique(tags, return_inverse=True)
    keys = np.empty(len(events), [(field, np.uint64) for field in ("type", "name", "index", "subgraph")])
    keys["name"] = np.array([texts.index(names[int(address)]) for address in addresses])[which]
    for field in ("type", "index", "subgraph"):
        keys[field] = events[field]
    distinct, codes = np.unique(keys, return_inverse=True)
    kernels = [(_kind_of(int(key["type"])), texts[int(key["name"])], int(key["index"])) for key in distinct]
    elapsed_us, is_outer = events["elapsed_us"].astype(np.float64), is_kernel & ~is_inner
    total_us, kernel_us, outer_run = elapsed_us[invokes & ~is_inner], elapsed_us[is_outer], run[is_outer]
    inner: dict[int, list[tuple[tuple[int, int, str, str, int, int], float]]] = collections.defaultdict(list)
    positions = np.cumsum(is_outer) - 1 - np.searchsorted(outer_run, run)
    inside = np.flatnonzero((is_kernel | invokes) & is_inner & (run >= 0) & (positions >= 0))
    if len(inside):
        table = np.stack([run[inside], positions[inside], codes[inside]])
        columns, first, inverse, executions = np.unique(
            table, axis=1, return_index=True, return_inverse=True, return_counts=True
        )
        sums = np.bincount(inverse.ravel(), elapsed_us[inside])
        for column in np.argsort(first):
            number, position, code = map(int, columns[:, column])
            entry = (position, int(distinct[code]["subgraph"]), *kernels[code], int(executions[column]))
            inner[number].append((entry, float(sums[column])))
    counts = np.bincount(outer_run, minlength=len(total_us))
    found: dict[Any, list[tuple[int, np.ndarray]]] = collections.defaultdict(list)
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        rows = np.flatnonzero(np.isin(outer_run, members)).reshape(len(members), count)
        sequences = codes[is_outer][rows]
        for member, row, sequence in zip(members, rows, sequences, strict=True):
            entries = tuple(entry for entry, _ in inner.get(int(member), ()))
            found[sequence.tobytes(), entries].append((int(member), row))
    return [
        ProfiledRuns(
            tuple(kernels[code] for code in codes[is_outer][runs[0][1]]),
            total_us[[member for member, _ in runs]],
            kernel_us[np.stack([row for _, row in runs])],
            entries,
            np.array([[us for _, us in inner.get(member, ())] for member, _ in runs]),
        )
        for (_, entries), runs in found.items()
    ]


def _kind_of(event_type: int) -> str:
    return EVENT_KINDS.get(event_type, "invoke")


def summarize_profile(profiled: Sequence[ProfiledRuns]) -> dict[str, Any] | None:
    """Return the statistics of profiled runs as a JSON-ready dictionary; None without any.

    Durations are whole microseconds, rounded down. `typical` is the mean over the half of the runs whose total is
    nearest to the median: it has the resolution that a median of whole numbers lacks. The kernel's own outliers are
    left out: on a busy machine most runs near the median were interrupted too, each in another kernel. So are runs
    that executed other kernels than most did, which `other_runs` counts.
    """
    if not profiled:
        return None
    counts: collections.Counter[Any] = collections.Counter()
    for runs in profiled:
        counts[runs.kernels, runs.inner] += len(runs.total_us)
    most, count = counts.most_common(1)[0]
    members = [runs for runs in profiled if (runs.kernels, runs.inner) == most]
    total_us, kernel_us, inner_us = (
        np.concatenate([getattr(runs, name) for runs in members]) for name in ("total_us", "kernel_us", "inner_us")
    )
    distance = np.abs(total_us - np.median(total_us))
    is_typical = distance <= np.percentile(distance, 50, method="inverted_cdf")
    kernels: list[dict[str, Any]] = [
        {"kind": kind, "name": name, "index": index, "us": _kernel_statistics(kernel_us[:, column], is_typical)}
        for column, (kind, name, index) in enumerate(members[0].kernels)
    ]
    for column, (position, subgraph, kind, name, index, executions) in enumerate(members[0].inner):
        us = _kernel_statistics(inner_us[:, column], is_typical)["typical"]
        entry = {"subgraph": subgraph, "kind": kind, "name": name, "index": index, "executions": executions, "us": us}
        kernels[position].setdefault("inner", []).append(entry)
    return {
        "runs": count,
        "other_runs": sum(counts.values()) - count,
        "invoke_us": _kernel_statistics(total_us, is_typical),
        "kernels": kernels,
    }


def _kernel_statistics(us: np.ndarray, is_typical: np.ndarray) -> dict[str, float]:
    q1, median, q3, p90 = np.percentile(us, [25, 50, 75, 90])
    reach = _FAR_OUT * (q3 - q1 + _RESOLUTION_US)
    typical = us[is_typical & (us >= q1 - reach) & (us <= q3 + reach)]
    mean, typical_us = float(us.mean()), float(typical.mean() if len(typical) else median)
    return {"median": float(median), "mean": mean, "p90": float(p90), "typical": typical_us}
