"""What several rules ask of a graph, each answered once."""

import functools
import math
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import arithmetic
from keras_nin.audit.classification import CONVOLUTIONS, DEPTHWISE, PASS_THROUGH, layer_kind

_NAMES_SHOWN = 3
_USE_NUMBER = re.compile(r" \(\d+\)(?=/|$)")


class FindingsNetwork:
    """A `Graph` with an index of producers, of readers and of shared layers.

    Attributes:
        graph: the `Graph`.
        producers: tensor index -> the layer that writes that tensor.
        params, macs: totals of the network; layers whose MACs are not known count 0.
    """

    def __init__(self, graph):
        self.graph = graph
        self.layers = graph.layers
        self.producers = {tensor.index: layer for layer in graph.layers for tensor in layer.outputs}
        self.params = sum(layer.params for layer in graph.layers)
        self.macs = sum(arithmetic.count_macs(layer) or 0 for layer in graph.layers)
        uses = Counter(_USE_NUMBER.sub("", layer.path) for layer in graph.layers)
        self._shared = {path for path, times in uses.items() if times > 1}

    def producer(self, tensor):
        """The layer that writes `tensor`, or None where it enters the network."""
        return self.producers.get(tensor.index)

    def leaves(self, layer):
        """Whether an output of `layer` is an output of the network."""
        return any(tensor.index in self.graph.output_indices for tensor in layer.outputs)

    def is_shared(self, layer):
        """Whether `layer` is one of several uses of the same weights: to change it here changes it elsewhere."""
        return _USE_NUMBER.sub("", layer.path) in self._shared

    def is_read_once(self, tensor):
        """Whether exactly one layer reads `tensor`, and it does not leave the network."""
        read_once = len(self.graph.consumers.get(tensor.index, ())) == 1
        return read_once and tensor.index not in self.graph.output_indices

    def sole_reader(self, layer):
        """The one layer that reads what `layer` gives; None where there are more or none, or it leaves the network."""
        readers = self.graph.readers(layer)
        return readers[0] if len(readers) == 1 and not self.leaves(layer) else None

    def readers_behind(self, layer):
        """The layers that read what `layer` gives, pass-through layers looked through."""
        found, waiting = [], [layer]
        while waiting:
            for reader in self.graph.readers(waiting.pop()):
                (waiting if is_identity(reader) else found).append(reader)
        return found

    @functools.cached_property
    def head(self):
        """Layers that hold the weights of the head, in order: what follows them is only Dense, norms and activations.

        A head ends in vectors. Its members are Dense layers on vectors, or the last 1x1 layers; a 1x1 layer that a
        Dense follows is no member.
        """
        ends = {}  # position of a layer -> what follows it: "plain" layers only, or a "dense" too
        for layer in reversed(self.layers):
            if after := self._what_follows(layer, ends):
                ends[id(layer)] = after
        members = [layer for layer in self.layers if id(layer) in ends]
        return tuple(
            layer
            for layer in members
            if layer_kind(layer) == "dense" or (layer_kind(layer) == "pointwise" and ends[id(layer)] == "plain")
        )

    def _what_follows(self, layer, ends):
        if self.leaves(layer) and any(len(tensor.shape) > 2 for tensor in layer.outputs):
            return None
        after = {self._step(reader, ends) for reader in self.graph.readers(layer)}
        if None in after or not (after or self.leaves(layer)):
            return None
        return "dense" if "dense" in after else "plain"

    def _step(self, reader, ends):
        """What follows a layer whose output `reader` reads; None where that is more than a head's end."""
        after = ends.get(id(reader))
        if layer_kind(reader) == "dense":
            return "dense" if after and len(reader.outputs[0].shape) == 2 else None
        if reader.op == "BatchNormalization":
            return after
        free = layer_kind(reader) in ("activation", "pool", "reshape") or reader.op in PASS_THROUGH
        return after if free else None


def is_identity(layer):
    """Whether `layer` gives back what it gets when the network runs."""
    return layer.op in PASS_THROUGH or (layer.op == "Activation" and layer.activation == "linear")


