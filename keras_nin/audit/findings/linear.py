"""Linear layers that could be merged or moved: 1x1 layers, and BatchNormalization that cannot fold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit.arithmetic import count_macs
from keras_nin.audit.classification import AVERAGE_POOLS, CONVOLUTIONS, LINEAR, TRANSPOSED, layer_kind
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
    normalizes_channels,
    owns_weights,
    sum_costs,
)
from keras_nin.audit.graph import LayerInfo
from keras_nin.audit.records import Finding


@dataclass(frozen=True)
class LinearRun:
    """Consecutive 1x1 layers, and the norms and identities between them: `parts`, in order."""

    parts: tuple[LayerInfo, ...]

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The 1x1 layers."""
        return tuple(part for part in self.parts if layer_kind(part) == "pointwise")

    @property
    def use_bias(self) -> bool:
        """Whether the collapsed layer needs a bias."""
        return _brings_bias(self.parts)

    @property
    def savings(self) -> Cost:
        """`Cost` of the parts less that of the collapsed layer."""
        return sum_costs(map(layer_cost, self.parts)) - _collapsed_cost(self.parts[0], self.parts[-1], self.use_bias)

    @property
    def finding(self) -> Finding:
        """The run as a `Finding`."""
        first, last, savings = self.parts[0], self.parts[-1], self.savings
        message = (
            f"{len(self.layers)} 1x1 layers with nothing nonlinear between them are one linear map: a single 1x1 layer "
            f"from {first.input_channels} to {last.output_channels} channels computes the same and saves "
            f"{_format_savings(savings)}."
        )
        return Finding("collapsible-pointwise", layer_paths(self.layers), message, savings.saves)


@dataclass(frozen=True)
class PointwiseBeforeAverage:
    """A linear 1x1 layer, norms and identities, and the average pooling after them: `parts`, in order."""

    parts: tuple[LayerInfo, ...]

    @property
    def saved_macs(self) -> int:
        """MACs saved if the pooling comes first, so that the layer works on the pooled map."""
        layer, pool = self.parts[0], self.parts[-1]
        saved_positions = pool.inputs[0].positions - pool.outputs[0].positions
        return layer.input_channels * layer.output_channels * saved_positions

    @property
    def finding(self) -> Finding:
        """The site as a `Finding`."""
        layer, pool = self.parts[0], self.parts[-1]
        message = (
            f"Linear 1x1 layer before an average pooling: the two commute exactly, and after the pooling it works on "
            f"{pool.outputs[0].positions} instead of {pool.inputs[0].positions} positions and saves "
            f"{self.saved_macs:,} of {count_macs(layer):,} MACs."
        )
        saves = Cost(macs=self.saved_macs).saves
        return Finding("pointwise-before-average-pool", layer_paths((layer, pool)), message, saves)


def find_one_channel_pointwise(network: FindingsNetwork) -> Iterator[Finding]:
    """Find 1x1 layers on a single channel: before its activation, every output is that channel times a constant."""
    for layer in network.layers:
        if layer_kind(layer) == "pointwise" and layer.input_channels == 1 and owns_weights(layer):
            width = layer.output_channels
            before = "" if layer.is_linear else ", before the activation,"
            outputs = f"all {width} outputs{before} are" if width > 1 else f"its output{before} is"
            readers, freed = _freed_channels(network, layer)
            after = f", and {len(readers)} after it read 1 channel instead of {width}" if freed.params else ""
            savings = layer_cost(layer) + freed
            message = (
                f"1x1 layer on one channel: {outputs} that channel times a constant plus a bias (rank 1), where a "
                f"k x k kernel would see a neighborhood; leaving it out saves {_format_savings(savings)}{after}."
            )
            yield Finding("pointwise-on-one-channel", (layer.path,), message, savings.saves)


def _freed_channels(network: FindingsNetwork, layer: LayerInfo) -> tuple[Sequence[LayerInfo], Cost]:
    """Return the convolutions that read `layer`, and the `Cost` of the input channels they would save without it."""
    readers = network.effective_readers(layer)
    if network.is_output(layer) or not all(_is_changeable(network, reader) for reader in readers):
        return (), Cost()
    share = Fraction(layer.output_channels - 1, layer.output_channels)
    freed = [
        Cost(
            int(count_kernel_weights(reader) * share),
            int((count_macs(reader) or 0) * share),
            count_kernel_weights(reader) * share * infer_item_sizes(reader).kernel,
        )
        for reader in readers
    ]
    return readers, sum_costs(freed)


