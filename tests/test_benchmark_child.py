"""The process beside: what it says, how it fails, and that nothing of it is left. Runners here are a few lines."""

import json
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import tflite_writer as writer

from keras_nin.benchmark import measurement

HOST = {"host": {"cpu": "made up"}}
JOB = {"models": [{"file": "net.tflite", "threads": 1}], "seconds": 0.1}
LIMIT = 60


def runner(*lines, then=""):
    """A command that reads its job, prints documents, and does something."""
    script = "import json, os, signal, sys, time\njob = json.loads(sys.stdin.readline())\n"
    script += "".join(f"print({json.dumps(json.dumps(line))}, flush=True)\n" for line in lines)
    return [sys.executable, "-c", script + textwrap.dedent(then)]


def run(*lines, then="", job=JOB, limit=LIMIT, **options):
    return measurement.run_job(job, runner(*lines, then=then), limit=limit, **options)


def gone(process):
    """Whether a process ends; a zombie that waits for its parent has ended."""
    for _ in range(400):
        try:
            state = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_answer_is_the_host_and_the_results_in_order():
    job = JOB | {"models": JOB["models"] * 2}
    answer = run(HOST, {"result": {"file": "a"}}, {"result": {"file": "b"}}, job=job)
    assert answer == measurement.JobResult(HOST["host"], ({"file": "a"}, {"file": "b"}))


def test_the_job_arrives_whole():
    then = 'print(json.dumps({"result": job}))'
    assert run(HOST, then=then).results == (JOB,)


def test_what_is_no_document_is_passed_over():
    answer = run(HOST, then='print("Welcome!\\n[1]\\n7\\nnull"); print(json.dumps({"result": {}}))')
    assert answer.results == ({},)


def test_progress_is_told_while_it_runs():
    told = []
    run(HOST, {"progress": [{"runs": 1}]}, {"progress": [{"runs": 2}]}, {"result": {}}, progress=told.append)
    assert told == [[{"runs": 1}], [{"runs": 2}]]


def test_a_command_that_does_not_start():
    with pytest.raises(measurement.RunnerNotStarted, match="Expected a command that starts.*'/no/such'.*No such file"):
        measurement.run_job(JOB, ["/no/such", "runner.pyz"])


def test_a_command_that_ends_without_an_answer():
    then = "print('bash: python3: command not found', file=sys.stderr); sys.exit(127)"
    with pytest.raises(measurement.RunnerNoAnswer, match="none from.*status 127.*python3: command not found") as caught:
        run(then=then)
    assert caught.value.status == 127
    assert "command not found" in caught.value.log
    assert "\n" not in str(caught.value)


def test_a_command_that_says_nothing():
    with pytest.raises(measurement.RunnerNoAnswer, match="nothing came for 0.5 s") as caught:
        run(then="time.sleep(600)", limit=0.5)
    assert caught.value.status is None


def test_a_file_that_never_ends():
    with pytest.raises(measurement.FileRefused, match="'net.tflite': nothing came for 2 s"):
        run(HOST, then="time.sleep(600)", limit=2)


def test_silence_is_counted_anew_with_every_line():
    then = """
        for _ in range(8):
            time.sleep(0.5)
            print(json.dumps({"progress": []}), flush=True)
        print(json.dumps({"result": {}}))
    """
    assert run(HOST, then=then, limit=3).results == ({},)


def test_a_file_that_the_runtime_refuses():
    error = {"error": {"model": 0, "message": "LiteRtX returned kLiteRtStatusErrorY"}}
    then = """
        print("INFO: of no use\\nERROR: the cause.\\nERROR: what follows", file=sys.stderr)
    """
    runs = [sys.executable, "-c", runner(HOST, error)[2] + textwrap.dedent(then)]
    with pytest.raises(measurement.FileRefused) as caught:
        measurement.run_job(JOB, runs)
    assert str(caught.value) == (
        "Expected a file that the LiteRT runtime runs. Received: 'net.tflite': LiteRtX returned kLiteRtStatusErrorY "
        "(the cause.)"
    )


