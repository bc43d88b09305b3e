"""The timing loop on a machine whose time is made up, the statistics, and what the profiler's events become."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_nin.benchmark.runner import litert, timing

MEDIAN_NS = 1e6


class Machine:
    """A clock that runs advance: `draw` gives the nanoseconds of the next one."""

    def __init__(self, draw):
        self.now, self.draw = 0.0, draw
        self.order = []

    def clock(self):
        return self.now

    def subject(self, name="a", draw=None, **hooks):
        def run():
            self.order.append(name)
            self.now += (draw or self.draw)()

        return timing.TimedRuns(run, clock=self.clock, **hooks)

    def measure(self, *subjects, **budget):
        timing.time_in_turns(subjects, timing.TimeBudget(**budget), clock=self.clock)
        return subjects[0]


def skewed(rng, spread=0.05):
    """Times with a long tail and the median `MEDIAN_NS`."""
    return lambda: MEDIAN_NS * (1 + spread * (rng.exponential() - math.log(2)))


def correlated(rng, count, correlation, spread=0.02):
    """Values around 1 of which neighbors are correlated."""
    steps = rng.standard_normal(count) * spread * math.sqrt(1 - correlation**2)
    values = [rng.standard_normal() * spread]
    for step in steps[1:]:
        values.append(correlation * values[-1] + step)
    return np.exp(values)


def coverage(draw, **options):
    """The share of intervals of `draw()` that hold its median 1."""
    intervals = [timing.median_interval(draw(), **options) for _ in range(400)]
    return np.mean([low <= 1 <= high for low, high in intervals])


def test_the_interval_of_independent_values_holds_the_median():
    rng = np.random.default_rng(0)
    assert coverage(lambda: np.exp(0.1 * rng.standard_normal(30))) >= 0.94
    assert coverage(lambda: 1 + rng.standard_cauchy(30), independent=True) >= 0.94


def test_the_interval_is_wider_where_neighbors_are_correlated():
    rng = np.random.default_rng(1)
    assert coverage(lambda: correlated(rng, 60, 0.7)) >= 0.90
    assert coverage(lambda: correlated(rng, 60, 0.7), independent=True) < 0.75


def test_the_rank_keeps_the_level():
    """By the exact probability that the median of so many values is outside."""

    def outside(count, rank):
        return 2 * sum(math.comb(count, below) for below in range(rank)) / 2**count

    for count in (*range(1, 130), 1000):
        rank = timing.interval_rank(count)
        assert outside(count, rank) <= 0.05
        if count < 100:
            assert outside(count, rank + 1) > 0.05


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=60))
def test_the_interval_is_of_the_values_and_around_their_median(values):
    low, high = timing.median_interval(values)
    independent_low, independent_high = timing.median_interval(values, independent=True)
    assert low <= independent_low <= np.median(values) <= independent_high <= high
    assert math.isfinite(independent_low) == (len(values) >= 6)
    if math.isfinite(low):
        assert {low, high} <= set(values)


def test_the_fewest_values_and_equal_ones():
    assert timing.median_interval([1, 2, 3, 4, 5]) == (-math.inf, math.inf)
    assert timing.median_interval([3, 1, 6, 2, 5, 4]) == (1, 6)
    assert timing.median_interval([2.0] * 20) == (2.0, 2.0)


def test_a_paired_ratio_holds_while_the_machine_drifts():
    """The clock wanders by a third; both files feel it, and 20% remain 20%."""
    rng = np.random.default_rng(0)
    hits, widths = 0, []
    for _ in range(300):
        drift = np.exp(0.1 * np.cumsum(rng.standard_normal(60) * 0.3))
        values, bases = (
            time * drift * (1 + 0.03 * (rng.exponential(size=60) - math.log(2))) for time in (120.0, 100.0)
        )
        _, low, high = timing.paired_ratio(values, bases)
        hits += low <= 1.2 <= high
        widths.append(high - low)
    assert hits >= 0.92 * 300
    assert np.median(widths) < 0.05
    assert timing.paired_ratio([2, 2, 2], [1, 1, 1]) == (2, None, None)
    assert timing.paired_ratio([15] * 12, [10] * 10) == (1.5, 1.5, 1.5)


def test_an_independent_ratio_combines_both_intervals():
    low, high = timing.independent_ratio_interval((200, 192, 208), (100, 97, 103))
    assert 0.04 < high / 2 - 1 < 0.07
    assert 0.04 < 1 - low / 2 < 0.07
    assert timing.independent_ratio_interval((200, 200, 200), (100, 100, 100)) == (2, 2)
    rng = np.random.default_rng(1)

    def measured(center):
        times = center * np.exp(0.05 * rng.standard_normal(40))
        return (float(np.median(times)), *timing.median_interval(times))

    intervals = [timing.independent_ratio_interval(measured(110), measured(100)) for _ in range(400)]
    assert np.mean([low <= 1.1 <= high for low, high in intervals]) >= 0.94


def test_stopping_when_the_interval_is_narrow_keeps_its_level():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        machine = Machine(skewed(rng))
        subject = machine.measure(machine.subject())
        assert subject.converged
        low, high = timing.median_interval(subject.medians)
        hits += low <= MEDIAN_NS <= high
    assert hits >= 54


def test_a_steady_run_converges_after_the_fewest_rounds():
    machine = Machine(lambda: MEDIAN_NS)
    subject = machine.measure(machine.subject())
    assert len(subject.rounds) == timing.MIN_ROUNDS
    assert subject.converged
    assert subject.summary()["us"] == dict.fromkeys(("median", "mean", "p10", "p90", "p99", "min", "low", "high"), 1000)


def test_an_unsteady_run_ends_with_the_time():
    rng = np.random.default_rng(3)
    machine = Machine(lambda: MEDIAN_NS * rng.choice([1, 2]))
    subject = machine.measure(machine.subject(), seconds=1.0)
    assert not subject.summary()["converged"]
    assert 1e9 <= machine.now < 1.1e9


def test_rounds_that_are_asked_for_take_longer_than_the_time():
    machine = Machine(lambda: 3e9)
    subject = machine.measure(machine.subject(), seconds=1.0)
    assert subject.runs == 1
    assert subject.summary()["us"]["low"] is None
    subject = machine.measure(machine.subject(), seconds=1.0, round_seconds=0, min_rounds=7)
    assert [len(times) for times in subject.rounds] == [1] * 7


def test_a_round_has_as_many_runs_as_fit():
    assert [timing.count_runs(ns, 1e-6) for ns in (1e12, 250, 1, 0)] == [1, 4, 1000, 1000]
    assert timing.count_runs(1) == 10_000


def test_an_interval_of_exactly_1_percent_is_narrow_enough(monkeypatch):
    subject = timing.TimedRuns(lambda: None)
    subject.rounds, subject.medians = [np.array([100.0])] * timing.MIN_ROUNDS, [100.0] * timing.MIN_ROUNDS
    for high, converged in ((101.0, True), (101.1, False)):
        monkeypatch.setattr(timing, "median_interval", lambda medians, high=high: (99.5, high))
        assert subject.converged is converged


def test_the_end_of_the_time_is_the_end():
    """Two runs warm up, and the second one after these ends with the time."""
    machine = Machine(lambda: 0.25e9)
    assert machine.measure(machine.subject(), seconds=1.0, warm_up_seconds=0.0).runs == 2
    assert machine.now == 1e9


@pytest.mark.parametrize("runs", [1, 9, 10, 137, 1000])
def test_as_many_runs_as_asked_for(runs):
    machine = Machine(skewed(np.random.default_rng(4)))
    subject = machine.measure(machine.subject(), runs=runs, seconds=1e-6)
    summary = subject.summary()
    assert subject.runs == summary["runs"] == sum(map(len, subject.rounds)) == runs
    assert len(summary["rounds_us"]) >= min(runs, timing.MIN_ROUNDS)


def test_subjects_take_turns():
    machine = Machine(None)
    first = machine.subject("a", lambda: 10e6)
    second = machine.subject("b", lambda: 5e6)
    machine.measure(first, second, runs=20)
    warmed_up = machine.order.index("b")
    turns = machine.order[machine.order.index("a", warmed_up) :]
    assert "".join(turns[:12]) == "abb" * 4
    assert first.runs == second.runs == 20


def test_what_precedes_a_run_is_not_timed_and_what_follows_a_round_knows_its_runs():
    machine = Machine(lambda: MEDIAN_NS)
    calls, rounds = [], []

    def prepare():
        machine.now += 5 * MEDIAN_NS
        calls.append(len(machine.order))

    subject = machine.measure(machine.subject(before_run=prepare, after_round=rounds.append), runs=25)
    assert subject.summary()["us"]["median"] == 1000
    assert calls == list(range(len(machine.order)))
    assert rounds == [len(times) for times in subject.rounds]
    assert sum(rounds) == 25


def test_warm_up_lasts_until_two_blocks_agree():
    """The first 100 runs take ever less, as where caches fill and the clock rises."""
    times = iter([*np.linspace(10e6, MEDIAN_NS, 100), *[MEDIAN_NS] * 10_000])
    machine = Machine(lambda: next(times))
    subject = machine.subject()
    assert subject.warm_up() == pytest.approx(MEDIAN_NS, rel=0.05)
    assert subject.runs == 0
    assert len(machine.order) > 80


def test_warm_up_ends():
    growing = (1e6 * 1.02**index for index in range(10_000))
    machine = Machine(lambda: next(growing))
    machine.subject().warm_up(seconds=0.5)
    assert 0.5e9 <= machine.now < 0.6e9
    machine = Machine(lambda: 30e9)
    machine.subject().warm_up()
    assert len(machine.order) == 2


def test_statistics_of_known_times():
    times = iter([float(us) * 1000 for us in range(1, 101)])
    subject = Machine(lambda: next(times)).subject()
    for _ in range(10):
        subject.run_round(10)
    us = subject.summary()["us"]
    assert us["median"] == 50.5
    assert us["mean"] == pytest.approx(50.5)
    assert (us["p10"], us["p90"], us["p99"]) == pytest.approx((10.9, 90.1, 99.01))
    assert us["min"] == 1
    assert subject.summary()["rounds_us"] == [5.5 + 10 * index for index in range(10)]
    # Each round is slower than the one before: ten of them say no more than one.
    assert us["low"] is None


def test_the_interval_holds_the_median_of_few_runs():
    """The interval is of the rounds' medians, here 9 us but for one; most runs took 1 us."""
    subject = timing.TimedRuns(lambda: None)
    for runs, us in [([1, 1, 9, 9, 9], 9)] * 9 + [([1] * 60, 1)]:
        subject.rounds.append(np.array(runs) * 1000.0)
        subject.medians.append(us * 1000.0)
    summary = subject.summary()["us"]
    assert summary["median"] == 1
    assert summary["low"] <= summary["median"] <= summary["high"]