def find_collapsible_pointwise(network: FindingsNetwork) -> Iterator[Finding]:
    """Find 1x1 layers with nothing nonlinear between: one layer with the product of their weights does the same."""
    return (run.finding for run in find_linear_runs(network))


def find_linear_runs(network: FindingsNetwork) -> list[LinearRun]:
    """Return the runs of `network` that collapse into one layer with no more params and no more MACs.

    Exact for any strides: a 1x1 layer of stride s reads every s-th position, so two of them read every s1 x s2-th.
    Where the one layer would cost more, the two are a low-rank factorization (K -> few -> F channels) and stay.
    """
    following = {}
    for layer in network.layers:
        if _is_changeable_pointwise(network, layer) and layer.is_linear:
            between, reader = _linear_path(network, layer)
            if reader is not None and _is_changeable_pointwise(network, reader):
                following[id(layer)] = (*between, reader)
    runs, taken = [], set()
    for layer in network.layers:
        if id(layer) in following and id(layer) not in taken:
            runs += _grow_runs(layer, following, taken)
    return runs


def _grow_runs(layer: LayerInfo, following: dict[int, tuple[LayerInfo, ...]], taken: set[int]) -> Iterator[LinearRun]:
    """Yield the runs in the longest linear sequence from `layer` on, each grown as long as that saves something."""
    parts = [layer]
    cost, use_bias = layer_cost(layer), layer.use_bias
    while id(layer) in following:
        more = following[id(layer)]
        needs_bias = use_bias or _brings_bias(more)
        collapsed = _collapsed_cost(parts[0], more[-1], needs_bias)
        gain = cost + sum_costs(map(layer_cost, more)) - collapsed
        if gain.params >= 0 and gain.macs >= 0 and (gain.params or gain.macs):
            parts += more
            cost, use_bias = collapsed, needs_bias
        else:
            if len(parts) > 1:
                yield LinearRun(tuple(parts))
            parts = [more[-1]]
            cost, use_bias = layer_cost(more[-1]), more[-1].use_bias
        taken.add(id(layer))
        layer = more[-1]
    if len(parts) > 1:
        yield LinearRun(tuple(parts))


def _collapsed_cost(first: LayerInfo, last: LayerInfo, use_bias: bool) -> Cost:
    """Return the `Cost` of the one layer that the layers from `first` to `last` collapse into."""
    positions, sizes = last.outputs[0].positions, infer_item_sizes(first)
    return convolution_cost(first.input_channels, last.output_channels, positions, sizes, use_bias=use_bias)


def _brings_bias(parts: Iterable[LayerInfo]) -> bool:
    return any(part.use_bias or normalizes_channels(part) for part in parts)


def find_pointwise_before_average(network: FindingsNetwork) -> Iterator[Finding]:
    """Find linear 1x1 layers before an average pooling: the two commute, and after it there are fewer positions."""
    return (site.finding for site in find_average_sites(network))


def find_average_sites(network: FindingsNetwork) -> Iterator[PointwiseBeforeAverage]:
    """Yield the sites of `network` where the pooling first saves MACs.

    The mean of W x + b is W times the mean of x, plus b; padding that the pooling adds is not part of its mean.
    """
    for layer in network.layers:
        if _is_changeable_pointwise(network, layer) and layer.is_linear and layer.strides == (1, 1):
            between, reader = _linear_path(network, layer)
            if reader is not None and reader.op in AVERAGE_POOLS | {"AdaptiveAveragePooling2D"}:
                site = PointwiseBeforeAverage((layer, *between, reader))
                if site.saved_macs > 0:
                    yield site


def _linear_path(network: FindingsNetwork, layer: LayerInfo) -> tuple[tuple[LayerInfo, ...], LayerInfo | None]:
    """Return the norms and identities that follow `layer` without a branch, and the layer that reads the last one."""
    between, current = [], layer
    while (reader := network.sole_reader(current)) is not None and not network.is_shared(reader):
        if not is_identity(reader) and not normalizes_channels(reader):
            return tuple(between), reader
        between.append(reader)
        current = reader
    return tuple(between), None


