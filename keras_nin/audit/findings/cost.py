"""Costs as arithmetic on shapes, and the `saves` of a finding."""

import math
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import count
from keras_nin.audit.classify import CONVOLUTIONS, DEPTHWISE
from keras_nin.audit.findings.network import channels_in, channels_out

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


def of(layer):
    """Return the `Cost` of `layer` as it is; MACs that are not known count 0."""
    return Cost(layer.params, count.macs(layer) or 0, Fraction(layer.weight_bytes))


def total(costs):
    """Return the sum of `costs`."""
    return sum(costs, Cost())


def kernel_weights(layer):
    """Number of weights in the kernel of a convolution, a depthwise one or a Dense, from its shapes."""
    if layer.op == "Dense":
        return channels_in(layer) * channels_out(layer)
    if layer.op in DEPTHWISE:
        return math.prod(layer.kernel) * channels_out(layer)
    return math.prod(layer.kernel) * channels_in(layer) // layer.groups * channels_out(layer)


def owns_weights(layer):
    """Whether `layer` is a convolution or Dense with its weights to itself: as many as its shapes say."""
    known = layer.op in CONVOLUTIONS or layer.op in DEPTHWISE or layer.op == "Dense"
    return known and layer.params == kernel_weights(layer) + layer.use_bias * channels_out(layer)


def item_sizes(layer):
    """Return the `ItemSizes` of a layer that owns its weights, from the bytes that they take together."""
    kernel, bias = kernel_weights(layer), layer.use_bias * channels_out(layer)
    for of_kernel, of_bias in _ITEM_SIZES:
        if math.ceil(kernel * of_kernel) + bias * of_bias == layer.weight_bytes:
            return ItemSizes(Fraction(of_kernel), Fraction(of_bias))
    average = Fraction(layer.weight_bytes, layer.params)
    return ItemSizes(average, average)


def convolution(inputs, outputs, positions, sizes, *, taps=1, use_bias):
    """Return the `Cost` of a convolution with `taps` = kernel height x width, at `positions` output places."""
    weights, biases = taps * inputs * outputs, outputs if use_bias else 0
    return Cost(weights + biases, weights * positions, weights * sizes.kernel + biases * sizes.bias)
