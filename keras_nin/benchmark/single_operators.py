"""The smallest .tflite files that multiply matrices: what the runtime's own matrix product is measured with."""

import dataclasses
import importlib
import os
import pathlib
from dataclasses import dataclass

import numpy as np

from keras_nin import files
from keras_nin.benchmark import kernel_assignment, layer_times, measurement
from keras_nin.benchmark.kernel_assignment import NOTE_CONSTANT
from keras_nin.benchmark.records import SINGLE_OPERATORS, KernelTime
from keras_nin.errors import InputError, check_choice
from keras_nin.tflite import reader

MATMUL_DTYPES = ("float32", "int8")
_MATMUL_SCALE = 1 / 128


def write_matmul(path, rows, inner, columns, dtype):
    """Write a file of one FULLY_CONNECTED: (rows, inner) times (inner, columns), `rows * inner * columns` MACs.

    int8 is quantised as the converter does it: a scale for each output channel, int32 biases.

    Args:
        path: of the file, a `pathlib.Path`.
        rows, inner, columns: sizes.
        dtype: of the matrices, one of `DTYPES`.

    Raises:
        InputError: another dtype.
    """
    check_choice("dtype", dtype, MATMUL_DTYPES)
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    quantized = dtype == "int8"
    code = getattr(schema.TensorType, dtype.upper())
    bias_code = schema.TensorType.INT32 if quantized else code
    weights, bias = _matmul_constants(inner, columns, quantized)
    tensors = [
        _matmul_tensor(schema, "input", (rows, inner), code, 0, [_MATMUL_SCALE] if quantized else None),
        _matmul_tensor(schema, "weights", (columns, inner), code, 1, [_MATMUL_SCALE] * columns if quantized else None),
        _matmul_tensor(schema, "bias", (columns,), bias_code, 2, [_MATMUL_SCALE**2] * columns if quantized else None),
        # The sum of `inner` products of noise grows with its root.
        _matmul_tensor(schema, "output", (rows, columns), code, 0, [_MATMUL_SCALE * inner**0.5] if quantized else None),
    ]
    options = schema.FullyConnectedOptionsT()
    operator = _matmul_table(
        schema.OperatorT, opcodeIndex=0, inputs=[0, 1, 2], outputs=[3], builtinOptions=options,
        builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
    )  # fmt: skip
    kind = schema.BuiltinOperator.FULLY_CONNECTED
    model = _matmul_table(
        schema.ModelT,
        version=3,
        operatorCodes=[_matmul_table(schema.OperatorCodeT, builtinCode=kind, deprecatedBuiltinCode=kind, version=1)],
        subgraphs=[_matmul_table(schema.SubGraphT, tensors=tensors, operators=[operator], inputs=[0], outputs=[3])],
        buffers=[schema.BufferT(), *(_matmul_table(schema.BufferT, data=_as_uint8(each)) for each in (weights, bias))],
    )
    builder = flatbuffers.Builder(weights.nbytes + 2**12)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


def _matmul_constants(inner, columns, quantized):
    random = np.random.default_rng(0)
    if quantized:
        return random.integers(-127, 127, (columns, inner), np.int8, endpoint=True), np.zeros(columns, np.int32)
    return random.standard_normal((columns, inner), np.float32), np.zeros(columns, np.float32)


def _as_uint8(values):
    return np.frombuffer(values.tobytes(), np.uint8)


def _matmul_tensor(schema, name, shape, code, buffer, scales):
    made = _matmul_table(schema.TensorT, name=name, shape=list(shape), type=code, buffer=buffer)
    if scales is not None:
        made.quantization = _matmul_table(schema.QuantizationParametersT, scale=scales, zeroPoint=[0] * len(scales))
    return made


def _matmul_table(kind, **fields):
    made = kind()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# MERGED Cutting a .tflite file into files of one operator each, with its real weights and quantisation.

_DTYPES_NOT_ALONE = frozenset({"resource", "variant", "string"})


@dataclass(frozen=True)
class OperatorFile:
    """The operator number `index` of a main subgraph as a file of its own: `content`, or None and the `reason`."""

    index: int
    content: bytes | None
    reason: str | None = None


