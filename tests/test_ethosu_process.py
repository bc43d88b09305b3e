"""A tool runs in a group of its own, and nothing of it is left."""

import os
import signal
import subprocess
import sys
import time

import pytest

from keras_nin.edge.ethosu import process

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
    ran = process.run(["sh", "-c", f"{STARTS}; wait"], tmp_path, 3)
    assert ran.status is None
    assert ran.out == "started\n"
    number = int((tmp_path / "child").read_text())
    wait_until(lambda: gone(number))


def test_children_do_not_outlive_a_tool_that_ends(tmp_path):
    assert process.run(["sh", "-c", STARTS], tmp_path, 60).status == 0
    number = int((tmp_path / "child").read_text())
    wait_until(lambda: gone(number))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_caller_that_is_told_to_end(number, tmp_path):
    run = f"process.run(['sh', '-c', {STARTS + '; wait'!r}], {str(tmp_path)!r}, 600)"
    program = f"from keras_nin.edge.ethosu import process; {run}"
    caller = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "child").exists)
    caller.send_signal(number)
    assert "KeyboardInterrupt" in caller.communicate()[1]
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: gone(child))


def test_the_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    process.run([sys.executable, "-c", ""], tmp_path, 60)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(OSError, match="No such file"):
        process.run([str(tmp_path / "nothing")], tmp_path, 60)
    assert signal.getsignal(signal.SIGTERM) is before
    assert os.listdir(tmp_path) == []
