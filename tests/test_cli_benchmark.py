"""`keras-nin benchmark`."""

import copy
import csv
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from tflite_writer import operator, tensor, write

from keras_nin import InputError, files, schemas
from keras_nin.benchmark import devices, measurement, roofline
from keras_nin.benchmark.measurement import run_job
from keras_nin.benchmark.records import BenchmarkResult, MachinePeak
from keras_nin.workflows.benchmark import machine_name

ROOT = pathlib.Path(__file__).parent.parent
FEW = ("--runs", "12")


@pytest.fixture
def network(tmp_path):
    """Two operators, that XNNPACK runs."""
    tensors = [tensor(name, [1, 32], "FLOAT32") for name in ("in", "mid", "out")]
    return write(tmp_path / "net.tflite", tensors, [operator("RELU", [0], [1]), operator("LOGISTIC", [1], [2])])


@pytest.fixture
def other(tmp_path):
    tensors = [tensor(name, [1, 4096], "FLOAT32") for name in ("in", "out")]
    return write(tmp_path / "other.tflite", tensors, [operator("TANH", [0], [1])])


_answers = {}


@pytest.fixture
def known_answers(monkeypatch):
    """Let a job that was run before have the answer it had then: what is tested is what becomes of it."""

    def run(job, progress=None):
        files = [(model["threads"], pathlib.Path(model["file"]).read_bytes()) for model in job["models"]]
        key = repr((files, job | {"models": None}))
        if key not in _answers:
            _answers[key] = run_job(job)
        return copy.deepcopy(_answers[key])

    monkeypatch.setattr(measurement, "run_job", run)
    return run


def test_json(cli, network):
    ran = cli("benchmark", network, *FEW, "--json")
    assert (ran.status, ran.err) == (0, "")
    (result,) = ran.json["results"]
    assert (ran.json["schema"], result["file"], result["runs"], result["threads"]) == (
        schemas.BENCHMARK,
        "net.tflite",
        12,
        1,
    )
    assert len(result["layers"]) == 2
    assert BenchmarkResult.from_json(ran.json).profiles[0].sha256 == files.sha256(network.read_bytes())


def test_threads_and_files(cli, network, other, known_answers):
    ran = cli("benchmark", network, other, "--threads", "2,1,2", *FEW, "--no-layers", "--csv")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [(row["file"], row["threads"]) for row in rows] == [
        (name, count) for name in ("net.tflite", "other.tflite") for count in ("2", "1")
    ]
    assert all(row["name"] == "total" and float(row["us"]) > 0 for row in rows)


def test_csv_of_layers(cli, network, known_answers):
    ran = cli("benchmark", network, *FEW, "--csv")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    *layers, overhead, total = rows
    assert (len(layers), overhead["name"], total["name"]) == (2, "runtime overhead", "total")
    assert sum(float(row["us"]) for row in rows[:-1]) == pytest.approx(float(total["us"]))


def test_markdown(cli, network, known_answers):
    ran = cli("benchmark", network, *FEW, "--markdown")
    assert " 12 runs, 1 thread on " in next(line for line in ran.out.splitlines() if line.startswith("- net.tflite"))
    assert any(line.startswith("| runtime overhead | ") for line in ran.out.splitlines())


def test_what_does_not_run_does_not_stop_the_others(cli, network, other, tmp_path, known_answers):
    (tmp_path / "broken.tflite").write_bytes(network.read_bytes()[:200])
    ran = cli("benchmark", network, "broken.tflite", other, *FEW, "--json")
    assert ran.status == 2
    assert [result["file"] for result in ran.json["results"]] == ["net.tflite", "other.tflite"]
    assert ran.err.startswith("Error: Expected a valid .tflite file. Received: 'broken.tflite'")
    assert ran.err.count("\n") == 1


def test_nothing_runs(cli, tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"no")
    ran = cli("benchmark", "broken.tflite", *FEW, "--json", "--out", "results")
    assert (ran.status, ran.json["error"]["path"], ran.err.count("\n")) == (2, "broken.tflite", 1)
    assert not (tmp_path / "results").exists()


def test_files_of_results(cli, network, tmp_path):
    words = ("benchmark", network, *FEW, "--out", "results/new", "--json", "--threads", "1,2", "--no-layers")
    ran = cli(*words)
    (path,) = (tmp_path / "results" / "new").iterdir()
    assert (ran.status, path.name) == (0, f"net_{machine_name(None)}.json")
    assert ran.err == f"written: results/new/{path.name}\n"
    document = json.loads(path.read_text())
    assert [result["threads"] for result in document["results"]] == [1, 2]
    assert document == ran.json
    before = path.read_bytes()
    again = cli(*words)
    assert (again.status, again.json["error"]["argument"]) == (2, "force")
    assert "--force" in again.err
    assert path.read_bytes() == before
    assert cli(*words, "--force").status == 0
    assert path.read_bytes() != before


