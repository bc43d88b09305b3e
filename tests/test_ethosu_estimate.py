"""Estimates on Ethos-U: layers, findings and limits, and a whole run with a stand-in for Vela."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
import vela_stand_in

from keras_nin.audit.records import AuditRow
from keras_nin.edge.ethosu import check_ethosu_limits, estimate_ethosu, parse_ethosu_limits, records, vela
from keras_nin.edge.ethosu.estimate import find_layer_findings, join_layers
from keras_nin.edge.ethosu.records import EthosUFinding, VelaOperation
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


@pytest.fixture(scope="module")
def estimate(digits, tmp_path_factory):
    """The estimate of the recorded output."""
    with pytest.MonkeyPatch.context() as patch:
        vela_stand_in.install(tmp_path_factory.mktemp("vela"), patch)
        return estimate_only(digits)


def estimate_only(path, accelerator="ethos-u55-128", **options):
    (estimate,) = estimate_ethosu(path, (accelerator,), **options).estimates
    return estimate


def test_layers_are_those_of_the_audit(estimate):
    found = estimate
    macs = {layer.name: (layer.macs, layer.network_macs) for layer in found.layers if layer.network_macs}
    assert macs == {name: (count, count) for name, count in vela_stand_in.MACS.items()}
    assert [layer.index for layer in found.layers] == list(range(13))
    assert {layer.target for layer in found.layers} == {"NPU"}
    roles = {layer.name: layer.role for layer in found.layers if layer.kind == "pointwise"}
    assert roles["mlpconv1_conv1x1a"] == "reduce"
    assert roles["mlpconv3_conv1x1b"] == "head"


def test_totals_are_those_of_vela(estimate):
    found = estimate
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


def test_subtotals_have_every_layer_once(estimate):
    found = estimate
    groups = found.subtotals
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
    estimate_only(digits, "ethos-u85-256", options=options)
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
        ("sys.exit(1)", "Vela ended with status 1: no output"),
        ("raise RuntimeError('no networks')", "Vela ended with status 1: RuntimeError: no networks"),
        (
            "print(\"ethosu.vela.errors.CliOptionError: 'Error: no such section'\", file=sys.stderr); sys.exit(1)",
            "Vela ended with status 1: no such section",
        ),
        (
            "print('Buffer contents inconsistent', flush=True); import signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "Vela was killed by SIGSEGV; last output: Buffer contents inconsistent",
        ),
        ("pass", "Vela 5.2.0 succeeded without the files that Vela 5.2 writes"),
        ("answer(); os.remove('out/network_debug.xml')", "without the files"),
    ],
)
def test_what_vela_does_not_compile_is_one_line(body, problem, digits, stand_in):
    stand_in(body)
    with pytest.raises(InputError) as error:
        estimate_only(digits)
    assert str(error.value).startswith(f"Vela does not compile {str(digits)!r} for ethos-u55-128: ")
    assert error.value.path == str(digits)
    assert problem in str(error.value)


def test_what_takes_too_long_is_one_line(digits, stand_in):
    stand_in("time.sleep(600)")
    with pytest.raises(InputError, match="it did not finish within 0.5 s"):
        estimate_only(digits, timeout=0.5)


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        ("'1408,1408', '1407,1408'", "66,023 cycles by operation, 66,024 in all"),
        ("',3456,', ',3457,'", "549,501 MACs by operation, 549,500 in all"),
        ("'<table', '<tables'", "Expected a debug database of Vela 5.2. Received: no table 'source'"),
    ],
)
def test_tables_that_do_not_add_up_are_refused(lost, problem, digits, stand_in):
    stand_in(LOST.format(lost))
    with pytest.raises(InputError) as error:
        estimate_only(digits)
    assert problem in str(error.value)


@pytest.mark.parametrize("version", ["CLI Version: v1.9.11", "", "5.2"])
def test_another_program_of_that_name_is_refused(version, digits, stand_in):
    stand_in(version=version)
    with pytest.raises(InputError, match="to be Vela, Arm's compiler for Ethos-U. Received: .* as its version"):
        estimate_only(digits)


def test_where_vela_is_looked_for(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as error:
        estimate_only(digits)
    assert "pip install 'keras-nin[ethosu]'" in str(error.value)
    script = tmp_path / "vela"
    script.write_text("#!/bin/sh\necho 5.2.1\n")
    script.chmod(0o755)
    assert vela.find_vela() == vela.VelaTool((str(script),), "5.2.1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "it is there")
    assert vela._vela_command() == [sys.executable, "-m", "ethosu.vela"]


def test_a_sweep_keeps_what_works(digits, stand_in):
    stand_in("sys.exit('not for this one') if 'u85' in sys.argv[2] else answer()")
    found = estimate_ethosu(digits, ("ethos-u85-256", "ethos-u55-128"))
    assert [each.accelerator for each in found.estimates] == ["ethos-u55-128"]
    ((accelerator, message),) = [(each.accelerator, each.message) for each in found.refusals]
    assert accelerator == "ethos-u85-256"
    assert message.endswith("Vela ended with status 1: not for this one")
    assert f"refused: ethos-u85-256: {message}" in report.format_ethosu_sweep(found)
    checks = check_ethosu_limits(found, parse_ethosu_limits("full,time=1s"))
    assert [(check.subject, check.passed) for check in checks] == [
        ("ethos-u55-128", True),
        ("ethos-u55-128", True),
        ("ethos-u85-256", False),
        ("ethos-u85-256", False),
    ]
    assert not dataclasses.replace(found, checks=checks).passed
    assert len(dataclasses.replace(found, checks=checks).to_json()["checks"]) == 4
    with pytest.raises(InputError, match="not for this one"):
        estimate_ethosu(digits, ("ethos-u85-256", "ethos-u85-512"))
    with pytest.raises(InputError, match="Expected `accelerator`"):
        estimate_ethosu(digits, ("ethos-u85-3",))


def test_a_result_in_a_notebook(estimate):
    one = records.EthosUResult("net.tflite", (estimate,))
    assert repr(one) == "<EthosUResult: net.tflite, estimated by Vela: ethos-u55-128 132.0 us>"
    assert "mlpconv1_conv1x1a" in one._repr_html_()
    assert len(one.to_dataframe()) == 13
    other = dataclasses.replace(estimate, accelerator="ethos-u55-256")
    both = records.EthosUResult("net.tflite", (estimate, other))
    assert list(both.to_dataframe()["accelerator"]) == ["ethos-u55-128", "ethos-u55-256"]
    assert len(both.plot().axes) == 1


@pytest.mark.parametrize(
    ("text", "passed"),
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
def test_limits(text, passed, estimate):
    result = records.EthosUResult("net.tflite", (estimate,))
    assert [check.passed for check in check_ethosu_limits(result, parse_ethosu_limits(text))] == passed


@pytest.mark.parametrize("text", ["", "half", "speed=1ms", "time=1", "time=1kg", "sram=1", "npu=101%", "-5%", "time="])
def test_limits_that_are_none(text):
    with pytest.raises(InputError, match="Expected `require`"):
        parse_ethosu_limits(text)


def test_what_runs_on_the_cpu_has_no_time_and_breaks_limits(digits, stand_in):
    stand_in(LOST.format("',114,\"MaxPool\"', ',114,\"Passthrough\"'"))
    found = estimate_only(digits)
    assert [layer.name for layer in found.cpu_layers] == ["pool1"]
    assert [finding.rule for finding in found.findings] == ["cpu", "time-without-cpu", "assumed"]
    result = records.EthosUResult("net.tflite", (found,))
    results = check_ethosu_limits(result, parse_ethosu_limits("full,npu=100%,time=1s,time=1us"))
    assert [each.passed for each in results] == [False, True, False, False]
    assert "1 operator on the CPU, whose time is unknown" in str(results[2])
    text = report.format_ethosu(found)
    assert "operators on the CPU: 1" in text
    assert "cpu: pool1: Vela gives no reason" in text


def test_neither_keras_nor_tensorflow_is_imported(digits, tmp_path):
    script = tmp_path / "vela"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nprint('5.2.0') if '--version' in sys.argv else sys.exit('no')\n"
    )
    script.chmod(0o755)
    program = f"""
