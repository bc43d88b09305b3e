"""Layers with shapes that cost more than they need: unreduced convolutions, unaligned channels, heavy heads."""

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction

from keras_nin.audit.arithmetic import count_macs
from keras_nin.audit.classification import (
    CONVOLUTIONS,
    FOLDABLE_NORMS,
    GLOBAL_POOLS,
    PADDING,
    PASS_THROUGH,
    WINDOW_POOLS,
    layer_kind,
)
from keras_nin.audit.findings.network import (
    Cost,
    FindingsNetwork,
    convolution_cost,
    count_kernel_weights,
    format_layer_names,
    infer_item_sizes,
    is_identity,
    layer_cost,
    layer_paths,
    owns_weights,
    sum_costs,
)
from keras_nin.audit.graph import ActivationTensor, LayerInfo
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

_Branches = tuple[LayerInfo, LayerInfo, LayerInfo]


def find_unreduced_convolutions(network: FindingsNetwork) -> Iterator[Finding]:
    """Find expensive k x k convolutions that no 1x1 layer with fewer outputs than inputs precedes."""
    reduced = _reduced_tensors(network)
    for layer in network.layers:
        is_spatial = layer_kind(layer) == "spatial" and layer.op in CONVOLUTIONS and layer.groups == 1
        if not is_spatial or layer.input_channels < _EXPENSIVE_CHANNELS or not owns_weights(layer):
            continue
        cost, sizes, use_bias = layer_cost(layer), infer_item_sizes(layer), layer.use_bias
        if cost.macs < _EXPENSIVE_SHARE * network.macs or layer.inputs[0].index in reduced:
            continue
        narrow, (source, result) = layer.input_channels // _REDUCTION_FACTOR, (layer.inputs[0], layer.outputs[0])
        reduction = convolution_cost(source.channels, narrow, source.positions, sizes, use_bias=use_bias)
        rest = convolution_cost(
            narrow, result.channels, result.positions, sizes, taps=layer.kernel_size, use_bias=use_bias
        )
        savings = cost - reduction - rest
        if savings.params <= 0 or savings.macs <= 0:
            continue
        message = (
            f"{'x'.join(map(str, layer.kernel or ()))} convolution on {layer.input_channels} channels that no 1x1 "
            f"layer reduces first takes {cost.macs / network.macs:.1%} of the MACs: after a 1x1 layer to {narrow} "
            f"channels the two would take {cost.macs - savings.macs:,} instead of {cost.macs:,} MACs and "
            f"{cost.params - savings.params:,} instead of {cost.params:,} params."
        )
        yield Finding("unreduced-convolution", (layer.path,), message, savings.saves)


def _reduced_tensors(network: FindingsNetwork) -> set[int]:
    """Return indices of the tensors that a 1x1 reduction writes, also through layers that work channel by channel."""
    reduced: set[int] = set()
    by_channel = FOLDABLE_NORMS | WINDOW_POOLS | PADDING
    for layer in network.layers:
        reduces = layer_kind(layer) == "pointwise" and layer.output_channels < layer.input_channels
        passes = layer_kind(layer) == "activation" or layer.op in by_channel or is_identity(layer)
        if reduces or (passes and layer.inputs and layer.inputs[0].index in reduced):
            reduced |= {tensor.index for tensor in layer.outputs}
    return reduced


def find_naive_inception(network: FindingsNetwork) -> Iterator[Finding]:
    """Find Inception v1 modules without reductions, at widths of the paper's table: what its reductions save."""
    modules = _find_inception_branches(network)
    reductions = _paper_reductions() if modules else {}
    for source, branches in modules.items():
        widths = (source.channels, *(layer.output_channels for layer in branches))
        if widths in reductions:
            yield _inception_finding(network, source, branches, reductions[widths])


def _paper_reductions() -> dict[tuple[int, ...], tuple[int, int, int]]:
    """Return channels (input, 1x1, 3x3, 5x5) of GoogLeNet's modules -> (3x3 reduce, 5x5 reduce, pool projection)."""
    from keras_nin.models.googlenet import MODULES

    reductions, channels = {}, 192
    for pointwise, reduce3x3, conv3x3, reduce5x5, conv5x5, projection in MODULES.values():
        reductions[channels, pointwise, conv3x3, conv5x5] = (reduce3x3, reduce5x5, projection)
        channels = pointwise + conv3x3 + conv5x5 + projection
    return reductions


