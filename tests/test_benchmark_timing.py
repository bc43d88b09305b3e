"""The statistics of a measurement, on machines whose time is made up."""

import math

import numpy as np
import pytest

from keras_nin.benchmark.runner import timing

MEDIAN_NS = 1e6


class Machine:
    """A clock that runs advance: `draw` gives the nanoseconds of the next one."""

    def __init__(self, draw):
        self.now, self.draw = 0.0, draw
        self.order = []

    def clock(self):
        return self.now

    def subject(self, name="a", draw=None):
        def run():
            self.order.append(name)
            self.now += (draw or self.draw)()

        return timing.TimedRuns(run, self.clock)

    def measure(self, *series, runs=None, seconds=5.0):
        timing.time_in_turns([(each, None) for each in series], timing.TimeBudget(runs, seconds), clock=self.clock)
        return series[0]


def skewed(rng, spread=0.05):
    """Times with a long tail and the median `MEDIAN_NS`."""
    return lambda: MEDIAN_NS * (1 + spread * (rng.exponential() - math.log(2)))


def correlated(rng, count, alike, spread=0.02):
    """Values around 1 of which neighbours are alike."""
    steps = rng.standard_normal(count) * spread * math.sqrt(1 - alike**2)
    values = [rng.standard_normal() * spread]
    for step in steps[1:]:
        values.append(alike * values[-1] + step)
    return np.exp(values)


def coverage(draw, repetitions=400):
    """The share of intervals of `draw()` that hold its median 1."""
    hits = 0
    for _ in range(repetitions):
        low, high = timing.median_interval(draw())
        hits += low <= 1 <= high
    return hits / repetitions


def test_the_interval_of_independent_values_holds_the_median():
    rng = np.random.default_rng(0)
    assert coverage(lambda: np.exp(0.1 * rng.standard_normal(30))) >= 0.94
    assert coverage(lambda: 1 + rng.standard_cauchy(30)) >= 0.94


def test_the_interval_is_wider_where_neighbours_are_alike(monkeypatch):
    rng = np.random.default_rng(1)
    assert coverage(lambda: correlated(rng, 60, 0.7)) >= 0.90
    monkeypatch.setattr(timing, "_effective_count", len)
    assert coverage(lambda: correlated(rng, 60, 0.7)) < 0.75


@pytest.mark.parametrize("count", [*range(1, 130), 1000])
def test_the_rank_keeps_the_level(count):
    """The exact probability that the median of so many values is outside."""

    def outside(rank):
        return 2 * sum(math.comb(count, below) for below in range(rank)) / 2**count

    rank = timing.interval_rank(count)
    assert outside(rank) <= 0.05
    if count < 100:
        assert outside(rank + 1) > 0.05


def test_six_values_are_the_fewest():
    assert timing.median_interval([1, 2, 3, 4, 5]) == (-math.inf, math.inf)
    assert timing.median_interval([3, 1, 6, 2, 5, 4]) == (1, 6)


def test_equal_values_are_no_trend():
    assert timing.median_interval([2.0] * 20) == (2.0, 2.0)


def test_stopping_when_the_interval_is_narrow_keeps_its_level():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        machine = Machine(skewed(rng))
        series = machine.measure(machine.subject())
        assert series.converged
        low, high = series.interval()
        hits += low <= MEDIAN_NS <= high
    assert hits >= 54


def test_a_steady_run_converges_after_the_fewest_rounds():
    machine = Machine(lambda: MEDIAN_NS)
    series = machine.measure(machine.subject())
    assert len(series.rounds) == timing.MIN_ROUNDS
    assert series.converged
    assert series.summary()["us"] == dict.fromkeys(("median", "mean", "p10", "p90", "p99", "min", "low", "high"), 1000)


