"""SqueezeNet: Iandola et al., arXiv:1602.07360."""

import dataclasses
import functools

from keras_nin import layers
from keras_nin.models.model_spec import ModelSpec, assemble_model, check_input_shape

PAPER = "SqueezeNet, arXiv:1602.07360"

# Squeeze and expand widths of fire2 to fire9; both expand layers have the same width.
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
SIMPLE = dict.fromkeys((3, 5, 7, 9), "simple")
COMPLEX = SIMPLE | dict.fromkeys((2, 4, 6, 8), "complex")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table below: the first convolution, after which modules a pooling stands, and the bypasses."""

    conv1: tuple[int, int, int]  # filters, kernel size, strides
    pool_after: tuple[int, ...]  # 1 for conv1, n for fire n
    input_shape: tuple[int, int, int] = (224, 224, 3)
    classes: int = 1000
    bypass: dict = dataclasses.field(default_factory=dict)
    conv1_padding: str = "valid"


VARIANTS = {
    "squeezenet_v1_0": Variant((96, 7, 2), (1, 4, 8)),
    "squeezenet_v1_0_simple_bypass": Variant((96, 7, 2), (1, 4, 8), bypass=SIMPLE),
    "squeezenet_v1_0_complex_bypass": Variant((96, 7, 2), (1, 4, 8), bypass=COMPLEX),
    "squeezenet_v1_1": Variant((64, 3, 2), (1, 3, 5)),
    "squeezenet_cifar10": Variant((64, 3, 1), (3, 5), (32, 32, 3), 10, conv1_padding="same"),
}

# Layer names in weight files of others: those of the authors' Caffe release, which rcmalli's keras-squeezenet keeps.
LAYER_NAMES = {
    f"fire{number}/{part}": f"fire{number}_{part}"
    for number in FIRES
    for part in ("squeeze1x1", "expand1x1", "expand3x3")
}
# Numbers of the fire modules in torchvision's `features`, in which the poolings count. Its poolings round up.
TORCHVISION_FIRES = {"squeezenet_v1_0": (3, 4, 5, 7, 8, 9, 10, 12), "squeezenet_v1_1": (3, 4, 6, 7, 9, 10, 11, 12)}


def layer_names(variant):
    """Return the table of foreign layer names of a row of `VARIANTS`."""
    names = dict(LAYER_NAMES)
    if variant not in TORCHVISION_FIRES:
        return names
    names |= {"features.0": "conv1", "classifier.1": "conv10"}
    parts = {"squeeze": "squeeze1x1", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
    for theirs, number in zip(TORCHVISION_FIRES[variant], FIRES, strict=True):
        names |= {f"features.{theirs}.{part}": f"fire{number}_{ours}" for part, ours in parts.items()}
    return names


def squeezenet(
    variant,
    *,
    include_top=True,
    weights=None,
    input_shape=None,
    classes=None,
    classifier_activation="softmax",
    pool_rounding="floor",
    padded_head=False,
    name=None,
):
    """Build a SqueezeNet: a convolution, eight fire modules, and a 1x1 layer to the classes averaged over the map.

    Args:
        variant: name of a row of `VARIANTS`.
        include_top: whether to end in dropout, the 1x1 layer to the classes and the global average.
        weights: None (random), the name of weights that ship, or a path; see `load_weights`.
        input_shape: (H, W, C); the default is the variant's.
        classes: number of classes; the default is the variant's.
        classifier_activation: applied to the averaged scores; None returns them as they are.
        pool_rounding: ``"floor"`` (Keras) or ``"ceil"`` (Caffe).
        padded_head: a border of zeros, one wide, before the last 1x1 layer, as in the Caffe release of 1.0.
        name: the model's name; the default is the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), or to fire9's map without the top.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = VARIANTS[variant]

    def graph(x):
        x = _trunk(x, row, pool_rounding)
        if not include_top:
            return x
        return _top(x, row.classes if classes is None else classes, classifier_activation, padded_head)

    shape = check_input_shape(input_shape, row.input_shape)
    return assemble_model(
        graph,
        variant=variant,
        name=name,
        input_shape=shape,
        weights=weights,
        include_top=include_top,
        layer_names=layer_names(variant),
    )


def _trunk(x, row, rounding):
    filters, kernel_size, strides = row.conv1
    x = layers.conv2d(x, filters, kernel_size, strides=strides, padding=row.conv1_padding, name="conv1")
    if 1 in row.pool_after:
        x = layers.pool2d(x, rounding=rounding, name="pool1")
    for number, (squeeze, expand) in FIRES.items():
        x = layers.fire(x, squeeze, expand, expand, bypass=row.bypass.get(number), name=f"fire{number}")
        if number in row.pool_after:
            x = layers.pool2d(x, rounding=rounding, name=f"pool{number}")
    return x


def _top(x, classes, classifier_activation, padded_head):
    import keras

    x = keras.layers.Dropout(0.5, name="drop9")(x)
    return layers.pointwise_head(
        x, classes, classifier_activation=classifier_activation, zero_padding=int(padded_head), name="conv10"
    )


