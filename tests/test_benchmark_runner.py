"""The binding of the C API, and the jobs of the runner; tiny files run for real."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tflite_writer as writer

from keras_nin.benchmark.job import FileRefusedError
from keras_nin.benchmark.measurement import RUNNER_MODULE, run_job
from keras_nin.benchmark.runner import litert, main, timing
from keras_nin.child_process import python_command

FLOAT = "FLOAT32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def add(folder):
    tensors = [writer.tensor(name, [1, 64], FLOAT) for name in "abc"]
    operators = [writer.operator("ADD", [0, 1], [2], "AddOptions")]
    return writer.write(folder / "add.tflite", tensors, operators, inputs=(0, 1))


def test_every_status_is_an_error_with_its_name():
    litert.check_status("RunCompiledModel", 0)
    with pytest.raises(litert.LiteRtError, match="LiteRtCreateModelFromFile returned kLiteRtStatusErrorFileIO"):
        litert.CompiledModel("/no/such.tflite")
    with pytest.raises(litert.LiteRtError, match="LiteRtX returned the unknown status 77"):
        litert.check_status("X", 77)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VERIFIED_VERSIONS", ("9.9.",), r"known in ai-edge-litert 9.9.x, not in \d"),
        ("_STRUCT_SIZES", {litert.ProfilerEvent: 96}, "laid out for 64-bit systems"),
        ("_PROTOTYPES", {"NoSuchFunction": ()}, "NoSuchFunction"),
    ],
)
def test_an_unknown_runtime_is_refused(monkeypatch, name, value, message):
    monkeypatch.setattr(litert, name, value)
    with pytest.raises(litert.CApiUnavailable, match=message):
        litert.LiteRtLibrary()


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_destroyed_in_reverse_order(add, monkeypatch, fails):
    created, destroyed = [], []
    create = litert.LiteRtLibrary.create

    def recorded(library, stack, kind, *arguments, **options):
        handle = create(library, stack, kind, *arguments, **options)
        created.append((kind, handle))
        stack.callback(destroyed.append, (kind, handle))
        return handle

    monkeypatch.setattr(litert.LiteRtLibrary, "create", recorded)
    if fails:
        monkeypatch.setattr(litert, "generate_input", lambda *_: (_ for _ in ()).throw(ValueError("no")))
        with pytest.raises(ValueError, match="no"):
            litert.CompiledModel(add)
    else:
        with litert.CompiledModel(add, profiling=True) as model:
            model.run()
            assert not destroyed
    kinds = ["Environment", "Model", "Options", "CompiledModel", *["TensorBuffer"] * (1 if fails else 3)]
    assert [kind for kind, _ in created] == kinds
    assert destroyed == created[::-1]


def test_memory_does_not_grow_with_files_opened_and_closed(folder):
    """Each would leave its 4 MiB of buffers, were they not destroyed."""
    tensors = [writer.tensor(name, [1, 1 << 19], FLOAT) for name in "ab"]
    path = writer.write(folder / "wide.tflite", tensors, [writer.operator("ABS", [0], [1])])

    def use():
        with litert.CompiledModel(path) as model:
            model.run()

    for _ in range(3):
        use()
    before = main.read_memory()["VmRSS"]
    for _ in range(10):
        use()
    assert main.read_memory()["VmRSS"] - before < 16 << 20


def test_the_profiler_sees_the_operators_of_each_run(add):
    with litert.CompiledModel(add, profiling=True) as model:
        first, again = (timing.summarize_profile(timing.split_runs(*model.profile(runs))) for runs in (5, 3))
    assert (first["runs"], again["runs"]) == (5, 3)
    assert [kernel["kind"] for kernel in first["kernels"]] == ["delegate"]


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


def job(*paths, **options):
    return {"models": [{"file": str(path), "threads": 1} for path in paths], "seconds": 0.1, "profile": True} | options


def test_a_job_of_the_runner(add):
    progress = []
    answer = run_job(job(add, add, seconds=0.2), progress=progress.append)
    assert answer.host["litert"].startswith(litert.VERIFIED_VERSIONS)
    assert set(answer.host["state"]) == {"load_average", "governor"}
    assert set(progress[0][0]) == {"runs", "us", "within"}
    for result in answer.results:
        assert result["api"] == "compiled_model"
        assert result["us"]["min"] <= result["us"]["p10"] <= result["us"]["median"] <= result["us"]["p90"]
        assert result["load_us"] > 0 < result["first_us"]
        assert 0 < result["added_bytes"] < result["peak_bytes"] < 1 << 30
        assert result["profile"]["runs"] >= main._MIN_PROFILED_RUNS
        assert [kernel["kind"] for kernel in result["profile"]["kernels"]] == ["delegate"]
    assert len(answer.results[0]["rounds_us"]) == len(answer.results[1]["rounds_us"]) >= 1


def test_few_runs_are_profiled_often_enough_and_bandwidth_is_measured(add):
    small = "from keras_nin.benchmark.runner import bandwidth, main; bandwidth.last_cache_bytes = lambda: 1 << 16; "
    command, environment = [sys.executable, "-c", small + "sys.exit(main.main())"], python_command(RUNNER_MODULE)[1]
    command[-1] = "import sys; " + command[-1]
    (result,) = run_job(job(add, runs=2, seconds=1, bandwidth=True), command=command, environment=environment).results
    assert result["runs"] == 2
    assert result["profile"]["runs"] >= main._MIN_PROFILED_RUNS
    assert result["bandwidth"]["gbytes_per_s"] == max(result["bandwidth"]["copy"], result["bandwidth"]["add"]) > 0


def test_without_the_c_api_the_interpreter_runs(add, monkeypatch):
    def unavailable():
        raise litert.CApiUnavailable("made up")

    monkeypatch.setattr(litert, "load_library", unavailable)
    with contextlib.ExitStack() as stack:
        model = main.MeasuredModel(stack, {"file": str(add), "threads": 1}, job(add))
        model.times.run_round(3)
        result = model.result()
    assert (result["api"], result["unavailable"], result["profile"]) == ("interpreter", "made up", None)


def test_a_single_operator_runs_after_the_primer_with_fresh_inputs(add):
    with contextlib.ExitStack() as stack:
        calls = []
        operator = main.SingleOperator(stack, {"file": str(add), "threads": 1}, lambda: calls.append("primer"))
        for name in ("write_inputs", "clear_outputs"):
            setattr(operator._model, name, lambda name=name: calls.append(name))
        operator.times.run_round(2)
        assert operator.result()["runs"] == 2
    assert list(dict.fromkeys(calls)) == ["write_inputs", "clear_outputs", "primer"]


def test_the_second_file_is_named_where_it_does_not_run(add, folder):
    bad = folder / "bad.tflite"
    bad.write_bytes(b"no file")
    for options in ({}, {"single_operators": True}):
        with pytest.raises(FileRefusedError, match="bad.tflite': ") as caught:
            run_job(job(add, bad, **options))
        assert (caught.value.model, caught.value.path) == (1, str(bad))


def test_stdout_has_only_documents(add):
    """What the runtime and Python print besides goes to stderr."""
    command, environment = python_command(RUNNER_MODULE)
    text = json.dumps(job(add, runs=1)) + "\n"
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert next(iter(json.loads(done.stdout.splitlines()[0]))) == "host"
    assert all(map(json.loads, done.stdout.splitlines()))
    assert "XNNPACK" in done.stderr


def test_progress_is_reported_twice_a_second(monkeypatch):
    now, reports = [100.0], []
    monkeypatch.setattr(main.time, "perf_counter", lambda: now[0])
    report = main.progress_reporter(reports.append, [])
    for _ in range(12):
        report()
        now[0] += 0.25
    assert len(reports) == 6


def test_no_file_may_take_more_memory_than_is_free():
    """In a process of its own: the limit stays."""
    code = "from keras_nin.child_runtime import limit_memory; limit_memory(); import numpy; numpy.ones(1 << 44)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "MemoryError" in done.stderr


def test_other_processes_are_told_from_this_one():
    others = main.OtherProcesses()
    sum(range(1_000_000))
    share = others.share()
    assert share is None or 0 <= share <= 1
