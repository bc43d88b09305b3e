"""Ratios and their intervals, on made-up times."""

import dataclasses
import json
import math

import numpy as np
import pytest

from keras_nin.benchmark import comparison
from keras_nin.benchmark.records import BenchmarkResult, KernelTime, LatencyStatistics, LayerTime, Profile
from keras_nin.errors import InputError

HOST = {"cpu": "A", "cores": 2, "system": "S", "python": "3", "litert": "2", "state": {}}


def layer(name, us, kernel="GEMM"):
    time = None if us is None else KernelTime(us, us, us, us)
    return LayerTime(name, "CONV_2D", (0,), kernel, "pointwise", "mix", None, time, 0.1, 10, 1.0, 10)


def profile(file="net.tflite", median=100.0, within=0.01, threads=1, layers=(), rounds=(), sha="1"):
    low, high = (None, None) if within is None else (median * (1 - within), median * (1 + within))
    total = LatencyStatistics(median, median, median, median, median, median, low, high)
    return Profile(
        file, sha, 10, HOST, threads, 100, True, total, 1.0, 1.0, 1, 1, "compiled_model",
        layers=tuple(layers), rounds_us=tuple(rounds),
    )  # fmt: skip


def benchmark(*profiles, host=HOST, warnings=()):
    return BenchmarkResult(host, profiles, warnings)


def compare(before, after):
    return comparison.compare_runs(benchmark(before), benchmark(after)).changes[0]


def test_ratios_are_to_the_first_with_as_many_threads():
    profiles = [
        profile("a", rounds=[10] * 10), profile("a", threads=2, rounds=[5] * 10),
        profile("b", rounds=[15] * 12), profile("b", threads=2, rounds=[20] * 10),
    ]  # fmt: skip
    assert comparison.compute_ratios(profiles) == (
        comparison.LatencyRatio("b", "a", 1, 1.5, 1.5, 1.5),
        comparison.LatencyRatio("b", "a", 2, 4.0, 4.0, 4.0),
    )


def test_the_interval_of_a_ratio_holds_it_while_the_machine_drifts():
    """The clock wanders by a third; both files feel it alike, and 20 % remain 20 %."""
    rng = np.random.default_rng(0)
    hits, widths = 0, []
    for _ in range(300):
        drift = np.exp(0.1 * np.cumsum(rng.standard_normal(60) * 0.3))
        ours, theirs = (time * drift * (1 + 0.03 * (rng.exponential(size=60) - math.log(2))) for time in (120.0, 100.0))
        (found,) = comparison.compute_ratios([profile("a", rounds=theirs), profile("b", rounds=ours)])
        hits += found.low <= 1.2 <= found.high
        widths.append(found.high - found.low)
    assert hits >= 0.92 * 300
    assert np.median(widths) < 0.05


def test_too_few_rounds_have_no_interval():
    (found,) = comparison.compute_ratios([profile("a", rounds=[1, 1, 1]), profile("b", rounds=[2, 2, 2])])
    assert (found.ratio, found.low, found.high) == (2, None, None)


def test_ratios_need_rounds():
    with pytest.raises(InputError, match="'b' without rounds"):
        comparison.compute_ratios([profile("a", rounds=[1]), profile("b")])


def test_the_interval_of_independent_runs_holds_the_ratio():
    """Medians of two independent samples, each with the interval that a benchmark gives it."""
    from keras_nin.benchmark.runner.timing import median_interval

    rng = np.random.default_rng(1)

    def measured(center):
        times = center * np.exp(0.05 * rng.standard_normal(40))
        low, high = median_interval(times)
        made = profile(median=float(np.median(times)))
        return dataclasses.replace(made, total=dataclasses.replace(made.total, low=low, high=high))

    changes = [compare(measured(100), measured(110)) for _ in range(400)]
    assert sum(change.low <= 1.1 <= change.high for change in changes) >= 0.94 * 400


def test_the_interval_combines_both():
    change = compare(profile(within=0.03), profile(median=200, within=0.04))
    assert change.ratio == 2
    assert 0.04 < change.high / 2 - 1 < 0.07
    assert 0.04 < 1 - change.low / 2 < 0.07
    exact = compare(profile(within=0.0), profile(median=200, within=0.0))
    assert (exact.low, exact.high) == (2, 2)


@pytest.mark.parametrize(
    ("median", "within", "verdict"),
    [(110, 0.01, "slower"), (90, 0.01, "faster"), (101, 0.01, "alike"), (110, 0.2, "alike"), (110, None, "unknown")],
)
def test_verdicts(median, within, verdict):
    assert compare(profile(), profile(median=median, within=within)).verdict == verdict


