"""The processes in which files run: they end in time, take their own children along, and end with their parent."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from keras_nin.edge.micro import child

PATIENCE = 30  # seconds: only how long a test waits before it fails


def python(code):
    return [sys.executable, "-c", code]


def is_running(process):
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_a_process_says_and_prints():
    code = (
        "import json, sys; job = json.loads(input()); print(json.dumps({'phase': 'set up'})); print('no JSON');"
        "sys.stderr.write('one\\r\\ntwo'); print(json.dumps({'phase': 'done', 'was': job['file']}))"
    )
    outcome = child.run({"file": "a"}, PATIENCE, python(code))
    assert outcome == child.Outcome(0, False, "one\ntwo", {"phase": "done", "was": "a"})
    assert outcome.done


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV),
        ("raise SystemExit(3)", 3),
    ],
)
def test_a_process_that_dies_is_an_outcome(code, status):
    outcome = child.run({}, PATIENCE, python(code))
    assert (outcome.status, outcome.late, outcome.done) == (status, False, False)


def test_a_process_that_ends_early_is_not_done():
    assert not child.run({}, PATIENCE, python('print(\'{"phase": "run"}\')')).done


def test_only_the_end_of_a_long_log_is_kept():
    outcome = child.run({}, PATIENCE, python("import os; os.write(2, b'x' * 3_000_000); os.write(2, b'end')"))
    assert len(outcome.log) == 1 << 20
    assert outcome.log.endswith("xend")


def test_after_the_time_limit_nothing_is_left(tmp_path):
    noted = tmp_path / "processes"
    code = (
        "import os, subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(999)'])\n"
        f"open({str(noted)!r}, 'w').write(f'{{os.getpid()}} {{other.pid}}')\n"
        "time.sleep(999)"
    )
    outcome = child.run({}, 3, python(code))
    assert (outcome.late, outcome.done) == (True, False)
    for process in map(int, noted.read_text().split()):
        wait_until(lambda process=process: not is_running(process))


def test_what_a_process_starts_ends_with_it(tmp_path):
    noted = tmp_path / "process"
    sleeper = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(999)'], stdout=subprocess.DEVNULL)"
    code = f"import subprocess, sys; open({str(noted)!r}, 'w').write(str({sleeper}.pid))"
    child.run({}, PATIENCE, python(code))
    wait_until(lambda: not is_running(int(noted.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_it_ends_with_its_parent():
    words, environment = child.command()
    # This test keeps the pipe open, so that the end of its input is not what ends the process.
    read, write = os.pipe()
    code = f"import subprocess, time; print(subprocess.Popen({words!r}, stdin={read}).pid, flush=True); time.sleep(999)"
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, env=environment, pass_fds=[read])
    try:
        process = int(parent.stdout.readline())
        # It guards itself before anything else: once numbers appear in its status it is past its start.
        wait_until(lambda: _waits_for_input(process))
        parent.kill()
        parent.wait()
        wait_until(lambda: not is_running(process))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        os.close(read)
        os.close(write)


def _waits_for_input(process):
    with contextlib.suppress(OSError):
        # The system call that it is in, and its first argument: read(0, ...).
        return pathlib.Path(f"/proc/{process}/syscall").read_text().split()[:2] == ["0", "0x0"]
    return False


def test_an_interrupt_kills_the_process(tmp_path):
    noted = tmp_path / "process"
    inner = f"import os, time; open({str(noted)!r}, 'w').write(str(os.getpid()) + ' '); time.sleep(999)"
    code = f"from keras_nin.edge.micro import child; child.run({{}}, 999, {python(inner)!r})"
    _, environment = child.command()
    parent = subprocess.Popen(python(code), env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: noted.exists() and noted.read_text().endswith(" "))
    parent.send_signal(signal.SIGINT)
    parent.wait(PATIENCE)
    wait_until(lambda: not is_running(int(noted.read_text())))


def test_a_job_that_is_no_job_is_not_done():
    outcome = child.run({"engine": "none"}, PATIENCE)
    assert not outcome.done
    assert json.loads(json.dumps(outcome.answer)) == {"phase": "load"}
