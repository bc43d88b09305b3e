"""Conversion: a static batch, named inputs and outputs, the same bytes every time, and errors that say what to do."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import InputError
from keras_nin.export import Tuning, convert_model, convert_schemes
from keras_nin.export.conversion import check_samples, image_input_shape
from keras_nin.export.float_rewrites import rewrite_for_integers
from keras_nin.keras_graph import find_loops, input_specs, output_specs
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.runner import TFLiteRunner


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def sequential(*stack, shape=(8, 8, 3), name="net"):
    return keras.Sequential([keras.Input(shape), *stack], name=name)


def samples(model, count=6):
    rng = np.random.default_rng(0)
    arrays = {spec.name: rng.random((count, *spec.shape), np.float32) for spec in input_specs(model)}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


@keras.saving.register_keras_serializable(package="tests")
class Error(kl.Layer):
    """An operator that TFLite does not have."""

    def call(self, inputs):
        return keras.ops.erf(inputs)


@keras.saving.register_keras_serializable(package="tests")
class LocalResponse(kl.Layer):
    """An operator that TFLite has for float32 alone."""

    def call(self, inputs):
        import tensorflow as tf

        return tf.nn.local_response_normalization(inputs)


def test_the_bytes_depend_on_nothing_but_the_model_and_the_images():
    model = sequential(kl.Conv2D(4, 3, name="a"), kl.ReLU(name="b"))
    images = samples(model)
    first = convert_model(model, "int8", images)
    check_batch(first, 1)
    sequential(kl.Conv2D(4, 3), name="another")
    assert convert_model(model, "int8", [image.astype(np.float64) for image in images]).data == first.data
    assert convert_model(model, "int8", images / 2).data != first.data


def check_batch(converted, batch):
    main = converted.tflite.main
    tensors = [main.tensors[index] for index in (*main.inputs, *main.outputs)]
    assert [tensor.shape[0] for tensor in tensors] == [batch, batch]
    assert not any(-1 in (tensor.shape_signature or ()) for tensor in tensors)
    assert converted.export_record()["batch"] == batch


def test_a_static_batch():
    model = sequential(kl.Conv2D(4, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    images = samples(model, 7)
    expected = model.predict(images, verbose=0)
    for converted in convert_schemes(model, ["float32", "int8"], images, batch=4):
        check_batch(converted, 4)
        limit = 1e-5 if converted.scheme.name == "float32" else 0.02 * np.ptp(expected)
        np.testing.assert_allclose(TFLiteRunner(converted.tflite, batch=4).predict(images), expected, atol=limit)
    with pytest.raises(InputError, match="its batch of 4 was resized to 1; export it at batch 1"):
        TFLiteRunner(converted.tflite)


@pytest.mark.parametrize("batch", [0, -1, 1.0, "2", True])
def test_a_batch_that_is_none(batch):
    with pytest.raises(InputError, match="`batch` to be a whole number of at least 1"):
        convert_model(sequential(kl.Conv2D(3, 1)), "float32", batch=batch)


# Several inputs and outputs


def two_by_two(structure):
    """Two inputs and two outputs, in a list or a dictionary."""
    picture, history = keras.Input((8, 8, 3), name="picture"), keras.Input((5,), name="a-history")
    trunk = kl.Conv2D(4, 1, activation="relu", name="trunk")(picture)
    joined = kl.Concatenate(name="join")([kl.GlobalAveragePooling2D(name="pool")(trunk), history])
    classes, image = kl.Dense(3, name="z_classes")(joined), kl.Conv2D(2, 1, name="a_map")(trunk)
    if structure is list:
        return keras.Model([picture, history], [classes, image], name="two")
    return keras.Model({"picture": picture, "a-history": history}, {"z": classes, "a": image}, name="two")


@pytest.mark.parametrize("structure", [list, dict])
def test_inputs_and_outputs_go_by_their_names(structure):
    model = two_by_two(structure)
    arrays = samples(model)
    assert set(arrays) == {"picture", "a_history"}
    expected = keras.tree.flatten(model({"picture": arrays["picture"], "a-history": arrays["a_history"]}))
    if structure is list:
        expected = model([arrays["picture"], arrays["a_history"]])
    schemes = ["float32", "int8"] if structure is list else ["int8"]
    for converted in convert_schemes(model, schemes, arrays, tuning=Tuning.plain()):
        (signature,) = converted.tflite.signatures
        outputs = dict(signature.outputs)
        assert {name for name, _ in signature.inputs} == set(arrays)
        assert set(outputs) == {"z_classes", "a_map"}
        record = converted.export_record()
        assert {entry["signature"] for entry in record["inputs"]} == set(arrays)
        for spec, values in zip(output_specs(model), map(np.asarray, expected), strict=True):
            position = converted.tflite.main.outputs.index(outputs[spec.name])
            output = TFLiteRunner(converted.tflite, output=position).predict(arrays)
            limit = 1e-5 if converted.scheme.name == "float32" else 0.05 * np.ptp(values)
            assert np.abs(output - values).max() < limit


def test_names_that_a_signature_does_not_take_and_names_that_are_there_twice():
    one, two = keras.Input((2,), name="a b"), keras.Input((2,), name="a-b")
    model = keras.Model([one, two], kl.Add(name="sum")([one, two]))
    assert [spec.name for spec in input_specs(model)] == ["a_b", "a_b_1"]
    shared = kl.Dense(2, name="same")
    model = keras.Model(one, [shared(one), shared(kl.ReLU()(one))])
    assert [spec.name for spec in output_specs(model)] == ["same", "same_1"]
    assert [name for name, _ in convert_model(model, "float32").tflite.signatures[0].outputs] == ["same", "same_1"]


# Calibration samples


def test_samples_for_two_inputs_are_checked():
    model = two_by_two(list)
    arrays, specs = samples(model), input_specs(model)
    spoilt = arrays["a_history"].copy()
    spoilt[2, 1] = np.nan
    for wrong, message in (
        (arrays["picture"], r"by input name \('picture', 'a_history'\). Received: one array"),
        ({"picture": arrays["picture"]}, r"inputs \['picture', 'a_history'\]. Received: \['picture'\]"),
        (arrays | {"a_history": arrays["a_history"][:2]}, "the same number of calibration samples for each input"),
        (arrays | {"a_history": arrays["a_history"][:, :4]}, r"samples of 'a_history' \(N, 5\). .* shape \(6, 4\)"),
        (arrays | {"a_history": spoilt}, "NaN or infinity in 1 of them"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            check_samples(wrong, specs)
        assert caught.value.argument == "calibration"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, r"calibration images \(N, 8, 8, 3\). Received: none"),
        (np.zeros((0, 8, 8, 3)), r"Received: shape \(0, 8, 8, 3\)"),
        (np.zeros((4, 8, 8, 1)), r"Received: shape \(4, 8, 8, 1\)"),
        (np.zeros((8, 8, 3)), r"Received: shape \(8, 8, 3\)"),
        ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], "Received: list of other things"),
        ("photos/", "Received: str of other things"),
        (np.full((2, 8, 8, 3), np.nan), "of finite numbers. Received: NaN or infinity in 2 of them"),
        (np.full((2, 8, 8, 3), np.inf), "of finite numbers. Received: NaN or infinity in 2 of them"),
    ],
)
def test_images_that_do_not_fit(images, message):
    with pytest.raises(InputError, match=message):
        convert_model(sequential(kl.Conv2D(3, 1)), "int8", images)


# Models that cannot be converted


class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self):
        super().__init__(name="mine")
        self.dense = kl.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def built():
    model = Subclassed()
    model(np.zeros((1, 4), np.float32))
    return model


def embedding():
    words = keras.Input((3,), dtype="int32", name="words")
    return keras.Model(words, kl.Embedding(4, 2)(words))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sequential(kl.Conv2D(3, 1), shape=(None, None, 3)), r"\(None, None, 3\). Pass `input_shape`"),
        (
            lambda: keras.Sequential([kl.Dense(3)], name="open"),
            "'open', Sequential without an Input. Add",
        ),
        (built, r"'mine', a subclassed model \(Subclassed\). Make it Functional: inputs = keras.Input"),
        (embedding, "floating-point inputs. .*'words' of int32"),
    ],
)
def test_models_that_cannot_be_exported(build, message):
    with pytest.raises(InputError, match=message):
        convert_model(build(), "float32")


def test_a_subclassed_model_made_functional_as_the_message_says():
    model, inputs = Subclassed(), keras.Input((4,))
    functional = keras.Model(inputs, model.call(inputs))
    rows = np.random.default_rng(0).random((3, 4), np.float32)
    output = TFLiteRunner(convert_model(functional, "float32").tflite).predict(rows)
    np.testing.assert_allclose(output, np.asarray(functional(rows)), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: two_by_two(list), r"Received: 'two' with 'picture' \(8, 8, 3\), 'a-history' \(5,\)$"),
        (
            lambda: sequential(kl.Dense(3), shape=(7,)),
            r"\(height, width, channels\). Received: 'net' with '.*' \(7,\)$",
        ),
    ],
)
def test_models_that_are_no_networks_on_one_image(build, message):
    with pytest.raises(InputError, match=message):
        image_input_shape(build())


def test_an_operator_that_tflite_does_not_have(capfd):
    model = sequential(kl.Conv2D(3, 1, name="c"), Error(name="odd one"))
    with pytest.raises(InputError) as caught:
        convert_model(model, "float32")
    assert str(caught.value) == (
        "Expected a network that converts to float32. Received: TensorFlow operators that have no counterpart in "
        "TFLite (Erf of layer 'odd one')"
    )
    assert capfd.readouterr() == ("", "")


def recurrent(*stack, shape=(3, 2)):
    return sequential(*stack, kl.Dense(3, activation="softmax", name="classes"), shape=shape, name="recurrent")


@pytest.mark.slow
@pytest.mark.parametrize(
    "stack",
    [
        pytest.param(lambda: [kl.LSTM(4, name="lstm")], marks=pytest.mark.wide),
        pytest.param(lambda: [kl.GRU(4, name="gru"), kl.Dropout(0.1)], marks=pytest.mark.wide),
        lambda: [kl.Bidirectional(kl.LSTM(4, return_sequences=True)), kl.GlobalAveragePooling1D()],
    ],
)
def test_recurrent_layers_are_unrolled_for_int8(stack):
    model = recurrent(*stack())
    images = samples(model, 40)
    float32, int8 = convert_schemes(model, ["float32", "int8"], images)
    assert "WHILE" in {operator.op for operator in float32.tflite.main.operators}
    assert not int8.float_operators
    assert {tensor.dtype for tensor in int8.tflite.main.tensors} == {"int8", "int32"}
    loops = find_loops(model)
    assert int8.flags["unrolled"] == [layer.name for layer in loops]
    assert "unrolled" not in float32.flags
    assert not any(layer.unroll for layer in loops)  # the model is as it was
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(TFLiteRunner(float32.tflite).predict(images), expected, atol=1e-5)
    np.testing.assert_allclose(TFLiteRunner(int8.tflite).predict(images), expected, atol=0.03)
    noise = expected - TFLiteRunner(int8.tflite).predict(images)
    assert noise.std() < 0.3 * expected.std(axis=0).mean()


@pytest.mark.slow
def test_a_loop_on_which_the_calibrator_crashes(monkeypatch):
    monkeypatch.setattr("keras_nin.keras_graph._MAX_UNROLLED_STEPS", 2)
    model = recurrent(kl.LSTM(4, name="long"))
    with pytest.raises(InputError) as caught:
        convert_model(model, "int8", samples(model))
    assert str(caught.value) == (
        "Expected a network that can be calibrated. Received: WHILE of layer 'long', on which TensorFlow's calibrator "
        "was killed by SIGSEGV. Build recurrent layers with unroll=True"
    )
    assert caught.value.status == -11


@keras.saving.register_keras_serializable(package="tests")
class NegativeSquare(kl.Layer):
    """Operators that int8 lacks, and a split of which one part is not read."""

    def call(self, inputs):
        first, _, third = keras.ops.split(inputs, 3, axis=-1)
        return keras.ops.relu(-first) + keras.ops.square(third)


@pytest.mark.slow
def test_operators_that_int8_lacks_are_rewritten_exactly():
    model = sequential(kl.Conv2D(6, 3, name="conv"), NegativeSquare(name="odd"), kl.Conv2D(4, 1, name="last"))
    images = samples(model)
    float32, int8 = convert_schemes(model, ["float32", "int8"], images, tuning=Tuning.plain())
    assert {"NEG", "SQUARE", "SPLIT"} <= {operator.op for operator in float32.tflite.main.operators}
    content, replaced = rewrite_for_integers(float32.data)
    assert replaced == int8.flags["rewritten"] == {"NEG": "MUL", "SPLIT": "SLICE", "SQUARE": "MUL"}
    rewritten = read_model(content)
    assert {"CONV_2D", "MUL", "SLICE"} <= {operator.op for operator in rewritten.main.operators} <= {
        *("ADD", "CONV_2D", "MUL", "RELU", "SLICE")
    }  # fmt: skip
    np.testing.assert_array_equal(TFLiteRunner(rewritten).predict(images), TFLiteRunner(float32.tflite).predict(images))
    assert rewrite_for_integers(content) == (content, {})
    assert not int8.float_operators
    assert [layer for layer in int8.layers if layer == "odd"]
    expected = model.predict(images, verbose=0)
    assert np.abs(TFLiteRunner(int8.tflite).predict(images) - expected).max() < 0.05 * np.ptp(expected)


def test_what_int8_cannot_have_is_refused_before_the_tuning(monkeypatch):
    def tune(*_, **__):
        raise AssertionError("tuned")

    monkeypatch.setattr("keras_nin.export.conversion.tune_file", tune)
    model = sequential(kl.Conv2D(4, 3), kl.ELU(name="elu"))
    with pytest.raises(InputError, match=r"floating point \(ELU of layer 'elu'\). Allow them with `allow_float`$"):
        convert_model(model, "int8", samples(model))


@pytest.mark.slow
def test_an_operator_that_int8_does_not_have():
    model = sequential(kl.Conv2D(4, 3), LocalResponse(name="lrn"), kl.Conv2D(4, 1))
    named = "LOCAL_RESPONSE_NORMALIZATION of layer 'lrn'"
    with pytest.raises(InputError, match=rf"floating point \({named}\). Allow them with `allow_float`$") as caught:
        convert_model(model, "int8", samples(model), tuning=Tuning.plain())
    assert caught.value.argument == "allow_float"
    allowed = convert_model(model, "int8", samples(model), allow_float=True, tuning=Tuning.plain())
    assert allowed.float_operators == (named,)
    assert set(allowed.flags["supported_ops"]) == {"TFLITE_BUILTINS", "TFLITE_BUILTINS_INT8"}


def test_a_network_that_computes_nothing():
    model = sequential(kl.Dropout(0.5))
    assert convert_model(model, "float32").layers == ()
    with pytest.raises(InputError, match="computes something, .* become int8. Received: float32 and 0 operators"):
        convert_model(model, "int8", samples(model))


def test_weights_that_are_not_finite():
    model = sequential(kl.Conv2D(3, 1, name="c"))
    model.layers[0].kernel.assign(np.full((1, 1, 3, 3), np.nan))
    with pytest.raises(InputError, match="finite weights. Received: NaN or infinity in '.*c/kernel'"):
        convert_model(model, "float32")


def test_an_unknown_scheme():
    with pytest.raises(InputError, match="`scheme` to be one of float32, .*, int8, .* Received: 'int4'"):
        convert_model(sequential(kl.Conv2D(3, 1)), "int4")