@pytest.mark.parametrize(
    ("median", "within", "limit", "fails"),
    [
        (110, 0.005, 0.05, True),  # 10 % slower, known to 1 %
        (110, 0.08, 0.05, False),  # noise may explain it
        (104, 0.001, 0.05, False),  # slower for certain, by less than the limit
        (106, 0.001, 0.05, True),
        (90, 0.001, 0.0, False),
        (110, None, 0.05, True),  # nothing but the medians to go by
        (104, None, 0.05, False),
    ],
)
def test_what_exceeds_a_limit(median, within, limit, fails):
    found = comparison.compare_runs(benchmark(profile(within=0.001)), benchmark(profile(median=median, within=within)))
    assert bool(found.regressions(limit)) is fails


def test_results_are_matched_by_file_and_threads():
    before = benchmark(profile("a"), profile("a", threads=2, median=50), profile("gone"))
    after = benchmark(profile("new"), profile("a", threads=2, median=60), profile("a", sha="2"))
    found = comparison.compare_runs(before, after)
    assert [(each.file, each.threads, each.before_us, each.after_us) for each in found.changes] == [
        ("a", 2, 50, 60), ("a", 1, 100, 100)
    ]  # fmt: skip
    assert [each.same_content for each in found.changes] == [True, False]
    assert found.only_before == (("gone", 1),)
    assert found.only_after == (("new", 1),)


def test_results_with_one_name_are_matched_in_order():
    before = benchmark(profile(median=1), profile(median=2))
    found = comparison.compare_runs(before, benchmark(profile(median=3), profile(median=8)))
    assert [each.ratio for each in found.changes] == [3, 4]


def test_nothing_in_common():
    with pytest.raises(InputError, match="Expected results of the same files.*Received: a and b"):
        comparison.compare_runs(benchmark(profile("a")), benchmark(profile("b")))


def test_hosts_that_differ_are_said():
    found = comparison.compare_runs(
        benchmark(profile(), warnings=("busy",)), benchmark(profile(), host=HOST | {"cpu": "B", "state": {"x": 1}})
    )
    assert found.hosts == ("cpu: A before, B after",)
    assert found.warnings == ("before: busy",)


def test_layers_that_changed_come_first():
    before = [layer("same", 50), layer("slower", 20), layer("tiny", 1.0), layer("faster", 90), layer("gone", 5)]
    after = [layer("same", 51), layer("slower", 30), layer("tiny", 1.6), layer("faster", 50), layer("new", 7, "Copy")]
    found = compare(profile(layers=before), profile(layers=after)).layers
    assert [(each.name, each.added_us) for each in found] == [
        ("faster", -40), ("slower", 10), ("new", 7), ("gone", -5)
    ]  # fmt: skip


def test_another_kernel_is_told_whatever_its_time():
    (found,) = compare(
        profile(layers=[layer("a", 5, "GEMM"), layer("b", None, None)]),
        profile(layers=[layer("a", 5, "IGEMM"), layer("b", None, None)]),
    ).layers
    assert (found.before_kernel, found.after_kernel) == ("GEMM", "IGEMM")


def test_without_layers_on_one_side_none_are_told():
    assert compare(profile(), profile(layers=[layer("a", 5)])).layers == ()


def test_a_comparison_is_json():
    found = comparison.compare_runs(
        benchmark(profile(layers=[layer("a", 5)])), benchmark(profile(layers=[layer("a", 9)]))
    )
    document = json.loads(json.dumps(found.to_json()))
    assert document["schema"] == "keras_nin.compare_runs/1"
    assert document["changes"][0]["layers"][0]["after_us"] == 9


def written(path, document):
    path.write_text(json.dumps(document))
    return path


def test_a_benchmark_is_read_from_its_file(tmp_path):
    made = benchmark(profile(layers=[layer("a", 5)], rounds=[1.0]))
    assert comparison.read_benchmark(written(tmp_path / "a.json", made.to_json())) == made


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda document: [], ": none"),
        (lambda document: document | {"schema": "keras_nin.audit/1"}, "schema 'keras_nin.audit/1'"),
        (lambda document: {"schema": document["schema"]}, "KeyError: 'host'"),
        (lambda document: document | {"results": [{}]}, "KeyError"),
        (lambda document: document | {"results": 3}, "TypeError"),
        (lambda document: document | {"host": None}, "AttributeError"),
        (lambda document: with_median(document, 0), "no positive number"),
        (lambda document: with_median(document, "fast"), "TypeError"),
        (lambda document: with_median(document, math.nan), "no positive number"),
    ],
)
def test_what_is_no_benchmark_is_refused_in_one_line(tmp_path, change, problem):
    path = written(tmp_path / "a.json", change(as_read(benchmark(profile()))))
    with pytest.raises(InputError, match="^Expected a .*JSON file of `keras-nin benchmark`") as caught:
        comparison.read_benchmark(path)
    assert "\n" not in str(caught.value)
    assert problem in str(caught.value)


def as_read(made):
    return json.loads(json.dumps(made.to_json()))


def with_median(document, value):
    document["results"][0]["total"]["us"] |= {"median": value}
    return document