def cut_operators(path):
    """Return a `Cut` for each operator of a .tflite file's main subgraph, in its order.

    The operator keeps its options, weights, quantisation and shapes; what it reads from other operators becomes an
    input. Operators that only bring constants into another form (such as the DEQUANTIZE of float16 weights) go with
    those that read them.

    Raises:
        InputError: the file is not a valid .tflite file.
    """
    file = reader.read_model(path)
    return tuple(_Cutter(file).cuts())


def build_empty_file():
    """Return the content of a file whose one operator does nothing: what an invocation costs in itself."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    return _build_file(schema, schema.BuiltinOperator.RESHAPE, {"in": [1, 1]}, [1, 1])


def build_primer_file():
    """Return the content of a file that multiplies float32 matrices of 256 x 64 and 64 x 64, all zeros."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    weights = _schema_table(schema, "Buffer", data=list(bytes(4 * 64 * 64)))
    code = schema.BuiltinOperator.FULLY_CONNECTED
    return _build_file(schema, code, {"in": [256, 64], "weights": [64, 64]}, [256, 64], weights)


def _build_file(schema, code, inputs, output, weights=None):
    """Return a file of one float32 operator: `inputs` are shapes by name, of which a second one has `weights`."""
    tensors = [
        _schema_table(schema, "Tensor", name=name, shape=shape, buffer=int(name == "weights"))
        for name, shape in {**inputs, "out": output}.items()
    ]
    last = len(inputs)
    operator = _schema_table(schema, "Operator", opcodeIndex=0, inputs=list(range(last)), outputs=[last])
    codes = [_schema_table(schema, "OperatorCode", builtinCode=code, deprecatedBuiltinCode=code)]
    buffers = [_schema_table(schema, "Buffer"), *([weights] if weights else [])]
    return _pack_model(schema, codes, tensors, [operator], [0], [last], buffers)


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
            yield OperatorFile(operator.index, None if reason else self._content(operator), reason)

    def _why_not(self, operator):
        tensors = [self.main.tensors[at] for at in (*operator.inputs, *operator.outputs) if at >= 0]
        if operator.is_custom:
            return "a custom operator does not run alone"
        if any(name.endswith("subgraph_index") for name in operator.options):
            return "it runs other subgraphs"
        if any(tensor.is_variable or tensor.dtype in _DTYPES_NOT_ALONE for tensor in tensors):
            return "it keeps values between runs, or reads text"
        if any(tensor.is_sparse for tensor in tensors):
            return "its weights are sparse"
        if self._is_constant(operator):
            return NOTE_CONSTANT
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
        buffers, tensors = [_schema_table(self.schema, "Buffer")], []
        for at in used:
            tensors.append(self._tensor(at, buffers))
        operators = [self._operator(each, number, place) for number, each in enumerate(members)]
        types = self.model.subgraphs[0].operators
        codes = [self.model.operatorCodes[types[each.index].opcodeIndex] for each in members]
        outputs = [place[at] for at in operator.outputs]
        return _pack_model(self.schema, codes, tensors, operators, inputs, outputs, buffers)

    def _is_input(self, at, made):
        return at not in made and not self.main.tensors[at].is_constant

    def _tensor(self, at, buffers):
        """Return a tensor of the file with its values, if it has some, as the last of `buffers`."""
        old, record = self.model.subgraphs[0].tensors[at], self.main.tensors[at]
        tensor = _schema_table(self.schema, "Tensor", **vars(old))
        tensor.shapeSignature, tensor.buffer = None, 0
        if record.is_constant:
            import numpy as np

            first, size = self.file.buffer_spans[record.buffer]
            tensor.buffer = len(buffers)
            buffers.append(
                _schema_table(self.schema, "Buffer", data=np.frombuffer(self.file.content, np.uint8, size, first))
            )
        return tensor

    def _operator(self, operator, number, place):
        old = self.model.subgraphs[0].operators[operator.index]
        new = _schema_table(self.schema, "Operator", **vars(old))
        new.opcodeIndex = number
        new.inputs = [place[at] if at >= 0 else -1 for at in operator.inputs]
        new.outputs = [place[at] for at in operator.outputs]
        new.intermediates = None
        return new


def _schema_table(schema, kind, **values):
    made = getattr(schema, f"{kind}T")()
    vars(made).update(values)
    return made


