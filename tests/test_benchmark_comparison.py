"""Which files and layers became slower, on made-up times."""

import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
from latency_records import HOST, layer
from latency_records import profile as make_profile

from keras_nin.benchmark import BenchmarkResult, comparison
from keras_nin.errors import InputError


def profile(file="net.tflite", median=100.0, within=0.01, layers=(), **fields):
    made = make_profile(*layers, file=file, median=median, within=0.01 if within is None else within, **fields)
    if within is None:
        object.__setattr__(made.total, "low", None)
        object.__setattr__(made.total, "high", None)
    return made


def benchmark(*profiles, host=HOST, warnings=()):
    return BenchmarkResult(host, profiles, warnings)


def compare(before, after):
    return comparison.compare_runs(benchmark(before), benchmark(after)).changes[0]


def test_ratios_are_to_the_first_with_as_many_threads():
    profiles = [
        profile("a", rounds_us=[10] * 10), profile("a", threads=2, rounds_us=[5] * 10),
        profile("b", rounds_us=[15] * 12), profile("b", threads=2, rounds_us=[20] * 3),
    ]  # fmt: skip
    assert comparison.compute_ratios(profiles) == (
        comparison.LatencyRatio("b", "a", 1, 1.5, 1.5, 1.5),
        comparison.LatencyRatio("b", "a", 2, 4.0, None, None),
    )
    with pytest.raises(InputError, match="'b' without rounds"):
        comparison.compute_ratios([profile("a", rounds_us=[1]), profile("b")])


@pytest.mark.parametrize(
    ("median", "within", "verdict"),
    [
        (110, 0.01, "slower"), (90, 0.01, "faster"), (101, 0.01, "no significant change"),
        (110, 0.2, "no significant change"), (110, None, "unknown"), (100.2, 0.001, "no significant change"),
        (102.5, 0.001, "no significant change"), (105, 0.001, "slower"), (95, 0.001, "faster"),
    ],
)  # fmt: skip
def test_verdicts(median, within, verdict):
    assert compare(profile(), profile(median=median, within=within)).verdict == verdict


def test_one_process_has_the_drift_of_its_blocks_or_one_percent():
    steady, drifting = [100.0] * 50, [value for value in (97, 103, 98, 104, 100) for _ in range(10)]
    reach = math.log(1 + compare(profile(within=0), profile(within=0, rounds_us=steady)).drift)
    assert reach == pytest.approx(1.96 * math.hypot(0.01, 0.01))
    change = compare(profile(within=0), profile(median=104, within=0, rounds_us=drifting))
    spread = statistics.stdev(map(math.log, (97, 103, 98, 104, 100)))
    assert math.log(1 + change.drift) == pytest.approx(1.96 * math.hypot(0.01, spread))
    assert change.verdict == "no significant change"
    assert change.low == pytest.approx(1.04 / (1 + change.drift))


def test_one_process_on_a_busy_machine_proves_little():
    busy, quiet = (profile(median=80, within=0.001, others_share=share) for share in (0.7, 0.05))
    assert compare(profile(within=0.001), busy).verdict == "no significant change"
    assert compare(profile(within=0.001), quiet).verdict == "faster"


