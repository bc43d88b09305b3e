"""The LiteRT C API inside the ai-edge-litert wheel, through ctypes: a compiled model and the profiler of its operators.

The wheel's Python modules run compiled models but do not wrap the profiler. `libLiteRt.so` beside them exports both as
plain C functions that return a status, 0 for success. Structures are laid out as on 64-bit systems. The ABI is not a
promise, so `Library` refuses other versions than those it was tested with, and other word sizes.
"""

import contextlib
import ctypes
import pathlib
import sys

import numpy as np

VERSIONS = ("2.3.",)
CPU = 1
_WRITE = 1
_WHOLE = ctypes.POINTER(ctypes.c_void_p)  # where a function puts the handle of what it made
_HANDLE, _INT, _SIZE, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
_INT_OUT, _SIZE_OUT = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_size_t)
# Element types of TensorFlow Lite that inputs have, and whether noise may fill them without being an index.
DTYPES = {
    1: "float32", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 10: "float16", 11: "float64",
    16: "uint32", 17: "uint16",
}  # fmt: skip


class LiteRtError(Exception):
    """A call of the C API returned another status than 0."""


class Unavailable(Exception):
    """The C API cannot be used on this machine, with this version of the runtime, or for this file; the reason."""


class _Layout(ctypes.Structure):
    _fields_ = [("rank_bits", ctypes.c_uint32), ("sizes", ctypes.c_int32 * 8), ("strides", ctypes.c_uint32 * 8)]


class _TensorType(ctypes.Structure):
    _fields_ = [("element_type", ctypes.c_int32), ("layout", _Layout)]

    def shape(self):
        """Return the sizes; an open one is 1."""
        return tuple(max(1, size) for size in self.layout.sizes[: self.layout.rank_bits & 127])


class _Memory(ctypes.Structure):
    _fields_ = [("total", _SIZE), ("in_use", _SIZE), ("footprint", _SIZE)]


class Event(ctypes.Structure):
    """What the profiler recorded: address of the name, type, start and duration in us, and the operator's index."""

    _fields_ = [
        ("tag", ctypes.c_uint64),
        ("type", ctypes.c_int32),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("begin", _Memory),
        ("end", _Memory),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int32),
    ]


_SIZES = {_TensorType: 72, Event: 104}
_PROTOTYPES = {
    "LiteRtCreateEnvironment": (_INT, _HANDLE, _WHOLE),
    "LiteRtCreateModelFromFile": (_HANDLE, _TEXT, _WHOLE),
    "LiteRtCreateOptions": (_WHOLE,),
    "LiteRtSetOptionsHardwareAccelerators": (_HANDLE, _INT),
    "LiteRtCreateOpaqueOptions": (_TEXT, _HANDLE, _HANDLE, _WHOLE),
    "LiteRtAddOpaqueOptions": (_HANDLE, _HANDLE),
    "LiteRtCreateCompiledModel": (_HANDLE, _HANDLE, _HANDLE, _WHOLE),
    "LiteRtGetModelSignature": (_HANDLE, _SIZE, _WHOLE),
    "LiteRtGetNumSignatureInputs": (_HANDLE, _SIZE_OUT),
    "LiteRtGetNumSignatureOutputs": (_HANDLE, _SIZE_OUT),
    "LiteRtGetSignatureInputTensorByIndex": (_HANDLE, _SIZE, _WHOLE),
    "LiteRtGetSignatureOutputTensorByIndex": (_HANDLE, _SIZE, _WHOLE),
    "LiteRtGetRankedTensorType": (_HANDLE, ctypes.POINTER(_TensorType)),
    "LiteRtGetQuantizationTypeId": (_HANDLE, _INT_OUT),
    "LiteRtGetCompiledModelInputBufferRequirements": (_HANDLE, _SIZE, _SIZE, _WHOLE),
    "LiteRtGetCompiledModelOutputBufferRequirements": (_HANDLE, _SIZE, _SIZE, _WHOLE),
    "LiteRtCreateManagedTensorBufferFromRequirements": (_HANDLE, ctypes.POINTER(_TensorType), _HANDLE, _WHOLE),
    "LiteRtLockTensorBuffer": (_HANDLE, _WHOLE, _INT),
    "LiteRtUnlockTensorBuffer": (_HANDLE,),
    "LiteRtGetTensorBufferSize": (_HANDLE, _SIZE_OUT),
    "LiteRtRunCompiledModel": (_HANDLE, _SIZE, _SIZE, _HANDLE, _SIZE, _HANDLE),
    "LiteRtCompiledModelGetProfiler": (_HANDLE, _WHOLE),
    "LiteRtResetProfiler": (_HANDLE,),
    "LiteRtStartProfiler": (_HANDLE,),
    "LiteRtStopProfiler": (_HANDLE,),
    "LiteRtGetNumProfilerEvents": (_HANDLE, _INT_OUT),
    "LiteRtGetProfilerEvents": (_HANDLE, _INT, ctypes.POINTER(Event)),
}
_DESTROYERS = ("Environment", "Model", "Options", "CompiledModel", "TensorBuffer")


