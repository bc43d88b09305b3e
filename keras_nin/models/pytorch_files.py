"""PyTorch's weight files, read without PyTorch: a pickle that may name nothing but tensors, and their bytes.

torch.save writes a zip archive whose ``data.pkl`` describes the tensors and whose ``data/<key>`` hold their values; up
to PyTorch 1.5, pickles one after the other and then the values. Nothing that a file names is imported or called.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import ml_dtypes  # noqa: F401 - it gives NumPy the type bfloat16
import numpy as np
import numpy.typing as npt

from keras_nin import files
from keras_nin.errors import InputError, input_error

# Where training scripts keep the state dictionary in a checkpoint.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
_STORAGE_TYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_PICKLE_BYTES = 1 << 25


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    elements: int

    @property
    def item_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage, in elements; `storage` is None for a tensor that is not plain: sparse or quantized."""

    storage: _Storage | None
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PyTorchTensor:
    """A named tensor of a file; `read` returns its values as float32."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], npt.NDArray[np.float32]] = dataclasses.field(repr=False)


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, numbers, strings and `_Tensor` records. Any other name in the pickle is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name == "collections.OrderedDict":
            return collections.OrderedDict
        if name == "torch.Size":
            return tuple
        if module_name == "torch" and global_name in _STORAGE_TYPES:
            return _STORAGE_TYPES[global_name]
        # New functions, so that a pickle can set no attribute of ours. PyTorch 0.3 wrote the first of the two names.
        if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, tuple(shape), tuple(strides))
        if name == "torch._utils._rebuild_parameter":
            return lambda tensor, *_: tensor
        if name in ("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor"):
            return lambda *_: _Tensor(None)
        if name in ("torch.sparse_coo", "torch.sparse_csr", "torch.per_tensor_affine", "torch.per_channel_affine"):
            return None
        raise pickle.UnpicklingError(f"GLOBAL {name}")

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, dtype, key, _, elements, *view = pid
        if kind != "storage" or dtype not in _STORAGE_TYPES.values() or type(elements) is not int or elements < 0:
            raise pickle.UnpicklingError("a reference to something else than a storage")
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("a view of another storage")
        return _Storage(str(key), dtype, elements)


def _unpickle(file: IO[bytes]) -> Any:
    """Return the object of the pickle at the file's position; `UnpicklingError` where it names more than tensors."""
    return files.load_pickle(file, _Unpickler, _MAX_PICKLE_BYTES)


@contextlib.contextmanager
def open_state_dict(path: pathlib.Path) -> Iterator[list[PyTorchTensor]]:
    """Yield the tensors of the state dictionary in `path`, alone or in a checkpoint.

    Raises:
        InputError: The file is no such dictionary, or its pickle names anything that is no tensor.
    """
    with contextlib.ExitStack() as stack:
        try:
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                state, read_storage = _open_archive(path, archive)
            else:
                state, read_storage = _open_legacy(stack.enter_context(path.open("rb")))
        except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
            received = "a damaged file, or one of another kind"
            if str(error).startswith("GLOBAL"):
                received = (
                    f"a pickle of more than tensors ({str(error).removeprefix('GLOBAL ')[:60]!r}), which could "
                    "execute code; none was. Save model.state_dict() alone"
                )
            raise input_error(f"{str(path)!r} to be a PyTorch state dictionary", received, path=path) from None
        tensors = _named_tensors(path, state)
        yield [_readable(path, name, tensor, read_storage) for name, tensor in tensors.items()]


def _open_archive(path: pathlib.Path, archive: zipfile.ZipFile) -> tuple[Any, Callable[[_Storage], bytes]]:
    # torch.save writes no compressed archive, and a small one can hold any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise input_error(f"{path.name!r} as torch.save writes it", "a compressed archive", path=path)
    names = archive.namelist()
    descriptions = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(descriptions) != 1:
        raise pickle.UnpicklingError("no data.pkl")
    folder = descriptions[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise input_error(f"{path.name!r} to be in little-endian byte order", "another byte order", path=path)

    def read_storage(storage: _Storage) -> bytes:
        return archive.read(f"{folder}data/{storage.key}")

    return _unpickle(io.BytesIO(archive.read(descriptions[0]))), read_storage


def _open_legacy(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], bytes]]:
    first = _unpickle(file)
    if first != _LEGACY_MAGIC:
        return first, lambda storage: b""  # a pickle alone
    if _unpickle(file) != _LEGACY_PROTOCOL or _unpickle(file).get("little_endian") is not True:
        raise pickle.UnpicklingError("another protocol")
    state, keys = _unpickle(file), _unpickle(file)
    storages = {storage.key: storage for storage in _storages(state)}
    positions, position = {}, file.tell()
    for key in keys:  # the values follow, each after the number of its elements
        storage = storages.get(key)
        if storage is None:
            raise pickle.UnpicklingError(f"storage {key}")
        positions[key] = position + 8
        position += 8 + storage.elements * storage.item_bytes

    def read_storage(storage: _Storage) -> bytes:
        file.seek(positions[storage.key])
        return file.read(storage.elements * storage.item_bytes)

    return state, read_storage


def _storages(value: Any) -> Iterator[_Storage]:
    """Yield the storage of every tensor in nested dictionaries, lists and tuples."""
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if isinstance(item, _Tensor):
            if item.storage is not None:
                yield item.storage
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            pending.extend(item.values() if isinstance(item, dict) else item)


def _named_tensors(path: pathlib.Path, state: Any) -> Mapping[str, _Tensor]:
    for key in _STATE_DICT_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        received = f"{type(state).__name__}. Save model.state_dict()"
        raise input_error(f"{path.name!r} to hold a dictionary of named tensors", received, path=path)
    others = [f"{name} ({type(value).__name__})" for name, value in state.items() if not isinstance(value, _Tensor)]
    if others:
        raise input_error(f"{path.name!r} to hold only tensors", ", ".join(others), path=path)
    return state


def _readable(
    path: pathlib.Path, name: str, tensor: _Tensor, read_storage: Callable[[_Storage], bytes]
) -> PyTorchTensor:
    storage = tensor.storage
    if storage is None:
        raise input_error(f"plain tensors in {path.name!r}", f"{name} (sparse or quantized)", path=path)
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise _damaged(path, name)

    def read() -> npt.NDArray[np.float32]:
        last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
        empty = 0 in tensor.shape
        try:
            data = read_storage(storage)
        except (KeyError, zipfile.BadZipFile, OSError):
            raise _damaged(path, name) from None
        values = np.frombuffer(data, storage.dtype, count=len(data) // storage.item_bytes)
        if (last >= len(values) or math.prod(tensor.shape) > len(values)) and not empty:
            raise _damaged(path, name)
        steps = [step * storage.item_bytes for step in tensor.strides]
        view = np.ndarray(tensor.shape, storage.dtype, data, 0 if empty else tensor.offset * storage.item_bytes, steps)
        return view.astype(np.float32)

    return PyTorchTensor(name, tensor.shape, storage.dtype, read)


def _damaged(path: pathlib.Path, name: str) -> InputError:
    return input_error(f"{path.name!r} to hold all values of {name}", "a damaged or cut file", path=path)
