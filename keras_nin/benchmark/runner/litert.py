"""A .tflite file in LiteRT: through the C functions of `libLiteRt.so`, or through TensorFlow Lite's interpreter.

The wheel does not wrap the profiler, and the ABI is not a promise: versions beside `VERIFIED_VERSIONS` are refused.
"""

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import pkgutil
import sys
from typing import Any

import numpy as np

VERIFIED_VERSIONS = ("2.3.",)
CPU, WRITE = 1, 1
HANDLE, INT, SIZE, TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
# The API's statuses by number, arguments of its functions, what has a destructor, and NumPy's names of element types:
# those that an input can have here, and the others.
_TABLE: dict[str, Any] = json.loads(pkgutil.get_data("keras_nin.benchmark.runner", "litert.json") or b"")
_UNSUPPORTED = "kLiteRtStatusErrorUnsupported"
_INPUT_DTYPES, _OTHER_DTYPES = _TABLE["input_dtypes"], _TABLE["other_dtypes"]


class LiteRtError(Exception):
    """A call of the C API returned a status other than 0."""


class UnsupportedModelError(LiteRtError):
    """The C API does not take a valid file, such as one with variable tensors."""


class CApiUnavailable(Exception):
    """The C API cannot be used on this machine or with this version of the runtime."""


class DelegateError(Exception):
    """An external delegate does not load."""


class _TensorLayout(ctypes.Structure):  # rank in the low 7 bits, sizes (-1 where open)
    _fields_ = [("rank_bits", ctypes.c_uint32), ("sizes", ctypes.c_int32 * 8), ("strides", ctypes.c_uint32 * 8)]


class RankedTensorType(ctypes.Structure):
    """Element type and shape of a tensor."""

    _fields_ = [("element_type", ctypes.c_int32), ("layout", _TensorLayout)]
    element_type: int
    layout: Any

    def close_shape(self) -> tuple[int, ...]:
        """Set the open sizes to 1, and return the shape."""
        rank = self.layout.rank_bits & 127
        for axis in range(rank):
            if self.layout.sizes[axis] < 0:
                self.layout.sizes[axis] = 1
        return tuple(self.layout.sizes[:rank])


class _Memory(ctypes.Structure):
    _fields_ = [("total", SIZE), ("in_use", SIZE), ("footprint", SIZE)]


class ProfilerEvent(ctypes.Structure):
    """A record of the profiler: address of the name, type, start and duration in us, and index of the operator."""

    _fields_ = [
        ("tag", ctypes.c_uint64), ("type", ctypes.c_int32), ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64), ("begin", _Memory), ("end", _Memory), ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64), ("source", ctypes.c_int32),
    ]  # fmt: skip


_STRUCT_SIZES = {RankedTensorType: 72, ProfilerEvent: 104}
_TYPES = {"handle": HANDLE, "int": INT, "size": SIZE, "text": TEXT, "type": RankedTensorType, "event": ProfilerEvent}
_PROTOTYPES = {
    name: tuple(ctypes.POINTER(_TYPES[kind[:-1]]) if kind.endswith("*") else _TYPES[kind] for kind in kinds.split())
    for name, kinds in _TABLE["functions"].items()
}


def check_status(name: str, status: int) -> None:
    """Raise `LiteRtError` where the status that the function `name` returned is not 0."""
    if status:
        returned = _TABLE["statuses"].get(str(status), f"the unknown status {status}")
        error = UnsupportedModelError if returned == _UNSUPPORTED else LiteRtError
        raise error(f"LiteRt{name} returned {returned}")


