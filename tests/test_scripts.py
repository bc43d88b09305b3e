"""The scripts in export/ as a user runs them."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_to_edgetpu_exports_int8(tmp_path):
    words = ["nin_digits", "--test-count", "5", "--runs", "1", "--json"]
    ran = subprocess.run([sys.executable, ROOT / "export" / "to_edgetpu.py", *words], capture_output=True, text=True,
                         cwd=tmp_path)  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    (entry,) = json.loads(ran.stdout)["files"]
    assert (entry["scheme"], entry["input"]["shape"], entry["float_operators"]) == ("int8", [1, 8, 8, 1], [])
    again = [
        sys.executable,
        ROOT / "export" / "to_edgetpu.py",
        "--from",
        "exported/nin_digits_int8.json",
        "--runs",
        "1",
    ]
    ran = subprocess.run(again, capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Reproduced: ")
