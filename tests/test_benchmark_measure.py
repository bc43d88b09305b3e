"""From files to a `Benchmark`; the runner is made up where its answer matters, and real once."""

import json

import pytest
import tflite_writer as writer

from keras_nin import files
from keras_nin.benchmark import measure_file, measure_files, measurement, single_operators
from keras_nin.benchmark.records import PROFILER, BenchmarkResult
from keras_nin.errors import InputError

FLOAT = "FLOAT32"
US = {"median": 10.0, "mean": 11.0, "p10": 9.0, "p90": 13.0, "p99": 20.0, "min": 8.0, "low": 9.9, "high": 10.1}
HOST = {"cpu": "made up", "cores": 4, "state": {"load_average": 0.1, "governor": None}}


def result(**changes):
    return {
        "file": "somewhere else", "threads": 1, "api": "compiled_model", "unavailable": None, "signatures": 1,
        "load_us": 1.0, "first_us": 2.0, "peak_bytes": 3, "added_bytes": 1, "us": US, "runs": 100, "converged": True,
        "rounds_us": [10.0] * 10, "profile": None, "others_share": 0.01,
    } | changes  # fmt: skip


class Place:
    """Where jobs run: answers every model with `result`."""

    def __init__(self, host=HOST, **changes):
        self.host, self.changes, self.jobs = host, changes, []

    def __call__(self, job):
        self.jobs.append(job)
        made = [result(threads=model["threads"], **self.changes) for model in job["models"]]
        return measurement.JobResult(self.host, tuple(made))


@pytest.fixture(autouse=True)
def _no_single_operators(monkeypatch):
    """A made-up place has no profiler; what takes its place is tested on its own."""
    monkeypatch.setattr(single_operators, "add_layers", lambda profile, *_: profile)


@pytest.fixture
def add(tmp_path):
    tensors = [writer.tensor(name, [1, 64], FLOAT) for name in "abc"]
    operators = [writer.operator("ADD", [0, 1], [2], "AddOptions")]
    return writer.write(tmp_path / "add.tflite", tensors, operators, inputs=(0, 1))


@pytest.fixture
def other(tmp_path):
    tensors = [writer.tensor(name, [1, 8], FLOAT) for name in "ab"]
    return writer.write(tmp_path / "other.tflite", tensors, [writer.operator("ABS", [0], [1])])


def test_a_profile_of_a_file(add):
    found = measure_file(add, seconds=0.5)
    assert (found.file, found.threads, found.file_bytes) == ("add.tflite", 1, add.stat().st_size)
    assert found.sha256 == files.sha256(add.read_bytes())
    assert found.method == PROFILER
    assert found.layers
    assert found.profiled_runs >= 20
    assert found.overhead_us == pytest.approx(found.total.median - sum(layer.us.typical for layer in found.layers))
    assert found.host["state"].keys() == {"load_average", "governor"}


def test_a_benchmark_survives_json(add):
    benchmark = measure_files([add], threads=(1, 2), seconds=0.2)
    again = BenchmarkResult.from_json(json.loads(json.dumps(benchmark.to_json())))
    assert again == benchmark
    assert [each.threads for each in again.profiles] == [1, 2]


def test_each_file_and_number_of_threads_is_a_job_of_its_own(add, other):
    place = Place()
    benchmark = measure_files([add, other], threads=(1, 2), run=place)
    assert [len(job["models"]) for job in place.jobs] == [1] * 4
    assert [(each.file, each.threads) for each in benchmark.profiles] == [
        ("add.tflite", 1), ("add.tflite", 2), ("other.tflite", 1), ("other.tflite", 2)
    ]  # fmt: skip


def test_interleaved_files_are_one_job(add, other):
    place = Place()
    measure_files([add, other], threads=(1, 2), run=place, interleave=True)
    (job,) = place.jobs
    assert [(model["file"], model["threads"]) for model in job["models"]] == [
        (str(add), 1), (str(add), 2), (str(other), 1), (str(other), 2)
    ]  # fmt: skip


def test_what_was_asked_for_is_in_the_job(add):
    place = Place()
    measure_files([add], runs=7, seconds=3, layers=False, delegate="/lib/x.so", run=place)
    expected = {"runs": 7, "seconds": 3, "profile": False, "delegate": "/lib/x.so"}
    assert expected.items() <= place.jobs[0].items()


def test_progress_is_told_in_words(add, other):
    def place(job, progress):
        progress([{"runs": 1200, "us": 1234.56, "within": 0.0123}, {"runs": 3, "us": 7.0, "within": None}])
        return Place()(job)

    told = []
    measure_files([add, other], interleave=True, run=place, progress=told.append)
    assert told == [
        "add.tflite on 1 thread, other.tflite on 1 thread",
        "add.tflite on 1 thread: 1,234.6 us ± 1.2% after 1,200 runs; other.tflite on 1 thread: 7.0 us after 3 runs",
    ]


@pytest.mark.parametrize(
    ("host", "changes", "warning"),
    [
        ({}, {"others_share": 0.34}, "the machine is busy: others took 34% of its processors' time while"),
        ({"load_average": 2.5}, {}, "the machine is busy: load average 2.5 on 4 cores when this began"),
        ({"governor": "powersave"}, {}, "the processor's frequency governor is 'powersave'"),
        ({}, {"converged": False}, "add.tflite on 1 thread: the median is not known to 1 % after 100 runs"),
        ({"load_average": None}, {"others_share": None}, None),
        ({"governor": "performance"}, {}, None),
    ],
)
def test_warnings(add, host, changes, warning):
    place = Place(HOST | {"state": HOST["state"] | host}, **changes)
    warnings = measure_files([add], run=place).warnings
    assert len(warnings) == bool(warning)
    assert not warning or warnings[0].startswith(warning)


def test_notes_say_what_ran(add, tmp_path):
    assert measure_files([add], run=Place()).profiles[0].notes == ()
    assert measure_files([add], run=Place(unavailable="no profiler")).profiles[0].notes == ("no profiler",)


def test_a_place_is_shown_local_paths_and_its_own_are_not_read(add):
    """The results of a device name its files; the profile is of ours."""
    assert measure_files([add], run=Place(file="/tmp/there/0.tflite")).profiles[0].file == "add.tflite"


@pytest.mark.parametrize("arguments", [{"paths": []}, {"paths": ["net.tflite"], "threads": ()}])
def test_nothing_to_measure(arguments):
    with pytest.raises(InputError, match="to name at least one"):
        measure_files(**arguments)


def test_no_file_starts_no_runner(add, tmp_path):
    place = Place()
    (tmp_path / "text.tflite").write_text("Not a model.")
    for path in ("text.tflite", "missing.tflite"):
        with pytest.raises(InputError, match="^Expected a"):
            measure_files([add, tmp_path / path], run=place)
    assert not place.jobs
