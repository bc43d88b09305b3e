"""A .tflite file compiled by LiteRT with its buffers, and the profiler of its operators."""

import contextlib
import ctypes

import numpy as np

from keras_nin.benchmark.runner import capi
from keras_nin.benchmark.runner.capi import HANDLE, INT, SIZE

# NumPy's names of the element types of TensorFlow Lite that an input can have here.
DTYPES = {
    1: "float32", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 8: "complex64", 9: "int8", 10: "float16",
    11: "float64", 12: "complex128", 15: "uint64", 16: "uint32", 17: "uint16",
}  # fmt: skip
_OTHERS = {5: "string", 13: "resource", 14: "variant", 18: "int4", 19: "bfloat16", 20: "int2", 21: "uint4"}


class CompiledModel:
    """A .tflite file compiled for the processor, with its buffers; a context manager that destroys all it made.

    An open size of an input is 1. Of a file with several signatures it is the first that runs.

    Args:
        path: the file.
        threads: of the delegate.
        profiling: whether its profiler records.
        kernel_mode: "delegate" for XNNPACK, "builtin" or "reference" for TensorFlow Lite's own kernels.

    Attributes:
        signatures: how many the file has; one is made up where it has none.

    Raises:
        capi.LiteRtError: the runtime does not take the file.
        capi.Unavailable: see `capi.Functions`.
        ValueError: an input is of a type that cannot be filled.
    """

    def __init__(self, path, threads=1, profiling=False, kernel_mode="delegate"):
        self._library = library = capi.functions()
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            environment = library.make(stack, "Environment", 0, None)
            model = library.make(stack, "Model", environment, str(path).encode(), by="CreateModelFromFile")
            self.signatures = library.get("GetNumModelSignatures", model, kind=SIZE)
            options = library.make(stack, "Options")
            library.call("SetOptionsHardwareAccelerators", options, capi.CPU)
            if profiling:
                library.add_options(options, b"runtime_options_string", b"enable_profiling = true\n")
            settings = f'num_threads = {threads}\nkernel_mode = "{kernel_mode}"\n'
            library.add_options(options, b"xnnpack", settings.encode())
            self._handle = library.make(stack, "CompiledModel", environment, model, options)
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

    def _buffers(self, stack, environment, signature, direction):
        """Return an array of buffers for the inputs, filled, or the outputs of a signature."""
        library = self._library
        count = library.get(f"GetNumSignature{direction}s", signature, kind=SIZE)
        buffers = (HANDLE * count)()
        for index in range(count):
            tensor = library.get(f"GetSignature{direction}TensorByIndex", signature, index)
            tensor_type = library.get("GetRankedTensorType", tensor, kind=capi.TensorType)
            shape, code = tensor_type.close(), tensor_type.element_type
            dtype = DTYPES.get(code, _OTHERS.get(code, code))
            needed = library.get(f"GetCompiledModel{direction}BufferRequirements", self._handle, 0, index)
            by, of_type = "CreateManagedTensorBufferFromRequirements", ctypes.byref(tensor_type)
            try:
                buffers[index] = library.make(stack, "TensorBuffer", environment, of_type, needed, by=by)
            except capi.LiteRtError as error:
                raise capi.LiteRtError(f"{error} for the {direction.lower()} {dtype} {shape}") from error
            if direction == "Input":
                quantized = library.get("GetQuantizationTypeId", tensor, kind=INT) != 0
                self._fill(buffers[index], noise(shape, dtype, quantized))
        return buffers

    def _fill(self, buffer, values):
        size = self._library.get("GetTensorBufferSize", buffer, kind=SIZE)
        if size < values.nbytes:
            raise ValueError(f"the runtime gives an input of {values.nbytes} bytes only {size}")
        address = HANDLE()
        self._library.call("LockTensorBuffer", buffer, ctypes.byref(address), capi.WRITE)
        try:
            ctypes.memmove(address, values.ctypes.data, values.nbytes)
        finally:
            self._library.call("UnlockTensorBuffer", buffer)

    def run(self):
        """Run the model once; `LiteRtError` where that fails."""
        status = self._run(*self._arguments)
        if status:
            capi.check("RunCompiledModel", status)

    def profile(self, runs):
        """Return what the profiler records in `runs` runs, in its order.

        Returns:
            NumPy array with the fields of `capi.Event`, and a dictionary from the addresses in `tag` to names.
        """
        library = self._library
        library.call("ResetProfiler", self._profiler)
        library.call("StartProfiler", self._profiler)
        try:
            for _ in range(runs):
                self.run()
        finally:
            library.call("StopProfiler", self._profiler)
        count = library.get("GetNumProfilerEvents", self._profiler, kind=INT)
        records = (capi.Event * count)()
        library.call("GetProfilerEvents", self._profiler, count, records)
        events = np.frombuffer(records, dtype=np.dtype(capi.Event)).copy()
        # The names are the profiler's own memory, which the next reset may free.
        names = {int(tag): ctypes.string_at(int(tag)).decode(errors="replace") for tag in np.unique(events["tag"])}
        return events, names


def noise(shape, dtype, quantized):
    """Return seeded values for an input: floats in 0 to 1, quantised integers over their range, else zeros.

    Integers without a scale may be indexes, for which 0 is safe.

    Raises:
        ValueError: another dtype than those of `DTYPES`.
    """
    if dtype not in DTYPES.values():
        raise ValueError(f"an input is of type {dtype}, which cannot be filled with numbers")
    rng = np.random.default_rng(0)
    if dtype.startswith("float"):
        return rng.random(shape, np.float32).astype(dtype)
    if quantized:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.zeros(shape, dtype)
