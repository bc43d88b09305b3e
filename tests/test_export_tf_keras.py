"""A Keras 3 model in tf_keras: the same outputs, what tfmot takes, and the way back."""

import sys

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiers import by_tier

from keras_nin import InputError, models
from keras_nin import layers as nl
from keras_nin.export import from_tf_keras, quantize_model, to_tf_keras
from keras_nin.export.optimization.tf_keras_model import FlatModel

# Input sides that are the least a network takes, or small.
APPLICATIONS = {
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "Xception": 71,
    "EfficientNetB0": 32,
}
# tfmot takes minutes for networks of more layers: of those only the outputs are compared.
_MANY = 80
QUICK_ZOO = ("nin_digits",)
# The zoo's layers and topologies, each once: others differ from these in sizes alone.
STRUCTURES = (
    *("nin_cifar10_bn", "nin_imagenet", "squeezenet_v1_0_complex_bypass", "squeezenet_v1_1", "googlenet"),
    *("googlenet_bn", "inception_v3", "convnet_extra_relu", "deepphys_softconv", "conv1x1_512to32"),
)


def outputs(model, inputs):
    return [np.asarray(each) for each in keras.tree.flatten(model(inputs, training=False))]


def assert_same(model, converted, seed=1):
    """Both give the same on random input, to 1e-5 of the size of the output."""
    rng = np.random.default_rng(seed)
    inputs = [rng.uniform(0, 1, (2, *(side or 64 for side in x.shape[1:]))).astype("float32") for x in model.inputs]
    given = inputs[0] if len(inputs) == 1 else inputs
    for expected, received in zip(outputs(model, given), outputs(converted, given), strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def randomized(model, seed=0):
    """Give every weight its own value, so that exchanged weights show."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * 0.3)
    return model


def graph(outputs_of, shape=(8, 8, 3), name="net"):
    inputs = keras.Input(shape, name="image")
    return randomized(keras.Model(inputs, outputs_of(inputs), name=name))


def application(name):
    side = APPLICATIONS[name]
    return getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), include_top=False)


def all_methods_take(model):
    """tfmot's three methods accept a converted model; the weights come back from the quantized and the pruned one."""
    import tensorflow_model_optimization as tfmot

    converted = to_tf_keras(model, check=False)
    before = model.get_weights()
    copies = [quantize_model(converted)]
    copies.append(tfmot.sparsity.keras.strip_pruning(tfmot.sparsity.keras.prune_low_magnitude(converted)))
    for copy in copies:
        model.set_weights([np.zeros_like(weight) for weight in before])
        from_tf_keras(copy, model)
        for weight, expected, received in zip(model.weights, before, model.get_weights(), strict=True):
            if "normalization" not in weight.path or expected.ndim:  # a Normalization has constants
                np.testing.assert_array_equal(received, expected, err_msg=weight.path)
    start = tfmot.clustering.keras.CentroidInitialization.LINEAR
    tfmot.clustering.keras.cluster_weights(converted, number_of_clusters=4, cluster_centroids_init=start)


@pytest.mark.parametrize("name", QUICK_ZOO)
def test_a_model_of_the_zoo_is_converted(name):
    model = models.build_model(name)
    assert_same(model, to_tf_keras(model, check=False))


@pytest.mark.parametrize(
    "name",
    by_tier(
        STRUCTURES,
        wide=(
            *("inception_v3", "googlenet_bn", "googlenet", "squeezenet_v1_0_complex_bypass", "squeezenet_v1_1"),
            *("nin_imagenet", "nin_cifar10_bn"),
        ),
    ),
)
def test_every_structure_of_the_zoo_is_converted_and_tfmot_takes_it(name):
    keras.backend.clear_session()
    # Layers and not positions are what a converted model is made of: a small input saves minutes.
    size = {"input_shape": (96, 96, 3)} if models.get_spec(name).input_shape[0] > 96 else {}
    model = models.build_model(name, **size)
    assert_same(model, to_tf_keras(model))
    if len(model.layers) < _MANY:
        all_methods_take(model)


@pytest.mark.parametrize(
    "name", by_tier(APPLICATIONS, wide=("DenseNet121", "ResNet50V2", "Xception", "MobileNetV2", "EfficientNetB0"))
)
def test_an_application_is_converted(name):
    keras.backend.clear_session()
    model = application(name)
    assert_same(model, to_tf_keras(model))


@pytest.mark.parametrize("name", by_tier(["MobileNetV2", "MobileNetV3Small"], wide=["MobileNetV2", "MobileNetV3Small"]))
def test_tfmot_takes_a_converted_application(name):
    keras.backend.clear_session()
    model = application(name)
    if name == "EfficientNetB0":
        model = keras.Model(model.input, model.get_layer("block3a_expand_activation").output, name="part")
    converted = to_tf_keras(model)
    before = [weight.copy() for weight in model.get_weights()]
    from_tf_keras(quantize_model(converted), model)
    for expected, received in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)


