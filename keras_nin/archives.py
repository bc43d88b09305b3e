"""Zip, tar and HDF5 files from others, checked before anything else reads them.

An archive holds files under relative paths, each once, and no links. It expands to at most `MAX_EXPANDED_BYTES`, or
to `MAX_EXPANSION` times its own size where that is more. An HDF5 file holds all of its values itself. All else is an
`InputError`.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import math
import os
import pathlib
import stat
import tarfile
import zipfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from keras_nin.errors import InputError, input_error
from keras_nin.files import leads_elsewhere

if TYPE_CHECKING:
    import h5py

MAX_EXPANDED_BYTES = 1 << 30
MAX_EXPANSION = 10
MAX_FILES = 100_000
_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def check_weight_file(path: str | os.PathLike[str]) -> None:
    """Check a file of weights or of a whole model, and the HDF5 files in it; other kinds of files are left alone."""
    import h5py

    path = pathlib.Path(path)
    if zipfile.is_zipfile(path):
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".h5"):
                    _check_hdf5(io.BytesIO(archive.read(name)), f"{path.name}/{name}", _Contents(path))
    if h5py.is_hdf5(path):  # a file may be both
        _check_hdf5(path, path.name, _Contents(path))


def check_zip(path: str | os.PathLike[str]) -> None:
    """Check an archive such as an .npz or .keras file; a file that is none, or damaged, is left to its reader."""
    with contextlib.suppress(zipfile.BadZipFile, OSError, NotImplementedError), zipfile.ZipFile(path) as archive:
        contents = _Contents(path)
        for entry in archive.infolist():
            contents.add(entry.filename, entry.file_size, is_link=stat.S_ISLNK(entry.external_attr >> 16))


def read_tar(path: pathlib.Path, is_wanted: Callable[[pathlib.PurePosixPath], bool]) -> dict[str, bytes]:
    """Return the content of the wanted files of a tar archive, compressed or not, by their names.

    Raises:
        tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError: a damaged file, or one of another kind.
    """
    contents = _Contents(path)
    wanted = {}
    with path.open("rb") as file:
        start = file.peek(6)
        opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
        # Headers have sizes too, and what is skipped has to be decompressed.
        stream: Any = _BoundedReader(opener(file) if opener else file, contents)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                contents.add(member.name, member.size, is_link=not (member.isfile() or member.isdir()))
                extracted = archive.extractfile(member) if is_wanted(pathlib.PurePosixPath(member.name)) else None
                if extracted:
                    wanted[member.name] = extracted.read()
    return wanted


def _check_hdf5(source: pathlib.Path | io.BytesIO, name: str, contents: _Contents) -> None:
    import h5py

    def refuse(group: h5py.Group, key: str, what: str) -> InputError:
        received = f"{what} at {f'{group.name}/{key}'.lstrip('/')!r}"
        return input_error(f"{name!r} to hold all of its values itself", received, path=contents.path)

    with h5py.File(source, "r") as file:
        groups, visited = [file["/"]], set()
        while groups:
            group: Any = groups.pop()
            for key in group:
                link = group.get(key, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    place = getattr(link, "path", "")
                    place = f"{link.filename}:{place}" if isinstance(link, h5py.ExternalLink) else place
                    raise refuse(group, key, f"a link to {place!r}")
                item = group[key]
                address = h5py.h5o.get_info(item.id).addr  # type: ignore[attr-defined] - its stub is empty
                if address in visited:
                    continue
                visited.add(address)
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif isinstance(item, h5py.Dataset):
                    if item.external:
                        raise refuse(group, key, f"values in the file {os.fsdecode(item.external[0][0])!r}")
                    if item.is_virtual:
                        raise refuse(group, key, "an array that is made of others")
                    contents.add_bytes(math.prod(item.shape or (0,)) * item.dtype.itemsize)


class _Contents:
    """What an archive says that it holds, added part by part and checked."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.limit = max(MAX_EXPANDED_BYTES, MAX_EXPANSION * os.path.getsize(path))
        self._names: set[str] = set()
        self._bytes = 0

    def add(self, name: str, size: int, *, is_link: bool = False) -> None:
        plain = pathlib.PureWindowsPath(name).as_posix()
        problem = "a link" if is_link else "a second time" if plain in self._names else ""
        if leads_elsewhere(name):
            problem = "which leads elsewhere"
        if problem:
            expected = f"{str(self.path)!r} to hold files, each under a relative path of its own"
            raise input_error(expected, f"{name!r}, {problem}", path=self.path)
        self._names.add(plain)
        if len(self._names) > MAX_FILES:
            raise input_error(f"{str(self.path)!r} to hold at most {MAX_FILES:,} files", "more", path=self.path)
        self.add_bytes(size)

    def add_bytes(self, size: int) -> None:
        self._bytes += size
        self.check_bytes(self._bytes)

    def check_bytes(self, size: int) -> None:
        if size > self.limit:
            expected = f"{str(self.path)!r} to expand to at most {self.limit:,} bytes"
            raise input_error(expected, f"{size:,}", path=self.path)


class _BoundedReader:
    """A file to read from that refuses to go further than an archive may expand."""

    def __init__(self, file: IO[bytes], contents: _Contents) -> None:
        self._file, self._contents = file, contents

    def read(self, size: int) -> bytes:
        self._contents.check_bytes(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, position: int) -> int:
        self._contents.check_bytes(position)
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()
