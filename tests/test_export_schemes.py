"""Every scheme holds in the file what its row of the table says, and the bytes are the bare converter's."""

import pytest
from export_networks import POST_TRAINING

from keras_nin import InputError
from keras_nin.export import SCHEMES, Tuning, conversion, convert_schemes, parse_schemes, schemes
from keras_nin.export.conversion import ModelConverter, Quantizer
from keras_nin.output_capture import capture_output
from keras_nin.tflite.runner import TFLiteRunner

WITH_IO = {"int8 uint8": "uint8", "int8 float32": "float32", "int16x8 float32": "float32"}


@pytest.fixture(scope="module")
def color(export_network):
    return export_network("color")


def io_types(tflite):
    return {tflite.main.tensors[index].dtype for index in (*tflite.main.inputs, *tflite.main.outputs)}


@pytest.mark.parametrize("name", POST_TRAINING)
def test_a_file_holds_what_the_table_says(color, name):
    scheme, main = SCHEMES[name], color.files[name].tflite.main
    operators = zip(main.operators, color.files[name].layers, strict=True)
    (convolution,) = (operator for operator, layer in operators if (operator.op, layer) == ("CONV_2D", "expand"))
    weights, output = main.tensors[convolution.inputs[1]], main.tensors[convolution.outputs[0]]
    producers = {tensor: operator for operator in main.operators for tensor in operator.outputs}
    if weights.index in producers:  # float16 is stored so and widened before use
        assert producers[weights.index].op == "DEQUANTIZE"
        weights = main.tensors[producers[weights.index].inputs[0]]
    assert (weights.dtype, output.dtype) == (scheme.weights, scheme.activations)
    assert io_types(color.files[name].tflite) == {scheme.io_type}
    assert not any(operator.is_custom for operator in main.operators)  # none of TensorFlow's own


@pytest.mark.parametrize("name", [*POST_TRAINING, *WITH_IO])
def test_a_file_computes_what_the_model_does(color, name):
    expected = color.model.predict(color.test, verbose=0)
    limit = {"float32": 1e-5, "float16": 1e-3}.get(name, 0.04)
    output = TFLiteRunner(color.files[name].tflite).predict(color.test)
    assert abs(output - expected).max() < limit * (expected.max() - expected.min())


@pytest.mark.parametrize("name", WITH_IO)
def test_other_input_and_output_types(color, name):
    converted = color.files[name]
    assert io_types(converted.tflite) == {WITH_IO[name]}
    assert converted.float_operators == ()
    assert converted.export_record()["scheme"] == name.split()[0]


@pytest.mark.slow
def test_without_tuning_the_bytes_are_those_of_the_bare_converter(export_network, monkeypatch):
    model, calibration = export_network("linear").model, export_network("linear").calibration[:4]
    ours = convert_schemes(model, ["int8", "int16x8"], calibration, tuning=Tuning.plain())
    monkeypatch.setattr(
        Quantizer,
        "attach",
        lambda self, converter, *_: setattr(converter, "representative_dataset", lambda: self.samples),
    )
    with ModelConverter(model) as converter:
        for converted in ours:
            assert converter.convert(converted.scheme, calibration)[0] == converted.data


@pytest.mark.slow
def test_several_schemes_are_traced_and_calibrated_once_and_tuned_once(export_network, monkeypatch):
    from keras_nin._compat import tensorflow as compat

    linear, calls = export_network("linear"), []
    write, calibrator = conversion.write_saved_model, compat.Calibrator
    monkeypatch.setattr(conversion, "write_saved_model", lambda *args: calls.append("trace") or write(*args))
    monkeypatch.setattr(compat, "Calibrator", lambda *args: calls.append("calibrate") or calibrator(*args))
    monkeypatch.setattr(conversion, "tune_file", lambda content, *_, **__: calls.append("tune") or content)
    with capture_output():
        convert_schemes(linear.model, ["float32", "int8", SCHEMES["int8"].with_io("uint8")], linear.calibration[:4])
    assert calls == ["trace", "calibrate", "tune"]


def test_types_that_a_scheme_does_not_choose():
    assert SCHEMES["float16"].with_io("int8") is SCHEMES["float16"]
    assert SCHEMES["int16x8"].with_io("int8").io_type == "int16"
    with pytest.raises(InputError, match="`io` to be one of int8, uint8, float32. Received: 'int4'"):
        SCHEMES["int8"].with_io("int4")


def test_the_table_names_every_scheme():
    rows = [dict(zip(schemes.SCHEME_COLUMNS, row, strict=True)) for row in schemes.scheme_table_rows()]
    assert [row["scheme"] for row in rows] == list(SCHEMES)
    types = {row["scheme"]: row["input and output"] for row in rows}
    assert (types["float16"], types["int8"], types["int16x8"]) == ("float32", "int8, uint8, float32", "int16, float32")
    assert {row["scheme"] for row in rows if "training" in row["needs"]} == {"qat", "qat_keras", "pruned", "clustered"}
    assert {row["scheme"] for row in rows if "calibration" in row["needs"]} == {
        "int8",
        "int16x8",
        "mixed",
        "qat_keras",
        "pruned",
        "clustered",
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("int8", ["int8"]),
        ("int8, float32", ["int8", "float32"]),
        ("all,qat", ["float32", "float16", "dynamic", "int8", "int16x8", "qat"]),
    ],
)
def test_schemes_in_their_order(text, names):
    assert [scheme.name for scheme in parse_schemes(text)] == names


@pytest.mark.parametrize("text", ["", ",", "int8,int8", "int4", "int8,all", "INT8"])
def test_schemes_that_are_none(text):
    with pytest.raises(InputError, match="Expected `scheme` to") as caught:
        parse_schemes(text)
    assert caught.value.argument == "scheme"


def test_a_tuning_says_what_it_takes():
    assert Tuning() == Tuning("mse", "adaptive", True) != Tuning.plain()
    assert Tuning(**Tuning.plain().to_json()) == Tuning.plain()
    for wrong in ({"ranges": "median"}, {"rounding": "up"}, {"bias_correction": "yes"}):
        with pytest.raises(InputError, match=f"`{next(iter(wrong))}` to be one of"):
            Tuning(**wrong)


def test_a_tuning_is_recorded_where_it_applies(color):
    assert {name for name in POST_TRAINING if color.files[name].tuning} == {"int8"}
    assert color.files["int8"].export_record()["tuning"] == Tuning().to_json()
