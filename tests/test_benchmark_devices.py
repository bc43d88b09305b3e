"""Devices: the runner as one file, and a real OpenSSH server on loopback."""

import ast
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import ssh_server
from loop_net import UNITS, loop_net
from tflite_writer import generated, operator, tensor, write

from keras_nin.benchmark import devices, measure_files
from keras_nin.benchmark.devices import MIN_PYTHON, RUNNER_NAME, DeviceSession, SshDevice, build_runner_archive
from keras_nin.child_process import JsonProcess
from keras_nin.errors import InputError
from keras_nin.tflite.runner import TFLiteRunner

# The runner as one file.


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a folder" / "runner.pyz"
    path.parent.mkdir()
    path.write_bytes(build_runner_archive())
    return path


def start(archive, *options):
    """Start the runner where keras_nin cannot be imported from elsewhere."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, *options, archive],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=archive.parent,
    )


def line(path, **options):
    return json.dumps({"models": [{"file": str(path), "threads": 1}], **options}).encode() + b"\n"


def test_it_does_a_job(archive, network):
    out, errors = start(archive).communicate(line(network, runs=20, profile=True))
    host, *_, result = map(json.loads, out.splitlines())
    assert host["host"]["python"]
    assert result["result"]["runs"] == 20, errors
    assert [kernel["name"] for kernel in result["result"]["profile"]["kernels"]]


def test_its_modules_come_from_the_file():
    code = build_runner_archive()
    with zipfile.ZipFile(io.BytesIO(code)) as file:
        names = set(file.namelist())
        assert {name for name in names if file.getinfo(name).file_size == 0} >= {
            "keras_nin/__init__.py",
            "keras_nin/benchmark/__init__.py",
            "keras_nin/tflite/__init__.py",
        }
        assert {"__main__.py", "keras_nin/benchmark/runner/main.py", "keras_nin/tflite/host.py"} < names
        for name in names - {"keras_nin/benchmark/runner/litert.json"}:
            tree = ast.parse(file.read(name), name, feature_version=MIN_PYTHON)
            assert imported(tree) <= names, name
    assert code == build_runner_archive()


def imported(tree):
    """Return the files of the modules of keras_nin that a module imports, beside those for type checkers."""
    found = set()
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            block.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            of = {f"{node.module}.{alias.name}" for alias in node.names}
            packages = {"keras_nin", "keras_nin.benchmark", "keras_nin.benchmark.runner", "keras_nin.tflite"}
            found |= of if node.module in packages else {node.module}
    return {f"{name.replace('.', '/')}.py" for name in found if name.startswith("keras_nin.")}


def test_what_is_missing_is_one_line(archive, network):
    process = start(archive, "-S")
    _, errors = process.communicate(line(network))
    assert process.returncode == 1
    assert errors.decode().strip() == "ERROR: ModuleNotFoundError: No module named 'numpy'"


def test_it_ends_when_nobody_reads(archive, network):
    process = start(archive)
    process.stdin.write(line(network, seconds=600, runs=10**9))
    process.stdin.close()
    assert b"host" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == -signal.SIGKILL


# A device that ssh reaches.

needs_a_server = pytest.mark.skipif(bool(ssh_server.MISSING), reason=f"OpenSSH lacks: {ssh_server.MISSING}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ssh_server.start(tmp_path_factory.mktemp("ssh"))
    yield server
    server.stop()


@pytest.fixture
def use(server, monkeypatch):
    """A function that lets ssh use a client configuration; "board" is the server."""

    def use(path):
        monkeypatch.setenv("KERAS_NIN_SSH", f"ssh -F {path}")

    use(server.folder / "config")
    return use


@pytest.fixture
def network(tmp_path):
    tensors = [tensor("in", [1, 8], "FLOAT32"), tensor("mid", [1, 8], "FLOAT32"), tensor("out", [1, 8], "FLOAT32")]
    path = tmp_path / 'it\'s a "net" $HOME.tflite'
    return write(path, tensors, [operator("RELU", [0], [1]), operator("LOGISTIC", [1], [2])])


@pytest.fixture
def interpreter(tmp_path):
    """A function that makes a Python of a shell script; $python in it is the real one."""

    def make(script):
        path = tmp_path / "it's Python" / "python"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\npython={shlex.quote(sys.executable)}\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def job(path, **options):
    return {"models": [{"file": str(path), "threads": 1}], "runs": 5, **options}


def refused(device, path):
    with pytest.raises(InputError) as caught:
        device.run(job(path))
    return str(caught.value)


@needs_a_server
def test_it_measures_what_this_machine_measures(server, use, network):
    there = measure_files([network], runs=10, run=SshDevice("ssh://board", sys.executable).run)
    here = measure_files([network], runs=10)
    (profile,) = there.profiles
    assert (profile.file, profile.sha256) == (network.name, here.profiles[0].sha256)
    assert [layer.kernel for layer in profile.layers] == [layer.kernel for layer in here.profiles[0].layers]
    assert (profile.runs, there.host["cpu"]) == (10, here.host["cpu"])
    assert list(server.temporary.iterdir()) == []


@pytest.mark.slow
@needs_a_server
def test_user_and_port_of_the_url(server, use, network, monkeypatch):
    config = server.client_config("elsewhere", port=ssh_server.free_port())
    known = server.folder / "config.known_hosts"
    monkeypatch.setenv(
        "KERAS_NIN_SSH",
        f"ssh -F {config} -o UserKnownHostsFile={known} -o HostKeyAlias=[127.0.0.1]:{server.port}",
    )
    answer = SshDevice(f"ssh://board:{server.port}", sys.executable).run(job(network))
    assert answer.results[0]["runs"] == 5
    assert "permission denied (publickey)" in refused(
        SshDevice(f"ssh://nobody-here@board:{server.port}", sys.executable), network
    )


@pytest.mark.slow
@needs_a_server
def test_a_path_with_spaces_and_quotes(use, network, interpreter):
    python = interpreter('exec "$python" "$@"')
    (result,) = SshDevice("ssh://board", python).run(job(network)).results
    assert result["runs"] == 5


@needs_a_server
@pytest.mark.slow
def test_a_file_that_does_not_run(server, use, tmp_path):
    path = tmp_path / "no network.tflite"
    path.write_bytes(b"garbage")
    text = refused(SshDevice("ssh://board", sys.executable), path)
    assert f"Received: {str(path)!r}" in text
    assert list(server.temporary.iterdir()) == []


@needs_a_server
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"key": "other_key"}, "permission denied (publickey). Set up a key"),
        ({"known": False}, "its host key is unknown. Connect once"),
        ({"port": 1}, "the connection was refused"),
    ],
)
def test_no_connection(server, use, network, settings, says):
    use(server.client_config("bad", **settings))
    assert says in refused(SshDevice("ssh://board", sys.executable), network)


@needs_a_server
def test_another_host_key(server, use, network):
    use(server.client_config("bad", known=False))
    key = (server.folder / "other_key.pub").read_text()
    (server.folder / "bad.known_hosts").write_text(f"[127.0.0.1]:{server.port} {key}")
    assert "its host key has changed" in refused(SshDevice("ssh://board", sys.executable), network)


@needs_a_server
def test_an_unknown_host(use, network):
    assert "unknown host" in refused(SshDevice("ssh://host.invalid"), network)


@needs_a_server
def test_no_python(use, network):
    text = refused(SshDevice("ssh://board", "/no/python"), network)
    assert "it has no /no/python. Install Python 3.10 or later" in text


@pytest.mark.slow
@needs_a_server
@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            """exec "$python" -c 'import sys; sys.version_info = (3, 8, 2, "final", 0); exec(sys.argv[1])' "$2" """,
            "its Python 3.8.2 is too old",
        ),
        ('exec "$python" -S "$@"', "lacks numpy, ai_edge_litert. Run there: "),
        ('[ "$1" = -c ] && exec "$python" "$@"; kill -9 $$', "the device killed it with signal 9; is its memory full?"),
        ('[ "$1" = -c ] && exec "$python" "$@"; exec "$python" -S "$@"', "No module named 'numpy'"),
    ],
)
def test_what_is_wrong_with_python(server, use, network, interpreter, script, says):
    text = refused(SshDevice("ssh://board", interpreter(script)), network)
    assert says in text
    assert "\n" not in text
    assert list(server.temporary.iterdir()) == []


@needs_a_server
def test_no_room(server, use, network):
    kept = server.kept.parent
    if kept.exists():
        kept.rename(f"{kept}-away")
    kept.write_text("a file where the folder should be")
    try:
        text = refused(SshDevice("ssh://board", sys.executable), network)
    finally:
        kept.unlink()
        if os.path.exists(f"{kept}-away"):
            os.rename(f"{kept}-away", kept)
    assert "cannot be written to its folder ~/.cache/keras-nin" in text


@pytest.fixture
def sent(monkeypatch):
    """The suffixes of the files that were sent, and the numbers of arrays."""
    names = []
    pack, send = devices._pack_files, JsonProcess.send

    def record_files(contents):
        names.extend(name.partition(".")[2] for name in contents)
        return pack(contents)

    def record_arrays(process, document):
        if "put" in document:
            names.append(len(document["put"]))
        send(process, document)

    monkeypatch.setattr(devices, "_pack_files", record_files)
    monkeypatch.setattr(JsonProcess, "send", record_arrays)
    return names


@pytest.mark.slow
@needs_a_server
def test_files_are_sent_once_and_arrive_whole(server, use, network, sent, monkeypatch):
    network.write_bytes(network.read_bytes() + b"only here")
    device = SshDevice("ssh://board", sys.executable)
    device.run(job(network))
    assert sent[-1] == "tflite"
    sent.clear()
    assert device.run(job(network)).results[0]["runs"] == 5
    assert sent == []
    network.write_bytes(network.read_bytes() + b" and changed")
    whole = devices._pack_files
    monkeypatch.setattr(
        devices, "_pack_files", lambda contents: whole({name: data[:-1] for name, data in contents.items()})
    )
    assert "the files arrived damaged. Try again" in refused(device, network)
    kept = [path for path in server.kept.iterdir() if not path.name.endswith(".array")]
    assert all(path.name.startswith(hashlib.sha256(path.read_bytes()).hexdigest()) for path in kept)


@pytest.mark.slow
@needs_a_server
def test_a_device_computes_what_this_machine_computes(server, use, tmp_path, sent):
    """A loop, several images of one batch, and an integer file with a batch that is filled up."""
    images = np.random.default_rng(0).normal(size=(5, UNITS)).astype(np.float32)
    scaled = generated.QuantizationParametersT()
    scaled.scale, scaled.zeroPoint = [0.05], [3]
    tensors = [tensor(name, [1, UNITS], "INT8", quantization=scaled) for name in "ab"]
    files = [loop_net(tmp_path / "loop.tflite"), write(tmp_path / "int8.tflite", tensors, [operator("TANH", [0], [1])])]
    device = SshDevice("ssh://board", sys.executable)
    for repeat in range(2):
        with DeviceSession(device) as session:
            runner = session.runner_class()
            for path, batch in zip(files, (1, 2), strict=True):
                with runner(path, batch=batch) as there:
                    here = TFLiteRunner(path, batch=batch)
                    np.testing.assert_array_equal(there.predict(images), here.predict(images))
            assert session.seconds > 0
            assert session.host["litert"]
        assert [entry for entry in sent if entry != RUNNER_NAME] == ([] if repeat else ["tflite", 1, "tflite", 1])
        sent.clear()


@pytest.mark.slow
@needs_a_server
def test_a_session_that_ends_is_an_error(server, use, network):
    with DeviceSession(SshDevice("ssh://board", sys.executable)) as session, contextlib.ExitStack() as stack:
        runner = stack.enter_context(session.runner_class()(network))
        for pid in running(server.process.pid, "/python", RUNNER_NAME):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(InputError, match="on ssh://board: ended with status 137") as caught:
            runner.predict(np.zeros((1, 8), np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@needs_a_server
def test_evaluate_on_a_device(use, cli, exported):
    words = ["evaluate", exported("nin_digits", "int8"), "--data", "digits", "--test-count", "40", "--json"]
    here, there = cli(*words), cli(*words, "--on", "ssh://board", "--python", sys.executable)
    assert (there.status, there.err) == (0, here.err)
    assert there.json["speed"]["host"]["cpu"] == here.json["speed"]["host"]["cpu"]
    assert {**there.json, "speed": None} == {**here.json, "speed": None}


@pytest.mark.slow
@needs_a_server
def test_verify_and_fit_on_a_device(use, cli, exported):
    path = exported("nin_digits", "int8")
    words = ["verify", "nin_digits", path, "--data", "digits", "--test-count", "40", "--json"]
    on = ["--on", "ssh://board", "--python", sys.executable]
    here, there = cli(*words), cli(*words, *on)
    assert there.json["parity"] == here.json["parity"]
    assert there.status == here.status
    assert "The file ran on ssh://board: " in there.err
    assert (here.json["device"], there.json["device"]["cpu"]) == (None, there.json["device"]["cpu"])
    ran = cli("fit", path, "--targets", "cpu", "--seconds", "0.2", "--require", "cpu=10s", *on)
    assert ran.status == 0
    assert "CPU of ssh://board" in ran.out


@pytest.mark.slow
@needs_a_server
def test_certify_on_a_device(use, cli, network, monkeypatch, tmp_path):
    (tmp_path / "devices.toml").write_text(f"[board]\nurl = 'ssh://board'\npython = {sys.executable!r}\n")
    monkeypatch.setenv("KERAS_NIN_DEVICES", str(tmp_path / "devices.toml"))
    ran = cli("certify", network, "--on", "board", "--test-count", "2", "--require", "bit-exact", "--json")
    assert (ran.status, list(ran.json["devices"])) == (0, ["host", "board"]), ran.err
    assert [run["bit_exact"] for run in ran.json["files"][0]["runs"] if run["device"] == "board"] == [True] * 3


@needs_a_server
@pytest.mark.parametrize("command", ["evaluate", "fit", "benchmark"])
def test_a_device_that_is_not_there_is_one_line(server, use, cli, network, command):
    use(server.client_config("nobody", port=1))
    options = {"evaluate": ["--data", "digits"], "fit": ["--targets", "cpu"], "benchmark": []}[command]
    ran = cli(command, network, *options, "--on", "ssh://board")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "ssh://board: the connection was refused. Check the port" in ran.err


def test_a_device_needs_a_file_and_an_interpreter_a_device(cli, network):
    for words, problem in (
        (["evaluate", "nin_digits", "--on", "ssh://board"], "runs .tflite files"),
        (["evaluate", network, "--on", "adb://x"], "ssh://[user@]host[:port]"),
        (["evaluate", network, "--python", "python3"], "--python is for a --on ssh://"),
        (["fit", network, "--targets", "edgetpu", "--on", "ssh://board"], "measures the target cpu"),
    ):
        ran = cli(*words)
        assert (ran.status, ran.err.count("\n")) == (2, 1), ran.err
        assert problem in ran.err


@pytest.mark.slow
@needs_a_server
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_runner_ends_with_the_connection(server, use, network, end):
    errors = []

    def run():
        with pytest.raises(InputError) as caught:
            SshDevice("ssh://board", sys.executable).run(job(network, runs=10**9), silence=600)
        errors.append(str(caught.value))

    thread = threading.Thread(target=run)
    thread.start()
    runner = wait_for(lambda: running(server.process.pid, "/python", RUNNER_NAME))
    assert runner
    if end == "client":
        victims = running(os.getpid(), "ssh", RUNNER_NAME)
    else:
        victims = [pid for pid in ssh_server.children(server.process.pid) if b"sshd" in command_of(pid)]
    assert victims
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    thread.join(60)
    assert wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in runner))
    assert wait_for(lambda: not list(server.temporary.iterdir()))
    (text,) = errors
    assert ("the connection was lost" in text) == (end == "server"), text


def running(process, program, *words):
    """Return the processes below `process` whose command has all of `words`, `program` in the first one."""
    found = []
    for pid in ssh_server.children(process):
        first, *rest = command_of(pid).split(b"\0")
        if program.encode() in first and all(any(word.encode() in each for each in rest) for word in words):
            found.append(pid)
    return found


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("url", ["ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://host:x", "ssh://h/path", "ssh://u:p@h",
                                 "ssh://-l@host", "ssh://$(id)@h", "ssh://h;id", "ssh://h`id`"])  # fmt: skip
def test_bad_urls(url):
    with pytest.raises(InputError, match=r"^Expected `device` as ssh://\[user@\]host\[:port\]\. Received: "):
        SshDevice(url)


def test_no_ssh_here(monkeypatch, network):
    monkeypatch.setenv("KERAS_NIN_SSH", "/no/ssh")
    assert "the program '/no/ssh' of OpenSSH cannot be started" in refused(SshDevice("ssh://board"), network)
    monkeypatch.setenv("KERAS_NIN_SSH", "ssh -F 'open")
    assert 'Expected a command in KERAS_NIN_SSH. Received: "ssh -F \'open"' in refused(
        SshDevice("ssh://board"), network
    )
