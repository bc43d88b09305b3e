"""The binding of the C API, the profiler's events, and the runner's job; tiny files run for real."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tflite_writer as writer

from keras_nin.benchmark import measurement
from keras_nin.benchmark.runner import litert, main, timing

FLOAT = "FLOAT32"
NAMES = {1: "Invoke", 2: "Conv", 3: "Copy", 4: "LiteRT::Run[buffer sync]"}
INVOKE, CONV, COPY, SYNC = NAMES
DEFAULT, OPERATOR, DELEGATE, TELEMETRY = 1, 2, 8, 32


def recorded(*rows):
    """Events as the profiler records them, from (name, type, us, index)."""
    made = np.zeros(len(rows), np.dtype(litert.ProfilerEvent))
    for at, (tag, kind, us, index) in enumerate(rows):
        made[at]["tag"], made[at]["type"], made[at]["elapsed_us"], made[at]["index"] = tag, kind, us, index
    return made


def a_run(whole, conv, copy):
    return [
        (SYNC, DEFAULT, 9, 0),
        (INVOKE, DEFAULT, whole, 0),
        (CONV, DELEGATE, conv, 0),
        (COPY, OPERATOR, copy, 7),
        (INVOKE, TELEMETRY, 2**32, 0),
        (SYNC, DEFAULT, 9, 0),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def add(folder):
    tensors = [writer.tensor(name, [1, 64], FLOAT) for name in "abc"]
    operators = [writer.operator("ADD", [0, 1], [2], "AddOptions")]
    return writer.write(folder / "add.tflite", tensors, operators, inputs=(0, 1))


def test_events_become_kernels_in_order():
    runs = timing.split_runs(recorded(*a_run(30, 20, 5), *a_run(40, 25, 6)), NAMES)
    assert [each.kernels for each in runs] == [(("delegate", "Conv", 0), ("operator", "Copy", 7))]
    assert runs[0].whole.tolist() == [30, 40]
    assert runs[0].us.tolist() == [[20, 5], [25, 6]]


def test_what_comes_before_the_first_run_is_no_kernel():
    rows = [(CONV, DELEGATE, 99, 0), *a_run(30, 20, 5)]
    assert timing.split_runs(recorded(*rows), NAMES)[0].us.tolist() == [[20, 5]]


def test_runs_of_other_kernels_are_kept_apart():
    odd = [(INVOKE, DEFAULT, 50, 0), (CONV, DELEGATE, 45, 0)]
    swapped = [(INVOKE, DEFAULT, 60, 0), (COPY, OPERATOR, 6, 7), (CONV, DELEGATE, 45, 0)]
    runs = timing.split_runs(recorded(*a_run(30, 20, 5), *odd, *a_run(40, 25, 6), *swapped), NAMES)
    summary = timing.summarize_profile(runs)
    assert (summary["runs"], summary["other_runs"]) == (2, 2)
    assert [(kernel["name"], kernel["us"]["mean"]) for kernel in summary["kernels"]] == [("Conv", 22.5), ("Copy", 5.5)]


def test_runs_without_kernels_and_none_at_all():
    empty = timing.summarize_profile(
        timing.split_runs(recorded((INVOKE, DEFAULT, 3, 0), (INVOKE, DEFAULT, 5, 0)), NAMES)
    )
    assert (empty["runs"], empty["kernels"], empty["invoke_us"]["median"]) == (2, [], 4)
    assert timing.summarize_profile(timing.split_runs(recorded(), NAMES)) is None


def test_typical_times_leave_the_odd_runs_out():
    rows = [row for whole in (1, 30, 30, 31, 31, 900) for row in a_run(whole, whole // 2, 5)]
    conv = timing.summarize_profile(timing.split_runs(recorded(*rows), NAMES))["kernels"][0]["us"]
    assert conv["typical"] == 15
    assert conv["mean"] > 80


def test_typical_times_leave_a_kernels_own_outliers_out():
    """On a busy machine every run near the median may have been interrupted, each in another kernel."""
    rows = [row for _ in range(8) for row in a_run(100, 20, 5)]
    rows += [row for conv, copy in ((20, 4005), (4020, 5)) for row in a_run(100, conv, copy)]
    conv, copy = timing.summarize_profile(timing.split_runs(recorded(*rows), NAMES))["kernels"]
    assert (conv["us"]["typical"], copy["us"]["typical"]) == (20, 5)
    assert conv["us"]["mean"] == 420


@pytest.mark.parametrize("wholes", [[40], [30, 50], [30, 40, 90], [1, 1, 1, 90, 90, 90]])
def test_few_runs_have_a_typical_time(wholes):
    rows = [row for whole in wholes for row in a_run(whole, whole, 5)]
    conv = timing.summarize_profile(timing.split_runs(recorded(*rows), NAMES))["kernels"][0]["us"]
    assert min(wholes) <= conv["typical"] <= max(wholes)


def test_kernels_are_told_by_name_across_recordings():
    """The profiler's names have other addresses after a reset."""
    first = timing.split_runs(recorded(*a_run(30, 20, 5)), NAMES)
    other = {tag + 100: name for tag, name in NAMES.items()}
    second = timing.split_runs(recorded(*[(tag + 100, *rest) for tag, *rest in a_run(40, 25, 6)]), other)
    assert timing.summarize_profile(first + second)["runs"] == 2


