"""Kill exports at random moments and look at what they leave.

python tools/kill_export.py [KILLS [SEED]]

`keras-nin export nin_digits` runs in a process of its own and gets SIGKILL. Half of the moments are uniform over the
time that a whole export takes, the others within 20 ms of the first change in the folder, while the files are written.
Half of the exports are into an empty folder, the others replace one of other content with --force. After each the same
command runs to its end. Exit status 1 where

- a file is there that is not, byte for byte, one of the old or of the new export,
- an export record is there beside a file that it does not describe, or beside other companions,
- the old network is gone before the new one is there,
- the next export fails, or what it leaves is not the new export alone, in the folder or in the temporary folder.
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

STEM = "nin_digits_int8"
EXPORT = ("export", "nin_digits", "--scheme", "int8", "--test-count", "5", "--runs", "1", "--out", "out")
EXPORT += ("--ranges", "minmax", "--rounding", "nearest", "--no-bias-correction")  # quick: tuning writes no file
WRITING = 0.02  # seconds: longer than it takes to write the files
OTHER = ("--weights", "random", "--seed", "1")


def main(kills=50, seed=0):
    """Kill, look and export again, `kills` times; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pathlib.Path("tmp").mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(pathlib.Path("tmp").absolute())
        return _kill_often(int(kills), random.Random(int(seed)))


def _kill_often(kills, moments):
    old = _export(OTHER)
    shutil.rmtree("out")
    start = time.monotonic()
    _start(()).wait()
    whole = time.monotonic() - start
    new = _contents("out")
    found, faults = collections.Counter(), []
    for number in range(kills):
        before = {} if number % 2 else old
        is_writing = number % 4 >= 2
        moment = moments.uniform(0, WRITING if is_writing else whole)
        state, problems = _kill(before, new, moment, is_writing)
        when = f"{moment:.3f} s after the {'first change' if is_writing else 'start'}"
        print(f"{number + 1}: {when} left {state}", *problems, sep="; ", file=sys.stderr, flush=True)
        found[state] += 1
        faults += [f"kill {number + 1}, {when}: {problem}" for problem in problems]
    print(f"{kills} kills, half of them of a first export, half of a replacement, half of each while it writes")
    for state, count in found.most_common():
        print(f"  {count:3} left {state}")
    nothing = "Nothing half-written, no export record of other files, nothing left by the next export."
    print(*faults or [nothing], sep="\n")
    return 1 if faults else 0


def _kill(before, new, moment, is_writing):
    """Kill an export `moment` seconds after it starts, or starts to write, and run the next one.

    Return what the first left, in words, and what was wrong.
    """
    shutil.rmtree("out", ignore_errors=True)
    pathlib.Path("out").mkdir()
    for name, data in before.items():
        (pathlib.Path("out") / name).write_bytes(data)
    force = ("--force",) if before else ()
    state = _state("out")
    process = _start(force)
    while is_writing and _state("out") == state and process.poll() is None:
        time.sleep(0.001)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = _contents("out")
    temporaries = [*(name for name in left if name.startswith(".")), *_temporaries()]
    kept = {name: data for name, data in left.items() if not name.startswith(".")}
    problems = list(_problems(kept, before, new))
    if _export(force) != new:
        problems.append("the next export did not leave the new files alone")
    if _temporaries():
        problems.append(f"the next export left {_temporaries()} in the temporary folder")
    state = "the new files" if kept == new else "what was there before" if kept == before else f"{sorted(kept)}"
    return f"{state}{' and temporaries' if temporaries else ''}", problems


def _problems(kept, before, new):
    for name, data in kept.items():
        if data not in (before.get(name), new.get(name)):
            yield f"{name} is neither old nor new"
    export_record = kept.get(f"{STEM}.json")
    if export_record is not None and kept not in (before, new):
        json.loads(export_record)
        yield "an export record beside other files"
    if before and f"{STEM}.tflite" not in kept:
        yield "the old network is gone"


def _temporaries():
    """Return what is in the temporary folder but for that of this process, which lives."""
    return [name for name in os.listdir("tmp") if not name.startswith(f".keras-nin-{os.getpid()}@")]


def _start(words):
    command = [sys.executable, "-m", "keras_nin", *EXPORT, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _export(words):
    """Export in this process, where TensorFlow has started already; return what is there then."""
    from keras_nin.cli import main as cli
    from keras_nin.output_capture import capture_output

    with capture_output() as output:
        status = cli.run([*EXPORT, *words])
    if status:
        print(output.text)
    return _contents("out")


def _state(folder):
    """Return name, inode, size and time of each file, which any change of the folder changes."""
    found = set()
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            status = entry.stat()
            found.add((entry.name, status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def _contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
