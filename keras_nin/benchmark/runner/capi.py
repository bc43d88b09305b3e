"""The C functions of `libLiteRt.so` inside the ai-edge-litert wheel, through ctypes.

The wheel's Python modules run compiled models but do not wrap the profiler; the library beside them exports both as
plain C functions that return a status, 0 for success. Structures are laid out as on 64-bit systems. The ABI is not a
promise, so `Functions` refuses other versions than those it was tested with, and other word sizes.
"""

import ctypes
import functools
import pathlib
import sys

VERSIONS = ("2.3.",)
CPU = 1
WRITE = 1
HANDLE, INT, SIZE, TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
_OUT = ctypes.POINTER(HANDLE)  # where a function puts the handle of what it made
_INT_OUT, _SIZE_OUT = ctypes.POINTER(INT), ctypes.POINTER(SIZE)
_STATUSES = {
    1: "ErrorInvalidArgument", 2: "ErrorMemoryAllocationFailure", 3: "ErrorRuntimeFailure",
    4: "ErrorMissingInputTensor", 5: "ErrorUnsupported", 6: "ErrorNotFound", 7: "ErrorTimeoutExpired",
    8: "ErrorWrongVersion", 9: "ErrorUnknown", 10: "ErrorAlreadyExists", 100: "Cancelled", 500: "ErrorFileIO",
    501: "ErrorInvalidFlatbuffer", 502: "ErrorDynamicLoading", 503: "ErrorSerialization", 504: "ErrorCompilation",
    1000: "ErrorIndexOOB", 1001: "ErrorInvalidIrType", 1002: "ErrorInvalidGraphInvariant",
    1003: "ErrorGraphModification", 1500: "ErrorInvalidToolConfig", 2000: "LegalizeNoMatch",
    2001: "ErrorInvalidLegalization", 3000: "PatternNoMatch", 3001: "InvalidTransformation",
    4000: "ErrorUnsupportedRuntimeVersion", 4001: "ErrorUnsupportedCompilerVersion",
    4002: "ErrorIncompatibleByteCodeVersion", 5000: "ErrorUnsupportedOpShapeInferer",
    5001: "ErrorShapeInferenceFailed",
}  # fmt: skip


class LiteRtError(Exception):
    """A call of the C API returned another status than 0; the message has the call and the status' name."""


class Unavailable(Exception):
    """The C API cannot be used on this machine or with this version of the runtime; the reason."""


class Layout(ctypes.Structure):
    """Rank in the low 7 bits, sizes (-1 where open) and strides."""

    _fields_ = [("rank_bits", ctypes.c_uint32), ("sizes", ctypes.c_int32 * 8), ("strides", ctypes.c_uint32 * 8)]


class TensorType(ctypes.Structure):
    """Element type and shape of a tensor."""

    _fields_ = [("element_type", ctypes.c_int32), ("layout", Layout)]

    def close(self):
        """Set the open sizes to 1, and return the shape."""
        rank = self.layout.rank_bits & 127
        for axis in range(rank):
            if self.layout.sizes[axis] < 0:
                self.layout.sizes[axis] = 1
        return tuple(self.layout.sizes[:rank])


class _Memory(ctypes.Structure):
    _fields_ = [("total", SIZE), ("in_use", SIZE), ("footprint", SIZE)]


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


