"""What turns a network's last map into classes: Dense layers, and how much of the network they hold."""

from fractions import Fraction

from keras_nin.audit.classify import FOLDABLE_NORMS, GLOBAL_POOLS, PASS_THROUGH, kind_of
from keras_nin.audit.findings import cost
from keras_nin.audit.findings.network import channels_in, channels_out, names, paths, positions
from keras_nin.audit.records import Finding

# A head below a tenth of the parameters is not worth another head, which has to be trained anew.
LARGE_HEAD = Fraction(1, 10)
HEAVY_HEAD = Fraction(3, 10)


def dense_as_pointwise(network):
    """Dense layers on a pooled or 1x1 map: 1x1 layers under another name. One finding for the network."""
    single, found = set(), []  # single: indices of vectors that stand for one place of a map
    for layer in network.layers:
        if _gives_one_place(layer, single):
            single |= {tensor.index for tensor in layer.outputs}
            found += [layer] if kind_of(layer) == "dense" else []
    if found:
        verb = "is a 1x1 layer" if len(found) == 1 else "are 1x1 layers"
        message = (
            f"Dense on the vector of a 1x1 map ({names(found)}) {verb} under another name, with the same weights and "
            f"MACs; written as Conv2D the network takes larger images too."
        )
        yield Finding("dense-is-pointwise", paths(found), message, cost.Cost().saves)


def _gives_one_place(layer, single):
    if len(layer.inputs) != 1 or len(layer.outputs) != 1 or len(layer.outputs[0].shape) != 2:
        return False
    entering = layer.inputs[0]
    if len(entering.shape) == 2:
        alike = kind_of(layer) in ("activation", "dense", "norm") or layer.op in PASS_THROUGH
        return entering.index in single and alike
    flat = kind_of(layer) == "reshape" and positions(entering) == 1 and entering.elements == layer.output_elements
    return layer.op in GLOBAL_POOLS or flat


def flattened(network):
    """Dense heads on a flattened map that hold much of the network: what a 1x1 layer and an average would need."""
    members = {id(layer) for layer in network.head}
    for layer in network.layers:
        if not _flattens_a_map(layer):
            continue
        dense, norms = _dense_chain(network, layer)
        if not dense or not all(id(part) in members and cost.owns_weights(part) for part in dense):
            continue
        spent = cost.total(cost.of(part) for part in (*dense, *norms))
        (_, height, width, channels), last = layer.inputs[0].shape, dense[-1]
        needed = cost.convolution(
            channels, channels_out(last), height * width, cost.item_sizes(last), use_bias=last.use_bias
        )
        if spent.params < LARGE_HEAD * network.params or needed.params >= spent.params:
            continue
        message = (
            f"The Dense head on a flattened {height}x{width}x{channels} map has {spent.params:,} params; a 1x1 layer "
            f"to the {channels_out(last)} outputs and a global average, which forget where on the map something is, "
            f"need {needed.params:,}."
        )
        yield Finding("flatten-dense-head", paths((layer, *dense)), message, (spent - needed).saves)


def _flattens_a_map(layer):
    if kind_of(layer) != "reshape" or len(layer.inputs) != 1 or len(layer.outputs) != 1:
        return False
    entering, leaving = layer.inputs[0], layer.outputs[0]
    to_vector = len(entering.shape) == 4 and len(leaving.shape) == 2 and entering.elements == leaving.elements
    return to_vector and positions(entering) > 1


def _dense_chain(network, layer):
    """Dense layers and normalisations that follow `layer` one after the other, up to the network's output."""
    dense, norms = [], []
    while (reader := network.sole_reader(layer)) is not None:
        if kind_of(reader) == "dense":
            dense.append(reader)
        elif reader.op in FOLDABLE_NORMS:
            norms.append(reader)
        elif kind_of(reader) != "activation" and reader.op not in PASS_THROUGH:
            return [], []
        layer = reader
    return (dense, norms) if network.leaves(layer) else ([], [])


def heavy(network):
    """A head that holds more than 30 % of the parameters."""
    head = network.head
    spent = cost.total(cost.of(layer) for layer in head)
    if not head or spent.params <= HEAVY_HEAD * network.params or len(head) == _weighted(network):
        return
    last = head[-1]
    each = channels_in(last) + last.use_bias
    message = (
        f"The head ({names(head)}) holds {spent.params:,} of {network.params:,} params "
        f"({spent.params / network.params:.0%}): the features without it hold {network.params - spent.params:,}, and "
        f"each of its {channels_out(last)} outputs that can go saves {each:,}."
    )
    yield Finding("heavy-head", paths(head), message, spent.saves)


def _weighted(network):
    return sum(cost.owns_weights(layer) for layer in network.layers)
