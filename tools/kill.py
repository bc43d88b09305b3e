"""Kill commands that write files at random moments, and look at what they leave.

python tools/kill.py [--kills N] [--seed N] [COMMAND...]      prints Markdown; exit status 1 where something was wrong

Each command gets SIGKILL in a process of its own, forked from one that has imported TensorFlow. Half of the moments are
uniform over the time that the whole command takes, the others within 20 ms of the first change in its folder, while the
files are written. Half of the runs are into an empty folder, the others replace the files of an earlier run of other
content. After each the same command runs to its end. It is wrong where

- a file is there that is not, byte for byte, one of the old or of the new ones; of a sweep and a training, which write
  after every step: one that cannot be read,
- a record (.json) of an export or a card is there beside files that it does not describe,
- a file that was to be replaced is gone before the new one is there,
- the next run fails, calls files up to date that were not, or leaves others than an undisturbed run, or temporaries.
"""

import argparse
import atexit
import collections
import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

WRITING = 0.02  # seconds: longer than it takes to write the files
PATIENCE = 120
_LOG = "KERAS_NIN_KILL_LOG"  # where a child prints


@dataclasses.dataclass(frozen=True)
class Task:
    """A command that writes to the folder ``out``.

    Attributes:
        words: of the command line.
        other: further words of the run whose files are replaced or continued; `replacing` those that allow it.
        steps: whether it writes after every step, so that files are between old and new.
        variable: endings of files that hold times, and are not the same in two runs.
    """

    words: tuple[str, ...]
    other: tuple[str, ...] = ()
    replacing: tuple[str, ...] = ()
    steps: bool = False
    variable: tuple[str, ...] = ()


_EXPORT = "export nin_digits --scheme int8 --test-count 5 --runs 1 --out out --ranges minmax --rounding nearest"
TASKS = {
    "export": Task(
        # quick: tuning writes no file
        (*_EXPORT.split(), "--no-bias-correction"),
        ("--weights", "random", "--seed", "1"),
        ("--force",),
    ),
    "train": Task(
        tuple("train nin_digits --data ../images.npz --epochs 3 --batch-size 32 --out out".split()), steps=True,
        variable=(".json", ".keras"),
    ),
    "sweep": Task(
        tuple("sweep --kernel 1 --size 4,5 --cin 8 --cout 8 --seconds 0.02 --out out/sweep.csv".split()), steps=True,
        variable=(".csv",),
    ),
    "report": Task(
        tuple("report ../net.tflite --out out/report.html".split()), ("--title", "Another"), ("--force",)
    ),
    "cards": Task(tuple("cards nin_digits --out out".split())),
    "import-weights": Task(
        tuple("import-weights nin_digits ../weights.safetensors --out out/nin.weights.h5".split()), (), ("--force",)
    ),
}  # fmt: skip


def main():
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(TASKS)} [default: all]")
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = tempfile.mkdtemp()  # a TemporaryDirectory would be removed by every forked process that ends
    try:
        faults, rows = _kill_all(folder, given.commands or list(TASKS), given.kills, given.seed)
    finally:
        os.chdir("/")
        shutil.rmtree(folder)
    print("| command | kills | left | wrong |", "| --- | ---: | --- | ---: |", *rows, "", sep="\n")
    print(*faults or ['Nothing half-written, nothing stale after the next run, no wrong "up to date".'], sep="\n")
    return 1 if faults else 0


def _kill_all(folder, commands, kills, seed):
    """Kill commands in a folder; return what was wrong, and a row of the table for each."""
    os.chdir(folder)
    for name in ("tmp", "work"):
        os.mkdir(name)
    os.environ[_LOG] = os.path.abspath("log")
    os.environ["TMPDIR"] = tempfile.tempdir = os.path.abspath("tmp")
    _import_frameworks()
    _write_inputs()
    os.chdir("work")
    faults, rows = [], []
    for command in commands:
        found, wrong = kill_often(command, kills, random.Random(f"{command} {seed}"))
        left = "; ".join(f"{number} {words}" for words, number in found.most_common())
        rows.append(f"| {command} | {kills} | {left} | {len(wrong)} |")
        faults += wrong
    return faults, rows


