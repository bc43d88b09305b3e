"""Cutting a .tflite file into files of one operator each, with its real weights and quantisation."""

import importlib
from dataclasses import dataclass

from keras_nin.benchmark.assignment import CONSTANT
from keras_nin.tflite import graph

_NOT_ALONE = frozenset({"resource", "variant", "string"})


@dataclass(frozen=True)
class Cut:
    """The operator number `index` of a main subgraph as a file of its own: `content`, or None and the `reason`."""

    index: int
    content: bytes | None
    reason: str | None = None


def cut(path):
    """Return a `Cut` for each operator of a .tflite file's main subgraph, in its order.

    The operator keeps its options, weights, quantisation and shapes; what it reads from other operators becomes an
    input. Operators that only bring constants into another form (such as the DEQUANTIZE of float16 weights) go with
    those that read them.

    Raises:
        InputError: the file is not a valid .tflite file.
    """
    file = graph.read(path)
    return tuple(_Cutter(file).cuts())


def nothing():
    """Return the content of a file whose one operator does nothing: what an invocation costs in itself."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    return _file(schema, schema.BuiltinOperator.RESHAPE, {"in": [1, 1]}, [1, 1])


def product():
    """Return the content of a file that multiplies float32 matrices of 256 x 64 and 64 x 64, all zeros."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    weights = _record(schema, "Buffer", data=list(bytes(4 * 64 * 64)))
    code = schema.BuiltinOperator.FULLY_CONNECTED
    return _file(schema, code, {"in": [256, 64], "weights": [64, 64]}, [256, 64], weights)


def _file(schema, code, inputs, output, weights=None):
    """Return a file of one float32 operator: `inputs` are shapes by name, of which a second one has `weights`."""
    tensors = [
        _record(schema, "Tensor", name=name, shape=shape, buffer=int(name == "weights"))
        for name, shape in {**inputs, "out": output}.items()
    ]
    last = len(inputs)
    operator = _record(schema, "Operator", opcodeIndex=0, inputs=list(range(last)), outputs=[last])
    codes = [_record(schema, "OperatorCode", builtinCode=code, deprecatedBuiltinCode=code)]
    buffers = [_record(schema, "Buffer"), *([weights] if weights else [])]
    return _pack(schema, codes, tensors, [operator], [0], [last], buffers)


class _Cutter:
    def __init__(self, file):
        self.schema = importlib.import_module("ai_edge_litert.schema_py_generated")
        self.file, self.main = file, file.main
        self.model = self.schema.ModelT.InitFromObj(self.schema.Model.GetRootAs(file.content, 0))
        self.maker = {tensor: operator for operator in self.main.operators for tensor in operator.outputs}
        self.from_constants = {}

    def cuts(self):
        for operator in self.main.operators:
            reason = self._why_not(operator)
            yield Cut(operator.index, None if reason else self._content(operator), reason)

    def _why_not(self, operator):
        tensors = [self.main.tensors[at] for at in (*operator.inputs, *operator.outputs) if at >= 0]
        if operator.is_custom:
            return "a custom operator does not run alone"
        if any(name.endswith("subgraph_index") for name in operator.options):
            return "it runs other subgraphs"
        if any(tensor.is_variable or tensor.dtype in _NOT_ALONE for tensor in tensors):
            return "it keeps values between runs, or reads text"
        if any(tensor.is_sparse for tensor in tensors):
            return "its weights are sparse"
        if self._is_constant(operator):
            return CONSTANT
        return None

    def _is_constant(self, operator):
        """Whether all that an operator reads is in the file, itself or through such operators."""
        if operator.index not in self.from_constants:
            self.from_constants[operator.index] = False  # what reads its own output, in a broken file
            self.from_constants[operator.index] = bool(operator.outputs) and all(
                self.main.tensors[at].is_constant or (at in self.maker and self._is_constant(self.maker[at]))
                for at in operator.inputs
                if at >= 0
            )
        return self.from_constants[operator.index]

    def _members(self, operator):
        """The operator behind those that make its constants, in order of execution."""
        found, waiting = {operator.index}, [operator]
        while waiting:
            for at in waiting.pop().inputs:
                before = self.maker.get(at)
                if before is not None and before.index not in found and self._is_constant(before):
                    found.add(before.index)
                    waiting.append(before)
        return [self.main.operators[index] for index in sorted(found)]

    def _content(self, operator):
        members = self._members(operator)
        used = dict.fromkeys(at for each in members for at in (*each.inputs, *each.outputs) if at >= 0)
        place = {at: number for number, at in enumerate(used)}
        made = {at for each in members for at in each.outputs}
        inputs = [place[at] for at in dict.fromkeys(operator.inputs) if at >= 0 and self._is_input(at, made)]
        buffers, tensors = [_record(self.schema, "Buffer")], []
        for at in used:
            tensors.append(self._tensor(at, buffers))
        operators = [self._operator(each, number, place) for number, each in enumerate(members)]
        types = self.model.subgraphs[0].operators
        codes = [self.model.operatorCodes[types[each.index].opcodeIndex] for each in members]
        outputs = [place[at] for at in operator.outputs]
        return _pack(self.schema, codes, tensors, operators, inputs, outputs, buffers)

    def _is_input(self, at, made):
        return at not in made and not self.main.tensors[at].is_constant

    def _tensor(self, at, buffers):
        """Return a tensor of the file with its values, if it has some, as the last of `buffers`."""
        old, record = self.model.subgraphs[0].tensors[at], self.main.tensors[at]
        tensor = _record(self.schema, "Tensor", **vars(old))
        tensor.shapeSignature, tensor.buffer = None, 0
        if record.is_constant:
            import numpy as np

            first, size = self.file.buffer_spans[record.buffer]
            tensor.buffer = len(buffers)
            buffers.append(_record(self.schema, "Buffer", data=np.frombuffer(self.file.content, np.uint8, size, first)))
        return tensor

    def _operator(self, operator, number, place):
        old = self.model.subgraphs[0].operators[operator.index]
        new = _record(self.schema, "Operator", **vars(old))
        new.opcodeIndex = number
        new.inputs = [place[at] if at >= 0 else -1 for at in operator.inputs]
        new.outputs = [place[at] for at in operator.outputs]
        new.intermediates = None
        return new


def _record(schema, kind, **values):
    made = getattr(schema, f"{kind}T")()
    vars(made).update(values)
    return made


def _pack(schema, codes, tensors, operators, inputs, outputs, buffers):
    flatbuffers = importlib.import_module("flatbuffers")
    subgraph = _record(
        schema, "SubGraph", tensors=tensors, operators=operators, inputs=inputs, outputs=outputs, name="main"
    )
    model = _record(schema, "Model", version=3, operatorCodes=codes, subgraphs=[subgraph], buffers=buffers)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
