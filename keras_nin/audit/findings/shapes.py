"""k x k convolutions that a 1x1 reduction would make affordable."""

import math
from collections import defaultdict
from fractions import Fraction

from keras_nin.audit import arithmetic
from keras_nin.audit.classification import (
    CONVOLUTIONS,
    FOLDABLE_NORMS,
    GLOBAL_POOLS,
    PASS_THROUGH,
    WINDOW_POOLS,
    layer_kind,
)
from keras_nin.audit.findings import network as network_module
from keras_nin.audit.findings.network import (
    count_positions,
    format_layer_names,
    input_channels,
    is_identity,
    layer_paths,
    output_channels,
)
from keras_nin.audit.records import Finding

# Expensive: a twentieth of the network's MACs, below which even a free layer would not be felt in the latency; and 64
# channels, whose quarter is 16, the narrowest reduction of SqueezeNet (fire2) and of Inception v1 (3a).
_EXPENSIVE_SHARE = Fraction(1, 20)
_EXPENSIVE_CHANNELS = 64
_REDUCTION_FACTOR = 4


def find_unreduced_convolutions(network):
    """Expensive k x k convolutions that no 1x1 layer with fewer outputs than inputs stands before."""
    reduced = _reduced_tensors(network)
    for layer in network.layers:
        if not _is_expensive(network, layer) or layer.inputs[0].index in reduced:
            continue
        channels, macs = input_channels(layer), arithmetic.count_macs(layer)
        narrow = channels // _REDUCTION_FACTOR
        saved = network_module.layer_cost(layer) - _reduced_cost(layer, narrow)
        if saved.params <= 0 or saved.macs <= 0:
            continue
        message = (
            f"{_format_kernel(layer)} convolution on {channels} channels that no 1x1 layer reduces first takes "
            f"{macs / network.macs:.0%} of the MACs: after a 1x1 layer to {narrow} channels the two would take "
            f"{macs - saved.macs:,} instead of {macs:,} MACs and {layer.params - saved.params:,} instead of "
            f"{layer.params:,} params."
        )
        yield Finding("unreduced-convolution", (layer.path,), message, saved.saves)


def _is_expensive(network, layer):
    spatial = layer_kind(layer) == "spatial" and layer.op in ("Conv1D", "Conv2D") and layer.groups == 1
    if not spatial or input_channels(layer) < _EXPENSIVE_CHANNELS or not network_module.owns_weights(layer):
        return False
    return arithmetic.count_macs(layer) >= _EXPENSIVE_SHARE * network.macs


def _reduced_cost(layer, narrow):
    """`Cost` of a 1x1 layer to `narrow` channels at every input place, and of `layer` on what it gives."""
    sizes, taps = network_module.infer_item_sizes(layer), math.prod(layer.kernel)
    reduction = network_module.convolution_cost(
        input_channels(layer), narrow, count_positions(layer.inputs[0]), sizes, use_bias=layer.use_bias
    )
    places = count_positions(layer.outputs[0])
    return reduction + network_module.convolution_cost(
        narrow, output_channels(layer), places, sizes, taps=taps, use_bias=layer.use_bias
    )


def _reduced_tensors(network):
    """Indices of the tensors that a 1x1 reduction gives, also through layers that work channel by channel."""
    reduced = set()
    for layer in network.layers:
        reduces = layer_kind(layer) == "pointwise" and output_channels(layer) < input_channels(layer)
        by_channel = (
            layer_kind(layer) == "activation" or layer.op in FOLDABLE_NORMS | WINDOW_POOLS or is_identity(layer)
        )
        padded = layer.op in ("ZeroPadding1D", "ZeroPadding2D")
        if reduces or ((by_channel or padded) and layer.inputs and layer.inputs[0].index in reduced):
            reduced |= {tensor.index for tensor in layer.outputs}
    return reduced


def find_naive_inception(network):
    """Inception v1 modules without reductions, at widths of the paper's table: what its own reductions save."""
    fans = _find_inception_branches(network)
    reductions = _paper_reductions() if fans else {}
    for source, branches in fans.items():
        widths = (source.channels, *(output_channels(layer) for layer in branches))
        if widths in reductions:
            yield _inception_finding(network, source, branches, reductions[widths])


def _paper_reductions():
    """Channels (input, 1x1, 3x3, 5x5) of GoogLeNet's modules -> (3x3 reduction, 5x5 reduction, pool projection)."""
    from keras_nin.models.googlenet import MODULES

    reductions, channels = {}, 192
    for one, reduce3, three, reduce5, five, projection in MODULES.values():
        reductions[channels, one, three, five] = (reduce3, reduce5, projection)
        channels = one + three + five + projection
    return reductions


