"""A .tflite file as a `LayerGraph`, from the flatbuffer alone, and readable names for its operators."""

import json
import os
import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keras_nin import schemas
from keras_nin.audit import tflite_operators
from keras_nin.audit.graph import ActivationTensor, LayerGraph, LayerInfo
from keras_nin.errors import InputError
from keras_nin.tflite import reader, schema
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteSubgraph

_INTEGER_FORMATS = {"int32": "i", "int64": "q"}
_MAX_CONSTANT_VALUES = 64
_LEFT_OUT = (None,) * 4  # as many operands as any operator here has, if all are left out
_MAX_TENSOR_BYTES = 1 << 63
_MAX_NAME_LENGTH = 120
_MAX_TENSOR_NAME_LENGTH = 4096
_MAX_RECORD_BYTES = 1 << 26
# The mark that our own export puts on layer names: "conv1.", or numbered "conv1._1".
_LAYER_MARK = re.compile(r"^(.+)\.(_\d+)?$")
_OPERATION_NAME = re.compile(
    rf"({'|'.join(tflite_operators.TABLES['names']['operations'])})(_\d+)?(:\d+)?", re.IGNORECASE
)
_PRODUCT_NAME = re.compile(r"(conv|depthwise|separable_conv|matmul)", re.IGNORECASE)
_ANONYMOUS_NAME = re.compile(r"(StatefulPartitionedCall|PartitionedCall|Identity)(_\d+)?(:\d+)?")


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

    Shapes are those that the file stores: an open batch counts as 1, and a file made for a batch of N costs N times
    one input. MACs are unknown for custom operators, for those that call other subgraphs (whose weights count all the
    same), and for products over an open axis other than the batch. A constant counts at its first use, in the form in
    which the file stores it; shapes, axes and paddings are not weights. Nothing is trainable. An export record beside
    the file names the layers; without one the tensors' names do.

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
        graph = LayerGraph(printable_name(name), inputs, outputs, layers)
        tensor_names = tuple(_first_output_name(self.main, operator) for operator in operators)
        return TFLiteNetwork(graph, operators, tensor_names, recorded_layers, weights)

    def _describe(
        self, operator: TFLiteOperator, path: tuple[str, str], weights: tflite_operators.OperatorWeights
    ) -> LayerInfo:
        owner = f"operator {operator.index} ({printable_name(operator.op)})"
        is_conversion = self.constants.converts_constant(operator)
        use = tflite_operators.OperatorUse(
            operator=operator,
            operands=(*(self.main.tensors[index] if index >= 0 else None for index in operator.inputs), *_LEFT_OUT),
            results=tuple(self.main.tensors[index] for index in operator.outputs),
            activations=(*(self._read(index, owner) if index >= 0 else None for index in operator.inputs), *_LEFT_OUT),
            # An operator that only converts a constant gives weights, not activations.
            outputs=() if is_conversion else tuple(self._record(index) for index in operator.outputs),
            settings=self._read_integers(operator.inputs[1]) if len(operator.inputs) > 1 else None,
            error=lambda problem: self.error(f"{owner} cannot be: {problem}"),
        )
        fields = tflite_operators.describe_operator(use)
        if is_conversion:
            fields["op"] = "Cast"
        fields |= {"scope": path[0], "params": weights.params, "weight_bytes": weights.weight_bytes}
        return LayerInfo(path[1], printable_name(operator.op), **fields)

    def _read(self, index: int, owner: str) -> ActivationTensor | None:
        """Return a computed tensor; None for a constant, for state kept between runs, and for an empty tensor."""
        if index in self.available:
            return self.available[index]
        tensor = self.main.tensors[index]
        if self.constants.holds(index) or tensor.is_variable or 0 in tensor.shape:
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

    def _read_integers(self, index: int) -> tuple[int, ...] | None:
        """Return the values of a small constant tensor of integers, such as axes; None for any other tensor."""
        tensor = self.main.tensors[index]
        code = _INTEGER_FORMATS.get(tensor.dtype)
        is_small = tensor.is_constant and not tensor.is_sparse and tensor.elements <= _MAX_CONSTANT_VALUES
        if index < 0 or code is None or not is_small:
            return None
        offset, _ = self.model.buffer_spans[tensor.buffer]
        return struct.unpack_from(f"<{tensor.elements}{code}", self.model.content, offset)


