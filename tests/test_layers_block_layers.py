import inspect

import keras
import numpy as np
import pytest

from keras_nin import InputError, layers

CASES = [
    (layers.Conv1x1, layers.conv1x1, {"filters": 4}),
    (layers.Conv1x1, layers.conv1x1, {"filters": 4, "batch_norm": True, "strides": 2}),
    (layers.MLPConv, layers.mlpconv, {"filters": [5, 4, 3], "kernel_size": 3}),
    (layers.MLPConv, layers.mlpconv, {"filters": [5], "kernel_size": [3, 5], "padding": "valid", "strides": 2}),
    (layers.Fire, layers.fire, {"squeeze": 2, "expand1x1": 3, "expand3x3": 3}),
    (layers.Fire, layers.fire, {"squeeze": 2, "expand1x1": 3, "expand3x3": 3, "bypass": "simple"}),
    (layers.Fire, layers.fire, {"squeeze": 2, "expand1x1": 4, "expand3x3": 4, "bypass": "complex"}),
    (layers.PointwiseHead, layers.pointwise_head, {"classes": 3, "zero_padding": 1}),
    (layers.PointwiseHead, layers.pointwise_head, {"classes": 3, "activation": None, "classifier_activation": None}),
    (
        layers.InceptionModule,
        layers.inception_module,
        {"conv1x1_filters": 2, "conv3x3_filters": 3, "conv5x5_filters": 4},
    ),
    (
        layers.InceptionModule,
        layers.inception_module,
        {
            "conv1x1_filters": 2,
            "conv3x3_filters": 3,
            "conv5x5_filters": 4,
            "reduce3x3": 2,
            "reduce5x5": 1,
            "pool_projection": 2,
            "batch_norm": True,
        },
    ),
    (layers.InceptionV3Module, layers.inception_v3_module, {"kind": "a", "pool_projection": 8}),
    (layers.InceptionV3Module, layers.inception_v3_module, {"kind": "b", "width": 8}),
    (layers.InceptionV3Module, layers.inception_v3_module, {"kind": "c"}),
    (layers.InceptionReduction, layers.inception_reduction, {"kind": "a"}),
    (layers.InceptionReduction, layers.inception_reduction, {"kind": "b"}),
]
IDS = [f"{case[0].__name__}-{'-'.join(map(str, case[2]))}" for case in CASES]
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float32")


def functional(function, arguments):
    x = keras.Input(IMAGES.shape[1:])
    return keras.Model(x, function(x, **arguments))


def with_random_weights(layer):
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.1, 1, weight.shape) for weight in layer.get_weights()])
    return layer


# The graphs of the other Inception v3 modules take seconds to build and differ only in their branches.
LIGHT = [case for case in CASES if case[2].get("kind", "a") == "a"]


@pytest.mark.parametrize(("cls", "function", "arguments"), LIGHT)
def test_the_class_computes_what_the_function_does(cls, function, arguments):
    layer = cls(**arguments)
    layer.build((None, *IMAGES.shape[1:]))
    with_random_weights(layer)
    model = functional(function, arguments)
    model.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(IMAGES), np.asarray(model(IMAGES)), rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape((None, *IMAGES.shape[1:])) == model.output_shape


@pytest.mark.slow
def test_all_classes_survive_saving(tmp_path):
    x = keras.Input(IMAGES.shape[1:])
    last = {cls.__name__: (cls, arguments) for cls, _, arguments in LIGHT}
    blocks = {name: cls(**arguments, name=name) for name, (cls, arguments) in last.items()}
    model = with_random_weights(keras.Model(x, [block(x) for block in blocks.values()]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded(IMAGES), model(IMAGES), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, block in blocks.items():
        assert loaded.get_layer(name).get_config() == block.get_config()


def test_a_class_has_the_signature_of_its_function():
    assert list(inspect.signature(layers.Fire).parameters)[:4] == ["squeeze", "expand1x1", "expand3x3", "bypass"]
    assert layers.Fire(2, 3, 4, "complex").arguments["bypass"] == "complex"
    with pytest.raises(TypeError, match="depth"):
        layers.Fire(2, 3, 4, depth=5)


@pytest.mark.parametrize(("cls", "function", "arguments"), CASES, ids=IDS)
def test_the_config_makes_an_equal_layer(cls, function, arguments):
    config = cls(**arguments, name="block").get_config()
    assert arguments.items() <= config.items()
    assert cls.from_config(config).get_config() == config


def test_weights_train_and_freeze_with_the_layer():
    layer = layers.Fire(2, 3, 3)
    layer.build((None, 8, 8, 6))
    assert len(layer.trainable_weights) == 6
    layer.trainable = False
    assert layer.trainable_weights == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Conv1x1(0), "`filters`"),
        (lambda: layers.MLPConv((8, "8"), 3), "`filters`"),
        (lambda: layers.MLPConv((8,), 3, padding="full"), "`padding` to be one of same, valid"),
        (lambda: layers.Fire(1, 2, 2, bypass="yes"), "`bypass`"),
        (lambda: layers.Fire(1, -2, 2), "`expand1x1`"),
        (lambda: layers.PointwiseHead(None), "`classes`"),
        (lambda: layers.InceptionModule(0, 1, 1), "`conv1x1_filters`"),
        (lambda: layers.InceptionModule(1, 1, 1, reduce3x3=-1), "`reduce3x3`"),
        (lambda: layers.InceptionV3Module("d"), "`kind` to be one of a, b, c"),
        (lambda: layers.InceptionReduction("c"), "`kind` to be one of a, b"),
    ],
)
def test_arguments_are_checked_at_once(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_bypass_that_does_not_fit_is_found_when_built():
    with pytest.raises(InputError, match="Expected 4 input channels"):
        layers.Fire(1, 2, 2, bypass="simple").build((None, 8, 8, 6))