def test_every_status_is_an_error_with_its_name():
    litert.check_status("RunCompiledModel", 0)
    with pytest.raises(litert.LiteRtError, match="LiteRtCreateModelFromFile returned kLiteRtStatusErrorFileIO"):
        litert.CompiledModel("/no/such.tflite")
    with pytest.raises(litert.LiteRtError, match="LiteRtX returned the unknown status 77"):
        litert.check_status("X", 77)


def test_another_version_of_the_runtime_is_refused(monkeypatch):
    monkeypatch.setattr(litert, "VERIFIED_VERSIONS", ("9.9.",))
    with pytest.raises(litert.CApiUnavailable, match=r"known in ai-edge-litert 9.9.x, not in \d"):
        litert.LiteRtLibrary()


def test_another_layout_is_refused(monkeypatch):
    monkeypatch.setitem(litert._STRUCT_SIZES, litert.ProfilerEvent, 96)
    with pytest.raises(litert.CApiUnavailable, match="laid out for 64-bit systems"):
        litert.LiteRtLibrary()


def test_a_missing_function_is_refused(monkeypatch):
    monkeypatch.setitem(litert._PROTOTYPES, "NoSuchFunction", ())
    with pytest.raises(litert.CApiUnavailable, match="NoSuchFunction"):
        litert.LiteRtLibrary()


def test_all_is_destroyed_in_reverse_order(add, monkeypatch):
    made, destroyed = [], []
    make = litert.LiteRtLibrary.make

    def noted(library, stack, kind, *arguments, **options):
        handle = make(library, stack, kind, *arguments, **options)
        made.append((kind, handle))
        stack.callback(destroyed.append, (kind, handle))
        return handle

    monkeypatch.setattr(litert.LiteRtLibrary, "make", noted)
    with litert.CompiledModel(add, profiling=True) as model:
        model.run()
        assert not destroyed
    assert [kind for kind, _ in made] == ["Environment", "Model", "Options", "CompiledModel", *["TensorBuffer"] * 3]
    assert destroyed == made[::-1]


