"""Writing files whole or not at all, and naming their content by hash."""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile

from keras_nin.errors import InputError


def sha256(data):
    """Return the SHA-256 of `data` (bytes-like) as a hexadecimal string."""
    return hashlib.sha256(data).hexdigest()


def to_json(document):
    """Return `document` as the indented JSON text that every file and ``--json`` uses."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read_bytes(path):
    """Return the bytes of the file at `path`; `InputError` where it cannot be read."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"Expected a readable file. Received: {str(path)!r} ({error.strerror})") from None


def read_json(path):
    """Return the content of the JSON file at `path`; `InputError` where it cannot be read or is no JSON."""
    data = read_bytes(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"Expected a JSON file. Received: {str(path)!r} ({error})") from None


def make_folder(path):
    """Create the folder `path` where it is missing; `InputError` where it cannot be written to."""
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"Expected a folder that can be written to. Received: {str(path)!r} ({error.strerror})"
        ) from None
    return path


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path` with the same ending; on success it takes the place of `path`.

    For writers that insist on a file name. What was at `path` stays until the new file is complete on disk.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = pathlib.Path(path)
    folder = make_folder(path.parent)
    temporary = folder / f".{os.getpid()}-{path.name}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # What writes there may have reasons of its own without a number, such as h5py.
        raise InputError(f"Expected {str(path)!r} to be writable. Received: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write(path, data):
    """Write `data` (bytes or text) to `path`, whole or not at all: temporary file, fsync, rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
