"""Commands that run no model start Keras on NumPy, without TensorFlow and JAX, and print the same."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from keras_nin import models
from keras_nin.cli import main
from keras_nin.workflows import backends

# Runs commands like a command line of its own where JAX is not installed; prints what each printed.
PROGRAM = textwrap.dedent("""
    import contextlib, io, json, sys

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("jax", "jaxlib"):
                raise ImportError(name)

    sys.meta_path.insert(0, Hidden())
    from keras_nin import workflows
    from keras_nin.cli import main

    workflows.runs_one_command = True
    main._start_again = sys.exit
    printed = []
    for words in json.loads(sys.argv[1]):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                status = main.run(words)
            except SystemExit:
                status = "starts again"
        printed.append([status, out.getvalue()])
        if "keras" in sys.modules:  # layers are numbered as in a new process
            sys.modules["keras"].backend.clear_session()
    import keras
    heavy = [name for name in ("tensorflow", "jax", "torch", "sklearn", "matplotlib") if name in sys.modules]
    print(json.dumps({"printed": printed, "backend": keras.backend.backend(), "heavy": heavy}))
""")
# Commands without the environment's choice of a backend, which the tests make.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}


def run_on_numpy(commands, folder):
    """Run commands in a process that Keras starts in on NumPy; return the status and the output of each."""
    words = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    environment = ENVIRONMENT | {"KERAS_HOME": str(folder)}
    ran = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert (document["backend"], document["heavy"]) == ("numpy", [])
    return document["printed"]


def number_tensors(text):
    """Return a text without the numbers that Keras gives the tensors of a process."""
    return re.sub(r"keras_tensor_\d+", "keras_tensor", text)


def read_new_files(folder):
    return {path: path.read_bytes() for new in folder.glob("new*") for path in (new, *new.rglob("*")) if path.is_file()}


def check_same(commands, folder, needs_tensorflow=()):
    """Check that commands print, and write to new files, the same on NumPy as on the TensorFlow of this process.

    Audits of other saved models must neither print anything there nor fail, but start again.
    """
    import keras

    expected = []
    for words in commands:
        keras.backend.clear_session()  # layers are numbered as in a new process
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
            expected.append([main.run(words), number_tensors(out.getvalue())])
    written = read_new_files(folder)
    for path in written:
        path.unlink()
    expected += [["starts again", ""]] * len(needs_tensorflow)
    commands = [*commands, *(["audit", f"{name}.keras"] for name in needs_tensorflow)]
    for words, numpy, tensorflow in zip(commands, run_on_numpy(commands, folder), expected, strict=True):
        assert [numpy[0], number_tensors(numpy[1])] == tensorflow, words
    assert read_new_files(folder) == written


def save_small_models(folder):
    """Save two models of Keras's own layers, with normalization, and three that NumPy cannot load."""
    import keras

    @keras.saving.register_keras_serializable("test")
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return x * 2

    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    model.save(folder / "own.keras")
    model.save(folder / "own.h5")
    inputs, hashing = keras.Input((4,)), keras.layers.Hashing(4)
    for name, layer in {"lambda": keras.layers.Lambda(abs), "custom": Doubled(), "hashing": hashing}.items():
        keras.Model(inputs, layer(inputs)).save(folder / f"{name}.keras")


def test_commands_that_count_run_on_numpy(tmp_path):
    save_small_models(tmp_path)
    check_same([["audit", "own.keras", "--json"], ["claims", "robaita-params"]], tmp_path, ["lambda", "custom"])


@pytest.mark.slow
def test_every_command_that_counts(build, exported, tmp_path):
    save_small_models(tmp_path)
    build("inception_digits", weights="digits").save(tmp_path / "saved.keras")
    check_same(
        [
            ["audit", "squeezenet_v1_0_complex_bypass", "--weights", "random", "--set", "classes=7", "--csv"],
            ["audit", "inception_v3", "--json"],
            ["audit", "keras:MobileNet", "--input-shape", "32,32,3"],
            ["audit", "keras:ConvNeXtTiny", "--input-shape", "64,64,3", "--depth", "0"],
            ["audit", "saved.keras", "--json"],
            ["audit", "own.h5"],
            ["audit", "nin_digits", "--weights", "digits", "--depth", "1"],
            ["audit", "keras:MobileNetV3Small", "--json"],
            ["compare", "saved.keras", "inception_digits"],
            ["compare", "nin_digits", str(exported("nin_digits", "int8", weights="digits")), "--json"],
            ["claims", "robaita-nonlinearity", "demystified-inception", "paperspace-head"],
            ["cards", "nin_digits", "--out", "new_cards"],
            ["import-weights", "own.keras", "own.h5", "-o", "new.weights.h5", "--json"],
            ["report", "own.keras", "nin_digits", "-o", "new.html"],
        ],
        tmp_path,
    )


@pytest.mark.slow
@pytest.mark.wide
def test_audits_of_every_network_are_the_same(tmp_path):
    import keras

    builders = [name for name, value in vars(keras.applications).items() if callable(value)]
    names = [*models.list_models(), *(f"keras:{name}" for name in builders)]
    names.remove("keras:InceptionResNetV2")  # starts again
    commands = [["audit", name, "--json"] for name in names]
    open_sizes = [["audit", name, "--json", "--input-shape", "224,224,3"] for name in names if "MobileNetV3" in name]
    check_same(commands + open_sizes, tmp_path)


@pytest.mark.slow
def test_a_command_starts_again_on_tensorflow(tmp_path):
    save_small_models(tmp_path)
    command = [sys.executable, "-m", "keras_nin", "audit", "hashing.keras", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["rows"][-1]["type"] == "Hashing"


def test_the_users_backend_takes_precedence(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "find_backend", lambda: f"found {os.environ['KERAS_BACKEND']}")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for chosen, backend in {"jax": "found jax", "tensorflow": "found tensorflow", "numpy": "numpy"}.items():
        monkeypatch.setenv("KERAS_BACKEND", chosen)
        assert backends._structure_backend(fits=True) == backend
    monkeypatch.delenv("KERAS_BACKEND")
    for text, backend in {"{": "numpy", "[]": "numpy", '{"backend": "tensorflow"}': "numpy"}.items():
        (tmp_path / "keras.json").write_text(text)
        assert backends._structure_backend(fits=True) == backend
        assert backends._structure_backend(fits=False) == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert backends._structure_backend(fits=True) == "found torch"
