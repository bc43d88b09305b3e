"""The channels of a network that depend on one another: they are removed together or not at all.

Every position of the last axis of a tensor carries the number of a channel. A convolution makes new channels; pooling,
BatchNormalization, depthwise convolution and the like hand them on; a concatenation joins them, a Flatten repeats them
for each position of the map, and an addition ties those that it adds. What reaches the outputs of the network, or a
layer without a rule, stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_nin.keras_graph import GraphCall, GraphTrace, TensorSlot, trace_functional

if TYPE_CHECKING:
    import keras

Channels: TypeAlias = npt.NDArray[np.int64]

# Axis of the input and of the output channels in each weight of the layers that mix channels.
_CONVOLUTION = {"kernel": (-2, -1), "bias": (None, 0)}
_TRANSPOSED = {"kernel": (-1, -2), "bias": (None, 0)}
_SEPARABLE = {"depthwise_kernel": (-2, None), "pointwise_kernel": (-2, -1), "bias": (None, 0)}
WEIGHT_AXES: dict[str, dict[str, tuple[int | None, int | None]]] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "Dense"), _CONVOLUTION),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _TRANSPOSED),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _SEPARABLE),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), {"kernel": (-2, None), "bias": (0, None)}),
    "BatchNormalization": dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (0, None)),
    "PReLU": {"alpha": (-1, None)},
}
_MIXING = frozenset(("Conv1D", "Conv2D", "Conv3D", "Dense")) | frozenset(
    ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "SeparableConv1D", "SeparableConv2D")
)
_DEPTHWISE = frozenset(("DepthwiseConv1D", "DepthwiseConv2D"))
# Layers and operations of `keras.ops` that compute each channel from itself alone.
_PER_CHANNEL = frozenset(
    ("ReLU", "LeakyReLU", "ELU", "PReLU", "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity")
    + ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "ActivityRegularization", "Relu", "Relu6", "Sigmoid")
    + ("HardSigmoid", "HardSilu", "Silu", "Gelu", "Elu", "Selu", "Tanh", "Softplus", "Negative", "Absolute", "Cast")
)
_MAPS = tuple(
    f"{kind}{rank}D" for rank in (1, 2, 3) for kind in ("MaxPooling", "AveragePooling", "UpSampling")
) + tuple(f"{kind}{rank}D" for rank in (1, 2, 3) for kind in ("ZeroPadding", "Cropping", "GlobalMaxPooling"))
_PER_MAP = frozenset(_MAPS + tuple(f"GlobalAveragePooling{rank}D" for rank in (1, 2, 3)))
_MERGING = frozenset(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide"))
_JOINING = frozenset(("Concatenate",))
_ACTIVATIONS = frozenset(
    ("linear", "relu", "relu6", "elu", "selu", "gelu", "tanh", "sigmoid", "silu", "softplus", "softsign", "exponential")
    + ("hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "mish", "celu", "log_sigmoid")
)
NO_RULE = "has no rule"
# Bookkeeping of layers that has no channels.
_COUNTERS = frozenset(("seed_generator_state", "iterations"))


@dataclasses.dataclass(eq=False)
class LayerChannels:
    """The channels of one layer that has some in its weights or in its config.

    Attributes:
        name: path of its first call, as in an audit.
        inputs: the channel of each position of its input, without the `positions` in front of it.
        outputs: channels that it makes; None for one that hands on those of its input.
        positions: how often the input repeats `inputs`: the positions of a map that was flattened.
        multiplier: outputs of a depthwise convolution for each channel.
        slots: the inputs of its calls.
    """

    layer: keras.Layer
    name: str
    inputs: Channels
    outputs: Channels | None
    positions: int = 1
    multiplier: int = 1
    slots: list[TensorSlot] = dataclasses.field(default_factory=list)

    @property
    def kind(self) -> str:
        """Class of the layer."""
        return type(self.layer).__name__


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that the same layers make, each of which can be removed from all of these layers at once.

    Attributes:
        layers: names of the layers that make them.
        channels: numbers of the channels.
    """

    layers: tuple[str, ...]
    channels: Channels

    def __str__(self) -> str:
        return " + ".join(self.layers)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGraph:
    """All channels of a network.

    Attributes:
        layers: those with channels, by the layer's id, in the order of their first calls.
        shapes: last axis of each tensor, as (channels, positions).
        groups: what can be removed.
        blocked: why the channels of a layer stay, by the layer's name.
    """

    trace: GraphTrace
    layers: dict[int, LayerChannels]
    shapes: dict[TensorSlot, tuple[Channels, int]]
    groups: tuple[ChannelGroup, ...]
    blocked: dict[str, str]


def find_channels(model: keras.Model) -> ChannelGraph:
    """Return the channels of a network and the groups that can be removed.

    Raises:
        InputError: `model` is no graph of layers.
    """
    return _Finder(trace_functional(model)).find()