def normalizes_channels(layer):
    """Whether `layer` is a BatchNormalization over the last axis: scale and shift of every channel."""
    channels = layer.outputs[0].channels if layer.outputs else 0
    # Two moving statistics, and gamma and beta where it has them; another number means another axis (the records name
    # none: an axis of the same length is not told apart) or weights counted at an earlier use.
    return layer.op == "BatchNormalization" and layer.params in (2 * channels, 3 * channels, 4 * channels)


def count_positions(tensor):
    """Number of places of a map or a sequence; 1 for a vector."""
    height, width = tensor.spatial or (1, 1)
    return height * width


def input_channels(layer):
    """Number of channels that enter `layer`."""
    return layer.inputs[0].channels


def output_channels(layer):
    """Number of channels that leave `layer`."""
    return layer.outputs[0].channels


def layer_paths(layers):
    """The paths of `layers`, for the `layers` of a finding."""
    return tuple(layer.path for layer in layers)


def format_layer_names(layers):
    """The paths of `layers` as text, the first few and how many more."""
    shown = ", ".join(layer.path for layer in layers[:_NAMES_SHOWN])
    return f"{shown} and {len(layers) - _NAMES_SHOWN} more" if len(layers) > _NAMES_SHOWN else shown


# MERGED Costs as arithmetic on shapes, and the `saves` of a finding.

# Bytes of a kernel's weight and of a bias's: float32, float16, float64, and the files' int8, 16x8 and int4.
_ITEM_SIZES = ((4, 4), (2, 2), (8, 8), (1, 4), (1, 8), (Fraction(1, 2), 4))


@dataclass(frozen=True)
class Cost:
    """Parameters, MACs and bytes of weights of a part of a network; a difference may be negative."""

    params: int = 0
    macs: int = 0
    bytes: Fraction = Fraction(0)

    def __add__(self, other):
        return Cost(self.params + other.params, self.macs + other.macs, self.bytes + other.bytes)

    def __sub__(self, other):
        return Cost(self.params - other.params, self.macs - other.macs, self.bytes - other.bytes)

    @property
    def saves(self):
        """The `saves` of a finding."""
        return {"params": self.params, "macs": self.macs, "bytes": math.floor(self.bytes)}


@dataclass(frozen=True)
class ItemSizes:
    """Bytes that one weight of a layer's kernel takes, and one of its bias."""

    kernel: Fraction
    bias: Fraction


def layer_cost(layer):
    """Return the `Cost` of `layer` as it is; MACs that are not known count 0."""
    return Cost(layer.params, arithmetic.count_macs(layer) or 0, Fraction(layer.weight_bytes))


def sum_costs(costs):
    """Return the sum of `costs`."""
    return sum(costs, Cost())


def count_kernel_weights(layer):
    """Number of weights in the kernel of a convolution, a depthwise one or a Dense, from its shapes."""
    if layer.op == "Dense":
        return input_channels(layer) * output_channels(layer)
    if layer.op in DEPTHWISE:
        return math.prod(layer.kernel) * output_channels(layer)
    return math.prod(layer.kernel) * input_channels(layer) // layer.groups * output_channels(layer)


def owns_weights(layer):
    """Whether `layer` is a convolution or Dense with its weights to itself: as many as its shapes say."""
    known = layer.op in CONVOLUTIONS or layer.op in DEPTHWISE or layer.op == "Dense"
    return known and layer.params == count_kernel_weights(layer) + layer.use_bias * output_channels(layer)


def infer_item_sizes(layer):
    """Return the `ItemSizes` of a layer that owns its weights, from the bytes that they take together."""
    kernel, bias = count_kernel_weights(layer), layer.use_bias * output_channels(layer)
    for of_kernel, of_bias in _ITEM_SIZES:
        if math.ceil(kernel * of_kernel) + bias * of_bias == layer.weight_bytes:
            return ItemSizes(Fraction(of_kernel), Fraction(of_bias))
    average = Fraction(layer.weight_bytes, layer.params)
    return ItemSizes(average, average)


def convolution_cost(inputs, outputs, positions, sizes, *, taps=1, use_bias):
    """Return the `Cost` of a convolution with `taps` = kernel height x width, at `positions` output places."""
    weights, biases = taps * inputs * outputs, outputs if use_bias else 0
    return Cost(weights + biases, weights * positions, weights * sizes.kernel + biases * sizes.bias)
