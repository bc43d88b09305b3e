"""Runs of a .tflite file in a process of its own: a crash, a hang or too much memory there is one `InputError` here.

As a module this is that process: it reads a job as a line of JSON, then a request per line, and answers each with a
line. Arrays go both ways through a file without a name that both have open, the file's content too.
"""

import contextlib
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from keras_nin.child_process import JsonProcess, describe_status, python_command
from keras_nin.child_runtime import claim_stdout, end_with_parent, limit_memory, time_limit
from keras_nin.errors import InputError, first_line
from keras_nin.tflite.records import TFLiteModel
from keras_nin.tflite.runner import TensorEntry, TFLiteRunner, open_interpreter

_SECONDS, _LOOP_SECONDS, _MAX_SECONDS = 10.0, 50.0, 600.0
_MACS_PER_SECOND, _BYTES_PER_SECOND = 1e8, 1e7  # far less than the reference kernels and a slow disk give
_EXCHANGED_BYTES = 1 << 24  # of the inputs in one request
_FOREVER = 1e7  # seconds: the process limits its own time


class IsolatedRunner(TFLiteRunner):
    """A `TFLiteRunner` whose interpreter is in a process of its own, which ends with the block.

    Each run, and the preparation before the first, has a time limit that depends on the network, and the memory is
    limited to what is free. Arguments and errors are those of `TFLiteRunner`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with contextlib.ExitStack() as stack:
            self._stack = stack
            super().__init__(*arguments, **options)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def _start(
        self, shapes: dict[int, tuple[int, ...]], keep_tensors: bool, reference_kernels: bool
    ) -> tuple[list[TensorEntry], list[TensorEntry], list[str]]:
        self._seconds = estimate_time_limit(self.model)
        shared = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it ends with the stack
        shared.write(self.model.content)
        shared.flush()
        self._shared = shared.fileno()
        job = {
            "shared": self._shared,
            "size": len(self.model.content),
            "seconds": self._seconds,
            "threads": self.threads,
            "shapes": list(shapes.items()),
            "keep_tensors": keep_tensors,
            "reference": reference_kernels,
            "keeps_state": bool(self.model.variables),
        }
        command, environment = python_command(__name__)
        process = JsonProcess(command, job=job, keeps_stdin=True, env=environment, pass_fds=[self._shared])
        self._process = self._stack.enter_context(process)
        self._answers = process.documents(_FOREVER)
        answer = self._receive()
        return answer["inputs"], answer["outputs"], answer["log"]

    def _receive(self) -> dict[str, Any]:
        answer = next(self._answers, None)
        if answer is None:
            raise self._ended()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def _ended(self) -> InputError:
        """Return the error of a process that has ended."""
        status, source = self._process.status, self.model.source
        how = f"was {describe_status(status)}" if status is not None and status < 0 else "ended early"
        if status == -signal.SIGALRM:
            how = f"was not done after {self._seconds:.0f} s"
        elif "bad_alloc" in self._process.stderr or "MemoryError" in self._process.stderr:
            how = "needed more memory than is free"
        message = f"Expected a file that the LiteRT runtime runs. Received: {source}, on which the runtime {how}"
        return InputError(message, path=self.model.path, status=status)

    def run_all(self, batches: Sequence[Sequence[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        """Yield the outputs of each batch, some megabytes of inputs at a time."""
        size = max(1, sum(array.nbytes for array in batches[0])) if batches else 1
        count = max(1, _EXCHANGED_BYTES // size)
        for start in range(0, len(batches), count):
            yield from self._exchange(batches[start : start + count], self.model.main.outputs)

    def _run(self, arrays: Sequence[np.ndarray], tensors: Sequence[int]) -> list[np.ndarray]:
        return self._exchange([arrays], tensors)[0]

    def _exchange(self, batches: Sequence[Sequence[np.ndarray]], tensors: Sequence[int]) -> list[list[np.ndarray]]:
        """Return what some tensors hold after each of some runs."""
        with self._runtime_errors():
            position, inputs = 0, []
            for tensor, parts in zip(self.model.main.inputs, zip(*batches, strict=True), strict=True):
                stacked = np.stack(parts)
                position = _write_array(self._shared, position, stacked)
                inputs.append({"tensor": tensor, "shape": stacked.shape, "dtype": stacked.dtype.str})
            self._process.send({"runs": len(batches), "inputs": inputs, "outputs": list(tensors)})
            answer = self._receive()
        return [[_read_array(self._shared, *entry) for entry in run] for run in answer["runs"]]


def estimate_macs(model: TFLiteModel) -> int:
    """Return about how many products of weights and values one run takes, from the sizes of tensors alone."""
    tensors, macs = model.main.tensors, 0
    for operator in model.main.operators:
        kernels = [tensors[index] for index in operator.inputs[:2] if index >= 0 and tensors[index].is_constant]
        sizes = [tensors[index].elements // max(1, tensors[index].shape[-1]) for index in operator.outputs
                 if tensors[index].shape]  # fmt: skip
        macs += sum(kernel.elements for kernel in kernels) * max(sizes, default=1)
    return macs


def estimate_time_limit(model: TFLiteModel) -> float:
    """Return seconds that one run of a file never takes, on a slow and busy machine either."""
    macs = estimate_macs(model)
    loops = any(operator.called_subgraphs for operator in model.main.operators)
    seconds = _SECONDS + macs / _MACS_PER_SECOND + model.size_bytes / _BYTES_PER_SECOND + loops * _LOOP_SECONDS
    return min(seconds, _MAX_SECONDS)


def _read_array(descriptor: int, position: int, shape: Sequence[int], dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    data = os.pread(descriptor, math.prod(shape) * kind.itemsize, position)
    return np.frombuffer(data, kind).reshape(shape)


def _write_array(descriptor: int, position: int, array: np.ndarray) -> int:
    """Return the position behind the array."""
    return position + (os.pwrite(descriptor, array.reshape(-1).data.cast("B"), position) if array.size else 0)


# The process


def main() -> int:
    """Open the file of the job on stdin and answer requests until stdin ends."""
    end_with_parent()
    write = claim_stdout()
    job = json.loads(sys.stdin.readline())
    import ai_edge_litert.interpreter  # noqa: F401 - now, so that it counts in nobody's time and memory

    limit_memory()
    descriptor, seconds = job["shared"], job["seconds"]
    try:
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(0)
            content = file.read(job["size"])
        shapes = {index: tuple(shape) for index, shape in job["shapes"]}
        flags = {"keep_tensors": job["keep_tensors"], "reference": job["reference"]}
        with time_limit(seconds):
            interpreter, inputs, outputs, log = open_interpreter(content, job["threads"], shapes, **flags)
        write({"inputs": inputs, "outputs": outputs, "log": log})
        for line in sys.stdin:
            write({"runs": _run_request(interpreter, descriptor, json.loads(line), seconds, job["keeps_state"])})
    except (RuntimeError, ValueError, MemoryError) as error:
        write({"error": first_line(error) if str(error).strip() else "it failed, perhaps for lack of memory"})
    return 0


def _run_request(
    interpreter: Any, descriptor: int, request: dict[str, Any], seconds: float, keeps_state: bool
) -> list[list[tuple[int, tuple[int, ...], str]]]:
    """Run a file some times; return the arguments of `_read_array` for each output of each run."""
    position, arrays = 0, []
    for entry in request["inputs"]:
        arrays.append(_read_array(descriptor, position, entry["shape"], entry["dtype"]))
        position += arrays[-1].nbytes
    runs = []
    for number in range(request["runs"]):
        with time_limit(seconds):
            for entry, array in zip(request["inputs"], arrays, strict=True):
                interpreter.set_tensor(entry["tensor"], array[number])
            if keeps_state:
                interpreter.reset_all_variables()
            interpreter.invoke()
            values = [np.ascontiguousarray(interpreter.get_tensor(index)) for index in request["outputs"]]
        described = []
        for value in values:
            if value.dtype.hasobject:
                raise ValueError("outputs of text are not supported")
            described.append((position, value.shape, value.dtype.str))
            position = _write_array(descriptor, position, value)
        runs.append(described)
    return runs


if __name__ == "__main__":
    sys.exit(main())
