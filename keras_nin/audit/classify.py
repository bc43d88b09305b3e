"""What a layer is: its kind, its role where it is a 1x1 layer, and the block that it belongs to."""

from collections import Counter

CONVOLUTIONS = frozenset({"Conv1D", "Conv2D"})
DEPTHWISE = frozenset({"DepthwiseConv1D", "DepthwiseConv2D"})
TRANSPOSED = frozenset({"Conv1DTranspose", "Conv2DTranspose"})
GLOBAL_POOLS = frozenset(f"Global{which}Pooling{rank}D" for which in ("Average", "Max") for rank in (1, 2))
WINDOW_POOLS = frozenset(f"{which}Pooling{rank}D" for which in ("Average", "Max") for rank in (1, 2))
UPSAMPLING = frozenset({"UpSampling1D", "UpSampling2D"})
# Both are an affine map with fixed constants when the network runs, which a neighbouring convolution can absorb.
FOLDABLE_NORMS = frozenset({"BatchNormalization", "Normalization"})
LOCAL_RESPONSE = "LocalResponseNormalization"  # ours: Keras has none
# What leaves its input as it is when the network runs (outside training).
PASS_THROUGH = frozenset(
    {
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
        *("RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"),
        *("ActivityRegularization", "Identity"),
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
    "merge": {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Divide", "TrueDivide"},
    "reshape": {
        *("Flatten", "Reshape", "Permute", "RepeatVector", "Transpose", "Squeeze", "ExpandDims", "GetItem"),
        *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", *UPSAMPLING),
    },
}
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
    if layer.op == "Dense":
        return "pointwise" if len(layer.inputs[0].shape) == 4 else "dense"
    kind = KIND_OF.get(layer.op, "other")
    # `x + 3` leaves an Add with one tensor: nothing is merged there.
    return "other" if kind == "merge" and len(layer.inputs) < 2 else kind


def _convolution_kind(layer):
    if layer.groups > 1 and layer.groups == layer.inputs[0].shape[-1]:
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
    entering, leaving = layer.inputs[0].shape[-1], layer.outputs[0].shape[-1]
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
            if reader.op == "Add" and kind_of(reader) == "merge":
                ends_in_addition = True
            elif kind_of(reader) in ("norm", "activation") or reader.op in PASS_THROUGH:
                waiting.append(reader)
            else:
                return False
    return ends_in_addition


def blocks_of(graph):
    """Return the block name, or None, of every layer of `graph`, in its order.

    Inside a nested model it is that model's path. Elsewhere it is the name up to its last "_", where at least two
    layers share that: "fire2" for "fire2_squeeze1x1". A number alone after the "_" is a counter and makes no block
    ("conv2d_1"); a layer whose whole name is such a prefix belongs to that block.
    """
    names = {_own_name(layer) for layer in graph.layers if not layer.scope}
    shared = Counter(prefix for name in names if (prefix := _prefix(name)))
    blocks = {prefix for prefix, count in shared.items() if count > 1}
    return tuple(layer.scope or _top_block(_own_name(layer), blocks) for layer in graph.layers)


def _top_block(name, blocks):
    if name in blocks:
        return name
    prefix = _prefix(name)
    return prefix if prefix in blocks else None


def _own_name(layer):
    """The layer's name without what the audit appended: the half of a separable convolution, the number of the use."""
    return layer.name.split("/")[0].split(" (")[0]


def _prefix(name):
    prefix, _, rest = name.rpartition("_")
    return None if rest.isdigit() else prefix or None
