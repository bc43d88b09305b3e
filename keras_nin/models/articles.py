"""The small networks of well-known articles on 1x1 convolution."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from keras_nin import layers
from keras_nin.errors import check_choice, check_whole_number
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, read_specs
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras


def convnet(
    spec: ModelSpec,
    *,
    weights: Weights = None,
    include_top: bool = True,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    relu_first: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build the article's ConvNet: two 3x3 layers, each with 2x2 max pooling and ReLU, and one of three endings.

    Args:
        classifier_activation: the article ends in a sigmoid; a task with one label per image needs the default.
        relu_first: whether ReLU comes before the pooling, not after it. Both give the same outputs, but int8 files
            then have the ReLU in the convolution, and none in the pooling, where the Edge TPU takes none.
    """
    ends_in_map = spec.classes is None
    units = 0 if ends_in_map else check_whole_number("classes", spec.classes if classes is None else classes)

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        import keras

        for number, filters in enumerate((3, 8 if ends_in_map else 64), start=1):
            x = layers.conv2d(x, filters, 3, activation=None, name=f"conv{number}")
            relu = keras.layers.ReLU(name=f"relu{number}")
            x = relu(x) if relu_first else x
            x = layers.pool2d(x, size=2, name=f"pool{number}")
            x = x if relu_first else relu(x)
        if not include_top:
            return x
        if ends_in_map:
            return layers.conv1x1(x, 8, name="conv3_1x1")
        if spec.name == "convnet_linear_head":
            x = keras.layers.Flatten(name="flatten")(x)
            x = keras.layers.Dense(100, activation="relu", name="dense1")(x)
            return keras.layers.Dense(units, activation=classifier_activation, name="dense2")(x)
        x = layers.conv1x1(x, 32, name="conv3_1x1")
        style = {"activation": None, "classifier_activation": classifier_activation}
        return layers.pointwise_head(x, units, name="conv4_1x1", **style)

    return spec.assemble(graph, input_shape, weights, name, include_top)


def deepphys_softconv(
    spec: ModelSpec, *, weights: Weights = None, input_shape: Shape | None = None, name: str | None = None
) -> keras.Model:
    """Build the DeepPhys-style mask: 32 maps that a 1x1 layer projects to one map between 0 and 1."""

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.conv2d(x, 32, 3, activation="tanh", name="conv1")
        return layers.conv1x1(x, 1, activation="sigmoid", name="mask_1x1")

    return spec.assemble(graph, input_shape, weights, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleSpec(ModelSpec):
    """A network of one convolution."""

    filters: int
    kernel_size: int
    padding: str = "same"
    activation: str | None = None


def single_convolution(
    spec: SingleSpec, *, weights: Weights = None, input_shape: Shape | None = None, name: str | None = None
) -> keras.Model:
    """Build a network of one convolution; see `SingleConvolution`."""

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        style = {"padding": spec.padding, "activation": spec.activation}
        return layers.conv2d(x, spec.filters, spec.kernel_size, name="conv1", **style)

    return spec.assemble(graph, input_shape, weights, name)


def SingleConvolution(
    variant: str, *, weights: Weights = None, input_shape: Shape | None = None, name: str | None = None
) -> keras.Model:
    """Build a network of one convolution, to compare 1x1 with 3x3 at equal widths.

    Args:
        variant: name of the network in the registry, such as "conv1x1_512to32".
        weights: None (random) or a path; see `keras_nin.models.load_weights`.
        input_shape, name: (H, W, C), and the model's name; None takes the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, H', W', filters), H' = H - 2 for the unpadded 3x3 layer, else H.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    specs = {spec.name: spec for spec in _SINGLES}
    spec = specs[check_choice("variant", variant, specs)]
    return single_convolution(spec, weights=weights, input_shape=input_shape, name=name)


_CONVNETS, (ConvNetExtraReLU, ConvNetLinearHead, ConvNetPointwiseHead) = read_specs(convnet, ModelSpec)
_DEEPPHYS, (DeepPhysSoftConv,) = read_specs(deepphys_softconv, ModelSpec)
_SINGLES, _ = read_specs(single_convolution, SingleSpec)
SPECS = (*_CONVNETS, *_DEEPPHYS, *_SINGLES)
CONVNET = _CONVNETS[0].paper
preprocess_input, decode_predictions = family_functions(SPECS)
