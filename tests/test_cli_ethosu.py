"""`keras-nin ethosu`, with a stand-in for Vela."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
import vela_stand_in

from keras_nin.edge.ethosu import vela
from keras_nin.workflows import conversion


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that installs a stand-in; nothing temporary may be left of it."""
    root = tmp_path / "temporary"
    root.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    yield lambda *body: vela_stand_in.install(tmp_path, monkeypatch, *body)
    assert list(root.iterdir()) == []


@pytest.fixture
def digits(tmp_path):
    return vela_stand_in.network(tmp_path)


def test_the_table_of_layers(cli, stand_in, digits):
    stand_in()
    ran = cli("ethosu", digits)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == (
        "nin_digits_int8.tflite on ethos-u55-128 at 500 MHz, Ethos_U55_High_End_Embedded, Shared_Sram, estimated by "
        "Vela 5.2.0, batch 1"
    )
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(" ")}
    reduces = ["pointwise", "reduce", "NPU", "2", "98,304", "2,624", "4.0%", "29.3%", "NPU", "11.2", "KiB"]
    assert rows["mlpconv1_conv1x1a"] == reduces
    assert rows["mlpconv3_conv3x3"][3:8] == ["110,592", "30,720", "46.5%", "2.8%", "off-chip"]
    assert rows["total"] == ["51", "549,500", "66,024", "6.5%", "89.0", "KiB"]
    assert any(line.startswith("Time: ") and "66,024 cycles (35.1% computing)" in line for line in lines)
    assert any(line.startswith("NPU: 100.0% of the network's MACs") for line in lines)
    assert "SRAM: peak 8.1 KiB, 31.0 KiB moved per run" in lines
    assert "off-chip flash: peak 58.8 KiB, 58.1 KiB moved per run" in lines
    assert any("assumed: Vela's defaults: " in line for line in lines)


def test_json_adds_up(cli, stand_in, digits):
    stand_in()
    document = cli("ethosu", digits, "--json").json
    assert document["schema"] == "keras_nin.ethosu/1"
    (result,) = document["results"]
    assert result["cycles"] == sum(layer["cycles"] for layer in result["layers"]) == 66_024
    assert result["macs"] == sum(group["macs"] for group in result["subtotals"]) == 549_500
    assert result["network_macs"] == sum(vela_stand_in.MACS.values())
    moved = sum(sum(layer[way].values()) for layer in result["layers"] for way in ("read", "written"))
    assert moved == sum(memory["moved"] for memory in result["memories"])
    assert "Network summary for network" in result["log"]
    assert "compiled" not in result
    assert document["refusals"] == []
    assert "checks" not in document


def test_a_sweep_and_its_picture(cli, stand_in, digits):
    calls = stand_in()
    names = ("ethos-u55-128", "ethos-u65-512", "ethos-u85-256")  # "all" is one of the tests of the parser
    ran = cli("ethosu", digits, "--accelerator", ",".join(names), "--plot", "sweep.png")
    assert (ran.status, ran.err) == (0, "written: sweep.png\n")
    words = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [each[1] for each in words[1:]] == [f"--accelerator-config={name}" for name in names]
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines[3:6]] == list(names)
    assert ran.out.count("assumed: ") == 1  # one line for all that share it
    assert pathlib.Path("sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not any(name.startswith(".") for name in map(str, pathlib.Path().iterdir()))


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        (
            ["full,time=1ms"],
            0,
            ["operators 100%, limit at least 100%: pass", "time 132.0 us, limit at most 1.000 ms: pass"],
        ),
        (
            ["100%", "sram=8KiB"],
            1,
            ["npu 100%, limit at least 100%: pass", "8,192 bytes (8.0 KiB): FAIL, exceeded"],
        ),
    ],
)
def test_what_is_required(words, status, printed, cli, stand_in, digits):
    stand_in()
    options = [word for limit in words for word in ("--require", limit)]
    ran = cli("ethosu", digits, *options)
    assert ran.status == status
    assert [line for line in printed if line not in ran.out] == [], ran.out[-600:]
    ran = cli("ethosu", digits, *options, "--json")
    assert ran.status == status
    assert [check["passed"] for check in ran.json["checks"]] == ["FAIL" not in line for line in printed]
    assert ran.err.count("FAIL") == status


