"""Vela's debug database and its log, read whole or refused."""

import csv

import pytest
from vela_stand_in import MACS, RECORDED

from keras_nin.edge.ethosu import vela
from keras_nin.edge.ethosu.estimate import sum_by_memory
from keras_nin.edge.ethosu.records import EthosUFinding
from keras_nin.errors import InputError

TEXT = (RECORDED / "network_debug.xml").read_text()
OPERATORS = 13
NAME = '"main_1/nin_digits_1/pool1._1/MaxPool2d"'
ROW = f'157,4,114,"MaxPool",{NAME},2560,1408,1408,3456,0,320,0\n'


@pytest.fixture(scope="module")
def summary():
    (path,) = RECORDED.glob("*_summary_*.csv")
    with open(path, newline="") as lines:
        return next(csv.DictReader(lines))


def test_every_operation_is_read_and_knows_its_operator(summary):
    found = vela.parse_operations(TEXT, OPERATORS)
    assert len(found) == 51
    assert [each.source for each in found] == sorted(each.source for each in found)
    assert {each.source for each in found} == set(range(OPERATORS))
    assert found[0].operator == "Conv2D"
    assert found[0].name.startswith("main_1/nin_digits_1/mlpconv1_conv3x3._1/Relu;")
    assert [each.macs for each in found if each.operator == "Conv2D"] == list(MACS.values())
    assert not any(each.on_cpu for each in found)


def test_sums_are_the_totals_of_vela(summary):
    found = vela.parse_operations(TEXT, OPERATORS)
    assert sum(each.cycles for each in found) == int(summary["cycles_total"])
    assert sum(each.npu_cycles for each in found) == int(summary["cycles_npu"])
    assert sum(each.macs for each in found) == int(summary["nn_macs"])
    moved = {
        name: sum_by_memory(each.read for each in found).get(name, 0)
        + sum_by_memory(each.written for each in found).get(name, 0)
        for name in ("SRAM", "off-chip flash")
    }
    assert moved == {
        "SRAM": int(summary["sram_total_bytes"]),
        "off-chip flash": int(summary["off_chip_flash_total_bytes"]),
    }


@pytest.mark.parametrize("name", ['a "quoted", name', "1, 2\n3", '",1,2,3', "7", "", "½"])
def test_a_name_may_be_anything(name):
    assert ROW in TEXT
    # Vela leaves what is a number without quotation marks, and quotes nothing else.
    written = name if name.isnumeric() else f'"{name}"'
    found = vela.parse_operations(TEXT.replace(ROW, ROW.replace(NAME, written)), OPERATORS)
    (pool,) = [each for each in found if each.id == "157"]
    assert (pool.name, pool.cycles, pool.macs, pool.source) == (name.strip('"'), 1408, 3456, 3)
    assert len(found) == 51


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('name="perf"', 'name="performance"', "no table 'perf'"),
        ('name="source"', 'name="sources"', "no table 'source'"),
        ('"op_cycles"', '"cycles"', "a table 'perf' without op_cycles"),
        (ROW, ROW.replace("1408", "-1408"), "'-1408' as op_cycles"),
        (ROW, ROW.replace("1408", "9" * 19), "as op_cycles"),
        (ROW, ROW.replace(",320,0", ",320"), "50 operations, details of 51"),
        (ROW, "157,4\n", "in table 'perf'"),
    ],
)
def test_another_database_is_refused(before, after, problem):
    assert before in TEXT
    with pytest.raises(InputError, match="Expected a debug database of Vela 5.2") as error:
        vela.parse_operations(TEXT.replace(before, after), OPERATORS)
    assert problem in str(error.value)


def test_an_operator_number_that_two_sources_have_joins_none():
    row = '4,"MaxPool",1,1,4,4,24,3\n'
    assert row in TEXT
    found = vela.parse_operations(TEXT.replace(row, row.replace(",3\n", ",0\n")), OPERATORS)
    assert [each.source for each in found[:7]] == [None, None, 1, 1, 2, 2, None]
    assert {each.source for each in vela.parse_operations(TEXT, 12)} == {*range(12), None}


# the log

