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
    found = [layer for layer in norms if not _folds(network, layer)]
    if not found:
        return
    saved = cost.total(_saved(layer) for layer in found)
    work = sum(layer.output_elements for layer in found)
    many = f"{len(found)} of {len(norms)} BatchNormalization layers" if len(norms) > 1 else "The BatchNormalization"
    message = (
        f"{many} cannot fold into a convolution or Dense ({names(found)}): {work:,} scalings and shifts an image that the "
        f"MACs leave out; right after a linear convolution of their own they would cost a bias and save "
        f"{saved.params:,} params."
    )
    yield Finding("unfoldable-batch-norm", paths(found), message, saved.saves)


def _saved(layer):
    """`Cost` of a normalisation's parameters less a bias, which is what stays of them once it is folded."""
    if not layer.params or not normalizes_channels(layer):
        return cost.Cost()
    channels = channels_out(layer)
    return cost.Cost(layer.params - channels, 0, Fraction(layer.weight_bytes, layer.params) * (layer.params - channels))


def _folds(network, layer):
    per_channel = normalizes_channels(layer) and not network.is_shared(layer)
    return per_channel and (_folds_back(network, layer) or _folds_forward(network, layer))


def _folds_back(network, norm):
    """Whether all that gives `norm` its input is linear, has weights, and is read by nothing else."""
    waiting = [norm.inputs[0]]
    while waiting:
        tensor = waiting.pop()
        layer = network.producer(tensor)
        alone = len(network.graph.consumers[tensor.index]) == 1 and tensor.index not in network.graph.output_indices
        if layer is None or not alone:
            return False
        if layer.op in _WEIGHTED and layer.is_linear and layer.params and not network.is_shared(layer):
            continue
        if not (_is_transparent(layer) or _joins(layer)):
            return False
        waiting += layer.inputs
    return True


def _is_transparent(layer):
    return is_identity(layer) or layer.op in _AVERAGES or normalizes_channels(layer)


def _joins(layer):
    """Whether `layer` adds its inputs (all take the scale, one the shift) or puts their channels side by side."""
    if kind_of(layer) != "merge":
        return False
    same_places = len({tensor.shape[:-1] for tensor in (*layer.inputs, *layer.outputs)}) == 1
    if layer.op == "Concatenate":
        return same_places and sum(tensor.shape[-1] for tensor in layer.inputs) == channels_out(layer)
    return layer.op == "Add" and same_places and {tensor.shape for tensor in layer.inputs} == {layer.outputs[0].shape}


def _folds_forward(network, norm):
    """Whether all that reads `norm` has weights and pads no zeros, which would need the shift to be padded with."""
    waiting, seen = [norm], {id(norm)}
    while waiting:
        layer = waiting.pop()
        readers = network.graph.readers(layer)
        if network.leaves(layer) or not readers:
            return False
        for reader in readers:
            if id(reader) in seen:
                continue
            seen.add(id(reader))
            if reader.op in _WEIGHTED:
                if not reader.params or network.is_shared(reader) or _pads_zeros(reader):
                    return False
            elif _carries_on(reader):
                waiting.append(reader)
            else:
                return False
    return True


def _carries_on(layer):
    flattened = layer.op in ("Flatten", "Reshape") and len(layer.outputs[0].shape) == 2
    return is_identity(layer) or layer.op in _AVERAGES or flattened or (layer.op == "Concatenate" and _joins(layer))


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
