"""The blocks of a network ("fire2", "inception_4a", "conv2_block1"), from the names of its layers and its nesting."""

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass

from keras_nin.audit import classify

_WEIGHTED = classify.LINEAR | {"EinsumDense"}


@dataclass(frozen=True)
class _Member:
    """A named layer of one model, once for all its rows: its place among them, and the words of its name."""

    place: int
    words: tuple[str, ...]
    weighted: bool
    merges: bool

    def prefixes(self):
        """All beginnings of the name, the whole of it included, shortest first."""
        return itertools.accumulate((word,) for word in self.words)


def blocks_of(graph):
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
        models[layer.scope].setdefault(_own_name(layer), []).append(layer)
    blocks = {scope: _blocks_in_model(layers, nested=bool(scope)) for scope, layers in models.items()}
    return tuple(_path(layer.scope, blocks[layer.scope].get(_own_name(layer))) for layer in graph.layers)


def _path(scope, block):
    return "/".join(part for part in (scope, block) if part) or None


def _own_name(layer):
    """The layer's name without what the audit appended: the half of a separable convolution, the number of the use."""
    return layer.name.split("/")[0].split(" (")[0]


def _blocks_in_model(layers, nested):
    """Name -> block, for the layers of one model (name -> its `LayerInfo`s) that are in one."""
    named = [(name, uses) for name, uses in layers.items() if not _is_automatic(name, uses[0].type)]
    members = {name: _member(place, name, uses) for place, (name, uses) in enumerate(named)}
    numbered = _numbered_blocks(members)
    blocks = numbered | _plain_blocks([member for name, member in members.items() if name not in numbered])
    # A block that is the whole of a nested model has that model's own path.
    return {} if nested and len(set(blocks.values())) == 1 and len(blocks) == len(layers) else blocks


def _is_automatic(name, layer_type):
    """Whether Keras made `name` from the layer's class: "conv2d_7", "batch_normalization"."""
    return re.sub(r"_\d+$", "", name).replace("_", "") == layer_type.lower()


def _member(place, name, uses):
    return _Member(
        place,
        tuple(name.split("_")),
        weighted=any(layer.op in _WEIGHTED for layer in uses),
        merges=any(classify.kind_of(layer) == "merge" for layer in uses),
    )


def _numbered_blocks(members):
    groups = defaultdict(list)
    for member in members.values():
        for prefix in member.prefixes():
            if any(character.isdigit() for character in prefix[-1]):
                groups[prefix].append(member)
    groups = {prefix: group for prefix, group in groups.items() if len(group) > 1}
    compound = {prefix for prefix, group in groups.items() if _is_compound(group)}
    simple = {prefix for prefix, group in groups.items() if prefix not in compound and len(_runs(group)) == 1}
    blocks = {}
    for name, member in members.items():
        prefixes = list(member.prefixes())
        longest_compound = [prefix for prefix in prefixes if prefix in compound][-1:]
        shortest_simple = [prefix for prefix in prefixes if prefix in simple][:1]
        for prefix in longest_compound or shortest_simple:
            blocks[name] = "_".join(prefix)
    return blocks


def _is_compound(group):
    return any(member.merges for member in group) or sum(member.weighted for member in group) > 1


def _plain_blocks(members):
    """Blocks by the shortest beginning that only one run of layers has; "conv_pad_2" and "conv_pad_4" make none."""
    blocks, waiting = {}, [(1, members)]
    while waiting:
        depth, candidates = waiting.pop()
        groups = defaultdict(list)
        for member in candidates:
            if len(member.words) >= depth:
                groups[member.words[:depth]].append(member)
        for group in groups.values():
            runs = [run for run in _runs(group) if len(run) > 1]
            if len(runs) > 1:
                waiting.append((depth + 1, group))
            for run in runs if len(runs) == 1 else ():
                blocks |= dict.fromkeys(("_".join(member.words) for member in run), _common_beginning(run))
    return blocks


def _runs(group):
    """The members of `group` that follow one another, as lists; layers with automatic names may lie between them."""
    runs = itertools.groupby(enumerate(group), key=lambda numbered: numbered[1].place - numbered[0])
    return [[member for _, member in run] for _, run in runs]


def _common_beginning(run):
    columns = zip(*(member.words for member in run), strict=False)
    return "_".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