DEFAULTS = """\
Warning: No configuration file specified. Using a default of ['/opt/Arm/vela.ini']. Compilation may be invalid or non-optimal.
Warning: No system configuration specified. Using a default of Ethos_U55_High_End_Embedded. Compilation may be invalid or non-optimal.
"""  # noqa: E501
LRN = """\
TfLiteReader: Built-in options type 'LocalResponseNormalizationOptions' is not yet implemented and will be ignored.
TfLiteReader: Built-in options type 'LocalResponseNormalizationOptions' is not yet implemented and will be ignored.

Warning (supported operators) operator: QUANTIZE, ofm: 'tfl.quantize'
Reason: Operation has tensor with unsupported DataType Float32 (main_1/googlenet_1/norm1._1/LRN)
Feature-map dataTypes must be one of {"INT16", "INT32"}

Warning (supported operators) operator: LOCAL_RESPONSE_NORMALIZATION, ofm: 'main_1/googlenet_1/norm1._1/LRN'
Reason: Unsupported opType

Warning (supported operators) operator: DEQUANTIZE, ofm: 'pool1'
Reason: Unsupported opType

Network summary for network
Accelerator clock                                 500 MHz
Something new                                     1
CPU operators = 3 (100.0%)
"""
FLOATING = (
    'Operation has tensor with unsupported DataType Float32; Feature-map dataTypes must be one of {"INT16", "INT32"}'
)
COMPUTED = {"pool1": ["dequantize"], "main_1/googlenet_1/norm1._1/LRN": ["norm1"], "tfl.quantize": ["quantize"]}


def test_reasons_are_grouped_and_name_layers_in_the_file_s_order():
    found = [each for each in vela.parse_log(LRN, COMPUTED) if each.rule == "cpu"]
    assert found == [
        EthosUFinding("cpu", FLOATING, ("quantize",)),
        EthosUFinding("cpu", "Unsupported opType", ("dequantize", "norm1")),
    ]


def test_what_is_not_known_is_shown_as_it_stands_once():
    raw = [each.message for each in vela.parse_log(LRN, COMPUTED) if each.rule == "vela"]
    ignored = (
        "TfLiteReader: Built-in options type 'LocalResponseNormalizationOptions' is not yet implemented and will be "
    )
    assert raw == [f"{ignored}ignored. (and 1 similar line)", "Something new                                     1"]


def test_a_tensor_of_no_layer_keeps_its_own_name():
    found = [each.layers for each in vela.parse_log(LRN, {"pool1": ["dequantize"]}) if each.rule == "cpu"]
    assert found == [("tfl.quantize",), ("dequantize", "main_1/googlenet_1/norm1._1/LRN")]


def test_defaults_are_one_finding():
    (found,) = vela.parse_log(DEFAULTS, {})
    assert found.rule == "assumed"
    assert found.message == (
        "Vela's defaults: configuration file vela.ini, system configuration Ethos_U55_High_End_Embedded; "
        "name those of your "
        "chip with `config`, `system_config`"
    )


def test_the_recorded_output_has_nothing_else():
    log = (RECORDED / "log.txt").read_text()
    assert [each.rule for each in vela.parse_log(log, {})] == ["assumed"]
    assert [each.message for each in vela.parse_log(f"{log}\nSegmentation in sight\n", {})][1:] == [
        "Segmentation in sight"
    ]


def test_a_warning_that_breaks_off_loses_nothing():
    (found,) = vela.parse_log("Warning (supported operators) operator: X, ofm: 'y'", {})
    assert found == EthosUFinding("cpu", "Vela gives no reason", ("y",))
    assert vela.parse_log("", {}) == ()


def test_lines_that_differ_in_a_name_alone_are_one_finding_others_are_not():
    log = "Tensor 'a' is open.\nTensor 'b' is open.\nTensor 'a' is closed.\n"
    found = [each.message for each in vela.parse_log(log, {})]
    assert found == ["Tensor 'a' is open. (and 1 similar line)", "Tensor 'a' is closed."]


def test_operators_on_the_cpu_of_a_file_with_several_subgraphs():
    """As Vela lists them for the WHILE of an LSTM: operations of its body only, and numbers that begin again."""
    sources = '1,"While",1,1,1,1,1,0\n2,"Conv2D",1,1,1,1,1,1\n3,"Less",1,1,1,1,1,0\n4,"Add",1,1,1,1,1,1\n'
    optimised = '1,1,"Passthrough",1,1,1,1,1\n2,2,"Conv2D",1,1,1,1,1\n3,3,"Passthrough",1,1,1,1,1\n'
    optimised += '4,4,"Passthrough",1,1,1,1,1\n5,9,"Passthrough",1,1,1,1,1\n'
    columns = '"id","{}operator","kernel_w","kernel_h","ofm_w","ofm_h","ofm_d"{}'
    text = "".join(
        f'<table name="{name}">\n<![CDATA[\n{header}\n{rows}]]>\n</table>\n'
        for name, header, rows in (
            ("source", columns.format("", ',"ext_key"'), sources),
            ("optimised", columns.format('"source_id",', ""), optimised),
        )
    )
    assert vela.parse_cpu_operators(text, 2) == {0}
    assert vela.parse_cpu_operators(TEXT, OPERATORS) == set()
