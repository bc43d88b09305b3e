"""CIFAR-10 and CIFAR-100 from local files, in the layout of their authors' release for Python:

- the archive, ``cifar-10-python.tar.gz``, also under the name that Keras gives it in its cache
  (``cifar-10-batches-py-target_archive``);
- the unpacked folder (``data_batch_1`` to ``data_batch_5``, ``test_batch``, ``batches.meta``), or the folder around it,
  such as ``cifar-10-batches-py-target`` in Keras's cache.

The batches are pickles, as Python 2 wrote the release or as Python 3 writes them again. They are read by an unpickler
that can build nothing but dictionaries, lists, numbers, strings and records of arrays; nothing that a file names is
imported or called.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

from __future__ import annotations

import dataclasses
import io
import lzma
import os
import pathlib
import pickle
import tarfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from keras_nin import archives
from keras_nin.data import named_datasets
from keras_nin.data.dataset import Dataset, Indices
from keras_nin.data.preprocessing import Pixels
from keras_nin.errors import input_error
from keras_nin.files import load_pickle, read_bytes

_SIDE = 32
_MAX_BATCH_BYTES = 1 << 28  # the training images of CIFAR-100, in one batch, take 155 MB
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", "_archive")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Names of a release: its folder, its files, and the keys of the labels and of their names."""

    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    class_names: bytes

    @property
    def batches(self) -> tuple[str, ...]:
        return (*self.train, self.test)


_LAYOUTS = (
    _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        b"labels",
        b"label_names",
    ),
    _Layout("cifar-100-python", ("train",), "test", "meta", b"fine_labels", b"fine_label_names"),
)


