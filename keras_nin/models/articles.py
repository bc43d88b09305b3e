"""The small networks of well-known articles on 1x1 convolution."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keras_nin import layers
from keras_nin.errors import check_choice, check_whole_number
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, assemble_model, check_input_shape, variant_of
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

CONVNET = 'Paperspace blog, "Network in Network and 1x1 convolutions"'
DEEPPHYS = "DeepPhys, arXiv:1805.07888; soft mask of a 1x1 layer from the article 1x1 convolution, demystified"
ROBAITA = "1x1 convolutions explained, with 2 filters on a 6x6x3 input"
ONE_CHANNEL = "what a 1x1 layer can do to one channel (question on a 28x28x1 input)"


@dataclasses.dataclass(frozen=True)
class ConvNetVariant:
    """One of the three endings of the article's ConvNet; `classes` is None where it ends in a map."""

    title: str
    channels: int  # of the second 3x3 layer
    classes: int | None = 10
    input_shape: Shape = (28, 28, 1)


CONVNETS = {
    "convnet_extra_relu": ConvNetVariant("a 1x1 layer of equal width, only for one more ReLU", 8, None),
    "convnet_linear_head": ConvNetVariant("a dense head on a flattened map", 64),
    "convnet_pointwise_head": ConvNetVariant("1x1 layers and a global average instead of the dense head", 64),
}


