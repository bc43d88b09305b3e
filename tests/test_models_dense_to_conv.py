import keras
import numpy as np
import pytest

from keras_nin import InputError, export, models, rewrite

L = keras.layers


def vgg16():
    return keras.applications.VGG16(weights=None, input_shape=(64, 64, 3))


def sequential():
    layers = [
        keras.Input((8, 8, 2)),
        L.Conv2D(3, 3),
        L.Flatten(),
        L.Dense(5),
        L.BatchNormalization(),
        L.ReLU(),
        L.Dense(4),
    ]
    return keras.Sequential(layers)


def pooled():
    x = keras.Input((8, 8, 2))
    y = L.GlobalMaxPooling2D()(L.Conv2D(6, 3, padding="same")(x))
    y = L.Add()([L.Dense(7, activation="tanh")(y), L.Dense(7, use_bias=False)(y)])
    return keras.Model(x, L.Softmax()(L.Dense(3)(L.Dropout(0.5)(y))))


MODELS = {
    "convnet_linear_head": lambda: models.build_model("convnet_linear_head"),
    "convnet_pointwise_head": lambda: models.build_model("convnet_pointwise_head"),
    "googlenet_cifar10": lambda: models.build_model("googlenet_cifar10"),
    "nin_digits": lambda: models.build_model("nin_digits", weights="digits"),
    "vgg16": vgg16,
    "sequential": sequential,
    "pooled": pooled,
}


def images(shape, count=2):
    return np.random.default_rng(0).random((count, *shape), np.float32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "googlenet_cifar10" else name for name in MODELS]
)
def test_equal_on_the_training_size_and_a_map_on_a_larger_image(name):
    model = MODELS[name]()
    turned = rewrite.convert_dense_to_conv(model)
    shape = model.input_shape[1:]
    batch = images(shape)
    expected = model.predict(batch, verbose=0)
    np.testing.assert_allclose(turned.predict(batch, verbose=0)[:, 0, 0], expected, rtol=0, atol=1e-5)
    larger = images((shape[0] + 32, shape[1] + 64, shape[2]), 1)
    scores = turned.predict(larger, verbose=0)
    assert scores.shape[1] >= 2
    assert scores.shape[2] >= 3
    assert scores.shape[3] == expected.shape[1]
    assert not any(isinstance(layer, L.Dense) for layer in turned.layers)
    assert turned.count_params() == model.count_params()


def test_the_map_holds_the_score_of_every_place():
    """Where padding plays no part, a score of the map is that of the model on the place alone."""
    model = sequential()
    larger = images((11, 13, 2), 1)
    scores = rewrite.convert_dense_to_conv(model).predict(larger, verbose=0)
    assert scores.shape == (1, 4, 6, 4)
    for row, column in ((0, 0), (3, 5), (1, 2)):
        place = larger[:, row : row + 8, column : column + 8]
        np.testing.assert_allclose(scores[:, row, column], model.predict(place, verbose=0), atol=1e-5)


def test_the_model_itself_is_not_changed():
    model = models.build_model("convnet_linear_head")
    before = models.hash_weights(model)
    turned = rewrite.convert_dense_to_conv(model)
    turned.set_weights([0 * weight for weight in turned.get_weights()])
    assert models.hash_weights(model) == before
    assert model.output_shape == (None, 10)


def test_a_fixed_size_exports_without_dense_layers():
    turned = rewrite.convert_dense_to_conv(models.build_model("convnet_linear_head"), input_shape=(36, 28, 1))
    assert turned.output_shape == (None, 3, 1, 10)
    made = export.convert_model(turned, "int8", images((36, 28, 1)))
    assert "FULLY_CONNECTED" not in {operator.op for operator in made.tflite.main.operators}


def vector_input():
    x = keras.Input((8, 8, 2))
    return keras.Model(x, L.Dense(3, name="late")(L.Reshape((128,), name="reshape")(x)))


def nested():
    inner = keras.applications.MobileNet(weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3))
    x = keras.Input((32, 32, 3))
    return keras.Model(x, L.Dense(3, name="late")(inner(x)))


def normalised():
    x = keras.Input((8, 8, 2))
    return keras.Model(x, L.Dense(3, name="late")(L.LayerNormalization(name="norm")(L.Flatten()(x))))


def two_inputs():
    x, y = keras.Input((8, 8, 2)), keras.Input((8, 8, 2))
    return keras.Model([x, y], L.Dense(2)(L.Flatten()(L.Add()([x, y]))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (vector_input, "Received: layer 'late', whose input comes from Reshape 'reshape'"),
        (nested, "Received: layer 'late', whose input comes from Functional 'mobilenet"),
        (normalised, "Received: LayerNormalization 'norm'"),
        (two_inputs, "one input"),
        (lambda: models.build_model("conv1x1_3to2"), "Flatten, Dense or global pooling head"),
        (lambda: keras.Sequential([keras.Input((None, None, 3)), L.GlobalMaxPooling2D()]), "a known size"),
        (lambda: "nin_digits", "Expected a built keras.Model"),
    ],
)
def test_what_cannot_be_turned_is_named(make, message):
    with pytest.raises(InputError, match=message):
        rewrite.convert_dense_to_conv(make())
