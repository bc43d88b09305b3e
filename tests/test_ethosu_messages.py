"""What Vela 5.2.0 prints, as findings."""

from vela_stand_in import RECORDED

from keras_nin.edge.ethosu import vela
from keras_nin.edge.ethosu.records import EthosUFinding

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
    found = [each for each in vela.parse_messages(LRN, COMPUTED) if each.rule == "cpu"]
    assert found == [
        EthosUFinding("cpu", FLOATING, ("quantize",)),
        EthosUFinding("cpu", "Unsupported opType", ("dequantize", "norm1")),
    ]


def test_what_is_not_known_is_shown_as_it_stands_once():
    raw = [each.message for each in vela.parse_messages(LRN, COMPUTED) if each.rule == "vela"]
    ignored = (
        "TfLiteReader: Built-in options type 'LocalResponseNormalizationOptions' is not yet implemented and will be "
    )
    assert raw == [f"{ignored}ignored. (and 1 more such lines)", "Something new                                     1"]


def test_a_tensor_of_no_layer_keeps_its_own_name():
    found = [each.layers for each in vela.parse_messages(LRN, {"pool1": ["dequantize"]}) if each.rule == "cpu"]
    assert found == [("tfl.quantize",), ("dequantize", "main_1/googlenet_1/norm1._1/LRN")]


def test_defaults_are_one_finding():
    (found,) = vela.parse_messages(DEFAULTS, {})
    assert found.rule == "assumed"
    assert found.message == (
        "Vela's defaults: configuration file vela.ini, system configuration Ethos_U55_High_End_Embedded; give those of "
        "the chip with --config, --system-config"
    )


def test_the_recorded_output_has_nothing_else():
    log = (RECORDED / "log.txt").read_text()
    assert [each.rule for each in vela.parse_messages(log, {})] == ["assumed"]
    assert [each.message for each in vela.parse_messages(f"{log}\nSegmentation in sight\n", {})][1:] == [
        "Segmentation in sight"
    ]


def test_a_warning_that_breaks_off_loses_nothing():
    (found,) = vela.parse_messages("Warning (supported operators) operator: X, ofm: 'y'", {})
    assert found == EthosUFinding("cpu", "Vela gives no reason", ("y",))
    assert vela.parse_messages("", {}) == ()


def test_lines_that_differ_in_a_name_alone_are_one_finding_others_are_not():
    log = "Tensor 'a' is open.\nTensor 'b' is open.\nTensor 'a' is closed.\n"
    found = [each.message for each in vela.parse_messages(log, {})]
    assert found == ["Tensor 'a' is open. (and 1 more such lines)", "Tensor 'a' is closed."]
