import keras
import numpy as np
import pytest

from keras_nin import InputError, layers
from keras_nin.audit import audit_model

# Module 3a of GoogLeNet: channels in, then 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5, pool projection.
CHANNELS, ONE, REDUCE3, THREE, REDUCE5, FIVE, PROJECTION = 192, 64, 96, 128, 16, 32, 32


def build(block, shape, **arguments):
    x = keras.Input(shape)
    return keras.Model(x, block(x, **arguments))


def module_3a(**arguments):
    widths = {"conv1x1_filters": ONE, "conv3x3_filters": THREE, "conv5x5_filters": FIVE}
    return build(layers.inception_module, (28, 28, CHANNELS), **widths, **arguments, name="inception_3a")


def weights(model):
    return sum(weight.numpy().size for weight in model.weights if weight.name == "kernel")


def test_module_with_reductions():
    model = module_3a(reduce3x3=REDUCE3, reduce5x5=REDUCE5, pool_projection=PROJECTION)
    arithmetic = CHANNELS * (ONE + REDUCE3 + REDUCE5 + PROJECTION) + 9 * REDUCE3 * THREE + 25 * REDUCE5 * FIVE
    assert weights(model) == arithmetic == 163_328
    assert audit_model(model).total.macs == 28 * 28 * arithmetic == 128_049_152
    assert model.output_shape == (None, 28, 28, ONE + THREE + FIVE + PROJECTION)


def test_module_without_reductions():
    model = module_3a()
    arithmetic = CHANNELS * ONE + 9 * CHANNELS * THREE + 25 * CHANNELS * FIVE
    assert weights(model) == arithmetic == 387_072
    assert audit_model(model).total.macs == 28 * 28 * arithmetic == 303_464_448
    assert model.output_shape[-1] == ONE + THREE + FIVE + CHANNELS == 416


def test_module_without_reductions_but_with_the_projection():
    model = module_3a(pool_projection=PROJECTION)
    assert weights(model) == 387_072 + CHANNELS * PROJECTION == 393_216
    assert audit_model(model).total.macs == 28 * 28 * 393_216 == 308_281_344


def test_every_1x1_layer_says_so():
    model = module_3a(reduce3x3=REDUCE3, reduce5x5=REDUCE5, pool_projection=PROJECTION)
    pointwise = [layer.name for layer in model.layers if getattr(layer, "kernel_size", None) == (1, 1)]
    assert sorted(pointwise) == [
        f"inception_3a_{part}" for part in ("1x1", "3x3reduce1x1", "5x5reduce1x1", "poolproj1x1")
    ]
    assert {row.block for row in audit_model(model).rows} == {"inception_3a"}


@pytest.mark.parametrize(
    ("kind", "arguments", "side", "channels", "out"),
    [
        ("a", {"pool_projection": 32}, 35, 192, 64 + 64 + 96 + 32),
        ("b", {"width": 128}, 17, 768, 768),
        ("c", {}, 8, 1280, 320 + 2 * 384 + 2 * 384 + 192),
    ],
)
def test_v3_modules_keep_the_grid(kind, arguments, side, channels, out):
    model = build(layers.inception_v3_module, (side, side, channels), kind=kind, **arguments, name="mixed")
    assert model.output_shape == (None, side, side, out)


