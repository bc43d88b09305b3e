"""From a file to an estimate, with a stand-in for Vela."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
import vela_stand_in

from keras_nin.edge import ethosu
from keras_nin.edge.ethosu import limits, vela
from keras_nin.edge.ethosu.records import summarize_groups
from keras_nin.errors import InputError
from keras_nin.report import edge as report

LOST = 'answer((recorded / "network_debug.xml").read_text().replace({}))'


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return vela_stand_in.network(tmp_path_factory.mktemp("network"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that installs a stand-in whose behaviour is the given code."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    yield lambda *body, **options: vela_stand_in.install(tmp_path, monkeypatch, *body, **options)
    assert list((tmp_path / "temporary").iterdir()) == []  # whatever happened


def test_layers_are_those_of_the_audit(digits, stand_in):
    stand_in()
    found = ethosu.estimate_accelerator(digits)
    macs = {layer.name: (layer.macs, layer.network_macs) for layer in found.layers if layer.network_macs}
    assert macs == {name: (count, count) for name, count in vela_stand_in.MACS.items()}
    assert [layer.index for layer in found.layers] == list(range(13))
    assert {layer.target for layer in found.layers} == {"NPU"}
    roles = {layer.name: layer.role for layer in found.layers if layer.kind == "pointwise"}
    assert roles["mlpconv1_conv1x1a"] == "reduce"
    assert roles["mlpconv3_conv1x1b"] == "head"


def test_totals_are_those_of_vela(digits, stand_in):
    stand_in()
    found = ethosu.estimate_accelerator(digits)
    assert found.cycles == sum(layer.cycles for layer in found.layers) == 66_024
    assert found.us == pytest.approx(66_024 / 500)  # at 500 MHz
    assert found.macs == sum(layer.macs for layer in found.layers) == 549_500
    assert found.network_macs == sum(vela_stand_in.MACS.values())
    assert found.utilization == pytest.approx(549_500 / (66_024 * 128))
    assert found.npu_share == 1
    assert [(each.name, each.used, each.moved) for each in found.memories] == [
        ("SRAM", 8_256, 31_700),
        ("off-chip flash", 60_256, 59_456),
    ]
    assert found.compiled == vela_stand_in.COMPILED
    assert (found.vela, found.system_config, found.memory_mode) == (
        "5.2.0",
        "Ethos_U55_High_End_Embedded",
        "Shared_Sram",
    )
    assert [finding.rule for finding in found.findings] == ["assumed"]


def test_subtotals_have_every_layer_once(digits, stand_in):
    stand_in()
    found = ethosu.estimate_accelerator(digits)
    groups = summarize_groups(found)
    assert [each.group for each in groups][:3] == ["1x1 mix", "1x1 reduce", "1x1 head"]
    assert sum(each.layers for each in groups) == 13
    assert sum(each.cycles for each in groups) == found.cycles
    assert sum(each.macs for each in groups) == found.macs
    assert sum(each.share for each in groups) == pytest.approx(1)


def test_options_reach_vela(digits, stand_in, tmp_path, monkeypatch):
    calls = stand_in()
    monkeypatch.chdir(tmp_path)
    pathlib.Path("board.ini").touch()
    options = vela.VelaOptions("Mine", "Shared_Sram", ("board.ini", "Arm/vela.ini"))
    ethosu.estimate_accelerator(digits, "ethos-u85-256", options=options)
    version, words = map(json.loads, calls.read_text().splitlines())
    assert version == ["--version"]
    assert words == [
        "network.tflite",
        "--accelerator-config=ethos-u85-256",
        "--output-dir=out",
        "--enable-debug-db",
        "--system-config=Mine",
        "--memory-mode=Shared_Sram",
        f"--config={tmp_path.resolve() / 'board.ini'}",
        "--config=Arm/vela.ini",
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("sys.exit(1)", "Vela ended with status 1: it says nothing"),
        ("raise RuntimeError('no networks')", "Vela ended with status 1: RuntimeError: no networks"),
        (
            "print(\"ethosu.vela.errors.CliOptionError: 'Error: no such section'\", file=sys.stderr); sys.exit(1)",
            "Vela ended with status 1: no such section",
        ),
        (
            "print('Buffer contents inconsistent', flush=True); import signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "Vela was killed by signal 11 (Segmentation fault); its last words: Buffer contents inconsistent",
        ),
        ("pass", "Vela 5.2.0 ended well without the files that Vela 5.2 writes"),
        ("answer(); os.remove('out/network_debug.xml')", "without the files"),
    ],
)
def test_what_vela_does_not_compile_is_one_line(body, problem, digits, stand_in):
    stand_in(body)
    with pytest.raises(InputError) as error:
        ethosu.estimate_accelerator(digits)
    assert str(error.value).startswith(
        f"Expected a file that Vela compiles for ethos-u55-128. Received: {str(digits)!r}: "
    )
    assert problem in str(error.value)


def test_what_takes_too_long_is_one_line(digits, stand_in):
    stand_in("time.sleep(600)")
    with pytest.raises(InputError, match="it was not done after 0.5 s"):
        ethosu.estimate_accelerator(digits, limit=0.5)


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        ("'1408,1408', '1407,1408'", "66,023 cycles by operation, 66,024 in all"),
        ("',3456,', ',3457,'", "549,501 macs by operation, 549,500 in all"),
        ("'<table', '<tables'", "Expected a debug database of Vela 5.2. Received: no table 'source'"),
    ],
)
def test_tables_that_do_not_add_up_are_refused(lost, problem, digits, stand_in):
    stand_in(LOST.format(lost))
    with pytest.raises(InputError) as error:
        ethosu.estimate_accelerator(digits)
    assert problem in str(error.value)


@pytest.mark.parametrize("version", ["CLI Version: v1.9.11", "", "5.2"])
def test_another_program_of_that_name_is_refused(version, digits, stand_in):
    stand_in(version=version)
    with pytest.raises(InputError, match="to be Vela, Arm's compiler for Ethos-U. Received: .* as its version"):
        ethosu.estimate_accelerator(digits)


def test_where_vela_is_looked_for(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as error:
        ethosu.estimate_accelerator(digits)
    assert "pip install 'keras-nin[ethosu]'" in str(error.value)
    script = tmp_path / "vela"
    script.write_text("#!/bin/sh\necho 5.2.1\n")
    script.chmod(0o755)
    assert vela.find_vela() == vela.VelaTool((str(script),), "5.2.1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "it is there")
    assert vela._vela_command() == [sys.executable, "-m", "ethosu.vela"]


def test_a_sweep_keeps_what_works(digits, stand_in):
    stand_in("sys.exit('not for this one') if 'u85' in sys.argv[2] else answer()")
    found = ethosu.estimate_ethosu(digits, ("ethos-u85-256", "ethos-u55-128"))
    assert [each.accelerator for each in found.estimates] == ["ethos-u55-128"]
    ((accelerator, message),) = [(each.accelerator, each.message) for each in found.refusals]
    assert accelerator == "ethos-u85-256"
    assert message.endswith("Vela ended with status 1: not for this one")
    assert f"refused: ethos-u85-256: {message}" in report.format_ethosu_sweep(found)
    assert not any(each.passed for each in limits.refused(found.refusals[0], limits.parse("full,time=1s")))
    with pytest.raises(InputError, match="not for this one"):
        ethosu.estimate_ethosu(digits, ("ethos-u85-256", "ethos-u85-512"))
    with pytest.raises(InputError, match="Expected `accelerator`"):
        ethosu.estimate_ethosu(digits, ("ethos-u85-3",))


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("full", [True]),
        ("100%", [True]),
        ("npu=99.5%,time=133us", [True, True]),
        ("time=0.133ms,time=132us", [True, False]),
        ("sram=8256B,sram=8KiB", [True, False]),
        ("flash=60.256kB,flash=58KiB,dram=0B", [True, False, True]),
        ("compiled=17B,compiled=16B", [True, False]),
    ],
)
def test_limits(text, held, digits, stand_in):
    stand_in()
    results = limits.check(ethosu.estimate_accelerator(digits), limits.parse(text))
    assert [each.passed for each in results] == held
    assert [str(each).endswith("does not hold") for each in results] == [not each for each in held]


@pytest.mark.parametrize(
    "text", ["", "half", "speed=1ms", "time=1", "time=1kg", "sram=1", "npu=101%", "npu=1", "-5%", "time="]
)
def test_limits_that_are_none(text):
    with pytest.raises(InputError, match="Expected `require`"):
        limits.parse(text)


def test_what_runs_on_the_cpu_has_no_time_and_breaks_limits(digits, stand_in):
    stand_in(LOST.format("',114,\"MaxPool\"', ',114,\"Passthrough\"'"))
    found = ethosu.estimate_accelerator(digits)
    assert [layer.name for layer in found.left_to_cpu] == ["pool1"]
    assert [finding.rule for finding in found.findings] == ["cpu", "time-without-cpu", "assumed"]
    results = limits.check(found, limits.parse("full,npu=100%,time=1s,time=1us"))
    assert [each.passed for each in results] == [False, True, False, False]
    assert "1 operator is left to the CPU, whose time is not known" in str(results[2])
    text = report.format_ethosu(found)
    assert "operators left to the CPU: 1" in text
    assert "cpu: pool1: Vela gives no reason" in text


def test_neither_keras_nor_tensorflow_is_imported(digits, tmp_path):
    script = tmp_path / "vela"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nprint('5.2.0') if '--version' in sys.argv else sys.exit('no')\n"
    )
    script.chmod(0o755)
    program = f"""
import sys
from keras_nin.edge.ethosu import vela
vela._command = lambda: [{str(script)!r}]
from keras_nin.cli import main
status = main.run(["ethosu", {str(digits)!r}])
print(status, sorted({{"keras", "tensorflow", "ai_edge_litert", "matplotlib"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert ran.stdout == "2 []\n"
    assert ran.stderr.endswith("Vela ended with status 1: no\n")
