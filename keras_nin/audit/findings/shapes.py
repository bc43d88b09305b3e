"""Layers with shapes that cost more than they need: unreduced convolutions, unaligned channels, heavy heads."""

import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction

from keras_nin.audit import operations as ops
from keras_nin.audit.arithmetic import count_macs
from keras_nin.audit.findings import network as costs
from keras_nin.audit.findings.network import Cost, FindingsNetwork, layer_cost, make_finding, owns_weights
from keras_nin.audit.graph import LayerInfo
from keras_nin.audit.records import Finding

# Expensive: a twentieth of the network's MACs, below which even a free layer would not be felt in the latency; and 64
# channels, a quarter of which is 16, the narrowest reduction of SqueezeNet (fire2) and of Inception v1 (3a).
_EXPENSIVE_SHARE = Fraction(1, 20)
_EXPENSIVE_CHANNELS = 64
_REDUCTION_FACTOR = 4
_VECTOR_WIDTH = 8
_HALF_VECTOR = 4
# A head below a tenth of the parameters is not worth another head, which has to be trained anew.
LARGE_HEAD = Fraction(1, 10)
HEAVY_HEAD = Fraction(3, 10)

_CHANNELWISE_KINDS = ("activation", "pool", "norm", "reshape")
_INCEPTION_KERNELS = [(1, 1), (3, 3), (5, 5)]


def find_unreduced_convolutions(network: FindingsNetwork) -> Iterator[Finding]:
    """Find expensive k x k convolutions that no 1x1 layer with fewer outputs than inputs precedes."""
    reduced = _reduced_tensors(network)
    for layer in network.layers:
        is_spatial = layer.kind == "spatial" and layer.op in ops.CONVOLUTIONS and layer.groups == 1
        if not is_spatial or layer.input_channels < _EXPENSIVE_CHANNELS or not owns_weights(layer):
            continue
        cost, (source, result) = layer_cost(layer), (layer.inputs[0], layer.outputs[0])
        if cost.macs < _EXPENSIVE_SHARE * network.macs or source.index in reduced:
            continue
        narrow = source.channels // _REDUCTION_FACTOR
        less = costs.convolution_cost(layer, source.channels, narrow, source.positions)
        less += costs.convolution_cost(layer, narrow, result.channels, result.positions, taps=layer.kernel_size)
        if less.params < cost.params and less.macs < cost.macs:
            values = {"kernel": "x".join(map(str, layer.kernel or ())), "channels": source.channels, "narrow": narrow}
            values |= {"cost": cost, "less": less, "share": cost.macs / network.macs}
            yield make_finding("unreduced-convolution", [layer], cost - less, **values)


def _reduced_tensors(network: FindingsNetwork) -> set[int]:
    """Return indices of the tensors that a 1x1 reduction writes, also through layers that work channel by channel."""
    reduced: set[int] = set()
    by_channel = ops.FOLDABLE_NORMS | ops.WINDOW_POOLS | ops.PADDING
    for layer in network.layers:
        reduces = layer.kind == "pointwise" and layer.output_channels < layer.input_channels
        passes = layer.kind == "activation" or layer.op in by_channel or layer.is_identity
        if reduces or (passes and layer.inputs and layer.inputs[0].index in reduced):
            reduced |= {tensor.index for tensor in layer.outputs}
    return reduced


def find_naive_inception(network: FindingsNetwork) -> Iterator[Finding]:
    """Find Inception v1 modules without reductions, at widths of the paper's table: what its reductions save."""
    for readers in network.graph.consumers.values():
        branches = sorted(
            (layer for layer in readers if layer.kernel in _INCEPTION_KERNELS and _is_plain_convolution(layer)),
            key=lambda layer: layer.kernel or (),
        )
        if [layer.kernel for layer in branches] == _INCEPTION_KERNELS:
            widths = (branches[0].input_channels, *(layer.output_channels for layer in branches))
            if reductions := _paper_reductions().get(widths):
                yield _inception_finding(network, branches, reductions)


def _is_plain_convolution(layer: LayerInfo) -> bool:
    is_dense = layer.groups == 1 and layer.strides == layer.dilation == (1, 1)
    return layer.op == "Conv2D" and is_dense and owns_weights(layer)


