"""A tool runs in a group of its own, and nothing of it is left."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time

import pytest

from keras_nin.edge import process

# A tool that starts another and writes down its number.
STARTS = "sleep 600 & echo $! > part; mv part child; echo started"


def gone(number):
    """Whether a process runs no more; one that its new parent has not asked about yet does not run either."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(true):
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("it never happened")


def test_output_and_status(tmp_path):
    program = "import os, sys; print(os.getcwd()); print('é', file=sys.stderr); sys.stdin.read(); sys.exit(3)"
    ran = process.run([sys.executable, "-X", "utf8", "-c", program], tmp_path, 60)
    assert ran == process.Ran(3, f"{tmp_path.resolve()}\n", "é\n")


def test_a_signal_is_a_negative_status(tmp_path):
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert process.run([sys.executable, "-c", program], tmp_path, 60).status == -signal.SIGKILL


def test_what_takes_too_long_is_killed_with_its_children(tmp_path):
    for limit in (1, 4, 16, 64):  # on a busy machine it takes its time to start
        ran = process.run(["sh", "-c", f"{STARTS}; wait"], tmp_path, limit)
        assert ran.status is None
        if ran.out == "started\n":
            break
    number = int((tmp_path / "child").read_text())
    wait_until(lambda: gone(number))


def test_children_do_not_outlive_a_tool_that_ends(tmp_path):
    assert process.run(["sh", "-c", STARTS], tmp_path, 60).status == 0
    number = int((tmp_path / "child").read_text())
    wait_until(lambda: gone(number))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_caller_that_is_told_to_end(number, tmp_path):
    run = f"process.run(['sh', '-c', {STARTS + '; wait'!r}], {str(tmp_path)!r}, 600)"
    # A shell that starts the tests in the background lets them ignore SIGINT.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeds}; from keras_nin.edge import process; {run}"
    caller = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "child").exists)
    caller.send_signal(number)
    assert "KeyboardInterrupt" in caller.communicate()[1]
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: gone(child))


class Interrupted(subprocess.Popen):
    """A tool during whose start this process is told to end, again and again."""

    def __init__(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        Interrupted.last = self

    def wait(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(*arguments)


def test_nothing_outlives_a_start_that_is_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.run(["sleep", "600"], tmp_path, 600)
    assert Interrupted.last.returncode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_comes_after_the_end_is_not_lost(tmp_path, monkeypatch):
    def told(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, "killpg", told)
    with pytest.raises(KeyboardInterrupt):
        process.run([sys.executable, "-c", ""], tmp_path, 60)


def test_other_threads_run_tools_too(tmp_path):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert pool.submit(process.run, ["sh", "-c", "echo a"], tmp_path, 60).result().out == "a\n"


def test_the_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    process.run([sys.executable, "-c", ""], tmp_path, 60)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(OSError, match="No such file"):
        process.run([str(tmp_path / "nothing")], tmp_path, 60)
    assert signal.getsignal(signal.SIGTERM) is before
    assert os.listdir(tmp_path) == []
