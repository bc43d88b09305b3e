"""A .tflite file as a `Graph` of plain records, from the flatbuffer alone."""

import os
import pathlib
import struct
from dataclasses import dataclass

from keras_nin.audit import tflite_names, tflite_operators
from keras_nin.audit.graph import Graph, LayerInfo, Tensor
from keras_nin.audit.tflite_weights import Constants, Weights
from keras_nin.errors import InputError
from keras_nin.tflite import graph as tflite_graph
from keras_nin.tflite import schema

_WHOLE_NUMBERS = {"int32": "i", "int64": "q"}
_MOST_VALUES = 64
_LARGEST_BYTES = 1 << 63


@dataclass(frozen=True)
class File:
    """A file as the audit sees it: its `Graph`, and for each of the graph's layers what else the file says.

    `operators` are the file's own records, `tensor_names` those of their first outputs; `layers` are the Keras layers
    that the export recorded, None where there is no record of this very file; `weights` what every operator brings.
    """

    graph: Graph
    operators: tuple
    tensor_names: tuple[str, ...]
    layers: tuple[str | None, ...] | None
    weights: tuple[Weights, ...]


def read(path, *, name=None):
    """Return the `Graph` of the .tflite file at `path`, one layer for each operator of the main subgraph, in its order.

    Shapes are those that the file stores: an open batch counts as 1, and a file made for a batch of N costs N times
    one input. `op` is None, so that MACs are not known, for custom operators, for those that call other subgraphs
    (whose weights count all the same), and for products over an axis that is open beside the batch. A constant counts
    at its first use, for the operator that computes with it and in the form in which the file stores it; shapes, axes
    and paddings are no weights. A file trains nothing: `trainable_params` is 0.

    Args:
        path: the file. Where an export left its record beside it, that names the layers, else the tensors' names do.
        name: what to call the network; None takes the file's name without its ending.

    Raises:
        InputError: the file cannot be read or contradicts itself, or an input's axis after the batch is open.
    """
    return read_file(path, name=name).graph


def read_file(path, *, name=None):
    """Return the `File` at `path`; arguments and errors as in `read`."""
    file = tflite_graph.read(path)
    layers = tflite_names.layers_of(path, file)
    reader = _Reader(file, os.fspath(path))
    return reader.read(name or pathlib.Path(path).stem, layers)


class _Reader:
    def __init__(self, file, source):
        self.file = file
        self.main = file.main
        self.source = source
        self.constants = Constants(file)
        self.available = {}  # tensor index -> the audit's record, once it is an input or computed

    def fail(self, problem):
        return InputError(f"Expected a valid .tflite file. Received: {self.source!r}, where {problem}")

    def read(self, name, layers):
        inputs = tuple(self._record(index) for index in dict.fromkeys(self.main.inputs))
        for index in self.main.inputs:
            self._check_open(self.main.tensors[index])
        paths = tflite_names.paths_of(self.file, layers, tflite_operators.KERNELS)
        weights = [self.constants.take(operator) for operator in self.main.operators]
        infos = tuple(
            self._layer(operator, *path, brought)
            for operator, path, brought in zip(self.main.operators, paths, weights, strict=True)
        )
        outputs = tuple(
            self._read(index, "the network") for index in self.main.outputs if not self.constants.holds(index)
        )
        names = [self.main.tensors[each.outputs[0]].name if each.outputs else "" for each in self.main.operators]
        return File(
            graph=Graph(tflite_names.printable(name), inputs, outputs, infos),
            operators=self.main.operators,
            tensor_names=tuple(names),
            layers=layers,
            weights=tuple(weights),
        )

    def _check_open(self, tensor):
        open_axes = [axis for axis, size in enumerate(tensor.shape_signature or ()) if axis and size < 0]
        if open_axes:
            raise InputError(
                f"Expected every axis of a file's input after the batch to have a fixed size. Received: "
                f"{self.source!r}, whose input {tflite_names.printable(tensor.name)!r} is open at axis "
                f"{', '.join(map(str, open_axes))}. Convert the model for one input size."
            )

    def _layer(self, operator, scope, name, brought):
        owner = f"operator {operator.index} ({tflite_names.printable(operator.op)})"
        operands = tuple(self.main.tensors[index] if index >= 0 else None for index in operator.inputs)
        activations = tuple(None if index < 0 else self._read(index, owner) for index in operator.inputs)
        use = tflite_operators.Use(
            operator=operator,
            operands=operands,
            results=tuple(self.main.tensors[index] for index in operator.outputs),
            activations=activations,
            # What only brings a constant into another form gives weights, no activations.
            outputs=() if self.constants.passes_on(operator) else tuple(map(self._write, operator.outputs)),
            values=self._values,
            fail=lambda problem: self.fail(f"{owner} cannot be: {problem}"),
        )
        known = tflite_operators.facts(use)
        if self.constants.passes_on(operator):
            known["op"] = "Cast"
        return LayerInfo(
            name=name,
            scope=scope,
            type=tflite_names.printable(operator.op),
            params=brought.params,
            weight_bytes=brought.weight_bytes,
            **known,
        )

    def _read(self, index, owner):
        """The record of a computed tensor; None for a constant, for state kept between runs, and without elements."""
        if index in self.available:
            return self.available[index]
        tensor = self.main.tensors[index]
        if self.constants.holds(index) or tensor.is_variable or 0 in tensor.shape:
            return None
        raise self.fail(f"{owner} reads tensor {index}, which nothing before it computes")

    def _write(self, index):
        if index in self.available:
            raise self.fail(f"tensor {index} is computed twice")
        return self._record(index)

    def _record(self, index):
        tensor = self.main.tensors[index]
        bits = schema.BITS[tensor.dtype] or 0  # strings and handles have no size of their own
        record = self.available[index] = Tensor(index, tensor.shape, bits)
        if record.elements >= _LARGEST_BYTES or record.nbytes >= _LARGEST_BYTES:
            raise self.fail(f"tensor {index} of shape {tensor.shape} is larger than any memory")
        return record

    def _values(self, tensor):
        """The whole numbers of a small constant tensor, such as axes; None where it is another."""
        code = _WHOLE_NUMBERS.get(tensor.dtype)
        if code is None or not tensor.is_constant or tensor.is_sparse or tensor.elements > _MOST_VALUES:
            return None
        first, _ = self.file.buffer_spans[tensor.buffer]
        return struct.unpack_from(f"<{tensor.elements}{code}", self.file.content, first)