# The profiler's events.

NAMES = {1: "Invoke", 2: "Conv", 3: "Copy", 4: "LiteRT::Run[buffer sync]", 5: "WHILE"}
INVOKE, CONV, COPY, SYNC, LOOP = NAMES
DEFAULT, OPERATOR, DELEGATE, TELEMETRY = 1, 2, 8, 32


def events(*rows):
    """Events as the profiler records them, from (name, type, us, index) or (name, type, us, index, subgraph)."""
    recorded = np.zeros(len(rows), np.dtype(litert.ProfilerEvent))
    for index, row in enumerate(rows):
        for field, value in zip(("tag", "type", "elapsed_us", "index", "subgraph"), (*row, 0)[:5], strict=True):
            recorded[index][field] = value
    return recorded


def a_run(total, conv, copy):
    return [
        (SYNC, DEFAULT, 9, 0),
        (INVOKE, DEFAULT, total, 0),
        (CONV, DELEGATE, conv, 0),
        (COPY, OPERATOR, copy, 7),
        (INVOKE, TELEMETRY, 2**32, 0),
        (SYNC, DEFAULT, 9, 0),
    ]


def summarize(*rows):
    return timing.summarize_profile(timing.split_runs(events(*rows), NAMES))


def test_events_become_kernels_in_order():
    before = (CONV, DELEGATE, 99, 0)  # what comes before the first run is no kernel of it
    runs = timing.split_runs(events(before, *a_run(30, 20, 5), *a_run(40, 25, 6)), NAMES)
    assert [run.kernels for run in runs] == [(("delegate", "Conv", 0), ("operator", "Copy", 7))]
    assert runs[0].total_us.tolist() == [30, 40]
    assert runs[0].kernel_us.tolist() == [[20, 5], [25, 6]]


