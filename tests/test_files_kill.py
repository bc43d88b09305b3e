"""Processes that are killed while they write: what they leave, and what the next one makes of it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from keras_nin import InputError, files

# What a file operation reports to an audit hook before it happens.
STEPS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir")
OLD = {"net.tflite": "old", "net.py": "shared", "net.json": "old record"}
NEW = {"net.tflite": "new", "net.py": "shared", "net_labels.txt": "new", "net.json": "new record"}

# Runs without TensorFlow in a process of its own, because it forks.
DRIVER = """
import json, os, pathlib, signal, sys
from keras_nin import files

folder, steps, old, new, force, action = json.loads(sys.argv[1])
folder = pathlib.Path(folder)

def contents(named):
    return {folder / name: text.encode() for name, text in named.items()}

def work():
    if action == "write_files":
        files.write_files(contents(new), force)
    else:
        with files.temporary_folder() as temporary:
            (temporary / "below").mkdir()
            (temporary / "below" / "file").write_bytes(b"x")

def listing():
    return {path.name: path.read_text() if path.is_file() else None for path in sorted(folder.iterdir())}

def killed_at(step):
    child = os.fork()
    if not child:
        seen = 0
        def count(event, _):
            nonlocal seen
            seen += event in steps
            if event in steps and seen > step:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

found, step, killed = [], 0, True
while killed:
    for path in folder.iterdir():
        path.unlink()
    for path, data in contents(old).items():
        path.write_bytes(data)
    killed = killed_at(step)
    left = listing()
    work()
    found.append({"killed": killed, "left": left, "after": listing()})
    step += 1
print(json.dumps(found))
"""


def drive(folder, old, new, force, action="write_files"):
    """Return what is there after a kill at every step, and after the next run; the last entry is a whole run."""
    folder.mkdir()
    argument = json.dumps([str(folder), STEPS, old, new, force, action])
    environment = os.environ | {"TMPDIR": str(folder)}
    ran = subprocess.run([sys.executable, "-c", DRIVER, argument], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def kept(listing):
    return {name: text for name, text in listing.items() if not name.startswith(".")}


def test_killed_at_every_step_of_a_first_export(tmp_path):
    found = drive(tmp_path / "out", {}, NEW, False)
    assert len(found) > 10
    for entry in found:
        assert kept(entry["left"]).items() <= NEW.items()
        assert "net.json" not in entry["left"] or kept(entry["left"]) == NEW  # the record comes last
        assert entry["after"] == NEW  # without --force
    assert any(kept(entry["left"]) not in ({}, NEW) for entry in found)
    assert any(name.startswith(".keras-nin-") for entry in found for name in entry["left"])


def test_killed_at_every_step_of_a_replacement(tmp_path):
    found = drive(tmp_path / "out", OLD, NEW, True)
    seen = set()
    for entry in found:
        left = kept(entry["left"])
        assert all(text in (OLD.get(name), NEW[name]) for name, text in left.items())
        if "net.json" in left:
            assert left in (OLD, NEW)  # never the record of other files
        assert left["net.tflite"] in ("old", "new")  # the network itself is there at any time
        assert entry["after"] == NEW
        seen.add((left["net.tflite"], left.get("net.json")))
    assert seen == {("old", "old record"), ("old", None), ("new", None), ("new", "new record")}


def test_killed_with_a_temporary_folder(tmp_path):
    found = drive(tmp_path / "tmp", {}, {}, False, "temporary_folder")
    assert any(entry["left"] for entry in found)
    assert all(entry["after"] == {} for entry in found)


def temporary(process, machine=files._MACHINE, name="net.tflite"):
    return f".keras-nin-{process}@{machine}@{name}"


@pytest.fixture
def dead():
    """The number of a process that ran."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def living():
    """The number of a process that runs."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_only_what_a_dead_process_left_is_removed(tmp_path, dead, living):
    others = [
        temporary(living),
        temporary(1),  # of another user, or no process to send signals to
        temporary(dead, "another-machine"),
        temporary("x"),
        f".{dead}-net.tflite",
        f"keras-nin-{dead}@{files._MACHINE}@net.tflite",
        ".hidden",
        "net.tflite",
    ]
    stale = [temporary(dead), temporary(dead, name="other.json"), temporary(os.getpid())]
    for name in (*others, *stale):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / temporary(dead, name="folder") / "below").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_bytes(b"x")
    (tmp_path / temporary(dead, name="link")).symlink_to(tmp_path / "target")
    files.write_file(tmp_path / "new", b"x")
    assert set(os.listdir(tmp_path)) == {*others, "new", "target"}
    assert os.listdir(tmp_path / "target") == ["file"]


def test_what_is_up_to_date_is_cleaned_around_too(tmp_path, dead):
    files.write_file(tmp_path / "net", b"x")
    (tmp_path / temporary(dead)).write_bytes(b"x")
    assert files.write_files({tmp_path / "net": b"x"}) == []
    assert os.listdir(tmp_path) == ["net"]


def test_two_writers_in_one_process_leave_each_other_alone(tmp_path):
    with files.replace_file(tmp_path / "a") as first:
        first.write_bytes(b"a")
        files.write_file(tmp_path / "b", b"b")
        with files.temporary_folder() as folder:
            files.remove_stale_temporaries(folder.parent)
            assert folder.is_dir()
    assert not folder.exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_temporary_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(InputError, match="to be writable. Received: Not a directory"), files.temporary_folder():
        pass


FULL = """
import json, pathlib, sys
from keras_nin import InputError, files

folder = pathlib.Path(sys.argv[1])
old = {folder / "a.tflite": b"a" * 9000, folder / "a.json": b"{}"}
files.write_files(old)
sizes, errors = (5_000, 30_000, 60_000, 200_000, 5_000_000), []
for size in sizes:
    for first in (b"b", b"b" * size):
        new = {folder / "a.tflite": first, folder / "b.tflite": b"b" * size, folder / "a.json": b"[]" * 5000}
        try:
            files.write_files(new, force=True)
            files.write_files(old, force=True)
            (folder / "b.tflite").unlink()
        except InputError as error:
            errors.append(str(error))
        assert {path: path.read_bytes() for path in folder.iterdir()} == old, size
print(json.dumps(errors))
"""


def test_a_small_disk_that_is_full(tmp_path):
    """On a real file system of 128 KiB, in a name space of its own where the machine allows one without rights."""
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=128k none "$0" && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(tmp_path / "disk")]
    try:
        possible = subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("this machine does not let a user mount a file system of his own")
    ran = subprocess.run([*inside, sys.executable, "-c", FULL, tmp_path / "disk"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    errors = json.loads(ran.stdout)
    assert len(errors) >= 4
    assert all(error.endswith("to be writable. Received: No space left on device") for error in errors)


@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.write_bytes"])
def test_a_disk_that_fills_up_at_any_file(tmp_path, monkeypatch, function, call):
    old = {tmp_path / name: b"old" for name in OLD}
    new = {tmp_path / name: text.encode() for name, text in NEW.items()}
    files.write_files(old)
    calls = iter(range(5))
    real = {"os.fsync": os.fsync, "pathlib.Path.write_bytes": type(tmp_path).write_bytes}[function]

    def fill_up(*arguments):
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(function, fill_up)
    with pytest.raises(InputError, match="net.* to be writable. Received: No space left on device"):
        files.write_files(new, force=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old
