"""Latency of what can be run again and again: warm-up until stable, then rounds until the median is known."""

import dataclasses
import math
import time

import numpy as np

ROUND_SECONDS = 0.01
LEAST_ROUNDS = 10
PRECISION = 0.01
_WARM_UP_SECONDS = 2.0
_STABLE = 0.02


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to measure: exactly `runs` runs, or until the interval is narrow, `seconds` at most."""

    runs: int | None = None
    seconds: float = 5.0


class Series:
    """The times of one subject: `block` runs it several times and keeps the nanoseconds of each run.

    Args:
        run: function without arguments.
    """

    def __init__(self, run):
        self._run = run
        self.rounds = []

    def block(self, runs):
        """Run `runs` times, and keep the times as one round."""
        self.rounds.append(_times(self._run, runs))

    @property
    def runs(self):
        """How many runs are kept."""
        return sum(map(len, self.rounds))

    def interval(self):
        """Return the 95 % confidence interval of the median, in ns; infinite with less than six rounds.

        It is that of the median of the rounds' medians, by their order. Runs that follow one another are alike on a
        machine whose clock changes or which others use: rounds, which are further apart, are closer to independent.
        """
        medians = sorted(float(np.median(times)) for times in self.rounds)
        return order_interval(medians)

    @property
    def converged(self):
        """Whether the interval lies within 1 % on either side of the median."""
        low, high = self.interval()
        middle = float(np.median(np.concatenate(self.rounds)))
        return len(self.rounds) >= LEAST_ROUNDS and max(high - middle, middle - low) <= PRECISION * middle

    def summary(self):
        """Return the statistics in us as a JSON-ready dictionary."""
        us = np.concatenate(self.rounds) / 1000
        p10, median, p90, p99 = np.percentile(us, [10, 50, 90, 99])
        low, high = (None if math.isinf(each) else each / 1000 for each in self.interval())
        return {
            "us": {
                "median": float(median), "mean": float(us.mean()), "p10": float(p10), "p90": float(p90),
                "p99": float(p99), "min": float(us.min()), "low": low, "high": high,
            },
            "runs": len(us),
            "converged": self.converged,
            "rounds_us": [float(np.median(times)) / 1000 for times in self.rounds],
        }  # fmt: skip


def order_interval(ordered):
    """Return the 95 % confidence interval of the median of sorted independent values, from their order alone."""
    count = len(ordered)
    reach = 1.96 * math.sqrt(count) / 2
    first, last = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    if count < 6:
        return -math.inf, math.inf
    return ordered[max(0, first)], ordered[min(count, last) - 1]


def warm_up(run):
    """Run until two blocks in a row take the same time within 2 %, at most 2 s; return the ns of a run."""
    end = time.perf_counter() + _WARM_UP_SECONDS
    before = float(np.median(_times(run, 1)))
    while True:
        now = float(np.median(_times(run, runs_in(before))))
        if abs(now - before) <= _STABLE * before or time.perf_counter() >= end:
            return now
        before = now


def runs_in(ns, seconds=ROUND_SECONDS):
    """Return how many runs of `ns` nanoseconds take about `seconds`."""
    return max(1, min(10_000, round(seconds * 1e9 / max(ns, 1))))


def measure(subjects, budget):
    """Run all subjects in turns, one round each, until every one is known as well as `budget` asks.

    Args:
        subjects: list of (`Series`, function of the runs of a round that is called after the round, or None). Each is
            warmed up first.
        budget: `Budget`.

    Returns:
        List of the warmed-up time of each in ns.
    """
    expected = [warm_up(series._run) for series, _ in subjects]
    per_round = [_round_size(ns, budget) for ns in expected]
    end = time.perf_counter() + budget.seconds
    while True:
        for (series, after), runs in zip(subjects, per_round, strict=True):
            left = runs if budget.runs is None else min(runs, budget.runs - series.runs)
            if left > 0:
                series.block(left)
                if after:
                    after(left)
        if budget.runs is not None:
            if all(series.runs >= budget.runs for series, _ in subjects):
                return expected
        elif time.perf_counter() >= end or all(series.converged for series, _ in subjects):
            return expected


def _round_size(ns, budget):
    return runs_in(ns) if budget.runs is None else max(1, min(runs_in(ns), budget.runs // LEAST_ROUNDS))


def _times(run, runs):
    clock = time.perf_counter_ns
    times = np.empty(runs)
    for at in range(runs):
        start = clock()
        run()
        times[at] = clock() - start
    return times
