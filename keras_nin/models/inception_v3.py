"""Inception v3: Szegedy et al., arXiv:1512.00567, layer for layer as keras.applications has it."""

import functools

from keras_nin import layers
from keras_nin.models.model_spec import ModelSpec, assemble_model, check_input_shape

PAPER = "Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567"

# Filters, kernel size, strides and padding of the stem's convolutions; None is a 3x3/2 maximum pooling.
STEM = (
    (32, 3, 2, "valid"),
    (32, 3, 1, "valid"),
    (64, 3, 1, "same"),
    None,
    (80, 1, 1, "valid"),
    (192, 3, 1, "valid"),
    None,
)
# Kind and arguments of each module after it.
MODULES = (
    ("a", {"pool_projection": 32}),
    ("a", {"pool_projection": 64}),
    ("a", {"pool_projection": 64}),
    ("reduction a", {}),
    ("b", {"width": 128}),
    ("b", {"width": 160}),
    ("b", {"width": 160}),
    ("b", {"width": 192}),
    ("reduction b", {}),
    ("c", {}),
    ("c", {}),
)

# Names of the convolutions of each kind of module in the order in which they are made: torchvision's, and ours.
_PARTS = {
    "a": (
        ("branch1x1", "conv1x1"),
        ("branch5x5_1", "5x5aconv1x1"),
        ("branch5x5_2", "5x5bconv5x5"),
        ("branch3x3dbl_1", "3x3dblaconv1x1"),
        ("branch3x3dbl_2", "3x3dblbconv3x3"),
        ("branch3x3dbl_3", "3x3dblcconv3x3"),
        ("branch_pool", "poolprojconv1x1"),
    ),
    "reduction a": (
        ("branch3x3", "3x3aconv3x3"),
        ("branch3x3dbl_1", "3x3dblaconv1x1"),
        ("branch3x3dbl_2", "3x3dblbconv3x3"),
        ("branch3x3dbl_3", "3x3dblcconv3x3"),
    ),
    "b": (
        ("branch1x1", "conv1x1"),
        ("branch7x7_1", "7x7aconv1x1"),
        ("branch7x7_2", "7x7bconv1x7"),
        ("branch7x7_3", "7x7cconv7x1"),
        ("branch7x7dbl_1", "7x7dblaconv1x1"),
        ("branch7x7dbl_2", "7x7dblbconv7x1"),
        ("branch7x7dbl_3", "7x7dblcconv1x7"),
        ("branch7x7dbl_4", "7x7dbldconv7x1"),
        ("branch7x7dbl_5", "7x7dbleconv1x7"),
        ("branch_pool", "poolprojconv1x1"),
    ),
    "reduction b": (
        ("branch3x3_1", "3x3aconv1x1"),
        ("branch3x3_2", "3x3bconv3x3"),
        ("branch7x7x3_1", "7x7x3aconv1x1"),
        ("branch7x7x3_2", "7x7x3bconv1x7"),
        ("branch7x7x3_3", "7x7x3cconv7x1"),
        ("branch7x7x3_4", "7x7x3dconv3x3"),
    ),
    "c": (
        ("branch1x1", "conv1x1"),
        ("branch3x3_1", "3x3aconv1x1"),
        ("branch3x3_2a", "3x3splitconv1x3"),
        ("branch3x3_2b", "3x3splitconv3x1"),
        ("branch3x3dbl_1", "3x3dblaconv1x1"),
        ("branch3x3dbl_2", "3x3dblbconv3x3"),
        ("branch3x3dbl_3a", "3x3dblsplitconv1x3"),
        ("branch3x3dbl_3b", "3x3dblsplitconv3x1"),
        ("branch_pool", "poolprojconv1x1"),
    ),
}
_TORCHVISION = {
    "Conv2d_1a_3x3": "conv1_3x3",
    "Conv2d_2a_3x3": "conv2_3x3",
    "Conv2d_2b_3x3": "conv3_3x3",
    "Conv2d_3b_1x1": "conv4_1x1",
    "Conv2d_4a_3x3": "conv5_3x3",
} | {
    f"Mixed_{module}.{theirs}": f"mixed{number}_{ours}"
    for number, (module, (kind, _)) in enumerate(
        zip(("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"), MODULES, strict=True)
    )
    for theirs, ours in _PARTS[kind]
}
CONVOLUTIONS = tuple(_TORCHVISION.values())
NORMALIZATIONS = tuple(f"{name}_bn" for name in CONVOLUTIONS)
# torchvision's auxiliary classifier, which this network does not have: it serves training alone.
_AUXILIARY = ("conv0.conv", "conv0.bn", "conv1.conv", "conv1.bn", "fc")
# Layer names in weight files of others: torchvision's, and those of keras.applications, which Keras 2 and 1 numbered.
LAYER_NAMES = (
    {f"{theirs}.conv": ours for theirs, ours in _TORCHVISION.items()}
    | {f"{theirs}.bn": f"{ours}_bn" for theirs, ours in _TORCHVISION.items()}
    | {f"AuxLogits.{theirs}": None for theirs in _AUXILIARY}
    | {"fc": "classifier", "predictions": "classifier"}
    | {"conv2d": CONVOLUTIONS, "batch_normalization": NORMALIZATIONS}
    | {"convolution2d": CONVOLUTIONS, "batchnormalization": NORMALIZATIONS}
)