def is_cifar(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is an archive, or a folder with the batches of CIFAR-10 or CIFAR-100."""
    if os.path.isfile(path):
        return os.fspath(path).lower().endswith(_ARCHIVE_SUFFIXES)
    return _find_folder(pathlib.Path(path)) is not None


def open_cifar(path: str | os.PathLike[str]) -> Dataset:
    """Return the images of CIFAR-10 or CIFAR-100 (the fine labels) at `path`, with the splits of the named dataset.

    Raises:
        InputError: batches that are missing or damaged, or a pickle of something else.
    """
    path = pathlib.Path(path)
    layout, contents = _read_archive(path) if path.is_file() else _read_folder(path)
    missing = sorted(set(layout.batches) - set(contents))
    if missing:
        raise input_error(f"the batches of {layout.folder} in {str(path)!r}", f"no {', '.join(missing)}", path=path)
    batches = {name: _read_batch(contents.pop(name), layout, f"{name} in {str(path)!r}") for name in layout.batches}
    class_names = ()
    if layout.meta in contents:
        class_names = _read_class_names(contents[layout.meta], layout, f"{layout.meta} in {str(path)!r}")
    images = np.concatenate([batches[name][0] for name in layout.batches])
    labels = np.concatenate([batches[name][1] for name in layout.batches])
    training = len(images) - len(batches[layout.test][0])
    return named_datasets.make_dataset(os.path.basename(path), images, labels, training, class_names, "standardize")


def _find_folder(path: pathlib.Path) -> tuple[_Layout, pathlib.Path] | None:
    for layout in _LAYOUTS:
        for folder in (path, path / layout.folder):
            if (folder / layout.train[0]).is_file() or (folder / layout.test).is_file():
                return layout, folder
    return None


def _read_folder(path: pathlib.Path) -> tuple[_Layout, dict[str, bytes]]:
    located = _find_folder(path)
    if located is None:
        raise input_error("the batches of CIFAR-10 or CIFAR-100", f"{str(path)!r} without", path=path)
    layout, folder = located
    present = (name for name in (*layout.batches, layout.meta) if (folder / name).is_file())
    return layout, {name: read_bytes(folder / name) for name in present}


def _read_archive(path: pathlib.Path) -> tuple[_Layout, dict[str, bytes]]:
    """Return the layout and the files of an archive, which is not unpacked to disk."""
    layouts = {layout.folder: layout for layout in _LAYOUTS}
    contents: dict[str, dict[str, bytes]] = {}

    def is_batch(name: pathlib.PurePosixPath) -> bool:
        layout = layouts.get(name.parent.name)
        return layout is not None and name.name in (*layout.batches, layout.meta)

    try:
        for name, content in archives.read_tar(path, is_batch).items():
            parent, _, base = name.rpartition("/")
            contents.setdefault(pathlib.PurePosixPath(parent).name, {})[base] = content
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        received = f"{str(path)!r}, which is damaged or of another kind ({error})"
        raise input_error("an archive of CIFAR-10 or CIFAR-100", received, path=path) from None
    if len(contents) != 1:
        received = f"{', '.join(contents)} in {str(path)!r}" if contents else f"{str(path)!r} without"
        raise input_error(f"one of the folders {', '.join(layouts)} in an archive", received, path=path)
    ((folder, batches),) = contents.items()
    return layouts[folder], batches


class _PickledArray:
    """An array in a pickle: what NumPy stores of it."""

    shape: Any = None
    dtype: Any = None
    data: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, is_fortran, self.data = state
        if is_fortran:
            raise pickle.UnpicklingError("an array in Fortran order")


class _PickledType:
    """The type of an array in a pickle; its state holds the byte order, which a byte has not."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and `_PickledArray`. Any other name in the pickle is refused."""

    _encoded = 0

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        # New functions, so that a pickle can set no attribute of ours.
        if module_name in _MULTIARRAY and global_name == "_reconstruct":
            return lambda *_: _PickledArray()
        if (module_name, global_name) == ("numpy", "dtype"):
            return lambda name, *_: _PickledType(name)
        if (module_name, global_name) == ("numpy", "ndarray"):
            return None
        if (module_name, global_name) == ("_codecs", "encode"):
            return lambda text, encoding: self._encode(text, encoding)
        raise pickle.UnpicklingError(f"{module_name}.{global_name}"[:60])

    def _encode(self, text: str, encoding: str) -> bytes:
        """Return the bytes that Python 3 writes as text into pickles of protocol 2."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("_codecs.encode of something else than bytes")
        self._encoded += len(text)  # a pickle may name a text any number of times
        if self._encoded > _MAX_BATCH_BYTES:
            raise pickle.UnpicklingError("too large")
        return text.encode("latin1")


def _load(data: bytes, keys: Collection[bytes], where: str) -> Mapping[bytes, Any]:
    """Return the dictionary of a pickle, in which these keys must be; keys that are text become bytes."""
    try:
        record = load_pickle(io.BytesIO(data), _Unpickler, _MAX_BATCH_BYTES, encoding="bytes")
    except pickle.UnpicklingError as error:
        received = f"a damaged file, or a pickle of something else ({error}); nothing of it was run"
        raise input_error(f"{where} to be a pickle of CIFAR's authors", received) from None
    if isinstance(record, dict):
        record = {_as_bytes(key): value for key, value in record.items()}
    if not isinstance(record, dict) or not set(keys) <= set(record):
        names = ", ".join(key.decode() for key in keys)
        raise input_error(f"{where} to hold a dictionary with {names}", type(record).__name__)
    return record


def _as_bytes(value: Any) -> Any:
    """Return text as the bytes that it was in the release, anything else as it is."""
    return value.encode("utf-8", "replace") if isinstance(value, str) else value


def _read_batch(data: bytes, layout: _Layout, where: str) -> tuple[Pixels, Indices]:
    """Return (images (N, 32, 32, 3), labels (N,)) of a batch."""
    record = _load(data, (b"data", layout.labels), where)
    array, labels = record[b"data"], record[layout.labels]
    pixels = 3 * _SIDE * _SIDE
    is_bytes = isinstance(array, _PickledArray) and isinstance(array.dtype, _PickledType)
    name = getattr(array.dtype, "name", None) if is_bytes else None
    if name not in (b"u1", "u1") or not isinstance(array.data, bytes) or not array.data or len(array.data) % pixels:
        raise input_error(f"{where} to hold images, uint8 (N, {pixels:,})", "other `data`")
    # Each row holds the red values, then the green and the blue ones.
    images = np.frombuffer(array.data, np.uint8).reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    whole = isinstance(labels, list) and all(type(label) is int and 0 <= label < 1 << 31 for label in labels)
    if not whole or len(labels) != len(images):
        count = len(labels) if isinstance(labels, list) else type(labels).__name__
        raise input_error(f"{where} to hold a class index for each of {len(images):,} images", count)
    return images, np.array(labels, np.int64)


def _read_class_names(data: bytes, layout: _Layout, where: str) -> tuple[str, ...]:
    names = _load(data, (layout.class_names,), where)[layout.class_names]
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise input_error(f"{where} to hold the names of the classes", type(names).__name__)
    return tuple(_as_bytes(name).decode("utf-8", "replace") for name in names)
