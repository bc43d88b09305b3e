"""Weight files of others as named tensors: what a file holds, and the reading of .safetensors, .pt and .pth.

Only tensors are read: nothing in a file is executed, and an array leaves the file when somebody asks for its values.
"""

import contextlib
import dataclasses
import pickle
import zipfile
from collections.abc import Callable

import numpy as np

from keras_nin.errors import InputError

# The last part of a tensor's name says whose names they are.
PYTORCH_VARIABLES = frozenset({"weight", "running_mean", "running_var", "num_batches_tracked"})
KERAS_VARIABLES = frozenset(
    {"kernel", "depthwise_kernel", "gamma", "beta", "moving_mean", "moving_variance", "weights", "biases"}
)
# What torch puts before the names of a network that it wraps: DataParallel, torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
# Where training scripts keep the state dictionary in a checkpoint of more.
NESTED = ("state_dict", "model_state_dict", "model")
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
        name: as the file has it.
        layer, variable: the parts of the name.
        shape: as stored.
        dtype: name of the type, e.g. "float32", "bfloat16".
        read: returns the values as float32, as stored.
    """

    name: str
    layer: str
    variable: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened file: its tensors, and how its writer orders their values.

    Attributes:
        convention: "Keras", "Keras 1" or "PyTorch".
        tensors: all of them.
        kernels: "HWIO" or "OIHW"; None where the file does not say.
        vectors: order of a flattened map, "HWC" or "CHW"; None where the file does not say. In Keras 1 it is that of
            the kernels.
        flipped: whether kernels are stored turned by 180 degrees, as Theano does.
        notes: what the reader of a report should know.
    """

    convention: str
    tensors: tuple[Tensor, ...]
    kernels: str | None = "HWIO"
    vectors: str | None = "HWC"
    flipped: bool = False
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_safetensors(path):
    """Yield the `Source` of a .safetensors file, named as PyTorch or as Keras does.

    Raises:
        InputError: the names are of neither kind. What the safetensors library refuses is its SafetensorError.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        rows = []
        for name in file.keys():  # noqa: SIM118 - the handle is no mapping
            part = file.get_slice(name)
            kind = part.get_dtype()
            rows.append((name, tuple(part.get_shape()), _SAFETENSORS_TYPES.get(kind, kind), _reader(file, name)))
        yield _named(path, rows)


def _reader(file, name):
    return lambda: file.get_tensor(name).astype(np.float32)


@contextlib.contextmanager
def open_pytorch(path):
    """Yield the `Source` of a state dictionary that torch.save wrote, alone or in a checkpoint.

    Raises:
        InputError: torch is not installed, the file is damaged, it holds anything that is no tensor, or a pickle in it
            would execute code (which is not executed).
    """
    yield _named(path, [_torch_row(path, name, value) for name, value in _state(path).items()])


def _state(path):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"Expected PyTorch to be installed to read {path.name!r}. Received: none. "
            "Use: pip install 'keras-nin[torch]'"
        ) from None
    _refuse_compressed(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"Expected {str(path)!r} to be a PyTorch state dictionary. Received: {_why(error)}") from None
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise InputError(
            f"Expected {path.name!r} to hold a dictionary of named tensors. Received: {type(state).__name__}. "
            "Save model.state_dict()"
        )
    others = [f"{name} ({type(value).__name__})" for name, value in state.items() if not torch.is_tensor(value)]
    if others:
        raise InputError(f"Expected {path.name!r} to hold tensors alone. Received: {', '.join(others)}")
    return state


def _why(error):
    text = str(error)
    if "GLOBAL" in text or "Unsupported" in text or "unsupported" in text:
        return "a pickle of more than tensors, which could execute code; none was. Save model.state_dict() alone"
    return "a damaged file, or one of another kind"


def _refuse_compressed(path):
    """Raise `InputError` for a compressed archive: torch.save writes none, and a small one can hold any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise InputError(f"Expected {path.name!r} as torch.save writes it. Received: a compressed archive")


def _torch_row(path, name, value):
    import torch

    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise InputError(
            f"Expected plain tensors in {path.name!r}. Received: {name} (sparse, quantized or without values)"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    return name, tuple(value.shape), dtype, lambda: value.detach().to(torch.float32).numpy()


def _named(path, rows):
    """Return the `Source` of (name, shape, dtype, reader) rows, by whose names they are."""
    prefix = next((wrapper for wrapper in WRAPPERS if rows and all(row[0].startswith(wrapper) for row in rows)), "")
    tensors = tuple(
        Tensor(name, *_split(name.removeprefix(prefix)), shape, dtype, read) for name, shape, dtype, read in rows
    )
    variables = {tensor.variable for tensor in tensors}
    pytorch, keras = variables & PYTORCH_VARIABLES, variables & KERAS_VARIABLES
    if bool(pytorch) == bool(keras):
        found = (
            "both" if pytorch else f"neither, {', '.join(sorted(tensor.name for tensor in tensors)) or 'no tensors'}"
        )
        raise InputError(
            f"Expected {path.name!r} to name tensors as PyTorch ({', '.join(sorted(PYTORCH_VARIABLES))}) or as Keras "
            f"({', '.join(sorted(KERAS_VARIABLES))}). Received: {found}"
        )
    if keras:
        return Source("Keras", tensors)
    notes = (f"the prefix {prefix!r} of every name is taken off",) if prefix else ()
    return Source("PyTorch", tensors, kernels="OIHW", vectors="CHW", notes=notes)


def _split(name):
    """Return layer and variable of "layer/variable" or "layer.variable"."""
    layer, _, variable = name.rpartition("/" if "/" in name else ".")
    return layer, variable
