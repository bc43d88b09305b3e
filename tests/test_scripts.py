"""The scripts in export/ as a user runs them."""

import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def run(script, *words, cwd):
    """Run a script of this tree, not of an installed one."""
    command = [sys.executable, ROOT / "export" / script, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.slow
def test_to_edgetpu_exports_int8(tmp_path, monkeypatch, capsys):
    plain = ("--ranges", "minmax", "--rounding", "nearest", "--no-bias-correction")
    out = run("to_edgetpu.py", "nin_digits", "--test-count", "5", "--runs", "1", *plain, "--json", cwd=tmp_path)
    (entry,) = json.loads(out)["files"]
    assert (entry["scheme"], entry["input"]["shape"], entry["float_operators"]) == ("int8", [1, 8, 8, 1], [])
    script = str(ROOT / "export" / "to_edgetpu.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--from", "exported/nin_digits_int8.json", "--runs", "1"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out.startswith("Reproduced: ")


def test_to_edgetpu_says_what_its_verdict_is(tmp_path):
    out = " ".join(run("to_edgetpu.py", "--help", cwd=tmp_path).split())
    assert "The verdict is predicted; see `keras-nin edgetpu`." in out
    assert "[default: int8]" in out
