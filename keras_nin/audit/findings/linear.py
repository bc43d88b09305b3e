"""Linear layers that could be merged or moved: 1x1 layers, and BatchNormalization that cannot fold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import operations as ops
from keras_nin.audit.arithmetic import count_macs
from keras_nin.audit.findings import network as costs
from keras_nin.audit.findings.network import Cost, FindingsNetwork, make_finding, normalizes_channels, owns_weights
from keras_nin.audit.graph import LayerInfo
from keras_nin.audit.records import Finding


@dataclass(frozen=True)
class RewriteSite:
    """Layers that can be rewritten, in order, with the norms and identities between them, and what that saves.

    Of the rule "collapsible-pointwise" all others are 1x1 layers, of "pointwise-before-average-pool" the first is, and
    the last is the pooling.
    """

    parts: tuple[LayerInfo, ...]
    finding: Finding


def find_one_channel_pointwise(network: FindingsNetwork) -> Iterator[Finding]:
    """Find 1x1 layers on a single channel: before its activation, every output is that channel times a constant."""
    for layer in network.layers:
        if layer.kind == "pointwise" and layer.input_channels == 1 and owns_weights(layer):
            width = layer.output_channels
            before = "" if layer.is_linear else ", before the activation,"
            outputs = f"all {width} outputs{before} are" if width > 1 else f"its output{before} is"
            readers, freed = _freed_channels(network, layer)
            after = f", and {len(readers)} after it read 1 channel instead of {width}" if freed.params else ""
            savings = costs.layer_cost(layer) + freed
            yield make_finding("pointwise-on-one-channel", [layer], savings, outputs=outputs, after=after)


def _freed_channels(network: FindingsNetwork, layer: LayerInfo) -> tuple[Sequence[LayerInfo], Cost]:
    """Return the convolutions that read `layer`, and the `Cost` of the input channels they would save without it."""
    readers, freed = network.effective_readers(layer), Cost()
    if network.graph.is_output(layer) or not all(_is_changeable(network, reader) for reader in readers):
        return (), freed
    share = Fraction(layer.output_channels - 1, layer.output_channels)
    for reader in readers:
        weights, macs = costs.count_kernel_weights(reader) * share, (count_macs(reader) or 0) * share
        freed += costs.weights_cost(reader, int(weights), 0, int(macs))
    return readers, freed


def find_linear_runs(network: FindingsNetwork) -> list[RewriteSite]:
    """Return the runs of 1x1 layers that one layer with the product of their weights replaces at no higher cost.

    Exact for any strides: a 1x1 layer of stride s reads every s-th position, so two of them read every s1 x s2-th.
    Where the one layer would cost more, the two are a low-rank factorization (K -> few -> F channels) and stay.
    """
    following = {}
    for layer in network.layers:
        if layer.kind == "pointwise" and layer.is_linear and _is_changeable(network, layer):
            between, reader = _linear_path(network, layer)
            if reader is not None and reader.kind == "pointwise" and _is_changeable(network, reader):
                following[id(layer)] = (*between, reader)
    inner = {id(parts[-1]) for parts in following.values()}
    starts = [layer for layer in network.layers if id(layer) in following and id(layer) not in inner]
    runs = [parts for start in starts for parts in _grow_runs(start, following) if len(parts) > 1]
    return [RewriteSite(tuple(parts), _run_finding(parts)) for parts in runs]


def _grow_runs(layer: LayerInfo, following: dict[int, tuple[LayerInfo, ...]]) -> Iterator[list[LayerInfo]]:
    """Yield the parts of the longest linear sequence from `layer` on, each grown as long as that saves something."""
    parts, cost, use_bias = [layer], costs.layer_cost(layer), layer.use_bias
    while more := following.get(id(layer)):
        layer = more[-1]
        needs_bias = use_bias or brings_bias(more)
        collapsed = _collapsed_cost(parts[0], layer, needs_bias)
        gain = cost + costs.layer_cost(*more) - collapsed
        if gain.params >= 0 and gain.macs >= 0 and (gain.params or gain.macs):
            parts += more
            cost, use_bias = collapsed, needs_bias
        else:
            yield parts
            parts, cost, use_bias = [layer], costs.layer_cost(layer), layer.use_bias
    yield parts


def _collapsed_cost(first: LayerInfo, last: LayerInfo, use_bias: bool) -> Cost:
    """Return the `Cost` of the one layer that the layers from `first` to `last` collapse into."""
    inputs, outputs, positions = first.input_channels, last.output_channels, last.outputs[0].positions
    return costs.convolution_cost(first, inputs, outputs, positions, use_bias=use_bias)


def brings_bias(parts: Iterable[LayerInfo]) -> bool:
    """Return whether the layer that `parts` collapse into needs a bias."""
    return any(part.use_bias or normalizes_channels(part) for part in parts)


def _run_finding(parts: Sequence[LayerInfo]) -> Finding:
    layers, first, last = [part for part in parts if part.kind == "pointwise"], parts[0], parts[-1]
    savings = costs.layer_cost(*parts) - _collapsed_cost(first, last, brings_bias(parts))
    values = {"count": len(layers), "inputs": first.input_channels, "outputs": last.output_channels}
    return make_finding("collapsible-pointwise", layers, savings, **values)


def find_average_sites(network: FindingsNetwork) -> Iterator[RewriteSite]:
    """Yield the linear 1x1 layers before an average pooling that works on fewer positions: the two commute.

    The mean of W x + b is W times the mean of x, plus b; padding that the pooling adds is not part of its mean.
    """
    for layer in network.layers:
        is_plain = layer.kind == "pointwise" and layer.is_linear and layer.strides == (1, 1)
        if is_plain and _is_changeable(network, layer):
            between, pool = _linear_path(network, layer)
            if pool is not None and pool.op in ops.AVERAGE_POOLS | {"AdaptiveAveragePooling2D"}:
                positions, pooled = pool.inputs[0].positions, pool.outputs[0].positions
                saved = Cost(macs=layer.input_channels * layer.output_channels * (positions - pooled))
                if saved.macs > 0:
                    values = {"positions": positions, "pooled": pooled, "macs": count_macs(layer)}
                    finding = make_finding("pointwise-before-average-pool", (layer, pool), saved, **values)
                    yield RewriteSite((layer, *between, pool), finding)


def _linear_path(network: FindingsNetwork, layer: LayerInfo) -> tuple[list[LayerInfo], LayerInfo | None]:
    """Return the norms and identities that follow `layer` without a branch, and the layer that reads the last one."""
    between, current = [], layer
    while (reader := network.sole_reader(current)) is not None and not network.is_shared(reader):
        if not reader.is_identity and not normalizes_channels(reader):
            return between, reader
        between.append(reader)
        current = reader
    return between, None


def _is_changeable(network: FindingsNetwork, layer: LayerInfo) -> bool:
    """Return whether `layer` mixes all channels with weights of its own, so that it can be changed here alone."""
    mixes_channels = layer.op == "Dense" or (layer.op in ops.CONVOLUTIONS and layer.groups == 1)
    return mixes_channels and owns_weights(layer) and not network.is_shared(layer)


# BatchNormalization


def find_unfoldable_norms(network: FindingsNetwork) -> Iterator[Finding]:
    """Find BatchNormalization layers that remain operations of their own at inference. One finding for the network."""
    norms = [layer for layer in network.layers if layer.op == "BatchNormalization"]
    absorbed_before, absorbed_after = (_absorbed_before(network), _absorbed_after(network)) if norms else (set(), set())
    unfoldable = [
        norm
        for norm in norms
        if not normalizes_channels(norm)
        or network.is_shared(norm)
        or not (norm.inputs[0].index in absorbed_before or norm.outputs[0].index in absorbed_after)
    ]
    if not unfoldable:
        return
    savings = Cost()  # a bias remains of the parameters of a norm that folds
    for layer in unfoldable:
        if layer.params and normalizes_channels(layer):
            params = layer.params - layer.output_channels
            savings += Cost(params, 0, Fraction(layer.weight_bytes, layer.params) * params)
    count = f"{len(unfoldable)} of {len(norms)} BatchNormalization layers"
    yield make_finding(
        "unfoldable-batch-norm",
        unfoldable,
        savings,
        count=count if len(norms) > 1 else "The BatchNormalization",
        work=sum(layer.output_elements for layer in unfoldable),
    )


def _absorbed_before(network: FindingsNetwork) -> set[int]:
    """Return indices of tensors whose scale and shift the layers before can absorb: nothing else reads those layers."""
    absorbed: set[int] = set()
    for layer in network.layers:
        absorbs = layer.op in ops.LINEAR and layer.is_linear and layer.params and not network.is_shared(layer)
        passes = _is_transparent(layer) or _joins_channels(layer)
        if absorbs or (passes and all(tensor.index in absorbed for tensor in layer.inputs)):
            absorbed |= {tensor.index for tensor in layer.outputs if network.is_read_once(tensor)}
    return absorbed


def _absorbed_after(network: FindingsNetwork) -> set[int]:
    """Return indices of tensors whose scale and shift every layer that reads them can absorb."""
    absorbed: set[int] = set()
    for layer in reversed(network.layers):
        for tensor in layer.outputs:
            readers = network.graph.consumers.get(tensor.index, ())
            is_output = tensor.index in network.graph.output_indices
            if readers and not is_output and all(_can_absorb(network, reader, absorbed) for reader in readers):
                absorbed.add(tensor.index)
    return absorbed


def _can_absorb(network: FindingsNetwork, layer: LayerInfo, absorbed: set[int]) -> bool:
    if layer.op in ops.LINEAR:
        # Zeros that pad the input would have to become the shift.
        return bool(layer.params) and not network.is_shared(layer) and not _pads_zeros(layer)
    flattens = layer.op in ("Flatten", "Reshape") and len(layer.outputs[0].shape) == 2
    passes = _is_transparent(layer) or flattens or (layer.op == "Concatenate" and _joins_channels(layer))
    return passes and all(tensor.index in absorbed for tensor in layer.outputs)


def _is_transparent(layer: LayerInfo) -> bool:
    """Return whether a scale and a shift may move past `layer`, as past a mean, but not a maximum."""
    return layer.is_identity or layer.op in ops.AVERAGE_POOLS or normalizes_channels(layer)


def _joins_channels(layer: LayerInfo) -> bool:
    """Return whether `layer` adds its inputs (all take the scale, one the shift) or concatenates their channels."""
    shapes = [tensor.shape for tensor in (*layer.inputs, *layer.outputs)]
    if layer.kind == "merge" and layer.op == "Concatenate":
        same_positions = len({shape[:-1] for shape in shapes}) == 1
        return same_positions and sum(tensor.channels for tensor in layer.inputs) == layer.output_channels
    return layer.kind == "merge" and layer.op == "Add" and len(set(shapes)) == 1


def _pads_zeros(layer: LayerInfo) -> bool:
    """Return whether a window of `layer` may extend over the edge of its input."""
    if layer.op == "Dense":
        return False
    if layer.op in ops.TRANSPOSED:
        # Where windows overlap or leave gaps, the shift arrives in different shares.
        return layer.padding != "valid" or layer.kernel != layer.strides
    if layer.padding == "valid":
        return False
    axes = zip(layer.inputs[0].spatial or (), layer.kernel or (), layer.strides, layer.dilation, strict=True)
    covered = [((-(-size // s) - 1) * s + (kernel - 1) * d + 1, size) for size, kernel, s, d in axes]
    return layer.padding != "same" or any(extent > size for extent, size in covered)
