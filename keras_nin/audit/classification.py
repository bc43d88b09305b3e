"""What a layer is: its kind, the role of a 1x1 layer, whether a BatchNormalization folds, and its block."""

import dataclasses
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from keras_nin.audit.graph import LayerGraph, LayerInfo

CONVOLUTIONS = frozenset({"Conv1D", "Conv2D"})
DEPTHWISE = frozenset({"DepthwiseConv1D", "DepthwiseConv2D"})
TRANSPOSED = frozenset({"Conv1DTranspose", "Conv2DTranspose"})
# Operations that multiply by weights, and so can absorb an affine map of their output channels.
LINEAR = CONVOLUTIONS | DEPTHWISE | TRANSPOSED | {"Dense"}
GLOBAL_POOLS = frozenset(f"Global{reduction}Pooling{rank}D" for reduction in ("Average", "Max") for rank in (1, 2))
WINDOW_POOLS = frozenset(f"{reduction}Pooling{rank}D" for reduction in ("Average", "Max") for rank in (1, 2))
AVERAGE_POOLS = frozenset(pool for pool in GLOBAL_POOLS | WINDOW_POOLS if "Average" in pool)
UPSAMPLING = frozenset({"UpSampling1D", "UpSampling2D"})
PADDING = frozenset({"ZeroPadding1D", "ZeroPadding2D"})
# Affine maps with fixed constants at inference, which a neighboring convolution can absorb.
FOLDABLE_NORMS = frozenset({"BatchNormalization", "Normalization"})
LOCAL_RESPONSE = "LocalResponseNormalization"  # ours: Keras has none
SCALED_ADDITIONS = frozenset({"CustomScaleLayer"})  # x + scale * y, in keras.applications.InceptionResNetV2
# Operations that return their input unchanged at inference.
PASS_THROUGH = frozenset(
    {
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
        *("RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"),
        *("ActivityRegularization", "Identity", "StochasticDepth"),
    }
)

# Layers, and the operations that arithmetic or `keras.ops` on Keras tensors leaves in a graph under other names.
_OPERATIONS_BY_KIND = {
    "pool": {*GLOBAL_POOLS, *WINDOW_POOLS, "AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D"},
    "norm": {
        *(*FOLDABLE_NORMS, LOCAL_RESPONSE, "LayerNormalization", "GroupNormalization"),
        *("RMSNormalization", "UnitNormalization"),
    },
    "activation": {
        *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
        *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "Tanh", "LogSoftmax"),
        *("Softplus", "Softsign", "HardSigmoid", "HardSilu", "HardTanh"),
    },
    "merge": {
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Divide", "TrueDivide"),
        *SCALED_ADDITIONS,
    },
    "reshape": {
        *("Flatten", "Reshape", "Permute", "RepeatVector", "Transpose", "Squeeze", "ExpandDims", "GetItem"),
        *(*PADDING, "Cropping1D", "Cropping2D", *UPSAMPLING),
    },
}
OPERATION_KINDS = {op: kind for kind, operations in _OPERATIONS_BY_KIND.items() for op in operations}
_ADDITIONS = SCALED_ADDITIONS | {"Add"}
_SCALING = PASS_THROUGH | {"LayerScale"}
_OPERATIONS_WITH_WEIGHTS = LINEAR | {"EinsumDense"}


