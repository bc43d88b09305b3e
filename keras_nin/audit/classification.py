"""What a layer is in its graph: the role of a 1x1 layer, whether a BatchNormalization folds, and its block."""

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from keras_nin.audit import operations as ops
from keras_nin.audit.graph import LayerGraph, LayerInfo

_ADDITIONS = ops.SCALED_ADDITIONS | {"Add"}
_SCALING = ops.PASS_THROUGH | {"LayerScale"}
_AUTOMATIC_NAMES = {class_name.lower() for class_name in ops.LAYER_CLASSES}


def pointwise_role(layer: LayerInfo, graph: LayerGraph) -> str | None:
    """Return the role of a pointwise `layer` in `graph`; None for every other kind. The first that applies:

    head: only activations, poolings, dropout and reshapes follow, up to vectors or to a softmax or an argmax over the
        channels of a map, as in segmentation.
    projection: every layer that reads its output, through norms, activations and dropout, is an addition.
    reduce, expand, mix: it has fewer, more, or as many output channels as input channels.
    """
    if layer.kind != "pointwise":
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
    for current in pending:  # which grows meanwhile
        is_map = any(tensor.index in graph.output_indices and len(tensor.shape) > 2 for tensor in current.outputs)
        if is_map and current.op not in ("Softmax", "Argmax") and current.activation != "softmax":
            return False
        for reader in graph.readers(current):
            is_passed = reader.op == "Argmax" or reader.op in ops.PASS_THROUGH
            if reader.kind not in ("activation", "pool", "reshape") and not is_passed:
                return False
            pending.append(reader)
    return True


def _is_projection(layer: LayerInfo, graph: LayerGraph) -> bool:
    pending, reaches_addition = [layer], False
    for current in pending:  # which grows meanwhile
        if graph.is_output(current):
            return False
        for reader in graph.readers(current):
            if reader.op in _ADDITIONS and reader.kind == "merge":
                reaches_addition = True
            elif reader.kind in ("norm", "activation") or reader.op in _SCALING:
                pending.append(reader)
            else:
                return False
    return reaches_addition


def is_foldable_norm(layer: LayerInfo, graph: LayerGraph) -> bool | None:
    """Return whether a BatchNormalization folds exactly into the linear layer before it; None for other layers."""
    if layer.op != "BatchNormalization":
        return None
    current: LayerInfo | None = layer
    while current and (current.op in ops.PASS_THROUGH or (current.op == layer.op and current.per_position)):
        index = current.inputs[0].index
        is_shared = index in graph.output_indices or len(graph.consumers[index]) > 1
        current = None if is_shared else graph.producers.get(index)
    return current is not None and current.op in ops.LINEAR and current.is_linear


# Blocks


class _NamedLayer(NamedTuple):
    """A layer of one model, whatever the number of its calls: its position in the model and the words of its name."""

    position: int
    words: tuple[str, ...]
    has_weights: bool
    is_merge: bool

    def prefixes(self) -> list[tuple[str, ...]]:
        """Return all prefixes of the name, shortest first, the whole name last."""
        return [self.words[: length + 1] for length in range(len(self.words))]


def find_blocks(graph: LayerGraph) -> tuple[str | None, ...]:
    """Return the block ("fire2", "inception_4a", "conv2_block1"), or None, of every layer of `graph`, in its order.

    The layers of a block share a prefix of their names, up to a "_": of those that end in a word with a number, the
    longest whose layers are more than one convolution with its norm and activation (two layers with weights, or a
    merge), else the shortest whose layers are consecutive; of the others, the shortest whose layers are consecutive.
    Names that Keras made from the class ("conv2d_7") are ignored, also in a file. Blocks inside a nested model or an
    opened layer begin with its path; layers there that are in no block belong to the path itself.
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
        class_name = re.sub(r"_\d+$", "", name).replace("_", "")  # "conv2d_7" is Keras's name for any Conv2D
        if class_name != calls[0].type.lower() and class_name not in _AUTOMATIC_NAMES:
            has_weights = any(layer.op in ops.LINEAR or layer.op == "EinsumDense" for layer in calls)
            is_merge = any(layer.kind == "merge" for layer in calls)
            members[name] = _NamedLayer(len(members), tuple(name.split("_")), has_weights, is_merge)
    numbered = _find_numbered_blocks(members)
    blocks = numbered | _find_unnumbered_blocks([member for name, member in members.items() if name not in numbered])
    # A block that is the whole of a nested model goes by that model's path.
    return {} if is_nested and len(set(blocks.values())) == 1 and len(blocks) == len(layers) else blocks


def _find_numbered_blocks(members: dict[str, _NamedLayer]) -> dict[str, str]:
    groups = defaultdict(list)
    for member in members.values():
        for prefix in member.prefixes():
            if any(character.isdigit() for character in prefix[-1]):
                groups[prefix].append(member)
    compound, simple = set(), set()
    for prefix, group in groups.items():
        has_merge, with_weights = any(layer.is_merge for layer in group), sum(layer.has_weights for layer in group)
        if len(group) > 1 and (has_merge or with_weights > 1):
            compound.add(prefix)
        elif len(group) > 1 and len(_runs(group)) == 1:
            simple.add(prefix)
    blocks = {}
    for name, member in members.items():
        prefixes = member.prefixes()
        longest_compound = next((prefix for prefix in reversed(prefixes) if prefix in compound), None)
        if prefix := longest_compound or next((prefix for prefix in prefixes if prefix in simple), None):
            blocks[name] = "_".join(prefix)
    return blocks


def _find_unnumbered_blocks(members: list[_NamedLayer]) -> dict[str, str]:
    """Find blocks by the shortest prefix with a single run of layers; "conv_pad_2" and "conv_pad_4" are no block."""
    blocks: dict[str, str] = {}
    pending = [(1, members)]
    for depth, candidates in pending:  # which grows meanwhile
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