def test_the_compiled_file_is_kept_and_others_are_not_replaced(cli, stand_in, digits):
    stand_in()
    kept = pathlib.Path("compiled.tflite")
    assert cli("ethosu", digits, "-o", kept).err.endswith("written: compiled.tflite\n")
    assert kept.read_bytes() == vela_stand_in.COMPILED
    assert cli("ethosu", digits, "-o", kept).status == 0
    kept.write_bytes(b"mine")
    ran = cli("ethosu", digits, "-o", kept, "--plot", "a.png")
    assert (ran.status, ran.out) == (2, "")
    assert "--force" in ran.err
    assert kept.read_bytes() == b"mine"
    assert not pathlib.Path("a.png").exists()
    assert cli("ethosu", digits, "-o", kept, "--force").status == 0
    assert kept.read_bytes() == vela_stand_in.COMPILED


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--accelerator", "ethos-u99"], "to be a known name"),
        (["--accelerator", "all", "-o", "a.tflite"], "--out keeps the file of one accelerator"),
        (["-o", "a.bin"], "Expected --out to name a .tflite file"),
        (["--plot", "a.jpg"], "--plot to name a .png file"),
        (["--plot", "calls/a.png"], "is not writable"),
        (["--require", "fast"], "Expected --require"),
        (["--require", "time=1"], "500us, 20ms or 1.5s"),
        (["--weights", "random"], "exported already, so --weights cannot apply"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_options_that_cannot_be_are_refused_before_vela_runs(words, problem, cli, stand_in, digits):
    calls = stand_in()
    pathlib.Path("calls").touch()
    ran = cli("ethosu", digits, *words)
    assert (ran.status, ran.out, "accelerator-config" in calls.read_text()) == (2, "", False)
    assert problem in ran.err
    assert ran.err.count("\n") == 1


def damaged(folder):
    content = vela_stand_in.network(folder).read_bytes()
    yield "missing", None
    yield "empty", b""
    yield "text", b"not a network"
    yield "cut", content[:900]
    rng = np.random.default_rng(0)
    yield "noise", content[:8] + rng.bytes(3000)


def test_hostile_files_are_one_line_and_never_reach_vela(cli, stand_in, tmp_path):
    calls = stand_in()
    for name, content in damaged(tmp_path):
        path = tmp_path / f"{name}.tflite"
        if content is not None:
            path.write_bytes(content)
        ran = cli("ethosu", path, "-o", "out.tflite")
        assert (ran.status, ran.out) == (2, ""), name
        assert ran.err.startswith("Error: Expected ")
        assert ran.err.count("\n") == 1
    assert not calls.exists() or "accelerator" not in calls.read_text()
    assert not pathlib.Path("out.tflite").exists()


def test_a_crash_of_vela_is_one_line_and_writes_nothing(cli, stand_in, digits):
    stand_in("import signal; os.kill(os.getpid(), signal.SIGSEGV)")
    ran = cli("ethosu", digits, "-o", "out.tflite", "--plot", "a.png")
    assert (ran.status, ran.out) == (2, "")
    assert "Vela was killed by SIGSEGV" in ran.err
    assert ran.err.count("\n") == 1
    assert not pathlib.Path("out.tflite").exists()
    assert not pathlib.Path("a.png").exists()


def test_without_vela_one_line_names_the_extra(cli, digits, monkeypatch):
    monkeypatch.setattr(vela, "_vela_command", lambda: None)
    for subject in (digits, "nin_digits"):
        ran = cli("ethosu", subject)
        assert (ran.status, ran.out) == (2, "")
        assert "pip install 'keras-nin[ethosu]'" in ran.err
        assert ran.err.count("\n") == 1
    assert "Did you mean nin_digits" in cli("ethosu", "nin_digit").err


@pytest.mark.slow
def test_a_model_is_exported_first(cli, exported, tmp_path, monkeypatch):
    vela_stand_in.install(tmp_path, monkeypatch)
    path = exported("nin_digits")
    source = conversion.TFLiteSource(str(path), path.name, (conversion.NOISE_CALIBRATION,))
    monkeypatch.setattr(conversion, "export_temporarily", lambda *_, **__: [source])
    ran = cli("ethosu", "nin_digits", "--json", "--calibration", "random")
    assert ran.status == 0
    (result,) = ran.json["results"]
    assert result["file"] == "nin_digits_int8.tflite"
    macs = {layer["name"]: layer["network_macs"] for layer in result["layers"] if layer["network_macs"]}
    assert macs == vela_stand_in.MACS
    assert ran.json["notes"][0].startswith("calibrated on noise: good for times only")
    assert ran.err == f"Note: {ran.json['notes'][0]}\n"