def _find_inception_branches(network: FindingsNetwork) -> dict[ActivationTensor, _Branches]:
    """Return tensor -> the 1x1, 3x3 and 5x5 convolution that read it directly, where there is one of each."""
    readers: dict[ActivationTensor, dict[int, list[LayerInfo]]] = defaultdict(lambda: defaultdict(list))
    for layer in network.layers:
        is_plain = layer.op == "Conv2D" and layer.groups == 1 and layer.strides == layer.dilation == (1, 1)
        if is_plain and layer.kernel in ((1, 1), (3, 3), (5, 5)) and owns_weights(layer):
            readers[layer.inputs[0]][layer.kernel[0]].append(layer)
    return {
        source: (by_side[1][0], by_side[3][0], by_side[5][0])
        for source, by_side in readers.items()
        if all(len(by_side[side]) == 1 for side in (1, 3, 5))
    }


def _inception_finding(
    network: FindingsNetwork, source: ActivationTensor, branches: _Branches, reductions: tuple[int, int, int]
) -> Finding:
    channels, (reduce3x3, reduce5x5, projection) = source.channels, reductions
    pointwise, conv3x3, conv5x5 = branches
    layers = (*branches, *_pool_projections(network, source))
    current = sum_costs(map(layer_cost, layers))
    sizes, positions, use_bias = infer_item_sizes(conv3x3), source.positions, conv3x3.use_bias
    reduced = layer_cost(pointwise) + sum_costs(
        convolution_cost(inputs, outputs, positions, sizes, taps=taps, use_bias=use_bias)
        for inputs, outputs, taps in (
            (channels, reduce3x3, 1),
            (reduce3x3, conv3x3.output_channels, 9),
            (channels, reduce5x5, 1),
            (reduce5x5, conv5x5.output_channels, 25),
            (channels, projection, 1),
        )
    )
    message = (
        f"Inception module without reductions: with the paper's own (1x1 to {reduce3x3} before the 3x3, to "
        f"{reduce5x5} before the 5x5, pool projection to {projection}) its weights go from "
        f"{sum(map(count_kernel_weights, layers)):,} to {reduced.macs // positions:,} and its MACs from "
        f"{current.macs:,} to {reduced.macs:,}."
    )
    return Finding("inception-without-reductions", layer_paths(layers), message, (current - reduced).saves)


def _pool_projections(network: FindingsNetwork, source: ActivationTensor) -> list[LayerInfo]:
    """Return the 1x1 layers after a pooling of `source` with stride 1: the pool projections of a module."""
    pools = [layer for layer in network.graph.consumers[source.index] if layer.op in WINDOW_POOLS]
    readers = [reader for pool in pools if pool.strides == (1, 1) for reader in network.graph.readers(pool)]
    return [layer for layer in readers if layer_kind(layer) == "pointwise" and owns_weights(layer)]


# Channels


def find_unaligned_channels(network: FindingsNetwork) -> Iterator[Finding]:
    """Find convolutions with output channels that are no multiple of 8, or not even of 4. One finding for the network.

    Channels that enter or leave the network (classes, a mask) are determined by the task and are no fault; at a single
    position (squeeze and excitation) the waste is too small to see.
    """
    task_layers = _task_layers(network)
    unaligned = [
        layer
        for layer in network.layers
        if layer.op in CONVOLUTIONS
        and owns_weights(layer)
        and layer.outputs[0].positions > 1
        and layer.output_channels % _VECTOR_WIDTH
        and id(layer) not in task_layers
    ]
    if not unaligned:
        return
    padding = sum_costs(map(_padding_cost, unaligned))
    odd = sum(layer.output_channels % _HALF_VECTOR != 0 for layer in unaligned)
    idle = padding.macs / (padding.macs + sum(count_macs(layer) or 0 for layer in unaligned))
    noun = "convolutions have a number" if len(unaligned) > 1 else "convolution has a number"
    message = (
        f"{len(unaligned)} {noun} of channels that is no multiple of 8 ({odd} not even of 4; "
        f"{format_layer_names(unaligned)}): kernels that compute 8 at a time idle for {idle:.1%} of their work there, "
        f"and padding the layers to multiples of 8 would cost {padding.params:,} params and {padding.macs:,} MACs in "
        f"them."
    )
    yield Finding("unaligned-channels", layer_paths(unaligned), message, (Cost() - padding).saves)


def _padding_cost(layer: LayerInfo) -> Cost:
    """Return the `Cost`, in the layer itself, of the channels that `layer` lacks to the next multiple of 8."""
    width = layer.output_channels
    missing, sizes = -width % _VECTOR_WIDTH, infer_item_sizes(layer)
    weights = count_kernel_weights(layer) // width * missing
    biases = missing if layer.use_bias else 0
    macs = (count_macs(layer) or 0) // width * missing
    return Cost(weights + biases, macs, weights * sizes.kernel + biases * sizes.bias)