def inception_v3(
    *,
    include_top=True,
    weights=None,
    input_shape=None,
    classes=1000,
    classifier_activation="softmax",
    padded_pools=False,
    name=None,
):
    """Build an Inception v3: a stem, eleven modules of which two halve the grid, global average and a dense layer.

    The layers, and the order of the weights, are those of keras.applications.InceptionV3.

    Args:
        include_top: whether to end in the average and the dense layer.
        weights: None (random) or a path; see `load_weights`.
        input_shape: (H, W, C) of at least 75x75; the default is (299, 299, 3).
        classes: number of classes.
        classifier_activation: applied to the scores; None returns them as they are.
        padded_pools: whether the average poolings inside the modules count zeros around the map, as in torchvision,
            whose weights mean that.
        name: the model's name.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), or to the last module's map without the top.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """

    def graph(x):
        x = _stem(x)
        for number, (kind, arguments) in enumerate(MODULES):
            if kind.startswith("reduction"):
                x = layers.inception_reduction(x, kind[-1], name=f"mixed{number}")
            else:
                x = layers.inception_v3_module(x, kind, **arguments, padded_pool=padded_pools, name=f"mixed{number}")
        return _top(x, classes, classifier_activation) if include_top else x

    shape = check_input_shape(input_shape, (299, 299, 3))
    return assemble_model(
        graph,
        variant="inception_v3",
        name=name,
        input_shape=shape,
        weights=weights,
        include_top=include_top,
        layer_names=LAYER_NAMES,
    )


def _stem(x):
    convolutions = pools = 0
    for row in STEM:
        if row is None:
            pools += 1
            x = layers.pool2d(x, name=f"pool{pools}")
            continue
        filters, size, strides, padding = row
        convolutions += 1
        style = {"strides": strides, "padding": padding, "batch_norm": True, "scale": False}
        x = layers.conv2d(x, filters, size, name=f"conv{convolutions}_{size}x{size}", **style)
    return x


def _top(x, classes, classifier_activation):
    import keras

    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    layers.check_positive("classes", classes)
    return keras.layers.Dense(classes, activation=classifier_activation, name="classifier")(x)


InceptionV3 = functools.partial(inception_v3)

# (weights, output channels, side of the map) of every convolution, stem and modules.
_STEM_LAYERS = (
    (3 * 3 * 3 * 32, 32, 149),
    (3 * 3 * 32 * 32, 32, 147),
    (3 * 3 * 32 * 64, 64, 147),
    (1 * 1 * 64 * 80, 80, 73),
    (3 * 3 * 80 * 192, 192, 71),
)


def _a(channels, projection):
    factorised = channels * 64 + 3 * 3 * 64 * 96 + 3 * 3 * 96 * 96
    weights = channels * 64 + (channels * 48 + 5 * 5 * 48 * 64) + factorised + channels * projection
    return ((weights, 64 + 48 + 64 + 64 + 96 + 96 + projection, 35),)


def _reduction_a(channels):
    inner = channels * 64 + 3 * 3 * 64 * 96
    return (
        (inner, 64 + 96, 35),
        (3 * 3 * channels * 384 + 3 * 3 * 96 * 96, 384 + 96, 17),
    )


def _b(width):
    single = 768 * width + 7 * width * width + 7 * width * 192
    double = 768 * width + 3 * 7 * width * width + 7 * width * 192
    return ((768 * 192 + single + double + 768 * 192, 192 + (2 * width + 192) + (4 * width + 192) + 192, 17),)


def _reduction_b():
    inner = 768 * 192 + 768 * 192 + 2 * 7 * 192 * 192
    return ((inner, 4 * 192, 17), (3 * 3 * 192 * 320 + 3 * 3 * 192 * 192, 320 + 192, 8))


def _c(channels):
    split = 2 * 3 * 384 * 384
    weights = channels * 320 + (channels * 384 + split) + (channels * 448 + 3 * 3 * 448 * 384 + split) + channels * 192
    return ((weights, 320 + 3 * 384 + 448 + 3 * 384 + 192, 8),)


_LAYERS = (
    *_STEM_LAYERS,
    *_a(192, 32),
    *_a(256, 64),
    *_a(288, 64),
    *_reduction_a(288),
    *_b(128),
    *_b(160),
    *_b(160),
    *_b(192),
    *_reduction_b(),
    *_c(1280),
    *_c(2048),
)

SPECS = (
    ModelSpec(
        name="inception_v3",
        builder=InceptionV3,
        title="factorised convolutions and grid reductions, as keras.applications has it",
        paper=PAPER,
        input_shape=(299, 299, 3),
        classes=1000,
        # beta, moving mean and moving variance for every output channel
        params=sum(weights + 3 * outputs for weights, outputs, _ in _LAYERS) + 2048 * 1000 + 1000,
        macs=sum(weights * side**2 for weights, _, side in _LAYERS) + 2048 * 1000,
        preprocessing="symmetric",
        layer_names=LAYER_NAMES,
    ),
)
