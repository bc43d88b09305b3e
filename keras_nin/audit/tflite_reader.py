"""A .tflite file as a `Graph` of plain records, from the flatbuffer alone."""

import functools
import json
import os
import pathlib
import re
import struct
from collections import Counter
from dataclasses import dataclass

from keras_nin import files
from keras_nin.audit import tflite_operators
from keras_nin.audit.graph import ActivationTensor, LayerGraph, LayerInfo
from keras_nin.audit.tflite_operators import OperatorWeights, WeightConstants
from keras_nin.errors import InputError
from keras_nin.tflite import reader as tflite_graph
from keras_nin.tflite import schema

_INTEGER_FORMATS = {"int32": "i", "int64": "q"}
_MAX_CONSTANT_VALUES = 64
_MAX_TENSOR_BYTES = 1 << 63


@dataclass(frozen=True)
class TFLiteNetwork:
    """A file as the audit sees it: its `Graph`, and for each of the graph's layers what else the file says.

    `operators` are the file's own records, `tensor_names` those of their first outputs; `layers` are the Keras layers
    that the export recorded, None where there is no record of this very file; `weights` what every operator brings.
    """

    graph: LayerGraph
    operators: tuple
    tensor_names: tuple[str, ...]
    layers: tuple[str | None, ...] | None
    weights: tuple[OperatorWeights, ...]


def read_tflite_graph(path, *, name=None):
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
    return read_tflite_network(path, name=name).graph


def read_tflite_network(path, *, name=None):
    """Return the `File` at `path`; arguments and errors as in `read`."""
    file = tflite_graph.read_model(path)
    path = file.path or "network.tflite"
    layers = read_recorded_layers(path, file)
    reader = _TFLiteGraphReader(file, os.fspath(path))
    return reader.read(name or pathlib.Path(path).stem, layers)


class _TFLiteGraphReader:
    def __init__(self, file, source):
        self.file = file
        self.main = file.main
        self.source = source
        self.constants = WeightConstants(file)
        self.available = {}  # tensor index -> the audit's record, once it is an input or computed

    def fail(self, problem):
        return InputError(f"Expected a valid .tflite file. Received: {self.source!r}, where {problem}")

    def read(self, name, layers):
        inputs = tuple(self._record(index) for index in dict.fromkeys(self.main.inputs))
        for index in self.main.inputs:
            self._check_open(self.main.tensors[index])
        paths = name_operators(self.file, layers, tflite_operators.KERNEL_OPERATORS)
        weights = [self.constants.take(operator) for operator in self.main.operators]
        infos = tuple(
            self._layer(operator, *path, brought)
            for operator, path, brought in zip(self.main.operators, paths, weights, strict=True)
        )
        outputs = tuple(
            self._read(index, "the network") for index in self.main.outputs if not self.constants.passed(index)
        )
        names = [self.main.tensors[each.outputs[0]].name if each.outputs else "" for each in self.main.operators]
        return TFLiteNetwork(
            graph=LayerGraph(printable_name(name), inputs, outputs, infos),
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
                f"{self.source!r}, whose input {printable_name(tensor.name)!r} is open at axis "
                f"{', '.join(map(str, open_axes))}. Convert the model for one input size."
            )

    def _layer(self, operator, scope, name, brought):
        owner = f"operator {operator.index} ({printable_name(operator.op)})"
        operands = tuple(self.main.tensors[index] if index >= 0 else None for index in operator.inputs)
        activations = tuple(None if index < 0 else self._read(index, owner) for index in operator.inputs)
        use = tflite_operators.OperatorUse(
            operator=operator,
            operands=operands,
            results=tuple(self.main.tensors[index] for index in operator.outputs),
            activations=activations,
            # What only brings a constant into another form gives weights, no activations.
            outputs=() if self.constants.passes_on(operator) else tuple(map(self._write, operator.outputs)),
            values=self._values,
            fail=lambda problem: self.fail(f"{owner} cannot be: {problem}"),
        )
        known = tflite_operators.describe_operator(use)
        if self.constants.passes_on(operator):
            known["op"] = "Cast"
        return LayerInfo(
            name=name,
            scope=scope,
            type=printable_name(operator.op),
            params=brought.params,
            weight_bytes=brought.weight_bytes,
            **known,
        )

    def _read(self, index, owner):
        """The record of a computed tensor; None for a constant, for state kept between runs, and without elements."""
        if index in self.available:
            return self.available[index]
        tensor = self.main.tensors[index]
        if self.constants.passed(index) or tensor.is_variable or 0 in tensor.shape:
            return None
        raise self.fail(f"{owner} reads tensor {index}, which nothing before it computes")

    def _write(self, index):
        if index in self.available:
            raise self.fail(f"tensor {index} is computed twice")
        return self._record(index)

    def _record(self, index):
        tensor = self.main.tensors[index]
        bits = schema.BITS[tensor.dtype] or 0  # strings and handles have no size of their own
        record = self.available[index] = ActivationTensor(index, tensor.shape, bits)
        if record.elements >= _MAX_TENSOR_BYTES or record.nbytes >= _MAX_TENSOR_BYTES:
            raise self.fail(f"tensor {index} of shape {tensor.shape} is larger than any memory")
        return record

    def _values(self, tensor):
        """The whole numbers of a small constant tensor, such as axes; None where it is another."""
        code = _INTEGER_FORMATS.get(tensor.dtype)
        if code is None or not tensor.is_constant or tensor.is_sparse or tensor.elements > _MAX_CONSTANT_VALUES:
            return None
        first, _ = self.file.buffer_spans[tensor.buffer]
        return struct.unpack_from(f"<{tensor.elements}{code}", self.file.content, first)


