"""Local response normalisation in integers: the form is the formula, converts whole, and is taken where it is meant."""

import keras
import numpy as np
import pytest

from keras_nin import InputError, export, layers
from keras_nin.export import conversion
from keras_nin.layers import normalization
from keras_nin.tflite.runner import TFLiteRunner

PAPER = (5, 1e-4, 0.75, 2.0)  # of AlexNet
CAFFE = (5, 1e-4, 0.75, 1.0)  # of GoogLeNet
ROUNDING = 1e-4  # of float32, relative


def formula(x, size, alpha, beta, k):
    squares = np.pad(np.square(x, dtype=np.float64), [(0, 0)] * 3 + [(size // 2, size // 2)])
    total = sum(squares[..., shift : shift + x.shape[-1]] for shift in range(size))
    return x / (k + alpha / size * total) ** beta


def wide(shape, size, alpha, k):
    """Values of both signs whose sums of squares reach from next to nothing to the end of the fit."""
    rng = np.random.default_rng(0)
    largest = np.sqrt(normalization.MAX_FITTED_SUM * k / alpha)  # `size` such values are the end
    sizes = 10 ** rng.uniform(-4, 0, (shape[0], *shape[1:3], 1)) * rng.uniform(0.01, 1, shape)
    return (largest * sizes * rng.choice([-1, 1], shape)).astype(np.float32)


def relative_error(x, constants, other=None):
    """Return the largest relative error of the form with `constants` against the formula with `other`."""
    layer = layers.LocalResponseNormalization(*constants)
    with layers.use_integer_form():
        found = keras.ops.convert_to_numpy(layer(x))
    expected = formula(x, *(other or constants))
    return np.abs(found / expected - 1).max()


@pytest.mark.parametrize("constants", [CAFFE, PAPER, (3, 0.1, 0.5, 1.5), (7, 2.0, 1.0, 0.1), (1, 1e-3, 0.25, 1.0)])
@pytest.mark.parametrize("shape", [(2, 5, 3, 64), (3, 4, 4, 7)])
def test_the_form_is_the_formula_to_the_stated_error(constants, shape):
    size, alpha, beta, k = constants
    error = normalization.fit_integer_form(*constants).error
    assert error < 0.065
    assert relative_error(wide(shape, size, alpha, k), constants) < error + ROUNDING


def test_the_stated_error_is_that_at_any_sum():
    sums = np.concatenate([[0], np.geomspace(1e-6, normalization.MAX_FITTED_SUM, 100_003)])
    for beta in (0.5, 0.75, 1.0):
        bank = normalization.fit_integer_form(1, 1.0, beta, 1.0)
        terms = np.maximum(1 - sums[:, None] * np.square(bank.gains), 0) ** 4
        factor = (bank.offset + terms @ np.array(bank.weights)) ** 2
        error = np.abs(factor * (1 + sums) ** beta - 1).max()
        assert bank.error == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize("other", [(3, *CAFFE[1:]), (5, 2e-4, 0.75, 1.0), (5, 1e-4, 0.5, 1.0), PAPER])
def test_other_constants_are_another_form(other):
    x = wide((2, 5, 3, 64), *CAFFE[:2], CAFFE[3])
    assert relative_error(x, CAFFE, other) > 5 * normalization.fit_integer_form(*CAFFE).error


@pytest.mark.parametrize(
    ("constants", "named"), [((5, 0, 0.75, 1), "alpha"), ((5, 1, -1, 1), "beta"), ((5, 1, 1, 0), "k")]
)
def test_constants_that_have_no_integer_form(constants, named):
    layer = layers.LocalResponseNormalization(*constants)
    with layers.use_integer_form(), pytest.raises(InputError, match=f"`{named}` to be positive for the integer form"):
        layer(np.ones((1, 2, 2, 3), np.float32))


def test_the_form_is_used_inside_the_context_alone():
    x = wide((1, 3, 3, 5), *CAFFE[:2], CAFFE[3])
    layer = layers.LocalResponseNormalization(*CAFFE)
    exact = layer(x)
    with layers.use_integer_form():
        assert np.abs(layer(x) - exact).max() > 1e-3
        with layers.use_integer_form(False):
            np.testing.assert_array_equal(layer(x), exact)
    np.testing.assert_array_equal(layer(x), exact)


def test_a_failure_inside_the_context_ends_it():
    layer = layers.LocalResponseNormalization(*CAFFE[:3], k=0)
    x = np.ones((1, 2, 2, 3), np.float32)
    with pytest.raises(InputError), layers.use_integer_form():
        layer(x)
    layer(x)


def network(channels=64):
    """A network whose normalisation takes values as large as those of the real one."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 10, 3))
    x = layers.conv1x1(x, channels, name="first")
    x = layers.local_response_normalization(x, name="norm")
    outputs = layers.conv1x1(x, 8, activation=None, name="last")
    model = keras.Model(inputs, outputs, name="normalised")
    model.get_layer("first").set_weights([400 * weight for weight in model.get_layer("first").get_weights()])
    return model


def images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 12, 10, 3)).astype(np.float32)


def decibels(expected, found):
    return 10 * np.log10(np.mean(np.square(expected)) / np.mean(np.square(expected - found)))


def fidelity(model, made):
    """Return the signal to noise ratio of a file in dB, on other images than those it was calibrated on."""
    x = images(20, seed=1)
    return decibels(model.predict(x, verbose=0), TFLiteRunner(made.data).predict(x))


def parity(model, made):
    batches = [(images(20, seed=1), None)]
    return export.verify_files(model, [TFLiteRunner(made.data)], batches, source="noise", random_weights=True)[0]


def operators_of(made, layer="norm"):
    return [
        operator.op for operator, name in zip(made.tflite.main.operators, made.layers, strict=True) if name == layer
    ]


@pytest.fixture(scope="module")
def converted():
    """The network with its float32 and int8 files, and how often it was traced for them."""
    model, traced = network(), []
    write = conversion.write_saved_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "write_saved_model", lambda *given: (traced.append(given), write(*given)))
        return (
            model,
            dict(zip(("float32", "int8"), export.convert_schemes(model, ["float32", "int8"], images(20)), strict=True)),
            traced,
        )


def check_integer_form(model, made):
    assert made.float_operators == ()
    assert {tensor.dtype for tensor in made.tflite.main.tensors} == {"int8", "int32"}
    assert set(made.layers) == {"first", "norm", "last"}
    assert set(operators_of(made)) == {"RESHAPE", "MUL", "CONV_2D", "DEPTHWISE_CONV_2D"}
    assert made.flags["integer_form"] == ["LocalResponseNormalization"]
    assert fidelity(model, made) > 28  # 30 and 32; with the operator in float 33 and 36
    assert parity(model, made).passed


def test_int8_has_no_float_operator_and_passes(converted):
    model, files, traced = converted
    check_integer_form(model, files["int8"])
    assert operators_of(files["float32"]) == ["LOCAL_RESPONSE_NORMALIZATION"]
    assert "integer_form" not in files["float32"].flags
    assert len(traced) == 2


@pytest.mark.slow
def test_channels_that_no_group_divides():
    model = network(20)
    check_integer_form(model, export.convert_model(model, "int8", images(20)))


@pytest.mark.slow
def test_a_wrong_power_is_found(converted, monkeypatch):
    model, files, _ = converted
    right = fidelity(model, files["int8"])
    fit = normalization.fit_integer_form
    monkeypatch.setattr(
        normalization, "fit_integer_form", lambda size, alpha, beta, k: fit(size, alpha, beta - 0.25, k)
    )
    wrong = export.convert_model(model, "int8", images(20))
    assert fidelity(model, wrong) < right - 10
    assert not parity(model, wrong).passed


@pytest.mark.slow
def test_each_scheme_takes_its_form():
    model = network()
    made = export.convert_schemes(model, ["float16", "int16x8", "dynamic"], images(8))
    whole = {each.scheme.name: operators_of(each) == ["LOCAL_RESPONSE_NORMALIZATION"] for each in made}
    assert whole == {"float16": True, "int16x8": False, "dynamic": True}
    assert {each.scheme.name for each in made if "integer_form" in each.flags} == {"int16x8"}
    assert fidelity(model, made[1]) > 33  # the fit's error: that of int8 lies above it


@pytest.mark.slow
def test_the_operator_stays_where_float_is_allowed():
    made = export.convert_model(network(), "int8", images(4), allow_float=True)
    assert made.float_operators == ("LOCAL_RESPONSE_NORMALIZATION of layer 'norm'",)
    assert "integer_form" not in made.flags