def _find_inception_branches(network):
    """Tensor -> the 1x1, 3x3 and 5x5 convolution that read it directly, where there is one of each."""
    fans = defaultdict(lambda: defaultdict(list))
    for layer in network.layers:
        plain = layer.op == "Conv2D" and layer.groups == 1 and layer.strides == layer.dilation == (1, 1)
        if plain and layer.kernel in ((1, 1), (3, 3), (5, 5)) and network_module.owns_weights(layer):
            fans[layer.inputs[0]][layer.kernel[0]].append(layer)
    return {
        source: tuple(by_side[side][0] for side in (1, 3, 5))
        for source, by_side in fans.items()
        if all(len(by_side[side]) == 1 for side in (1, 3, 5))
    }


def _inception_finding(network, source, branches, reductions):
    channels, (reduce3, reduce5, projection) = source.channels, reductions
    present = _pool_projections(network, source)
    now = network_module.sum_costs(network_module.layer_cost(layer) for layer in (*branches, *present))
    one, three, five = branches
    sizes, places, use_bias = network_module.infer_item_sizes(three), count_positions(source), three.use_bias
    new = network_module.layer_cost(one) + network_module.sum_costs(
        network_module.convolution_cost(inputs, outputs, places, sizes, taps=taps, use_bias=use_bias)
        for inputs, outputs, taps in (
            (channels, reduce3, 1),
            (reduce3, output_channels(three), 9),
            (channels, reduce5, 1),
            (reduce5, output_channels(five), 25),
            (channels, projection, 1),
        )
    )
    before = sum(network_module.count_kernel_weights(layer) for layer in (*branches, *present))
    after = new.macs // places
    message = (
        f"Inception module without reductions: with the paper's own (1x1 to {reduce3} before the 3x3, to {reduce5} "
        f"before the 5x5, pool projection to {projection}) its weights go from {before:,} to {after:,} and its MACs "
        f"from {now.macs:,} to {new.macs:,}."
    )
    return Finding("inception-without-reductions", layer_paths((*branches, *present)), message, (now - new).saves)


def _pool_projections(network, source):
    """1x1 layers on a pooling of `source` that keeps its size: pool projections of the module."""
    pools = [layer for layer in network.graph.consumers[source.index] if layer.op in WINDOW_POOLS]
    readers = [reader for pool in pools if pool.strides == (1, 1) for reader in network.graph.readers(pool)]
    return [layer for layer in readers if layer_kind(layer) == "pointwise" and network_module.owns_weights(layer)]


def _format_kernel(layer):
    return "x".join(map(str, layer.kernel))


# MERGED Widths that fill no whole vector of the hardware.

_VECTOR_WIDTH = 8
_HALF_VECTOR = 4


def find_unaligned_channels(network):
    """Convolutions whose output channels are no multiple of 8, or not even of 4. One finding for the network.

    What enters the network and what leaves it (classes, a mask) is given by the task and no fault; on a single place
    (squeeze and excitation) the waste is too small to see.
    """
    found = [layer for layer in network.layers if _is_alignable(layer) and output_channels(layer) % _VECTOR_WIDTH]
    ends = _task_layers(network)
    found = [layer for layer in found if id(layer) not in ends]
    if not found:
        return
    added = network_module.sum_costs(_padding_cost(layer) for layer in found)
    odd = sum(output_channels(layer) % _HALF_VECTOR != 0 for layer in found)
    share = added.macs / (added.macs + sum(arithmetic.count_macs(layer) for layer in found))
    several = "convolutions have a number" if len(found) > 1 else "convolution has a number"
    message = (
        f"{len(found)} {several} of channels that is no multiple of 8 ({odd} not even of 4; {format_layer_names(found)}): kernels "
        f"that compute 8 at a time idle for {share:.0%} of their work there, and padding the layers to multiples of 8 "
        f"would cost {added.params:,} params and {added.macs:,} MACs in them."
    )
    yield Finding("unaligned-channels", layer_paths(found), message, (network_module.Cost() - added).saves)


def _is_alignable(layer):
    return layer.op in CONVOLUTIONS and network_module.owns_weights(layer) and count_positions(layer.outputs[0]) > 1


def _padding_cost(layer):
    """`Cost` of the channels that `layer` lacks to the next multiple of 8, in the layer itself."""
    width = output_channels(layer)
    missing, sizes = -width % _VECTOR_WIDTH, network_module.infer_item_sizes(layer)
    weights = network_module.count_kernel_weights(layer) // width * missing
    biases = missing if layer.use_bias else 0
    macs = arithmetic.count_macs(layer) // width * missing
    return network_module.Cost(weights + biases, macs, weights * sizes.kernel + biases * sizes.bias)


def _task_layers(network):
    """Ids of the layers whose channels leave the network as they are."""
    ends = {id(layer) for layer in network.head}
    for layer in reversed(network.layers):
        readers = network.graph.readers(layer)
        through = [id(reader) in ends and _keeps_channels(reader) for reader in readers]
        if network.leaves(layer) or (readers and all(through)):
            ends.add(id(layer))
    return ends


