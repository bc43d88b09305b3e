"""Files of one operator: each operator of a .tflite file cut out and timed alone, and a matrix product."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_nin import files
from keras_nin.benchmark.job import FileRefusedError, ModelResult, RunJob
from keras_nin.benchmark.kernel_assignment import NOTE_CONSTANT, KernelAssignment, Role
from keras_nin.benchmark.layer_times import build_layer_times
from keras_nin.benchmark.records import SINGLE_OPERATORS, KernelTime, LayerTime, Profile
from keras_nin.errors import check_choice
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteTensor

if TYPE_CHECKING:
    pass

MATMUL_DTYPES = ("float32", "int8")
_MATMUL_SCALE = 1 / 128
_PRIMER_SIZES = (256, 64, 64)
_DTYPES_NOT_ALONE = frozenset({"resource", "variant", "string"})


@dataclass(frozen=True)
class OperatorFile:
    """Operator number `index` of a main subgraph as a file of its own: `content`, or None and the `reason`."""

    index: int
    content: bytes | None
    reason: str | None = None


def cut_operators(model: TFLiteModel) -> tuple[OperatorFile, ...]:
    """Return each operator of a file's main subgraph as a file of its own, in its order.

    An operator keeps its options, weights, quantization and shapes; what it reads from other operators becomes an
    input. Operators that only bring constants into another form (such as the DEQUANTIZE of float16 weights) go with
    those that read them.
    """
    return tuple(_OperatorCutter(model).files())


def build_empty_file() -> bytes:
    """Return a file whose one operator does nothing: it shows what an invocation costs in itself."""
    from ai_edge_litert import schema_py_generated as schema

    tensors = [_table("Tensor", name=name, shape=[1, 1]) for name in ("in", "out")]
    code = schema.BuiltinOperator.RESHAPE
    return _pack(
        tensors, [_table("Operator", inputs=[0], outputs=[1])], [_operator_code(code)], [0], [1], [_table("Buffer")]
    )


def build_matmul(rows: int, inner: int, columns: int, dtype: str) -> bytes:
    """Return a file of one FULLY_CONNECTED, a product of matrices of (rows, inner) and (inner, columns).

    It takes `rows * inner * columns` MACs. int8 is quantized as the converter does it: one scale per output channel,
    int32 biases.
    """
    check_choice("dtype", dtype, MATMUL_DTYPES)
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    rng = np.random.default_rng(0)
    if dtype == "int8":
        weights: np.ndarray = rng.integers(-127, 127, (columns, inner), np.int8, endpoint=True)
        bias, bias_code = np.zeros(columns, np.int32), schema.TensorType.INT32
    else:
        weights, bias = rng.standard_normal((columns, inner), np.float32), np.zeros(columns, np.float32)
        bias_code = schema.TensorType.FLOAT32
    code = getattr(schema.TensorType, dtype.upper())

    def tensor(name: str, shape: Sequence[int], code: int, buffer: int, scales: list[float]) -> Any:
        table = _table("Tensor", name=name, shape=list(shape), type=code, buffer=buffer)
        if dtype == "int8":
            table.quantization = _table("QuantizationParameters", scale=scales, zeroPoint=[0] * len(scales))
        return table

    tensors = [
        tensor("input", (rows, inner), code, 0, [_MATMUL_SCALE]),
        tensor("weights", weights.shape, code, 1, [_MATMUL_SCALE] * columns),
        tensor("bias", bias.shape, bias_code, 2, [_MATMUL_SCALE**2] * columns),
        # The sum of `inner` products of noise grows with its root.
        tensor("output", (rows, columns), code, 0, [_MATMUL_SCALE * inner**0.5]),
    ]
    operator = _table(
        "Operator",
        inputs=[0, 1, 2],
        outputs=[3],
        builtinOptions=_table("FullyConnectedOptions"),
        builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
    )
    buffers = [
        _table("Buffer"),
        *(_table("Buffer", data=np.frombuffer(values.tobytes(), np.uint8)) for values in (weights, bias)),
    ]
    return _pack(tensors, [operator], [_operator_code(schema.BuiltinOperator.FULLY_CONNECTED)], [0], [3], buffers)


class _OperatorCutter:
    def __init__(self, model: TFLiteModel) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model, self._main = model, model.main
        self._tables: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.content, 0))
        self._producer = {tensor: operator for operator in self._main.operators for tensor in operator.outputs}
        self._constant: dict[int, bool] = {}

    def files(self) -> Iterator[OperatorFile]:
        for operator in self._main.operators:
            reason = self._why_not_alone(operator)
            yield OperatorFile(operator.index, None if reason else self._build(operator), reason)

    def _why_not_alone(self, operator: TFLiteOperator) -> str | None:
        tensors = [self._main.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        if operator.is_custom:
            return "a custom operator does not run alone"
        if any(name.endswith("subgraph_index") for name in operator.options):
            return "it runs other subgraphs"
        if any(tensor.is_variable or tensor.dtype in _DTYPES_NOT_ALONE for tensor in tensors):
            return "it keeps values between runs, or reads text"
        if any(tensor.is_sparse for tensor in tensors):
            return "its weights are sparse"
        return NOTE_CONSTANT if self._is_constant(operator) else None

    def _is_constant(self, operator: TFLiteOperator) -> bool:
        """Return whether all inputs of an operator are in the file, directly or through such operators."""
        if operator.index not in self._constant:
            self._constant[operator.index] = False  # for an operator that reads its own output, in a broken file
            self._constant[operator.index] = bool(operator.outputs) and all(
                self._main.tensors[index].is_constant
                or (index in self._producer and self._is_constant(self._producer[index]))
                for index in operator.inputs
                if index >= 0
            )
        return self._constant[operator.index]

    def _members(self, operator: TFLiteOperator) -> list[TFLiteOperator]:
        """Return the operator after those that compute its constants, in order of execution."""
        members, waiting = {operator.index}, [operator]
        while waiting:
            for tensor in waiting.pop().inputs:
                producer = self._producer.get(tensor)
                if producer is not None and producer.index not in members and self._is_constant(producer):
                    members.add(producer.index)
                    waiting.append(producer)
        return [self._main.operators[index] for index in sorted(members)]

    def _build(self, operator: TFLiteOperator) -> bytes:
        members = self._members(operator)
        used = dict.fromkeys(
            tensor for member in members for tensor in (*member.inputs, *member.outputs) if tensor >= 0
        )
        new_index = {tensor: index for index, tensor in enumerate(used)} | {-1: -1}
        computed = {tensor for member in members for tensor in member.outputs}
        inputs = [
            new_index[tensor]
            for tensor in dict.fromkeys(operator.inputs)
            if tensor >= 0 and tensor not in computed and not self._main.tensors[tensor].is_constant
        ]
        buffers = [_table("Buffer")]
        tensors = [self._copy_tensor(self._main.tensors[tensor], buffers) for tensor in used]
        old_operators = self._tables.subgraphs[0].operators
        operators = [
            _table("Operator", **vars(old_operators[member.index]) | {
                "opcodeIndex": index,
                "inputs": [new_index[tensor] for tensor in member.inputs],
                "outputs": [new_index[tensor] for tensor in member.outputs],
                "intermediates": None,
            })
            for index, member in enumerate(members)
        ]  # fmt: skip
        codes = [self._tables.operatorCodes[old_operators[member.index].opcodeIndex] for member in members]
        outputs = [new_index[tensor] for tensor in operator.outputs]
        return _pack(tensors, operators, codes, inputs, outputs, buffers)

    def _copy_tensor(self, tensor: TFLiteTensor, buffers: list[Any]) -> Any:
        """Return a tensor of the file; its values, where it has some, become the last of `buffers`."""
        table = _table("Tensor", **vars(self._tables.subgraphs[0].tensors[tensor.index]))
        table.shapeSignature, table.buffer = None, 0
        if tensor.is_constant:
            import numpy as np

            first, size = self._model.buffer_spans[tensor.buffer]
            table.buffer = len(buffers)
            buffers.append(_table("Buffer", data=np.frombuffer(self._model.content, np.uint8, size, first)))
        return table


def _table(kind: str, **fields: Any) -> Any:
    """Return a table of the .tflite schema with these fields."""
    from ai_edge_litert import schema_py_generated as schema

    table = getattr(schema, f"{kind}T")()
    vars(table).update(fields)
    return table


def _operator_code(code: int) -> Any:
    return _table("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code, version=1)


def _pack(
    tensors: list[Any],
    operators: list[Any],
    codes: list[Any],
    inputs: list[int],
    outputs: list[int],
    buffers: list[Any],
) -> bytes:
    """Return the file of a model with one subgraph."""
    import flatbuffers

    subgraph = _table("SubGraph", tensors=tensors, operators=operators, inputs=inputs, outputs=outputs, name="main")
    model = _table("Model", version=3, operatorCodes=codes, subgraphs=[subgraph], buffers=buffers)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def add_layers(profile: Profile, model: TFLiteModel, seconds: float, run: RunJob) -> Profile:
    """Return the profile of a file with the layers that `time_operators` returns."""
    layers, runs = time_operators(model, profile.threads, seconds, run, profile.total.median)
    overhead_us = profile.total.median - sum(layer.us.typical for layer in layers if layer.us)
    return dataclasses.replace(
        profile, method=SINGLE_OPERATORS, profiled_runs=runs, layers=layers, overhead_us=overhead_us
    )


def time_operators(
    model: TFLiteModel, threads: int, seconds: float, run: RunJob, median_us: float | None = None
) -> tuple[tuple[LayerTime, ...], int]:
    """Return the `LayerTime` of each operator of a file, each measured alone, and the number of runs of each.

    All of them take turns in one process (see `keras_nin.benchmark.runner.main.SingleOperator`), beside a file that
    does nothing, whose time is subtracted from theirs. The kernel's name is unknown; an operator that does not run
    alone has no `us`, and a `note` says why. What the runtime fuses in the whole file is not fused here.
    """
    cuts = cut_operators(model)
    with files.temporary_folder() as folder:

        def write(name: str, content: bytes) -> str:
            path = pathlib.Path(folder) / name
            path.write_bytes(content)
            return os.fspath(path)

        primer = write("primer.tflite", build_matmul(*_PRIMER_SIZES, "float32"))
        empty = write("empty.tflite", build_empty_file())
        paths = {cut.index: write(f"operator_{cut.index}.tflite", cut.content) for cut in cuts if cut.content}
        results, refused = _run_operators([primer, empty], list(paths.values()), threads, seconds, run)
    notes = {cut.index: cut.reason for cut in cuts}
    notes |= {index: "it does not run alone" for index, path in paths.items() if path in refused}
    times = {
        index: _subtract_invocation(results[path], results[empty]) for index, path in paths.items() if path in results
    }
    rows = []
    for index, note in notes.items():
        role = Role.COMPUTES if index in times else Role.NO_KERNEL
        rows.append((KernelAssignment(role, None, index, (index,), note), None, times.get(index)))
    total_us = median_us or sum(us.typical for us in times.values()) or None
    return build_layer_times(model, rows, total_us), results[empty]["runs"]


def _run_operators(
    common: list[str], paths: list[str], threads: int, seconds: float, run: RunJob
) -> tuple[dict[str, ModelResult], set[str]]:
    """Return the results by file of those that run, beside `common` files that must, and the files that do not."""
    refused: set[str] = set()
    while True:
        remaining = [*common, *(path for path in paths if path not in refused)]
        try:
            result = run(
                {
                    "models": [{"file": path, "threads": threads} for path in remaining],
                    "seconds": seconds,
                    "single_operators": True,
                }
            )
        except FileRefusedError as error:
            if error.model is None or error.model < len(common):
                raise
            refused.add(remaining[error.model])
        else:
            return dict(zip(remaining, result.results, strict=True)), refused


def _subtract_invocation(result: ModelResult, empty: ModelResult) -> KernelTime:
    """Return the time of an operator without that of an invocation, which the file that does nothing has."""
    base = empty["us"]["median"]
    median, mean, p90 = (max(0.0, result["us"][name] - base) for name in ("median", "mean", "p90"))
    return KernelTime(median, mean, p90, typical=median)
