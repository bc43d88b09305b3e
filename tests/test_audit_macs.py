"""MACs and parameters of whole networks, against a count of the operations that TensorFlow traces for them."""

import math

import keras
import pytest

from keras_nin import layers, models
from keras_nin.audit import audit_model

L = keras.layers

# Side of the input: the smallest that the network takes, where its layers' sizes do not depend on it. NASNet insists
# on its own for the top.
QUICK = {"MobileNet": 32, "MobileNetV3Small": 32}
# One of each family, or two where they differ in more than depth and width: MACs are counted layer by layer.
OTHERS = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetB4": 32,
    "EfficientNetV2B0": 32,
    "EfficientNetV2S": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNetV2": 32,
    "MobileNetV3Large": 32,
    "NASNetMobile": 224,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}
NETWORKS = [*QUICK.items(), *(pytest.param(*entry, marks=pytest.mark.slow) for entry in OTHERS.items())]
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# What no rule below counts and might multiply: a network that is compiled into one of these is not counted in full.
UNCOUNTED = ("Conv3D", "Conv2DBackpropFilter", "XlaConvV2", "XlaDotV2", "If", "While", "StatelessIf", "StatelessWhile")


def traced_macs(model):
    """MACs of `model` for one input, from the shapes of the operations of its traced graph."""
    import tensorflow as tf

    specs = [tf.TensorSpec((1, *tensor.shape[1:])) for tensor in model.inputs]
    function = tf.function(lambda *inputs: model(inputs if len(inputs) > 1 else inputs[0], training=False))
    return graph_macs(function.get_concrete_function(*specs).graph)


def graph_macs(graph):
    return sum(operation_macs(operation, graph) for operation in graph.get_operations())


def operation_macs(operation, graph):
    if operation.type in CALLS:
        return graph_macs(graph._get_function(operation.get_attr("f").name).graph)
    assert operation.type not in UNCOUNTED
    if operation.type not in RULES:
        return 0
    inputs = [tensor.shape.as_list() for tensor in operation.inputs]
    return RULES[operation.type](operation, inputs, operation.outputs[0].shape.as_list())


def einsum_macs(operation, inputs, output):
    """Elements of the output times the sizes of the indices that are summed over."""
    entering, leaving = operation.get_attr("equation").decode().split("->")
    sizes = {}
    for labels, shape in zip(entering.split(","), inputs, strict=True):
        assert labels.rfind("...") <= 0  # only in front: the labels are those of the last axes
        sizes |= zip(reversed(labels.removeprefix("...")), reversed(shape), strict=False)
    return math.prod(output) * math.prod(size for label, size in sizes.items() if label not in leaving)


def product_macs(operation, inputs, output):
    """Of a (batched) matrix product: elements of the output times the length of the sums."""
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    return math.prod(output) * inputs[0][-2 if transposed else -1]


RULES = {
    # A kernel is (height, width, input channels of one group, output channels).
    "Conv2D": lambda operation, inputs, output: math.prod(output) * math.prod(inputs[1][:3]),
    # (height, width, channels, multiplier): one window for an output element.
    "DepthwiseConv2dNative": lambda operation, inputs, output: math.prod(output) * math.prod(inputs[1][:2]),
    # (height, width, output channels, input channels), slid over the third input.
    "Conv2DBackpropInput": lambda operation, inputs, output: math.prod(inputs[2]) * math.prod(inputs[1][:3]),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), product_macs),
    "Einsum": einsum_macs,
}


def check(model):
    result = audit_model(model)
    assert result.unknown == ()
    assert sum(row.params for row in result.rows) == result.total.params == model.count_params()
    assert sum(row.macs for row in result.rows) == result.total.macs == traced_macs(model) > 0


@pytest.fixture(autouse=True)
def _release():
    yield
    keras.backend.clear_session()


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_a_network_of_keras_applications(name, side):
    check(getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3)))


LARGE = ("googlenet_bn", "googlenet_cifar10", "inception_v3")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in models.list_models()]
)
def test_a_model_of_the_zoo(name):
    check(models.build_model(name))


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(6, (3, 2), strides=2, padding="same"),
        L.Conv2D(6, 3, groups=3),
        L.Conv2D(12, 1, groups=6),
        L.DepthwiseConv2D(3, strides=2, depth_multiplier=2, padding="same"),
        L.SeparableConv2D(7, 3, depth_multiplier=2),
        L.Conv2DTranspose(5, 3, strides=2, padding="same"),
        L.Conv2DTranspose(5, (4, 2)),
        L.Dense(5),
        L.EinsumDense("bhwc,cd->bhwd", (9, 8, 5)),
        L.EinsumDense("...c,cnd->...nd", (3, 5)),
        L.Conv1D(5, 3, padding="causal"),
        layers.Fire(2, 4, 4),
        layers.InceptionModule(4, 4, 4, 2, 2, 4, batch_norm=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer(layer):
    shape = (9, 6) if isinstance(layer, L.Conv1D) else (9, 8, 6)
    x = keras.Input(shape)
    check(keras.Model(x, layer(x)))


def test_a_dilated_convolution():
    # TensorFlow deals the positions out to as many small maps as the gaps make, and fills up what does not divide.
    x = keras.Input((10, 8, 6))
    model = keras.Model(x, L.Conv2D(4, 3, dilation_rate=2)(x))
    assert audit_model(model).total.macs == traced_macs(model) == 6 * 4 * 3 * 3 * 6 * 4


def test_products_of_two_tensors():
    left, right = keras.Input((5, 6)), keras.Input((6, 7))
    product = keras.ops.einsum("bij,bjk->bik", left, right)
    check(keras.Model([left, right], keras.ops.matmul(product, keras.ops.transpose(right, (0, 2, 1)))))


def test_shared_layers_and_models_compute_at_every_use():
    tower = keras.Sequential([keras.Input((8, 8, 4)), L.Conv2D(4, 3, groups=2, padding="same")], name="tower")
    x = keras.Input((8, 8, 4))
    shared = L.Dense(4)
    check(keras.Model(x, L.Add()([shared(tower(x)), shared(tower(tower(x)))])))