def test_factorised_convolutions():
    """1x7 then 7x1 cost 2/7 of a 7x7 layer of the same width."""
    model = build(layers.inception_v3_module, (17, 17, 768), kind="b", width=192, name="mixed")
    kernels = {layer.kernel_size for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    assert kernels == {(1, 1), (1, 7), (7, 1)}


@pytest.mark.parametrize(
    ("kind", "side", "channels", "expected"), [("a", 35, 288, (17, 768)), ("b", 17, 768, (8, 1280))]
)
def test_grid_reductions(kind, side, channels, expected):
    model = build(layers.inception_reduction, (side, side, channels), kind=kind, name="mixed")
    assert model.output_shape == (None, expected[0], expected[0], expected[1])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization_is_its_formula(size):
    image = np.random.default_rng(0).normal(size=(1, 2, 2, 8)).astype("float32") * 30
    model = build(layers.local_response_normalization, (2, 2, 8), size=size, alpha=0.1, beta=0.6, k=2.0)
    squares = np.pad(image**2, ((0, 0), (0, 0), (0, 0), (size // 2, size // 2)))
    total = sum(squares[..., shift : shift + 8] for shift in range(size))
    expected = image / (2 + 0.1 / size * total) ** 0.6
    np.testing.assert_allclose(np.asarray(model(image)), expected, rtol=1e-4)


def test_local_response_normalization_without_tensorflow_is_the_same(monkeypatch):
    image = np.random.default_rng(0).normal(size=(1, 3, 3, 8)).astype("float32") * 30
    layer = layers.LocalResponseNormalization(5, 0.1, 0.75, 1.5)
    expected = np.asarray(layer(image))
    monkeypatch.setattr(keras.backend, "backend", lambda: "other")
    np.testing.assert_allclose(np.asarray(layer(image)), expected, rtol=1e-5)


def test_local_response_normalization_survives_saving(tmp_path):
    model = build(layers.local_response_normalization, (3, 3, 8), size=3, alpha=0.2, beta=0.5, k=3.0, name="norm1")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm1").get_config() == model.get_layer("norm1").get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.InceptionModule(0, 1, 1), "`conv1x1_filters`"),
        (lambda: layers.InceptionModule(1, 1, 1, reduce3x3=-1), "`reduce3x3`"),
        (lambda: layers.InceptionV3Module("d"), "`kind` to be one of a, b, c"),
        (lambda: layers.InceptionReduction("c"), "`kind` to be one of a, b"),
        (lambda: layers.inception_reduction(keras.Input((2, 9, 8)), "a"), "at least 3x3"),
        (lambda: layers.LocalResponseNormalization(4), "`size` to be odd"),
        (lambda: layers.LocalResponseNormalization(0), "`size` to be a whole number of at least 1"),
        (lambda: layers.inception_module(keras.Input((8,)), 1, 1, 1), "Expected a map"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("side", [224, 227, 9, 8])
def test_padding_on_every_side_is_that_of_caffe(side):
    """A window that starts `padding` before the image, whatever Keras's own rule would be at this size."""
    model = build(layers.conv2d, (side, side, 1), filters=1, kernel_size=7, strides=2, padding=3, activation=None)
    kernel = np.random.default_rng(0).normal(size=(7, 7))
    model.set_weights([kernel[..., None, None], np.zeros(1)])
    image = np.random.default_rng(1).normal(size=(side, side))
    out = (side + 6 - 7) // 2 + 1
    assert model.output_shape[1:3] == (out, out)
    padded = np.pad(image, 3)
    found = np.asarray(model(image[None, ..., None]))[0, ..., 0]
    for row, column in ((0, 0), (out - 1, out - 1), (out // 2, 0)):
        window = padded[2 * row : 2 * row + 7, 2 * column : 2 * column + 7]
        assert found[row, column] == pytest.approx((window * kernel).sum(), abs=1e-3)


def test_a_padded_pool_counts_the_zeros_around_the_map():
    corners = {}
    for padded in (False, True):
        model = build(layers.inception_v3_module, (35, 35, 3), kind="a", padded_pool=padded, name="m")
        pooled = keras.Model(model.input, model.get_layer("m_pool").output)(np.ones((1, 35, 35, 3), np.float32))
        assert pooled.shape == (1, 35, 35, 3)
        assert float(pooled[0, 5, 5, 0]) == pytest.approx(1)
        corners[padded] = float(pooled[0, 0, 0, 0])
    assert corners == pytest.approx({False: 1, True: 4 / 9})
