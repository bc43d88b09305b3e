"""What the machine can do at most, and layers placed under that roofline."""

import dataclasses

import numpy as np
import pytest
from latency_records import HOST, layer
from latency_records import profile as make_profile

from keras_nin.benchmark import roofline
from keras_nin.benchmark.job import JobResult
from keras_nin.benchmark.records import BenchmarkResult, MachinePeak
from keras_nin.benchmark.runner import bandwidth
from keras_nin.errors import InputError
from keras_nin.report import comparisons as report
from keras_nin.tflite.reader import read_model

# 100 GMAC/s and 10 GB/s: compute bounds from 10 MACs a byte on.
PEAK = MachinePeak("int8", 1, 100.0, 10.0)


def profile(*layers, peaks=(PEAK,)):
    return make_profile(*layers, host=HOST | {"cpu": "a processor"}, peaks=peaks, runs=50)


def conv(name, macs, size, us, kind="pointwise", dtype="int8"):
    return layer(name, us, kind, "mix" if kind == "pointwise" else None, macs=macs, bytes=size, dtype=dtype)


COMPUTED = conv("computed", 50_000_000, 1_000_000, 1000.0, "spatial")  # 50 MACs/byte, 50 GMAC/s
FED = conv("fed", 1_000_000, 500_000, 100.0)  # 2 MACs/byte: 20 GMAC/s at most; 10 GMAC/s
CACHED = conv("cached", 1_000_000, 500_000, 25.0)  # 40 GMAC/s
ON_THE_RIDGE = conv("ridge", 10_000_000, 1_000_000, 100.0)
HALF = conv("half", 1_000_000, 500_000, 100.0, dtype="float16")


def test_peaks_take_the_fastest_product_and_memory():
    jobs = []

    def run(job):
        jobs.append(job)
        for model in job["models"]:
            assert read_model(model["file"]).main.operators
        # The larger the file the longer it takes, but for the smallest, which is slow for its size.
        results = [{"us": {"p10": 1000.0 * (index + 1)}, "bandwidth": {"gbytes_per_s": 12.5}} for index in range(8)]
        return JobResult(HOST, tuple(results))

    peaks = roofline.measure_peaks(("int8", "float32", "int8"), 3, run)
    (job,) = jobs
    assert job["bandwidth"]
    assert {model["threads"] for model in job["models"]} == {3}
    rates = [
        [np.prod(shape, dtype=float) / 1e6 / (index + 1) for index, shape in enumerate(roofline._SHAPES, first)]
        for first in (0, 4)
    ]
    assert peaks == (MachinePeak("int8", 3, max(rates[0]), 12.5), MachinePeak("float32", 3, max(rates[1]), 12.5))
    assert roofline.measure_peaks((), 1, run) == ()
    assert len(jobs) == 1
    with pytest.raises(InputError, match="int16"):
        roofline.measure_peaks(("float32", "int16"), 1, run)


def test_a_device_that_measures_no_memory():
    with pytest.raises(InputError, match="memory"):
        roofline.measure_peaks(
            ("int8",), 1, lambda job: JobResult(HOST, tuple({"us": {"p10": 1.0}} for _ in job["models"]))
        )


@pytest.mark.slow
def test_this_machine_has_peaks():
    (peak,) = roofline.measure_peaks(("float32",), 1)
    assert (peak.dtype, peak.threads) == ("float32", 1)
    assert peak.gmacs_per_s > 0.01
    assert peak.gbytes_per_s > 0.01


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_counts_what_is_moved(threads, monkeypatch):
    seen = []
    monkeypatch.setattr(bandwidth, "_pass_ns", lambda operate, parts, seconds: seen.append(parts) or 1000.0)
    measured = bandwidth.measure_bandwidth(threads, array_bytes=4000)
    assert (measured["copy"], measured["add"], measured["array_bytes"]) == (2 * 4000 / 1000, 3 * 4000 / 1000, 4000)
    assert measured["gbytes_per_s"] == measured["add"]
    for parts in seen:
        assert len(parts) == threads
        for position in range(3):
            assert sum(part[position].size for part in parts) == 1000
    # No part is another's: what one thread writes no other touches.
    starts = {part[position].__array_interface__["data"][0] for part in seen[0] for position in range(3)}
    assert len(starts) == 3 * threads


