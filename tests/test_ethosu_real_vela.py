"""The real Vela, where it is installed, against the audit and against itself."""

import csv
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiers import WIDE

from keras_nin import InputError, export, models
from keras_nin.child_process import run_process
from keras_nin.edge import ethosu, fit
from keras_nin.edge.ethosu import vela
from keras_nin.report.edge import format_ethosu
from keras_nin.tflite import reader

pytest.importorskip("ethosu.vela", reason="Vela is not installed: pip install 'keras-nin[ethosu]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")]

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def estimate_only(path, accelerator="ethos-u55-128", **options):
    (estimate,) = ethosu.estimate_ethosu(path, (accelerator,), **options).estimates
    return estimate


def save_export(model, folder, scheme="int8", name="net"):
    images = np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)
    calibration = images if scheme == "int8" else None
    return export.convert_model(model, scheme, calibration, tuning=export.Tuning.plain(), name=name).save(folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    model = models.build_model("nin_digits", weights="digits")
    folder = tmp_path_factory.mktemp("exported")
    return save_export(model, folder), save_export(model, folder, "float32")


@pytest.mark.parametrize(
    ("name", "shape", "count", "accelerators"),
    [
        ("nin_digits", None, 9, ethosu.ACCELERATORS[:6]),
        ("squeezenet_cifar10", None, 26, ("ethos-u55-128", "ethos-u85-256", "ethos-u85-2048")),
        pytest.param("googlenet", (96, 96, 3), 62, ("ethos-u55-128", "ethos-u85-256"), marks=WIDE),  # 4 of the LRN
        pytest.param(
            "keras:MobileNet", (64, 64, 3), 28, ("ethos-u55-64", "ethos-u65-512", "ethos-u85-256"), marks=WIDE
        ),
    ],
)
def test_macs_equal_those_of_the_audit_row_by_row(name, shape, count, accelerators, exported, tmp_path):
    if shape is None:
        path = exported(name)
    else:
        keras.backend.clear_session()
        path = save_export(models.load_model(name, weights="random", input_shape=shape).model, tmp_path)
    found = ethosu.estimate_ethosu(path, accelerators)
    assert found.refusals == ()
    operators = [operator.op for operator in reader.read_model(path).main.operators]
    for estimate in found.estimates:
        products = [layer for layer in estimate.layers if layer.op in PRODUCTS]
        assert len(products) == count
        assert [(each.name, each.product_macs) for each in products] == [
            (each.name, each.network_macs) for each in products
        ]
        assert [layer.op for layer in estimate.layers] == operators  # nothing is left unjoined
        assert sum(each.share for each in estimate.layers) == pytest.approx(1)
        assert (estimate.npu_share, estimate.cpu_layers) == (1, ())


def test_on_u85_vela_counts_half_of_a_convolution_of_one_channel(digits):
    found = estimate_only(digits[0], "ethos-u85-256")
    first, *others = [layer for layer in found.layers if layer.op in PRODUCTS]
    assert 2 * first.product_macs == first.network_macs == 8 * 8 * 48 * 9
    assert all(layer.product_macs == layer.network_macs for layer in others)
    assert [finding.layers for finding in found.findings if finding.rule == "macs"] == [(first.name,)]


def test_the_two_expands_of_a_fire_module_are_told_apart(exported):
    found = estimate_only(exported("squeezenet_cifar10"))
    layers = {layer.name: layer for layer in found.layers}
    squeeze, one, three = (layers[f"fire2_{part}"] for part in ("squeeze1x1", "expand1x1", "expand3x3"))
    assert (squeeze.role, one.role, three.kind) == ("reduce", "expand", "spatial")
    assert three.macs == 9 * one.macs
    assert three.cycles > one.cycles > 0
    joined = [layer for layer in found.layers if layer.op == "CONCATENATION"]
    assert {(layer.target, layer.operations) for layer in joined} == {("none", 0)}


def test_the_accelerators_are_those_of_vela():
    result = run_process([*vela.find_vela().command, "--help"], timeout=60)
    listed = result.stdout.partition("--accelerator-config {")[2].partition("}")[0]
    assert tuple(listed.split(",")) == ethosu.ACCELERATORS


def test_figures_are_those_of_vela_s_own_table(digits, tmp_path):
    """Its per-layer CSV, which Vela makes from the same database."""
    words = [str(digits[0]), "--accelerator-config=ethos-u85-256", "--output-dir=out", "--verbose-performance"]
    subprocess.run([sys.executable, "-m", "ethosu.vela", *words], cwd=tmp_path, check=True, capture_output=True)
    with open(tmp_path / "out" / "net_int8_per-layer.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = estimate_only(digits[0], "ethos-u85-256")
    assert sum(layer.operations for layer in found.layers) == len(rows)
    totals = {"cycles": "Op Cycles", "npu_cycles": "NPU", "macs": "MAC Count"}
    for name, column in totals.items():
        assert getattr(found, name) == sum(int(row[column]) for row in rows)
    for memory, column in {"SRAM": "SRAM AC", "DRAM": "DRAM AC"}.items():
        cycles = sum(layer.access_cycles.get(memory, 0) for layer in found.layers)
        assert cycles == sum(int(row[column]) for row in rows)
    assert found.compiled == (tmp_path / "out" / "net_int8_vela.tflite").read_bytes()


def test_a_network_in_floating_point_is_left_to_the_cpu(digits):
    found = estimate_only(digits[1])
    assert "Time: all on the CPU, not estimated" in format_ethosu(found).splitlines()
    assert {layer.target for layer in found.layers} == {"CPU"}
    assert (found.us, found.utilization, found.npu_share) == (0, None, 0)
    rules = {finding.rule: finding for finding in found.findings}
    assert "an int8 file" in rules["nothing-on-npu"].message
    assert set(rules["cpu"].layers) == {layer.name for layer in found.layers}
    assert "Float32" in rules["cpu"].message


def test_a_loop_in_floating_point_is_left_to_the_cpu_and_keeps_no_limit(tmp_path):
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.LSTM(4)(inputs)))
    path = save_export(model, tmp_path, "float32")
    found = ethosu.estimate_ethosu(path)
    (estimate,) = found.estimates
    assert {layer.target for layer in estimate.layers if layer.index is not None} == {"CPU"}
    (result,) = fit.check_fit([path], ["ethosu"]).results
    assert (result.ethosu.on_npu, result.ethosu.operators) == (0, estimate.operator_count)
    (check,) = ethosu.check_ethosu_limits(found, ethosu.parse_ethosu_limits("time=1ms"))
    assert (check.passed, check.reason) == (False, "no operator runs on the NPU")


