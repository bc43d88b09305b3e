"""SqueezeNet: Iandola et al., arXiv:1602.07360."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import layers
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, assemble_model, check_input_shape, variant_of
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

PAPER = "SqueezeNet, arXiv:1602.07360"

# Squeeze and expand widths of fire2 to fire9; both expand layers have the same width.
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
_SIMPLE_BYPASS: dict[int, str] = dict.fromkeys((3, 5, 7, 9), "simple")
_COMPLEX_BYPASS: dict[int, str] = _SIMPLE_BYPASS | dict.fromkeys((2, 4, 6, 8), "complex")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table below: the first convolution, after which modules a pooling stands, and the bypasses."""

    title: str
    conv1: tuple[int, int, int]  # filters, kernel size, strides
    pool_after: tuple[int, ...]  # 1 for conv1, n for fire n
    input_shape: Shape = (224, 224, 3)
    classes: int = 1000
    bypass: Mapping[int, str] = dataclasses.field(default_factory=dict)
    conv1_padding: str = "valid"
    dataset: str | None = None
    preprocessing: str = "caffe"


VARIANTS = {
    "squeezenet_v1_0": Variant("the paper's network", (96, 7, 2), (1, 4, 8)),
    "squeezenet_v1_0_simple_bypass": Variant(
        "with additions around fire3, 5, 7 and 9", (96, 7, 2), (1, 4, 8), bypass=_SIMPLE_BYPASS
    ),
    "squeezenet_v1_0_complex_bypass": Variant(
        "with 1x1 layers around fire2, 4, 6 and 8 too", (96, 7, 2), (1, 4, 8), bypass=_COMPLEX_BYPASS
    ),
    "squeezenet_v1_1": Variant(
        "2.4 times fewer MACs than 1.0, by earlier pooling", (64, 3, 2), (1, 3, 5), preprocessing="torch"
    ),
    "squeezenet_cifar10": Variant(
        "SqueezeNet 1.1 for 32x32 inputs: stride 1 first, two poolings",
        (64, 3, 1),
        (3, 5),
        (32, 32, 3),
        10,
        conv1_padding="same",
        dataset="cifar10",
        preprocessing="standardize",
    ),
}

# Layer names of the authors' Caffe release, which rcmalli's keras-squeezenet keeps.
CAFFE_NAMES = {
    f"fire{number}/{part}": f"fire{number}_{part}"
    for number in FIRES
    for part in ("squeeze1x1", "expand1x1", "expand3x3")
}
# Numbers of the fire modules in torchvision's `features`, in which the poolings count. Its poolings round up.
TORCHVISION_FIRES = {"squeezenet_v1_0": (3, 4, 5, 7, 8, 9, 10, 12), "squeezenet_v1_1": (3, 4, 6, 7, 9, 10, 11, 12)}


