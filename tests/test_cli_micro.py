"""`keras-nin micro`: the report, budgets, C++ files, bad input; with the real package where it is installed."""

import importlib.util
import json
import subprocess
import sys

import micro_stand_in
import numpy as np
import pytest
import tflite_writer as writer

from keras_nin.child_process import python_command
from keras_nin.edge.micro.measurement import require_tflite_micro
from keras_nin.errors import InputError
from keras_nin.workflows import backends

HAS_PACKAGE = importlib.util.find_spec("tflite_micro") is not None
real = pytest.mark.skipif(not HAS_PACKAGE, reason="tflite-micro is not installed: pip install 'keras-nin[micro]'")
FILE = "net.tflite"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A file, and a stand-in for the runtimes in this process."""
    micro_stand_in.install_engine(monkeypatch)
    monkeypatch.setattr(backends, "start_keras", lambda *_: pytest.fail("Keras was started"))
    return micro_stand_in.softmax(tmp_path / FILE)


@pytest.mark.usefixtures("stand_in")
def test_the_report_and_a_budget_that_holds(cli):
    ran = cli("micro", FILE, "--require", "arena=1328B, flash=1MiB", "--c-array", "out/net")
    assert (ran.status, ran.err) == (0, "written: out/net.cc\nwritten: out/net.h\n")
    for text in [
        "net.tflite on TFLite Micro 0.stand-in",
        "Arena: 1,328 bytes (1.3 KiB), the smallest that runs, to 16 bytes (4 tries up to 2.00 MiB)",
        "on this 64-bit host",
        "tensors      320 bytes",
        "with pointers: less on a 32-bit microcontroller\n    Things: 24",
        "Bit-exact with LiteRT's reference kernels: 40 outputs on 4 x noise (random numbers)",
        "SOFTMAX        1   AddSoftmax",
        "tflite::MicroMutableOpResolver<1> resolver;\nresolver.AddSoftmax();",
        "arena 1,328 bytes (1.3 KiB), limit at most 1,328 bytes (1.3 KiB): pass",
    ]:
        assert text in ran.out
    assert "floating point" not in ran.out


def test_a_budget_that_does_not_hold(cli, stand_in):
    ran = cli("micro", FILE, "--require", "arena=1327B,flash=1B", "--json")
    assert (ran.status, ran.err.count("FAIL, exceeded")) == (1, 2)
    assert ran.json["schema"] == "keras_nin.micro/1"
    sizes = {"arena": 1328, "flash": stand_in.stat().st_size}
    assert {check["item"]: check["value"] for check in ran.json["checks"]} == sizes
    assert not any(check["passed"] for check in ran.json["checks"])
    assert ran.json["comparison"]["noise"] is True


def test_an_abort_is_a_finding_and_no_arena_fits(cli, tmp_path, monkeypatch):
    micro_stand_in.install(tmp_path, monkeypatch)
    micro_stand_in.softmax(tmp_path / FILE)
    monkeypatch.setenv("STAND_IN_SAYS", "bad thing")
    ran = cli("micro", FILE)
    assert ran.status == 0
    assert "Arena: none works, " in ran.out
    assert "Peak activation memory (audit): 20 bytes" in ran.out
    ran = cli("micro", FILE, "--require", "arena=1GiB")
    assert ran.status == 1
    assert "arena unknown, limit at most 1,073,741,824 bytes" in ran.out
    assert "FAIL" in ran.out


@pytest.mark.usefixtures("stand_in")
def test_outputs_that_differ_are_said(cli, monkeypatch):
    micro_stand_in.install_engine(monkeypatch, wrong=2)
    ran = cli("micro", FILE)
    assert "4 of 40 outputs on 4 x noise (random numbers) differ, max abs diff 2" in ran.out


@pytest.mark.usefixtures("stand_in")
def test_images_of_a_dataset(cli, tmp_path, monkeypatch):
    quantized = micro_stand_in.quantization(1 / 255, -128)
    ends = [writer.tensor(name, (1, 8, 8, 1), quantization=quantized) for name in "ab"]
    writer.write(tmp_path / FILE, ends, [writer.operator("RELU", [0], [1])])
    ran = cli("micro", FILE, "--data", "digits", "--test-count", 3, "--json")
    compared = ran.json["comparison"]
    assert (compared["source"], compared["noise"]) == ("test images of digits, preprocessing: unit, [0, 1]", False)
    assert (compared["samples"], compared["outputs"], compared["differing"]) == (3, 192, 0)
    (tmp_path / "net.json").write_text(json.dumps({"options": {"test": "digits"}}))
    assert cli("micro", FILE, "--test-count", 2, "--json").json["comparison"]["source"] == compared["source"]
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # nothing is downloaded
    for test in ("cifar10", "gone.npz"):
        (tmp_path / "net.json").write_text(json.dumps({"options": {"test": test}}))
        ran = cli("micro", FILE, "--json")
        assert ran.json["comparison"]["noise"] is True
        assert f"on noise: the images that the export was tested on, '{test}', are not found. Pass others as" in ran.err
        assert ran.json["notes"] == [ran.err.removeprefix("Note: ").strip().replace("--data", "`test`")]


@pytest.mark.usefixtures("stand_in")
def test_images_of_the_export_and_one_measurement_for_fit(cli, tmp_path, monkeypatch):
    micro_stand_in.install_engine(monkeypatch, wrong=1)
    quantized = micro_stand_in.quantization(1 / 255, -128)
    ends = [writer.tensor(name, (1, 4, 4, 1), quantization=quantized) for name in "ab"]
    writer.write(tmp_path / FILE, ends, [writer.operator("RELU", [0], [1])])
    np.savez(tmp_path / "mine.npz", images=np.zeros((10, 4, 4), np.uint8))
    (tmp_path / "net.json").write_text(json.dumps({"options": {"test": "mine.npz"}, "preprocessing": {"mode": "raw"}}))
    compared = cli("micro", FILE, "--json").json["comparison"]
    assert (compared["source"], compared["samples"]) == ("test images of mine.npz, preprocessing: raw, [0, 255]", 10)
    ran = cli("fit", FILE, "--targets", "micro", "--json")
    (result,) = ran.json["results"]
    assert (result["micro"]["bit_exact"], result["micro"]["compared_on"]) == (False, f"10 x {compared['source']}")
    assert [result["micro"][key] for key in ("outputs", "differing")] == [10 * 16, 10] == [
        compared[key] for key in ("outputs", "differing")
    ]  # fmt: skip
    shown = cli("fit", FILE, "--targets", "micro").out
    assert "10 of 160 differ" in shown
    assert "compared with LiteRT's reference kernels on 10 x test images of mine.npz" in shown
    np.savez(tmp_path / "mine.npz", other=np.zeros(10))
    ran = cli("fit", FILE, "--targets", "micro")
    assert "Note: net.tflite was compared on noise: the images of the export, 'mine.npz', do not fit: " in ran.err


@pytest.mark.usefixtures("stand_in")
def test_samples_of_several_inputs(cli, tmp_path):
    tensors = [writer.tensor(name, (1, 4), quantization=micro_stand_in.quantization(0.1, 0)) for name in "abc"]
    writer.write(tmp_path / FILE, tensors, [writer.operator("ADD", [0, 1], [2], "AddOptions")], inputs=(0, 1))
    np.savez(tmp_path / "mine.npz", b=np.ones((5, 4), np.float32), a=np.zeros((5, 4), np.float32))
    (tmp_path / "net.json").write_text(json.dumps({"options": {"test": "mine.npz"}}))
    compared = cli("micro", FILE, "--json").json["comparison"]
    assert (compared["source"], compared["samples"], compared["outputs"]) == ("test images of mine.npz", 5, 20)


@pytest.mark.usefixtures("stand_in")
def test_a_float_file_is_said_to_be_one(cli, tmp_path):
    ends = [writer.tensor(name, (1, 8), "FLOAT32") for name in "ab"]
    writer.write(tmp_path / FILE, ends, [writer.operator("RELU", [0], [1])])
    assert "Not integer-only: 1 of 1 operator" in cli("micro", FILE, "--max-arena", "1KiB").out


@pytest.mark.usefixtures("stand_in")
def test_files_that_are_there_stay(cli, tmp_path):
    (tmp_path / "net.h").write_text("mine")
    ran = cli("micro", FILE, "--c-array", "net.h")
    assert (ran.status, ran.out) == (2, "")
    assert "net.h exists with different content" in ran.err
    assert (tmp_path / "net.h").read_text() == "mine"
    assert not (tmp_path / "net.cc").exists()
    assert cli("micro", FILE, "--c-array", "net.h", "--force").status == 0
    assert "kArenaSize = 1328;" in (tmp_path / "net.h").read_text()


BAD = [
    ([FILE, "--require", "arena"], "--require"),
    ([FILE, "--require", "ram=1KiB"], "Received: 'ram'"),
    ([FILE, "--require", "arena=256"], "64KiB"),
    ([FILE, "--max-arena", "2mib"], "--max-arena"),
    ([FILE, "--max-arena", "1000B"], "--max-arena"),
    ([FILE, "--c-array", "net.c"], "Expected a path that ends in .cc or .h"),
    (
        [FILE, "--data", "digits"],
        "Expected an .npz file with an array for each input (logits (N, 10)), or 'random'. Received: 'digits'",
    ),
    ([FILE, "--preprocessing", "unit"], "--labels, --preprocessing and --crop apply to images; pass them as --data"),
    (["none.tflite"], "Expected a .tflite file or a model. Received: 'none.tflite', which does not exist"),
    (["none"], "none"),
    (["cut.tflite"], "Expected a valid .tflite file. Received: 'cut.tflite'"),
    (["text.tflite"], "Expected a valid .tflite file. Received: 'text.tflite'"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_line(cli, tmp_path, stand_in, words, message):
    (tmp_path / "cut.tflite").write_bytes(stand_in.read_bytes()[:200])
    (tmp_path / "text.tflite").write_text("not a model")
    ran = cli("micro", *words)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
    assert message in ran.err


def test_without_the_package(cli, tmp_path, monkeypatch):
    micro_stand_in.softmax(tmp_path / FILE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = cli("micro", FILE)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "pip install 'keras-nin[micro]'" in ran.err
    with pytest.raises(InputError):
        require_tflite_micro()


def test_no_framework_is_loaded(tmp_path, monkeypatch):
    micro_stand_in.install(tmp_path, monkeypatch)
    path = micro_stand_in.softmax(tmp_path / FILE)
    code = (
        "import sys; from keras_nin.cli import main\n"
        "assert main.run(['micro', sys.argv[1], '--max-arena', '1KiB']) == 0\n"
        "assert not {'keras', 'tensorflow', 'tf_keras'} & set(sys.modules), sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, path], check=True, capture_output=True, env=python_command("keras_nin")[1]
    )


@real
@pytest.mark.slow
def test_nin_digits_with_the_real_package(cli):
    ran = cli("micro", "nin_digits", "--require", "arena=16KiB", "--c-array", "net", "--json")
    assert ran.status == 0
    arena, compared = ran.json["arena"], ran.json["comparison"]
    # What the audit counts is what the runtime plans, and the search is exact to 16 bytes.
    assert arena["tensor_bytes"] == ran.json["peak_activation_bytes"] == 8 * 8 * 64 + 4 * 4 * 64
    assert 0 <= arena["setup_bytes"] < 32
    assert (compared["source"], compared["outputs"]) == ("test images of digits, preprocessing: unit, [0, 1]", 1000)
    assert compared["differing"] == 0


@real
@pytest.mark.slow
def test_findings_of_the_real_package(cli, tmp_path):
    micro_stand_in.softmax(tmp_path / "flat.tflite", scale=7.8e-9)
    micro_stand_in.softmax(tmp_path / "fine.tflite", scale=7.8e-8, classes=512)
    micro_stand_in.softmax(tmp_path / "wide.tflite", scale=7.8e-8, classes=513)
    ends = [writer.tensor(name, (1, 4, 4, 8), "FLOAT32") for name in "ab"]
    lrn = writer.operator("LOCAL_RESPONSE_NORMALIZATION", [0], [1], "LocalResponseNormalizationOptions", radius=2)
    writer.write(tmp_path / "lrn.tflite", ends, [lrn])
    names = ("flat", "fine", "wide", "lrn")
    flat, fine, wide, absent = (cli("micro", f"{name}.tflite", "--json").json for name in names)
    assert flat["finding"]["kind"] == "abort"
    assert "SOFTMAX (operator 0) has the scale 7.8e-09" in flat["finding"]["message"]
    assert (fine["finding"], fine["comparison"]["differing"]) == (None, 0)
    assert "SIGABRT at 'run': perhaps SOFTMAX (operator 0)" in wide["finding"]["message"]
    assert absent["finding"]["kind"] == "missing operator"
    assert "LOCAL_RESPONSE_NORMALIZATION" in absent["finding"]["message"]
    small = cli("micro", "fine.tflite", "--max-arena", "1KiB", "--json").json
    assert fine["arena"]["bytes"] > 1024
    assert small["finding"]["kind"] == "too small"