# MERGED Readable names for the operators of a .tflite file.

EXPORT_FILE_SCHEMA = "keras_nin.export_file/1"
_MAX_NAME_LENGTH = 120
_MAX_RECORD_BYTES = 1 << 26
# The mark that our own export puts on layer names, "conv1." or numbered "conv1._1" (see `export.operator_layers`).
_LAYER_MARK = re.compile(r"(?P<name>.+)\.(_\d+)?")
# TensorFlow operations as they end the name of a tensor, after the layer's name.
_OPERATION_NAME = re.compile(
    r"(add|addv2|avgpool\w*|batch_?norm\w*|biasadd|concat(v2)?|conv2d\w*|convolution\w*|depthwise\w*|"
    r"fusedbatchnorm\w*|identity|l2loss|leakyrelu|lrn|matmul|maxpool\w*|mean|mul|pad(v2)?|relu6?|reshape|"
    r"separable_conv2d\w*|sigmoid|softmax|squeeze\d*|sub|tanh|transpose|act_quant|fakequant\w*|mulitply|"
    r"resize\w*)(_\d+)?(:\d+)?",
    re.IGNORECASE,
)
_PRODUCT_NAME = re.compile(r"(conv|depthwise|separable_conv|matmul)", re.IGNORECASE)
_ANONYMOUS_NAME = re.compile(r"(StatefulPartitionedCall|PartitionedCall|Identity)(_\d+)?(:\d+)?")


def read_recorded_layers(path, file):
    """Return for each operator of `file`'s main subgraph the layer that an export recorded, or None without a record.

    The record is the JSON file beside `path`. It counts only where the size and the hash in it are those of the file.
    """
    export_record = pathlib.Path(path).with_suffix(".json")
    try:
        if export_record.stat().st_size > _MAX_RECORD_BYTES:
            return None
        document = json.loads(export_record.read_bytes())
    except (OSError, ValueError, RecursionError):  # no record of ours, whatever it is
        return None
    if not isinstance(document, dict) or document.get("schema") != EXPORT_FILE_SCHEMA:
        return None
    if document.get("bytes") != file.size_bytes or document.get("sha256") != files.sha256(file.content):
        return None
    entries = document.get("operators")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    if [entry.get("op") for entry in entries] != [operator.op for operator in file.main.operators]:
        return None
    layers = tuple(entry.get("layer") for entry in entries)
    return layers if all(layer is None or isinstance(layer, str) for layer in layers) else None


def name_operators(file, layers, primary):
    """Return a different path ("scope/name") for each operator of `file`'s main subgraph.

    Args:
        file: `keras_nin.tflite.reader.TFLiteModel`.
        layers: what `layers_of` returned.
        primary: names of operators that stand for their layer, where it became several.

    Returns:
        List of (scope, name). An operator bears its layer's name; others of that layer have their type behind it.
    """
    operators = file.main.operators
    guessed = _names_from_tensors(file.main)
    recorded = layers or (None,) * len(operators)
    named = [layer or guess for layer, guess in zip(recorded, guessed, strict=True)]
    groups = {}
    for path, operator in zip(named, operators, strict=True):
        groups.setdefault(path, []).append(operator)
    uses = Counter()
    result = []
    for path, operator in zip(named, operators, strict=True):
        first = next((each for each in groups[path] if each.op in primary), groups[path][0])
        own = path if operator.op == first.op else f"{path}/{operator.op}"
        uses[own] += 1
        scope, _, name = printable_name(path).rpartition("/")
        name += "" if operator.op == first.op else f"/{printable_name(operator.op)}"
        result.append((scope, name if uses[own] == 1 else f"{name} ({uses[own]})"))
    return result


def printable_name(text):
    """Return `text` on one line, control characters escaped and the middle of a very long one left out."""
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: 4 * _MAX_NAME_LENGTH])
    return (
        text if len(text) <= _MAX_NAME_LENGTH else f"{text[: _MAX_NAME_LENGTH // 2]}...{text[-_MAX_NAME_LENGTH // 2 :]}"
    )


def split_tensor_name(tensor_name):
    """Return the names that the converter joined into a tensor's name, as lists of scopes without marks."""
    return [[_without_mark(scope) for scope in part.split("/")] for part in tensor_name[:4096].split(";") if part]


def _without_mark(scope):
    match = _LAYER_MARK.fullmatch(scope)
    return match["name"] if match else scope


def _names_from_tensors(main):
    chosen = [
        _most_telling_scopes(main.tensors[operator.outputs[0]].name if operator.outputs else "")
        for operator in main.operators
    ]
    prefix = functools.reduce(_common_scopes, (part[:-2] for part in chosen if len(part) > 1), None) or []
    names = []
    for part, operator in zip(chosen, main.operators, strict=True):
        own = part[len(prefix) :] if part[: len(prefix)] == prefix else part
        if len(own) > 1 and _OPERATION_NAME.fullmatch(own[-1]):
            own = own[:-1]
        names.append("/".join(own) or operator.op.lower())
    return names


def _most_telling_scopes(tensor_name):
    """Return the scopes of the part that names the product (a convolution) where there is one, else of the first."""
    found = [part for part in split_tensor_name(tensor_name) if not _ANONYMOUS_NAME.fullmatch(part[-1])]
    return next((part for part in found if len(part) > 1 and _PRODUCT_NAME.match(part[-1])), found[0] if found else [])


def _common_scopes(prefix, part):
    if prefix is None:
        return part
    length = next(
        (at for at, (a, b) in enumerate(zip(prefix, part, strict=False)) if a != b), min(len(prefix), len(part))
    )
    return prefix[:length]