def _keeps_channels(layer):
    return layer_kind(layer) in ("activation", "pool", "norm", "reshape") or is_identity(layer)


# MERGED What turns a network's last map into classes: Dense layers, and how much of the network they hold.

# A head below a tenth of the parameters is not worth another head, which has to be trained anew.
LARGE_HEAD = Fraction(1, 10)
HEAVY_HEAD = Fraction(3, 10)


def find_dense_as_pointwise(network):
    """Dense layers on a pooled or 1x1 map: 1x1 layers under another name. One finding for the network."""
    single, found = set(), []  # single: indices of vectors that stand for one place of a map
    for layer in network.layers:
        if _outputs_single_position(layer, single):
            single |= {tensor.index for tensor in layer.outputs}
            found += [layer] if layer_kind(layer) == "dense" else []
    if found:
        verb = "is a 1x1 layer" if len(found) == 1 else "are 1x1 layers"
        message = (
            f"Dense on the vector of a 1x1 map ({format_layer_names(found)}) {verb} under another name, with the same weights and "
            f"MACs; written as Conv2D the network takes larger images too."
        )
        yield Finding("dense-is-pointwise", layer_paths(found), message, network_module.Cost().saves)


def _outputs_single_position(layer, single):
    if len(layer.inputs) != 1 or len(layer.outputs) != 1 or len(layer.outputs[0].shape) != 2:
        return False
    entering = layer.inputs[0]
    if len(entering.shape) == 2:
        alike = layer_kind(layer) in ("activation", "dense", "norm") or layer.op in PASS_THROUGH
        return entering.index in single and alike
    flat = (
        layer_kind(layer) == "reshape" and count_positions(entering) == 1 and entering.elements == layer.output_elements
    )
    return layer.op in GLOBAL_POOLS or flat


def find_flattened_heads(network):
    """Dense heads on a flattened map that hold much of the network: what a 1x1 layer and an average would need."""
    members = {id(layer) for layer in network.head}
    for layer in network.layers:
        if not _flattens_a_map(layer):
            continue
        dense, norms = _dense_chain(network, layer)
        if not dense or not all(id(part) in members and network_module.owns_weights(part) for part in dense):
            continue
        spent = network_module.sum_costs(network_module.layer_cost(part) for part in (*dense, *norms))
        (_, height, width, channels), last = layer.inputs[0].shape, dense[-1]
        needed = network_module.convolution_cost(
            channels,
            output_channels(last),
            height * width,
            network_module.infer_item_sizes(last),
            use_bias=last.use_bias,
        )
        if spent.params < LARGE_HEAD * network.params or needed.params >= spent.params:
            continue
        message = (
            f"The Dense head on a flattened {height}x{width}x{channels} map has {spent.params:,} params; a 1x1 layer "
            f"to the {output_channels(last)} outputs and a global average, which forget where on the map something is, "
            f"need {needed.params:,}."
        )
        yield Finding("flatten-dense-head", layer_paths((layer, *dense)), message, (spent - needed).saves)


def _flattens_a_map(layer):
    if layer_kind(layer) != "reshape" or len(layer.inputs) != 1 or len(layer.outputs) != 1:
        return False
    entering, leaving = layer.inputs[0], layer.outputs[0]
    to_vector = len(entering.shape) == 4 and len(leaving.shape) == 2 and entering.elements == leaving.elements
    return to_vector and count_positions(entering) > 1


def _dense_chain(network, layer):
    """Dense layers and normalisations that follow `layer` one after the other, up to the network's output."""
    dense, norms = [], []
    while (reader := network.sole_reader(layer)) is not None:
        if layer_kind(reader) == "dense":
            dense.append(reader)
        elif reader.op in FOLDABLE_NORMS:
            norms.append(reader)
        elif layer_kind(reader) != "activation" and reader.op not in PASS_THROUGH:
            return [], []
        layer = reader
    return (dense, norms) if network.leaves(layer) else ([], [])


def find_heavy_heads(network):
    """A head that holds more than 30 % of the parameters."""
    head = network.head
    spent = network_module.sum_costs(network_module.layer_cost(layer) for layer in head)
    if not head or spent.params <= HEAVY_HEAD * network.params or len(head) == _count_weighted_layers(network):
        return
    last = head[-1]
    each = input_channels(last) + last.use_bias
    message = (
        f"The head ({format_layer_names(head)}) holds {spent.params:,} of {network.params:,} params "
        f"({spent.params / network.params:.0%}): the features without it hold {network.params - spent.params:,}, and "
        f"each of its {output_channels(last)} outputs that can go saves {each:,}."
    )
    yield Finding("heavy-head", layer_paths(head), message, spent.saves)


def _count_weighted_layers(network):
    return sum(network_module.owns_weights(layer) for layer in network.layers)
