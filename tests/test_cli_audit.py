"""`keras-nin audit`: formats, views, budgets, and files without Keras."""

import csv
import io
import json
import subprocess
import sys

import audits
import pytest
from tflite_writer import operator, tensor, write

from keras_nin.cli import main
from keras_nin.workflows import backends

# A reader of files that needs no file format: what is under test is the command.
FILE = "small.tflite"


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).write_bytes(b"")
    monkeypatch.setattr("keras_nin.tflite.reader.read_checked_model", lambda path: path)
    monkeypatch.setattr("keras_nin.audit.api.audit_model", lambda path, **_: audits.small())
    monkeypatch.setattr(backends, "start_keras", lambda *_: pytest.fail("Keras was started"))

    def run(*words):
        status = main.run(["audit", *map(str, words)])
        return status, *capsys.readouterr()

    return run


def test_the_flags_are_the_formats(cli):
    for form in ("json", "csv", "markdown"):
        assert cli(FILE, f"--{form}") == cli(FILE, "--format", form) == cli(FILE, f"--{form}", "--format", form)
    assert cli(FILE) == cli(FILE, "--format", "text")
    assert cli(FILE)[1].rstrip("\n") == str(audits.small())
    assert cli(FILE, "--csv")[1] == audits.small().to_csv()


@pytest.mark.parametrize("words", [("--json", "--csv"), ("--csv", "--markdown"), ("--json", "--format", "text")])
def test_two_formats_are_refused(cli, words):
    status, out, err = cli(FILE, *words)
    assert status == 2
    assert "Expected one format" in (json.loads(out)["error"]["message"] if "--json" in words else err)


def test_view_options(cli):
    words = ("--columns", "name,macs", "--sort", "macs", "--only", "pointwise", "--only", "spatial,other")
    _, out, _ = cli(FILE, *words, "--csv")
    assert [row["name"] for row in csv.DictReader(io.StringIO(out))] == ["a_3x3", "b_1x1", "a_1x1", "odd[red]|x"]
    assert "(no block)" in cli(FILE, "--depth", 1)[1]
    assert cli(FILE, "--depth", 0)[1].startswith("small\n\nTotal: 100 params")
    status, out, err = cli(FILE, "--json", "--only", "pool", "--depth", 1)
    assert len(json.loads(out)["rows"]) == 4
    assert (status, err) == (0, "Note: JSON is always the whole audit; --depth, --only change nothing in it.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--columns", "nam"), "Did you mean name"),
        (("--sort", "mac"), "Did you mean macs"),
        (("--only", "pointwis"), "Did you mean pointwise"),
        (("--depth", "3"), "'--depth'"),
        (("--depth", "1", "--columns", "kernel"), "Received: 'kernel'"),
        (("--columns", "name", "--depth", "0"), "totals alone"),
        (("--depth", "0", "--csv"), "--depth must be 1 or 2"),
        (("--require", "params=1Q"), "1300000, 1300k or 1.3M"),
        (("--require", "parms=1"), "Did you mean params"),
    ],
)
def test_bad_options_are_refused_before_keras_starts(cli, words, message):
    for model in (FILE, "nin_digits"):
        status, out, err = cli(model, *words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_a_budget_that_holds(cli):
    status, out, err = cli(FILE, "--require", "params=100,macs=1k..", "--require", "peak=1KiB")
    assert (status, err) == (0, "")
    assert out.splitlines()[-3:] == [
        "params 100, limit at most 100: pass",
        "macs 1,000, limit at least 1,000: pass",
        "peak 800 bytes (0.8 KiB), limit at most 1,024 bytes (1.0 KiB): pass",
    ]


def test_a_budget_that_does_not(cli):
    words = ("--require", "params=99,peak=1KiB,macs=2k")
    status, out, err = cli(FILE, *words)
    assert (status, err) == (1, "")
    assert "params 100, limit at most 99: FAIL, exceeded\n" in out
    assert "FAIL, unknown (" in out.splitlines()[-1]
    failing = [line for line in out.splitlines() if ": FAIL" in line]
    status, out, err = cli(FILE, *words, "--json")
    document = json.loads(out)
    assert (status, err.splitlines()) == (1, failing)
    assert [item["passed"] for item in document["require"]] == [False, True, False]
    status, out, err = cli(FILE, *words, "--csv")
    assert (status, out, err.splitlines()) == (1, audits.small().to_csv(), failing)
    assert "require" not in json.loads(cli(FILE, "--json")[1])


@pytest.mark.parametrize("words", [("--weights", "x"), ("--set", "a=1"), ("--input-shape", "8,8,3")])
def test_a_file_takes_no_options_of_a_builder(cli, words):
    status, _, err = cli(FILE, *words)
    assert status == 2
    assert words[0] in err


def test_an_encoding_without_rules_prints_all_the_same(cli, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main.run(["audit", FILE]) == 0
    out.flush()
    assert b"-----" in out.buffer.getvalue()


def test_on_a_terminal_it_fits(cli, monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    out = Terminal(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main.run(["audit", FILE]) == 0
    out.flush()
    text = out.buffer.getvalue().decode()
    assert "█" in text


def test_a_file_is_audited_without_keras(tmp_path):
    tensors = [tensor("x", [1, 6, 6, 3]), tensor("w", [2, 1, 1, 3], data=1), tensor("y", [1, 6, 6, 2])]
    path = write(
        tmp_path / "net.tflite", tensors, [operator("CONV_2D", [0, 1], [2], "Conv2DOptions", strideW=1, strideH=1)]
    )
    code = (
        f"import sys\nfrom keras_nin.cli import main\nstatus = main.run(['audit', {str(path)!r}])\n"
        "slow = {'keras', 'tensorflow', 'tf_keras', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else status)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "216 MACs" in ran.stdout
    assert "at the file's own types" in ran.stdout


def test_a_missing_file(tmp_path, capsys):
    assert main.run(["audit", str(tmp_path / "missing.tflite")]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "missing.tflite" in error) == (1, True)
