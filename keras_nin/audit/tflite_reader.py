"""A .tflite file as a `LayerGraph`, from the flatbuffer alone."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keras_nin.audit import tflite_operators
from keras_nin.audit.arithmetic import count_macs
from keras_nin.audit.graph import ActivationTensor, LayerGraph, LayerInfo
from keras_nin.errors import InputError
from keras_nin.tflite import reader, schema
from keras_nin.tflite.layer_names import first_output_name, name_operators, printable_name, read_recorded_layers
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator
from keras_nin.tflite.runtime_support import describe_compilation, is_compiled, misfit_notes

_LEFT_OUT = (None,) * 4  # as many operands as any operator here has, if all are left out
_MAX_TENSOR_BYTES = 1 << 63
_MAX_NESTED_LOOPS = 50


@dataclass(frozen=True)
class TFLiteNetwork:
    """A file as the audit sees it; all tuples have one item per operator of the main subgraph.

    `tensor_names` are those of the first outputs; `recorded_layers` is None without an export record of this file.
    """

    graph: LayerGraph
    operators: tuple[TFLiteOperator, ...]
    tensor_names: tuple[str, ...]
    recorded_layers: tuple[str | None, ...] | None
    weights: tuple[tflite_operators.OperatorWeights, ...]


def read_tflite_graph(source: "str | os.PathLike[str] | TFLiteModel", *, name: str | None = None) -> LayerGraph:
    """Return the `LayerGraph` of a .tflite file: one layer for each operator of the main subgraph, in its order.

    Shapes are those that the file stores: an open batch counts as 1, and of a file made for a batch of N the MACs are
    those of one sample. MACs are unknown for custom operators, for those that call other subgraphs except loops of a
    fixed number of steps (the weights count all the same), and for products over an open axis other than the batch. A
    constant counts at its first use, in the form in which the file stores it; shapes, axes and paddings are not
    weights. Nothing is trainable. An export record beside the file names the layers; without one the tensors' names do.
    Of an operator that a chip's compiler made, the memory is what it has laid out, and its constants are bytes alone.

    Raises:
        InputError: the file cannot be read or contradicts itself, or an input's axis after the batch is open.
    """
    return read_tflite_network(source, name=name).graph


def read_tflite_network(source: "str | os.PathLike[str] | TFLiteModel", *, name: str | None = None) -> TFLiteNetwork:
    """Return the `TFLiteNetwork` of a .tflite file; arguments and errors as in `read_tflite_graph`."""
    model = reader.read_model(source)
    return _TFLiteGraphReader(model).read(name or (model.path.stem if model.path else "model"))


class _TFLiteGraphReader:
    def __init__(self, model: TFLiteModel) -> None:
        self.model, self.main = model, model.main
        self.constants = tflite_operators.WeightConstants(model)
        self.available: dict[int, ActivationTensor] = {}  # by tensor index, once it is an input or computed
        self.open_bodies: set[int] = set()  # subgraphs of the loops that are being counted
        self.body_macs: dict[int, int | None] = {}  # MACs of one step of those that are
        self.planned_bytes = 0  # of the memory that compiled operators work in

    def error(self, problem: str) -> InputError:
        source, path = self.model.source, self.model.path
        return InputError(f"Expected a valid .tflite file. Received: {source}, where {problem}", path=path)

    def read(self, name: str) -> TFLiteNetwork:
        operators, recorded_layers = self.main.operators, read_recorded_layers(self.model)
        inputs = tuple(self._record(index) for index in dict.fromkeys(self.main.inputs))
        for tensor in (self.main.tensors[index] for index in self.main.inputs):
            open_axes = [str(axis) for axis, size in enumerate(tensor.shape_signature or ()) if axis and size < 0]
            if open_axes:
                raise InputError(
                    f"Expected every axis of a file's input after the batch to have a fixed size. Received: "
                    f"{self.model.source}, whose input {printable_name(tensor.name)!r} is open at axis "
                    f"{', '.join(open_axes)}. Convert the model for one input size.",
                    path=self.model.path,
                )
        names = name_operators(self.model, recorded_layers)
        weights = tuple(self.constants.take(operator) for operator in operators)
        layers = tuple(self._describe(*parts) for parts in zip(operators, names, weights, strict=True))
        computed = (index for index in self.main.outputs if not self.constants.holds(index))
        outputs = tuple(filter(None, [self._read(index, "the network") for index in computed]))
        graph = LayerGraph(
            *(printable_name(name), inputs, outputs, layers, self.model.batch, self.planned_bytes),
            notes=tuple(_describe_file(self.model)),
        )
        tensor_names = tuple(first_output_name(self.main, operator) for operator in operators)
        return TFLiteNetwork(graph, operators, tensor_names, recorded_layers, weights)

    def _describe(
        self, operator: TFLiteOperator, path: tuple[str, str], weights: tflite_operators.OperatorWeights
    ) -> LayerInfo:
        owner = f"operator {operator.index} ({printable_name(operator.op)})"
        activations = [
            self._read(index, owner, is_compiled(operator)) if index >= 0 else None for index in operator.inputs
        ]
        # An operator that only converts a constant gives weights, not activations.
        is_conversion = self.constants.converts_constant(operator)
        outputs = [] if is_conversion else [self._record(index) for index in operator.outputs]
        fields = self._describe_use(operator, activations, outputs)
        fields |= {"scope": path[0], "params": weights.params, "weight_bytes": weights.weight_bytes}
        return LayerInfo(path[1], printable_name(operator.op), batch=self.model.batch, **fields)

    def _describe_use(
        self,
        operator: TFLiteOperator,
        activations: Sequence[ActivationTensor | None],
        outputs: Sequence[ActivationTensor],
    ) -> dict[str, Any]:
        """Return the fields of `LayerInfo` that say what an operator of any subgraph does with its activations."""
        tensors = self.model.subgraphs[operator.subgraph].tensors
        owner = f"operator {operator.index} ({printable_name(operator.op)})"
        operands = [tensors[index] if index >= 0 else None for index in operator.inputs]
        setting = operands[1] if len(operands) > 1 else None
        use = tflite_operators.OperatorUse(
            operator=operator,
            operands=(*operands, *_LEFT_OUT),
            results=tuple(tensors[index] for index in operator.outputs),
            activations=(*activations, *_LEFT_OUT),
            outputs=tuple(outputs),
            settings=None if setting is None else tflite_operators.read_integers(self.model, setting),
            error=lambda problem: self.error(f"{owner} cannot be: {problem}"),
        )
        fields = tflite_operators.describe_operator(use)
        if self.constants.converts_constant(operator, operator.subgraph):
            fields["op"] = "Cast"
        if operator.op == "WHILE" and not operator.is_custom:
            fields["own_macs"] = self._count_loop_macs(operator)
        return fields

    def _count_loop_macs(self, operator: TFLiteOperator) -> int | None:
        """Return the MACs of all steps of a loop; None where the number of steps or the MACs of one are unknown."""
        steps = tflite_operators.count_loop_steps(self.model, operator)
        number = operator.options["body_subgraph_index"]
        if steps is None or number in self.open_bodies or len(self.open_bodies) >= _MAX_NESTED_LOOPS:
            return None
        if number not in self.body_macs:
            self.body_macs[number] = self._count_body_macs(number)
        macs = self.body_macs[number]
        return None if macs is None else steps * macs

    def _count_body_macs(self, number: int) -> int | None:
        """Return the MACs of one step of a loop; None where they are unknown."""
        self.open_bodies.add(number)
        counts = []
        try:
            for inner in self.model.subgraphs[number].operators:
                activations = [self._inner_activation(number, index) for index in inner.inputs]
                outputs = [record for index in inner.outputs if (record := self._inner_activation(number, index))]
                counts.append(count_macs(LayerInfo("", inner.op, **self._describe_use(inner, activations, outputs))))
        except InputError:  # shapes of a body may be open, where those of the main subgraph are not
            return None
        finally:
            self.open_bodies.remove(number)
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def _inner_activation(self, subgraph: int, index: int) -> ActivationTensor | None:
        """Return a tensor of a called subgraph; None for a constant and for an operand that is left out."""
        if index < 0 or self.constants.holds(index, subgraph):
            return None
        tensor = self.model.subgraphs[subgraph].tensors[index]
        return ActivationTensor(index, tensor.shape, schema.BITS[tensor.dtype] or 0)

    def _read(self, index: int, owner: str, works_in_memory: bool = False) -> ActivationTensor | None:
        """Return a computed tensor; None for a constant, state kept between runs, an empty tensor, and working memory.

        The working memory of a compiled operator holds its inputs and outputs too.
        """
        if index in self.available:
            return self.available[index]
        tensor = self.main.tensors[index]
        if self.constants.holds(index) or tensor.is_variable or 0 in tensor.shape:
            return None
        if works_in_memory:
            self.planned_bytes = max(self.planned_bytes, tensor.nbytes or 0)
            return None
        raise self.error(f"{owner} reads tensor {index}, which nothing before it computes")

    def _record(self, index: int) -> ActivationTensor:
        if index in self.available:
            raise self.error(f"tensor {index} is computed twice")
        tensor = self.main.tensors[index]
        bits = schema.BITS[tensor.dtype] or 0  # strings and handles have no size of their own
        record = self.available[index] = ActivationTensor(index, tensor.shape, bits)
        if record.elements >= _MAX_TENSOR_BYTES or record.nbytes >= _MAX_TENSOR_BYTES:
            raise self.error(f"tensor {index} of shape {tensor.shape} is larger than any memory")
        return record


def _describe_file(model: TFLiteModel) -> Iterator[str]:
    if (compilation := describe_compilation(model)) is not None:
        held = "its layers, MACs and parameters are in the chip's code. Audit the file from before the compilation"
        yield f"{compilation}; {held}"
    yield from misfit_notes(model)