def layer_names(variant: str) -> dict[str, str]:
    """Return the table of third-party layer names of a row of `VARIANTS`."""
    names = dict(CAFFE_NAMES)
    if variant not in TORCHVISION_FIRES:
        return names
    names |= {"features.0": "conv1", "classifier.1": "conv10"}
    parts = {"squeeze": "squeeze1x1", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
    for index, number in zip(TORCHVISION_FIRES[variant], FIRES, strict=True):
        names |= {f"features.{index}.{theirs}": f"fire{number}_{ours}" for theirs, ours in parts.items()}
    return names


def squeezenet(
    variant: str,
    *,
    include_top: bool = True,
    weights: Weights = None,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    pool_rounding: str = "floor",
    padded_head: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build a SqueezeNet: a convolution, eight fire modules, and a 1x1 layer to the classes averaged over the map.

    Args:
        variant: name of a row of `VARIANTS`.
        include_top: whether to end in dropout, the 1x1 layer to the classes and the global average.
        weights: None (random), the name of bundled weights, or a path; see `keras_nin.models.load_weights`.
        input_shape: (H, W, C).
        classes: number of classes.
        classifier_activation: applied to the averaged scores; None returns them as they are.
        pool_rounding: ``"floor"`` (Keras) or ``"ceil"`` (Caffe, torchvision).
        padded_head: a border of zeros, one wide, before the last 1x1 layer, as in the Caffe release of 1.0.
        name: the model's name; None takes the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), or to fire9's map without the top.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = VARIANTS[variant]

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        x = _trunk(x, row, pool_rounding)
        if not include_top:
            return x
        return _top(x, row.classes if classes is None else classes, classifier_activation, padded_head)

    return assemble_model(
        graph,
        variant=variant,
        name=name,
        input_shape=check_input_shape(input_shape, row.input_shape),
        weights=weights,
        include_top=include_top,
        layer_names=layer_names(variant),
    )


def _trunk(x: keras.KerasTensor, row: Variant, rounding: str) -> keras.KerasTensor:
    filters, kernel_size, strides = row.conv1
    x = layers.conv2d(x, filters, kernel_size, strides=strides, padding=row.conv1_padding, name="conv1")
    if 1 in row.pool_after:
        x = layers.pool2d(x, rounding=rounding, name="pool1")
    for number, (squeeze, expand) in FIRES.items():
        x = layers.fire(x, squeeze, expand, expand, bypass=row.bypass.get(number), name=f"fire{number}")
        if number in row.pool_after:
            x = layers.pool2d(x, rounding=rounding, name=f"pool{number}")
    return x


def _top(x: keras.KerasTensor, classes: int, classifier_activation: str | None, padded_head: bool) -> keras.KerasTensor:
    import keras

    x = keras.layers.Dropout(0.5, name="drop9")(x)
    return layers.pointwise_head(
        x, classes, classifier_activation=classifier_activation, zero_padding=int(padded_head), name="conv10"
    )


@variant_of(squeezenet, VARIANTS["squeezenet_v1_0"])
def SqueezeNet1_0(**arguments: Any) -> keras.Model:
    """Build SqueezeNet 1.0, the network of the paper (arXiv:1602.07360)."""
    return squeezenet("squeezenet_v1_0", **arguments)


@variant_of(squeezenet, VARIANTS["squeezenet_v1_0_simple_bypass"])
def SqueezeNet1_0SimpleBypass(**arguments: Any) -> keras.Model:
    """Build SqueezeNet 1.0 with additions around fire3, 5, 7 and 9 (arXiv:1602.07360, figure 2)."""
    return squeezenet("squeezenet_v1_0_simple_bypass", **arguments)


@variant_of(squeezenet, VARIANTS["squeezenet_v1_0_complex_bypass"])
def SqueezeNet1_0ComplexBypass(**arguments: Any) -> keras.Model:
    """Build SqueezeNet 1.0 with 1x1 layers around fire2, 4, 6 and 8 too (arXiv:1602.07360, figure 2)."""
    return squeezenet("squeezenet_v1_0_complex_bypass", **arguments)


@variant_of(squeezenet, VARIANTS["squeezenet_v1_1"])
def SqueezeNet1_1(**arguments: Any) -> keras.Model:
    """Build SqueezeNet 1.1, the authors' later release: 2.4 times fewer MACs than 1.0, by earlier pooling."""
    return squeezenet("squeezenet_v1_1", **arguments)


@variant_of(squeezenet, VARIANTS["squeezenet_cifar10"])
def SqueezeNetCIFAR10(**arguments: Any) -> keras.Model:
    """Build SqueezeNet 1.1 for 32x32 inputs: stride 1 in the first convolution, two poolings."""
    return squeezenet("squeezenet_cifar10", **arguments)


def _fire(channels: int, squeeze: int, expand: int) -> int:
    return channels * squeeze + squeeze * expand + 3 * 3 * squeeze * expand


# Weights of each fire module by number; the input of the first one is the output of conv1.
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
# Sides of the maps of conv1 and of fire2 to fire9.
_SIDES_1_0 = (109, 54, 54, 54, 26, 26, 26, 26, 12)
_SIDES_1_1 = (111, 55, 55, 27, 27, 13, 13, 13, 13)
_SIDES_CIFAR = (32, 32, 32, 15, 15, 7, 7, 7, 7)
# Weights of the 1x1 layers of complex bypasses by fire module, and their biases.
_BYPASS_WEIGHTS = {2: 96 * 128, 4: 128 * 256, 6: 256 * 384, 8: 384 * 512}
_BYPASS_BIASES = 128 + 256 + 384 + 512


def _spec(name: str, builder: Callable[..., keras.Model], sides: Sequence[int]) -> ModelSpec:
    """Return the row of the registry, with parameters and MACs by arithmetic."""
    row = VARIANTS[name]
    positions = dict(zip((1, *FIRES), (side**2 for side in sides), strict=True))
    filters, kernel_size, _ = row.conv1
    conv1 = kernel_size**2 * row.input_shape[2] * filters
    fires = {2: _fire(filters, 16, 64)} | _FIRE_WEIGHTS
    bypasses = _BYPASS_WEIGHTS if row.bypass is _COMPLEX_BYPASS else {}
    params = conv1 + filters + sum(fires.values()) + _FIRE_BIASES + 512 * row.classes + row.classes
    macs = conv1 * positions[1] + 512 * row.classes * positions[9]
    return ModelSpec(
        name=name,
        builder=builder,
        title=row.title,
        paper=PAPER,
        input_shape=row.input_shape,
        classes=row.classes,
        params=params + (sum(bypasses.values()) + _BYPASS_BIASES if bypasses else 0),
        macs=macs + sum(weights * positions[number] for number, weights in [*fires.items(), *bypasses.items()]),
        dataset=row.dataset,
        preprocessing=row.preprocessing,
        layer_names=layer_names(name),
    )


SPECS = (
    _spec("squeezenet_v1_0", SqueezeNet1_0, _SIDES_1_0),
    _spec("squeezenet_v1_0_simple_bypass", SqueezeNet1_0SimpleBypass, _SIDES_1_0),
    _spec("squeezenet_v1_0_complex_bypass", SqueezeNet1_0ComplexBypass, _SIDES_1_0),
    _spec("squeezenet_v1_1", SqueezeNet1_1, _SIDES_1_1),
    _spec("squeezenet_cifar10", SqueezeNetCIFAR10, _SIDES_CIFAR),
)
preprocess_input, decode_predictions = family_functions(SPECS)