SqueezeNet1_0 = functools.partial(squeezenet, "squeezenet_v1_0")
SqueezeNet1_0SimpleBypass = functools.partial(squeezenet, "squeezenet_v1_0_simple_bypass")
SqueezeNet1_0ComplexBypass = functools.partial(squeezenet, "squeezenet_v1_0_complex_bypass")
SqueezeNet1_1 = functools.partial(squeezenet, "squeezenet_v1_1")
SqueezeNetCIFAR10 = functools.partial(squeezenet, "squeezenet_cifar10")


def _fire(channels, squeeze, expand):
    return channels * squeeze + squeeze * expand + 3 * 3 * squeeze * expand


# Weights and biases of each fire module by number; the first one's input is conv1's output.
_FIRE_WEIGHTS = {
    3: _fire(128, 16, 64),
    4: _fire(128, 32, 128),
    5: _fire(256, 32, 128),
    6: _fire(256, 48, 192),
    7: _fire(384, 48, 192),
    8: _fire(384, 64, 256),
    9: _fire(512, 64, 256),
}
_FIRE_BIASES = sum(squeeze + 2 * expand for squeeze, expand in FIRES.values())


def _params(conv1, channels, classes=1000, bypass=0):
    fires = _fire(channels, 16, 64) + sum(_FIRE_WEIGHTS.values()) + _FIRE_BIASES
    return conv1 + channels + fires + 512 * classes + classes + bypass


def _macs(conv1, channels, positions, classes=1000, bypass=()):
    """MACs from the positions of conv1's map, of each fire module's map by number, and of the head's."""
    weights = {2: _fire(channels, 16, 64)} | _FIRE_WEIGHTS
    fires = sum(weights[number] * positions[number] for number in weights)
    shortcuts = sum(weight * positions[number] for number, weight in bypass)
    return conv1 * positions[1] + fires + shortcuts + 512 * classes * positions[9]


_POSITIONS_1_0 = {1: 109**2} | dict.fromkeys((2, 3, 4), 54**2) | dict.fromkeys((5, 6, 7, 8), 26**2) | {9: 12**2}
_POSITIONS_1_1 = {1: 111**2} | dict.fromkeys((2, 3), 55**2) | dict.fromkeys((4, 5), 27**2)
_POSITIONS_1_1 |= dict.fromkeys((6, 7, 8, 9), 13**2)
_POSITIONS_CIFAR = dict.fromkeys((1, 2, 3), 32**2) | dict.fromkeys((4, 5), 15**2) | dict.fromkeys((6, 7, 8, 9), 7**2)
_BYPASS = ((2, 96 * 128), (4, 128 * 256), (6, 256 * 384), (8, 384 * 512))

SPECS = (
    ModelSpec(
        name="squeezenet_v1_0",
        builder=SqueezeNet1_0,
        title="the paper's network",
        paper=PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        params=_params(7 * 7 * 3 * 96, 96),
        macs=_macs(7 * 7 * 3 * 96, 96, _POSITIONS_1_0),
        preprocessing="caffe",
        layer_names=layer_names("squeezenet_v1_0"),
    ),
    ModelSpec(
        name="squeezenet_v1_0_simple_bypass",
        builder=SqueezeNet1_0SimpleBypass,
        title="with additions around fire3, 5, 7 and 9",
        paper=PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        params=_params(7 * 7 * 3 * 96, 96),
        macs=_macs(7 * 7 * 3 * 96, 96, _POSITIONS_1_0),
        preprocessing="caffe",
        layer_names=layer_names("squeezenet_v1_0_simple_bypass"),
    ),
    ModelSpec(
        name="squeezenet_v1_0_complex_bypass",
        builder=SqueezeNet1_0ComplexBypass,
        title="with 1x1 layers around fire2, 4, 6 and 8 too",
        paper=PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        params=_params(7 * 7 * 3 * 96, 96, bypass=sum(weights for _, weights in _BYPASS) + 128 + 256 + 384 + 512),
        macs=_macs(7 * 7 * 3 * 96, 96, _POSITIONS_1_0, bypass=_BYPASS),
        preprocessing="caffe",
        layer_names=layer_names("squeezenet_v1_0_complex_bypass"),
    ),
    ModelSpec(
        name="squeezenet_v1_1",
        builder=SqueezeNet1_1,
        title="2.4 times fewer MACs than 1.0, by earlier pooling",
        paper=PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        params=_params(3 * 3 * 3 * 64, 64),
        macs=_macs(3 * 3 * 3 * 64, 64, _POSITIONS_1_1),
        preprocessing="torch",
        layer_names=layer_names("squeezenet_v1_1"),
    ),
    ModelSpec(
        name="squeezenet_cifar10",
        builder=SqueezeNetCIFAR10,
        title="SqueezeNet 1.1 for 32x32 inputs: stride 1 first, two poolings",
        paper=PAPER,
        input_shape=(32, 32, 3),
        classes=10,
        params=_params(3 * 3 * 3 * 64, 64, classes=10),
        macs=_macs(3 * 3 * 3 * 64, 64, _POSITIONS_CIFAR, classes=10),
        dataset="cifar10",
        preprocessing="standardize",
        layer_names=layer_names("squeezenet_cifar10"),
    ),
)
