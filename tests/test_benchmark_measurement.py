"""From files to a `BenchmarkResult`; the measuring process is a few lines where its answer matters, and real once."""

import json
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import tflite_writer as writer
import tracing

from keras_nin import files
from keras_nin.benchmark import BenchmarkFile, BenchmarkResult, FileRefusedError, measure_file, measure_files
from keras_nin.benchmark.job import DelegateNotLoadedError, JobResult, NoAnswerError
from keras_nin.benchmark.measurement import run_job
from keras_nin.benchmark.records import PROFILER
from keras_nin.child_process import ProcessStartError
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model

FLOAT = "FLOAT32"
US = {"median": 10.0, "mean": 11.0, "p10": 9.0, "p90": 13.0, "p99": 20.0, "min": 8.0, "low": 9.9, "high": 10.1}
HOST = {"cpu": "made up", "cores": 4, "state": {"load_average": 0.1, "governor": None}}
JOB = {"models": [{"file": "net.tflite", "threads": 1}], "seconds": 0.1}


# The process.


def runner(*documents, then=""):
    """A command that reads its job, prints documents, and does something."""
    script = "import json, os, signal, sys, time\njob = json.loads(sys.stdin.readline())\n"
    script += "".join(f"print({json.dumps(json.dumps(document))}, flush=True)\n" for document in documents)
    return [sys.executable, "-S", "-c", script + textwrap.dedent(then)]


def run(*documents, then="", job=JOB, silence=60, **options):
    return run_job(job, command=runner(*documents, then=then), silence=silence, **options)


def test_the_answer_is_the_host_and_the_results_in_order():
    job = JOB | {"models": JOB["models"] * 2}
    then = 'print("Welcome!\\n[1]\\n7\\nnull"); print(json.dumps({"result": job}))'
    told = []
    answer = run(
        {"host": HOST}, {"progress": [{"runs": 1}]}, {"result": {"a": 1}}, then=then, job=job, progress=told.append
    )
    assert answer == JobResult(HOST, ({"a": 1}, job))
    assert told == [[{"runs": 1}]]


def test_a_command_that_does_not_start():
    with pytest.raises(ProcessStartError, match="'/no/such'.*No such file"):
        run_job(JOB, command=["/no/such", "runner.pyz"])


def test_a_command_that_ends_without_an_answer():
    then = "print('bash: python3: command not found', file=sys.stderr); sys.exit(127)"
    with pytest.raises(NoAnswerError, match="ended with status 127.*python3: command not found") as caught:
        run(then=then)
    assert caught.value.status == 127
    assert "command not found" in caught.value.log
    assert "\n" not in str(caught.value)


def test_silence():
    with pytest.raises(NoAnswerError, match="no output for 0.5 s") as caught:
        run(then="time.sleep(600)", silence=0.5)
    assert caught.value.status is None
    with pytest.raises(FileRefusedError, match="'net.tflite': no output for 0.5 s"):
        run({"host": HOST}, then="time.sleep(600)", silence=0.5)


def test_a_file_that_the_runtime_refuses():
    error = {"error": {"model": 0, "message": "LiteRtX returned kLiteRtStatusErrorY", "kind": "model"}}
    log = "print('INFO: of no use\\nERROR: the cause.\\nERROR: what follows', file=sys.stderr, flush=True)\n"
    command = runner({"host": HOST}, error)
    command[-1] = command[-1].replace("print(", log + "print(", 1)
    with pytest.raises(FileRefusedError) as caught:
        run_job(JOB, command=command)
    assert str(caught.value) == (
        "Expected a file that the LiteRT runtime runs. Received: 'net.tflite': LiteRtX returned kLiteRtStatusErrorY "
        "(the cause.)"
    )
    assert (caught.value.model, caught.value.path) == (0, "net.tflite")
    models = [{"file": "/tmp/there/0.tflite", "name": "net.tflite", "threads": 1}]
    with pytest.raises(FileRefusedError, match="Received: 'net.tflite': no"):
        run({"host": HOST}, {"error": {"model": 0, "message": "no"}}, job={"models": models})


