"""Every scheme holds in the file what its row of the table says, and the bytes are the bare converter's."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import InputError, export
from keras_nin.export import conversion, schemes
from keras_nin.export.conversion import Quantizer
from keras_nin.output_capture import capture_output
from keras_nin.tflite.runner import TFLiteRunner

UNTRAINED = [scheme for scheme in schemes.SCHEMES.values() if not scheme.trained]
NAMES = [scheme.name for scheme in UNTRAINED]
# The integer schemes with every other type of input and output.
ENDS = [("int8", "uint8"), ("int8", "float32"), ("int16x8", "float32")]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    stack = [
        keras.Input((8, 8, 3), name="image"),
        kl.Conv2D(16, 3, activation="relu", name="spatial"),
        kl.Conv2D(80, 1, activation="relu", name="pointwise"),
        kl.GlobalAveragePooling2D(name="pool"),
        kl.Dense(32, name="classes"),
    ]
    return keras.Sequential(stack, name="small")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((8, 8, 8, 3), np.float32)


@pytest.fixture(scope="module")
def made(model, images):
    chosen = [*UNTRAINED, *(schemes.SCHEMES[name].with_io(io) for name, io in ENDS)]
    return dict(zip([*NAMES, *ENDS], export.convert_schemes(model, chosen, images), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_what_the_table_says(made, name):
    scheme, main = made[name].scheme, made[name].tflite.main
    operators = zip(main.operators, made[name].layers, strict=True)
    (convolution,) = [op for op, layer in operators if (op.op, layer) == ("CONV_2D", "pointwise")]
    weights, output = main.tensors[convolution.inputs[1]], main.tensors[convolution.outputs[0]]
    producers = {tensor: op for op in main.operators for tensor in op.outputs}
    if weights.index in producers:  # float16 is stored so and widened before use
        assert producers[weights.index].op == "DEQUANTIZE"
        weights = main.tensors[producers[weights.index].inputs[0]]
    assert (weights.dtype, output.dtype) == (scheme.weights, scheme.activations)
    assert {main.tensors[index].dtype for index in (*main.inputs, *main.outputs)} == {scheme.io_type}


@pytest.mark.parametrize("key", [*NAMES, *ENDS], ids=str)
def test_a_file_computes_what_the_model_does(made, model, images, key):
    expected = model.predict(images, verbose=0)
    limit = 1e-5 if key == "float32" else 1e-3 if key == "float16" else 0.04
    difference = np.abs(TFLiteRunner(made[key].data).predict(images) - expected).max()
    assert difference < limit * np.ptp(expected)


@pytest.mark.parametrize("key", ENDS, ids=str)
def test_other_ends(made, key):
    name, io = key
    main = made[key].tflite.main
    assert {main.tensors[index].dtype for index in (*main.inputs, *main.outputs)} == {io}
    assert made[key].float_operators == ()
    assert made[key].export_record()["scheme"] == name


@pytest.mark.parametrize("name", NAMES)
def test_no_file_has_an_operator_of_tensorflow(made, name):
    assert not any(operator.is_custom for operator in made[name].tflite.main.operators)


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_those_of_the_bare_converter(made, model, images, name, monkeypatch):
    def attach(self, converter, per_channel):
        converter.representative_dataset = lambda: iter(self.samples)

    monkeypatch.setattr(Quantizer, "attach", attach)
    with conversion.ModelConverter(model) as source:
        data, _, _ = source.convert(made[name].scheme, images if made[name].scheme.calibrated else None)
    assert data == made[name].data


def test_several_schemes_are_calibrated_once(model, images, monkeypatch):
    from tensorflow.lite.python.optimize import calibrator

    fed = []
    real = calibrator.Calibrator.calibrate
    monkeypatch.setattr(calibrator.Calibrator, "calibrate", lambda self, data: fed.append(1) or real(self, data))
    export.convert_schemes(model, ["int8", "int16x8", schemes.SCHEMES["int8"].with_io("uint8")], images)
    assert fed == [1]


def test_several_schemes_are_traced_once(model, images, monkeypatch):
    traces = []
    real = conversion._write_saved_model
    monkeypatch.setattr(conversion, "_write_saved_model", lambda *given: traces.append(1) or real(*given))
    with capture_output():
        export.convert_schemes(model, ["float32", "dynamic", "int8"], images)
    assert traces == [1]


def test_ends_that_a_scheme_does_not_choose():
    assert schemes.SCHEMES["float16"].with_io("int8") is schemes.SCHEMES["float16"]
    assert schemes.SCHEMES["int16x8"].with_io("int8").io_type == "int16"
    with pytest.raises(InputError, match="`io` to be one of int8, uint8, float32. Received: 'int4'"):
        schemes.SCHEMES["int8"].with_io("int4")


def test_the_table_names_every_scheme():
    rows = [dict(zip(schemes.SCHEME_COLUMNS, row, strict=True)) for row in schemes.scheme_table_rows()]
    assert [row["scheme"] for row in rows] == list(schemes.SCHEMES)
    ends = {row["scheme"]: row["input and output"] for row in rows}
    assert (ends["float16"], ends["int8"], ends["int16x8"]) == ("float32", "int8, uint8, float32", "int16, float32")
    assert {row["scheme"] for row in rows if "training" in row["needs"]} == {"qat", "pruned", "clustered"}