def _import_frameworks():
    """Import what the commands import, but start nothing: TensorFlow's threads do not survive a fork."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    from keras_nin.cli import benchmark, export, models, report  # noqa: F401
    from keras_nin.workflows import cards, reports, sweep, training  # noqa: F401
    from keras_nin.workflows import export as export_workflow  # noqa: F401


def _write_inputs():
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 8, 8, 1), np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(64) % 10)
    _finish(("export", "nin_digits", "--scheme", "int8", "--test-count", "5", "--runs", "1", "--out", "net"))
    shutil.copy("net/nin_digits_int8.tflite", "net.tflite")
    os.waitpid(_in_child(_write_weights), 0)


def _write_weights():
    """Write weights of nin_digits by name, as `import-weights` reads them."""
    from safetensors.numpy import save_file

    from keras_nin import models

    layers = models.build_model("nin_digits", weights="digits").layers
    arrays = {f"{layer.name}/{weight.name}": weight.numpy() for layer in layers for weight in layer.weights}
    save_file(arrays, "weights.safetensors")


def _in_child(function, *arguments):
    """Fork a process that calls a function; return its number."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        os.setsid()
        log = os.open(os.environ[_LOG], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = function(*arguments) or 0
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _start(words):
    from keras_nin.cli import main as cli

    return _in_child(cli.run, list(words))


def _finish(words):
    """Run a command to its end; return its exit status, its output and the seconds."""
    start = time.monotonic()
    process = _start(words)
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
        time.sleep(0.01)
        if time.monotonic() - start > PATIENCE:
            os.killpg(process, signal.SIGKILL)
    log = pathlib.Path(os.environ[_LOG])
    text = log.read_text(errors="replace") if log.exists() else ""
    return os.waitstatus_to_exitcode(ended[1]), text, time.monotonic() - start


def kill_often(command, kills, moments):
    """Kill a command again and again; return what it left, in words with their numbers, and what was wrong."""
    task = TASKS[command]
    _empty()
    status, text, _ = _finish(task.words)
    if status:
        raise SystemExit(f"{command} fails without a kill: {text}")
    new = _contents()
    if task.other:
        _empty()
        _finish((*task.words, *task.other))
        old = _contents()
    else:  # the same files, written by hand since
        old = (
            {} if task.steps else {name: data if name.endswith(".json") else data + b"\n" for name, data in new.items()}
        )
    _empty()
    whole = _finish(task.words)[2]
    found, faults = collections.Counter(), []
    for number in range(kills):
        before = {} if number % 2 else old
        is_writing = number % 4 >= 2
        moment = moments.uniform(0, WRITING if is_writing else whole)
        left, problems = _kill(task, before, new, moment, is_writing)
        when = f"{moment:.3f} s after the {'first change' if is_writing else 'start'}"
        print(f"{command} {number + 1}: {when} left {left}", *problems, sep="; ", file=sys.stderr, flush=True)
        found[left] += 1
        faults += [f"{command}, kill {number + 1}, {when}: {problem}" for problem in problems]
    return found, faults


def _kill(task, before, new, moment, is_writing):
    """Kill a run `moment` seconds after it starts, or starts to write, and run the next one.

    Return what the first left, in words, and what was wrong.
    """
    _empty()
    for name, data in before.items():
        path = pathlib.Path("out", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    words = (*task.words, *(task.replacing if before else ()))
    state = _state()
    process = _start(words)
    while is_writing and _state() == state and os.waitpid(process, os.WNOHANG)[0] == 0:
        time.sleep(0.001)
    time.sleep(moment)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # it ended before
        os.waitpid(process, 0)
    left = _contents()
    kept = {name: data for name, data in left.items() if not _is_temporary(name)}
    has_temporaries = len(kept) < len(left) or bool(_temporaries())
    problems = list(_problems(task, kept, before, new))
    status, text, _ = _finish(words)
    problems += _next_problems(task, kept, new, status, text)
    same = {name for name in new if kept.get(name) == new[name]}
    if kept == before:
        words = "what was there before"
    elif same == set(new) or (task.steps and set(kept) == set(new)):
        words = "the new files"
    else:
        words = "some of the files"
    return f"{words}{' and temporaries' if has_temporaries else ''}", problems


def _problems(task, kept, before, new):
    for name, data in kept.items():
        if task.steps:
            problem = _unreadable(name, data)
            if problem:
                yield f"{name} cannot be read: {problem}"
        elif data not in (before.get(name), new.get(name)):
            yield f"{name} is neither old nor new"
    records = [name for name in kept if name.endswith(".json") and kept[name] != before.get(name)]
    for name in () if task.steps else records:
        folder = os.path.dirname(name)
        if any(kept.get(other) != data for other, data in new.items() if os.path.dirname(other) == folder):
            yield f"{name} beside other files"
    for name in before:
        if name not in kept and not name.endswith(".json"):
            yield f"{name}, which was to be replaced, is gone"


def _unreadable(name, data):
    try:
        if name.endswith(".json"):
            json.loads(data)
        elif name.endswith(".csv"):
            rows = list(csv.reader(io.StringIO(data.decode())))
            if len({len(row) for row in rows}) > 1:
                return "a row is incomplete"
        elif name.endswith(".h5"):
            import h5py

            with h5py.File(io.BytesIO(data)) as file:
                file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
    except (OSError, ValueError) as error:
        return error
    return None


def _next_problems(task, kept, new, status, text):
    is_finished = "holds a finished run" in text and kept.keys() == new.keys()  # the kill came too late
    if status and not is_finished:
        yield f"the next run ended with {status}: {text[-300:]}"
        return
    now = _contents()
    if now.keys() != new.keys():
        yield f"the next run left {sorted(now)}, not {sorted(new)}"
    for name in now.keys() & new.keys():
        if name.endswith(task.variable) if task.variable else False:
            if problem := _unreadable(name, now[name]):
                yield f"{name} of the next run cannot be read: {problem}"
        elif now[name] != new[name]:
            yield f"{name} of the next run differs"
    is_current = re.search(r"(?<!\b0 )up to date|nothing to do", text)
    if is_current and not task.steps and not any(kept.get(name) == data for name, data in new.items()):
        yield "the next run called other files up to date"
    if _temporaries():
        yield f"the next run left {_temporaries()} in the temporary folder"


def _is_temporary(name):
    return os.path.basename(name).startswith(".keras-nin-")


def _temporaries():
    """Return what is in the temporary folder, but for what TensorFlow leaves in a fork alone, and its bytecode."""
    left = os.listdir(tempfile.gettempdir())
    return [name for name in left if not name.startswith("__autograph_generated_file") and name != "__pycache__"]


def _state():
    """Return name, inode, size and time of each file, which any change of the folder changes."""
    found = set()
    for folder, _, names in os.walk("out"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it was renamed
                status = os.stat(os.path.join(folder, name))
                found.add((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def _contents():
    out = pathlib.Path("out")
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def _empty():
    shutil.rmtree("out", ignore_errors=True)
    os.mkdir("out")


if __name__ == "__main__":
    sys.exit(main())