def test_a_delegate_that_does_not_load():
    error = {"error": {"model": 0, "message": "no such library", "kind": "delegate"}}
    with pytest.raises(DelegateNotLoadedError, match="Expected `delegate`.*no such library") as caught:
        run({"host": HOST}, error, job=JOB | {"delegate": "/lib/x.so"})
    assert (caught.value.argument, caught.value.received) == ("delegate", "/lib/x.so")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_names_its_signal(number):
    with pytest.raises(FileRefusedError, match=f"'net.tflite': killed by {number.name}$") as caught:
        run({"host": HOST}, then=f"os.kill(os.getpid(), {int(number)})")
    assert caught.value.status == -number


def test_a_crash_for_lack_of_memory():
    then = "print(\"terminate called after throwing 'std::bad_alloc'\", file=sys.stderr, flush=True); os.abort()"
    with pytest.raises(FileRefusedError, match=r"SIGABRT \(it asks for more memory than is free\)"):
        run({"host": HOST}, then=then)


def test_a_crash_of_several_files_blames_none_of_them():
    job = {"models": [{"file": "a.tflite", "threads": 1}, {"file": "b.tflite", "threads": 1}]}
    with pytest.raises(FileRefusedError, match=r"one of 'a.tflite', 'b.tflite': ended with status 3") as caught:
        run({"host": HOST}, {"result": {}}, then="sys.exit(3)", job=job)
    assert (caught.value.model, caught.value.path) == (None, None)


# Files.


def result(**changes):
    return {
        "file": "somewhere else", "threads": 1, "api": "compiled_model", "unavailable": None,
        "load_us": 1.0, "first_us": 2.0, "peak_bytes": 3, "added_bytes": 1, "us": US, "runs": 100, "converged": True,
        "rounds_us": [10.0] * 10, "profile": None, "others_share": 0.01,
    } | changes  # fmt: skip


class Place:
    """Where jobs run: answers every model with `result`, and refuses files whose path has one of `bad`."""

    def __init__(self, host=HOST, bad=(), **changes):
        self.host, self.bad, self.changes, self.jobs = host, bad, changes, []

    def __call__(self, job, progress=None):
        self.jobs.append(job)
        self.host = self.host | {"jobs": len(self.jobs)}  # such as the load average, which changes
        for index, model in enumerate(job["models"]):
            if any(name in model["file"] for name in self.bad):
                raise FileRefusedError(f"{model['file']} does not run", model=index, path=model["file"])
        results = [result(threads=model["threads"], **self.changes) for model in job["models"]]
        return JobResult(self.host, tuple(results))


def test_processes_are_merged_into_the_middle_one(add):
    medians = iter([12.0, 10.0, 11.0, 14.0])

    def place(job, progress=None):
        median = next(medians)
        assert job["seconds"] == 0.5
        return JobResult(HOST, (result(us=US | {"median": median}, rounds_us=[median] * 2, runs=int(median)),))

    profile = measure_file(add, seconds=2.0, processes=4, run=place, layers=False)
    assert (profile.total.median, profile.runs, profile.processes_us) == (11.0, 11, (12.0, 10.0, 11.0, 14.0))
    assert profile.rounds_us == (12.0, 12.0, 10.0, 10.0, 11.0, 11.0, 14.0, 14.0)
    with pytest.raises(InputError, match="`processes`"):
        measure_file(add, processes=0)


@pytest.fixture
def add(tmp_path):
    tensors = [writer.tensor(name, [1, 64], FLOAT) for name in "abc"]
    operators = [writer.operator("ADD", [0, 1], [2], "AddOptions")]
    return writer.write(tmp_path / "add.tflite", tensors, operators, inputs=(0, 1))


@pytest.fixture
def other(tmp_path):
    tensors = [writer.tensor(name, [1, 8], FLOAT) for name in "ab"]
    return writer.write(tmp_path / "other.tflite", tensors, [writer.operator("ABS", [0], [1])])


def test_a_real_measurement_is_a_result_and_survives_json(add):
    measured = measure_files([add], threads=(1, 2), seconds=0.2)
    for profile, threads in zip(measured.profiles, (1, 2), strict=True):
        assert (profile.file, profile.threads, profile.file_bytes) == ("add.tflite", threads, add.stat().st_size)
        assert profile.sha256 == files.sha256(add.read_bytes())
        assert profile.method == PROFILER
        assert profile.profiled_runs >= 20
        spent = sum(layer.us.typical for layer in profile.layers)
        assert profile.overhead_us == pytest.approx(profile.total.median - spent)
    assert measured.host["state"].keys() == {"load_average", "governor"}
    assert BenchmarkResult.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    assert repr(measured).startswith("<BenchmarkResult: add.tflite, 1 thread: ")
    assert [row["layer"] for row in measured._rows()] == [layer.name for p in measured.profiles for layer in p.layers]