class LiteRtLibrary:
    """The C functions by their names without the prefix "LiteRt", with declared arguments and checked statuses."""

    def __init__(self) -> None:
        import ai_edge_litert

        version = ai_edge_litert.__version__
        if not version.startswith(VERIFIED_VERSIONS):
            known = ", ".join(f"{prefix}x" for prefix in VERIFIED_VERSIONS)
            raise CApiUnavailable(f"the profiler is known in ai-edge-litert {known}, not in {version}")
        sizes = {kind.__name__: ctypes.sizeof(kind) for kind in _STRUCT_SIZES}
        if sys.maxsize <= 2**32 or list(sizes.values()) != list(_STRUCT_SIZES.values()):
            here = f"here their sizes are {sizes}"
            raise CApiUnavailable(f"the profiler's records are laid out for 64-bit systems; {here}")
        path = pathlib.Path(str(ai_edge_litert.__file__)).parent / "libLiteRt.so"
        try:
            self._library = ctypes.CDLL(str(path))
            for name, arguments in _PROTOTYPES.items():
                self.function(name).argtypes = arguments
            for name in _TABLE["destroyed"]:
                destroy = self.function(f"Destroy{name}")
                destroy.argtypes, destroy.restype = (HANDLE,), None
        except (OSError, AttributeError) as error:
            raise CApiUnavailable(f"the runtime's C API does not load: {error}") from error
        self._c = ctypes.CDLL(None)
        self._c.strdup.restype, self._c.strdup.argtypes = HANDLE, (TEXT,)

    def function(self, name: str) -> Any:
        """Return the C function itself, which returns its status."""
        return getattr(self._library, f"LiteRt{name}")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; `LiteRtError` where its status is not 0."""
        check_status(name, self.function(name)(*arguments))

    def get(self, name: str, *arguments: Any, kind: Any = HANDLE) -> Any:
        """Return what a function puts into its last argument."""
        value = kind()
        self.call(name, *arguments, ctypes.byref(value))
        return value if issubclass(kind, ctypes.Structure) else value.value

    def create(self, stack: contextlib.ExitStack, kind: str, *arguments: Any, function: str | None = None) -> Any:
        """Return the handle of a new object, by the function `Create<kind>` or another one; `stack` destroys it."""
        handle = self.get(function or f"Create{kind}", *arguments)
        stack.callback(self.function(f"Destroy{kind}"), handle)
        return handle

    def add_options(self, options: Any, identifier: bytes, toml: bytes) -> None:
        """Add a payload of TOML text to options, which own it from then on."""
        release = ctypes.cast(self._c.free, HANDLE)
        opaque = self.get("CreateOpaqueOptions", identifier, self._c.strdup(toml), release)
        try:
            self.call("AddOpaqueOptions", options, opaque)
        except LiteRtError:
            self.function("DestroyOpaqueOptions")(opaque)
            raise


load_library = functools.cache(LiteRtLibrary)


class CompiledModel(contextlib.ExitStack):
    """A .tflite file compiled for the processor, with its buffers; a context manager that destroys all of it.

    Open sizes of inputs become 1. Of a file with several signatures the first one runs. `LiteRtError` where the runtime
    does not take the file, `ValueError` where an input is of a type that cannot be filled.
    """

    api = "compiled_model"

    def __init__(self, path: str | os.PathLike[str], threads: int = 1, profiling: bool = False) -> None:
        super().__init__()
        self._library = library = load_library()
        with contextlib.ExitStack() as stack:
            environment = library.create(stack, "Environment", 0, None)
            model = library.create(stack, "Model", environment, str(path).encode(), function="CreateModelFromFile")
            options = library.create(stack, "Options")
            library.call("SetOptionsHardwareAccelerators", options, CPU)
            if profiling:
                library.add_options(options, b"runtime_options_string", b"enable_profiling = true\n")
            library.add_options(options, b"xnnpack", f'num_threads = {threads}\nkernel_mode = "delegate"\n'.encode())
            self._handle = library.create(stack, "CompiledModel", environment, model, options)
            signature = library.get("GetModelSignature", model, 0)
            inputs = self._create_buffers(stack, environment, signature, "Input")
            outputs = self._create_buffers(stack, environment, signature, "Output")
            self._profiler = library.get("CompiledModelGetProfiler", self._handle) if profiling else None
            self._arguments = (self._handle, 0, len(inputs), inputs, len(outputs), outputs)
            self._run = library.function("RunCompiledModel")
            self.enter_context(stack.pop_all())

    def _create_buffers(self, stack: contextlib.ExitStack, environment: Any, signature: Any, direction: str) -> Any:
        """Return a C array of buffers for each "Input", filled, or "Output" of a signature."""
        library = self._library
        count = library.get(f"GetNumSignature{direction}s", signature, kind=SIZE)
        buffers = (HANDLE * count)()
        for index in range(count):
            tensor = library.get(f"GetSignature{direction}TensorByIndex", signature, index)
            tensor_type = library.get("GetRankedTensorType", tensor, kind=RankedTensorType)
            shape, code = tensor_type.close_shape(), tensor_type.element_type
            dtype = {**_INPUT_DTYPES, **_OTHER_DTYPES}.get(str(code), str(code))
            requirements = library.get(f"GetCompiledModel{direction}BufferRequirements", self._handle, 0, index)
            try:
                buffers[index] = library.create(
                    stack, "TensorBuffer", environment, ctypes.byref(tensor_type), requirements,
                    function="CreateManagedTensorBufferFromRequirements",
                )  # fmt: skip
            except LiteRtError as error:
                raise LiteRtError(f"{error} for the {direction.lower()} {dtype} {shape}") from error
            if direction == "Input":
                values = generate_input(shape, dtype, library.get("GetQuantizationTypeId", tensor, kind=INT) != 0)
                size, address = library.get("GetTensorBufferSize", buffers[index], kind=SIZE), HANDLE()
                if size < values.nbytes:
                    raise ValueError(f"the runtime gives an input of {values.nbytes} bytes only {size}")
                library.call("LockTensorBuffer", buffers[index], ctypes.byref(address), WRITE)
                ctypes.memmove(address, values.ctypes.data, values.nbytes)
                library.call("UnlockTensorBuffer", buffers[index])
        return buffers

    def run(self) -> None:
        """Run the model once; `LiteRtError` where that fails."""
        status = self._run(*self._arguments)
        if status:
            check_status("RunCompiledModel", status)

    def profile(self, runs: int) -> tuple[np.ndarray, dict[int, str]]:
        """Return what the profiler records in `runs` runs, in its order."""
        library = self._library
        library.call("ResetProfiler", self._profiler)
        library.call("StartProfiler", self._profiler)
        try:
            for _ in range(runs):
                self.run()
        finally:
            library.call("StopProfiler", self._profiler)
        count = library.get("GetNumProfilerEvents", self._profiler, kind=INT)
        records = (ProfilerEvent * count)()
        library.call("GetProfilerEvents", self._profiler, count, records)
        events: Any = np.frombuffer(records, dtype=np.dtype(ProfilerEvent)).copy()
        # The names are the profiler's own memory, which the next reset may free.
        names = {int(tag): ctypes.string_at(int(tag)).decode(errors="replace") for tag in np.unique(events["tag"])}
        return events, names


class InterpretedModel(contextlib.AbstractContextManager["InterpretedModel"]):
    """A .tflite file in TensorFlow Lite's interpreter, for want of the C API, and for external delegates.

    A context manager like `CompiledModel`; `run` runs the model once. `delegate` is the path of a library, such as
    libedgetpu.so.1; None for XNNPACK.
    """

    api = "interpreter"

    def __init__(self, path: str | os.PathLike[str], threads: int = 1, delegate: str | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter, load_delegate

        try:
            delegates = [load_delegate(delegate)] if delegate else None
        except (OSError, ValueError) as error:
            raise DelegateError(" ".join(str(error).split())) from error
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads, experimental_delegates=delegates)
        self._interpreter.allocate_tensors()
        self._inputs: list[tuple[int, np.ndarray]] = []
        for entry in self._interpreter.get_input_details():
            dtype = getattr(entry["dtype"], "__name__", "none").rstrip("_")  # NumPy's "bool_" is a bool
            is_quantized = bool(entry["quantization"][0])
            self._inputs.append((entry["index"], generate_input(tuple(entry["shape"]), dtype, is_quantized)))
        self._outputs = [entry["index"] for entry in self._interpreter.get_output_details()]
        self.write_inputs()
        self.run = self._interpreter.invoke

    def __exit__(self, *error: object) -> None:
        del self.run, self._interpreter

    def write_inputs(self) -> None:
        """Write the inputs anew."""
        for index, values in self._inputs:
            self._interpreter.set_tensor(index, values)

    def clear_outputs(self) -> None:
        """Overwrite the outputs with zeros; only after a run, before which outputs of open sizes do not exist."""
        for index in self._outputs:
            self._interpreter.tensor(index)().fill(0)


def generate_input(shape: tuple[int, ...], dtype: str, quantized: bool) -> np.ndarray:
    """Return seeded values for an input: floats from 0 to 1, quantized integers over their range, otherwise zeros."""
    if dtype not in _INPUT_DTYPES.values():
        raise ValueError(f"an input is of type {dtype}, which cannot be filled with numbers")
    rng = np.random.default_rng(0)
    if dtype.startswith("float"):
        return rng.random(shape, np.float32).astype(dtype)
    if quantized:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, np.dtype(dtype), endpoint=True)
    return np.zeros(shape, dtype)  # integers without a scale may be indexes, for which 0 is safe