def test_a_restless_run_ends_with_the_time():
    rng = np.random.default_rng(3)
    machine = Machine(lambda: MEDIAN_NS * rng.choice([1, 2]))
    series = machine.measure(machine.subject(), seconds=1.0)
    assert not series.converged
    assert not series.summary()["converged"]
    assert 1e9 <= machine.now < 1.1e9


def test_a_run_longer_than_the_time_is_run_all_the_same():
    machine = Machine(lambda: 3e9)
    series = machine.measure(machine.subject(), seconds=1.0)
    assert series.runs == 1
    assert series.summary()["us"]["low"] is None


@pytest.mark.parametrize("runs", [1, 3, 9, 10, 25, 137, 1000])
def test_as_many_runs_as_asked_for(runs):
    machine = Machine(skewed(np.random.default_rng(4)))
    series = machine.measure(machine.subject(), runs=runs, seconds=1e-6)
    summary = series.summary()
    assert series.runs == summary["runs"] == sum(map(len, series.rounds)) == runs
    assert len(summary["rounds_us"]) >= min(runs, timing.MIN_ROUNDS)


def test_files_take_turns():
    machine = Machine(None)
    first = machine.subject("a", lambda: 10e6)
    second = machine.subject("b", lambda: 5e6)
    machine.measure(first, second, runs=20)
    warmed_up = machine.order.index("b")
    turns = machine.order[machine.order.index("a", warmed_up) :]
    assert "".join(turns[:12]) == "abb" * 4
    assert first.runs == second.runs == 20


def test_what_comes_after_a_round_is_told_its_runs():
    machine = Machine(lambda: MEDIAN_NS)
    series, told = machine.subject(), []
    timing.time_in_turns([(series, told.append)], timing.TimeBudget(runs=25), clock=machine.clock)
    assert told == [len(times) for times in series.rounds]
    assert sum(told) == 25


def test_warm_up_lasts_until_two_blocks_agree():
    """The first 100 runs take ever less, as where caches fill and the clock rises."""
    times = iter([*np.linspace(10e6, MEDIAN_NS, 100), *[MEDIAN_NS] * 10_000])
    machine = Machine(lambda: next(times))
    series = machine.subject()
    assert series.warm_up() == pytest.approx(MEDIAN_NS, rel=0.05)
    assert series.runs == 0
    assert len(machine.order) > 80


def test_warm_up_of_what_never_settles_ends():
    times = (1e6 * 1.02**each for each in range(10_000))
    machine = Machine(lambda: next(times))
    machine.subject().warm_up(seconds=0.5)
    assert 0.5e9 <= machine.now < 0.6e9


def test_warm_up_of_a_long_run_is_two_of_it():
    machine = Machine(lambda: 30e9)
    machine.subject().warm_up()
    assert len(machine.order) == 2


def test_statistics_of_a_known_series():
    times = iter([1e3] * 2 + [float(each) * 1000 for each in range(1, 101)])
    machine = Machine(lambda: next(times))
    series = machine.subject()
    machine.draw()
    machine.draw()
    for _ in range(10):
        series.block(10)
    us = series.summary()["us"]
    assert us["median"] == 50.5
    assert us["mean"] == pytest.approx(50.5)
    assert (us["p10"], us["p90"], us["p99"]) == pytest.approx((10.9, 90.1, 99.01))
    assert us["min"] == 1
    assert series.summary()["rounds_us"] == [5.5 + 10 * each for each in range(10)]
    # Each round is slower than the one before: ten of them say no more than one.
    assert us["low"] is None


def test_the_interval_holds_the_median_of_few_runs():
    """The interval is of the rounds' medians, here 9 us but for one; most runs took 1 us."""
    series = timing.TimedRuns(lambda: None)
    for runs, us in [([1, 1, 9, 9, 9], 9)] * 9 + [([1] * 60, 1)]:
        series.rounds.append(np.array(runs) * 1000.0)
        series.medians.append(us * 1000.0)
    summary = series.summary()["us"]
    assert summary["median"] == 1
    assert summary["low"] <= summary["median"] <= summary["high"]
