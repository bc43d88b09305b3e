"""The small networks of well-known articles on 1x1 convolution."""

import dataclasses
import functools

from keras_nin import layers
from keras_nin.errors import check_choice
from keras_nin.models.model_spec import ModelSpec, assemble_model, check_input_shape

CONVNET = 'Paperspace blog, "Network in Network and 1x1 convolutions"'
DEEPPHYS = "DeepPhys, arXiv:1805.07888; soft mask of a 1x1 layer from the article 1x1 convolution, demystified"
ROBAITA = "1x1 convolutions explained, with 2 filters on a 6x6x3 input"
ONE_CHANNEL = "what a 1x1 layer can do to one channel (question on a 28x28x1 input)"

HEADS = ("extra_relu", "linear", "pointwise")


def convnet(
    head,
    *,
    include_top=True,
    weights=None,
    input_shape=None,
    classes=10,
    classifier_activation="softmax",
    relu_first=False,
    name=None,
):
    """Build the article's ConvNet: two 3x3 layers, each with 2x2 max pooling and ReLU, and one of three endings.

    Args:
        head: ``"extra_relu"`` (8 maps, then a 1x1 layer of equal width with ReLU; ends in a map),
            ``"linear"`` (64 maps, flattened, 100 hidden units, classes) or ``"pointwise"`` (64 maps, a 1x1 layer
            to 32, a 1x1 layer to the classes, global average).
        include_top: whether the ending follows the two 3x3 layers.
        weights: None (random) or a path; see `load_weights`.
        input_shape: (H, W, C); the default is (28, 28, 1).
        classes: number of classes.
        classifier_activation: the article ends in a sigmoid; a task with one label an image wants the default.
        relu_first: whether ReLU comes before the pooling, not after it. Both give the same figures, but int8 files
            then have the ReLU in the convolution, and none in the pooling, where the Edge TPU takes none.
        name: the model's name.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), or to (B, H // 4, W // 4, 8) for ``"extra_relu"``.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    check_choice("head", head, HEADS)

    def graph(x):
        x = _conv_pool_relu(x, 3, 1, relu_first)
        x = _conv_pool_relu(x, 8 if head == "extra_relu" else 64, 2, relu_first)
        if not include_top:
            return x
        if head == "extra_relu":
            return layers.conv1x1(x, 8, name="conv3_1x1")
        if head == "linear":
            return _linear_head(x, classes, classifier_activation)
        x = layers.conv1x1(x, 32, name="conv3_1x1")
        return layers.pointwise_head(
            x, classes, activation=None, classifier_activation=classifier_activation, name="conv4_1x1"
        )

    shape = check_input_shape(input_shape, (28, 28, 1))
    variant = f"convnet_{head}" if head == "extra_relu" else f"convnet_{head}_head"
    return assemble_model(
        graph, variant=variant, name=name, input_shape=shape, weights=weights, include_top=include_top
    )


def _conv_pool_relu(x, filters, number, relu_first):
    import keras

    x = layers.conv2d(x, filters, 3, activation=None, name=f"conv{number}")
    if relu_first:
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    x = layers.pool2d(x, size=2, name=f"pool{number}")
    return x if relu_first else keras.layers.ReLU(name=f"relu{number}")(x)


def _linear_head(x, classes, classifier_activation):
    import keras

    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(100, activation="relu", name="dense1")(x)
    return keras.layers.Dense(classes, activation=classifier_activation, name="dense2")(x)


def deepphys_softconv(*, weights=None, input_shape=None, name=None):
    """Build the DeepPhys-style mask: 32 maps that a 1x1 layer projects to one map between 0 and 1.

    Args:
        weights: None (random) or a path; see `load_weights`.
        input_shape: (H, W, C); the default is (36, 36, 3).
        name: the model's name.

    Returns:
        keras.Model from (B, H, W, C) to the mask (B, H, W, 1).

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """

    def graph(x):
        x = layers.conv2d(x, 32, 3, activation="tanh", name="conv1")
        return layers.conv1x1(x, 1, activation="sigmoid", name="mask_1x1")

    shape = check_input_shape(input_shape, (36, 36, 3))
    return assemble_model(graph, variant="deepphys_softconv", name=name, input_shape=shape, weights=weights)


@dataclasses.dataclass(frozen=True)
class Single:
    """One convolution: the article's figures beside it."""

    input_shape: tuple[int, int, int]
    filters: int
    kernel_size: int
    source: str
    padding: str = "same"
    activation: str | None = None

    @property
    def weights(self):
        """Number of weights without biases."""
        return self.kernel_size**2 * self.input_shape[2] * self.filters

    @property
    def positions(self):
        """Number of output positions."""
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        return (self.input_shape[0] - lost) * (self.input_shape[1] - lost)