def test_a_result_has_a_figure_where_it_has_layers():
    from latency_records import layer, profile

    with_layers = BenchmarkResult(HOST, (profile(), profile(layer("conv", 5.0))))
    assert with_layers.plot().axes
    with pytest.raises(InputError, match="no layers to plot"):
        BenchmarkResult(HOST, (profile(),)).plot()


def test_each_file_and_number_of_threads_is_a_job_of_its_own_or_all_are_one(add, other):
    expected = [("add.tflite", 1), ("add.tflite", 2), ("other.tflite", 1), ("other.tflite", 2)]
    for interleave, sizes in ((False, [1] * 4), (True, [4])):
        place = Place()
        measured = measure_files([add, other], threads=(1, 2), layers=False, run=place, interleave=interleave)
        assert [len(job["models"]) for job in place.jobs] == sizes
        assert [(profile.file, profile.threads) for profile in measured.profiles] == expected
        assert {profile.host["jobs"] for profile in measured.profiles} == {measured.host["jobs"]} == {1}
        assert [pathlib.Path(m["file"]).name for job in place.jobs for m in job["models"]] == [f for f, _ in expected]


def test_what_was_asked_for_is_in_the_job(add):
    place = Place()
    (profile,) = measure_files([add], runs=7, seconds=3, delegate="/lib/x.so", run=place).profiles
    assert {"runs": 7, "seconds": 3, "profile": False, "delegate": "/lib/x.so"}.items() <= place.jobs[0].items()
    assert profile.notes == ("delegate /lib/x.so: only whole runs are timed",)


def test_a_file_is_read_once_from_a_path_its_content_or_its_record(add, monkeypatch):
    place = Place()
    record = read_model(add)
    sources = [add, record, BenchmarkFile(add.read_bytes(), name="bytes.tflite", notes=("noise",)), add.read_bytes()]
    measured = measure_files(sources, layers=False, run=place)
    names = [profile.file for profile in measured.profiles]
    assert names == ["add.tflite", "add.tflite", "bytes.tflite", "model.tflite"]
    assert measured.profiles[2].notes == ("noise",)
    assert {profile.sha256 for profile in measured.profiles} == {files.sha256(add.read_bytes())}
    reads = []
    monkeypatch.setattr("keras_nin.tflite.reader.read_bytes", lambda path: reads.append(path) or add.read_bytes())
    measure_file(add, runs=1, seconds=0.1)
    assert len(reads) == 1


def test_progress_in_words(add, other):
    def place(job, progress):
        progress([{"runs": 1200, "us": 1234.56, "within": 0.0123}, {"runs": 1, "us": 7.0, "within": None}])
        return Place()(job)

    told = []
    measure_files([add, other], layers=False, interleave=True, run=place, progress=told.append)
    assert told == [
        "add.tflite on 1 thread, other.tflite on 1 thread",
        "add.tflite on 1 thread: 1,234.6 us ± 1.2% after 1,200 runs; other.tflite on 1 thread: 7.0 us after 1 run",
    ]


@pytest.mark.parametrize("interleave", [False, True])
def test_bad_files_are_collected_and_the_others_measured(add, other, tmp_path, interleave):
    text = tmp_path / "text.tflite"
    text.write_text("Not a model.")
    place, failures = Place(bad=["add"]), []
    options = {"threads": (1, 2), "layers": False, "run": place, "interleave": interleave}
    measured = measure_files([text, add, other], failures=failures, **options)
    assert [(profile.file, profile.threads) for profile in measured.profiles] == [
        ("other.tflite", 1),
        ("other.tflite", 2),
    ]
    assert [str(text) in str(failures[0]), failures[1].path] == [True, str(add)]
    assert len(failures) == 2
    with pytest.raises(FileRefusedError):
        measure_files([other, add], **options)
    assert measure_files([add], failures=failures, **options) == BenchmarkResult({}, ())