def test_what_was_made_is_destroyed_where_the_rest_fails(add, monkeypatch):
    destroyed = []
    function = litert.LiteRtLibrary.function
    monkeypatch.setattr(litert.LiteRtLibrary, "function", lambda library, name: function(library, name))
    monkeypatch.setattr(litert, "generate_input", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    make = litert.LiteRtLibrary.make

    def noted(library, stack, kind, *arguments, **options):
        handle = make(library, stack, kind, *arguments, **options)
        stack.callback(destroyed.append, kind)
        return handle

    monkeypatch.setattr(litert.LiteRtLibrary, "make", noted)
    with pytest.raises(ValueError, match="no"):
        litert.CompiledModel(add)
    assert destroyed == ["TensorBuffer", "CompiledModel", "Options", "Model", "Environment"]


def test_memory_does_not_grow_with_files_opened_and_closed(folder):
    """Each would leave its 4 MiB of buffers, were they not destroyed."""
    tensors = [writer.tensor(name, [1, 1 << 19], FLOAT) for name in "ab"]
    path = writer.write(folder / "wide.tflite", tensors, [writer.operator("ABS", [0], [1])])

    def use():
        with litert.CompiledModel(path, profiling=True) as model:
            model.profile(2)

    for _ in range(5):
        use()
    before = main.read_memory()["VmRSS"]
    for _ in range(30):
        use()
    assert main.read_memory()["VmRSS"] - before < 16 << 20


def test_the_profiler_sees_the_operators_of_each_run(add):
    with litert.CompiledModel(add, profiling=True) as model:
        summary = timing.summarize_profile(timing.split_runs(*model.profile(30)))
        again = timing.summarize_profile(timing.split_runs(*model.profile(7)))
    assert (summary["runs"], again["runs"]) == (30, 7)
    assert [kernel["kind"] for kernel in summary["kernels"]] == ["delegate"]


def test_inputs_hold_noise_of_their_own_range():
    floats = litert.generate_input((4, 100), "float32", False)
    assert floats.dtype == np.float32
    assert 0 <= floats.min() < 0.1 < 0.9 < floats.max() < 1
    integers = litert.generate_input((4, 1000), "int8", True)
    assert (integers.dtype, integers.min(), integers.max()) == (np.int8, -128, 127)
    assert not litert.generate_input((4, 100), "int32", False).any()
    assert litert.generate_input((0, 3), "float32", False).shape == (0, 3)
    with pytest.raises(ValueError, match="of type string, which cannot be filled"):
        litert.generate_input((1,), "string", False)


def test_the_interpreter_runs_the_same_files(add):
    with litert.InterpretedModel(add) as model:
        model.run()


def job(*paths, **options):
    return {"models": [{"file": str(path), "threads": 1} for path in paths], "seconds": 0.2, "profile": True} | options


def test_a_job_of_the_runner(add):
    answer = measurement.run_job(job(add))
    (result,) = answer.results
    assert answer.host["litert"].startswith(litert.VERIFIED_VERSIONS)
    assert set(answer.host["state"]) == {"load_average", "governor"}
    assert result["api"] == "compiled_model"
    assert result["us"]["min"] <= result["us"]["p10"] <= result["us"]["median"] <= result["us"]["p90"]
    assert result["load_us"] > 0 < result["first_us"]
    assert 0 < result["added_bytes"] < result["peak_bytes"] < 1 << 30
    assert result["profile"]["runs"] >= main._MIN_PROFILED_RUNS
    assert [kernel["kind"] for kernel in result["profile"]["kernels"]] == ["delegate"]


def test_few_runs_are_profiled_often_enough(add):
    (result,) = measurement.run_job(job(add, runs=2)).results
    assert result["runs"] == 2
    assert result["profile"]["runs"] >= main._MIN_PROFILED_RUNS


def test_files_of_one_job_have_as_many_rounds(add):
    results = measurement.run_job(job(add, add, runs=None)).results
    assert len(results[0]["rounds_us"]) == len(results[1]["rounds_us"]) >= 1


def test_without_the_c_api_the_interpreter_runs(add, monkeypatch):
    def unavailable():
        raise litert.CApiUnavailable("made up")

    monkeypatch.setattr(litert, "load_library", unavailable)
    with contextlib.ExitStack() as stack:
        subject = main.MeasuredModel(stack, {"file": str(add), "threads": 1}, job(add))
        subject.series.block(3)
        result = subject.result()
    assert (result["api"], result["unavailable"], result["profile"]) == ("interpreter", "made up", None)


def test_the_second_file_is_named_where_it_does_not_run(add, folder):
    bad = folder / "bad.tflite"
    bad.write_bytes(b"no file")
    with pytest.raises(
        measurement.FileRefused, match="bad.tflite': LiteRtCreateModelFromFile returned kLiteRtStatusError"
    ):
        measurement.run_job(job(add, bad))


def test_stdout_has_documents_alone(add):
    """What the runtime and Python print besides goes to stderr."""
    command, environment = measurement.local_runner_command()
    text = json.dumps(job(add)) + "\n"
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert [next(iter(json.loads(line))) for line in done.stdout.splitlines()][0] == "host"
    assert "XNNPACK" in done.stderr


def test_progress_is_said_twice_a_second(monkeypatch):
    now, told = [100.0], []
    monkeypatch.setattr(main.time, "perf_counter", lambda: now[0])
    progress = main.ProgressReporter(told.append, [])
    for _ in range(12):
        progress()
        now[0] += 0.25
    assert len(told) == 6


def test_progress_is_said_after_the_first_round_and_then_seldom(add):
    told = []
    measurement.run_job(job(add, runs=20, profile=False), progress=told.append)
    assert told[0][0]["runs"] == 2
    assert set(told[0][0]) == {"runs", "us", "within"}


def test_no_file_may_take_more_memory_than_is_free(tmp_path):
    """In a process of its own: the limit stays."""
    code = "from keras_nin.benchmark.runner import main; main._limit_resources(); import numpy; numpy.ones(1 << 44)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "MemoryError" in done.stderr


def test_others_are_told_from_this_process():
    others = main.OtherProcesses()
    sum(range(2_000_000))
    share = others.share()
    assert share is None or 0 <= share <= 1