def a_loop(total, *iterations):
    """A run of Conv, a loop whose body (subgraph 2) is Conv and Copy, and Copy."""
    rows = [(INVOKE, DEFAULT, total, 0), (CONV, DELEGATE, 3, 0), (LOOP, OPERATOR, total - 9, 1)]
    for conv, copy in iterations:
        rows += [(INVOKE, DEFAULT, 20, 0, 1), (COPY, OPERATOR, 0, 0, 1), (INVOKE, DEFAULT, 30, 0, 2)]
        rows += [(CONV, DELEGATE, conv, 0, 2), (COPY, OPERATOR, copy, 1, 2), (INVOKE, TELEMETRY, 2**32, 0, 2)]
    return [*rows, (COPY, OPERATOR, 4, 7)]


def test_kernels_inside_an_operator_are_summed_and_are_no_runs():
    summary = summarize(*a_loop(100, (8, 1), (10, 1)), *a_loop(120, (9, 2), (11, 1)))
    assert (summary["runs"], summary["other_runs"], summary["invoke_us"]["mean"]) == (2, 0, 110)
    assert [(kernel["name"], kernel["index"]) for kernel in summary["kernels"]] == [
        ("Conv", 0),
        ("WHILE", 1),
        ("Copy", 7),
    ]
    assert [("inner" in kernel) for kernel in summary["kernels"]] == [False, True, False]
    inner = [tuple(entry.values()) for entry in summary["kernels"][1]["inner"]]
    assert inner == [
        (1, "invoke", "Invoke", 0, 2, 40), (1, "operator", "Copy", 0, 2, 0), (2, "invoke", "Invoke", 0, 2, 60),
        (2, "delegate", "Conv", 0, 2, 19), (2, "operator", "Copy", 1, 2, 2.5),
    ]  # fmt: skip


