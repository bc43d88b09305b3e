"""What a layer is: its kind, its role where it is a 1x1 layer, and whether a BatchNormalization folds."""

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass

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
OPERATION_KINDS = {op: kind for kind, ops in _KINDS.items() for op in ops}


def layer_kind(layer):
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
    kind = OPERATION_KINDS.get(layer.op, "other")
    # `x + 3` leaves an Add with one tensor: nothing is merged there.
    return "other" if kind == "merge" and len(layer.inputs) < 2 else kind


def _convolution_kind(layer):
    if layer.groups > 1 and layer.groups == layer.inputs[0].channels:
        return "depthwise"
    if set(layer.kernel) != {1}:
        return "spatial"
    # A 1x1 kernel in groups mixes only some of the channels: it is neither pointwise nor spatial.
    return "pointwise" if layer.groups == 1 else "other"


def pointwise_role(layer, graph):
    """Return the role of a pointwise `layer` in `graph`; None for every other kind. The first that fits:

    head: from its output to the network's outputs, which are vectors (classes, no maps), there are only activations,
    poolings, dropout and reshapes.
    projection: all that reads its output, through norms, activations and dropout, is an addition.
    reduce, expand, mix: fewer, more, or as many channels leave as enter.
    """
    if layer_kind(layer) != "pointwise":
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
            if layer_kind(reader) not in ("activation", "pool", "reshape") and reader.op not in PASS_THROUGH:
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
            if reader.op in _ADDITIONS and layer_kind(reader) == "merge":
                ends_in_addition = True
            elif layer_kind(reader) in ("norm", "activation") or reader.op in _SCALING:
                waiting.append(reader)
            else:
                return False
    return ends_in_addition


def is_foldable_norm(layer, graph):
    """Return whether `layer` of `graph`, a BatchNormalization, folds into what feeds it; None for every other layer.

    It does where it normalises the channels of a convolution or Dense that nobody else reads, and no activation lies
    between the two: its scale and shift then become part of the weights and the bias, exactly.
    """
    if layer.op != "BatchNormalization":
        return None
    if not layer.per_position:
        return False
    feeder = _sole_producer(layer, graph)
    while feeder and (feeder.op in PASS_THROUGH or feeder.op == "BatchNormalization" and feeder.per_position):
        feeder = _sole_producer(feeder, graph)
    return feeder is not None and feeder.op in LINEAR and feeder.is_linear


def _sole_producer(layer, graph):
    """What produces the input of `layer`; None where there is no producer, or the tensor is read elsewhere too."""
    index = layer.inputs[0].index
    shared = index in graph.output_indices or len(graph.consumers[index]) > 1
    return None if shared else graph.producers.get(index)


# MERGED The blocks of a network ("fire2", "inception_4a", "conv2_block1"), from the names of its layers and its nesting.

_OPERATIONS_WITH_WEIGHTS = LINEAR | {"EinsumDense"}


@dataclass(frozen=True)
class _NamedLayer:
    """A named layer of one model, once for all its rows: its place among them, and the words of its name."""

    place: int
    words: tuple[str, ...]
    weighted: bool
    merges: bool

    def prefixes(self):
        """All beginnings of the name, the whole of it included, shortest first."""
        return itertools.accumulate((word,) for word in self.words)


def find_blocks(graph):
    """Return the block name, or None, of every layer of `graph` (`Graph`), in its order.

    Layers of one block share the beginning of their names, up to a "_". Where several beginnings are shared:

    1. of those that end in a word with a number ("fire2", "inception_4a", "block_1"), the longest whose layers are more
       than one convolution with its norm and activation: two layers with weights, or a merge; if there is none, the
       shortest whose layers follow one another;
    2. of the others, the shortest whose layers follow one another ("stem_conv", "stem_bn").

    Names that Keras made from the class ("conv2d_7") say nothing. Inside a nested model or an opened layer the blocks
    carry its path, and what is in none of them belongs to the path itself.
    """
    models = defaultdict(dict)
    for layer in graph.layers:
        models[layer.scope].setdefault(_layer_name(layer), []).append(layer)
    blocks = {scope: _find_model_blocks(layers, nested=bool(scope)) for scope, layers in models.items()}
    return tuple(_block_path(layer.scope, blocks[layer.scope].get(_layer_name(layer))) for layer in graph.layers)


