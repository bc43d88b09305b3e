"""A built Keras model as a `LayerGraph`. No other module of the audit touches Keras."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import keras_graph
from keras_nin.audit import operations as ops
from keras_nin.audit.arithmetic import count_macs
from keras_nin.audit.graph import ActivationTensor, LayerGraph, LayerInfo
from keras_nin.errors import InputError

if TYPE_CHECKING:
    import keras

WEIGHTS_OUTSIDE_GRAPH = "(weights outside the graph)"
_SEPARABLE_HALVES = {f"SeparableConv{rank}D": (f"DepthwiseConv{rank}D", f"Conv{rank}D") for rank in (1, 2)}
_SIZE_ATTRIBUTES = {
    ops.CONVOLUTIONS | ops.DEPTHWISE | ops.TRANSPOSED | ops.VOLUMETRIC: "kernel_size",
    ops.WINDOW_POOLS: "pool_size",
    ops.GLOBAL_POOLS: "",
    ops.UPSAMPLING: "size",
}
_AXIS_NORMS = frozenset({"BatchNormalization", "LayerNormalization", "RMSNormalization", "UnitNormalization"})
_ATTENTION = frozenset({"MultiHeadAttention", "GroupedQueryAttention"})
_EQUATION_ATTRIBUTES = {"EinsumDense": "equation", "Einsum": "subscripts"}


def read_keras_graph(model: "keras.Model", *, name: str | None = None) -> LayerGraph:
    """Return the `LayerGraph` of a built Functional or Sequential `keras.Model`, at batch 1.

    Nested models, and layers that hold their graph as the model `inner`, are opened. A weight counts at its first use;
    weights that no layer of the graph owns go to a last row, `WEIGHTS_OUTSIDE_GRAPH`.
    """
    import keras

    trace = keras_graph.trace_model(model) if isinstance(model, keras.Model) else None
    if trace is None:
        kind = "a model without a graph of layers" if isinstance(model, keras.Model) else "an object"
        received = f"{kind} of type {type(model).__module__}.{type(model).__name__}"
        if isinstance(model, keras.Sequential):
            received = f"a Sequential model that has no input shape yet ({model.name!r})"
        raise InputError(
            f"Expected a built Functional or Sequential keras.Model. Received: {received}. "
            "Build it with a fixed input shape, from keras.Input.",
            argument="model",
            received=model,
        )
    return _KerasGraphReader(trace).read(name or model.name)


class _KerasGraphReader:
    """Runs the calls of a traced model on symbolic tensors, and records each layer with its inputs and outputs."""

    def __init__(self, trace: keras_graph.GraphTrace) -> None:
        self.trace = trace
        self.layers: list[LayerInfo] = []
        self.indices = itertools.count()
        self.tensors: dict[keras_graph.TensorSlot, keras.KerasTensor] = {}
        self.records: dict[keras_graph.TensorSlot, ActivationTensor] = {}
        self.counted_weights: set[int] = set()
        self.trainable = {id(weight) for weight in trace.model.trainable_weights}

    def read(self, name: str) -> LayerGraph:
        import keras

        model, trace = self.trace.model, self.trace
        for slot, tensor in zip(trace.inputs, model.inputs or (), strict=True):
            shape: tuple[int | None, ...] = tuple(tensor.shape)
            axes = {1: " (height)", 2: " (width)"} if len(shape) == 4 else {1: " (length)"}
            open_axes = [f"axis {axis}{axes.get(axis, '')}" for axis, size in enumerate(shape) if axis and size is None]
            if open_axes:
                raise InputError(
                    f"Expected every axis of the model's input after the batch to have a fixed size. Received: input "
                    f"{tensor.name!r} of shape {shape}, open at {', '.join(open_axes)}. Build the model for one "
                    "input_shape.",
                    argument="model",
                    received=shape,
                )
            self._record(slot, keras.KerasTensor((1, *shape[1:]), dtype=tensor.dtype))
        for call in trace.calls:
            self._run(call)
        rest = self._count_weights(model.weights)
        if rest["params"]:
            self.layers.append(LayerInfo(WEIGHTS_OUTSIDE_GRAPH, type(model).__name__, op=None, **rest))
        inputs, outputs = (tuple(self.records[slot] for slot in slots) for slots in (trace.inputs, trace.outputs))
        return LayerGraph(name, inputs, outputs, tuple(self.layers))

    def _run(self, call: keras_graph.GraphCall) -> None:
        import keras

        arguments: Any = keras.tree.map_structure(
            lambda value: self.tensors[value] if isinstance(value, keras_graph.TensorSlot) else value,
            {"args": call.args, "kwargs": call.kwargs},
        )
        results = call.operation.compute_output_spec(*arguments["args"], **arguments["kwargs"])
        *scope, name = call.unique_path
        for slot, tensor in zip(call.outputs, keras.tree.flatten(results), strict=True):
            self._record(slot, tensor, name)
        inputs, outputs = (tuple(self.records[slot] for slot in slots) for slots in (call.inputs, call.outputs))
        layer = LayerInfo(name, type(call.operation).__name__, None, "/".join(scope), inputs, outputs)
        if _is_known(call.operation) and layer.type in _ATTENTION:
            layer = dataclasses.replace(layer, own_macs=self._count_attention_macs(call))
        self.layers += self._describe(call.operation, layer)

    def _record(self, slot: keras_graph.TensorSlot, tensor: "keras.KerasTensor", layer: str | None = None) -> None:
        if None in tensor.shape:
            raise InputError(
                f"Expected every layer's output to have a fixed shape. Received: {tuple(tensor.shape)} from layer "
                f"{layer!r}. Give that layer a compute_output_shape that states it.",
                argument="model",
                received=tuple(tensor.shape),
            )
        self.tensors[slot] = tensor
        self.records[slot] = ActivationTensor(next(self.indices), tuple(int(size) for size in tensor.shape))

    def _describe(self, operation: Any, layer: LayerInfo) -> list[LayerInfo]:
        """Return `layer`, which has its names and tensors, with the rest of its fields; as two if it is separable."""
        op, function = layer.type if _is_known(operation) else None, getattr(operation, "activation", None)
        # A normalization works on the channels of one position if these are the only axis it is set to.
        axis, rank = (operation.axis, len(layer.inputs[0].shape)) if op in _AXIS_NORMS else (-1, 1)
        axes = axis if isinstance(axis, list | tuple) else [axis]
        layer = dataclasses.replace(
            layer,
            op=op,
            activation=getattr(function, "__name__", type(function).__name__) if callable(function) else None,
            use_bias=bool(getattr(operation, "use_bias", False)),
            equation=getattr(operation, _EQUATION_ATTRIBUTES[op]) if op in _EQUATION_ATTRIBUTES else None,
            per_position=[axis % rank for axis in axes] == [rank - 1],
            **_geometry(operation, op),
        )
        if op == "TimeDistributed":
            layer = dataclasses.replace(layer, own_macs=self._count_distributed_macs(operation, layer))
        elif op is not None and layer.own_macs is None:
            layer = dataclasses.replace(layer, **_count_recurrent_macs(operation, layer))
        if op not in _SEPARABLE_HALVES:
            return [dataclasses.replace(layer, **self._count_weights(getattr(operation, "weights", ())))]
        # The bias and the activation belong to the second convolution.
        depthwise_op, pointwise_op = _SEPARABLE_HALVES[op]
        channels = layer.input_channels * operation.depth_multiplier
        between = (ActivationTensor(next(self.indices), (*layer.outputs[0].shape[:-1], channels)),)
        depthwise = dataclasses.replace(
            layer,
            name=f"{layer.name}/depthwise",
            op=depthwise_op,
            outputs=between,
            activation=None,
            use_bias=False,
            **_geometry(operation, depthwise_op),
            **self._count_weights([operation.depthwise_kernel]),
        )
        pointwise = dataclasses.replace(
            layer,
            name=f"{layer.name}/pointwise",
            op=pointwise_op,
            inputs=between,
            kernel=(1, 1),
            padding="valid",
            **self._count_weights(operation.weights),
        )
        return [depthwise, pointwise]

    def _count_attention_macs(self, call: keras_graph.GraphCall) -> int:
        """Return the MACs of an attention over one or more axes: four projections, the scores and the weighted sum."""
        attention: Any = call.operation
        arguments = inspect.signature(attention.call).bind(*call.args, **call.kwargs).arguments
        query, value, key = (
            self.records[arguments.get(name) or arguments["value"]] for name in ("query", "value", "key")
        )
        if type(attention).__name__ == "MultiHeadAttention":
            heads = key_heads = attention.num_heads
            key_size, value_size, axes = attention.key_dim, attention.value_dim, attention.attention_axes
        else:
            heads, key_heads = attention.num_query_heads, attention.num_key_value_heads
            key_size, value_size, axes = attention.head_dim, attention.head_dim, None
        axes = range(1, len(key.shape) - 1) if axes is None else [axes] if isinstance(axes, int) else axes
        attended = math.prod(key.shape[axis] for axis in axes)
        (output,) = (self.records[slot] for slot in call.outputs[:1])
        return (
            query.elements * heads * key_size
            + key.elements * key_heads * key_size
            + value.elements * key_heads * value_size
            + query.positions * attended * heads * (key_size + value_size)
            + query.positions * heads * value_size * output.channels
        )

    def _count_distributed_macs(self, wrapper: Any, layer: LayerInfo) -> int | None:
        """Return the MACs of a layer at each step of a sequence; None where those of one are unknown."""

        def without_steps(tensors: tuple[ActivationTensor, ...]) -> tuple[ActivationTensor, ...]:
            shapes = ((tensor.shape[0], *tensor.shape[2:]) for tensor in tensors)
            return tuple(ActivationTensor(next(self.indices), shape) for shape in shapes)

        inner = LayerInfo(layer.name, type(wrapper.layer).__name__, None)
        ends = {"inputs": without_steps(layer.inputs[:1]), "outputs": without_steps(layer.outputs)}
        counted = set(self.counted_weights)
        macs = [count_macs(part) for part in self._describe(wrapper.layer, dataclasses.replace(inner, **ends))]
        self.counted_weights = counted  # the weights are those of the wrapper
        known = [count for count in macs if count is not None]
        return layer.inputs[0].shape[1] * sum(known) if len(known) == len(macs) else None

    def _count_weights(self, weights: "Iterable[keras.Variable]") -> dict[str, Any]:
        """Return the fields of `LayerInfo` about those of `weights` that were not counted before."""
        import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 and float8 by name only once this is imported
        import numpy as np

        new = {id(weight): weight for weight in weights if id(weight) not in self.counted_weights}
        self.counted_weights.update(new)
        sizes = {key: math.prod(weight.shape) for key, weight in new.items()}
        return {
            "params": sum(sizes.values()),
            "trainable_params": sum(size for key, size in sizes.items() if key in self.trainable),
            "weight_bytes": sum(size * np.dtype(new[key].dtype).itemsize for key, size in sizes.items()),
        }


def _is_known(operation: Any) -> bool:
    """Return whether a class vouches for what it does by its name: no class of others does, whatever it is called."""
    module = type(operation).__module__
    return module.split(".")[0] == "keras" or module.startswith("keras_nin.layers.")


def _count_recurrent_macs(layer: Any, info: LayerInfo) -> dict[str, int]:
    """Return the fields for the MACs of all steps of a recurrent or bidirectional layer; none for any other."""
    directions = [getattr(layer, name, layer) for name in ("forward_layer", "backward_layer")]
    if directions[0] is layer:
        directions = directions[:1]
    own_cells = [getattr(direction, "cell", None) for direction in directions]
    cells = [cell for own in own_cells if own is not None for cell in getattr(own, "cells", [own])]
    kernels: list[tuple[Any, Any]] = [
        (getattr(cell, "kernel", None), getattr(cell, "recurrent_kernel", None)) for cell in cells
    ]
    if not kernels or not all(map(_is_known, cells)) or any(kernel is None for pair in kernels for kernel in pair):
        return {}
    spatial_rank = len(kernels[0][0].shape) - 2  # of a convolutional one
    positions = math.prod(info.outputs[0].shape[-1 - spatial_rank : -1])
    macs_of_input, macs_of_state = (
        positions * sum(math.prod(kernel.shape) for kernel in operand) for operand in zip(*kernels, strict=True)
    )
    steps = info.inputs[0].shape[1]
    return {"own_macs": steps * (macs_of_input + macs_of_state), "state_macs": macs_of_state}


def _geometry(operation: Any, op: str | None) -> dict[str, Any]:
    """Return kernel, strides, dilation, groups and padding of an operation on a map, sizes as (height, width)."""
    size_attribute = next((name for operations, name in _SIZE_ATTRIBUTES.items() if op in operations), None)
    data_format = getattr(operation, "data_format", "channels_last")
    if size_attribute is None:
        return {}
    if data_format != "channels_last":
        raise InputError(
            f"Expected every layer to keep channels last (NHWC). Received: layer {operation.name!r} with data_format "
            f"{data_format!r}. Build the model with data_format='channels_last'.",
            argument="model",
            received=data_format,
        )
    if op in ops.GLOBAL_POOLS:
        return {}
    size = _height_width(getattr(operation, size_attribute))
    if op in ops.UPSAMPLING:
        return {"strides": size, "interpolation": getattr(operation, "interpolation", "nearest")}
    fields = {"kernel": size, "strides": _height_width(operation.strides), "padding": operation.padding}
    if op in ops.WINDOW_POOLS:
        return fields
    groups = getattr(operation, "groups", 1) if op in ops.CONVOLUTIONS or op == "Conv3D" else 1
    return {**fields, "dilation": _height_width(operation.dilation_rate), "groups": groups}


def _height_width(value: int | Sequence[int]) -> tuple[int, ...]:
    """Return (height, width) of a setting that may be one number; height is 1 where there is only one axis.

    A volume has (depth, height, width).
    """
    sizes = (value,) if isinstance(value, int) else tuple(int(size) for size in value)
    return (1, sizes[0]) if len(sizes) == 1 else sizes