def small_net(inputs):
    x = kl.Conv2D(4, 3, use_bias=False, name="conv1")(inputs)
    x = kl.ReLU(name="relu1")(kl.BatchNormalization(name="bn1")(x))
    x = kl.SeparableConv2D(6, 3, activation="hard_sigmoid", name="separable")(x)
    x = nl.local_response_normalization(x, name="lrn")
    x = kl.Multiply(name="product")([x, kl.GlobalAveragePooling2D(keepdims=True, name="mean")(x)])
    x = kl.BatchNormalization(name="bn_alone")(x)
    return kl.Dense(3, activation="softmax", name="classes")(kl.Flatten(name="flat")(x))


@pytest.mark.slow
def test_tfmot_takes_a_converted_model_and_the_weights_come_back():
    all_methods_take(graph(small_net))


@pytest.mark.slow
def test_weights_come_back_from_a_quantized_network():
    model = graph(lambda x: kl.Flatten(name="flat")(kl.BatchNormalization(name="bn")(kl.Conv2D(4, 3, name="conv")(x))))
    before = model.get_weights()
    quantized = quantize_model(to_tf_keras(model, check=False))
    model.set_weights([np.zeros_like(weight) for weight in before])
    from_tf_keras(quantized, model)
    for expected, received in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)


def test_trained_weights_come_back():
    model = graph(small_net)
    converted = to_tf_keras(model)
    converted.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    before = model.get_weights()
    converted.train_on_batch(rng.uniform(0, 1, (4, 8, 8, 3)).astype("float32"), np.arange(4) % 3)
    assert from_tf_keras(converted, model) is model
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))
    assert_same(model, converted)


def test_nested_models_and_blocks_are_opened():
    def inside(name):
        x = keras.Input((8, 8, 3), name="inside")
        return keras.Model(x, kl.Conv2D(3, 1, name="conv")(x), name=name)

    def net(x):
        x = inside("first")(x)
        x = nl.Fire(2, 3, 3, name="fire")(x)
        x = kl.Conv2D(3, 1, name="own")(x)
        sequence = keras.Sequential([keras.Input((8, 8, 3)), kl.Conv2D(3, 1, name="conv")], name="second")
        return sequence(x)

    model = graph(net)
    converted = to_tf_keras(model)
    assert_same(model, converted)
    names = [layer.name for layer in converted.layers]
    assert {"first_conv", "second_conv", "own"} <= set(names)
    assert not any(hasattr(layer, "layers") for layer in converted.layers)


def test_shared_layers_are_shared_in_tf_keras():
    x = keras.Input((6, 6, 2), name="left")
    y = keras.Input((6, 6, 2), name="right")
    inner = keras.Sequential([keras.Input((6, 6, 2)), kl.Conv2D(2, 1, name="inner")], name="nested")
    shared = kl.Conv2D(2, 3, padding="same", name="shared")
    merged = kl.Concatenate(name="merged")([inner(shared(x)), inner(shared(y))])
    model = randomized(keras.Model([x, y], [merged, kl.Flatten(name="flat")(shared(x))], name="siamese"))
    converted = to_tf_keras(model)
    assert_same(model, converted)
    assert len(converted.weights) == len(model.weights) == 4
    assert converted.input_names == ["left", "right"]


FUNCTIONS = {
    "add": lambda x: x + 3.0,
    "subtract": lambda x: 1.0 - x,
    "divide": lambda x: x / 4.0,
    "merge": lambda x: x * x + x,
    "relu6": lambda x: keras.ops.relu6(6 * x),
    "mean": lambda x: keras.ops.mean(x, axis=(1, 2), keepdims=True) - x,
    "concatenate": lambda x: keras.ops.concatenate([x, keras.ops.square(x)], axis=-1),
    "split": lambda x: keras.ops.split(x, 3, axis=-1)[1],
    "hard_silu": lambda x: keras.ops.hard_silu(4 * x - 2),
    "reshape": lambda x: keras.ops.reshape(x, (-1, 4, 16, 3))[:, 1:],
}
LAYERS = {
    "leaky": lambda: kl.LeakyReLU(negative_slope=0.3),
    "prelu": lambda: kl.PReLU(shared_axes=[1, 2]),
    "hard_sigmoid": lambda: kl.Activation("hard_sigmoid"),
    "leaky_relu": lambda: kl.Activation("leaky_relu"),
    "rescaling": lambda: kl.Rescaling([1.0, 2.0, 3.0], offset=-1.0),
    "normalization": lambda: kl.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 4.0, 9.0]),
    "depthwise": lambda: kl.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same"),
    "transposed": lambda: kl.Conv2DTranspose(4, 3, strides=2, padding="same", activation="gelu"),
    "grouped": lambda: kl.Conv2D(6, 3, groups=3, dilation_rate=2, kernel_regularizer="l2"),
    "separable": lambda: kl.SeparableConv2D(4, 3, strides=2, depth_multiplier=2, padding="same", activation="relu"),
    "layer_norm": lambda: kl.LayerNormalization(axis=[-1]),
    "global_max": lambda: kl.GlobalMaxPooling2D(keepdims=True),
    "larger": lambda: kl.UpSampling2D(2, interpolation="bilinear"),
    "adaptive": lambda: kl.AdaptiveAveragePooling2D(2),
    "batch_norm": lambda: kl.BatchNormalization(scale=False, epsilon=1e-2),
}


