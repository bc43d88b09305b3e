"""1x1 layers that are linear where they stand: on one channel, one after the other, and before an average."""

from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import arithmetic
from keras_nin.audit.classification import CONVOLUTIONS, DEPTHWISE, TRANSPOSED, layer_kind
from keras_nin.audit.findings import network as network_module
from keras_nin.audit.findings.network import (
    count_positions,
    format_layer_names,
    input_channels,
    is_identity,
    layer_paths,
    normalizes_channels,
    output_channels,
)
from keras_nin.audit.records import Finding

_AVERAGES = frozenset(f"{which}AveragePooling{rank}D" for which in ("Global", "") for rank in (1, 2)) | {
    "AdaptiveAveragePooling2D"
}


@dataclass(frozen=True)
class LinearRun:
    """1x1 layers with nothing non-linear between them.

    `parts` are the layers from the first to the last, with the normalisations and identities between, in order.
    """

    parts: tuple

    @property
    def layers(self):
        """The 1x1 layers."""
        return tuple(part for part in self.parts if layer_kind(part) == "pointwise")

    @property
    def use_bias(self):
        """Whether the one layer that they collapse into needs a bias."""
        return _brings_bias(self.parts)

    @property
    def saved(self):
        """`Cost` of the layers less that of the one that they collapse into."""
        collapsed = _collapsed_cost(self.parts[0], self.parts[-1], self.use_bias)
        return network_module.sum_costs(network_module.layer_cost(part) for part in self.parts) - collapsed

    @property
    def finding(self):
        """`Finding` that says so."""
        first, last, saved = self.parts[0], self.parts[-1], self.saved
        message = (
            f"{len(self.layers)} 1x1 layers with nothing non-linear between are one linear map: a single 1x1 layer "
            f"from {input_channels(first)} to {output_channels(last)} channels gives the same and saves {_format_savings(saved)}."
        )
        return Finding("collapsible-pointwise", layer_paths(self.layers), message, saved.saves)


@dataclass(frozen=True)
class PointwiseBeforeAverage:
    """A linear 1x1 layer, normalisations and identities, and the average pooling: `parts`, in order."""

    parts: tuple

    @property
    def saved_macs(self):
        """MACs saved where the pooling comes first, so that the layer works on the pooled map."""
        layer, pool = self.parts[0], self.parts[-1]
        return (
            input_channels(layer)
            * output_channels(layer)
            * (count_positions(pool.inputs[0]) - count_positions(pool.outputs[0]))
        )

    @property
    def finding(self):
        """`Finding` that says so."""
        layer, pool = self.parts[0], self.parts[-1]
        message = (
            f"Linear 1x1 layer before an average pooling: the two commute exactly, and after the pooling it works on "
            f"{count_positions(pool.outputs[0])} instead of {count_positions(pool.inputs[0])} places and saves "
            f"{self.saved_macs:,} of {arithmetic.count_macs(layer):,} MACs."
        )
        saves = network_module.Cost(macs=self.saved_macs).saves
        return Finding("pointwise-before-average-pool", layer_paths((layer, pool)), message, saves)


def find_one_channel_pointwise(network):
    """1x1 layers on a single channel: before its activation, every output is that channel times a constant."""
    for layer in network.layers:
        if layer_kind(layer) == "pointwise" and input_channels(layer) == 1 and network_module.owns_weights(layer):
            width = output_channels(layer)
            before = "" if layer.is_linear else ", before the activation,"
            outputs = f"all {width} outputs{before} are" if width > 1 else f"its output{before} is"
            readers, freed = _freed_channels(network, layer)
            after = f", and {len(readers)} after it read 1 channel instead of {width}" if freed.params else ""
            saved = network_module.layer_cost(layer) + freed
            message = (
                f"1x1 layer on one channel: {outputs} that channel times a constant plus a bias (rank 1), where a "
                f"k x k kernel would see a neighbourhood; leaving it out saves {_format_savings(saved)}{after}."
            )
            yield Finding("pointwise-on-one-channel", (layer.path,), message, saved.saves)


def _freed_channels(network, layer):
    """The convolutions that read `layer`, and the `Cost` of the input channels that they would not need without it."""
    readers = network.readers_behind(layer)
    if network.leaves(layer) or not all(_is_changeable(network, reader) for reader in readers):
        return (), network_module.Cost()
    spared = Fraction(output_channels(layer) - 1, output_channels(layer))
    freed = [
        network_module.Cost(
            int(network_module.count_kernel_weights(reader) * spared),
            int(arithmetic.count_macs(reader) * spared),
            network_module.count_kernel_weights(reader) * spared * network_module.infer_item_sizes(reader).kernel,
        )
        for reader in readers
    ]
    return readers, network_module.sum_costs(freed)


