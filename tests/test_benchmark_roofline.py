"""What the machine can do at most, and layers set against it."""

import dataclasses

import numpy as np
import pytest

from keras_nin import InputError
from keras_nin.benchmark import measurement, roofline, single_operators
from keras_nin.benchmark.records import KernelTime, LatencyStatistics, LayerTime, MachinePeak, Profile
from keras_nin.benchmark.runner import bandwidth
from keras_nin.report import comparisons as report
from keras_nin.tflite import reader, runner

HOST = {"cpu": "a processor", "cores": 2, "litert": "2.3.0"}
# 100 GMAC/s and 10 GB/s: compute bounds from 10 MACs a byte on.
PEAK = MachinePeak("int8", 1, 100.0, 10.0)


def layer(name, macs, size, us, kind="pointwise", dtype="int8"):
    times = None if us is None else KernelTime(us, us, us, us)
    role = "mix" if kind == "pointwise" else None
    return LayerTime(name, "CONV_2D", (0,), "GEMM", kind, role, None, times, None, macs, None, size, dtype)


def profile(*layers, peaks=(PEAK,)):
    total = LatencyStatistics(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    return Profile(
        "net_int8.tflite",
        "0",
        0,
        HOST,
        1,
        50,
        True,
        total,
        0.0,
        0.0,
        0,
        0,
        "compiled_model",
        layers=layers,
        peaks=peaks,
    )


@pytest.mark.parametrize("dtype", single_operators.MATMUL_DTYPES)
def test_the_product_is_a_matrix_product(dtype, tmp_path):
    path = tmp_path / "product.tflite"
    single_operators.write_matmul(path, 5, 24, 7, dtype)
    read = reader.read_model(path)
    (operator,) = read.main.operators
    assert operator.op == "FULLY_CONNECTED"
    weights = read.data(read.main.tensors[1]).astype(np.float64)
    assert weights.shape == (7, 24)
    assert len(np.unique(weights)) > 24
    source = np.random.default_rng(1).random((1, 5, 24), np.float32)[0]
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    values = source if dtype == "float32" else np.rint(source * 100).astype(np.int8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    made = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = values.astype(np.float64) @ weights.T
    if dtype == "int8":
        target = read.main.tensors[3].quantization.scales[0]
        expected = np.clip(np.rint(expected / 128**2 / target), -128, 127)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-3 if dtype == "float32" else 1)


def test_a_product_of_another_type_is_refused(tmp_path):
    with pytest.raises(InputError, match="int4"):
        single_operators.write_matmul(tmp_path / "product.tflite", 1, 1, 1, "int4")
    with pytest.raises(InputError, match="int16"):
        roofline.measure_peaks(("float32", "int16"), 1)


def test_peaks_take_the_fastest_product_and_memory():
    asked = []

    def run(job):
        asked.append(job)
        for model in job["models"]:
            assert reader.read_model(model["file"]).main.operators
        # The larger the file the longer it takes, but for the smallest, which is slow for its size.
        results = [{"us": {"p10": 1000.0 * (at + 1)}, "bandwidth": {"gbytes_per_s": 12.5}} for at in range(8)]
        return measurement.JobResult(HOST, tuple(results))

    found = roofline.measure_peaks(("int8", "float32", "int8"), 3, run)
    (job,) = asked
    assert job["bandwidth"]
    assert {model["threads"] for model in job["models"]} == {3}
    rates = [
        [np.prod(shape, dtype=float) / 1e6 / (at + 1) for at, shape in enumerate(roofline._SHAPES, first)]
        for first in (0, 4)
    ]
    assert found == (MachinePeak("int8", 3, max(rates[0]), 12.5), MachinePeak("float32", 3, max(rates[1]), 12.5))
    assert roofline.measure_peaks((), 1, run) == ()
    assert len(asked) == 1


def test_this_machine_has_peaks():
    found = roofline.measure_peaks(("float32",), 1)
    assert [(peak.dtype, peak.threads) for peak in found] == [("float32", 1)]
    assert found[0].gmacs_per_s > 0.01
    assert found[0].gbytes_per_s > 0.01


def test_a_runner_that_measures_no_memory_is_seen():
    def run(job):
        return measurement.JobResult(HOST, tuple({"us": {"p10": 1.0}} for _ in job["models"]))

    with pytest.raises(InputError, match="memory"):
        roofline.measure_peaks(("int8",), 1, run)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bandwidth_counts_what_is_moved(threads, monkeypatch):
    seen = []
    monkeypatch.setattr(bandwidth, "_pass_ns", lambda operate, parts, seconds: seen.append(parts) or 1000.0)
    found = bandwidth.measure_bandwidth(threads, array_bytes=4000)
    assert (found["copy"], found["add"], found["array_bytes"]) == (2 * 4000 / 1000, 3 * 4000 / 1000, 4000)
    assert found["gbytes_per_s"] == found["add"]
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


def test_memory_is_measured_where_the_job_asks():
    models = [{"file": "a", "threads": 2}, {"file": "b", "threads": 1}, {"file": "c", "threads": 2}]
    assert bandwidth.measure_job_bandwidth({"models": models}) == {}
    assert bandwidth.last_cache_bytes() is None or bandwidth.last_cache_bytes() >= 2**14
    assert bandwidth.available_bytes() > 2**20


def test_layers_find_their_place():
    computed = layer("computed", 50_000_000, 1_000_000, 1000.0, "spatial")  # 50 MACs/byte, 50 GMAC/s
    fed = layer("fed", 1_000_000, 500_000, 100.0)  # 2 MACs/byte: 20 GMAC/s at most; 10 GMAC/s
    cached = layer("cached", 1_000_000, 500_000, 25.0)  # 40 GMAC/s
    on_the_ridge = layer("ridge", 10_000_000, 1_000_000, 100.0)
    unknown = layer("half", 1_000_000, 500_000, 100.0, dtype="float16")
    idle = [layer("no time", 1_000_000, 500_000, None), layer("no MACs", None, 10, 5.0, "pool")]
    placed = roofline.compute_efficiency(profile(computed, fed, cached, on_the_ridge, unknown, *idle))
    assert [(each.layer.name, each.bound) for each in placed] == [
        ("computed", "compute"), ("fed", "memory"), ("cached", "cache"), ("ridge", "compute"),
    ]  # fmt: skip
    assert [each.intensity for each in placed] == [50, 2, 2, 10]
    assert [each.attainable_gmacs_per_s for each in placed] == [100, 20, 20, 100]
    assert [each.efficiency for each in placed] == [0.5, 0.5, 2.0, 1.0]
    assert [each.peak_share for each in placed] == [0.5, 0.1, 0.4, 1.0]
    assert roofline.compute_efficiency(profile(computed, peaks=())) == ()


def test_shares_add_up():
    placed = roofline.compute_efficiency(
        profile(
            layer("a", 50_000_000, 1_000_000, 1000.0, "spatial"),
            layer("b", 1_000_000, 500_000, 100.0),
            layer("c", 10_000_000, 1_000_000, 100.0),
        )
    )
    first, second, total = roofline.summarize_efficiency(placed)
    assert [share.name for share in (first, second, total)] == ["pointwise", "spatial", "total"]
    assert (first.us, first.attainable_us, first.macs) == (200.0, 50.0 + 100.0, 11_000_000)
    assert first.efficiency == 0.75
    assert first.peak_share == pytest.approx(11_000_000 / 200.0 / 1000 / 100)
    assert second.efficiency == 0.5
    for name in ("layers", "us", "attainable_us", "macs"):
        assert getattr(total, name) == getattr(first, name) + getattr(second, name)
    assert roofline.summarize_efficiency(()) == ()


def test_the_table():
    text = report.format_roofline(
        profile(
            layer("conv", 50_000_000, 1_000_000, 1000.0, "spatial"),
            layer("squeeze", 1_000_000, 500_000, 25.0),
            layer("half", 1_000_000, 500_000, 100.0, dtype="float16"),
        )
    )
    lines = text.splitlines()
    assert lines[0] == "net_int8.tflite against this machine: a processor, 1 thread, LiteRT 2.3.0, 50 runs"
    assert lines[1] == "int8: 100.0 GMAC/s at most, memory 10.0 GB/s; compute bounds from 10.0 MACs/byte on"
    assert any(
        line.split() == ["squeeze", "mix", "25.0", "40.0", "2.0", "20.0", "200%", "40%", "cache"] for line in lines
    )
    assert any(line.split() == ["1x1", "1", "25.0", "40.0", "200%", "40%"] for line in lines)
    assert "Not placed (no time, or a data type without a peak): half" in lines
    assert lines[-1].startswith("cache: 1 layer ran faster than memory")
    assert "nothing to set against" in report.format_roofline(profile(layer("a", 1, 1, 1.0), peaks=()))


def test_a_benchmark_gets_the_peaks_that_its_layers_need(monkeypatch):
    from keras_nin.benchmark.records import BenchmarkResult

    asked = []

    def peaks(dtypes, threads, run):
        asked.append((dtypes, threads))
        return tuple(MachinePeak(dtype, threads, 1.0, 1.0) for dtype in dtypes)

    monkeypatch.setattr(roofline, "measure_peaks", peaks)
    one = profile(layer("a", 1, 1, 1.0), layer("b", 1, 1, 1.0, dtype="int16"), peaks=())
    other = profile(layer("a", 1, 1, 1.0, dtype="float32"), layer("b", None, 1, 1.0, dtype="int8"), peaks=(PEAK,))
    two = dataclasses.replace(one, threads=2)
    made = roofline.add_peaks(BenchmarkResult(HOST, (one, other, two)))
    assert asked == [(["float32", "int8"], 1), (["int8"], 2)]
    assert [[(peak.dtype, peak.threads) for peak in each.peaks] for each in made.profiles] == [
        [("int8", 1)], [("float32", 1)], [("int8", 2)],
    ]  # fmt: skip


def test_the_runner_answers_with_memory(tmp_path):
    path = tmp_path / "product.tflite"
    single_operators.write_matmul(path, 4, 8, 4, "float32")
    job = {"models": [{"file": str(path), "threads": 1}], "runs": 20, "seconds": 1, "profile": False}
    (without,) = measurement.run_job(job).results
    (result,) = measurement.run_job(job | {"bandwidth": True}).results
    assert without["bandwidth"] is None
    assert result["bandwidth"]["gbytes_per_s"] == max(result["bandwidth"]["copy"], result["bandwidth"]["add"]) > 0
    assert runner.TFLiteRunner(path).outputs