@pytest.mark.parametrize(
    ("host", "changes", "warning"),
    [
        ({}, {"others_share": 0.34}, "the machine is busy: other processes took 34% of its processor time"),
        ({"load_average": 2.5}, {}, "the machine is busy: load average 2.5 on 4 cores at the start"),
        ({"governor": "powersave"}, {}, "the processor's frequency governor is 'powersave'"),
        ({}, {"converged": False}, "add.tflite on 1 thread: the median is not known to 1% after 100 runs"),
        ({"load_average": None}, {"others_share": None}, None),
        ({"governor": "performance"}, {}, None),
    ],
)
def test_warnings(add, host, changes, warning):
    place = Place(HOST | {"state": HOST["state"] | host}, **changes)
    warnings = measure_files([add, add], layers=False, run=place).warnings
    assert len(set(warnings)) == bool(warning)
    assert not warning or warnings[0].startswith(warning)


def test_notes_say_what_ran(add):
    assert measure_file(add, layers=False, run=Place()).notes == ()
    assert measure_file(add, layers=False, run=Place(unavailable="no profiler")).notes == ("no profiler",)


@pytest.mark.parametrize("arguments", [{"sources": []}, {"sources": ["net.tflite"], "threads": ()}])
def test_nothing_to_measure(arguments):
    with pytest.raises(InputError, match="to have at least one entry"):
        measure_files(**arguments)


# The command.


@pytest.fixture
def measuring(other):
    """A process of the command that measures for hours, and the runner that it started."""
    words = ["benchmark", str(other), "--runs", "999999999"]
    # A shell that starts the tests in the background lets them ignore SIGINT.
    heeds = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeds}; from keras_nin.cli import main; sys.exit(main.run({words}))"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield parent, _child_of(parent)
    finally:
        parent.kill()
        parent.communicate()


def _child_of(parent):
    for _ in range(1200):
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                command = path.with_name("cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent.pid and b"keras_nin.benchmark.runner" in command:
                return int(path.parent.name)
        assert parent.poll() is None, parent.stderr.read()
        time.sleep(0.05)
    raise AssertionError("no runner was started")


def gone(process):
    """Whether a process ends; a zombie that waits for its parent has ended."""
    for _ in range(400):
        try:
            if pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process with its parent")
def test_no_runner_survives_a_kill_of_the_command(measuring):
    parent, own = measuring
    time.sleep(0.5)  # past the runner's first lines
    parent.kill()
    assert gone(own)


def test_an_interrupted_command_leaves_no_runner(measuring):
    parent, own = measuring
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode == 128 + signal.SIGINT
    assert errors.strip() == b"Error: interrupted"
    assert gone(own)


def test_a_benchmark_passes_through_ten_files_from_command_to_table(other, tmp_path):
    """All files of the package whose functions run, here and in the runner, beside what all commands share."""
    (tmp_path / "sitecustomize.py").write_text(f"import tracing\ntracing.start({str(tmp_path / 'trace')!r})\n")
    code = f"from keras_nin.cli import main; main.run(['benchmark', {str(other)!r}, '--runs', '20'])"
    environment = {"PYTHONPATH": f"{tmp_path}:{tracing.ROOT}/tests:{tracing.ROOT}", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=120)
    path = tracing.files(tmp_path / "trace")
    assert "keras_nin/benchmark/runner/main.py" in path
    assert len(path) <= 10, "\n".join(path)


def test_neither_process_imports_a_framework(other):
    """Nor does the parent import the runtime or NumPy."""
    code = f"""
        import json, sys
        from keras_nin.benchmark import measure_files, measurement
        command, environment = measurement.python_command(measurement.RUNNER_MODULE)
        log = []
        def run(job):
            traced = [command[0], "-X", "importtime", *command[1:]]
            with measurement.JsonProcess(traced, job=job, env=environment) as process:
                documents = list(process.documents(60))
                log.append(process.stderr)
            return measurement.JobResult(documents[0]["host"], (documents[-1]["result"],))
        measure_files([{str(other)!r}], runs=20, run=run)
        print(json.dumps([sorted(sys.modules), log[0]]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    parent, log = json.loads(done.stdout)
    assert not set(parent) & {"keras", "tensorflow", "numpy", "ai_edge_litert"}
    assert "ai_edge_litert" in log
    assert "tensorflow" not in log
    assert " keras\n" not in log