def test_every_thread_works_in_every_pass():
    calls = []
    parts = [(np.zeros(1),) * 3, (np.ones(1),) * 3]
    bandwidth._pass_ns(lambda a, b, c: calls.append(a[0]), parts, 0)
    assert sorted(calls) == [0.0] * 3 + [1.0] * 3
    assert bandwidth.measure_bandwidth(2, 0, 2**16)["gbytes_per_s"] > 0
    assert bandwidth.last_cache_bytes() is None or bandwidth.last_cache_bytes() >= 2**14
    assert bandwidth.available_bytes() > 2**20


def test_layers_under_the_roofline():
    idle = [conv("no time", 1_000_000, 500_000, None), conv("no MACs", None, 10, 5.0, "pool")]
    measured = profile(COMPUTED, FED, CACHED, ON_THE_RIDGE, HALF, *idle)
    placed = roofline.compute_efficiency(measured)
    assert [(point.layer.name, point.bound) for point in placed] == [
        ("computed", "compute"), ("fed", "memory"), ("cached", "cache"), ("ridge", "compute"),
    ]  # fmt: skip
    assert [point.intensity for point in placed] == [50, 2, 2, 10]
    assert [point.attainable_gmacs_per_s for point in placed] == [100, 20, 20, 100]
    assert [point.gmacs_per_s for point in placed] == [50, 10, 40, 100]
    assert [point.efficiency for point in placed] == [0.5, 0.5, 2.0, 1.0]
    assert [point.peak_share for point in placed] == [0.5, 0.1, 0.4, 1.0]
    assert roofline.compute_efficiency(profile(COMPUTED, peaks=())) == ()


def test_kinds_add_up():
    placed = roofline.compute_efficiency(profile(COMPUTED, FED, ON_THE_RIDGE))
    pointwise, spatial, total = roofline.summarize_efficiency(placed)
    assert [kind.name for kind in (pointwise, spatial, total)] == ["pointwise", "spatial", "total"]
    assert (pointwise.us, pointwise.attainable_us, pointwise.macs) == (200.0, 50.0 + 100.0, 11_000_000)
    assert pointwise.efficiency == 0.75
    assert pointwise.peak_share == pytest.approx(11_000_000 / 200.0 / 1000 / 100)
    assert spatial.efficiency == 0.5
    for name in ("layers", "us", "attainable_us", "macs"):
        assert getattr(total, name) == getattr(pointwise, name) + getattr(spatial, name)
    assert roofline.summarize_efficiency(()) == ()


def test_the_table():
    text = report.format_roofline(profile(COMPUTED, CACHED, HALF))
    assert "a processor" in text.splitlines()[0]
    cells = ["cached", "mix", "25.0", "40.0", "2.0", "20.0"]
    assert any(line.split()[:6] == cells for line in text.splitlines())
    assert "half" in text


def test_a_benchmark_gets_the_peaks_that_its_layers_need(monkeypatch):
    asked = []

    def measure_peaks(dtypes, threads, run):
        asked.append((dtypes, threads))
        return tuple(MachinePeak(dtype, threads, 1.0, 1.0) for dtype in dtypes)

    monkeypatch.setattr(roofline, "measure_peaks", measure_peaks)
    one = profile(conv("a", 1, 1, 1.0), conv("b", 1, 1, 1.0, dtype="int16"), peaks=())
    other = profile(conv("a", 1, 1, 1.0, dtype="float32"), conv("b", None, 1, 1.0, dtype="int8"))
    two = dataclasses.replace(one, threads=2)
    result = roofline.add_peaks(BenchmarkResult(HOST, (one, other, two)))
    assert asked == [(["float32", "int8"], 1), (["int8"], 2)]
    assert [[(peak.dtype, peak.threads) for peak in measured.peaks] for measured in result.profiles] == [
        [("int8", 1)], [("float32", 1)], [("int8", 2)],
    ]  # fmt: skip