class Library:
    """The functions of `libLiteRt.so`, with their arguments declared and every status checked.

    Raises:
        Unavailable: another version than `VERSIONS`, a system that is not 64-bit, or a function is missing.
    """

    def __init__(self):
        import ai_edge_litert

        if not ai_edge_litert.__version__.startswith(VERSIONS):
            raise Unavailable(
                f"the profiler is known in ai-edge-litert {VERSIONS[0]}x, not in {ai_edge_litert.__version__}"
            )
        sizes = {kind.__name__: ctypes.sizeof(kind) for kind in _SIZES}
        if sys.maxsize <= 2**32 or sizes != {kind.__name__: size for kind, size in _SIZES.items()}:
            raise Unavailable(f"the profiler's records are laid out for 64-bit systems; here their sizes are {sizes}")
        path = pathlib.Path(ai_edge_litert.__file__).parent / "libLiteRt.so"
        try:
            self._library = ctypes.CDLL(str(path))
            for name, arguments in _PROTOTYPES.items():
                getattr(self._library, name).argtypes = arguments
            for name in _DESTROYERS:
                destroy = getattr(self._library, f"LiteRtDestroy{name}")
                destroy.argtypes, destroy.restype = (_HANDLE,), None
        except (OSError, AttributeError) as error:
            raise Unavailable(f"the runtime's C API does not load: {error}") from error
        self._c = ctypes.CDLL(None)
        self._c.strdup.restype, self._c.strdup.argtypes = _HANDLE, (_TEXT,)

    def function(self, name):
        """Return the C function `name` itself, which returns its status."""
        return getattr(self._library, f"LiteRt{name}")

    def call(self, name, *arguments):
        """Call a function; `LiteRtError` where its status is not 0."""
        status = self.function(name)(*arguments)
        if status:
            raise LiteRtError(f"LiteRt{name} returned status {status}")

    def get(self, name, *arguments, kind=_HANDLE):
        """Return what a function puts into its last argument."""
        value = kind()
        self.call(name, *arguments, ctypes.byref(value))
        return value if issubclass(kind, ctypes.Structure) else value.value

    def destroy(self, kind, handle):
        """Destroy what `LiteRtCreate...` made."""
        self.function(f"Destroy{kind}")(handle)

    def add_options(self, options, identifier, text):
        """Add a payload of TOML text, which the library frees."""
        release = ctypes.cast(self._c.free, _HANDLE)
        made = self.get("CreateOpaqueOptions", identifier, self._c.strdup(text), release)
        self.call("AddOpaqueOptions", options, made)


