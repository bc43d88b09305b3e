"""Reading files safely, writing them whole or not at all, removing what killed processes left, and hashes."""

import atexit
import contextlib
import errno
import io
import json
import math
import os
import pathlib
import platform
import re
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from keras_nin.errors import InputError, input_error
from keras_nin.formatting import escape_unprintable

if TYPE_CHECKING:
    import pickle

# The name of a temporary file starts with the process that made it, and ends with the file that it becomes.
_TEMPORARY_NAME = re.compile(r"\.keras-nin-(?P<process>[0-9]+)@(?P<machine>[^@]*)@")
_MACHINE = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())
_RECORD_SUFFIX = ".json"
_MAX_JSON_BYTES, _MAX_JSON_DEPTH = 1 << 25, 64
_REFUSED = re.compile(r'[/\\:*?"<>|]')  # in file names, by any system
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|(com|lpt)[0-9])(\.|$)")  # names of devices
_MAX_STEM = 150  # bytes of a file name, which may have 255, without endings
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_MEMO = 1 << 22  # Python's unpickler allocates as many entries as the largest index
# Names of the temporary files that this process works on; others with its number are those of an earlier process.
_in_use: set[str] = set()
_process_folder: list[pathlib.Path] = []

AnyPath = str | os.PathLike[str]


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` as a hexadecimal string."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def dump_json(document: Any) -> str:
    r"""Return `document` as the indented JSON text that every file and ``--json`` uses.

    Names stay as they are, but for surrogates, which UTF-8 lacks: those of a file name that is not UTF-8 become text
    such as ``\udcff``.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _SURROGATE.sub(lambda match: rf"\\u{ord(match[0]):04x}", text) + "\n"


def safe_stem(name: str) -> str:
    """Return what files of a model of that name are called: one part of a path, valid on every system.

    Separators and what a system refuses become underscores, control characters escapes; a leading hyphen or dot and the
    end of a long name are left out.
    """
    stem = _REFUSED.sub("_", escape_unprintable(name)).lstrip("-.~ ")
    if len(stem.encode()) > _MAX_STEM:  # and some of its hash, so that two names stay two
        stem = f"{stem.encode()[: _MAX_STEM - 9].decode(errors='ignore')}-{sha256(stem.encode())[:8]}"
    stem = stem.rstrip(". ")
    return f"_{stem}" if _RESERVED.match(stem) else stem or "model"


def read_bytes(path: AnyPath, max_bytes: int | None = None) -> bytes:
    """Return the content of a file; `InputError` where it cannot be read, or is larger than `max_bytes`."""
    try:
        with open(path, "rb") as file:
            data = file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"Expected a readable file. Received: {str(path)!r} ({error.strerror})", path=path) from None
    except ValueError as error:  # a null character
        raise InputError(f"Expected a readable file. Received: {str(path)!r} ({error})", path=path) from None
    if max_bytes is not None and len(data) > max_bytes:
        raise input_error(f"a file of at most {max_bytes:,} bytes", repr(str(path)), path=path)
    return data


def leads_elsewhere(path: str) -> bool:
    """Return whether a path of any system, as a file from others may name it, is absolute or has ``..`` in it."""
    parsed = pathlib.PureWindowsPath(path)  # it takes both kinds of slashes
    return bool(parsed.root) or ".." in parsed.parts


def read_json(path: AnyPath) -> Any:
    """Return the content of a JSON file; `InputError` where it cannot be read or is not JSON as `parse_json` has it."""
    data = read_bytes(path, _MAX_JSON_BYTES)
    try:
        return parse_json(data)
    except ValueError as error:
        raise InputError(f"Expected a JSON file. Received: {str(path)!r} ({error})", path=path) from None


def parse_json(data: bytes | str) -> Any:
    """Return a JSON document that anyone may have written.

    Raises:
        ValueError: no JSON, NaN, infinity, a number beyond float64, an integer of more than 19 digits, or lists and
            objects in each other more than 64 deep.
    """
    try:
        document = json.loads(data, parse_float=_parse_float, parse_int=_parse_int, parse_constant=_parse_float)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level, depth = [document], 0
    while level := [part for part in level if isinstance(part, dict | list)]:
        level = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)]
        depth += 1
        if depth > _MAX_JSON_DEPTH:
            raise ValueError("nested too deep")
    return document


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {text}")
    return value


def _parse_int(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits > 19:
        raise ValueError(f"an integer of {digits:,} digits")
    return int(text)


def load_pickle(
    file: IO[bytes], unpickler: "type[pickle.Unpickler]", max_bytes: int, *, encoding: str = "utf-8"
) -> Any:
    """Return the object of the pickle at the file's position, and leave the position behind it.

    `unpickler` decides in `find_class` what a pickle may name; its size and its memo are limited here.

    Raises:
        pickle.UnpicklingError: The bytes are no pickle, or one that the unpickler refuses.
    """
    import pickle
    import pickletools

    start = file.tell()
    try:
        for opcode, argument, position in pickletools.genops(file):
            indexed = "PUT" in opcode.name and isinstance(argument, int) and argument > _MAX_MEMO
            if indexed or (position or 0) - start > max_bytes:
                raise pickle.UnpicklingError("too large")
        end = file.tell()
        file.seek(start)
        return unpickler(io.BytesIO(file.read(end - start)), encoding=encoding).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # damaged bytes can raise nearly anything
        raise pickle.UnpicklingError(str(error)) from None


def make_folder(path: AnyPath) -> pathlib.Path:
    """Create a folder where it is missing, and return its path; `InputError` where it cannot be written to."""
    import tempfile

    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=_name_temporary()):
            pass
    except OSError as error:
        received = f"{str(path)!r} ({error.strerror})"
        raise input_error("a folder that can be written to", received, path=path) from None
    return folder


def check_output_folder(folder: str | os.PathLike[str]) -> None:
    """Raise `InputError` where `folder` is not writable, before slow work starts and without creating it."""
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path) or not os.access(path, os.W_OK):
        raise InputError(f"The folder {os.fspath(folder)!r} is not writable", path=folder)


def check_output_file(path: str | os.PathLike[str], suffix: str, *, argument: str) -> pathlib.Path:
    """Return the path of an output file; `InputError` where it ends otherwise or its folder is not writable."""
    path = pathlib.Path(path)
    if path.suffix.lower() != suffix or path.is_dir():
        raise input_error(f"`{argument}` to name a {suffix} file", repr(str(path)), argument=argument, path=path)
    check_output_folder(path.parent)
    return path


@contextlib.contextmanager
def replace_file(path: AnyPath) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path` with the same suffix, which replaces `path` at the end of the block.

    What was at `path` stays until the new file is complete on disk. `InputError` where the folder cannot be written to.
    """
    target = pathlib.Path(path)
    make_folder(target.parent)
    with _writable(target), _temporary(target) as temporary:
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)


@contextlib.contextmanager
def replace_folder(path: AnyPath) -> Iterator[pathlib.Path]:
    """Yield a new folder beside `path`, which replaces `path` at the end of the block.

    What was at `path` stays until then, and nothing of the new folder where the block raises. `InputError` where it
    cannot be written to, or the disk is full.
    """
    target = pathlib.Path(path)
    make_folder(target.parent)
    with _writable(target), _temporary(target) as new, _temporary(target.with_name(f"{target.name}.old")) as old:
        new.mkdir()
        yield new
        if os.path.lexists(target):
            os.replace(target, old)
        os.replace(new, target)


def write_file(path: AnyPath, data: bytes | str) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    with replace_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_files(contents: Mapping[pathlib.Path, bytes], force: bool = False) -> list[pathlib.Path]:
    """Write several files that belong together, all or none, and return the paths of those that had other content.

    All of them are complete on disk before the first one is replaced. A JSON file is the record of the files beside it:
    it is removed before they change and written last, so that a killed process leaves no record of other files.

    Raises:
        InputError: a file with different content exists and `force` is not set, a folder cannot be written to, or the
            disk is full.
    """
    changed = [path for path, data in contents.items() if needs_writing(path, data, force)]
    for folder in {path.parent for path in contents if path.parent.is_dir()}:
        remove_stale_temporaries(folder)
    for folder in {path.parent for path in changed}:
        make_folder(folder)
    with contextlib.ExitStack() as stack:
        temporaries = {}
        for path in changed:
            with _writable(path):
                temporaries[path] = stack.enter_context(_temporary(path))
                temporaries[path].write_bytes(contents[path])
                _flush(temporaries[path])
        records = [path for path in changed if path.suffix == _RECORD_SUFFIX]
        others = [path for path in changed if path.suffix != _RECORD_SUFFIX]
        for path in records if others else ():
            with _writable(path):
                path.unlink(missing_ok=True)
        for path in (*others, *records):
            with _writable(path):
                os.replace(temporaries[path], path)
    return changed


def needs_writing(path: pathlib.Path, data: bytes, force: bool = False) -> bool:
    """Return whether `path` must be written to hold `data`; `InputError` where it holds other data, without `force`."""
    if not path.exists():
        return True
    if not path.is_file():
        raise InputError(f"{path} is a folder. Pass another `out` folder", argument="out", path=path)
    if read_bytes(path) == data:
        return False
    if force:
        return True
    problem = f"{path} exists with different content. Pass `force` to replace it, or another `out` folder"
    raise InputError(problem, argument="force", path=path)


def check_room(path: AnyPath, size: int) -> None:
    """Raise `OSError` where the disk of `path`, a file that is to be written, has no room for `size` bytes."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # others: the file system cannot tell
                    raise
            file.truncate(0)