def find_collapsible_pointwise(network):
    """1x1 layers with nothing non-linear between: one layer of the product of their weights does the same."""
    return [run.finding for run in find_linear_runs(network)]


def find_linear_runs(network):
    """Return the `Run`s of `network` that collapse into one layer with no more params and no more MACs.

    Exact for any strides: a 1x1 layer of stride s reads every s-th place, so two of them read every s1 x s2-th. Where
    the one layer would cost more, the two are a low-rank factorisation (K -> few -> F channels) and stay.
    """
    following = {}
    for layer in network.layers:
        if _is_changeable_pointwise(network, layer) and layer.is_linear:
            between, reader = _linear_path(network, layer)
            if reader is not None and _is_changeable_pointwise(network, reader):
                following[id(layer)] = (between, reader)
    found, taken = [], set()
    for layer in network.layers:
        if id(layer) in following and id(layer) not in taken:
            found += _grow_runs(layer, following, taken)
    return found


def _grow_runs(layer, following, taken):
    """The runs in the longest linear sequence from `layer` on, each grown as long as growing saves."""
    found, parts, standing, use_bias = [], [layer], network_module.layer_cost(layer), layer.use_bias
    while id(layer) in following:
        between, reader = following[id(layer)]
        more = (*between, reader)
        one = _collapsed_cost(parts[0], reader, use_bias or _brings_bias(more))
        gain = standing + network_module.sum_costs(map(network_module.layer_cost, more)) - one
        if gain.params >= 0 and gain.macs >= 0 and (gain.params or gain.macs):
            parts += more
            standing, use_bias = one, use_bias or _brings_bias(more)
        else:
            found.append(LinearRun(tuple(parts)))
            parts, standing, use_bias = [reader], network_module.layer_cost(reader), reader.use_bias
        taken.add(id(layer))
        layer = reader
    return [run for run in (*found, LinearRun(tuple(parts))) if len(run.parts) > 1]


def _collapsed_cost(first, last, use_bias):
    """`Cost` of the one layer that the layers from `first` to `last` collapse into."""
    places, sizes = count_positions(last.outputs[0]), network_module.infer_item_sizes(first)
    return network_module.convolution_cost(
        input_channels(first), output_channels(last), places, sizes, use_bias=use_bias
    )


def _brings_bias(parts):
    return any(part.use_bias or normalizes_channels(part) for part in parts)


def find_pointwise_before_average(network):
    """Linear 1x1 layers before an average pooling: the two commute, and after it there are fewer places to work on."""
    return [site.finding for site in find_average_sites(network)]


def find_average_sites(network):
    """Return the `Average`s of `network` that save MACs.

    The mean of W x + b is W times the mean of x, plus b; a border that the pooling pads takes no part in its mean.
    """
    found = []
    for layer in network.layers:
        if _is_changeable_pointwise(network, layer) and layer.is_linear and layer.strides == (1, 1):
            between, reader = _linear_path(network, layer)
            if reader is not None and reader.op in _AVERAGES:
                site = PointwiseBeforeAverage((layer, *between, reader))
                found += [site] if site.saved_macs > 0 else []
    return found


def _linear_path(network, layer):
    """Normalisations and identities that follow `layer` without a branch, and the layer that reads the last of them."""
    between, current = [], layer
    while (reader := network.sole_reader(current)) is not None and not network.is_shared(reader):
        if not is_identity(reader) and not normalizes_channels(reader):
            return tuple(between), reader
        between.append(reader)
        current = reader
    return tuple(between), None


def _is_changeable_pointwise(network, layer):
    return layer_kind(layer) == "pointwise" and _is_changeable(network, layer)


def _is_changeable(network, layer):
    """Whether `layer` mixes all channels with weights that are its own, so that it can be changed here alone."""
    mixes = layer.op == "Dense" or (layer.op in CONVOLUTIONS and layer.groups == 1)
    return mixes and network_module.owns_weights(layer) and not network.is_shared(layer)


def _format_savings(saved):
    parts = [f"{saved.params:,} params" if saved.params else "", f"{saved.macs:,} MACs" if saved.macs else ""]
    return " and ".join(part for part in parts if part)


# MERGED BatchNormalization that no convolution or Dense can take in, before it or after it.

_ABSORBING_OPERATIONS = CONVOLUTIONS | DEPTHWISE | TRANSPOSED | {"Dense"}
# The mean of a scaled and shifted channel is its mean scaled and shifted; a maximum is not, under a negative scale.
_AVERAGE_POOLS = frozenset(f"{which}AveragePooling{rank}D" for which in ("Global", "") for rank in (1, 2))


