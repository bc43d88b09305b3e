"""The same export gives the same bytes again, and one that is killed leaves nothing that is not whole."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest
from tiers import by_tier

from keras_nin import data, export, models

ROOT = pathlib.Path(__file__).parent.parent


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.wide
def test_two_exports_of_one_process(tmp_path):
    unit = data.get_preset("unit")
    for folder in ("one", "two"):
        keras.backend.clear_session()
        loaded = models.load_model("nin_digits", weights="random", seed=3)
        calibration = export.load_calibration(data.open_dataset("digits"), (8, 8, 1), count=8, seed=3)
        for made in export.convert_schemes(loaded.model, ["float32", "int8"], calibration, preprocessing=unit):
            made.save(tmp_path / folder)
    assert len(contents(tmp_path / "one")) == 8
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def python(*words, cwd, **environment):
    """Run Python on this tree, not on an installed one."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
@pytest.mark.wide
def test_two_processes(tmp_path, digits_export):
    """Of this one, which has run other tests and hashes by another seed, and of a new one."""
    words = ("-m", "keras_nin", "export", "nin_digits", "--runs", "1", "--out", "new")
    python(*words, cwd=tmp_path, PYTHONHASHSEED="1")
    assert len(contents(tmp_path / "new")) == 8
    assert contents(tmp_path / "new") == contents(digits_export)


@pytest.mark.parametrize("command", by_tier(["report", "export"], wide=["export"]))
def test_a_command_that_is_killed(command, tmp_path):
    """A few of the kills that tools/kill.py does by the dozen."""
    out = python(ROOT / "tools" / "kill.py", command, "--kills", "4", "--seed", "7", cwd=tmp_path)
    assert out.endswith('Nothing half-written, nothing stale after the next run, no wrong "up to date".\n')
