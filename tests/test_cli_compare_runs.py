"""`keras-nin compare-runs` as a user runs it."""

import json

import pytest

from keras_nin.benchmark.records import BenchmarkResult, KernelTime, LatencyStatistics, LayerTime, Profile

HOST = {"cpu": "A", "cores": 2, "system": "S", "python": "3", "litert": "2", "state": {}}


def benchmark(median=100.0, *, layer_us=40.0, file="net.tflite", sha="1", within=0.005, host=HOST):
    low, high = (None, None) if within is None else (median * (1 - within), median * (1 + within))
    us = LatencyStatistics(median, median, median, median, median, median, low, high)
    time = KernelTime(layer_us, layer_us, layer_us, layer_us)
    layers = (LayerTime("squeeze1x1", "CONV_2D", (0,), "GEMM", "pointwise", "reduce", None, time, 0.4, 10, 1.0, 10),)
    profile = Profile(file, sha, 10, host, 1, 100, True, us, 1.0, 1.0, 1, 1, "compiled_model", layers=layers)
    return BenchmarkResult(host, (profile,), ("busy",))


@pytest.fixture
def compare(cli, tmp_path):
    """A function that compares two benchmarks in files."""

    def run(before, after, *options):
        for name, made in (("a.json", before), ("b.json", after)):
            (tmp_path / name).write_text(json.dumps(made.to_json()))
        return cli("compare-runs", "a.json", "b.json", *options)

    return run


def test_what_became_slower_is_shown(compare):
    ran = compare(benchmark(), benchmark(120, layer_us=60))
    assert (ran.status, ran.err) == (0, "")
    assert "net.tflite" in ran.out
    assert "Before and after: batch 1; " in ran.out
    assert ["1.200", "1.166", "to", "1.235", "±", "2.8%", "100,", "100", "slower"] in [
        line.split()[4:] for line in ran.out.splitlines()
    ]
    assert "squeeze1x1" in ran.out
    assert "+20.0" in ran.out
    assert "Warning, before: busy" in ran.out


@pytest.mark.parametrize(
    ("median", "limit", "status"), [(120, "5%", 1), (120, "0.25", 0), (103, "5%", 0), (80, "0", 0)]
)
def test_the_exit_status_is_that_of_the_limit(compare, median, limit, status):
    ran = compare(benchmark(), benchmark(median), "--max-regression", limit)
    assert ran.status == status
    assert ran.err.startswith("FAIL: net.tflite: 1.200 times as slow") == bool(status)


def test_the_smallest_effect_is_an_option(compare):
    ran = compare(benchmark(), benchmark(100.2, within=0.001))
    assert "no significant change" in ran.out
    assert "the ratio is 2.0% or more away from it" in ran.out
    ran = compare(benchmark(), benchmark(120), "--min-effect", "25%", "--json")
    assert (ran.json["min_effect"], ran.json["changes"][0]["verdict"]) == (0.25, "no significant change")


def test_json_is_one_document(compare):
    ran = compare(benchmark(), benchmark(120, sha="2"), "--json", "--max-regression", "5%")
    assert ran.status == 1
    assert ran.json["schema"] == "keras_nin.compare_runs/1"
    (change,) = ran.json["changes"]
    assert (change["ratio"], change["same_content"], change["verdict"]) == (1.2, False, "slower")


def test_what_makes_the_ratio_doubtful_is_said(compare):
    ran = compare(benchmark(), benchmark(120, sha="2", within=None, host=HOST | {"cpu": "B"}))
    assert "The machines differ" in ran.out
    assert "cpu: A before, B after" in ran.out
    assert "net.tflite" in ran.out
    assert "unknown: too few runs" in ran.out


def test_results_of_one_side_are_listed(compare):
    both = BenchmarkResult(HOST, (*benchmark().profiles, *benchmark(file="other.tflite").profiles))
    assert "other.tflite on 1 thread: only before." in compare(both, benchmark()).out
    assert "other.tflite on 1 thread: only after." in compare(benchmark(), both).out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Expected a readable file"),
        ("{", "Expected a JSON file"),
        ("[]", "Expected a JSON file of `keras-nin benchmark`"),
        ('{"schema": "keras_nin.audit/1"}', "Received: 'a.json': schema 'keras_nin.audit/1'"),
        ('{"schema": "keras_nin.benchmark/1"}', "damaged JSON file of `keras-nin benchmark`"),
    ],
)
def test_bad_files_are_refused_in_one_line(cli, tmp_path, content, message):
    (tmp_path / "b.json").write_text(json.dumps(benchmark().to_json()))
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    ran = cli("compare-runs", "a.json", "b.json")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err


@pytest.mark.parametrize("limit", ["", "5 percent", "-1%", "nan", "inf"])
def test_a_limit_is_a_share(cli, limit):
    ran = cli("compare-runs", "a.json", "b.json", "--max-regression", limit)
    assert ran.status == 2
    assert "expected a share such as 5% or 0.05" in ran.err


def test_nothing_in_common_is_refused(compare):
    ran = compare(benchmark(), benchmark(file="other.tflite"))
    assert ran.status == 2
    assert "no file and number of threads in common" in ran.err