def test_strides_above_3_are_cut_or_left_to_the_cpu(tmp_path):
    image = keras.Input((44, 44, 4))
    cut = keras.layers.Conv2D(4, 5, strides=4, name="cut")(image)
    left = keras.layers.Conv2D(4, 5, strides=4, padding="same", name="left")(cut)
    model = keras.Model(image, left)
    found = estimate_only(save_export(model, tmp_path))
    layers = {layer.name: layer for layer in found.layers}
    assert (layers["cut"].operations, layers["cut"].macs) == (10 * 10, 10 * 10 * 25 * 4 * 4)
    assert [finding.layers for finding in found.findings if finding.rule == "split"] == [("cut",)]
    assert layers["left"].target == "CPU"
    (reason,) = [finding for finding in found.findings if finding.rule == "cpu"]
    assert reason.layers == ("left",)
    assert reason.message.startswith("Unsupported kernel stride: 4, 4; ")
    assert found.npu_share == pytest.approx(100 / 109)  # positions


def test_options_that_vela_refuses_are_one_line(digits, tmp_path):
    for options in (vela.VelaOptions(system_config="Mine"), vela.VelaOptions(config=("Arm/nothing.ini",))):
        with pytest.raises(InputError, match=r"Vela ended with status 1: .*(Mine|nothing\.ini)"):
            estimate_only(digits[0], options=options)
    (tmp_path / "board.ini").write_text(
        "[System_Config.Mine]\ncore_clock=100e6\naxi0_port=Sram\naxi1_port=OffChipFlash\n"
        "Sram_clock_scale=1.0\nSram_burst_length=32\nSram_read_latency=32\nSram_write_latency=32\n"
        "OffChipFlash_clock_scale=0.1\nOffChipFlash_burst_length=128\nOffChipFlash_read_latency=64\n"
        "[Memory_Mode.Both]\nconst_mem_area=Axi1\narena_mem_area=Axi0\ncache_mem_area=Axi0\n"
    )
    found = estimate_only(digits[0], options=vela.VelaOptions("Mine", "Both", (str(tmp_path / "board.ini"),)))
    assert (found.system_config, found.memory_mode, found.clock_hz) == ("Mine", "Both", 100e6)
    assert found.us == pytest.approx(found.cycles / 100)
    assert not any(finding.rule == "assumed" for finding in found.findings)


def test_damaged_files_are_refused_or_compiled(digits, tmp_path):
    content = digits[0].read_bytes()
    compiled, refusals = 0, []
    for seed in range(12):
        chance, damaged = random.Random(seed), bytearray(content)
        for _ in range(5):
            damaged[chance.randrange(len(content) - 4000, len(content))] = chance.randrange(256)
        path = tmp_path / f"{seed}.tflite"
        path.write_bytes(damaged)
        try:
            estimate_only(path, timeout=60)
            compiled += 1
        except InputError as error:
            refusals.append(str(error))
    assert compiled
    assert refusals
    assert not any("\n" in each for each in refusals)
