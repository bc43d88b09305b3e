"""What a layer is: its kind, its role where it is a 1x1 layer, and whether a BatchNormalization folds."""

CONVOLUTIONS = frozenset({"Conv1D", "Conv2D"})
DEPTHWISE = frozenset({"DepthwiseConv1D", "DepthwiseConv2D"})
TRANSPOSED = frozenset({"Conv1DTranspose", "Conv2DTranspose"})
# What multiplies by weights, and so can absorb an affine map of its output channels.
LINEAR = CONVOLUTIONS | DEPTHWISE | TRANSPOSED | {"Dense"}
GLOBAL_POOLS = frozenset(f"Global{which}Pooling{rank}D" for which in ("Average", "Max") for rank in (1, 2))
WINDOW_POOLS = frozenset(f"{which}Pooling{rank}D" for which in ("Average", "Max") for rank in (1, 2))
UPSAMPLING = frozenset({"UpSampling1D", "UpSampling2D"})
# Both are an affine map with fixed constants when the network runs, which a neighbouring convolution can absorb.
FOLDABLE_NORMS = frozenset({"BatchNormalization", "Normalization"})
LOCAL_RESPONSE = "LocalResponseNormalization"  # ours: Keras has none
SCALED_ADDITIONS = frozenset({"CustomScaleLayer"})  # x + scale * y, of keras.applications.InceptionResNetV2
# What leaves its input as it is when the network runs (outside training).
PASS_THROUGH = frozenset(
    {
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
        *("RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"),
        *("ActivityRegularization", "Identity", "StochasticDepth"),
    }
)

# Layers, and the operations that arithmetic or `keras.ops` on Keras tensors leaves in a graph under other names.
_KINDS = {
    "pool": {*GLOBAL_POOLS, *WINDOW_POOLS, "AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D"},
    "norm": {
        *FOLDABLE_NORMS,
        LOCAL_RESPONSE,
        "LayerNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "UnitNormalization",
    },
    "activation": {
        *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
        *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "Tanh", "LogSoftmax"),
        *("Softplus", "Softsign", "HardSigmoid", "HardSilu", "HardTanh"),
    },
    "merge": {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Divide", "TrueDivide"}
    | SCALED_ADDITIONS,
    "reshape": {
        *("Flatten", "Reshape", "Permute", "RepeatVector", "Transpose", "Squeeze", "ExpandDims", "GetItem"),
        *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", *UPSAMPLING),
    },
}
_ADDITIONS = SCALED_ADDITIONS | {"Add"}
_SCALING = PASS_THROUGH | {"LayerScale"}
KIND_OF = {op: kind for kind, ops in _KINDS.items() for op in ops}


def kind_of(layer):
    """Return the kind of `layer` (`LayerInfo`): pointwise, spatial, depthwise, dense, pool, norm, ... or other.

    Pointwise is a convolution with a kernel of 1 in one group (any stride; the second half of a separable convolution
    too) and a Dense that is applied at every position of a map (rank 4).
    """
    if layer.op in CONVOLUTIONS:
        return _convolution_kind(layer)
    if layer.op in DEPTHWISE:
        return "depthwise"
    if layer.op in TRANSPOSED:
        return "spatial"
    if layer.op == "EinsumDense":
        return "dense"
    if layer.op == "Dense":
        return "pointwise" if len(layer.inputs[0].shape) == 4 else "dense"
    kind = KIND_OF.get(layer.op, "other")
    # `x + 3` leaves an Add with one tensor: nothing is merged there.
    return "other" if kind == "merge" and len(layer.inputs) < 2 else kind


def _convolution_kind(layer):
    if layer.groups > 1 and layer.groups == layer.inputs[0].channels:
        return "depthwise"
    if set(layer.kernel) != {1}:
        return "spatial"
    # A 1x1 kernel in groups mixes only some of the channels: it is neither pointwise nor spatial.
    return "pointwise" if layer.groups == 1 else "other"


def role_of(layer, graph):
    """Return the role of a pointwise `layer` in `graph`; None for every other kind. The first that fits:

    head: from its output to the network's outputs, which are vectors (classes, no maps), there are only activations,
    poolings, dropout and reshapes.
    projection: all that reads its output, through norms, activations and dropout, is an addition.
    reduce, expand, mix: fewer, more, or as many channels leave as enter.
    """
    if kind_of(layer) != "pointwise":
        return None
    if _is_head(layer, graph):
        return "head"
    if _is_projection(layer, graph):
        return "projection"
    entering, leaving = layer.inputs[0].channels, layer.outputs[0].channels
    if leaving == entering:
        return "mix"
    return "reduce" if leaving < entering else "expand"


def _is_head(layer, graph):
    waiting = [layer]
    while waiting:
        current = waiting.pop()
        if any(tensor.index in graph.output_indices and len(tensor.shape) > 2 for tensor in current.outputs):
            return False
        for reader in graph.readers(current):
            if kind_of(reader) not in ("activation", "pool", "reshape") and reader.op not in PASS_THROUGH:
                return False
            waiting.append(reader)
    return True


def _is_projection(layer, graph):
    waiting, ends_in_addition = [layer], False
    while waiting:
        current = waiting.pop()
        if any(tensor.index in graph.output_indices for tensor in current.outputs):
            return False
        for reader in graph.readers(current):
            if reader.op in _ADDITIONS and kind_of(reader) == "merge":
                ends_in_addition = True
            elif kind_of(reader) in ("norm", "activation") or reader.op in _SCALING:
                waiting.append(reader)
            else:
                return False
    return ends_in_addition


def folds(layer, graph):
    """Return whether `layer` of `graph`, a BatchNormalization, folds into what feeds it; None for every other layer.

    It does where it normalises the channels of a convolution or Dense that nobody else reads, and no activation lies
    between the two: its scale and shift then become part of the weights and the bias, exactly.
    """
    if layer.op != "BatchNormalization":
        return None
    if not layer.per_position:
        return False
    feeder = _sole_feeder(layer, graph)
    while feeder and (feeder.op in PASS_THROUGH or feeder.op == "BatchNormalization" and feeder.per_position):
        feeder = _sole_feeder(feeder, graph)
    return feeder is not None and feeder.op in LINEAR and feeder.is_linear


def _sole_feeder(layer, graph):
    """What produces the input of `layer`; None where there is no producer, or the tensor is read elsewhere too."""
    index = layer.inputs[0].index
    shared = index in graph.output_indices or len(graph.consumers[index]) > 1
    return None if shared else graph.producers.get(index)