def test_every_layer_and_operation_is_converted():
    """Each in a branch and with an output of its own."""
    inputs = keras.Input((8, 8, 3), name="image")
    outputs = [kl.Conv2D(2, 1, name=f"after_{name}")(function(inputs)) for name, function in FUNCTIONS.items()]
    outputs += [make()(inputs) for make in LAYERS.values()]
    model = randomized(keras.Model(inputs, outputs, name="net"))
    assert_same(model, to_tf_keras(model, check=False))


@pytest.mark.slow
def test_a_recurrent_network():
    def net(x):
        x = kl.Reshape((8, 24), name="rows")(x)
        return kl.Dense(2, name="last")(kl.GRU(4, name="gru")(kl.LSTM(3, return_sequences=True, name="lstm")(x)))

    model = graph(net)
    assert_same(model, to_tf_keras(model, check=False))


def test_names_are_unique_and_legal():
    inputs = keras.Input((8, 8, 3), name="image")
    inner = keras.Input((8, 8, 3), name="x")
    block = keras.Model(inner, kl.Conv2D(3, 1, name="conv")(inner), name="block")
    x = kl.Conv2D(3, 1, name="conv")(block(inputs))
    x = kl.Conv2D(3, 1, name="block_conv")(x)
    x = kl.Conv2D(3, 1, name="été 2")(x)
    plan = FlatModel(keras.Model(inputs, kl.Conv2D(3, 1, name="_last")(x), name="net"))
    names = [plan.name(operation) for operation, _ in plan.operations()]
    assert names == ["block_conv_2", "conv", "block_conv", "_t__2", "L_last"] or len(set(names)) == 5
    assert "conv" in names
    assert all(name[0].isalnum() and name.isascii() and " " not in name for name in names)


@keras.saving.register_keras_serializable(package="test")
class Weighted(kl.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


def test_every_layer_without_a_counterpart_is_named():
    def net(x):
        x = Weighted(name="first")(x)
        x = kl.Conv2D(4, 1, activation=lambda y: y, name="odd")(x)
        return Weighted(name="second")(kl.Conv2D(2, 1, name="known")(x))

    with pytest.raises(InputError, match=r"3 without in 'net': first \(Weighted: .*odd \(Conv2D: .*second \(Weighted"):
        to_tf_keras(graph(net))


def test_an_argument_that_tf_keras_lacks_is_named():
    with pytest.raises(InputError, match=r"norm \(LayerNormalization: .*rms_scaling = True"):
        to_tf_keras(graph(lambda x: kl.LayerNormalization(rms_scaling=True, name="norm")(x)))


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_a_subclassed_model_is_refused():
    with pytest.raises(InputError, match=r"Functional model.*Subclassed"):
        to_tf_keras(Subclassed())


def test_other_outputs_are_found(monkeypatch):
    from keras_nin.export.optimization import tf_keras_model

    monkeypatch.setattr(tf_keras_model, "has_tf_keras_weights", lambda operation: False)
    with pytest.raises(InputError, match="tf_keras model with the outputs of 'net'"):
        to_tf_keras(graph(small_net))


def test_weights_of_another_model_are_refused():
    model = graph(small_net)
    other = graph(lambda x: kl.Conv2D(4, 3, name="other")(x))
    with pytest.raises(InputError, match="layer 'conv1'"):
        from_tf_keras(to_tf_keras(other), model)
    wider = graph(lambda x: kl.Conv2D(5, 3, name="other")(x))
    with pytest.raises(InputError, match="weights of shapes"):
        from_tf_keras(to_tf_keras(other), wider)


def test_a_model_that_is_still_wrapped_is_refused():
    import tensorflow_model_optimization as tfmot

    model = graph(lambda x: kl.Conv2D(4, 3, name="conv")(x))
    with pytest.raises(InputError, match="strip_pruning"):
        from_tf_keras(tfmot.sparsity.keras.prune_low_magnitude(to_tf_keras(model)), model)


@pytest.mark.parametrize("package", ["tf_keras", "tensorflow_model_optimization"])
def test_a_missing_package_is_one_line(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match="tf_keras and tensorflow-model-optimization to be installed") as caught:
        to_tf_keras(graph(small_net))
    assert "\n" not in str(caught.value)


def test_quantize_model_takes_only_a_converted_model():
    with pytest.raises(InputError, match="keras_nin.export.to_tf_keras"):
        quantize_model(graph(small_net))


@pytest.mark.slow
def test_a_long_chain_is_converted():
    def net(x):
        for number in range(300):
            x = kl.ReLU(name=f"relu{number}")(x)
        return x

    assert len(to_tf_keras(graph(net)).layers) == 301