def _pack_model(schema, codes, tensors, operators, inputs, outputs, buffers):
    flatbuffers = importlib.import_module("flatbuffers")
    subgraph = _schema_table(
        schema, "SubGraph", tensors=tensors, operators=operators, inputs=inputs, outputs=outputs, name="main"
    )
    model = _schema_table(schema, "Model", version=3, operatorCodes=codes, subgraphs=[subgraph], buffers=buffers)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# MERGED The time of every layer without a profiler: each operator of a file alone, as a file of its own.


def time_operators(path, threads, seconds, run=measurement.run_job, median_us=None):
    """Return `LayerTime` records of a file's operators, one each in the file's order, each measured alone.

    They all take turns in one process (see `runner.alone`), beside a file that does nothing, whose time is taken off
    theirs. A kernel is not known by name; an operator that does not run alone has no `us`, and `note` says why. What
    the runtime fuses in the whole file is not fused here.

    Args:
        path: the .tflite file.
        threads: number of threads.
        seconds: how long the measurement takes, beside loading and ten turns of each operator.
        run: what carries a job out, such as `child.run`.
        median_us: of a run of the whole file, of which `share` is a part; None takes the sum of the operators' times.

    Raises:
        InputError: the file is not valid.
    """
    return _measure_operators(path, threads, seconds, run, median_us)[0]


def add_layers(profile, path, seconds, run=measurement.run_job):
    """Return a `Profile` of the file at `path` with the layers that `time_operators` gives."""
    rows, turns = _measure_operators(path, profile.threads, seconds, run, profile.total.median)
    spent = sum(row.us.typical for row in rows if row.us)
    return dataclasses.replace(
        profile,
        method=SINGLE_OPERATORS,
        profiled_runs=turns,
        layers=rows,
        overhead_us=profile.total.median - spent,
    )


def _measure_operators(path, threads, seconds, run, median_us):
    """Return the rows, and how many turns they are over."""
    cuts = cut_operators(path)
    with files.temporary_folder() as folder:
        named = {pathlib.Path(folder) / f"operator_{each.index}.tflite": each for each in cuts if each.content}
        for file, each in named.items():
            file.write_bytes(each.content)
        empty, primer = (pathlib.Path(folder) / f"{name}.tflite" for name in ("nothing", "product"))
        empty.write_bytes(build_empty_file())
        primer.write_bytes(build_primer_file())
        results, refused = _run_operators([primer, empty, *named], threads, seconds, run)
    base = results[os.fspath(empty)]["us"]
    times = {each.index: _subtract_invocation(base, results.get(os.fspath(file))) for file, each in named.items()}
    notes = {each.index: each.reason for each in cuts} | {
        each.index: refused[os.fspath(file)] for file, each in named.items() if os.fspath(file) in refused
    }
    return _layer_times(path, times, notes, median_us), results[os.fspath(empty)]["runs"]


def _run_operators(paths, threads, seconds, run):
    """Return the runner's results by file, and for each file that it refuses why.

    The first two of `paths` are the product that keeps the processor at work, and the file that does nothing.
    """
    left, refused = [os.fspath(path) for path in paths], {}
    while True:
        models = [{"file": path, "threads": threads} for path in left]
        try:
            answer = run({"models": models, "seconds": seconds, "alone": True})
            return {result["file"]: result for result in answer.results}, refused
        except InputError as error:
            at_fault = [path for path in left[2:] if repr(path) in str(error)]
            if not at_fault:
                raise
            refused |= dict.fromkeys(at_fault, "it does not run alone")
            left = [path for path in left if path not in at_fault]


def _subtract_invocation(base, result):
    """Return the `KernelTime` of an operator from the runner's result; None without one."""
    if result is None:
        return None
    us = result["us"]
    median, mean, p90 = (max(0.0, us[key] - base["median"]) for key in ("median", "mean", "p90"))
    return KernelTime(median, mean, p90, typical=median)


def _layer_times(path, times, notes, median_us):
    main = reader.read_model(path).main
    whole = median_us or sum(us.typical for us in times.values() if us) or None
    rows = layer_times.LayerTimeBuilder(main, layer_times.read_layer_facts(path, main), whole)
    for operator in main.operators:
        us = times.get(operator.index)
        what = kernel_assignment.NO_KERNEL if us is None else kernel_assignment.COMPUTES
        rows.add(
            kernel_assignment.KernelAssignment(what, None, operator.index, (operator.index,), notes[operator.index]),
            None,
            us,
        )
    return tuple(rows.found)
