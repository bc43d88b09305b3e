"""What several rules ask of a graph, each answered once, and costs as arithmetic on shapes."""

import functools
import math
import pathlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from keras_nin.audit import operations as ops
from keras_nin.audit.arithmetic import count_macs
from keras_nin.audit.graph import ActivationTensor, LayerGraph, LayerInfo
from keras_nin.audit.records import Finding
from keras_nin.formatting import format_names

_MESSAGES: dict[str, str] = tomllib.loads(pathlib.Path(__file__).with_name("messages.toml").read_text(encoding="utf-8"))
_CALL_NUMBER = re.compile(r" \(\d+\)(?=/|$)")
# Bytes of a weight of a kernel and of a bias: float32, float16, float64, and the files' int8, int16x8 and int4.
_ITEM_SIZES = ((4, 4), (2, 2), (8, 8), (1, 4), (1, 8), (Fraction(1, 2), 4))


class FindingsNetwork:
    """A `LayerGraph` with its totals (unknown MACs count 0), its shared layers and its head."""

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        self.layers = graph.layers
        self.params = sum(layer.params for layer in graph.layers)
        self.macs = sum(count_macs(layer) or 0 for layer in graph.layers)
        self._calls = Counter(_CALL_NUMBER.sub("", layer.path) for layer in graph.layers)

    def is_shared(self, layer: LayerInfo) -> bool:
        """Return whether `layer` is one of several calls with the same weights: a change here is a change elsewhere."""
        return self._calls[_CALL_NUMBER.sub("", layer.path)] > 1

    def is_read_once(self, tensor: ActivationTensor) -> bool:
        """Return whether exactly one layer reads `tensor`, and it does not leave the network."""
        is_read_once = len(self.graph.consumers.get(tensor.index, ())) == 1
        return is_read_once and tensor.index not in self.graph.output_indices

    def sole_reader(self, layer: LayerInfo) -> LayerInfo | None:
        """Return the only reader of `layer`'s output; None if there are more or none, or if it leaves the network."""
        readers = self.graph.readers(layer)
        return readers[0] if len(readers) == 1 and not self.graph.is_output(layer) else None

    def effective_readers(self, layer: LayerInfo) -> list[LayerInfo]:
        """Return the layers that read the output of `layer`, directly or through layers that pass it on unchanged."""
        readers, pending = [], [layer]
        for current in pending:  # which grows meanwhile
            for reader in self.graph.readers(current):
                (pending if reader.is_identity else readers).append(reader)
        return readers

    @functools.cached_property
    def head(self) -> tuple[LayerInfo, ...]:
        """Layers that hold the weights of the head, in order: only Dense, norms and activations follow them.

        A head ends in vectors. It consists of Dense layers on vectors, or of the last 1x1 layers; a 1x1 layer before
        a Dense is not part of it.
        """
        followers: dict[int, str] = {}  # by id of a layer in the head: "dense" if a Dense follows it, else "plain"
        for layer in reversed(self.layers):
            is_output = self.graph.is_output(layer)
            found = {self._follower_through(reader, followers) for reader in self.graph.readers(layer)}
            ends_in_map = is_output and any(len(tensor.shape) > 2 for tensor in layer.outputs)
            if None not in found and (found or is_output) and not ends_in_map:
                followers[id(layer)] = "dense" if "dense" in found else "plain"
        holders = {"dense": ("dense", "plain"), "pointwise": ("plain",)}
        return tuple(layer for layer in self.layers if followers.get(id(layer)) in holders.get(layer.kind, ()))

    def _follower_through(self, reader: LayerInfo, followers: dict[int, str]) -> str | None:
        """Return what follows a layer whose output `reader` reads; None if that is more than the end of a head."""
        follower = followers.get(id(reader))
        if reader.kind == "dense":
            return "dense" if follower and len(reader.outputs[0].shape) == 2 else None
        is_free = reader.kind in ("activation", "pool", "reshape") or reader.op in ops.PASS_THROUGH
        return follower if is_free or reader.op == "BatchNormalization" else None