# Names


def read_recorded_layers(model: TFLiteModel) -> tuple[str | None, ...] | None:
    """Return the layer of each operator of the main subgraph as the export recorded it, or None without a record.

    The export record is the JSON file beside the .tflite file. It counts only if its size and hash are the file's.
    """
    if model.path is None:
        return None
    path = model.path.with_suffix(".json")
    try:
        document = json.loads(path.read_bytes()) if path.stat().st_size <= _MAX_RECORD_BYTES else None
    except (OSError, ValueError, RecursionError):  # not a record of ours, whatever it is
        return None
    expected = {"schema": schemas.EXPORT_FILE, "bytes": model.size_bytes, "sha256": model.sha256}
    if not isinstance(document, dict) or any(document.get(key) != value for key, value in expected.items()):
        return None
    entries = document.get("operators")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    if [entry.get("op") for entry in entries] != [operator.op for operator in model.main.operators]:
        return None
    layers = tuple(entry.get("layer") for entry in entries)
    return layers if all(layer is None or isinstance(layer, str) for layer in layers) else None


def name_operators(model: TFLiteModel, recorded_layers: Sequence[str | None] | None) -> list[tuple[str, str]]:
    """Return a distinct path, as (scope, name), for each operator of the main subgraph.

    An operator has the name of its layer. If a layer maps to several operators, the first one with a kernel, or else
    the first, has it, and the others have their type after it.
    """
    types = [operator.op for operator in model.main.operators]
    recorded = recorded_layers or (None,) * len(types)
    paths = [layer or guess for layer, guess in zip(recorded, _names_from_tensors(model.main), strict=True)]
    main_types: dict[str, str] = {}
    for path, op in sorted(
        zip(paths, types, strict=True), key=lambda pair: pair[1] not in tflite_operators.KERNEL_OPERATORS
    ):
        main_types.setdefault(path, op)
    uses: Counter[str] = Counter()
    names = []
    for path, op in zip(paths, types, strict=True):
        suffix = "" if op == main_types[path] else f"/{op}"
        uses[path + suffix] += 1
        use = uses[path + suffix]
        scope, _, name = printable_name(path).rpartition("/")
        names.append((scope, name + printable_name(suffix) + (f" ({use})" if use > 1 else "")))
    return names


def printable_name(text: str) -> str:
    """Return `text` on one line, control characters escaped and the middle of a very long name left out."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: 4 * _MAX_NAME_LENGTH])
    half = _MAX_NAME_LENGTH // 2
    return text if len(text) <= _MAX_NAME_LENGTH else f"{text[:half]}...{text[-half:]}"


def split_tensor_name(name: str) -> list[list[str]]:
    """Return the names that the converter joined into a tensor's name, each as scopes without the export's marks."""
    parts = name[:_MAX_TENSOR_NAME_LENGTH].split(";")
    return [[_LAYER_MARK.sub(r"\1", scope) for scope in part.split("/")] for part in parts if part]


def _names_from_tensors(main: TFLiteSubgraph) -> list[str]:
    chosen = [_most_telling_scopes(_first_output_name(main, operator)) for operator in main.operators]
    prefix = os.path.commonprefix([scopes[:-2] for scopes in chosen if len(scopes) > 1])
    names = []
    for scopes, operator in zip(chosen, main.operators, strict=True):
        own = scopes[len(prefix) :] if scopes[: len(prefix)] == prefix else scopes
        if len(own) > 1 and _OPERATION_NAME.fullmatch(own[-1]):
            own = own[:-1]
        names.append("/".join(own) or operator.op.lower())
    return names


def _first_output_name(main: TFLiteSubgraph, operator: TFLiteOperator) -> str:
    return main.tensors[operator.outputs[0]].name if operator.outputs else ""


def _most_telling_scopes(tensor_name: str) -> list[str]:
    """Return the scopes of the part that names a product, such as a convolution; without one, of the first part."""
    parts = [scopes for scopes in split_tensor_name(tensor_name) if not _ANONYMOUS_NAME.fullmatch(scopes[-1])]
    products = [scopes for scopes in parts if len(scopes) > 1 and _PRODUCT_NAME.match(scopes[-1])]
    return next(iter(products or parts), [])