def layer_kind(layer: LayerInfo) -> str:
    """Return the kind of `layer`: pointwise, spatial, depthwise, dense, pool, norm, ... or other.

    Pointwise is a convolution with a 1x1 kernel in one group (any stride; the second half of a separable convolution
    too), and a Dense that is applied at every position of a map (rank 4).
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
    kind = OPERATION_KINDS.get(layer.op or "", "other")
    # `x + 3` leaves an Add with one tensor: nothing is merged there.
    return "other" if kind == "merge" and len(layer.inputs) < 2 else kind


def _convolution_kind(layer: LayerInfo) -> str:
    if layer.groups > 1 and layer.groups == layer.input_channels:
        return "depthwise"
    if layer.kernel_size > 1:
        return "spatial"
    # A 1x1 kernel in groups mixes only some of the channels: it is neither pointwise nor spatial.
    return "pointwise" if layer.groups == 1 else "other"


def pointwise_role(layer: LayerInfo, graph: LayerGraph) -> str | None:
    """Return the role of a pointwise `layer` in `graph`; None for every other kind. The first that applies:

    head: between its output and the network's outputs, which are vectors (classes, not maps), there are only
    activations, poolings, dropout and reshapes.
    projection: every layer that reads its output, through norms, activations and dropout, is an addition.
    reduce, expand, mix: it has fewer, more, or as many output channels as input channels.
    """
    if layer_kind(layer) != "pointwise":
        return None
    if _is_head(layer, graph):
        return "head"
    if _is_projection(layer, graph):
        return "projection"
    if layer.output_channels == layer.input_channels:
        return "mix"
    return "reduce" if layer.output_channels < layer.input_channels else "expand"


def _is_head(layer: LayerInfo, graph: LayerGraph) -> bool:
    pending = [layer]
    while pending:
        current = pending.pop()
        if any(tensor.index in graph.output_indices and len(tensor.shape) > 2 for tensor in current.outputs):
            return False
        for reader in graph.readers(current):
            if layer_kind(reader) not in ("activation", "pool", "reshape") and reader.op not in PASS_THROUGH:
                return False
            pending.append(reader)
    return True


def _is_projection(layer: LayerInfo, graph: LayerGraph) -> bool:
    pending, reaches_addition = [layer], False
    while pending:
        current = pending.pop()
        if any(tensor.index in graph.output_indices for tensor in current.outputs):
            return False
        for reader in graph.readers(current):
            kind = layer_kind(reader)
            if reader.op in _ADDITIONS and kind == "merge":
                reaches_addition = True
            elif kind in ("norm", "activation") or reader.op in _SCALING:
                pending.append(reader)
            else:
                return False
    return reaches_addition


def is_foldable_norm(layer: LayerInfo, graph: LayerGraph) -> bool | None:
    """Return whether `layer`, a BatchNormalization, folds into the layer before it; None for every other layer.

    It folds if it normalizes the channels of a convolution or Dense whose output nothing else reads, with no activation
    in between: its scale and shift then become part of the weights and the bias, exactly.
    """
    if layer.op != "BatchNormalization":
        return None
    if not layer.per_position:
        return False
    producer = _sole_producer(layer, graph)
    while producer and (producer.op in PASS_THROUGH or (producer.op == "BatchNormalization" and producer.per_position)):
        producer = _sole_producer(producer, graph)
    return producer is not None and producer.op in LINEAR and producer.is_linear


def _sole_producer(layer: LayerInfo, graph: LayerGraph) -> LayerInfo | None:
    """Return the layer that writes the input of `layer`; None if there is none, or if the tensor has other readers."""
    index = layer.inputs[0].index
    is_shared = index in graph.output_indices or len(graph.consumers[index]) > 1
    return None if is_shared else graph.producers.get(index)


# Blocks


@dataclasses.dataclass(frozen=True)
class _NamedLayer:
    """A layer of one model, whatever the number of its calls: its position in the model and the words of its name."""

    position: int
    words: tuple[str, ...]
    has_weights: bool
    is_merge: bool

    def prefixes(self) -> Iterator[tuple[str, ...]]:
        """Yield all prefixes of the name, shortest first, the whole name last."""
        return itertools.accumulate((word,) for word in self.words)


def find_blocks(graph: LayerGraph) -> tuple[str | None, ...]:
    """Return the block ("fire2", "inception_4a", "conv2_block1"), or None, of every layer of `graph`, in its order.

    The layers of a block share a prefix of their names, up to a "_". Where several prefixes are shared:

    1. of those that end in a word with a number, the longest whose layers are more than one convolution with its norm
       and activation: two layers with weights, or a merge; if there is none, the shortest whose layers are consecutive;
    2. of the others, the shortest whose layers are consecutive ("stem_conv", "stem_bn").

    Names that Keras made from the class ("conv2d_7") are ignored. Blocks inside a nested model or an opened layer begin
    with its path; layers there that are in no block belong to the path itself.
    """
    models: dict[str, dict[str, list[LayerInfo]]] = defaultdict(lambda: defaultdict(list))
    for layer in graph.layers:
        models[layer.scope][layer.base_name].append(layer)
    blocks = {scope: _find_model_blocks(layers, is_nested=bool(scope)) for scope, layers in models.items()}
    paths = ((layer.scope, blocks[layer.scope].get(layer.base_name)) for layer in graph.layers)
    return tuple("/".join(filter(None, path)) or None for path in paths)


def _find_model_blocks(layers: dict[str, list[LayerInfo]], is_nested: bool) -> dict[str, str]:
    """Return the block of each layer name of one model; layers in no block are left out."""
    members: dict[str, _NamedLayer] = {}
    for name, calls in layers.items():
        if re.sub(r"_\d+$", "", name).replace("_", "") != calls[0].type.lower():  # Keras made "conv2d_7" from the class
            has_weights = any(layer.op in _OPERATIONS_WITH_WEIGHTS for layer in calls)
            is_merge = any(layer_kind(layer) == "merge" for layer in calls)
            members[name] = _NamedLayer(len(members), tuple(name.split("_")), has_weights, is_merge)
    numbered = _find_numbered_blocks(members)
    blocks = numbered | _find_unnumbered_blocks([member for name, member in members.items() if name not in numbered])
    # A block that is the whole of a nested model goes by that model's path.
    return {} if is_nested and len(set(blocks.values())) == 1 and len(blocks) == len(layers) else blocks


def _find_numbered_blocks(members: dict[str, _NamedLayer]) -> dict[str, str]:
    by_prefix = defaultdict(list)
    for member in members.values():
        for prefix in member.prefixes():
            if any(character.isdigit() for character in prefix[-1]):
                by_prefix[prefix].append(member)
    groups = {prefix: group for prefix, group in by_prefix.items() if len(group) > 1}
    compound = {
        prefix
        for prefix, group in groups.items()
        if any(member.is_merge for member in group) or sum(member.has_weights for member in group) > 1
    }
    simple = {prefix for prefix, group in groups.items() if prefix not in compound and len(_runs(group)) == 1}
    blocks = {}
    for name, member in members.items():
        prefixes = list(member.prefixes())
        longest_compound = next((prefix for prefix in reversed(prefixes) if prefix in compound), None)
        prefix = longest_compound or next((prefix for prefix in prefixes if prefix in simple), None)
        if prefix:
            blocks[name] = "_".join(prefix)
    return blocks


def _find_unnumbered_blocks(members: list[_NamedLayer]) -> dict[str, str]:
    """Find blocks by the shortest prefix with a single run of layers; "conv_pad_2" and "conv_pad_4" are no block."""
    blocks: dict[str, str] = {}
    pending = [(1, members)]
    while pending:
        depth, candidates = pending.pop()
        groups = defaultdict(list)
        for member in candidates:
            if len(member.words) >= depth:
                groups[member.words[:depth]].append(member)
        for group in groups.values():
            runs = [run for run in _runs(group) if len(run) > 1]
            if len(runs) > 1:
                pending.append((depth + 1, group))
            elif runs:
                prefix = os.path.commonprefix([member.words for member in runs[0]])
                blocks |= dict.fromkeys(("_".join(member.words) for member in runs[0]), "_".join(prefix))
    return blocks


def _runs(group: Iterable[_NamedLayer]) -> list[list[_NamedLayer]]:
    """Split `group` into runs of consecutive layers; layers with automatic names may be between them."""
    runs = itertools.groupby(enumerate(group), key=lambda numbered: numbered[1].position - numbered[0])
    return [[member for _, member in run] for _, run in runs]