def test_node_data(cli, network, tmp_path, known_answers):
    ran = cli("benchmark", network, *FEW, "--json", "--model-explorer", "nodes.json")
    assert (ran.status, ran.err) == (0, "written: nodes.json\n")
    (data,) = json.loads((tmp_path / "nodes.json").read_text()).values()
    times = [layer["us"]["typical"] for layer in ran.json["results"][0]["layers"]]
    assert [each["value"] for each in data["results"].values()] == [round(us, 3) for us in times]
    assert list(data["results"]) == ["0", "1"]


def test_what_cannot_be_written_loses_no_result(cli, network, tmp_path, monkeypatch, known_answers):
    def fail(*arguments):
        raise InputError("Expected 'x' to be writable. Received: No space left on device")

    monkeypatch.setattr(files, "write_files", fail)
    ran = cli("benchmark", network, *FEW, "--json", "--no-layers", "--out", "results")
    assert (ran.status, ran.err) == (2, "Error: Expected 'x' to be writable. Received: No space left on device\n")
    assert len(ran.json["results"]) == 1


@pytest.mark.slow
def test_a_model_is_exported_for_it(cli, tmp_path):
    ran = cli("benchmark", "conv1x1_3to2", *FEW, "--json", "--no-layers", "--out", "results")
    assert ran.status == 0, ran.err
    by_name = {result["file"]: result["notes"] for result in ran.json["results"]}
    assert by_name == {
        "conv1x1_3to2_float32.tflite": ["random weights, latency only"],
        "conv1x1_3to2_int8.tflite": ["random weights, latency only", "calibrated on noise, latency only"],
    }
    assert len(list((tmp_path / "results").glob("conv1x1_3to2_*_*.json"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.slow
def test_a_model_with_weights(cli):
    ran = cli("benchmark", "nin_digits", *FEW, "--scheme", "int8", "--json", "--no-layers")
    (result,) = ran.json["results"]
    assert (result["file"], result["notes"], result["layers"]) == ("nin_digits_int8.tflite", [], [])


def test_a_model_that_does_not_convert(cli, network, monkeypatch, known_answers):
    from keras_nin.workflows import conversion

    def refuse(*arguments, **options):
        raise InputError("Expected a network that converts. Received: another")

    monkeypatch.setattr(conversion, "export_temporarily", refuse)
    ran = cli("benchmark", "nin_digits", network, *FEW, "--no-layers", "--json")
    assert (ran.status, ran.err) == (2, "Error: Expected a network that converts. Received: another\n")
    assert len(ran.json["results"]) == 1


def test_the_device_gets_the_jobs(cli, network, monkeypatch, known_answers):
    jobs = []

    def open_device(*arguments):
        assert arguments == ("ssh://board", "/opt/python", None)
        return lambda job: jobs.append(job) or known_answers(job)

    monkeypatch.setattr(devices, "open_device", open_device)
    ran = cli("benchmark", network, *FEW, "--on", "ssh://board", "--python", "/opt/python", "--json")
    assert ran.status == 0
    assert [job["models"][0]["file"] for job in jobs] == [str(network)]


def test_text(cli, network, other):
    ran = cli("benchmark", network, other, *FEW, "--compare", "--sort", "us", "--top", "1")
    assert (ran.status, ran.err) == (0, "")
    assert "(1 other rows)" in ran.out
    ratio = ran.out.splitlines()[-1].split()
    assert ratio[:3] == ["other.tflite", "1", "net.tflite"]


def test_limits_of_the_machine(cli, network, monkeypatch, known_answers):
    def with_peaks(benchmark, run):
        peaks = (MachinePeak("float32", 1, 100.0, 10.0),)
        profiles = (dataclasses.replace(profile, peaks=peaks) for profile in benchmark.profiles)
        return dataclasses.replace(benchmark, profiles=tuple(profiles))

    monkeypatch.setattr(roofline, "add_peaks", with_peaks)
    ran = cli("benchmark", network, *FEW, "--roofline", "--json")
    assert ran.json["results"][0]["peaks"] == [
        {"dtype": "float32", "threads": 1, "gmacs_per_s": 100.0, "gbytes_per_s": 10.0}
    ]
    assert "no roofline, because no layer has MACs" in cli("benchmark", network, *FEW, "--roofline").out


def test_each_operator_alone(cli, network):
    ran = cli("benchmark", network, *FEW, "--method", "single", "--seconds", "0.2", "--json")
    (result,) = ran.json["results"]
    assert (result["method"], [layer["op"] for layer in result["layers"]]) == ("single operators", ["RELU", "LOGISTIC"])


def test_figures_that_a_place_does_not_give(cli, network, monkeypatch, known_answers):
    """benchmark_model gives neither all percentiles nor the peak of the memory."""

    def run(job, progress=None):
        answer = known_answers(job)
        for result in answer.results:
            result["us"] |= {"p10": None, "p90": None, "p99": None}
            result["peak_bytes"] = None
            for kernel in result["profile"]["kernels"]:
                kernel["us"] |= {"median": None, "p90": None}
        return answer

    monkeypatch.setattr(devices, "open_device", lambda *arguments: run)
    for form in ((), ("--json",), ("--csv",), ("--markdown",), ("--threads", "1,2")):
        ran = cli("benchmark", network, *FEW, *form)
        assert (ran.status, ran.err) == (0, "")
        assert "None" not in ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("missing.tflite", "Received: 'missing.tflite', which does not exist"),
        ("folder.tflite", "'folder.tflite', which is a folder"),
        (".", "Received: '.', which is a folder"),
        ("missing.keras", "Expected an existing file. Received: 'missing.keras'"),
        ("nin_digit", "Received: 'nin_digit'. Did you mean nin_digits"),
        ("net.tflite missing.tflite", "'missing.tflite', which does not exist"),
        ("net.tflite --threads 0", "received '0'"),
        ("net.tflite --threads 1,x", "received '1,x'"),
        ("net.tflite --runs 0", "'--runs': 0"),
        ("net.tflite --seconds 0", "'--seconds': 0"),
        ("net.tflite --seconds nan", "'nan' is not a number"),
        ("net.tflite --out file/below", "'file/below' is not writable"),
        ("net.tflite --out a net.tflite", "--out needs files of different names. Received: net twice"),
        ("net.tflite --model-explorer file/x.json", "'file' is not writable"),
        ("net.tflite --model-explorer file", "file exists with different content"),
        (
            "net.tflite --model-explorer x.json --threads 1,2",
            "--model-explorer takes one file and one number of threads",
        ),
        ("net.tflite --model-explorer x.json --no-layers", "--model-explorer needs the times of the layers"),
        ("net.tflite --roofline --no-layers", "--roofline needs the times of the layers"),
        ("net.tflite --compare", "--compare needs two files or more"),
        ("net.tflite --scheme int8", "exported already; --scheme is for a model"),
        ("nin_digits --scheme qat", "Expected post-training schemes. Received: qat"),
        ("nin_digits --scheme int4", "Received: 'int4'"),
        ("net.tflite --on usb://x", "Expected --on as ssh://[user@]host[:port] or adb://SERIAL. Received: 'usb://x'"),
        ("net.tflite --on ssh://a/b", "Expected --on as ssh://[user@]host[:port]. Received: 'ssh://a/b'"),
        ("net.tflite --on adb://x --roofline", "do not run on an adb:// device"),
        ("net.tflite --python python3.12", "--python is for a --on ssh://"),
        ("net.tflite --benchmark-model x --on ssh://a", "--benchmark-model is for a --on adb://"),
        ("net.tflite --delegate x.so --method single", "A --delegate times whole files alone"),
        (
            "net.tflite --delegate /no/such.so",
            "Expected --delegate to be a library that loads where the files run. Received: /no/",
        ),
        (
            "net.tflite --delegate ./file",
            "Expected --delegate to be a library that loads where the files run. Received: ./file",
        ),
        ("", "Missing argument"),
    ],
)
def test_bad_input(cli, network, tmp_path, words, says):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.tflite").mkdir()
    ran = cli("benchmark", *words.split())
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.tflite", "net.tflite"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("ssh://pi@board.local:2222", "board.local"),
        ("adb://R5CT/", "R5CT"),
        ("ssh://[::1]:22", "1"),
        ("adb://", "device"),
    ],
)
def test_the_name_of_the_host(place, name):
    assert machine_name(place) == name


@pytest.mark.parametrize("words", [["--help"], [*FEW, "--json", "net.tflite"]])
def test_the_script_takes_neither_keras_nor_tensorflow_for_files(network, words):
    code = """if True:
        import runpy, sys
        sys.argv[:2] = sys.argv[1:2]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            found = {"keras", "tensorflow", "sklearn", "rich"} & set(sys.modules)
            sys.exit(str(found or "") or end.code)
    """
    command = [sys.executable, "-c", code, str(ROOT / "export" / "benchmark.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=network.parent, env=environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert words == ["--help"] or json.loads(ran.stdout)["results"][0]["runs"] == 12