def test_the_name_in_messages_is_that_of_the_entry():
    models = [{"file": "/tmp/there/0.tflite", "name": "net.tflite", "threads": 1}]
    with pytest.raises(measurement.FileRefused, match="Received: 'net.tflite': no"):
        run(HOST, {"error": {"model": 0, "message": "no"}}, job={"models": models})


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_names_its_signal(number):
    with pytest.raises(measurement.FileRefused, match=f"'net.tflite': the runtime was killed by {number.name}$"):
        run(HOST, then=f"os.kill(os.getpid(), {int(number)})")


def test_a_crash_for_want_of_memory_says_so():
    then = "print(\"terminate called after throwing 'std::bad_alloc'\", file=sys.stderr, flush=True); os.abort()"
    with pytest.raises(measurement.FileRefused, match=r"SIGABRT \(it asks for more memory than is free\)"):
        run(HOST, then=then)


def test_a_crash_of_several_files_blames_none_of_them_alone():
    job = {"models": [{"file": "a.tflite", "threads": 1}, {"file": "b.tflite", "threads": 1}]}
    with pytest.raises(
        measurement.FileRefused, match=r"one of 'a.tflite', 'b.tflite': its process ended with status 3"
    ):
        run(HOST, {"result": {}}, then="sys.exit(3)", job=job)


def test_a_flood_of_messages_is_kept_short():
    then = """
        print("ERROR: first", file=sys.stderr)
        for _ in range(1000):
            sys.stderr.write("x" * 99999 + "\\n")
        print("last", file=sys.stderr, flush=True)
        sys.exit(1)
    """
    with pytest.raises(measurement.RunnerNoAnswer, match=r"status 1 \(first\)$") as caught:
        run(then=then)
    assert len(caught.value.log) < 1 << 17
    assert caught.value.log.rstrip().endswith("last")


def test_what_the_runner_started_goes_with_it():
    """Also where it holds the pipes open after the runner itself ended."""
    then = """
        import subprocess
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(json.dumps({"result": {"other": other.pid}}), flush=True)
    """
    assert gone(run(HOST, then=then).results[0]["other"])
    told = []
    with pytest.raises(measurement.FileRefused):
        run(HOST, then=then.replace("result", "progress"), limit=3, progress=told.append)
    assert gone(told[0]["other"])


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A file with one addition."""
    tensors = [writer.tensor("a", [1, 4], "FLOAT32"), writer.tensor("b", [1, 4], "FLOAT32")]
    path = tmp_path_factory.mktemp("net") / "net.tflite"
    return writer.write(path, tensors, [writer.operator("ABS", [0], [1])])


@pytest.fixture
def measuring(net):
    """A process of the command that measures for hours, and the runner that it started."""
    words = ["benchmark", str(net), "--runs", "999999999"]
    code = f"import sys; from keras_nin.cli import main; sys.exit(main.run({words}))"
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


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone kills a process with its parent")
def test_no_runner_survives_a_kill_of_the_command(measuring):
    parent, own = measuring
    time.sleep(1)  # past the runner's first lines
    parent.kill()
    assert gone(own)


def test_an_interrupted_command_leaves_no_runner(measuring):
    parent, own = measuring
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 128 + signal.SIGINT
    assert errors.strip() == b"Error: interrupted"
    assert gone(own)


def test_neither_process_imports_a_framework(net):
    """Nor does the parent import the runtime or NumPy."""
    code = f"""
        import json, sys
        from keras_nin.cli import main
        from keras_nin.benchmark import measure, child
        answers = []
        def run(job):
            command, environment = child.local_command()
            command = [command[0], "-X", "importtime", *command[1:]]
            with child._Process(command, environment) as process:
                process.send(job)
                for document in process.documents(60):
                    answers.append(document)
                process.status()
                process._readers[1].join()
                sys.stderr.write(process.log)
            return child.Answer(answers[0]["host"], (answers[-1]["result"],))
        measure([{str(net)!r}], runs=20, run=run)
        print(json.dumps(sorted(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    parent = set(json.loads(done.stdout))
    assert not parent & {"keras", "tensorflow", "numpy", "ai_edge_litert"}
    assert "ai_edge_litert" in done.stderr
    assert "tensorflow" not in done.stderr
    assert " keras\n" not in done.stderr
