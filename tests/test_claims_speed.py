"""The timed claim: its ratios and intervals from given times, and one measurement of its own."""

import json

import pytest
import speed_samples

from keras_nin import claims
from keras_nin.claims import speed
from keras_nin.claims.claim import ClaimsResult, Interval
from keras_nin.report.claims import format_claims, format_claims_markdown

CALL = "time of 3x3 over 1x1, float32, 1 thread, whole call"
KERNEL = "time of 3x3 over 1x1, float32, 1 thread, inside the kernel"


def figures(ratios, **options):
    return speed.speed_figures([speed_samples.sample(turn, ratio, **options) for turn, ratio in enumerate(ratios)])


def reproduced(monkeypatch, ratios, cores=2):
    monkeypatch.setattr(speed, "_export_layer", lambda layer, folder: {})
    monkeypatch.setattr(
        speed,
        "_measure_in_process",
        lambda paths, threads, turn: speed_samples.sample(turn, ratios[turn], threads=threads),
    )
    monkeypatch.setattr("keras_nin.tflite.host.describe_host", lambda: speed_samples.HOST | {"cores": cores})
    return claims.reproduce_claim(claims.get_claim("paperspace-speed"))


def test_the_ratio_is_taken_in_each_process_and_the_interval_over_them():
    found = figures([9.0, 10, 11, 8, 9.5, 8.5, 10.5, 9, 100, 0.01])
    # Of ten values the second smallest to the second largest.
    assert found[KERNEL] == Interval(9.25, 8, 11)
    assert found[CALL].median == pytest.approx((50 * 9.25 + 5) / 55)
    assert found[CALL].low == pytest.approx((50 * 8 + 5) / 55)


def test_cold_runs_are_told_apart_by_which_layer_came_first():
    found = figures([3, 5, 4, 6, 5, 7])
    assert found["first run of 3x3 over 1x1, float32, 1x1 loaded first"] == Interval(4, 3, 5)
    assert found["first run of 3x3 over 1x1, float32, 3x3 loaded first"] == Interval(6, 5, 7)
    both = found["loading and first run of 3x3 over 1x1, float32, 1x1 loaded first"]
    assert both.median == pytest.approx((1000 + 2 * 50 * 4) / (1000 + 2 * 50))


def test_without_a_profiler_nothing_is_said_of_kernels():
    found = figures([9.0] * 10, kernel=False)
    assert KERNEL not in found
    assert CALL in found


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([9.0] * 10, "does not hold"),
        ([9.0] * 9 + [400.0], "does not hold"),  # one process that was disturbed decides nothing
        ([25.4] * 10, "does not hold"),  # whole calls: (50 * 25.4 + 5) / 55 = 23.18 of 23.16, and known exactly
        ([20.0, 40.0] * 5, "holds"),
        ([60.0] * 10, "does not hold"),
    ],
)
def test_the_verdict_is_by_interval(ratios, verdict, monkeypatch):
    result = reproduced(monkeypatch, ratios)
    assert result.verdict == verdict
    assert result.reproduced


def test_one_core_measures_one_thread(monkeypatch):
    result = reproduced(monkeypatch, [9.0] * 10, cores=1)
    missing = {figure.name for figure in result.figures if figure.ours is None}
    assert missing == {figure.name for figure in result.figures if "2 threads" in figure.name}
    assert result.verdict == "does not hold"
    assert result.reproduced
    assert result.conditions["threads"] == [1]


def test_what_is_printed_says_where_and_how_it_was_measured(monkeypatch):
    result = reproduced(monkeypatch, [9.0] * 10)
    (document,) = json.loads(json.dumps(ClaimsResult((result,)).to_json(), allow_nan=False))["claims"]
    assert document["measured"]["host"] == speed_samples.HOST
    assert (document["measured"]["runs"], document["measured"]["processes"]) == (speed.RUNS, speed.PROCESSES)
    assert document["measured"]["threads"] == [1, 2]
    times = {(row["layer"], row["scheme"], row["threads"]): row["median_us"] for row in document["measured"]["times"]}
    assert times[speed.LAYER_3X3, "int8", 2] == {speed.INSIDE_KERNEL: 450.0, speed.WHOLE_CALL: 455.0}
    shown = {figure["name"]: figure["ours"] for figure in document["figures"]}
    assert shown[KERNEL] == {"median": 9.0, "low": 9.0, "high": 9.0}
    text = " ".join(format_claims(ClaimsResult((result,))).split())
    assert (
        "Measured: a processor, 2 cores, LiteRT 2.3.0, load average 0.2; 10 processes with 100 warm, interleaved runs"
        in text
    )
    assert "9 (9 to 9)" in text
    assert "Measured: a processor" in format_claims_markdown(ClaimsResult((result,)))


@pytest.mark.slow
def test_measured_on_this_machine(monkeypatch):
    monkeypatch.setattr(speed, "PROCESSES", 6)
    monkeypatch.setattr(speed, "RUNS", 20)
    monkeypatch.setattr(speed, "THREADS", (1,))
    result = claims.reproduce_claim(claims.get_claim("paperspace-speed"))
    assert result.reproduced
    values = {figure.name: figure.ours for figure in result.figures}
    assert values["MACs of 3x3 over 1x1"] == 9
    assert values["MACs of 3x3 over 1x1, without padding"] == 6.25
    for scheme in speed.SCHEMES:
        found = values[f"time of 3x3 over 1x1, {scheme}, 1 thread, whole call"]
        assert 0 < found.low <= found.median <= found.high
    assert len(result.conditions["times"]) == 4
    assert {row["layer"] for row in result.conditions["times"]} == {speed.LAYER_1X1, speed.LAYER_3X3}