class CompiledModel:
    """A .tflite file compiled for the processor, with its buffers; a context manager that destroys all it made.

    Args:
        path: the file.
        threads: of the delegate.
        profiling: whether its profiler records.
        kernel_mode: "delegate" for XNNPACK, "builtin" or "reference" for TensorFlow Lite's own kernels.

    Raises:
        LiteRtError: the runtime does not take the file.
        Unavailable: see `Library`.
    """

    def __init__(self, path, threads=1, profiling=False, kernel_mode="delegate"):
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._library = library = Library()
            environment = self._make(stack, "Environment", 0, None)
            model = self._make(stack, "Model", environment, str(path).encode(), create="CreateModelFromFile")
            options = self._make(stack, "Options")
            library.call("SetOptionsHardwareAccelerators", options, CPU)
            if profiling:
                library.add_options(options, b"runtime_options_string", b"enable_profiling = true\n")
            settings = f'num_threads = {threads}\nkernel_mode = "{kernel_mode}"\n'
            library.add_options(options, b"xnnpack", settings.encode())
            self._handle = self._make(stack, "CompiledModel", environment, model, options)
            signature = library.get("GetModelSignature", model, 0)
            inputs = self._buffers(stack, environment, signature, "Input")
            outputs = self._buffers(stack, environment, signature, "Output")
            self._profiler = library.get("CompiledModelGetProfiler", self._handle) if profiling else None
            self._arguments = (self._handle, 0, len(inputs), inputs, len(outputs), outputs)
            self._run = library.function("RunCompiledModel")
            self._stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _make(self, stack, kind, *arguments, create=None):
        handle = self._library.get(create or f"Create{kind}", *arguments)
        stack.callback(self._library.destroy, kind, handle)
        return handle

    def _buffers(self, stack, environment, signature, direction):
        """Return an array of buffers for the inputs, filled, or the outputs of a signature."""
        library = self._library
        count = library.get(f"GetNumSignature{direction}s", signature, kind=_SIZE)
        buffers = (_HANDLE * count)()
        for index in range(count):
            tensor = library.get(f"GetSignature{direction}TensorByIndex", signature, index)
            tensor_type = library.get("GetRankedTensorType", tensor, kind=_TensorType)
            for axis, size in enumerate(tensor_type.shape()):
                tensor_type.layout.sizes[axis] = size
            needed = library.get(f"GetCompiledModel{direction}BufferRequirements", self._handle, 0, index)
            buffers[index] = library.get(
                "CreateManagedTensorBufferFromRequirements", environment, ctypes.byref(tensor_type), needed
            )
            stack.callback(library.destroy, "TensorBuffer", buffers[index])
            if direction == "Input":
                quantized = library.get("GetQuantizationTypeId", tensor, kind=_INT) != 0
                self._fill(buffers[index], tensor_type, quantized)
        return buffers

    def _fill(self, buffer, tensor_type, quantized):
        values = noise(tensor_type.shape(), DTYPES.get(tensor_type.element_type), quantized)
        if values is None:
            raise Unavailable(f"an input is of element type {tensor_type.element_type}, which noise cannot fill")
        size = self._library.get("GetTensorBufferSize", buffer, kind=_SIZE)
        address = ctypes.c_void_p()
        self._library.call("LockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
        ctypes.memmove(address, values.tobytes(), min(size, values.nbytes))
        self._library.call("UnlockTensorBuffer", buffer)

    def run(self):
        """Run the model once; `LiteRtError` where that fails."""
        status = self._run(*self._arguments)
        if status:
            raise LiteRtError(f"LiteRtRunCompiledModel returned status {status}")

    def profile(self, runs):
        """Return what the profiler records in `runs` runs, in its order.

        Returns:
            NumPy array with the fields of `Event`, and a dictionary from the addresses in `tag` to names.
        """
        library = self._library
        library.call("ResetProfiler", self._profiler)
        library.call("StartProfiler", self._profiler)
        for _ in range(runs):
            self.run()
        library.call("StopProfiler", self._profiler)
        count = library.get("GetNumProfilerEvents", self._profiler, kind=_INT)
        records = (Event * count)()
        library.call("GetProfilerEvents", self._profiler, count, records)
        events = np.frombuffer(records, dtype=np.dtype(Event)).copy()
        # The names are the profiler's own memory, which the next reset may free.
        names = {int(tag): ctypes.string_at(int(tag)).decode(errors="replace") for tag in np.unique(events["tag"])}
        return events, names


def noise(shape, dtype, quantized):
    """Return seeded values for an input: floats in 0 to 1, quantised integers over their range, else zeros.

    Integers without a scale may be indexes, for which 0 is safe. None for a dtype that is not known.
    """
    if dtype is None:
        return None
    rng = np.random.default_rng(0)
    if dtype.startswith("float"):
        return rng.random(shape, np.float32).astype(dtype)
    if quantized:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.zeros(shape, dtype)
