"""What a pruned network and the original one both compute: the channels of each layer that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.prune.channels import ChannelGraph
from keras_nin.prune.surgery import remove_channels

if TYPE_CHECKING:
    import keras


def pair_features(
    graph: ChannelGraph, kept: Mapping[str, Sequence[int]], pruned: keras.Model
) -> tuple[keras.Model, keras.Model]:
    """Return the original and the pruned network with more outputs: those of each layer in the channels that stay.

    The second network shares the layers of `pruned`, so that training one trains the other. Behind the outputs of the
    network come (B, ..., C) of each layer, in the same order and with the same shapes in both. Layers that are called
    more than once are left out.

    Args:
        graph, kept: of the original network, and which of its channels each layer keeps, by its name; all where it is
            missing.
        pruned: the network without the others.
    """
    import keras

    original = remove_channels(graph, np.empty(0, np.int64))
    layers = [{layer.name: layer for layer in model.layers} for model in (original, pruned)]
    outputs: list[list[Any]] = [list(original.outputs), list(pruned.outputs)]
    for entry in graph.layers.values():
        joined = entry.name.replace("/", "_")
        name = joined if joined in layers[0] else entry.layer.name
        if entry.outputs is None or len(entry.slots) != 1 or any(name not in side for side in layers):
            continue
        before, after = (side[name].output for side in layers)
        if entry.name in kept:
            before = keras.ops.take(before, np.array(kept[entry.name], np.int32), axis=-1)
        outputs[0].append(before)
        outputs[1].append(after)
    return keras.Model(original.input, outputs[0], name=original.name), keras.Model(pruned.input, outputs[1])