import sys
from keras_nin.edge.ethosu import estimate_ethosu, vela
vela._vela_command = lambda: [{str(script)!r}]
try:
    estimate_ethosu({str(digits)!r})
except ValueError as error:
    print(error)
print(sorted({{"keras", "tensorflow", "ai_edge_litert", "matplotlib"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert ran.stdout.endswith("Vela ended with status 1: no\n[]\n"), ran.stderr


# layers and findings, without Vela


def row(name, type_, kind, role=None, macs=0):
    """A row of an audit of which only what names the layer counts here."""
    unused = dict.fromkeys([field.name for field in dataclasses.fields(AuditRow)][5:], 0)
    return AuditRow(name, type_, kind, role, (1, 1), **unused | {"macs": macs, "block": "fire"})


ROWS = [
    row("squeeze", "CONV_2D", "pointwise", "reduce", 512),
    row("join", "CONCATENATION", "merge"),
    row("lrn", "LOCAL_RESPONSE_NORMALIZATION", "norm"),
]


def operation(source, operator="Conv2D", cycles=10, npu_cycles=10, macs=512, **fields):
    access = fields.pop("access_cycles", {})
    defaults = {"id": "1", "name": "tensor", "access_cycles": access, "read": {"SRAM": 3}, "written": {}}
    return VelaOperation(
        source=source, operator=operator, cycles=cycles, npu_cycles=npu_cycles, macs=macs, **defaults | fields
    )


def test_each_operation_is_in_one_layer_and_sums_stay():
    elsewhere = operation(None, name="x")
    left = operation(2, "Passthrough", 0, 0, 0)
    operations = [operation(0, macs=512), operation(0, "Relu", 0, 0, 0), elsewhere, elsewhere, left]
    layers = join_layers(ROWS, operations, "ethos-u55-128")
    assert [(each.name, each.index, each.target, each.operations) for each in layers] == [
        ("squeeze", 0, "NPU", 2),
        ("join", 1, "none", 0),
        ("lrn", 2, "CPU", 1),
        ("x", None, "NPU", 2),
    ]
    assert sum(each.cycles for each in layers) == 30
    assert sum(each.macs for each in layers) == 3 * 512
    assert layers[0].network_macs == layers[0].macs == 512
    assert (layers[0].kind, layers[0].role, layers[0].block) == ("pointwise", "reduce", "fire")
    assert layers[0].utilization == 512 / (10 * 128)
    assert layers[0].share == 10 / 30
    assert layers[0].read == {"SRAM": 6}
    assert (layers[1].share, layers[1].utilization, layers[1].bound) == (0, None, None)
    assert (layers[3].kind, layers[3].op, layers[3].network_macs) == ("other", None, None)


def test_macs_are_those_of_a_sample(estimate):
    """Vela counts those of a run; the utilization is that of the run."""
    (layer,) = join_layers(ROWS[:1], [operation(0, macs=4 * 512)], "ethos-u55-128", batch=4)
    assert (layer.macs, layer.product_macs, layer.network_macs) == (512, 512, 512)
    assert layer.utilization == 4 * 512 / (10 * 128)
    run = dataclasses.replace(estimate, layers=(layer,), macs=512, cycles=10, batch=4)
    assert [run.utilization, run.subtotals[0].utilization] == [layer.utilization] * 2
    assert not list(find_layer_findings([layer], "ethos-u55-128", "Ethos_U55", ()))
    assert "MACs of one sample of 4, as Vela counts them" in report.format_ethosu(run)


def test_a_limit_where_nothing_runs_on_the_npu_fails(estimate):
    """As of an LSTM in floating point, whose operations Vela lists for the body of its WHILE alone."""
    layers = join_layers(ROWS, [operation(None, "Passthrough", 0, 0, 0, name="body")], "ethos-u55-128", {0, 2})
    assert [layer.target for layer in layers] == ["CPU", "none", "CPU", "CPU"]
    idle = dataclasses.replace(estimate, layers=layers, cycles=0, us=0.0, memories=())
    assert (idle.uses_npu, estimate.uses_npu) == (False, True)
    limits = parse_ethosu_limits("full,npu=0%,time=1ms,sram=1MiB,dram=1MiB,flash=1MiB,compiled=1MiB")
    checks = check_ethosu_limits(records.EthosUResult("net.tflite", (idle,)), limits)
    assert not any(check.passed for check in checks)
    assert str(checks[2]).endswith(
        "time none, limit at most 1.000 ms: FAIL, nothing runs (no operator runs on the NPU)"
    )
    body_on_cpu = dataclasses.replace(estimate, layers=(*estimate.layers, layers[-1]))
    (check,) = check_ethosu_limits(records.EthosUResult("net.tflite", (body_on_cpu,)), parse_ethosu_limits("full"))
    assert (check.passed, check.value) == (False, pytest.approx(13 / 14))


def test_a_layer_may_be_in_both_places():
    (layer,) = join_layers(ROWS[:1], [operation(0), operation(0, "Passthrough", 0, 0, 0)], "ethos-u55-128")
    assert layer.target == "NPU+CPU"


def test_what_binds_a_layer_is_what_most_of_its_cycles_wait_for():
    waiting = operation(0, cycles=30, npu_cycles=4, access_cycles={"SRAM": 5, "DRAM": 30})
    computing = operation(0, cycles=20, npu_cycles=20, access_cycles={"SRAM": 19})
    assert join_layers(ROWS[:1], [waiting, computing], "ethos-u55-128")[0].bound == "DRAM"
    shorter = dataclasses.replace(waiting, cycles=19)
    assert join_layers(ROWS[:1], [shorter, computing], "ethos-u55-128")[0].bound == "NPU"


def test_without_cycles_there_are_no_shares():
    layers = join_layers(ROWS, [operation(0, "Passthrough", 0, 0, 0)], "ethos-u55-128")
    assert [(each.share, each.utilization) for each in layers] == [(None, None)] * 3


@pytest.mark.parametrize(("name", "macs"), [("ethos-u55-32", 32), ("ethos-u65-512", 512), ("ethos-u85-2048", 2048)])
def test_macs_per_cycle(name, macs):
    assert records.macs_per_cycle(name) == macs


def test_chosen_accelerators():
    assert records.parse_accelerators(["ethos-u85-256, ethos-u55-32", "ethos-u55-32"]) == (
        "ethos-u85-256",
        "ethos-u55-32",
    )
    assert records.parse_accelerators(["ethos-u55-32,all"]) == records.ACCELERATORS
    with pytest.raises(InputError, match=r"Received: 'ethos-u55-512'\. Did you mean ethos-u"):
        records.parse_accelerators(["ethos-u55-512"])


def judged(operations, system_config="Ethos_U55_Deep_Embedded", said=()):
    layers = join_layers(ROWS, operations, "ethos-u55-128")
    return [(each.rule, each.layers) for each in find_layer_findings(layers, "ethos-u55-128", system_config, said)]


def test_findings_of_what_is_left_to_the_cpu():
    left = operation(2, "Passthrough", 0, 0, 0)
    assert judged([operation(0)]) == []
    assert judged([operation(0), left]) == [("cpu", ("lrn",)), ("time-without-cpu", ())]
    assert judged([operation(0), left], said=[EthosUFinding("cpu", "why", ("lrn",))]) == [("time-without-cpu", ())]
    assert judged([left]) == [("cpu", ("lrn",)), ("nothing-on-npu", ())]


def test_finding_of_an_operator_that_is_cut_into_many():
    assert judged([operation(0), *[operation(0, "Relu")] * 99]) == [("split", ("squeeze",))]
    assert judged([operation(0), *[operation(0, "Relu")] * 98]) == []
    assert judged([operation(0), *[operation(0, "Relu")] * 99, operation(1, cycles=19_100)]) == []


def test_finding_of_macs_that_vela_counts_otherwise():
    assert judged([operation(0, macs=511)]) == [("macs", ("squeeze",))]
    assert judged([operation(0), operation(0, "Relu", macs=88)]) == []


def test_finding_of_a_system_of_another_family():
    assert judged([operation(0)], "Ethos_U85_SYS_DRAM_Mid") == [("other-family", ())]
    assert judged([operation(0)], "my_board") == []