def convnet(
    variant: str,
    *,
    include_top: bool = True,
    weights: Weights = None,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    relu_first: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build the article's ConvNet: two 3x3 layers, each with 2x2 max pooling and ReLU, and one of three endings.

    Args:
        variant: name of a row of `CONVNETS`.
        include_top: whether the ending follows the two 3x3 layers.
        weights: None (random) or a path; see `keras_nin.models.load_weights`.
        input_shape: (H, W, C).
        classes: number of classes, where the network ends in classes.
        classifier_activation: the article ends in a sigmoid; a task with one label per image needs the default.
        relu_first: whether ReLU comes before the pooling, not after it. Both give the same outputs, but int8 files
            then have the ReLU in the convolution, and none in the pooling, where the Edge TPU takes none.
        name: the model's name; None takes the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), or to (B, H // 4, W // 4, channels) where it ends in a map.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = CONVNETS[check_choice("variant", variant, CONVNETS)]
    units = row.classes if classes is None else classes

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        x = _conv_pool_relu(x, 3, 1, relu_first)
        x = _conv_pool_relu(x, row.channels, 2, relu_first)
        if not include_top:
            return x
        if variant == "convnet_extra_relu":
            return layers.conv1x1(x, 8, name="conv3_1x1")
        if variant == "convnet_linear_head":
            return _linear_head(x, units, classifier_activation)
        x = layers.conv1x1(x, 32, name="conv3_1x1")
        return layers.pointwise_head(
            x, units, activation=None, classifier_activation=classifier_activation, name="conv4_1x1"
        )

    return assemble_model(
        graph,
        variant=variant,
        name=name,
        input_shape=check_input_shape(input_shape, row.input_shape),
        weights=weights,
        include_top=include_top,
    )


def _conv_pool_relu(x: keras.KerasTensor, filters: int, number: int, relu_first: bool) -> keras.KerasTensor:
    import keras

    x = layers.conv2d(x, filters, 3, activation=None, name=f"conv{number}")
    if relu_first:
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    x = layers.pool2d(x, size=2, name=f"pool{number}")
    return x if relu_first else keras.layers.ReLU(name=f"relu{number}")(x)


def _linear_head(x: keras.KerasTensor, classes: int | None, classifier_activation: str | None) -> keras.KerasTensor:
    import keras

    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(100, activation="relu", name="dense1")(x)
    check_whole_number("classes", classes)
    return keras.layers.Dense(classes, activation=classifier_activation, name="dense2")(x)


@variant_of(convnet, CONVNETS["convnet_extra_relu"])
def ConvNetExtraReLU(**arguments: Any) -> keras.Model:
    """Build the article's ConvNet with a 1x1 layer of equal width after it, only for one more ReLU."""
    return convnet("convnet_extra_relu", **arguments)


@variant_of(convnet, CONVNETS["convnet_linear_head"])
def ConvNetLinearHead(**arguments: Any) -> keras.Model:
    """Build the article's ConvNet with a dense head on the flattened map."""
    return convnet("convnet_linear_head", **arguments)


@variant_of(convnet, CONVNETS["convnet_pointwise_head"])
def ConvNetPointwiseHead(**arguments: Any) -> keras.Model:
    """Build the article's ConvNet with 1x1 layers and a global average instead of the dense head."""
    return convnet("convnet_pointwise_head", **arguments)


def DeepPhysSoftConv(
    *, weights: Weights = None, input_shape: Shape | None = (36, 36, 3), name: str | None = None
) -> keras.Model:
    """Build the DeepPhys-style mask (arXiv:1805.07888): 32 maps that a 1x1 layer projects to one between 0 and 1.

    Args:
        weights: None (random) or a path; see `keras_nin.models.load_weights`.
        input_shape: (H, W, C).
        name: the model's name; None takes "deepphys_softconv".

    Returns:
        keras.Model from (B, H, W, C) to the mask (B, H, W, 1).

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.conv2d(x, 32, 3, activation="tanh", name="conv1")
        return layers.conv1x1(x, 1, activation="sigmoid", name="mask_1x1")

    shape = check_input_shape(input_shape, (36, 36, 3))
    return assemble_model(graph, variant="deepphys_softconv", name=name, input_shape=shape, weights=weights)


@dataclasses.dataclass(frozen=True)
class SingleVariant:
    """One convolution of an article."""

    input_shape: Shape
    filters: int
    kernel_size: int
    source: str
    padding: str = "same"
    activation: str | None = None

    @property
    def weights(self) -> int:
        """Number of weights without biases."""
        return self.kernel_size**2 * self.input_shape[2] * self.filters

    @property
    def positions(self) -> int:
        """Number of output positions."""
        border = self.kernel_size - 1 if self.padding == "valid" else 0
        return (self.input_shape[0] - border) * (self.input_shape[1] - border)


SINGLES = {
    "conv1x1_512to32": SingleVariant((12, 12, 512), 32, 1, CONVNET),
    "conv3x3_512to32": SingleVariant((12, 12, 512), 32, 3, CONVNET),
    "conv1x1_512to512": SingleVariant((12, 12, 512), 512, 1, CONVNET, activation="relu"),
    "conv1x1_3to2": SingleVariant((6, 6, 3), 2, 1, ROBAITA, activation="relu"),
    "conv3x3_3to2": SingleVariant((6, 6, 3), 2, 3, ROBAITA, padding="valid", activation="relu"),
    "conv1x1_1to16": SingleVariant((28, 28, 1), 16, 1, ONE_CHANNEL),
    "conv3x3_1to16": SingleVariant((28, 28, 1), 16, 3, ONE_CHANNEL),
}


def SingleConvolution(
    variant: str, *, weights: Weights = None, input_shape: Shape | None = None, name: str | None = None
) -> keras.Model:
    """Build a network of one convolution, to compare 1x1 with 3x3 at equal widths.

    Args:
        variant: name of a row of `SINGLES`.
        weights: None (random) or a path; see `keras_nin.models.load_weights`.
        input_shape: (H, W, C); None takes the row's.
        name: the model's name; None takes the row's.

    Returns:
        keras.Model from (B, H, W, C) to (B, H', W', filters), H' = H - 2 for the unpadded 3x3 layer, else H.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = SINGLES[check_choice("variant", variant, SINGLES)]

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.conv2d(
            x, row.filters, row.kernel_size, padding=row.padding, activation=row.activation, name="conv1"
        )

    shape = check_input_shape(input_shape, row.input_shape)
    return assemble_model(graph, variant=variant, name=name, input_shape=shape, weights=weights)


def _convnet_spec(name: str, builder: Callable[..., keras.Model], head: tuple[int, int, int]) -> ModelSpec:
    """Return the row of the registry; `head` is the weights, the biases and the MACs of what follows the 3x3 layers."""
    row = CONVNETS[name]
    conv1, conv2 = 3 * 3 * 1 * 3, 3 * 3 * 3 * row.channels  # on 28x28 and 14x14 positions
    return ModelSpec(
        name=name,
        builder=builder,
        title=row.title,
        paper=CONVNET,
        input_shape=row.input_shape,
        classes=row.classes,
        params=conv1 + 3 + conv2 + row.channels + head[0] + head[1],
        macs=28 * 28 * conv1 + 14 * 14 * conv2 + head[2],
        dataset="mnist",
    )


def _single_spec(name: str) -> ModelSpec:
    row = SINGLES[name]
    height, width, channels = row.input_shape
    kernel = f"{row.kernel_size}x{row.kernel_size}"
    return ModelSpec(
        name=name,
        builder=functools.partial(SingleConvolution, name),
        title=f"one {kernel} layer, {channels} to {row.filters} channels at {height}x{width}",
        paper=row.source,
        input_shape=row.input_shape,
        classes=None,
        params=row.weights + row.filters,
        macs=row.weights * row.positions,
        dataset="random",
    )


SPECS = (
    _convnet_spec("convnet_extra_relu", ConvNetExtraReLU, (8 * 8, 8, 7 * 7 * 8 * 8)),
    _convnet_spec(
        "convnet_linear_head",
        ConvNetLinearHead,
        (7 * 7 * 64 * 100 + 100 * 10, 100 + 10, 7 * 7 * 64 * 100 + 100 * 10),
    ),
    _convnet_spec(
        "convnet_pointwise_head", ConvNetPointwiseHead, (64 * 32 + 32 * 10, 32 + 10, 7 * 7 * (64 * 32 + 32 * 10))
    ),
    ModelSpec(
        name="deepphys_softconv",
        builder=DeepPhysSoftConv,
        title="32 maps projected to one mask",
        paper=DEEPPHYS,
        input_shape=(36, 36, 3),
        classes=None,
        params=(3 * 3 * 3 * 32 + 32) + (32 * 1 + 1),
        macs=36 * 36 * (3 * 3 * 3 * 32 + 32 * 1),
        dataset="random",
    ),
    *map(_single_spec, SINGLES),
)
preprocess_input, decode_predictions = family_functions(SPECS)
