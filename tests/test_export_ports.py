"""Models with other inputs and outputs than one image and one vector: named in the signature, calibrated, compared."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import InputError, export
from keras_nin.export.calibration import image_input_shape, input_specs, output_specs
from keras_nin.tflite.runner import TFLiteRunner


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def sequential(*stack, shape=(8, 8, 3), name="net"):
    return keras.Sequential([keras.Input(shape), *stack], name=name)


def two_inputs(structure=list):
    picture = keras.Input((8, 8, 3), name="picture")
    history = keras.Input((5,), name="a-history")
    pooled = kl.GlobalAveragePooling2D(name="pool")(kl.Conv2D(4, 1, activation="relu", name="conv")(picture))
    joined = kl.Concatenate(name="join")([pooled, history])
    inputs = [picture, history] if structure is list else {"picture": picture, "a-history": history}
    return keras.Model(inputs, kl.Dense(3, name="classes")(joined), name="two")


def two_outputs(structure=list):
    image = keras.Input((8, 8, 3), name="image")
    trunk = kl.Conv2D(4, 3, activation="relu", name="trunk")(image)
    mean = kl.GlobalAveragePooling2D(name="mean")(trunk)
    z, a = kl.Dense(3, name="z_classes")(mean), kl.Conv2D(2, 1, name="a_map")(trunk)
    return keras.Model(image, [z, a] if structure is list else {"z": z, "a": a}, name="two")


def samples(model, count=6):
    rng = np.random.default_rng(0)
    return {port.name: rng.random((count, *port.shape), np.float32) for port in input_specs(model)}


def predicted(model, arrays):
    """Return the model's outputs for arrays by the names of its ports."""
    return [np.asarray(each) for each in keras.tree.flatten(model([arrays[port.name] for port in input_specs(model)]))]


@pytest.mark.parametrize("structure", [list, dict])
def test_two_inputs_go_by_their_names(structure):
    model = two_inputs(structure)
    arrays = samples(model)
    assert set(arrays) == {"picture", "a_history"}
    (expected,) = [np.asarray(model({"picture": arrays["picture"], "a-history": arrays["a_history"]}))]
    for made in export.convert_schemes(model, ["float32", "float16", "dynamic", "int8", "int16x8"], arrays):
        (signature,) = made.tflite.signatures
        assert {name for name, _ in signature.inputs} == {"picture", "a_history"}
        assert [name for name, _ in signature.outputs] == ["classes"]
        output = TFLiteRunner(made.data).predict(arrays)
        assert np.abs(output - expected).max() < (1e-5 if made.scheme.name == "float32" else 0.05 * np.ptp(expected))