def test_several_processes_tell_the_drift():
    """Whatever the true spread of processes is, the interval excludes 1 for about 5% of equal files."""
    rng = np.random.default_rng(0)

    def measured(spread, count):
        medians = sorted(100 * np.exp(spread * rng.standard_normal(count)))
        return profile(median=medians[(count - 1) // 2], within=0.0001, processes_us=tuple(medians))

    for spread, count in ((0.001, 3), (0.03, 3), (0.03, 9)):
        changes = [compare(measured(spread, count), measured(spread, count)) for _ in range(400)]
        assert 0.90 <= np.mean([change.low <= 1 <= change.high for change in changes]) <= 0.985
    quiet = comparison.compare_runs(
        benchmark(measured(0.0005, 5)), benchmark(dataclasses.replace(measured(0.0005, 5), sha256="2")), min_effect=0
    )
    assert quiet.changes[0].drift < 0.003


@pytest.mark.parametrize(("min_effect", "verdict"), [(0.02, "slower"), (0.1, "no significant change"), (0, "slower")])
def test_the_smallest_effect_of_interest(min_effect, verdict):
    sides = benchmark(profile(within=0.001)), benchmark(profile(median=105, within=0.001))
    compared = comparison.compare_runs(*sides, min_effect=min_effect)
    assert (compared.changes[0].verdict, compared.min_effect) == (verdict, min_effect)
    with pytest.raises(InputError, match="Expected `min_effect` to be a share"):
        comparison.compare_runs(*sides, min_effect=-0.1)


@pytest.mark.parametrize(
    ("median", "within", "limit", "fails"),
    [
        (110, 0.005, 0.05, True),  # 10% slower, known to 1%
        (110, 0.08, 0.05, False),  # noise may explain it
        (104, 0.001, 0.05, False),  # slower for certain, by less than the limit
        (107, 0.001, 0.05, False),  # run-to-run drift may explain it
        (109, 0.001, 0.05, True),
        (90, 0.001, 0.0, False),
        (110, None, 0.05, True),  # only the medians to go by
        (104, None, 0.05, False),
    ],
)
def test_what_exceeds_a_limit(median, within, limit, fails):
    before, after = profile(within=0.001), profile(median=median, within=within)
    compared = comparison.compare_runs(benchmark(before), benchmark(after))
    assert bool(compared.regressions(limit)) is fails


def test_results_are_matched_by_file_and_threads_and_then_in_order():
    before = benchmark(profile("a"), profile("a", threads=2, median=50), profile("gone"))
    after = benchmark(profile("new"), profile("a", threads=2, median=60), profile("a", sha256="2"))
    compared = comparison.compare_runs(before, after)
    assert [(change.file, change.threads, change.before_us, change.after_us) for change in compared.changes] == [
        ("a", 2, 50, 60), ("a", 1, 100, 100)
    ]  # fmt: skip
    assert [change.same_content for change in compared.changes] == [True, False]
    assert compared.only_before == (("gone", 1),)
    assert compared.only_after == (("new", 1),)
    twice = benchmark(profile(median=1), profile(median=2)), benchmark(profile(median=3), profile(median=8))
    assert [change.ratio for change in comparison.compare_runs(*twice).changes] == [3, 4]
    with pytest.raises(InputError, match="in common: a before, b after"):
        comparison.compare_runs(benchmark(profile("a")), benchmark(profile("b")))


def test_differences_between_hosts():
    other = benchmark(profile(), host=HOST | {"cpu": "B", "state": {"x": 1}})
    compared = comparison.compare_runs(benchmark(profile(), warnings=("busy",)), other)
    assert compared.hosts == ("cpu: Some CPU before, B after",)
    assert compared.warnings == ("before: busy",)


def test_layers_that_changed_most_come_first():
    before = [layer("same", 50), layer("slower", 20), layer("tiny", 1.0), layer("faster", 90), layer("gone", 5)]
    after = [layer("same", 51), layer("slower", 30), layer("tiny", 1.6), layer("faster", 50), layer("new", 7)]
    changes = compare(profile(layers=before), profile(layers=after)).layers
    assert [(change.name, change.added_us) for change in changes] == [
        ("faster", -40), ("slower", 10), ("new", 7), ("gone", -5)
    ]  # fmt: skip
    assert compare(profile(), profile(layers=[layer("a", 5)])).layers == ()
    drifting = [100.0] * 30 + [130.0] * 30
    names = [
        change.name for change in compare(profile(layers=before), profile(layers=after, rounds_us=drifting)).layers
    ]
    assert names == ["faster", "slower", "new", "gone"]
    assert [
        change.name
        for change in compare(
            profile(layers=before[:2]), profile(layers=[layer("same", 50), layer("slower", 24)], rounds_us=drifting)
        ).layers
    ] == []


def test_another_kernel_is_shown_whatever_its_time():
    sides = [profile(layers=[layer("a", 5, kernel=kernel), layer("b", None)]) for kernel in ("GEMM", "IGEMM")]
    (change,) = compare(*sides).layers
    assert (change.before_kernel, change.after_kernel) == ("GEMM", "IGEMM")


def test_a_comparison_is_json_and_a_table():
    sides = [benchmark(profile(layers=[layer("a", us)])) for us in (5, 9)]
    compared = comparison.compare_runs(*sides)
    document = json.loads(json.dumps(compared.to_json()))
    assert document["schema"] == "keras_nin.compare_runs/1"
    assert document["changes"][0]["layers"][0]["after_us"] == 9
    assert compared._rows()[0]["verdict"] == "no significant change"
    assert repr(compared) == "<RunComparison: net.tflite, 1 thread: 1.000 times, no significant change>"


def as_document(result):
    return json.loads(json.dumps(result.to_json()))


def written(path, document):
    path.write_text(json.dumps(document))
    return path


def test_a_benchmark_is_read_from_its_file(tmp_path):
    made = benchmark(profile(layers=[layer("a", 5)], rounds_us=(1.0,)))
    assert comparison.read_benchmark(written(tmp_path / "a.json", as_document(made))) == made


def with_median(document, value):
    document["results"][0]["total"]["us"] |= {"median": value}
    return document


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda document: [], "no schema"),
        (lambda document: document | {"schema": "keras_nin.audit/1"}, "schema 'keras_nin.audit/1'"),
        (lambda document: {"schema": document["schema"]}, "for host"),
        (lambda document: document | {"results": [{}]}, "for total"),
        (lambda document: document | {"results": 3}, "for results"),
        (lambda document: document | {"host": None}, "for host"),
        (lambda document: with_median(document, 0), "above 0"),
        (lambda document: with_median(document, "fast"), "LatencyStatistics.median"),
        (lambda document: with_median(document, math.nan), "not a finite number: NaN"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused_in_one_line(tmp_path, change, problem):
    path = written(tmp_path / "a.json", change(as_document(benchmark(profile()))))
    with pytest.raises(InputError, match="JSON file") as caught:
        comparison.read_benchmark(path)
    assert "\n" not in str(caught.value)
    assert problem in str(caught.value)
    assert caught.value.path == str(path)
