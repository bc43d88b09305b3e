"""Run .tflite files on arrays. A request comes as a line of JSON on stdin, the answer leaves as a line on stdout::

{"file", "threads", "inputs": [{"tensor", "shape", "dtype", "runs", "sha256"}], "outputs": [tensor]}    run; it may also
    have "kernels": one of `RESOLVERS`, and "digests": [tensor]
{"progress": runs so far}                                      twice a second
{"missing": [sha256]}                                          these arrays are not here: nothing ran
{"outputs": [{"shape", "dtype", "data"}], "seconds"}           of each output, the runs stacked; with "digests" also
    "digests": [[sha256]], for each of these tensors that of its values in every run
{"put": {sha256: data}}                                        arrays to keep; the answer is {"kept": count}
{"error": {"message": text, "kind": "model" or "transfer"}}    in place of an answer

Arrays have the file's own types, and lie in one folder under the SHA-256 of their bytes; `data` is base64. With
"digests", all tensors are kept, which the XNNPACK delegate does for outputs of the file alone.
"""

import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_nin.child_runtime import one_line

_PROGRESS_SECONDS = 0.5
# Kernels by the names that LiteRT's `OpResolverType` has for them.
RESOLVERS = {"xnnpack": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}


def serve(folder: str, write: Callable[[dict[str, Any]], None]) -> None:
    """Answer requests until stdin ends; arrays are kept in `folder`."""
    server = _ArrayServer(folder, write)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            write(server.keep(request["put"]) if "put" in request else server.run(request))
        except OSError as error:
            write({"error": {"message": one_line(error), "kind": "transfer"}})
        except (RuntimeError, ValueError, MemoryError) as error:
            write({"error": {"message": one_line(error), "kind": "model"}})


class _ArrayServer:
    def __init__(self, folder: str, write: Callable[[dict[str, Any]], None]) -> None:
        self._folder, self._write = folder, write
        self._key, self._interpreter = "", None

    def keep(self, arrays: dict[str, str]) -> dict[str, Any]:
        """Keep arrays; `OSError` where one is not what its name says."""
        for name, text in arrays.items():
            data = base64.b64decode(text)
            if hashlib.sha256(data).hexdigest() != name:
                raise OSError("an array arrived damaged")
            part = f"{self._path(name)}.{os.getpid()}"
            with open(part, "wb") as file:
                file.write(data)
            os.replace(part, self._path(name))
        return {"kept": len(arrays)}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a file on arrays, or tell which of them are missing."""
        inputs = request["inputs"]
        missing = [entry["sha256"] for entry in inputs if not os.path.isfile(self._path(entry["sha256"]))]
        if missing:
            return {"missing": missing}
        interpreter = self._open(request)
        arrays = [
            np.fromfile(self._path(entry["sha256"]), entry["dtype"]).reshape(entry["runs"], *entry["shape"])
            for entry in inputs
        ]
        for entry in inputs:
            os.utime(self._path(entry["sha256"]))  # files that nobody uses are removed
        outputs: list[list[np.ndarray]] = [[] for _ in request["outputs"]]
        digests: list[list[str]] = [[] for _ in request.get("digests", ())]
        seconds, next_report = 0.0, time.perf_counter() + _PROGRESS_SECONDS
        for run in range(inputs[0]["runs"]):
            start = time.perf_counter()
            for entry, array in zip(inputs, arrays, strict=True):
                interpreter.set_tensor(entry["tensor"], array[run])
            interpreter.invoke()
            for values, tensor in zip(outputs, request["outputs"], strict=True):
                values.append(interpreter.get_tensor(tensor))
            for found, tensor in zip(digests, request.get("digests", ()), strict=True):
                found.append(hashlib.sha256(interpreter.get_tensor(tensor).tobytes()).hexdigest())
            seconds += time.perf_counter() - start
            if time.perf_counter() >= next_report:
                self._write({"progress": run + 1})
                next_report = time.perf_counter() + _PROGRESS_SECONDS
        described = [_describe_array(np.stack(values)) for values in outputs]
        return {"outputs": described, "digests": digests, "seconds": seconds}

    def _open(self, request: dict[str, Any]) -> Any:
        """Return the interpreter of a file whose inputs have the shapes of a request; the last one is kept."""
        kernels, keeps_all = request.get("kernels", "xnnpack"), bool(request.get("digests"))
        shapes = [entry["shape"] for entry in request["inputs"]]
        key = json.dumps([request["file"], request["threads"], shapes, kernels, keeps_all])
        if key != self._key:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType

            self._key, self._interpreter = "", None  # its memory, before there is another one
            interpreter = Interpreter(
                model_path=request["file"],
                num_threads=request["threads"],
                experimental_op_resolver_type=getattr(OpResolverType, RESOLVERS[kernels]),
                experimental_preserve_all_tensors=keeps_all,
            )
            known = {entry["index"]: tuple(entry["shape"]) for entry in interpreter.get_input_details()}
            for entry in request["inputs"]:
                if known[entry["tensor"]] != tuple(entry["shape"]):
                    interpreter.resize_tensor_input(entry["tensor"], entry["shape"])
            interpreter.allocate_tensors()
            self._key, self._interpreter = key, interpreter
        return self._interpreter

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}.array")


def _describe_array(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode()
    return {"shape": array.shape, "dtype": array.dtype.name, "data": data}
