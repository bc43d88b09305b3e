"""Latency of what can be run again and again: warm-up until stable, then rounds until the median is known."""

import collections
import dataclasses
import functools
import math
import time

import numpy as np

ROUND_SECONDS = 0.01
MIN_ROUNDS = 10
PRECISION = 0.01
_GROWTH = 1.25
_WARM_UP_SECONDS = 2.0
_STABLE = 0.02
_MIN_WARM_UP_RUNS = 3
_MAX_CORRELATION = 0.95
_EXACT_COUNT = 100


@dataclasses.dataclass(frozen=True)
class TimeBudget:
    """How long to measure: exactly `runs` runs, or until the interval is narrow, `seconds` at most."""

    runs: int | None = None
    seconds: float = 5.0


class TimedRuns:
    """The times of one subject: `block` runs it several times and keeps the nanoseconds of each run.

    Args:
        run: function without arguments.
        clock: function that returns nanoseconds.
    """

    def __init__(self, run, clock=time.perf_counter_ns):
        self._run, self._clock = run, clock
        self.rounds = []
        self.medians = []
        self.runs = 0

    def block(self, runs):
        """Run `runs` times, and keep the times as one round."""
        times = _time_runs(self._run, runs, self._clock)
        self.rounds.append(times)
        self.medians.append(float(np.median(times)))
        self.runs += runs

    def warm_up(self, seconds=_WARM_UP_SECONDS):
        """Run until two blocks in a row take the same time within 2 %, at most `seconds`; return the ns of a run."""
        end = self._clock() + seconds * 1e9
        ns, before = float(_time_runs(self._run, 1, self._clock)[0]), math.inf
        while True:
            left = max(1, math.ceil((end - self._clock()) / max(ns, 1)))
            ns = float(np.median(_time_runs(self._run, min(max(_MIN_WARM_UP_RUNS, count_runs(ns)), left), self._clock)))
            if abs(ns - before) <= _STABLE * ns or self._clock() >= end:
                return ns
            before = ns

    def interval(self):
        """Return the 95 % confidence interval of the median, in ns, as `interval` has it of the rounds' medians.

        Runs that follow one another are alike on a machine whose clock changes or which others use; rounds, which are
        further apart, are closer to independent.
        """
        return median_interval(self.medians)

    @property
    def precision(self):
        """How far the interval reaches from the median to the further side, as a part of the median."""
        low, high = self.interval()
        middle = float(np.median(self.medians))
        return max(high - middle, middle - low) / middle if middle else math.inf

    @property
    def converged(self):
        """Whether the interval lies within 1 % on either side of the median."""
        return len(self.rounds) >= MIN_ROUNDS and self.precision <= PRECISION

    def summary(self):
        """Return the statistics in us as a JSON-ready dictionary."""
        us = np.concatenate(self.rounds) / 1000
        p10, median, p90, p99 = map(float, np.percentile(us, [10, 50, 90, 99]))
        # The interval is one of the rounds' medians: with few runs that of all of them may lie just beside it.
        low, high = (None if math.isinf(each) else each / 1000 for each in self.interval())
        low, high = low and min(low, median), high and max(high, median)
        return {
            "us": {
                "median": median, "mean": float(us.mean()), "p10": p10, "p90": p90,
                "p99": p99, "min": float(us.min()), "low": low, "high": high,
            },
            "runs": self.runs,
            "converged": self.converged,
            "rounds_us": [each / 1000 for each in self.medians],
        }  # fmt: skip


def median_interval(values):
    """Return the 95 % confidence interval of the median of values in the order in which they were measured.

    It lies between two of the sorted values, whatever their distribution is. Where neighbours in time are alike, many
    values say only as much as fewer independent ones do: the interval is wider by the root of their ratio.

    Returns:
        (low, high); infinite where there are too few values to tell, independent ones fewer than six.
    """
    count = len(values)
    ordered = sorted(values)
    reach = (count / 2 - interval_rank(count)) * math.sqrt(count / _effective_count(values))
    position = math.floor(count / 2 - reach + 1e-9)
    return (ordered[position - 1], ordered[count - position]) if position >= 1 else (-math.inf, math.inf)


@functools.cache
def interval_rank(count):
    """Return the largest k for which the median of `count` values is between the k-th from either end, 95 % sure.

    0 where there is none. The number of values below the median is binomial with probability one half.
    """
    if count >= _EXACT_COUNT:
        return math.floor(count / 2 - 0.98 * math.sqrt(count))
    outside, k = 0, 0
    while True:
        outside += math.comb(count, k)
        if 40 * outside > 2**count:  # both sides together more than 5 %
            return k
        k += 1


def _effective_count(values):
    """Return how many independent values tell as much, from the correlation of the ranks of neighbours."""
    count = len(values)
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - ties / 2)[place] - count / 2  # equal values share the middle of their ranks
    # Of independent values the estimate is 1 / count too small on average.
    alike = float(ranks[1:] @ ranks[:-1] / max(ranks @ ranks, 1.0)) + 1 / max(count, 1)
    alike = min(max(alike, 0.0), _MAX_CORRELATION)
    return count * (1 - alike) / (1 + alike)


def count_runs(ns, seconds=ROUND_SECONDS):
    """Return how many runs of `ns` nanoseconds take about `seconds`."""
    return max(1, min(10_000, round(seconds * 1e9 / max(ns, 1))))


