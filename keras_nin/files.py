"""Writing files whole or not at all, cleaning up after processes that were killed, and naming content by hash."""

import atexit
import contextlib
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import tempfile

from keras_nin.errors import InputError

# What a temporary's name starts with: who made it. The rest is the name of the file that it becomes.
_TEMPORARY_NAME = re.compile(r"\.keras-nin-(?P<process>[0-9]+)@(?P<machine>[^@]*)@")
_MACHINE = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())
_RECORD = ".json"
# Names of the temporaries that this process works on: another one with its number was before it.
_in_use = set()
_process_folder = []


def sha256(data):
    """Return the SHA-256 of `data` (bytes-like) as a hexadecimal string."""
    return hashlib.sha256(data).hexdigest()


def dump_json(document):
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
        with tempfile.TemporaryFile(dir=path, prefix=_temporary_prefix()):
            pass
    except OSError as error:
        raise InputError(
            f"Expected a folder that can be written to. Received: {str(path)!r} ({error.strerror})"
        ) from None
    return path


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
        raise InputError(
            f"Expected `{argument}` to name a {suffix} file. Received: {str(path)!r}", argument=argument, path=path
        )
    check_output_folder(path.parent)
    return path


@contextlib.contextmanager
def replace_file(path):
    """Yield a temporary path beside `path` with the same ending; on success it takes the place of `path`.

    For writers that insist on a file name. What was at `path` stays until the new file is complete on disk.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = pathlib.Path(path)
    make_folder(path.parent)
    with _writable(path), _temporary(path) as temporary:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)


def write_file(path, data):
    """Write `data` (bytes or text) to `path`, whole or not at all: temporary file, fsync, rename."""
    with replace_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_files(contents, force=False):
    """Write several files that belong together, all or none.

    All of them are complete on disk before the first takes its place. A JSON file vouches for the files beside it: it
    goes before they change and comes last, so that a process that is killed leaves no record of other files.

    Args:
        contents: dictionary from path to bytes.
        force: replace files with other content.

    Returns:
        List of the paths that were written; the others were there with the same content.

    Raises:
        InputError: a file with other content is there and `force` is not set, a folder cannot be written to, or the
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
        _rename_temporaries(temporaries)
    return changed


def _rename_temporaries(temporaries):
    """Rename temporaries (by path) to their paths, the records last."""
    records = [path for path in temporaries if path.suffix == _RECORD]
    others = [path for path in temporaries if path.suffix != _RECORD]
    for path in records if others else ():
        with _writable(path):
            path.unlink(missing_ok=True)
    for path in (*others, *records):
        with _writable(path):
            os.replace(temporaries[path], path)


def needs_writing(path, data, force=False):
    """Return whether `path` must be written to hold `data`: False where it holds just that.

    Raises:
        InputError: there is something else and `force` is not set, or something that is no file.
    """
    if not path.exists():
        return True
    if path.is_file() and read_bytes(path) == data:
        return False
    if not path.is_file():
        raise InputError(f"Expected a file or nothing at {str(path)!r}. Received: a folder. Use another output folder")
    if force:
        return True
    raise InputError(
        f"Expected no other file at {str(path)!r}. Received: one with other content. Use --force, or --out for another "
        "folder"
    )


@contextlib.contextmanager
def temporary_folder():
    """Yield a new folder among the system's temporary files; it goes at the end, after a kill at the next call.

    Raises:
        InputError: it cannot be made.
    """
    root = pathlib.Path(tempfile.gettempdir())
    with _temporary(root / os.urandom(8).hex()) as folder:
        with _writable(folder):
            folder.mkdir(mode=0o700)
        yield folder


def redirect_temporaries():
    """Send all temporary files of this process, those of its libraries too, to one folder that goes when it ends.

    TensorFlow writes some that it removes at exit alone. After a kill the next process that calls this removes them.

    Raises:
        InputError: the folder cannot be made.
    """
    if _process_folder:
        remove_stale_temporaries(_process_folder[0].parent)
        return
    stack = contextlib.ExitStack()
    _process_folder.append(stack.enter_context(temporary_folder()))
    atexit.register(stack.close)
    tempfile.tempdir = str(_process_folder[0])


def remove_stale_temporaries(folder):
    """Remove the temporaries in `folder` whose process, one of this machine and user, runs no more."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _is_stale(entry):
                _remove(entry.path)


def _is_stale(entry):
    match = _TEMPORARY_NAME.match(entry.name)
    if not match or match["machine"] != _MACHINE or entry.name in _in_use or os.name != "posix":
        return False
    process = int(match["process"])
    if process != os.getpid() and _is_running(process):
        return False
    return entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _is_running(process):
    try:
        os.kill(process, 0)  # no signal, only whether it could be sent
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _temporary_prefix():
    return f".keras-nin-{os.getpid()}@{_MACHINE}@"


@contextlib.contextmanager
def _temporary(path):
    """Yield a path beside `path` that nothing else uses; what is there is removed at the end."""
    remove_stale_temporaries(path.parent)
    temporary = path.with_name(_temporary_prefix() + path.name)
    _in_use.add(temporary.name)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _in_use.discard(temporary.name)


@contextlib.contextmanager
def _writable(path):
    """Turn what prevents writing `path` into an `InputError`."""
    try:
        yield
    except OSError as error:
        # What writes there may have reasons of its own without a number, such as h5py.
        raise InputError(f"Expected {str(path)!r} to be writable. Received: {error.strerror or error}") from error


def _flush(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
