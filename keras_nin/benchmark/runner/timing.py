"""Latency of what can be run again and again: warm-up until stable, then rounds until the median is known."""

import dataclasses
import functools
import math
import time

import numpy as np

ROUND_SECONDS = 0.01
LEAST_ROUNDS = 10
PRECISION = 0.01
_GROWTH = 1.25
_WARM_UP_SECONDS = 2.0
_STABLE = 0.02
_LEAST_WARM_UP_RUNS = 3
_MOST_ALIKE = 0.95
_EXACT = 100


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to measure: exactly `runs` runs, or until the interval is narrow, `seconds` at most."""

    runs: int | None = None
    seconds: float = 5.0


class Series:
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
        times = _times(self._run, runs, self._clock)
        self.rounds.append(times)
        self.medians.append(float(np.median(times)))
        self.runs += runs

    def warm_up(self, seconds=_WARM_UP_SECONDS):
        """Run until two blocks in a row take the same time within 2 %, at most `seconds`; return the ns of a run."""
        end = self._clock() + seconds * 1e9
        ns, before = float(_times(self._run, 1, self._clock)[0]), math.inf
        while True:
            left = max(1, math.ceil((end - self._clock()) / max(ns, 1)))
            ns = float(np.median(_times(self._run, min(max(_LEAST_WARM_UP_RUNS, runs_in(ns)), left), self._clock)))
            if abs(ns - before) <= _STABLE * ns or self._clock() >= end:
                return ns
            before = ns

    def interval(self):
        """Return the 95 % confidence interval of the median, in ns, as `interval` has it of the rounds' medians.

        Runs that follow one another are alike on a machine whose clock changes or which others use; rounds, which are
        further apart, are closer to independent.
        """
        return interval(self.medians)

    @property
    def precision(self):
        """How far the interval reaches from the median to the further side, as a part of the median."""
        low, high = self.interval()
        middle = float(np.median(self.medians))
        return max(high - middle, middle - low) / middle if middle else math.inf

    @property
    def converged(self):
        """Whether the interval lies within 1 % on either side of the median."""
        return len(self.rounds) >= LEAST_ROUNDS and self.precision <= PRECISION

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


def interval(values):
    """Return the 95 % confidence interval of the median of values in the order in which they were measured.

    It lies between two of the sorted values, whatever their distribution is. Where neighbours in time are alike, many
    values say only as much as fewer independent ones do: the interval is wider by the root of their ratio.

    Returns:
        (low, high); infinite where there are too few values to tell, independent ones fewer than six.
    """
    count = len(values)
    ordered = sorted(values)
    reach = (count / 2 - rank(count)) * math.sqrt(count / _independent(values))
    position = math.floor(count / 2 - reach + 1e-9)
    return (ordered[position - 1], ordered[count - position]) if position >= 1 else (-math.inf, math.inf)


@functools.cache
def rank(count):
    """Return the largest k for which the median of `count` values is between the k-th from either end, 95 % sure.

    0 where there is none. The number of values below the median is binomial with probability one half.
    """
    if count >= _EXACT:
        return math.floor(count / 2 - 0.98 * math.sqrt(count))
    outside, k = 0, 0
    while True:
        outside += math.comb(count, k)
        if 40 * outside > 2**count:  # both sides together more than 5 %
            return k
        k += 1


def _independent(values):
    """Return how many independent values tell as much, from the correlation of the ranks of neighbours."""
    count = len(values)
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - ties / 2)[place] - count / 2  # equal values share the middle of their ranks
    # Of independent values the estimate is 1 / count too small on average.
    alike = float(ranks[1:] @ ranks[:-1] / max(ranks @ ranks, 1.0)) + 1 / max(count, 1)
    alike = min(max(alike, 0.0), _MOST_ALIKE)
    return count * (1 - alike) / (1 + alike)


def runs_in(ns, seconds=ROUND_SECONDS):
    """Return how many runs of `ns` nanoseconds take about `seconds`."""
    return max(1, min(10_000, round(seconds * 1e9 / max(ns, 1))))


def measure(subjects, budget, progress=None, clock=time.perf_counter_ns):
    """Run all subjects in turns, one round each, until every one is known as well as `budget` asks.

    Args:
        subjects: list of (`Series`, function of the runs of a round that is called after the round, or None). Each is
            warmed up first.
        budget: `Budget`; at least one round of each is run.
        progress: function without arguments that is called after the turns, or None.
        clock: function that returns nanoseconds.
    """
    # Looking at the interval after every round would stop at those that are narrow by chance: looks get rarer.
    look = LEAST_ROUNDS
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
    return runs_in(ns) if budget.runs is None else max(1, min(runs_in(ns), budget.runs // LEAST_ROUNDS))


def _times(run, runs, clock):
    times = np.empty(runs)
    for at in range(runs):
        start = clock()
        run()
        times[at] = clock() - start
    return times