def _block_path(scope, block):
    return "/".join(part for part in (scope, block) if part) or None


def _layer_name(layer):
    """The layer's name without what the audit appended: the half of a separable convolution, the number of the use."""
    return layer.name.split("/")[0].split(" (")[0]


def _find_model_blocks(layers, nested):
    """Name -> block, for the layers of one model (name -> its `LayerInfo`s) that are in one."""
    named = [(name, uses) for name, uses in layers.items() if not _is_automatic_name(name, uses[0].type)]
    members = {name: _named_layer(place, name, uses) for place, (name, uses) in enumerate(named)}
    numbered = _find_numbered_blocks(members)
    blocks = numbered | _find_unnumbered_blocks([member for name, member in members.items() if name not in numbered])
    # A block that is the whole of a nested model has that model's own path.
    return {} if nested and len(set(blocks.values())) == 1 and len(blocks) == len(layers) else blocks


def _is_automatic_name(name, layer_type):
    """Whether Keras made `name` from the layer's class: "conv2d_7", "batch_normalization"."""
    return re.sub(r"_\d+$", "", name).replace("_", "") == layer_type.lower()


def _named_layer(place, name, uses):
    return _NamedLayer(
        place,
        tuple(name.split("_")),
        weighted=any(layer.op in _OPERATIONS_WITH_WEIGHTS for layer in uses),
        merges=any(layer_kind(layer) == "merge" for layer in uses),
    )


def _find_numbered_blocks(members):
    groups = defaultdict(list)
    for member in members.values():
        for prefix in member.prefixes():
            if any(character.isdigit() for character in prefix[-1]):
                groups[prefix].append(member)
    groups = {prefix: group for prefix, group in groups.items() if len(group) > 1}
    compound = {prefix for prefix, group in groups.items() if _is_compound_block(group)}
    simple = {
        prefix for prefix, group in groups.items() if prefix not in compound and len(_consecutive_runs(group)) == 1
    }
    blocks = {}
    for name, member in members.items():
        prefixes = list(member.prefixes())
        longest_compound = [prefix for prefix in prefixes if prefix in compound][-1:]
        shortest_simple = [prefix for prefix in prefixes if prefix in simple][:1]
        for prefix in longest_compound or shortest_simple:
            blocks[name] = "_".join(prefix)
    return blocks


def _is_compound_block(group):
    return any(member.merges for member in group) or sum(member.weighted for member in group) > 1


def _find_unnumbered_blocks(members):
    """Blocks by the shortest beginning that only one run of layers has; "conv_pad_2" and "conv_pad_4" make none."""
    blocks, waiting = {}, [(1, members)]
    while waiting:
        depth, candidates = waiting.pop()
        groups = defaultdict(list)
        for member in candidates:
            if len(member.words) >= depth:
                groups[member.words[:depth]].append(member)
        for group in groups.values():
            runs = [run for run in _consecutive_runs(group) if len(run) > 1]
            if len(runs) > 1:
                waiting.append((depth + 1, group))
            for run in runs if len(runs) == 1 else ():
                blocks |= dict.fromkeys(("_".join(member.words) for member in run), _common_prefix(run))
    return blocks


def _consecutive_runs(group):
    """The members of `group` that follow one another, as lists; layers with automatic names may lie between them."""
    runs = itertools.groupby(enumerate(group), key=lambda numbered: numbered[1].place - numbered[0])
    return [[member for _, member in run] for _, run in runs]


def _common_prefix(run):
    columns = zip(*(member.words for member in run), strict=False)
    return "_".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
