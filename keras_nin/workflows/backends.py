"""Which backend Keras starts on.

What runs a model runs it on TensorFlow, as TensorFlow's converter takes it. What builds or reads models and runs none
starts Keras on NumPy, in a fifth of the time, but only in a process that runs one command and ends: any other may
export a model later, and Keras cannot change its backend.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Iterator

from keras_nin import files, workflows
from keras_nin._compat.keras import lean_import, structure_only
from keras_nin.errors import InputError, TensorFlowNeededError
from keras_nin.output_capture import capture_output
from keras_nin.workflows import SILENT, Progress

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
_NUMPY = "numpy"


def find_backend() -> str:
    """Return the backend of Keras that the environment variable KERAS_BACKEND asks for, or that is running.

    Raises:
        InputError: an unknown one, or one that is not installed.
    """
    if "keras" in sys.modules:
        import keras

        return keras.backend.backend()
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in BACKENDS:
        raise InputError(f"Expected KERAS_BACKEND to be one of {', '.join(BACKENDS)}. Received: {backend!r}")
    if importlib.util.find_spec(backend) is None:
        raise InputError(f"KERAS_BACKEND={backend} needs a package that is not installed. Run: pip install {backend}")
    return backend


def start_keras(progress: Progress = SILENT, backend: str = "tensorflow") -> None:
    """Import Keras on a backend without the backend's log output; nothing happens where it is imported already."""
    if "keras" in sys.modules:
        files.remove_stale_temporaries(files.temporary_root())
        return
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    files.redirect_temporaries()
    lean = lean_import(backend) if workflows.runs_one_command else contextlib.nullcontext()
    with progress.task(f"Starting {BACKENDS.get(backend, 'Keras')}"), capture_output():
        with lean:
            import keras  # noqa: F401

        if backend == "tensorflow":
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            tf.config.get_visible_devices()  # prints to the log on its first call
    gc.freeze()  # the frameworks' million objects need not be walked in every collection


@contextlib.contextmanager
def keras_for_structure(progress: Progress = SILENT, *, fits: bool = True) -> Iterator[None]:
    """Start Keras for a block that builds or reads models and runs none; nothing happens where it is imported already.

    In a process that runs one command it is Keras on NumPy, unless the user chose a backend by KERAS_BACKEND or Keras's
    configuration file, or NumPy does not fit, because of the user's own code. Where the block fails there, the command
    starts again on TensorFlow (`TensorFlowNeededError`): no result and no message depends on the backend.
    """
    if "keras" not in sys.modules:
        start_keras(progress, _structure_backend(fits) if workflows.runs_one_command else "tensorflow")
    import keras

    if keras.backend.backend() != _NUMPY:
        yield
        return
    try:
        with structure_only():
            yield
    except Exception as error:
        if type(error) is InputError and error.__cause__ is error.__context__ is None:  # of our own checks
            raise
        raise TensorFlowNeededError from error


def _structure_backend(fits: bool) -> str:
    chosen = os.environ.get("KERAS_BACKEND") or _configured_backend()
    if chosen in (None, _NUMPY):
        return _NUMPY if fits else "tensorflow"
    os.environ["KERAS_BACKEND"] = chosen
    return find_backend()


def _configured_backend() -> str | None:
    """Return the backend in Keras's configuration file; None for TensorFlow, which Keras itself writes there."""
    home = os.environ.get("KERAS_HOME")
    folder = pathlib.Path(home) if home else pathlib.Path("~").expanduser() / ".keras"
    try:
        backend = json.loads((folder / "keras.json").read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError, RuntimeError):
        return None
    return backend if backend in BACKENDS and backend != "tensorflow" else None