def describe_call(call: GraphCall) -> str:
    """Return a call as messages name it: ``Attention 'block/attention'``."""
    return f"{type(call.operation).__name__} {'/'.join(call.path)!r}"


@dataclasses.dataclass(frozen=True, eq=False)
class _Layout:
    """The last axis of a tensor: `channels`, repeated for each of `positions`."""

    channels: Channels
    positions: int = 1

    def __len__(self) -> int:
        return len(self.channels) * self.positions

    def flat(self) -> Channels:
        return np.tile(self.channels, self.positions)


class _Finder:
    """Hands the numbers of channels through the calls of a network."""

    def __init__(self, trace: GraphTrace) -> None:
        self.trace = trace
        self.parents: list[int] = []  # a forest of channels that are tied
        self.reasons: dict[int, str] = {}  # why a channel stays
        self.layouts: dict[TensorSlot, _Layout | None] = {}
        self.layers: dict[int, LayerChannels] = {}
        self.makers: dict[int, list[str]] = {}

    def find(self) -> ChannelGraph:
        for slot, tensor in zip(self.trace.inputs, self.trace.model.inputs, strict=True):
            self.layouts[slot] = self.fixed(tensor.shape[-1], "an input of the network")
        for call in self.trace.calls:
            self.visit(call)
        for slot in self.trace.outputs:
            self.keep(self.layouts[slot], "an output of the network")
        return self.collect()

    # Numbers of channels

    def new(self, count: int) -> Channels:
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, channel: int) -> int:
        while self.parents[channel] != channel:
            self.parents[channel] = self.parents[self.parents[channel]]
            channel = self.parents[channel]
        return channel

    def roots(self, channels: Channels) -> Channels:
        return np.array([self.root(channel) for channel in channels.tolist()], np.int64)

    def tie(self, first: Channels, second: Channels) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.parents[self.root(other)] = self.root(one)

    def keep(self, layout: _Layout | None, reason: str) -> None:
        for channel in () if layout is None else layout.channels.tolist():
            self.reasons.setdefault(channel, reason)

    def fixed(self, count: int | None, reason: str) -> _Layout | None:
        if count is None:
            return None
        layout = _Layout(self.new(count))
        self.keep(layout, reason)
        return layout

    # Calls

    def visit(self, call: GraphCall) -> None:
        """Set the channels of a call's outputs."""
        layout = self.apply_rule(call, call.shapes[0]) if len(call.outputs) == 1 else None
        if layout is not None:
            self.layouts[call.outputs[0]] = layout
            return
        softmax = type(call.operation).__name__ in ("Softmax", "Activation")
        reason = f"{describe_call(call)} {'mixes channels' if softmax else NO_RULE}"
        for slot in call.inputs:
            self.keep(self.layouts[slot], reason)
        for slot, shape in zip(call.outputs, call.shapes, strict=True):
            self.layouts[slot] = self.fixed(shape[-1] if len(shape) > 1 else None, reason)

    def apply_rule(self, call: GraphCall, shape: tuple[int | None, ...]) -> _Layout | None:
        """Return the channels of the output of a call; None where there is no rule for it."""
        import keras

        operation: Any = call.operation
        kind, inputs = type(operation).__name__, [self.layouts[slot] for slot in call.inputs]
        is_own = type(operation).__module__.split(".")[0] == "keras"
        last = getattr(operation, "data_format", None) in (None, "channels_last")
        plain = getattr(operation, "quantization_mode", None) is None and not getattr(operation, "lora_enabled", False)
        if not is_own or not last or not plain or any(layout is None for layout in inputs):
            return None
        layouts = [layout for layout in inputs if layout is not None]
        if len(layouts) > 1 or kind in _MERGING | _JOINING:
            return self.merge(call, kind, layouts, shape)
        (layout,) = layouts or (None,)
        if layout is None or (isinstance(operation, keras.Layer) and not self.has_known_weights(operation)):
            return None
        if kind in _MIXING:
            return self.mix(call, layout)
        if kind in _DEPTHWISE:
            return self.hand_on(call, layout, operation.depth_multiplier) if is_elementwise(operation) else None
        if kind == "BatchNormalization":
            is_last = operation.axis in (-1, len(shape) - 1)
            return self.hand_on(call, layout) if is_last else None
        if kind == "PReLU":
            return self.hand_on(call, layout) if operation.alpha.shape[-1] in (1, len(layout)) else None
        if kind in _PER_CHANNEL or (kind == "Activation" and is_elementwise(operation)):
            return layout
        if kind == "Rescaling" and np.ndim(operation.scale) == np.ndim(operation.offset) == 0:
            return layout
        if kind in _PER_MAP:
            return layout if shape[-1] == len(layout) else None
        return self.reshape(call, kind, layout, shape)

    def has_known_weights(self, layer: keras.Layer) -> bool:
        known = {*WEIGHT_AXES.get(type(layer).__name__, {}), *_COUNTERS}
        return all(variable.name in known for variable in layer.weights)

    def mix(self, call: GraphCall, layout: _Layout) -> _Layout | None:
        layer: Any = call.operation
        separable = type(layer).__name__.startswith("Separable")
        if getattr(layer, "groups", 1) != 1 or (separable and layer.depth_multiplier != 1):
            return None
        entry = self.layers.get(id(layer))
        if entry is None:
            count = layer.units if type(layer).__name__ == "Dense" else layer.filters
            name = "/".join(call.path)
            positions = layout.positions
            entry = LayerChannels(layer, name, layout.channels, self.new(count), positions)
            self.layers[id(layer)] = entry
            for channel in entry.outputs.tolist():  # type: ignore[union-attr]
                self.makers[channel] = [name]
            if not is_elementwise(layer):
                reason = f"its activation {getattr(layer.activation, '__name__', layer.activation)!r} mixes channels"
                self.keep(_Layout(entry.outputs), reason)  # type: ignore[arg-type]
        elif not self.share(entry, layout):
            return None
        entry.slots.append(call.inputs[0])
        return _Layout(entry.outputs)  # type: ignore[arg-type]

    def hand_on(self, call: GraphCall, layout: _Layout, multiplier: int = 1) -> _Layout | None:
        entry = self.layers.get(id(call.operation))
        if entry is None:
            layer: Any = call.operation
            entry = LayerChannels(layer, "/".join(call.path), layout.channels, None, layout.positions, multiplier)
            self.layers[id(layer)] = entry
        elif not self.share(entry, layout):
            return None
        entry.slots.append(call.inputs[0])
        return _Layout(np.repeat(layout.channels, multiplier), layout.positions)

    def share(self, entry: LayerChannels, layout: _Layout) -> bool:
        """Tie the channels that a layer takes when it is called again to those of its first call."""
        if (len(entry.inputs), entry.positions) != (len(layout.channels), layout.positions):
            return False
        self.tie(entry.inputs, layout.channels)
        return True

    def merge(
        self, call: GraphCall, kind: str, layouts: Sequence[_Layout], shape: tuple[int | None, ...]
    ) -> _Layout | None:
        import keras

        operation: Any = call.operation
        values = keras.tree.flatten((call.args, call.kwargs))
        if kind in _JOINING:
            if operation.axis in (-1, len(shape) - 1):
                return _Layout(np.concatenate([layout.flat() for layout in layouts]))
        elif kind not in _MERGING or any(not isinstance(value, TensorSlot | int | float) for value in values):
            return None
        first, *others = layouts
        if any(len(layout) != len(first) for layout in others):
            return None  # one of them is repeated for all channels
        if any(layout.positions != first.positions for layout in others):
            first, others = _Layout(first.flat()), [_Layout(layout.flat()) for layout in others]
        for layout in others:
            self.tie(first.channels, layout.channels)
        return first

    def reshape(self, call: GraphCall, kind: str, layout: _Layout, shape: tuple[int | None, ...]) -> _Layout | None:
        """Return the channels behind a layer that moves values: the last axis as it is, or a whole map as a vector."""
        import keras

        operation: Any = call.operation
        if kind == "Permute":
            return layout if operation.dims[-1] == len(operation.dims) else None
        if kind not in ("Flatten", "Reshape") or shape[-1] is None or not isinstance(operation, keras.Layer):
            return None
        if shape[-1] == len(layout):
            return layout
        if len(shape) == 2 and shape[-1] % len(layout) == 0:
            return _Layout(layout.channels, layout.positions * (shape[-1] // len(layout)))
        return None

    # Groups

    def collect(self) -> ChannelGraph:
        reasons = {self.root(channel): reason for channel, reason in self.reasons.items()}
        makers: dict[int, list[str]] = {}
        for channel, names in self.makers.items():
            makers.setdefault(self.root(channel), []).extend(names)
        groups: dict[tuple[str, ...], list[int]] = {}
        blocked: dict[str, str] = {}
        for channel, names in makers.items():
            if channel in reasons:
                blocked |= {name: reasons[channel] for name in names if name not in blocked}
            else:
                groups.setdefault(tuple(names), []).append(channel)
        for entry in self.layers.values():
            entry.inputs = self.roots(entry.inputs)
            entry.outputs = None if entry.outputs is None else self.roots(entry.outputs)
        shapes = {
            slot: (self.roots(layout.channels), layout.positions)
            for slot, layout in self.layouts.items()
            if layout is not None
        }
        found = tuple(ChannelGroup(names, np.array(channels, np.int64)) for names, channels in groups.items())
        return ChannelGraph(self.trace, self.layers, shapes, found, blocked)


def is_elementwise(layer: Any) -> bool:
    """Whether the activation of a layer computes each channel from itself alone."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return True
    name = getattr(activation, "__name__", None) or getattr(activation, "name", "")
    return name in _ACTIVATIONS