@contextlib.contextmanager
def temporary_folder() -> Iterator[pathlib.Path]:
    """Yield a new folder among the system's temporary files, removed at the end or, after a kill, by the next call."""
    root = _system_temporaries()
    with _temporary(root / os.urandom(8).hex()) as folder:
        with _writable(folder):
            folder.mkdir(mode=0o700)
        yield folder


def redirect_temporaries() -> None:
    """Send all temporary files of this process, also those of its libraries, to one folder that is removed at exit.

    TensorFlow removes some of its own only at exit. After a kill the next process that calls this removes them.
    """
    import tempfile

    if _process_folder:
        remove_stale_temporaries(_process_folder[0].parent)
        return
    stack = contextlib.ExitStack()
    _process_folder.append(stack.enter_context(temporary_folder()))
    atexit.register(stack.close)
    tempfile.tempdir = str(_process_folder[0])


def temporary_root() -> pathlib.Path:
    """Return the folder for temporary files of this process and of others."""
    return _process_folder[0].parent if _process_folder else _system_temporaries()


def _system_temporaries() -> pathlib.Path:
    import tempfile

    try:
        return pathlib.Path(tempfile.gettempdir())
    except FileNotFoundError:
        message = "Expected a folder for temporary files that can be written to. Set TMPDIR to one with room"
        raise InputError(message) from None