_SIZES = {TensorType: 72, Event: 104}
_PROTOTYPES = {
    "CreateEnvironment": (INT, HANDLE, _OUT),
    "CreateModelFromFile": (HANDLE, TEXT, _OUT),
    "CreateOptions": (_OUT,),
    "SetOptionsHardwareAccelerators": (HANDLE, INT),
    "CreateOpaqueOptions": (TEXT, HANDLE, HANDLE, _OUT),
    "AddOpaqueOptions": (HANDLE, HANDLE),
    "CreateCompiledModel": (HANDLE, HANDLE, HANDLE, _OUT),
    "GetNumModelSignatures": (HANDLE, _SIZE_OUT),
    "GetModelSignature": (HANDLE, SIZE, _OUT),
    "GetNumSignatureInputs": (HANDLE, _SIZE_OUT),
    "GetNumSignatureOutputs": (HANDLE, _SIZE_OUT),
    "GetSignatureInputTensorByIndex": (HANDLE, SIZE, _OUT),
    "GetSignatureOutputTensorByIndex": (HANDLE, SIZE, _OUT),
    "GetRankedTensorType": (HANDLE, ctypes.POINTER(TensorType)),
    "GetQuantizationTypeId": (HANDLE, _INT_OUT),
    "GetCompiledModelInputBufferRequirements": (HANDLE, SIZE, SIZE, _OUT),
    "GetCompiledModelOutputBufferRequirements": (HANDLE, SIZE, SIZE, _OUT),
    "CreateManagedTensorBufferFromRequirements": (HANDLE, ctypes.POINTER(TensorType), HANDLE, _OUT),
    "LockTensorBuffer": (HANDLE, _OUT, INT),
    "UnlockTensorBuffer": (HANDLE,),
    "GetTensorBufferSize": (HANDLE, _SIZE_OUT),
    "RunCompiledModel": (HANDLE, SIZE, SIZE, HANDLE, SIZE, HANDLE),
    "CompiledModelGetProfiler": (HANDLE, _OUT),
    "ResetProfiler": (HANDLE,),
    "StartProfiler": (HANDLE,),
    "StopProfiler": (HANDLE,),
    "GetNumProfilerEvents": (HANDLE, _INT_OUT),
    "GetProfilerEvents": (HANDLE, INT, ctypes.POINTER(Event)),
}
_DESTROYERS = ("Environment", "Model", "Options", "OpaqueOptions", "CompiledModel", "TensorBuffer")


def check(name, status):
    """Raise `LiteRtError` where the status that the function `name` returned is not 0."""
    if status:
        known = f"kLiteRtStatus{_STATUSES[status]}" if status in _STATUSES else f"the unknown status {status}"
        raise LiteRtError(f"LiteRt{name} returned {known}")


class Functions:
    """The functions, named without their prefix "LiteRt", with their arguments declared and every status checked.

    Raises:
        Unavailable: another version than `VERSIONS`, a system that is not 64-bit, or a function is missing.
    """

    def __init__(self):
        import ai_edge_litert

        if not ai_edge_litert.__version__.startswith(VERSIONS):
            known = ", ".join(f"{version}x" for version in VERSIONS)
            raise Unavailable(f"the profiler is known in ai-edge-litert {known}, not in {ai_edge_litert.__version__}")
        sizes = {kind.__name__: ctypes.sizeof(kind) for kind in _SIZES}
        if sys.maxsize <= 2**32 or sizes != {kind.__name__: size for kind, size in _SIZES.items()}:
            raise Unavailable(f"the profiler's records are laid out for 64-bit systems; here their sizes are {sizes}")
        path = pathlib.Path(ai_edge_litert.__file__).parent / "libLiteRt.so"
        try:
            self._library = ctypes.CDLL(str(path))
            for name, arguments in _PROTOTYPES.items():
                self.function(name).argtypes = arguments
            for name in _DESTROYERS:
                destroy = self.function(f"Destroy{name}")
                destroy.argtypes, destroy.restype = (HANDLE,), None
        except (OSError, AttributeError) as error:
            raise Unavailable(f"the runtime's C API does not load: {error}") from error
        self._c = ctypes.CDLL(None)
        self._c.strdup.restype, self._c.strdup.argtypes = HANDLE, (TEXT,)

    def function(self, name):
        """Return the C function itself, which returns its status."""
        return getattr(self._library, f"LiteRt{name}")

    def call(self, name, *arguments):
        """Call a function; `LiteRtError` where its status is not 0."""
        check(name, self.function(name)(*arguments))

    def get(self, name, *arguments, kind=HANDLE):
        """Return what a function puts into its last argument."""
        value = kind()
        self.call(name, *arguments, ctypes.byref(value))
        return value if issubclass(kind, ctypes.Structure) else value.value

    def make(self, stack, kind, *arguments, by=None):
        """Return the handle of what `Create...` makes; `stack` destroys it."""
        handle = self.get(by or f"Create{kind}", *arguments)
        stack.callback(self.function(f"Destroy{kind}"), handle)
        return handle

    def add_options(self, options, identifier, text):
        """Add a payload of TOML text to options, which own it from then on."""
        release = ctypes.cast(self._c.free, HANDLE)
        made = self.get("CreateOpaqueOptions", identifier, self._c.strdup(text), release)
        try:
            self.call("AddOpaqueOptions", options, made)
        except LiteRtError:
            self.function("DestroyOpaqueOptions")(made)
            raise


@functools.cache
def functions():
    """Return the `Functions`, loaded once in a process."""
    return Functions()
