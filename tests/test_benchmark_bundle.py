"""The runner as one file: `python3 runner.pyz` with nothing of keras-nin around it."""

import ast
import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest
from tflite_writer import operator, tensor, write

from keras_nin.benchmark import devices


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a folder" / "runner.pyz"
    path.parent.mkdir()
    path.write_bytes(devices.build_runner_archive())
    return path


@pytest.fixture
def network(tmp_path):
    tensors = [tensor("in", [1, 4], "FLOAT32"), tensor("out", [1, 4], "FLOAT32")]
    return write(tmp_path / "relu.tflite", tensors, [operator("RELU", [0], [1])])


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


def job(path, **options):
    return json.dumps({"models": [{"file": str(path), "threads": 1}], **options}).encode() + b"\n"


def test_it_does_a_job(archive, network):
    out, errors = start(archive).communicate(job(network, runs=20, profile=True))
    host, *_, result = map(json.loads, out.splitlines())
    assert host["host"]["python"]
    assert result["result"]["runs"] == 20, errors
    assert [kernel["name"] for kernel in result["result"]["profile"]["kernels"]]


def test_its_modules_come_from_the_file():
    code = devices.build_runner_archive()
    with zipfile.ZipFile(io.BytesIO(code)) as file:
        names = set(file.namelist())
        assert {name for name in names if file.getinfo(name).file_size == 0} >= {
            "keras_nin/__init__.py",
            "keras_nin/benchmark/__init__.py",
            "keras_nin/tflite/__init__.py",
        }
        assert {"__main__.py", "keras_nin/benchmark/runner/main.py", "keras_nin/tflite/host.py"} < names
        for name in names:
            tree = ast.parse(file.read(name), name, feature_version=devices.MIN_PYTHON)
            assert imported(tree) <= names, name
    assert code == devices.build_runner_archive()


def imported(tree):
    """Return the files of the modules of keras_nin that a module imports."""
    found = set()
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
    _, errors = process.communicate(job(network))
    assert process.returncode == 1
    assert errors.decode().strip() == "ERROR: ModuleNotFoundError: No module named 'numpy'"


def test_it_ends_when_nobody_reads(archive, network):
    process = start(archive)
    process.stdin.write(job(network, seconds=600, runs=10**9))
    process.stdin.close()
    assert b"host" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == -signal.SIGKILL