def time_in_turns(subjects, budget, progress=None, clock=time.perf_counter_ns):
    """Run all subjects in turns, one round each, until every one is known as well as `budget` asks.

    Args:
        subjects: list of (`Series`, function of the runs of a round that is called after the round, or None). Each is
            warmed up first.
        budget: `Budget`; at least one round of each is run.
        progress: function without arguments that is called after the turns, or None.
        clock: function that returns nanoseconds.
    """
    # Looking at the interval after every round would stop at those that are narrow by chance: looks get rarer.
    look = MIN_ROUNDS
    end = clock() + budget.seconds * 1e9
    per_round = [_round_size(series.warm_up(min(_WARM_UP_SECONDS, budget.seconds)), budget) for series, _ in subjects]
    while True:
        for (series, after), runs in zip(subjects, per_round, strict=True):
            left = runs if budget.runs is None else min(runs, budget.runs - series.runs)
            if left > 0:
                series.block(left)
                if after:
                    after(left)
        if progress:
            progress()
        rounds = max((len(series.rounds) for series, _ in subjects), default=0)
        if budget.runs is not None:
            if all(series.runs >= budget.runs for series, _ in subjects):
                return
        elif clock() >= end:
            return
        elif rounds >= look:
            if all(series.converged for series, _ in subjects):
                return
            look = math.ceil(rounds * _GROWTH)


def _round_size(ns, budget):
    return count_runs(ns) if budget.runs is None else max(1, min(count_runs(ns), budget.runs // MIN_ROUNDS))


def _time_runs(run, runs, clock):
    times = np.empty(runs)
    for at in range(runs):
        start = clock()
        run()
        times[at] = clock() - start
    return times


# MERGED From the profiler's events to the time of every kernel.

INVOKE = "Invoke"
_DEFAULT, _OPERATOR, _DELEGATE_KERNEL = 1, 2, 8
_FAR_OUT = 3  # Tukey's: so many interquartile ranges from the quartiles
_RESOLUTION_US = 1
EVENT_KINDS = {_OPERATOR: "operator", _DELEGATE_KERNEL: "delegate"}


@dataclasses.dataclass(frozen=True)
class ProfiledRuns:
    """Runs that executed the same kernels, as (kind, name, index) in order of execution.

    `kind` is "operator" for an operator that TensorFlow Lite itself runs, whose index is that in the file's main
    subgraph, and "delegate" for a kernel of the delegate, whose index counts from 0 in each partition.

    Attributes:
        kernels: tuple of them.
        whole: us of each run, array of shape (runs,).
        us: of each kernel, array of shape (runs, kernels).
    """

    kernels: tuple[tuple[str, str, int], ...]
    whole: np.ndarray
    us: np.ndarray


def split_runs(events, names):
    """Return a list of `Runs`, one of each sequence of kernels, in what `CompiledModel.profile` returned."""
    tags, types = events["tag"], events["type"]
    invokes = (types == _DEFAULT) & np.isin(tags, [tag for tag, name in names.items() if name == INVOKE])
    run = np.cumsum(invokes) - 1
    chosen = np.isin(types, list(EVENT_KINDS)) & (run >= 0)
    run, us, whole = run[chosen], events["elapsed_us"][chosen].astype(np.float64), events["elapsed_us"][invokes]
    codes, kernels = _kernel_codes(events[chosen], names)
    counts = np.bincount(run, minlength=len(whole))
    found = []
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        rows = np.flatnonzero(np.isin(run, members)).reshape(len(members), count)
        for sequence in np.unique(codes[rows], axis=0):
            same = (codes[rows] == sequence).all(axis=1)
            executed = tuple(kernels[code] for code in sequence)
            found.append(ProfiledRuns(executed, whole[members[same]].astype(np.float64), us[rows[same]]))
    return found


def _kernel_codes(events, names):
    """Return the kernel of each event as a position in the list that comes with it."""
    kinds = np.empty(len(events), [("type", np.int32), ("tag", np.uint64), ("index", np.uint64)])
    for field in kinds.dtype.names:
        kinds[field] = events[field]
    distinct, codes = np.unique(kinds, return_inverse=True)
    return codes, [(EVENT_KINDS[int(type_)], names[int(tag)], int(index)) for type_, tag, index in distinct]


def summarize_profile(runs):
    """Return the statistics over a list of `Runs` as a JSON-ready dictionary; None without any.

    Durations are whole microseconds, cut off. `typical` is the mean over the half of the runs whose whole duration is
    nearest the median, which has the resolution that a median of whole numbers lacks, without the kernel's own
    outliers: on a busy machine most runs near the median were interrupted too, each in another kernel. Runs that
    executed other kernels than most did are left out, and `other_runs` counts them.
    """
    if not runs:
        return None
    counts = collections.Counter()
    for each in runs:
        counts[each.kernels] += len(each.whole)
    kernels, kept = counts.most_common(1)[0]
    whole = np.concatenate([each.whole for each in runs if each.kernels == kernels])
    us = np.concatenate([each.us for each in runs if each.kernels == kernels])
    away = np.abs(whole - np.median(whole))
    typical = away <= np.percentile(away, 50, method="inverted_cdf")
    return {
        "runs": kept,
        "other_runs": sum(counts.values()) - kept,
        "invoke_us": _kernel_statistics(whole, typical),
        "kernels": [
            {"kind": kind, "name": name, "index": index, "us": _kernel_statistics(us[:, at], typical)}
            for at, (kind, name, index) in enumerate(kernels)
        ],
    }


def _kernel_statistics(us, typical):
    q1, median, q3, p90 = np.percentile(us, [25, 50, 75, 90])
    reach = _FAR_OUT * (q3 - q1 + _RESOLUTION_US)
    kept = us[typical & (us >= q1 - reach) & (us <= q3 + reach)]
    return {
        "median": float(median),
        "mean": float(us.mean()),
        "p90": float(p90),
        "typical": float(kept.mean() if len(kept) else median),
    }
