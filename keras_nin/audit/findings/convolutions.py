"""k x k convolutions that a 1x1 reduction would make affordable."""

import math
from collections import defaultdict
from fractions import Fraction

from keras_nin.audit import count
from keras_nin.audit.classify import FOLDABLE_NORMS, WINDOW_POOLS, kind_of
from keras_nin.audit.findings import cost
from keras_nin.audit.findings.network import channels_in, channels_out, is_identity, paths, positions
from keras_nin.audit.records import Finding

# Expensive: a twentieth of the network's MACs, below which even a free layer would not be felt in the latency; and 64
# channels, whose quarter is 16, the narrowest reduction of SqueezeNet (fire2) and of Inception v1 (3a).
_SHARE = Fraction(1, 20)
_CHANNELS = 64
_FRACTION = 4


def unreduced(network):
    """Expensive k x k convolutions that no 1x1 layer with fewer outputs than inputs stands before."""
    reduced = _reduced_tensors(network)
    for layer in network.layers:
        if not _is_expensive(network, layer) or layer.inputs[0].index in reduced:
            continue
        channels, macs = channels_in(layer), count.macs(layer)
        narrow = channels // _FRACTION
        saved = cost.of(layer) - _with_reduction(layer, narrow)
        if saved.params <= 0 or saved.macs <= 0:
            continue
        message = (
            f"{_side(layer)} convolution on {channels} channels that no 1x1 layer reduces first takes "
            f"{macs / network.macs:.0%} of the MACs: after a 1x1 layer to {narrow} channels the two would take "
            f"{macs - saved.macs:,} instead of {macs:,} MACs and {layer.params - saved.params:,} instead of "
            f"{layer.params:,} params."
        )
        yield Finding("unreduced-convolution", (layer.path,), message, saved.saves)


def _is_expensive(network, layer):
    spatial = kind_of(layer) == "spatial" and layer.op in ("Conv1D", "Conv2D") and layer.groups == 1
    if not spatial or channels_in(layer) < _CHANNELS or not cost.owns_weights(layer):
        return False
    return count.macs(layer) >= _SHARE * network.macs


def _with_reduction(layer, narrow):
    """`Cost` of a 1x1 layer to `narrow` channels at every input place, and of `layer` on what it gives."""
    sizes, taps = cost.item_sizes(layer), math.prod(layer.kernel)
    reduction = cost.convolution(channels_in(layer), narrow, positions(layer.inputs[0]), sizes, use_bias=layer.use_bias)
    places = positions(layer.outputs[0])
    return reduction + cost.convolution(narrow, channels_out(layer), places, sizes, taps=taps, use_bias=layer.use_bias)


def _reduced_tensors(network):
    """Indices of the tensors that a 1x1 reduction gives, also through layers that work channel by channel."""
    reduced = set()
    for layer in network.layers:
        reduces = kind_of(layer) == "pointwise" and channels_out(layer) < channels_in(layer)
        by_channel = kind_of(layer) == "activation" or layer.op in FOLDABLE_NORMS | WINDOW_POOLS or is_identity(layer)
        padded = layer.op in ("ZeroPadding1D", "ZeroPadding2D")
        if reduces or ((by_channel or padded) and layer.inputs and layer.inputs[0].index in reduced):
            reduced |= {tensor.index for tensor in layer.outputs}
    return reduced


def naive_inception(network):
    """Inception v1 modules without reductions, at widths of the paper's table: what its own reductions save."""
    fans = _fans(network)
    reductions = _paper_reductions() if fans else {}
    for source, branches in fans.items():
        widths = (source.channels, *(channels_out(layer) for layer in branches))
        if widths in reductions:
            yield _module_finding(network, source, branches, reductions[widths])


def _paper_reductions():
    """Channels (input, 1x1, 3x3, 5x5) of GoogLeNet's modules -> (3x3 reduction, 5x5 reduction, pool projection)."""
    from keras_nin.models.googlenet import MODULES

    reductions, channels = {}, 192
    for one, reduce3, three, reduce5, five, projection in MODULES.values():
        reductions[channels, one, three, five] = (reduce3, reduce5, projection)
        channels = one + three + five + projection
    return reductions


def _fans(network):
    """Tensor -> the 1x1, 3x3 and 5x5 convolution that read it directly, where there is one of each."""
    fans = defaultdict(lambda: defaultdict(list))
    for layer in network.layers:
        plain = layer.op == "Conv2D" and layer.groups == 1 and layer.strides == layer.dilation == (1, 1)
        if plain and layer.kernel in ((1, 1), (3, 3), (5, 5)) and cost.owns_weights(layer):
            fans[layer.inputs[0]][layer.kernel[0]].append(layer)
    return {
        source: tuple(by_side[side][0] for side in (1, 3, 5))
        for source, by_side in fans.items()
        if all(len(by_side[side]) == 1 for side in (1, 3, 5))
    }


def _module_finding(network, source, branches, reductions):
    channels, (reduce3, reduce5, projection) = source.channels, reductions
    present = _projections(network, source)
    now = cost.total(cost.of(layer) for layer in (*branches, *present))
    one, three, five = branches
    sizes, places, use_bias = cost.item_sizes(three), positions(source), three.use_bias
    new = cost.of(one) + cost.total(
        cost.convolution(inputs, outputs, places, sizes, taps=taps, use_bias=use_bias)
        for inputs, outputs, taps in (
            (channels, reduce3, 1),
            (reduce3, channels_out(three), 9),
            (channels, reduce5, 1),
            (reduce5, channels_out(five), 25),
            (channels, projection, 1),
        )
    )
    before = sum(cost.kernel_weights(layer) for layer in (*branches, *present))
    after = new.macs // places
    message = (
        f"Inception module without reductions: with the paper's own (1x1 to {reduce3} before the 3x3, to {reduce5} "
        f"before the 5x5, pool projection to {projection}) its weights go from {before:,} to {after:,} and its MACs "
        f"from {now.macs:,} to {new.macs:,}."
    )
    return Finding("inception-without-reductions", paths((*branches, *present)), message, (now - new).saves)


def _projections(network, source):
    """1x1 layers on a pooling of `source` that keeps its size: pool projections of the module."""
    pools = [layer for layer in network.graph.consumers[source.index] if layer.op in WINDOW_POOLS]
    readers = [reader for pool in pools if pool.strides == (1, 1) for reader in network.graph.readers(pool)]
    return [layer for layer in readers if kind_of(layer) == "pointwise" and cost.owns_weights(layer)]


def _side(layer):
    return "x".join(map(str, layer.kernel))