def _task_layers(network: FindingsNetwork) -> set[int]:
    """Return ids of the layers with channels that leave the network unchanged."""
    task_layers = {id(layer) for layer in network.head}
    for layer in reversed(network.layers):
        readers = network.graph.readers(layer)
        keeps = [
            id(reader) in task_layers
            and (layer_kind(reader) in ("activation", "pool", "norm", "reshape") or is_identity(reader))
            for reader in readers
        ]
        if network.is_output(layer) or (readers and all(keeps)):
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
            dense += [layer] if layer_kind(layer) == "dense" else []
    if dense:
        verb = "is a 1x1 layer" if len(dense) == 1 else "are 1x1 layers"
        message = (
            f"Dense on the vector of a 1x1 map ({format_layer_names(dense)}) {verb} under another name, with the same "
            f"weights and MACs; written as Conv2D the network takes larger images too."
        )
        yield Finding("dense-is-pointwise", layer_paths(dense), message, Cost().saves)


def _outputs_single_position(layer: LayerInfo, single_position: set[int]) -> bool:
    if len(layer.inputs) != 1 or len(layer.outputs) != 1 or len(layer.outputs[0].shape) != 2:
        return False
    source, kind = layer.inputs[0], layer_kind(layer)
    if len(source.shape) == 2:
        is_per_vector = kind in ("activation", "dense", "norm") or layer.op in PASS_THROUGH
        return source.index in single_position and is_per_vector
    flattens = kind == "reshape" and source.positions == 1 and source.elements == layer.output_elements
    return layer.op in GLOBAL_POOLS or flattens


def find_flattened_heads(network: FindingsNetwork) -> Iterator[Finding]:
    """Find Dense heads on a flattened map with much of the network: what a 1x1 layer and an average would need."""
    head = {id(layer) for layer in network.head}
    for layer in network.layers:
        if not _flattens_a_map(layer):
            continue
        dense, norms = _dense_chain(network, layer)
        if not dense or not all(id(part) in head and owns_weights(part) for part in dense):
            continue
        cost = sum_costs(map(layer_cost, (*dense, *norms)))
        (_, height, width, channels), last = layer.inputs[0].shape, dense[-1]
        classes, sizes = last.output_channels, infer_item_sizes(last)
        pointwise = convolution_cost(channels, classes, height * width, sizes, use_bias=last.use_bias)
        if cost.params < LARGE_HEAD * network.params or pointwise.params >= cost.params:
            continue
        message = (
            f"The Dense head on a flattened {height}x{width}x{channels} map has {cost.params:,} params; a 1x1 layer to "
            f"the {classes} outputs and a global average, which discard the position on the map, need "
            f"{pointwise.params:,}."
        )
        yield Finding("flatten-dense-head", layer_paths((layer, *dense)), message, (cost - pointwise).saves)


def _flattens_a_map(layer: LayerInfo) -> bool:
    if layer_kind(layer) != "reshape" or len(layer.inputs) != 1 or len(layer.outputs) != 1:
        return False
    source, result = layer.inputs[0], layer.outputs[0]
    is_flat = len(source.shape) == 4 and len(result.shape) == 2 and source.elements == result.elements
    return is_flat and source.positions > 1


def _dense_chain(network: FindingsNetwork, layer: LayerInfo) -> tuple[list[LayerInfo], list[LayerInfo]]:
    """Return the Dense layers and norms that follow `layer` one after the other, up to the network's output."""
    dense, norms = [], []
    while (reader := network.sole_reader(layer)) is not None:
        if layer_kind(reader) == "dense":
            dense.append(reader)
        elif reader.op in FOLDABLE_NORMS:
            norms.append(reader)
        elif layer_kind(reader) != "activation" and reader.op not in PASS_THROUGH:
            return [], []
        layer = reader
    return (dense, norms) if network.is_output(layer) else ([], [])


def find_heavy_heads(network: FindingsNetwork) -> Iterator[Finding]:
    """Find a head with more than 30% of the parameters."""
    head = network.head
    cost = sum_costs(map(layer_cost, head))
    is_whole_network = len(head) == sum(owns_weights(layer) for layer in network.layers)
    if not head or cost.params <= HEAVY_HEAD * network.params or is_whole_network:
        return
    last = head[-1]
    message = (
        f"The head ({format_layer_names(head)}) has {cost.params:,} of {network.params:,} params "
        f"({cost.params / network.params:.1%}): the features without it have {network.params - cost.params:,}, and "
        f"each of its {last.output_channels} outputs that can go saves {last.input_channels + last.use_bias:,}."
    )
    yield Finding("heavy-head", layer_paths(head), message, cost.saves)
