"""Widths that fill no whole vector of the hardware."""

from keras_nin.audit import count
from keras_nin.audit.classify import CONVOLUTIONS, kind_of
from keras_nin.audit.findings import cost
from keras_nin.audit.findings.network import channels_out, is_identity, names, paths, positions
from keras_nin.audit.records import Finding

_WIDTH = 8
_HALF = 4


def unaligned(network):
    """Convolutions whose output channels are no multiple of 8, or not even of 4. One finding for the network.

    What enters the network and what leaves it (classes, a mask) is given by the task and no fault; on a single place
    (squeeze and excitation) the waste is too small to see.
    """
    found = [layer for layer in network.layers if _counts(layer) and channels_out(layer) % _WIDTH]
    ends = _given_by_the_task(network)
    found = [layer for layer in found if id(layer) not in ends]
    if not found:
        return
    added = cost.total(_padding(layer) for layer in found)
    odd = sum(channels_out(layer) % _HALF != 0 for layer in found)
    share = added.macs / (added.macs + sum(count.macs(layer) for layer in found))
    several = "convolutions have a number" if len(found) > 1 else "convolution has a number"
    message = (
        f"{len(found)} {several} of channels that is no multiple of 8 ({odd} not even of 4; {names(found)}): kernels "
        f"that compute 8 at a time idle for {share:.0%} of their work there, and padding the layers to multiples of 8 "
        f"would cost {added.params:,} params and {added.macs:,} MACs in them."
    )
    yield Finding("unaligned-channels", paths(found), message, (cost.Cost() - added).saves)


def _counts(layer):
    return layer.op in CONVOLUTIONS and cost.owns_weights(layer) and positions(layer.outputs[0]) > 1


def _padding(layer):
    """`Cost` of the channels that `layer` lacks to the next multiple of 8, in the layer itself."""
    width = channels_out(layer)
    missing, sizes = -width % _WIDTH, cost.item_sizes(layer)
    weights = cost.kernel_weights(layer) // width * missing
    biases = missing if layer.use_bias else 0
    macs = count.macs(layer) // width * missing
    return cost.Cost(weights + biases, macs, weights * sizes.kernel + biases * sizes.bias)


def _given_by_the_task(network):
    """Ids of the layers whose channels leave the network as they are."""
    ends = {id(layer) for layer in network.head}
    for layer in reversed(network.layers):
        readers = network.graph.readers(layer)
        through = [id(reader) in ends and _keeps_channels(reader) for reader in readers]
        if network.leaves(layer) or (readers and all(through)):
            ends.add(id(layer))
    return ends


def _keeps_channels(layer):
    return kind_of(layer) in ("activation", "pool", "norm", "reshape") or is_identity(layer)