@functools.cache
def _paper_reductions() -> dict[tuple[int, ...], tuple[int, int, int]]:
    """Return channels (input, 1x1, 3x3, 5x5) of GoogLeNet's modules -> (3x3 reduce, 5x5 reduce, pool projection)."""
    from keras_nin.models.googlenet import MODULES

    reductions, channels = {}, 192
    for pointwise, reduce3x3, conv3x3, reduce5x5, conv5x5, projection in MODULES.values():
        reductions[channels, pointwise, conv3x3, conv5x5] = (reduce3x3, reduce5x5, projection)
        channels = pointwise + conv3x3 + conv5x5 + projection
    return reductions


def _inception_finding(
    network: FindingsNetwork, branches: Sequence[LayerInfo], reductions: tuple[int, int, int]
) -> Finding:
    (pointwise, conv3x3, conv5x5), (reduce3x3, reduce5x5, projection) = branches, reductions
    source, channels = pointwise.inputs[0], pointwise.input_channels
    # The 1x1 layers after a pooling with stride 1 are the pool projections of a module.
    pools = [layer for layer in network.graph.consumers[source.index] if layer.op in ops.WINDOW_POOLS]
    readers = [reader for pool in pools if pool.strides == (1, 1) for reader in network.graph.readers(pool)]
    layers = (*branches, *(layer for layer in readers if layer.kind == "pointwise" and owns_weights(layer)))
    cost, less = layer_cost(*layers), layer_cost(pointwise)
    chain3x3 = [(channels, reduce3x3, 1), (reduce3x3, conv3x3.output_channels, 3 * 3)]
    chain5x5 = [(channels, reduce5x5, 1), (reduce5x5, conv5x5.output_channels, 5 * 5)]
    for inputs, outputs, taps in (*chain3x3, *chain5x5, (channels, projection, 1)):
        less += costs.convolution_cost(conv3x3, inputs, outputs, source.positions, taps=taps)
    values = {"reduce3x3": reduce3x3, "reduce5x5": reduce5x5, "projection": projection, "cost": cost, "less": less}
    weights = {"weights": sum(map(costs.count_kernel_weights, layers)), "less_weights": less.macs // source.positions}
    return make_finding("inception-without-reductions", layers, cost - less, **values, **weights)


# Channels


def find_unaligned_channels(network: FindingsNetwork) -> Iterator[Finding]:
    """Find convolutions with output channels that are no multiple of 8, or not even of 4. One finding for the network.

    Channels that enter or leave the network (classes, a mask) are determined by the task and are no fault; at a single
    position (squeeze and excitation) the waste is too small to see.
    """
    task_layers, unaligned, padding = _task_layers(network), [], Cost()
    for layer in network.layers:
        is_convolution = layer.op in ops.CONVOLUTIONS and owns_weights(layer) and id(layer) not in task_layers
        if not is_convolution or layer.outputs[0].positions <= 1 or layer.output_channels % _VECTOR_WIDTH == 0:
            continue
        unaligned.append(layer)
        missing = -layer.output_channels % _VECTOR_WIDTH
        weights = costs.count_kernel_weights(layer) // layer.output_channels * missing
        macs = (count_macs(layer) or 0) // layer.output_channels * missing
        padding += costs.weights_cost(layer, weights, layer.use_bias * missing, macs)
    if padding.macs:  # a map of no elements needs none
        noun = "convolutions have a number" if len(unaligned) > 1 else "convolution has a number"
        yield make_finding(
            "unaligned-channels",
            unaligned,
            Cost() - padding,
            count=f"{len(unaligned)} {noun}",
            odd=sum(layer.output_channels % _HALF_VECTOR != 0 for layer in unaligned),
            idle=padding.macs / (padding.macs + layer_cost(*unaligned).macs),
            padding=padding,
        )


def _task_layers(network: FindingsNetwork) -> set[int]:
    """Return ids of the layers with channels that leave the network unchanged."""
    task_layers = {id(layer) for layer in network.head}
    for layer in reversed(network.layers):
        readers = network.graph.readers(layer)
        keep_channels = all(
            id(reader) in task_layers and (reader.kind in _CHANNELWISE_KINDS or reader.is_identity)
            for reader in readers
        )
        if network.graph.is_output(layer) or (readers and keep_channels):
            task_layers.add(id(layer))
    return task_layers


# Heads


def find_dense_as_pointwise(network: FindingsNetwork) -> Iterator[Finding]:
    """Find Dense layers on a pooled or 1x1 map: 1x1 layers under another name. One finding for the network."""
    single_position: set[int] = set()  # indices of vectors that stand for one position of a map
    dense = []
    for layer in network.layers:
        if _outputs_single_position(layer, single_position):
            single_position |= {tensor.index for tensor in layer.outputs}
            dense += [layer] if layer.kind == "dense" else []
    if dense:
        verb = "is a 1x1 layer" if len(dense) == 1 else "are 1x1 layers"
        takes_sequences = all(len(tensor.shape) < 4 for tensor in network.graph.inputs)
        convolution, larger = ("Conv1D", "longer sequences") if takes_sequences else ("Conv2D", "larger images")
        yield make_finding("dense-is-pointwise", dense, Cost(), verb=verb, convolution=convolution, larger=larger)


def _outputs_single_position(layer: LayerInfo, single_position: set[int]) -> bool:
    if len(layer.inputs) != 1 or len(layer.outputs) != 1 or len(layer.outputs[0].shape) != 2:
        return False
    source = layer.inputs[0]
    if len(source.shape) == 2:
        is_per_vector = layer.kind in ("activation", "dense", "norm") or layer.op in ops.PASS_THROUGH
        return source.index in single_position and is_per_vector
    flattens = layer.kind == "reshape" and source.positions == 1 and source.elements == layer.output_elements
    return layer.op in ops.GLOBAL_POOLS or flattens


def find_flattened_heads(network: FindingsNetwork) -> Iterator[Finding]:
    """Find Dense heads on a flattened map with much of the network: what a 1x1 layer and an average would need."""
    head = {id(layer) for layer in network.head}
    for layer in network.layers:
        shapes = [tensor.shape for tensor in (*layer.inputs, *layer.outputs)]
        flattens = layer.kind == "reshape" and [*map(len, shapes)] == [4, 2] and layer.inputs[0].positions > 1
        if not flattens or layer.inputs[0].elements != layer.output_elements:
            continue
        dense, norms = _dense_chain(network, layer)
        if not dense or not all(id(part) in head and owns_weights(part) for part in dense):
            continue
        cost = layer_cost(*dense, *norms)
        (_, height, width, channels), last = shapes[0], dense[-1]
        outputs = last.output_channels
        needed = costs.convolution_cost(last, channels, outputs, height * width)
        if cost.params >= LARGE_HEAD * network.params and needed.params < cost.params:
            sides = {"height": height, "width": width, "channels": channels, "outputs": outputs}
            yield make_finding("flatten-dense-head", (layer, *dense), cost - needed, cost=cost, needed=needed, **sides)


def _dense_chain(network: FindingsNetwork, layer: LayerInfo) -> tuple[list[LayerInfo], list[LayerInfo]]:
    """Return the Dense layers and norms that follow `layer` one after the other, up to the network's output."""
    dense, norms = [], []
    while (reader := network.sole_reader(layer)) is not None:
        if reader.kind == "dense":
            dense.append(reader)
        elif reader.op in ops.FOLDABLE_NORMS:
            norms.append(reader)
        elif reader.kind != "activation" and reader.op not in ops.PASS_THROUGH:
            return [], []
        layer = reader
    return (dense, norms) if network.graph.is_output(layer) else ([], [])


def find_heavy_heads(network: FindingsNetwork) -> Iterator[Finding]:
    """Find a head with more than 30% of the parameters."""
    head, cost = network.head, layer_cost(*network.head)
    is_whole_network = len(head) == sum(owns_weights(layer) for layer in network.layers)
    if head and cost.params > HEAVY_HEAD * network.params and not is_whole_network:
        share, rest = cost.params / network.params, network.params - cost.params
        values = {"total": network.params, "share": share, "rest": rest, "outputs": head[-1].output_channels}
        yield make_finding("heavy-head", head, cost, each=head[-1].input_channels + head[-1].use_bias, **values)