def normalizes_channels(layer: LayerInfo) -> bool:
    """Return whether `layer` is a BatchNormalization over the last axis: a scale and a shift for every channel."""
    channels = layer.output_channels if layer.outputs else 0
    # Two moving statistics, and gamma and beta if it has them; another number means another axis (the records name
    # none: an axis of the same size is not told apart) or weights that were counted at an earlier call.
    return layer.op == "BatchNormalization" and layer.params in (2 * channels, 3 * channels, 4 * channels)


# Costs


@dataclass(frozen=True)
class Cost:
    """Parameters, MACs and bytes of weights of a part of a network; a difference may be negative."""

    params: int = 0
    macs: int = 0
    bytes: Fraction = Fraction(0)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs, self.bytes + other.bytes)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.params - other.params, self.macs - other.macs, self.bytes - other.bytes)

    def __str__(self) -> str:
        costs = ((self.params, "params"), (self.macs, "MACs"))
        return " and ".join(f"{count:,} {unit}" for count, unit in costs if count)


def make_finding(rule: str, layers: Iterable[LayerInfo], savings: Cost, **values: Any) -> Finding:
    """Return the `Finding` of `rule`; its message is filled with `values`, `savings` and the `names` of `layers`."""
    paths = tuple(layer.path for layer in layers)
    message = _MESSAGES[rule].format(savings=savings, names=format_names(paths, shown=3), **values)
    saves = {"params": savings.params, "macs": savings.macs, "bytes": math.floor(savings.bytes)}
    return Finding(rule, paths, message, saves)


def layer_cost(*layers: LayerInfo) -> Cost:
    """Return the `Cost` of layers as they are; unknown MACs count 0."""
    return sum((Cost(layer.params, count_macs(layer) or 0, Fraction(layer.weight_bytes)) for layer in layers), Cost())


def count_kernel_weights(layer: LayerInfo) -> int:
    """Return the number of weights in the kernel of a convolution, a depthwise one or a Dense, from its shapes."""
    if layer.op in ops.DEPTHWISE:
        return layer.kernel_size * layer.output_channels
    return layer.kernel_size * layer.input_channels // layer.groups * layer.output_channels


def owns_weights(layer: LayerInfo) -> bool:
    """Return whether `layer` is a convolution or Dense with weights of its own: as many as its shapes say."""
    is_known = layer.op in ops.LINEAR - ops.TRANSPOSED
    return is_known and layer.params == count_kernel_weights(layer) + layer.use_bias * layer.output_channels


def _infer_item_sizes(layer: LayerInfo) -> tuple[Fraction, Fraction]:
    """Return the bytes of a weight of the kernel, and of one of the bias, of a layer that owns its weights."""
    kernel, bias = count_kernel_weights(layer), layer.use_bias * layer.output_channels
    for kernel_item, bias_item in _ITEM_SIZES:
        if math.ceil(kernel * kernel_item) + bias * bias_item == layer.weight_bytes:
            return Fraction(kernel_item), Fraction(bias_item)
    average = Fraction(layer.weight_bytes, layer.params)
    return average, average


def weights_cost(model: LayerInfo, weights: int, biases: int, macs: int) -> Cost:
    """Return the `Cost` of so many weights in a kernel, of the types that the layer `model` has, and biases."""
    kernel_item, bias_item = _infer_item_sizes(model)
    return Cost(weights + biases, macs, weights * kernel_item + biases * bias_item)


def convolution_cost(
    model: LayerInfo, inputs: int, outputs: int, positions: int, *, taps: int = 1, use_bias: bool | None = None
) -> Cost:
    """Return the `Cost` of a convolution with `taps` = kernel height times width, at `positions` output positions.

    Its weights have the types of those of the layer `model`; it has a bias if that has one, unless `use_bias` says so.
    """
    biases = outputs if (model.use_bias if use_bias is None else use_bias) else 0
    return weights_cost(model, taps * inputs * outputs, biases, taps * inputs * outputs * positions)
