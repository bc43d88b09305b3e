"""Child processes: what they say, how they end, and that nothing of them is left. The programs are a few lines each."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from keras_nin.child_process import (
    JsonProcess,
    ProcessResult,
    ProcessStartError,
    describe_status,
    python_command,
    run_process,
)

PATIENCE = 60  # seconds: only how long a test waits before it fails
# A program that starts another one and writes down its number.
STARTS = "sleep 600 & echo $! > part; mv part child; echo started"


def python(code):
    return [sys.executable, "-X", "utf8", "-c", code]


def is_gone(number):
    """Whether a process runs no more; one that its new parent has not asked about yet does not run either."""
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def child_of(folder):
    wait_until((folder / "child").exists)
    return int((folder / "child").read_text())


def test_output_folder_and_status(tmp_path):
    code = "import os, sys; print(os.getcwd()); print('é', file=sys.stderr); sys.stdin.read(); sys.exit(3)"
    result = run_process(python(code), folder=tmp_path, timeout=PATIENCE)
    assert result == ProcessResult(3, f"{tmp_path.resolve()}\n", "é\n")
    assert not result.timed_out


def test_the_job_arrives_whole_and_json_lines_come_back():
    job = {"text": "é" * 200_000}  # more than a pipe holds
    code = "import json; job = json.loads(input()); print('Hello\\n[1]\\nnull'); print(json.dumps(job)); print('{')"
    assert run_process(python(code), job=job, timeout=PATIENCE).documents() == [job]


def test_a_job_that_nobody_reads():
    assert run_process(python(""), job={"text": "x" * 1_000_000}, timeout=PATIENCE).status == 0


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("import os; os.abort()", -signal.SIGABRT, "killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, "killed by SIGKILL"),
        ("raise SystemExit(3)", 3, "ended with status 3"),
    ],
)
def test_how_a_process_ends(code, status, words):
    assert run_process(python(code), timeout=PATIENCE).status == status
    assert describe_status(status) == words


def test_of_a_long_output_the_beginning_and_the_end_are_kept(monkeypatch):
    monkeypatch.setattr("keras_nin.child_process._HALF_OUTPUT", 1000)
    code = "import os; os.write(2, b'begin'); [os.write(2, b'x' * 999) for _ in range(99)]; os.write(2, b'end')"
    log = run_process(python(code), timeout=PATIENCE).stderr
    assert len(log) == 2000
    assert log.startswith("beginx")
    assert log.endswith("xend")


def test_a_program_that_is_missing(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ProcessStartError, match="'/no/such' .No such file") as caught:
        run_process(["/no/such", "word"], timeout=1)
    assert caught.value.path == "/no/such"
    assert signal.getsignal(signal.SIGTERM) is before


def test_at_the_time_limit_the_children_are_killed_too(tmp_path):
    for timeout in (0.2, 1, 4, 16, 64):  # on a busy machine it takes its time to start
        result = run_process(["sh", "-c", f"{STARTS}; wait"], folder=tmp_path, timeout=timeout)
        assert result.timed_out
        if result.stdout == "started\n":
            break
    wait_until(lambda: is_gone(child_of(tmp_path)))


def test_children_do_not_outlive_a_program_that_ends(tmp_path):
    assert run_process(["sh", "-c", STARTS], folder=tmp_path, timeout=PATIENCE).status == 0
    wait_until(lambda: is_gone(child_of(tmp_path)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_caller_that_is_told_to_end(number, tmp_path):
    run = f"run_process(['sh', '-c', {STARTS + '; wait'!r}], folder={str(tmp_path)!r}, timeout=600)"
    # A shell that starts the tests in the background lets them ignore SIGINT.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeds}; from keras_nin.child_process import run_process; {run}"
    caller = subprocess.Popen(python(program), stderr=subprocess.PIPE, text=True)
    child = child_of(tmp_path)
    caller.send_signal(number)
    assert "KeyboardInterrupt" in caller.communicate()[1]
    wait_until(lambda: is_gone(child))


class Interrupted(subprocess.Popen):
    """A process during whose start and end this one is told to end, again and again."""

    def __init__(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        Interrupted.last = self

    def wait(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(*arguments)


def test_nothing_outlives_a_start_that_is_interrupted(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_process(["sleep", "600"], timeout=600)
    assert Interrupted.last.returncode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupt_after_the_end_is_not_lost(monkeypatch):
    monkeypatch.setattr(os, "killpg", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        run_process(python(""), timeout=PATIENCE)


def test_other_threads_run_programs_too():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert pool.submit(run_process, ["sh", "-c", "echo a"], timeout=PATIENCE).result().stdout == "a\n"


def test_documents_come_while_the_process_runs():
    code = "import json; print(json.dumps({'said': 1}), flush=True); input(); print('no JSON'); print('{\"said\": 2}')"
    with JsonProcess(python(f"import sys\n{code}\nsys.stderr.write('bye')\nsys.exit(4)")) as process:
        documents = process.documents(silence=PATIENCE)
        assert next(documents) == {"said": 1}
        # Without a job the standard input is empty, and input() fails.
        assert list(documents) == []
        assert (process.status, process.timed_out) == (1, False)
        assert "EOFError" in process.stderr


def test_silence_ends_the_documents_and_is_counted_anew_with_every_line():
    code = "import time\nfor _ in range(4): print('{}', flush=True); time.sleep(0.3)\ntime.sleep(600)"
    with JsonProcess([*python(code)[:1], "-S", "-c", code]) as process:
        assert len(list(process.documents(silence=0.8))) == 4
        assert (process.status, process.timed_out) == (None, True)


def test_a_module_of_this_package_runs_from_any_folder(tmp_path):
    command, environment = python_command("keras_nin")
    result = run_process([*command, "--help"], folder=tmp_path, environment=environment, timeout=PATIENCE)
    assert result.stdout.startswith("Usage: ")
    assert json.dumps(environment["PYTHONPATH"])
