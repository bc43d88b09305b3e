"""Files of one operator: each operator of a .tflite file cut out and timed alone, and a matrix product."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_nin import files
from keras_nin.benchmark.job import FileRefusedError, ModelEntry, ModelResult, RunJob
from keras_nin.benchmark.kernel_assignment import NOTE_CONSTANT, KernelAssignment, Role
from keras_nin.benchmark.layer_times import build_layer_times
from keras_nin.benchmark.records import KernelTime, LayerTime
from keras_nin.errors import check_choice
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteSubgraph

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


def cut_loops(model: TFLiteModel) -> dict[int, bytes]:
    """Return those operators of a file that run other subgraphs and can run alone, by index, as in `cut_operators`."""
    cutter = _OperatorCutter(model)
    loops = [operator for operator in model.main.operators if operator.called_subgraphs]
    return {operator.index: cutter.build(operator) for operator in loops if not cutter.why_not_alone(operator)}


def cut_operators(model: TFLiteModel) -> tuple[OperatorFile, ...]:
    """Return each operator of a file's main subgraph as a file of its own, in its order.

    It keeps its options, weights, quantization and shapes; what it reads from other operators becomes an input.
    Operators that only convert constants (such as the DEQUANTIZE of float16 weights) go with those that read them, and
    the condition and body of a loop go with it, where the number of its iterations does not depend on its inputs.
    """
    cutter, cuts = _OperatorCutter(model), []
    for operator in model.main.operators:
        reason = cutter.why_not_alone(operator)
        cuts.append(OperatorFile(operator.index, None if reason else cutter.build(operator), reason))
    return tuple(cuts)


def build_empty_file() -> bytes:
    """Return a file whose one operator does nothing: it shows what an invocation costs in itself."""
    from ai_edge_litert import schema_py_generated as schema

    tensors = [_table("Tensor", name=name, shape=[1, 1]) for name in ("in", "out")]
    operator = _table("Operator", inputs=[0], outputs=[1])
    return _pack_operator(schema.BuiltinOperator.RESHAPE, operator, tensors)


def build_matmul(rows: int, inner: int, columns: int, dtype: str) -> bytes:
    """Return a file of one FULLY_CONNECTED, (rows, inner) by (inner, columns), quantized as the converter does it."""
    check_choice("dtype", dtype, MATMUL_DTYPES)
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    rng = np.random.default_rng(0)
    weights: np.ndarray = rng.standard_normal((columns, inner), np.float32)
    if dtype == "int8":
        weights = rng.integers(-127, 127, (columns, inner), np.int8, endpoint=True)
    bias = np.zeros(columns, np.int32 if dtype == "int8" else np.float32)

    def tensor(name: str, shape: Sequence[int], dtype: object, buffer: int, scales: list[float]) -> Any:
        code = getattr(schema.TensorType, str(dtype).upper())
        table = _table("Tensor", name=name, shape=list(shape), type=code, buffer=buffer)
        if weights.dtype == np.int8:
            table.quantization = _table("QuantizationParameters", scale=scales, zeroPoint=[0] * len(scales))
        return table

    tensors = [
        tensor("input", (rows, inner), dtype, 0, [_MATMUL_SCALE]),
        tensor("weights", weights.shape, dtype, 1, [_MATMUL_SCALE] * columns),
        tensor("bias", bias.shape, bias.dtype, 2, [_MATMUL_SCALE**2] * columns),
        # The sum of `inner` products of noise grows with its root.
        tensor("output", (rows, columns), dtype, 0, [_MATMUL_SCALE * inner**0.5]),
    ]
    operator = _table("Operator", inputs=[0, 1, 2], outputs=[3], builtinOptions=_table("FullyConnectedOptions"))
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    return _pack_operator(schema.BuiltinOperator.FULLY_CONNECTED, operator, tensors, weights.tobytes(), bias.tobytes())


class _OperatorCutter:
    def __init__(self, model: TFLiteModel) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model, self._main = model, model.main
        self._tables: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.content, 0))
        self._producer = {tensor: operator for operator in self._main.operators for tensor in operator.outputs}
        # Operators whose inputs are all in the file, directly or computed by such operators.
        self._constant: set[int] = set()
        constants = {-1, *(tensor.index for tensor in self._main.tensors if tensor.is_constant)}
        for operator in self._main.operators:
            if operator.outputs and constants.issuperset(operator.inputs):
                self._constant.add(operator.index)
                constants.update(operator.outputs)
        self._known = frozenset(constants)

    def why_not_alone(self, operator: TFLiteOperator) -> str | None:
        called = [self._model.subgraphs[index] for index in operator.called_subgraphs]
        operators = [operator, *(inner for subgraph in called for inner in subgraph.operators)]
        tensors = [self._main.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        inner_tensors = [tensor for subgraph in called for tensor in subgraph.tensors]
        if called and not self._repeats_equally(operator):
            return "it runs other subgraphs, which depends on its inputs"
        if any(member.is_custom for member in operators):
            return "a custom operator does not run alone"
        keeps_values = any(tensor.is_variable for tensor in inner_tensors)  # its own are cut out with it
        tensors += inner_tensors
        if keeps_values or any(tensor.dtype in _DTYPES_NOT_ALONE for tensor in tensors):
            return "it keeps values between runs, or reads text"
        if any(tensor.is_sparse for tensor in tensors):
            return "its weights are sparse"
        return NOTE_CONSTANT if operator.index in self._constant else None

    def _repeats_equally(self, operator: TFLiteOperator) -> bool:
        """Whether an operator is a loop whose number of iterations depends on constants alone."""
        if operator.op != "WHILE":
            return False
        condition, body = (self._model.subgraphs[index] for index in operator.called_subgraphs)
        if any(inner.called_subgraphs for inner in (*condition.operators, *body.operators)):
            return False
        # Which of the loop's variables the condition depends on, over any number of iterations.
        pending = _positions_behind(condition, condition.outputs)
        needed: set[int] = set()
        while pending - needed:
            needed |= pending
            pending = _positions_behind(body, [body.outputs[position] for position in needed])
        return self._known.issuperset(operator.inputs[position] for position in needed)

    def build(self, operator: TFLiteOperator) -> bytes:
        indexes, waiting = {operator.index}, [operator]
        while waiting:
            for tensor in waiting.pop().inputs:
                producer = self._producer.get(tensor)
                if producer is not None and producer.index in self._constant - indexes:
                    indexes.add(producer.index)
                    waiting.append(producer)
        # The operator after those that compute its constants, in order of execution.
        members = [self._main.operators[index] for index in sorted(indexes)]
        used = dict.fromkeys(tensor for member in members for tensor in (*member.inputs, *member.outputs))
        used.pop(-1, None)  # an input that is left out
        new_index = {tensor: index for index, tensor in enumerate(used)} | {-1: -1}
        computed = {-1, *(tensor for member in members for tensor in member.outputs)}
        read = [tensor for tensor in dict.fromkeys(operator.inputs) if tensor not in computed]
        stored = {tensor.index for tensor in self._main.tensors if tensor.is_constant or tensor.is_variable}
        inputs = [new_index[tensor] for tensor in read if tensor not in stored]
        subgraph = self._tables.subgraphs[0]
        buffers, tensors, operators = [_table("Buffer")], [], []
        for number in used:
            tensors.append(self._copy_tensor(0, number, buffers))
            tensors[-1].shapeSignature = None
        for index, member in enumerate(members):
            fields = vars(subgraph.operators[member.index]) | {"opcodeIndex": index, "intermediates": None}
            for side, numbers in {"inputs": member.inputs, "outputs": member.outputs}.items():
                fields[side] = [new_index[tensor] for tensor in numbers]
            operators.append(_table("Operator", **fields))
        codes = [self._tables.operatorCodes[subgraph.operators[member.index].opcodeIndex] for member in members]
        outputs = [new_index[tensor] for tensor in operator.outputs]
        called = [self._copy_subgraph(number, buffers, codes) for number in operator.called_subgraphs]
        if called:
            operators[-1].builtinOptions = _table("WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
        return _pack(codes, buffers, called, tensors=tensors, operators=operators, inputs=inputs, outputs=outputs)

    def _copy_tensor(self, subgraph: int, number: int, buffers: list[Any]) -> Any:
        """Return a tensor of a subgraph; the values of a constant are added to `buffers`."""
        tensor = _table("Tensor", **vars(self._tables.subgraphs[subgraph].tensors[number]) | {"buffer": 0})
        record = self._model.subgraphs[subgraph].tensors[number]
        if record.is_constant:
            first, size = self._model.buffer_spans[record.buffer]
            tensor.buffer = len(buffers)
            buffers.append(_buffer(self._model.content[first : first + size]))
        return tensor

    def _copy_subgraph(self, number: int, buffers: list[Any], codes: list[Any]) -> Any:
        """Return a subgraph whose constants are added to `buffers`, and the codes of its operators to `codes`."""
        table, operators = self._tables.subgraphs[number], []
        tensors = [self._copy_tensor(number, index, buffers) for index in range(len(table.tensors))]
        for operator in table.operators:
            operators.append(_table("Operator", **vars(operator) | {"opcodeIndex": len(codes), "intermediates": None}))
            codes.append(self._tables.operatorCodes[operator.opcodeIndex])
        return _table("SubGraph", **vars(table) | {"tensors": tensors, "operators": operators})


def _positions_behind(subgraph: TFLiteSubgraph, tensors: Iterable[int]) -> set[int]:
    """Return the positions of the inputs of a subgraph that some of its tensors are computed from."""
    pending, seen = list(tensors), set()
    while pending:
        tensor = pending.pop()
        if tensor not in seen:
            seen.add(tensor)
            producer = subgraph.producers.get(tensor)
            pending += producer.inputs if producer else ()
    return {position for position, tensor in enumerate(subgraph.inputs) if tensor in seen}


def _table(kind: str, **fields: Any) -> Any:
    """Return a table of the .tflite schema with these fields."""
    from ai_edge_litert import schema_py_generated as schema

    table = getattr(schema, f"{kind}T")()
    vars(table).update(fields)
    return table


def _buffer(values: bytes) -> Any:
    import numpy as np

    return _table("Buffer", data=np.frombuffer(values, np.uint8))


def _pack_operator(code: int, operator: Any, tensors: list[Any], *constants: bytes) -> bytes:
    """Return the file of an operator that reads the first tensor, constants, and writes the last one."""
    codes = [_table("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code, version=1)]
    buffers = [_table("Buffer"), *map(_buffer, constants)]
    return _pack(codes, buffers, tensors=tensors, operators=[operator], inputs=[0], outputs=[len(tensors) - 1])


def _pack(codes: list[Any], buffers: list[Any], called: Sequence[Any] = (), **fields: list[Any]) -> bytes:
    """Return the file of a model whose main subgraph has these fields, and runs the subgraphs `called`."""
    subgraph = _table("SubGraph", name="main", **fields)
    return _finish(_table("Model", version=3, operatorCodes=codes, subgraphs=[subgraph, *called], buffers=buffers))


def _finish(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def time_operators(
    model: TFLiteModel, threads: int, seconds: float, run: RunJob, median_us: float | None = None
) -> tuple[tuple[LayerTime, ...], int]:
    """Return the `LayerTime` of each operator of a file, each measured alone, and the number of runs of each.

    All of them take turns in one process (see `keras_nin.benchmark.runner.main.SingleOperator`), beside a file that
    does nothing, whose time is subtracted from theirs. The kernel's name is unknown; an operator that does not run
    alone has no `us`, and a `note` says why. What the runtime fuses in the whole file is not fused here.
    """
    cuts = cut_operators(model)
    contents = {"primer": build_matmul(*_PRIMER_SIZES, "float32"), "empty": build_empty_file()}
    contents |= {f"operator_{cut.index}": cut.content for cut in cuts if cut.content}
    results = _run_operators(contents, threads, seconds, run)
    rows, times = [], {}
    for cut in cuts:
        role, note, result = Role.COMPUTES, cut.reason, results.get(f"operator_{cut.index}")
        if result is not None:
            times[cut.index] = _subtract_invocation(result, results["empty"])
        else:
            role, note = Role.NO_KERNEL, note or "it does not run alone"
        rows.append((KernelAssignment(role, None, cut.index, (cut.index,), note), None, times.get(cut.index)))
    total_us = median_us or sum(us.typical for us in times.values()) or None
    return build_layer_times(model, rows, total_us), results["empty"]["runs"]


def _run_operators(contents: dict[str, bytes], threads: int, seconds: float, run: RunJob) -> dict[str, ModelResult]:
    """Return the results of files by name, without operators that do not run; "primer" and "empty" must."""
    with files.temporary_folder() as folder:
        models: dict[str, ModelEntry] = {}
        for name, content in contents.items():
            path = folder / f"{name}.tflite"
            path.write_bytes(content)
            models[name] = {"file": str(path), "threads": threads}
        while True:
            try:
                result = run({"models": list(models.values()), "seconds": seconds, "single_operators": True})
                return dict(zip(models, result.results, strict=True))
            except FileRefusedError as error:
                name = None if error.model is None else list(models)[error.model]
                if name in (None, "primer", "empty"):
                    raise
                del models[name]


def _subtract_invocation(result: ModelResult, empty: ModelResult) -> KernelTime:
    """Return the time of an operator without that of an invocation, which the file that does nothing has."""
    base = empty["us"]["median"]
    median, mean, p90 = (max(0.0, result["us"][name] - base) for name in ("median", "mean", "p90"))
    return KernelTime(median, mean, p90, typical=median)


# Operators with fewer channels

# Axes of the output and of the input channels in the weights.
_NARROWED = {"CONV_2D": (0, -1), "FULLY_CONNECTED": (0, -1), "DEPTHWISE_CONV_2D": (-1, None)}
Widths = tuple[int, int]  # channels of the input and of the output; of a depthwise convolution those of its output


def is_narrowable(operator: TFLiteOperator) -> bool:
    """Whether `narrow_operator` takes an operator."""
    return operator.op in _NARROWED


def narrow_operator(content: bytes, widths: Widths) -> bytes:
    """Return the file of one operator, as `cut_operators` makes it, with fewer channels: the first ones."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    record = read_model(content).main
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    subgraph = model.subgraphs[0]
    operator = record.operators[-1]  # those before it compute its constants
    data, weights, *bias = [index for index in operator.inputs if index >= 0]
    output_axis, input_axis = _NARROWED[operator.op]
    inputs, outputs = widths
    if input_axis is None:
        inputs = outputs * record.tensors[data].shape[-1] // record.tensors[operator.outputs[0]].shape[-1]

    def take(index: int, axis: int, count: int) -> None:
        tensor: Any = subgraph.tensors[index]
        buffer, axis = model.buffers[tensor.buffer], axis % len(tensor.shape)
        values = np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), record.tensors[index].dtype)
        values = np.take(values.reshape(tensor.shape), range(count), axis)
        buffer.data, tensor.shape = np.frombuffer(values.tobytes(), np.uint8), list(values.shape)
        scales = tensor.quantization
        if scales and scales.scale is not None and len(scales.scale) > 1 and scales.quantizedDimension == axis:
            scales.scale, scales.zeroPoint = scales.scale[:count], scales.zeroPoint[:count]

    for index, count in ((data, inputs), (operator.outputs[0], outputs)):
        subgraph.tensors[index].shape = [*subgraph.tensors[index].shape[:-1], count]
    take(weights, output_axis, outputs)
    if input_axis is not None:
        take(weights, input_axis, inputs)
    for index in bias:
        take(index, 0, outputs)
    return _finish(model)


