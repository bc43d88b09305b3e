"""A network without some of its channels: the same layers with sliced weights.

The inputs that a layer loses are predicted from those that it keeps, by least squares over the calibration images, and
the prediction is folded into its weights. An input that is always zero is predicted exactly. With samples, layer after
layer also compensates for what the layers before it compute differently now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin._compat.keras import input_structure
from keras_nin.keras_graph import GraphCall, TensorSlot, input_specs
from keras_nin.prune.channels import WEIGHT_AXES, ChannelGraph, Channels, LayerChannels
from keras_nin.prune.importance import Moments
from keras_nin.rewrite import copy_layer

if TYPE_CHECKING:
    import keras

_FOLDED = ("Conv1D", "Conv2D", "Conv3D", "Dense", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")


def remove_channels(
    graph: ChannelGraph,
    removed: Channels,
    moments: Mapping[TensorSlot, Moments] | None = None,
    samples: Any = None,
) -> keras.Model:
    """Return the network without the channels `removed`; the original is not changed.

    Layers keep their names, their config and what stays of their weights. Nested models and blocks are opened; where
    two layers have the same name then, their paths are joined by underscores.

    Args:
        graph, removed: the channels of the network, and the numbers of those to remove.
        moments: of the inputs of its layers, to compensate for what they lose; None only slices.
        samples: images (N, ...), or arrays by the name of the input, on which each layer is fitted to what it got
            before, in TensorFlow; None does not.

    Raises:
        InputError: a layer cannot be rebuilt from its config.
    """
    rebuild = _Rebuild(graph, removed, moments or {})
    model = rebuild.run()
    if samples is not None:
        rebuild.fit_layers(samples)
    return model


class _Rebuild:
    def __init__(self, graph: ChannelGraph, removed: Channels, moments: Mapping[TensorSlot, Moments]) -> None:
        self.graph, self.removed, self.moments = graph, removed, moments
        self.copies: dict[int, keras.Layer] = {}
        self.predictions: dict[int, npt.NDArray[np.float64]] = {}  # of all inputs of a layer from those that stay
        layers = {id(call.operation): call for call in graph.trace.calls}
        self.names = Counter(call.operation.name for call in layers.values())

    def run(self) -> keras.Model:
        import keras

        model, trace = self.graph.trace.model, self.graph.trace
        inputs = [
            keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name) for tensor in model.inputs
        ]
        tensors: dict[TensorSlot, Any] = dict(zip(trace.inputs, inputs, strict=True))
        for call in trace.calls:
            arguments: Any = keras.tree.map_structure(
                lambda value: tensors[value] if isinstance(value, TensorSlot) else value, (call.args, call.kwargs)
            )
            outputs = self.operation(call)(*arguments[0], **arguments[1])
            tensors.update(zip(call.outputs, keras.tree.flatten(outputs), strict=True))
        for call in trace.calls:
            self.copy_weights(call)
        structure = input_structure(model)
        packed = inputs if structure is None else keras.tree.pack_sequence_as(structure, inputs)
        results = [tensors[slot] for slot in trace.outputs]
        packed_outputs = keras.tree.pack_sequence_as(model.output, results)
        return keras.Model(packed, packed_outputs, name=model.name)

    def operation(self, call: GraphCall) -> Any:
        """Return what computes a call: a copy of its layer, or the operation itself, which has no weights."""
        import keras

        operation: Any = call.operation
        if not isinstance(operation, keras.Layer):
            return operation
        if id(operation) not in self.copies:
            name = operation.name if self.names[operation.name] == 1 else "_".join(call.path)
            self.copies[id(operation)] = copy_layer(operation, name=name, **self.changes(call))
        return self.copies[id(operation)]

    def changes(self, call: GraphCall) -> dict[str, Any]:
        """Return what changes in the config of a layer."""
        entry = self.graph.layers.get(id(call.operation))
        if entry is not None and entry.outputs is not None:
            return {"units" if entry.kind == "Dense" else "filters": int(self.kept(entry.outputs).sum())}
        if type(call.operation).__name__ == "Reshape" and call.outputs[0] in self.graph.shapes:
            channels, positions = self.graph.shapes[call.outputs[0]]
            shape: Any = call.operation.target_shape  # type: ignore[attr-defined]
            return {"target_shape": (*shape[:-1], int(self.kept(channels).sum()) * positions)}
        return {}

    def kept(self, channels: Channels) -> npt.NDArray[np.bool_]:
        return ~np.isin(channels, self.removed)

    def copy_weights(self, call: GraphCall) -> None:
        layer: Any = call.operation
        copy = self.copies.get(id(layer))
        if copy is None or not layer.weights or call.uses[-1] > 1:
            return
        entry = self.graph.layers.get(id(layer))
        values = {variable.name: np.asarray(variable) for variable in layer.weights}
        copy.set_weights(list(values.values()) if entry is None else [
            self.slice(entry, name, value) for name, value in values.items()
        ])  # fmt: skip

    def slice(self, entry: LayerChannels, name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what stays of one weight of a layer."""
        input_axis, output_axis = WEIGHT_AXES[entry.kind].get(name, (None, None))
        if output_axis is not None and entry.outputs is not None:
            value = np.compress(self.kept(entry.outputs), value, output_axis)
        if input_axis is None:
            return value
        mask = self.kept(entry.inputs)
        if name == "kernel" and entry.kind in _FOLDED and not mask.all():
            return self.fold(entry, value, input_axis, mask)
        if name == "bias":  # of a depthwise convolution
            mask = np.repeat(mask, entry.multiplier)
        flat = np.tile(mask, entry.positions)
        return value if value.shape[input_axis] == 1 != len(flat) else np.compress(flat, value, input_axis)

    def fold(
        self, entry: LayerChannels, kernel: npt.NDArray[Any], axis: int, mask: npt.NDArray[np.bool_]
    ) -> npt.NDArray[Any]:
        """Return a kernel without some inputs; what they contributed is added to the weights of the others."""
        matrix = np.eye(len(mask))[mask]
        moments = [self.moments[slot] for slot in entry.slots if slot in self.moments]
        if moments:
            matrix[:, ~mask] = sum(moments[1:], start=moments[0]).predict(mask)
        self.predictions[id(entry.layer)] = matrix
        return _multiply_inputs(kernel, axis, entry.positions, matrix)

    # Layer after layer

    def fit_layers(self, samples: Any) -> None:
        """Fit each layer that mixes channels to what it got in the original network, in the order of the calls."""
        import keras
        import tensorflow as tf

        trace = self.graph.trace
        arrays = [samples[spec.name] for spec in input_specs(trace.model)] if isinstance(samples, dict) else [samples]
        inputs = dict(zip(trace.inputs, map(tf.convert_to_tensor, arrays), strict=True))
        before, after = dict(inputs), dict(inputs)
        waiting = Counter(slot for call in trace.calls for slot in call.inputs)
        for call in trace.calls:
            entry = self.graph.layers.get(id(call.operation))
            if entry is not None and entry.kind in _FOLDED and len(entry.slots) == 1:
                self.fit_layer(entry, np.asarray(before[call.inputs[0]]), np.asarray(after[call.inputs[0]]))
            operations = call.operation, self.copies.get(id(call.operation), call.operation)
            for values, operation in zip((before, after), operations, strict=True):
                arguments: Any = keras.tree.map_structure(
                    lambda value, values=values: values[value] if isinstance(value, TensorSlot) else value,
                    (call.args, call.kwargs),
                )
                outputs = keras.tree.flatten(operation(*arguments[0], **arguments[1]))  # type: ignore[operator]
                values.update(zip(call.outputs, outputs, strict=True))
            waiting.subtract(call.inputs)
            for slot in call.inputs:
                if not waiting[slot]:
                    before.pop(slot, None)
                    after.pop(slot, None)

    def fit_layer(self, entry: LayerChannels, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> None:
        """Fold into a kernel what best gives the inputs that it had, by least squares."""
        mask = self.kept(entry.inputs)
        matrix = self.predictions.get(id(entry.layer), np.eye(len(mask))[mask])
        received = after.reshape(-1, int(mask.sum()))
        missing = before.reshape(-1, len(mask)) - received @ matrix.astype(np.float32)
        square = received.T @ received / len(received)
        product = received.T @ missing / len(received)
        if not np.any(product):
            return
        moments = Moments(square.astype(np.float64), np.zeros(len(square)), len(received))
        ridge = moments.ridge(len(square)) * np.eye(len(square))
        matrix = matrix + np.linalg.solve(moments.second + ridge, product)
        values = {variable.name: np.asarray(variable) for variable in entry.layer.weights}
        input_axis, output_axis = WEIGHT_AXES[entry.kind]["kernel"]
        assert input_axis is not None
        assert output_axis is not None
        assert entry.outputs is not None
        kernel = np.compress(self.kept(entry.outputs), values["kernel"], output_axis)
        copy = self.copies[id(entry.layer)]
        copy.kernel.assign(_multiply_inputs(kernel, input_axis, entry.positions, matrix))  # type: ignore[attr-defined]


def _multiply_inputs(kernel: npt.NDArray[Any], axis: int, positions: int, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a kernel for other inputs, from which `matrix` (inputs now, inputs before) gives those that it had."""
    rows = np.moveaxis(kernel, axis, -1)
    rows = rows.reshape(*rows.shape[:-1], positions, matrix.shape[1]) @ matrix.T
    return np.moveaxis(rows.reshape(*rows.shape[:-2], -1), -1, axis).astype(kernel.dtype)
