"""Exact rewrites of a float .tflite file before it is quantized: operators that int8 lacks, by some that it has.

TensorFlow 2.21 leaves NEG and SQUARE in floating point, and a SPLIT with an output that nothing reads.
"""

import collections
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.tflite.reader import read_model

if TYPE_CHECKING:
    from keras_nin.tflite.records import TFLiteModel, TFLiteOperator

# What is written in the place of an operator.
REPLACEMENTS = {"NEG": "MUL", "SQUARE": "MUL", "SPLIT": "SLICE"}


def rewrite_for_integers(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a float file in which -x is x * -1, x ** 2 is x * x, and parts that nothing reads are not split off.

    All of it is exact. Tensors keep their names and numbers. The second value has the operators that were replaced,
    each with what computes it now; without any the bytes stay as they are.
    """
    model = read_model(content)
    chosen = [operator.index for operator in model.main.operators if _is_rewritten(model, operator)]
    if len(model.subgraphs) > 1 or not chosen:
        return content, {}
    replaced = {model.main.operators[index].op for index in chosen}
    return _Editor(content).rewrite(chosen), {op: REPLACEMENTS[op] for op in sorted(replaced)}


def _is_rewritten(model: "TFLiteModel", operator: "TFLiteOperator") -> bool:
    main = model.main
    if any(main.tensors[index].dtype != "float32" for index in operator.outputs):
        return False
    if operator.op == "SPLIT":
        read = {*main.outputs, *(index for reader in main.operators for index in reader.inputs)}
        return not read.issuperset(operator.outputs)
    return operator.op in ("NEG", "SQUARE")


class _Editor:
    """A file as the objects of TFLite's schema, with operators, tensors and constants added."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        self.graph: Any = self.model.subgraphs[0]

    def rewrite(self, chosen: list[int]) -> bytes:
        """Return the bytes with the operators of these indexes replaced."""
        import flatbuffers

        builtins = self.schema.BuiltinOperator
        codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in self.model.operatorCodes]
        operators = []
        for index, operator in enumerate(self.graph.operators):
            code = codes[operator.opcodeIndex]
            if index not in chosen:
                operators.append(operator)
            elif code == builtins.SPLIT:
                operators += self._slices(operator)
            else:
                other = self._constant(np.float32(-1), "minus_one") if code == builtins.NEG else operator.inputs[0]
                operators.append(self._operator("MUL", [operator.inputs[0], other], operator.outputs[0]))
        self.graph.operators = operators
        self._drop_unused_codes()
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _drop_unused_codes(self) -> None:
        used = sorted({operator.opcodeIndex for operator in self.graph.operators})
        self.model.operatorCodes = [self.model.operatorCodes[index] for index in used]
        for operator in self.graph.operators:
            operator.opcodeIndex = used.index(operator.opcodeIndex)

    def _slices(self, split: Any) -> list[Any]:
        """Return a SLICE for each output of a SPLIT that something reads."""
        axis_index, source = split.inputs
        axis = int(self._values(axis_index)[0])
        read = collections.Counter(index for operator in self.graph.operators for index in operator.inputs)
        slices, begin = [], 0
        for output in split.outputs:
            shape = np.asarray(self.graph.tensors[output].shape, np.int32)
            if read[output] or output in self.graph.outputs:
                first = np.zeros_like(shape)
                first[axis] = begin
                constants = [self._constant(first, "begin"), self._constant(shape, "size")]
                slices.append(self._operator("SLICE", [source, *constants], output))
            begin += int(shape[axis])
        return slices

    def _values(self, index: int) -> np.ndarray:
        return np.frombuffer(bytes(self.model.buffers[self.graph.tensors[index].buffer].data), "<i4")

    def _constant(self, values: Any, name: str) -> int:
        """Return the index of a tensor with these int32 or float32 values; equal ones are shared."""
        values = np.asarray(values)
        buffer, tensor = self.schema.BufferT(), self.schema.TensorT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        label = f"{name}_{'_'.join(map(str, values.ravel()))}".encode()
        for index, known in enumerate(self.graph.tensors):
            if known.name == label:
                return index
        self.model.buffers.append(buffer)
        tensor.buffer, tensor.name = len(self.model.buffers) - 1, label
        tensor.shape = np.asarray(values.shape, np.int32)
        tensor.type = getattr(self.schema.TensorType, values.dtype.name.upper())
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _operator(self, op: str, inputs: list[int], output: int) -> Any:
        builtins, options = self.schema.BuiltinOperator, self.schema.BuiltinOptions
        code, operator = getattr(builtins, op), self.schema.OperatorT()
        codes = [max(entry.builtinCode, entry.deprecatedBuiltinCode) for entry in self.model.operatorCodes]
        if code not in codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = code
            entry.version = 1
            self.model.operatorCodes.append(entry)
            codes.append(code)
        operator.opcodeIndex = codes.index(code)
        operator.inputs, operator.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        if op == "MUL":
            operator.builtinOptionsType, operator.builtinOptions = options.MulOptions, self.schema.MulOptionsT()
        else:
            operator.builtinOptionsType, operator.builtinOptions = options.SliceOptions, self.schema.SliceOptionsT()
        return operator