def find_unfoldable_norms(network):
    """BatchNormalization layers that stay as operations of their own when the network runs. One finding for all."""
    norms = [layer for layer in network.layers if layer.op == "BatchNormalization"]
    before, after = (_absorbed_before(network), _absorbed_after(network)) if norms else (set(), set())
    found = [layer for layer in norms if not _can_fold(network, layer, before, after)]
    if not found:
        return
    saved = network_module.sum_costs(_norm_savings(layer) for layer in found)
    work = sum(layer.output_elements for layer in found)
    many = f"{len(found)} of {len(norms)} BatchNormalization layers" if len(norms) > 1 else "The BatchNormalization"
    message = (
        f"{many} cannot fold into a convolution or Dense ({format_layer_names(found)}): {work:,} scalings and shifts an image that "
        f"the MACs leave out; right after a linear convolution of their own they would cost a bias and save "
        f"{saved.params:,} params."
    )
    yield Finding("unfoldable-batch-norm", layer_paths(found), message, saved.saves)


def _norm_savings(layer):
    """`Cost` of a normalisation's parameters less a bias, which is what stays of them once it is folded."""
    if not layer.params or not normalizes_channels(layer):
        return network_module.Cost()
    channels = output_channels(layer)
    return network_module.Cost(
        layer.params - channels, 0, Fraction(layer.weight_bytes, layer.params) * (layer.params - channels)
    )


def _can_fold(network, norm, before, after):
    if not normalizes_channels(norm) or network.is_shared(norm):
        return False
    return norm.inputs[0].index in before or norm.outputs[0].index in after


def _absorbed_before(network):
    """Indices of the tensors whose scale and shift the layers before can take in: nothing else reads those layers."""
    absorbed = set()
    for layer in network.layers:
        inside = layer.op in _ABSORBING_OPERATIONS and layer.is_linear and layer.params and not network.is_shared(layer)
        passed = _is_transparent(layer) or _joins(layer)
        if inside or (passed and all(tensor.index in absorbed for tensor in layer.inputs)):
            absorbed |= {tensor.index for tensor in layer.outputs if network.is_read_once(tensor)}
    return absorbed


def _absorbed_after(network):
    """Indices of the tensors whose scale and shift every layer that reads them can take in."""
    absorbed = set()
    for layer in reversed(network.layers):
        for tensor in layer.outputs:
            readers = network.graph.consumers.get(tensor.index, ())
            leaves = tensor.index in network.graph.output_indices
            if readers and not leaves and all(_can_absorb(network, reader, absorbed) for reader in readers):
                absorbed.add(tensor.index)
    return absorbed


def _can_absorb(network, layer, absorbed):
    if layer.op in _ABSORBING_OPERATIONS:
        # Zeros that pad the input would have to become the shift.
        return bool(layer.params) and not network.is_shared(layer) and not _pads_zeros(layer)
    flattened = layer.op in ("Flatten", "Reshape") and len(layer.outputs[0].shape) == 2
    passed = _is_transparent(layer) or flattened or (layer.op == "Concatenate" and _joins(layer))
    return passed and all(tensor.index in absorbed for tensor in layer.outputs)


def _is_transparent(layer):
    return is_identity(layer) or layer.op in _AVERAGE_POOLS or normalizes_channels(layer)


def _joins(layer):
    """Whether `layer` adds its inputs (all take the scale, one the shift) or puts their channels side by side."""
    if layer_kind(layer) != "merge":
        return False
    same_places = len({tensor.shape[:-1] for tensor in (*layer.inputs, *layer.outputs)}) == 1
    if layer.op == "Concatenate":
        return same_places and sum(tensor.channels for tensor in layer.inputs) == output_channels(layer)
    return layer.op == "Add" and same_places and {tensor.shape for tensor in layer.inputs} == {layer.outputs[0].shape}


def _pads_zeros(layer):
    """Whether a window of `layer` may hang over the edge of its input."""
    if layer.op == "Dense":
        return False
    if layer.op in TRANSPOSED:
        # Where windows overlap or leave gaps, the shift arrives in differing shares.
        return layer.padding != "valid" or layer.kernel != layer.strides
    if layer.padding == "valid":
        return False
    places = zip(layer.inputs[0].spatial, layer.kernel, layer.strides, layer.dilation, strict=True)
    reach = [((-(-size // s) - 1) * s + (kernel - 1) * d + 1, size) for size, kernel, s, d in places]
    return layer.padding != "same" or any(covered > size for covered, size in reach)
