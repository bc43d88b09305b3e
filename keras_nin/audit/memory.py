"""The memory that a network's tensors need while it runs, and what it moves through it."""

import itertools
from collections import Counter

from keras_nin.audit.classify import PASS_THROUGH, kind_of

# A pass-through layer is dropped at conversion, and these only give their input another shape.
_ALIASES = PASS_THROUGH | {"Flatten", "Reshape", "Squeeze", "ExpandDims"}


def peak_activation_bytes(graph, *, bits=None):
    """Return the largest number of bytes that are live at once while `graph` (`Graph`) runs.

    While a layer runs, its inputs, its output and every earlier tensor that a later layer still reads are live. Layers
    run in the graph's order, on the fused graph: an activation or a BatchNormalization that alone reads its input
    belongs to what produced it and has no tensor of its own; dropout, Flatten and Reshape share their input's memory.
    Concatenate, Add and ZeroPadding2D write tensors of their own; padding inside a convolution takes none.

    Args:
        graph: the network.
        bits: size of every element, 8 for int8; None takes each tensor's own.
    """
    home = _homes(graph)
    tensors = (*graph.inputs, *(tensor for layer in graph.layers for tensor in layer.outputs))
    size = {tensor.index: tensor.nbytes if bits is None else -(-tensor.elements * bits // 8) for tensor in tensors}
    first = {tensor.index: 0 for tensor in graph.inputs}
    last = {}
    for step, layer in enumerate(graph.layers):
        for tensor in (*layer.inputs, *layer.outputs):
            first.setdefault(home[tensor.index], step)
            last[home[tensor.index]] = step
    last |= {home[tensor.index]: len(graph.layers) for tensor in graph.outputs}

    change = Counter()
    for index, step in first.items():
        change[step] += size[index]
        change[last.get(index, step) + 1] -= size[index]
    return max(itertools.accumulate(change[step] for step in range(len(graph.layers) + 1)))


def moved_bytes(graph):
    """Return the bytes that `graph` reads and writes in one run: every layer's inputs, outputs and weights once each.

    On the fused graph, as in `peak_activation_bytes`: a layer that has no tensor of its own moves nothing, and neither
    do weights outside the graph.
    """
    home = _homes(graph)
    return sum(layer.moved_bytes for layer in graph.layers if not _has_no_tensor_of_its_own(layer, home))


def _has_no_tensor_of_its_own(layer, home):
    return {home[tensor.index] for tensor in layer.outputs} <= {home[tensor.index] for tensor in layer.inputs}


def _homes(graph):
    """Tensor index -> index of the tensor whose memory it lies in (its own, mostly)."""
    alias = _aliases(graph)
    fused = _fused(graph, alias)
    home = {}
    for index, original in alias.items():
        if index == original:
            home[index] = home[fused[index]] if index in fused else index
        else:
            home[index] = home[original]
    return home


def _aliases(graph):
    """Tensor index -> index of the tensor that it is another view of (itself, mostly), producers first."""
    alias = {tensor.index: tensor.index for tensor in graph.inputs}
    for layer in graph.layers:
        for tensor in layer.outputs:
            alias[tensor.index] = alias[layer.inputs[0].index] if layer.op in _ALIASES else tensor.index
    return alias


def _fused(graph, alias):
    """Index of the output of a fused layer -> index of its input. Only what nobody else reads may be overwritten."""
    readers = Counter()
    for layer in graph.layers:
        if layer.op not in _ALIASES:
            readers.update({alias[tensor.index] for tensor in layer.inputs})
    # The network's input has no producer to fuse with; its outputs are read from outside.
    kept = {alias[tensor.index] for tensor in (*graph.inputs, *graph.outputs)}
    fused = {}
    for layer in graph.layers:
        if kind_of(layer) == "activation" or layer.op == "BatchNormalization":
            entering = alias[layer.inputs[0].index]
            if readers[entering] == 1 and entering not in kept:
                fused[layer.outputs[0].index] = entering
    return fused
