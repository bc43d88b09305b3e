"""`keras-nin fit`: what it prints, what it requires, and what it refuses before anything runs."""

import importlib.util
import subprocess
import sys

import micro_stand_in
import pytest
import vela_stand_in
from edge_networks import chain

from keras_nin.benchmark import measurement
from keras_nin.edge.ethosu import vela

QUICK = ("--seconds", "0.02")


@pytest.fixture
def files(tmp_path):
    """Two files: one that the Edge TPU would run whole, one in part."""
    return chain(tmp_path / "whole.tflite", "RELU", "TANH"), chain(tmp_path / "half.tflite", "RELU", "ELU")


def test_one_table_for_all(cli, files, tmp_path, monkeypatch):
    micro_stand_in.install_engine(monkeypatch)
    vela_stand_in.install(tmp_path, monkeypatch, "sys.exit('no such network')")
    ran = cli("fit", *files, *QUICK)
    assert (ran.status, ran.err) == (0, "")
    lines = {line[:20].strip(): line[20:].split() for line in ran.out.splitlines()}
    assert lines[""] == []
    assert lines["Edge TPU operators"] == ["2", "of", "2", "1", "of", "2"]
    assert lines["ethos-u55-128"] == ["refused", "by", "Vela"] * 2
    assert lines["this CPU, 1 thread"][1::2] == ["us", "us"]
    assert "whole" in ran.out.splitlines()[0]
    assert "Edge TPU, half.tflite: on the CPU: ELU (" in ran.out
    assert ran.out.count("refused by Vela") >= 2


def test_targets_are_chosen(cli, files, monkeypatch):
    monkeypatch.setattr(measurement, "measure_files", lambda *_, **__: pytest.fail("measured all the same"))
    monkeypatch.setattr(vela, "find_vela", lambda: pytest.fail("looked for all the same"))
    ran = cli("fit", files[0], "--targets", "edgetpu")
    assert ran.status == 0
    assert "all mapped" in ran.out
    assert "CPU" not in ran.out


def test_as_json(cli, files):
    ran = cli("fit", *files, *QUICK, "--targets", "edgetpu,cpu", "--json", "--require", "edgetpu=full,cpu=1s")
    assert ran.status == 1
    assert ran.json["schema"] == "keras_nin.fit/1"
    assert ran.json["targets"] == ["cpu", "edgetpu"]
    assert [each["edgetpu"]["mapped"] for each in ran.json["results"]] == [2, 1]
    assert ran.json["results"][0]["cpu"]["runs"] > 0
    assert ran.json["host"]["litert"]
    assert [check["passed"] for check in ran.json["checks"]].count(False) == 1
    assert ran.err == "half.tflite: edgetpu 50%, limit at least 100%: FAIL, not reached\n"


@pytest.mark.parametrize(("require", "status"), [("edgetpu=50%", 0), ("edgetpu=full", 1), ("flash=1B,edgetpu=1%", 1)])
def test_what_is_required(cli, files, require, status):
    ran = cli("fit", *files, "--targets", "edgetpu", "--require", require)
    assert ran.status == status
    assert ran.out.count(": pass") + ran.out.count(": FAIL") == 2 * (1 + require.count(","))
    assert ("FAIL" in ran.out) == bool(status)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nin_digit"], "Did you mean nin_digits"),
        (["some where.keras"], "Expected an existing file"),
        (["whole.tflite", "--io", "uint8"], "exported already, so --io cannot apply"),
        (["none.tflite"], "which does not exist"),
        (["bad.tflite"], "bad.tflite"),
        (["whole.tflite", "bad.tflite"], "bad.tflite"),
        (["whole.tflite", "--targets", "tpu"], "--targets to be one of cpu, edgetpu, ethosu, micro"),
        (["whole.tflite", "--targets", "cpu", "--require", "edgetpu=full"], "--require"),
        (["whole.tflite", "--require", "fast"], "--require"),
        (["whole.tflite", "--accelerator", "ethos-u9"], "--accelerator to be a known name"),
        (["whole.tflite", "--seconds", "nan"], "--seconds"),
        (["whole.tflite", "--max-arena", "2"], "--max-arena"),
        (["whole.tflite", "--max-arena", "1B"], "--max-arena"),
        ([], "Missing argument"),
    ],
)
@pytest.mark.usefixtures("files")
def test_what_cannot_be_is_one_line_before_anything_runs(cli, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(measurement, "measure_files", lambda *_, **__: pytest.fail("measured all the same"))
    (tmp_path / "bad.tflite").write_bytes(b"no file")
    ran = cli("fit", *words)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err


def test_what_it_prints_can_be_reported(cli, files, tmp_path):
    (tmp_path / "fit.json").write_text(cli("fit", *files, "--targets", "edgetpu", "--json").out)
    assert cli("report", "fit.json", "-o", "report.html").status == 0
    assert "Targets" in (tmp_path / "report.html").read_text()


def test_neither_keras_nor_tensorflow_is_loaded(files):
    words = ["fit", str(files[0]), *QUICK, "--targets", "cpu,edgetpu"]  # the others have a test of their own
    code = (
        "import sys; from keras_nin.cli import main\n"
        "assert main.run(['fit', '--help']) == 0\n"
        "slow = {'numpy', 'rich', 'ai_edge_litert', 'keras_nin.audit.api'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        f"assert main.run({words!r}) == 0\n"
        "sys.exit(' '.join({'keras', 'tensorflow', 'sklearn', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ethosu", "tflite_micro"))),
    reason="ethos-u-vela and tflite-micro are not both installed: pip install 'keras-nin[all]'",
)
def test_the_real_tools(cli, tmp_path):
    (result,) = cli("fit", micro_stand_in.softmax(tmp_path / "net.tflite"), *QUICK, "--json").json["results"]
    assert result["missing"] == []
    assert (result["ethosu"]["on_npu"], result["ethosu"]["operators"]) == (1, 1)
    assert result["ethosu"]["us"] > 0
    assert result["micro"]["bit_exact"] is True
    assert result["micro"]["arena_bytes"] % 16 == 0