def test_runs_with_other_numbers_of_iterations_are_kept_apart():
    summary = summarize(*a_loop(100, (8, 1)), *a_loop(100, (8, 1), (8, 1)), *a_loop(100, (8, 1), (8, 1)))
    assert (summary["runs"], summary["other_runs"]) == (2, 1)


def test_runs_of_other_kernels_are_kept_apart():
    odd = [(INVOKE, DEFAULT, 50, 0), (CONV, DELEGATE, 45, 0)]
    swapped = [(INVOKE, DEFAULT, 60, 0), (COPY, OPERATOR, 6, 7), (CONV, DELEGATE, 45, 0)]
    summary = summarize(*a_run(30, 20, 5), *odd, *a_run(40, 25, 6), *swapped)
    assert (summary["runs"], summary["other_runs"]) == (2, 2)
    assert [(kernel["name"], kernel["us"]["mean"]) for kernel in summary["kernels"]] == [("Conv", 22.5), ("Copy", 5.5)]


def test_runs_without_kernels_and_none_at_all():
    empty = summarize((INVOKE, DEFAULT, 3, 0), (INVOKE, DEFAULT, 5, 0))
    assert (empty["runs"], empty["kernels"], empty["invoke_us"]["median"]) == (2, [], 4)
    assert summarize() is None


def test_typical_times_leave_outliers_out():
    rows = [row for total in (1, 30, 30, 31, 31, 900) for row in a_run(total, total // 2, 5)]
    conv = summarize(*rows)["kernels"][0]["us"]
    assert conv["typical"] == 15
    assert conv["mean"] > 80
    # On a busy machine every run near the median may have been interrupted, each in another kernel.
    rows = [row for _ in range(8) for row in a_run(100, 20, 5)]
    rows += [row for conv, copy in ((20, 4005), (4020, 5)) for row in a_run(100, conv, copy)]
    conv, copy = summarize(*rows)["kernels"]
    assert (conv["us"]["typical"], copy["us"]["typical"]) == (20, 5)
    assert conv["us"]["mean"] == 420


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_a_typical_time_is_among_the_times(totals):
    conv = summarize(*(row for total in totals for row in a_run(total, total, 5)))["kernels"][0]["us"]
    assert min(totals) <= conv["typical"] <= max(totals)


def test_kernels_are_recognized_by_name_across_recordings():
    """The profiler's names have other addresses after a reset."""
    first = timing.split_runs(events(*a_run(30, 20, 5)), NAMES)
    other_names = {tag + 100: name for tag, name in NAMES.items()}
    rows = [(tag + 100, *rest) for tag, *rest in a_run(40, 25, 6)]
    assert timing.summarize_profile(first + timing.split_runs(events(*rows), other_names))["runs"] == 2