def _is_changeable_pointwise(network: FindingsNetwork, layer: LayerInfo) -> bool:
    return layer_kind(layer) == "pointwise" and _is_changeable(network, layer)


def _is_changeable(network: FindingsNetwork, layer: LayerInfo) -> bool:
    """Return whether `layer` mixes all channels with weights of its own, so that it can be changed here alone."""
    mixes_channels = layer.op == "Dense" or (layer.op in CONVOLUTIONS and layer.groups == 1)
    return mixes_channels and owns_weights(layer) and not network.is_shared(layer)


def _format_savings(savings: Cost) -> str:
    costs = ((savings.params, "params"), (savings.macs, "MACs"))
    return " and ".join(f"{count:,} {unit}" for count, unit in costs if count)


# BatchNormalization


def find_unfoldable_norms(network: FindingsNetwork) -> Iterator[Finding]:
    """Find BatchNormalization layers that remain operations of their own at inference. One finding for the network."""
    norms = [layer for layer in network.layers if layer.op == "BatchNormalization"]
    if not norms:
        return
    absorbed_before, absorbed_after = _absorbed_before(network), _absorbed_after(network)
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
    work = sum(layer.output_elements for layer in unfoldable)
    count = f"{len(unfoldable)} of {len(norms)} BatchNormalization layers"
    message = (
        f"{count if len(norms) > 1 else 'The BatchNormalization'} cannot fold into a convolution or Dense "
        f"({format_layer_names(unfoldable)}): {work:,} scalings and shifts per image that the MACs leave out; directly "
        f"after a linear convolution of their own they would cost a bias and save {savings.params:,} params."
    )
    yield Finding("unfoldable-batch-norm", layer_paths(unfoldable), message, savings.saves)


def _absorbed_before(network: FindingsNetwork) -> set[int]:
    """Return indices of tensors whose scale and shift the layers before can absorb: nothing else reads those layers."""
    absorbed: set[int] = set()
    for layer in network.layers:
        absorbs = layer.op in LINEAR and layer.is_linear and layer.params and not network.is_shared(layer)
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
    if layer.op in LINEAR:
        # Zeros that pad the input would have to become the shift.
        return bool(layer.params) and not network.is_shared(layer) and not _pads_zeros(layer)
    flattens = layer.op in ("Flatten", "Reshape") and len(layer.outputs[0].shape) == 2
    passes = _is_transparent(layer) or flattens or (layer.op == "Concatenate" and _joins_channels(layer))
    return passes and all(tensor.index in absorbed for tensor in layer.outputs)


def _is_transparent(layer: LayerInfo) -> bool:
    """Return whether a scale and a shift may move past `layer`.

    The mean of a scaled and shifted channel is its mean scaled and shifted; a maximum is not, under a negative scale.
    """
    return is_identity(layer) or layer.op in AVERAGE_POOLS or normalizes_channels(layer)


def _joins_channels(layer: LayerInfo) -> bool:
    """Return whether `layer` adds its inputs (all take the scale, one the shift) or concatenates their channels."""
    if layer_kind(layer) != "merge":
        return False
    if layer.op == "Concatenate":
        same_positions = len({tensor.shape[:-1] for tensor in (*layer.inputs, *layer.outputs)}) == 1
        return same_positions and sum(tensor.channels for tensor in layer.inputs) == layer.output_channels
    return layer.op == "Add" and len({tensor.shape for tensor in (*layer.inputs, *layer.outputs)}) == 1


def _pads_zeros(layer: LayerInfo) -> bool:
    """Return whether a window of `layer` may extend over the edge of its input."""
    if layer.op == "Dense":
        return False
    if layer.op in TRANSPOSED:
        # Where windows overlap or leave gaps, the shift arrives in different shares.
        return layer.padding != "valid" or layer.kernel != layer.strides
    if layer.padding == "valid":
        return False
    axes = zip(layer.inputs[0].spatial or (), layer.kernel or (), layer.strides, layer.dilation, strict=True)
    covered = [((-(-size // s) - 1) * s + (kernel - 1) * d + 1, size) for size, kernel, s, d in axes]
    return layer.padding != "same" or any(extent > size for extent, size in covered)
