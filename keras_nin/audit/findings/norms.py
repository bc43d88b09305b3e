"""BatchNormalization that no convolution or Dense can take in, before it or after it."""

from fractions import Fraction

from keras_nin.audit.classify import CONVOLUTIONS, DEPTHWISE, TRANSPOSED, kind_of
from keras_nin.audit.findings import cost
from keras_nin.audit.findings.network import channels_out, is_identity, names, normalizes_channels, paths
from keras_nin.audit.records import Finding

_WEIGHTED = CONVOLUTIONS | DEPTHWISE | TRANSPOSED | {"Dense"}
# The mean of a scaled and shifted channel is its mean scaled and shifted; a maximum is not, under a negative scale.
_AVERAGES = frozenset(f"{which}AveragePooling{rank}D" for which in ("Global", "") for rank in (1, 2))


def unfoldable(network):
    """BatchNormalization layers that stay as operations of their own when the network runs. One finding for all."""
    norms = [layer for layer in network.layers if layer.op == "BatchNormalization"]
    before, after = (_absorbed_before(network), _absorbed_after(network)) if norms else (set(), set())
    found = [layer for layer in norms if not _folds(network, layer, before, after)]
    if not found:
        return
    saved = cost.total(_saved(layer) for layer in found)
    work = sum(layer.output_elements for layer in found)
    many = f"{len(found)} of {len(norms)} BatchNormalization layers" if len(norms) > 1 else "The BatchNormalization"
    message = (
        f"{many} cannot fold into a convolution or Dense ({names(found)}): {work:,} scalings and shifts an image that "
        f"the MACs leave out; right after a linear convolution of their own they would cost a bias and save "
        f"{saved.params:,} params."
    )
    yield Finding("unfoldable-batch-norm", paths(found), message, saved.saves)


def _saved(layer):
    """`Cost` of a normalisation's parameters less a bias, which is what stays of them once it is folded."""
    if not layer.params or not normalizes_channels(layer):
        return cost.Cost()
    channels = channels_out(layer)
    return cost.Cost(layer.params - channels, 0, Fraction(layer.weight_bytes, layer.params) * (layer.params - channels))


def _folds(network, norm, before, after):
    if not normalizes_channels(norm) or network.is_shared(norm):
        return False
    return norm.inputs[0].index in before or norm.outputs[0].index in after


def _absorbed_before(network):
    """Indices of the tensors whose scale and shift the layers before can take in: nothing else reads those layers."""
    absorbed = set()
    for layer in network.layers:
        inside = layer.op in _WEIGHTED and layer.is_linear and layer.params and not network.is_shared(layer)
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
            if readers and not leaves and all(_takes_in(network, reader, absorbed) for reader in readers):
                absorbed.add(tensor.index)
    return absorbed


def _takes_in(network, layer, absorbed):
    if layer.op in _WEIGHTED:
        # Zeros that pad the input would have to become the shift.
        return bool(layer.params) and not network.is_shared(layer) and not _pads_zeros(layer)
    flattened = layer.op in ("Flatten", "Reshape") and len(layer.outputs[0].shape) == 2
    passed = _is_transparent(layer) or flattened or (layer.op == "Concatenate" and _joins(layer))
    return passed and all(tensor.index in absorbed for tensor in layer.outputs)


def _is_transparent(layer):
    return is_identity(layer) or layer.op in _AVERAGES or normalizes_channels(layer)


def _joins(layer):
    """Whether `layer` adds its inputs (all take the scale, one the shift) or puts their channels side by side."""
    if kind_of(layer) != "merge":
        return False
    same_places = len({tensor.shape[:-1] for tensor in (*layer.inputs, *layer.outputs)}) == 1
    if layer.op == "Concatenate":
        return same_places and sum(tensor.channels for tensor in layer.inputs) == channels_out(layer)
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