def time_widths(
    model: TFLiteModel, widths: Mapping[int, Iterable[Widths]], threads: int, seconds: float, run: RunJob
) -> dict[int, dict[Widths, float]]:
    """Return the time in us of operators of a file, by index, with the numbers of channels of `widths`.

    Each is a file of its own, measured as in `time_operators`; equal ones are measured once. An operator without widths
    is measured as it is, under (0, 0). Operators that do not run alone are left out.
    """
    contents = {"primer": build_matmul(*_PRIMER_SIZES, "float32"), "empty": build_empty_file()}
    names: dict[tuple[int, Widths], str] = {}
    seen: dict[object, str] = {}
    for cut in cut_operators(model):
        if cut.content is None:
            continue
        operator = model.main.operators[cut.index]
        tensors = [model.main.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        described = operator.op, *((tensor.shape, tensor.dtype) for tensor in tensors), repr(operator.options)
        for pair in widths.get(cut.index, ((0, 0),)):
            name = seen.setdefault((described, pair), f"operator_{len(seen)}")
            names[cut.index, pair] = name
            if name not in contents:
                contents[name] = narrow_operator(cut.content, pair) if cut.index in widths else cut.content
    results = _run_operators(contents, threads, seconds, run)
    times: dict[int, dict[Widths, float]] = {}
    for (index, pair), name in names.items():
        if name in results:
            times.setdefault(index, {})[pair] = _subtract_invocation(results[name], results["empty"]).typical
    return times