SINGLES = {
    "conv1x1_512to32": Single((12, 12, 512), 32, 1, CONVNET),
    "conv3x3_512to32": Single((12, 12, 512), 32, 3, CONVNET),
    "conv1x1_512to512": Single((12, 12, 512), 512, 1, CONVNET, activation="relu"),
    "conv1x1_3to2": Single((6, 6, 3), 2, 1, ROBAITA, activation="relu"),
    "conv3x3_3to2": Single((6, 6, 3), 2, 3, ROBAITA, padding="valid", activation="relu"),
    "conv1x1_1to16": Single((28, 28, 1), 16, 1, ONE_CHANNEL),
    "conv3x3_1to16": Single((28, 28, 1), 16, 3, ONE_CHANNEL),
}


def single_convolution(variant, *, weights=None, input_shape=None, name=None):
    """Build a network of one convolution, to compare 1x1 with 3x3 at equal widths.

    Args:
        variant: name of a row of `SINGLES`.
        weights: None (random) or a path; see `load_weights`.
        input_shape: (H, W, C); the default is the row's.
        name: the model's name; the default is the row's.

    Returns:
        keras.Model from (B, H, W, C) to (B, H', W', filters), H' = H - 2 for the unpadded 3x3 layer, else H.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = SINGLES[variant]

    def graph(x):
        return layers.conv2d(
            x, row.filters, row.kernel_size, padding=row.padding, activation=row.activation, name="conv1"
        )

    shape = check_input_shape(input_shape, row.input_shape)
    return assemble_model(graph, variant=variant, name=name, input_shape=shape, weights=weights)


ConvNetExtraReLU = functools.partial(convnet, "extra_relu")
ConvNetLinearHead = functools.partial(convnet, "linear")
ConvNetPointwiseHead = functools.partial(convnet, "pointwise")
DeepPhysSoftConv = deepphys_softconv
SingleConvolution = single_convolution

_TRUNK = (3 * 3 * 1 * 3, 3 * 3 * 3 * 64)  # weights of the two 3x3 layers, on 28x28 and 14x14 positions
_TRUNK_MACS = 28 * 28 * _TRUNK[0] + 14 * 14 * _TRUNK[1]


def _single_spec(name):
    row = SINGLES[name]
    height, width, channels = row.input_shape
    kernel = f"{row.kernel_size}x{row.kernel_size}"
    return ModelSpec(
        name=name,
        builder=functools.partial(single_convolution, name),
        title=f"one {kernel} layer, {channels} to {row.filters} channels at {height}x{width}",
        paper=row.source,
        input_shape=row.input_shape,
        classes=None,
        params=row.weights + row.filters,
        macs=row.weights * row.positions,
        dataset="random",
    )


SPECS = (
    ModelSpec(
        name="convnet_extra_relu",
        builder=ConvNetExtraReLU,
        title="a 1x1 layer of equal width, only for one more ReLU",
        paper=CONVNET,
        input_shape=(28, 28, 1),
        classes=None,
        params=(3 * 3 * 1 * 3 + 3) + (3 * 3 * 3 * 8 + 8) + (8 * 8 + 8),
        macs=28 * 28 * 3 * 3 * 1 * 3 + 14 * 14 * 3 * 3 * 3 * 8 + 7 * 7 * 8 * 8,
        dataset="mnist",
    ),
    ModelSpec(
        name="convnet_linear_head",
        builder=ConvNetLinearHead,
        title="a dense head on a flattened map",
        paper=CONVNET,
        input_shape=(28, 28, 1),
        classes=10,
        params=sum(_TRUNK) + 3 + 64 + (7 * 7 * 64 * 100 + 100) + (100 * 10 + 10),
        macs=_TRUNK_MACS + 7 * 7 * 64 * 100 + 100 * 10,
        dataset="mnist",
    ),
    ModelSpec(
        name="convnet_pointwise_head",
        builder=ConvNetPointwiseHead,
        title="1x1 layers and a global average instead of the dense head",
        paper=CONVNET,
        input_shape=(28, 28, 1),
        classes=10,
        params=sum(_TRUNK) + 3 + 64 + (64 * 32 + 32) + (32 * 10 + 10),
        macs=_TRUNK_MACS + 7 * 7 * (64 * 32 + 32 * 10),
        dataset="mnist",
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
    *(_single_spec(name) for name in SINGLES),
)