def remove_stale_temporaries(folder: AnyPath) -> None:
    """Remove the temporary files in `folder` whose process, of this machine and user, no longer runs."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _is_stale(entry):
                _remove(entry.path)


def _is_stale(entry: "os.DirEntry[str]") -> bool:
    match = _TEMPORARY_NAME.match(entry.name)
    if not match or match["machine"] != _MACHINE or entry.name in _in_use or os.name != "posix":
        return False
    process = int(match["process"])
    try:
        if process != os.getpid():
            os.kill(process, 0)  # no signal, only whether it could be sent
            return False
    except ProcessLookupError:
        pass
    except (OSError, OverflowError):
        return False
    return entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _remove(path: AnyPath) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _name_temporary(name: str = "") -> str:
    return f".keras-nin-{os.getpid()}@{_MACHINE}@{name}"


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path beside `path` that nothing else uses; whatever is there is removed at the end of the block."""
    remove_stale_temporaries(path.parent)
    temporary = path.with_name(_name_temporary(path.name))
    _in_use.add(temporary.name)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _in_use.discard(temporary.name)


@contextlib.contextmanager
def _writable(path: pathlib.Path) -> Iterator[None]:
    """Turn an error while `path` is written into an `InputError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error  # libraries such as h5py raise it with a text alone
        raise InputError(f"Expected {str(path)!r} to be writable. Received: {reason}", path=path) from error


def _flush(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