@pytest.mark.parametrize("structure", [list, dict])
def test_two_outputs_go_by_their_names(structure):
    model = two_outputs(structure)
    arrays = samples(model)
    for made in export.convert_schemes(model, ["float32", "int8"], arrays["image"]):
        (signature,) = made.tflite.signatures
        outputs = dict(signature.outputs)
        assert set(outputs) == {"z_classes", "a_map"}
        assert [entry["signature"] for entry in made.export_record()["inputs"]] == ["image"]
        for port, expected in zip(output_specs(model), predicted(model, arrays), strict=True):
            position = made.tflite.main.outputs.index(outputs[port.name])
            output = TFLiteRunner(made.data, output=position).predict(arrays["image"])
            limit = 1e-5 if made.scheme.name == "float32" else 0.05 * np.ptp(expected)
            assert np.abs(output - expected).max() < limit


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_a_batch_of_several_computes_what_a_batch_of_one_does(scheme):
    model = sequential(kl.Conv2D(4, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    images = samples(model, 7)["input_layer" if "input_layer" in samples(model) else input_specs(model)[0].name]
    one = export.convert_model(model, scheme, images)
    four = export.convert_model(model, scheme, images, batch=4)
    main = four.tflite.main
    assert [main.tensors[index].shape[0] for index in (*main.inputs, *main.outputs)] == [4, 4]
    runner = TFLiteRunner(four.data, batch=4)
    np.testing.assert_allclose(runner.predict(images), TFLiteRunner(one.data).predict(images), rtol=1e-5, atol=1e-6)
    assert four.export_record()["batch"] == 4
    with pytest.raises(InputError, match="its batch of 4 was resized to 1; export it at batch 1"):
        TFLiteRunner(four.data)


def test_calibration_for_two_inputs_is_checked():
    model = two_inputs()
    arrays = samples(model)
    with pytest.raises(InputError, match=r"by the names of the inputs \('picture', 'a_history'\). Received: one array"):
        export.convert_model(model, "int8", arrays["picture"])
    with pytest.raises(InputError, match=r"inputs \['picture', 'a_history'\]. Received: \['picture'\]"):
        export.convert_model(model, "int8", {"picture": arrays["picture"]})
    with pytest.raises(InputError, match="as many calibration samples for each input"):
        export.convert_model(model, "int8", arrays | {"a_history": arrays["a_history"][:2]})
    with pytest.raises(InputError, match=r"samples of 'a_history' \(N, 5\). Received: shape \(6, 4\)"):
        export.convert_model(model, "int8", arrays | {"a_history": arrays["a_history"][:, :4]})
    spoilt = arrays["a_history"].copy()
    spoilt[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinity in 1 of them"):
        export.convert_model(model, "int8", arrays | {"a_history": spoilt})


def test_names_that_a_signature_does_not_take_and_names_that_are_there_twice():
    one, two = keras.Input((2,), name="a b"), keras.Input((2,), name="a-b")
    model = keras.Model([one, two], kl.Add(name="sum")([one, two]))
    assert [port.name for port in input_specs(model)] == ["a_b", "a_b_1"]
    shared = kl.Dense(2, name="same")
    model = keras.Model(one, [shared(one), shared(kl.ReLU()(one))])
    assert [port.name for port in output_specs(model)] == ["same", "same_1"]
    rng = np.random.default_rng(0).random((3, 2), np.float32)
    made = export.convert_model(model, "float32")
    outputs = [TFLiteRunner(made.data, output=index).predict(rng) for index in range(2)]
    assert len(outputs) == 2


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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: sequential(kl.Conv2D(3, 1), shape=(None, None, 3)),
            r"\(None, None, 3\). Give the size with --input-shape",
        ),
        (
            lambda: keras.Sequential([kl.Dense(3)], name="open"),
            "'open', Sequential without an Input. Give it a keras.In",
        ),
        (built, "'mine', a subclassed model. Make it functional: inputs = keras.Input"),
        (lambda: sequential(kl.Embedding(4, 2), shape=(3,)), None),
    ],
)
def test_models_that_cannot_be_exported(build, message):
    if message is None:
        words = keras.Input((3,), dtype="int32", name="words")
        model, message = keras.Model(words, kl.Embedding(4, 2)(words)), "floating-point inputs. .*'words' of int32"
    else:
        model = build()
    with pytest.raises(InputError, match=message):
        export.convert_model(model, "float32")


def test_a_subclassed_model_made_functional_as_the_message_says():
    model = Subclassed()
    inputs = keras.Input((4,))
    functional = keras.Model(inputs, model.call(inputs))
    rows = np.random.default_rng(0).random((3, 4), np.float32)
    made = export.convert_model(functional, "float32")
    np.testing.assert_allclose(TFLiteRunner(made.data).predict(rows), np.asarray(functional(rows)), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (two_inputs, r"Received: 'two' with 'picture' \(8, 8, 3\), 'a_history' \(5,\)$"),
        (
            lambda: sequential(kl.Dense(3), shape=(7,)),
            r"known \(height, width, channels\). Received: 'net' with '.*' \(7,\)$",
        ),
    ],
)
def test_models_that_are_no_networks_on_one_image(build, message):
    with pytest.raises(InputError, match=message):
        image_input_shape(build())


@pytest.mark.parametrize("batch", [0, -1, 1.0, "2"])
def test_a_batch_that_is_none(batch):
    with pytest.raises(InputError, match="`batch` to be a whole number of at least 1"):
        export.convert_model(sequential(kl.Conv2D(3, 1)), "float32", batch=batch)
