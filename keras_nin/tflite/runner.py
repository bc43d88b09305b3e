"""The one wrapper of the LiteRT interpreter: predictions, latency, and quantised input and output."""

import contextlib
import dataclasses
import os
import sys
import time

import numpy as np

from keras_nin.errors import InputError
from keras_nin.output_capture import capture_output
from keras_nin.tflite.host import describe_host
from keras_nin.tflite.quantization import dequantize, quantize
from keras_nin.tflite.reader import FLOAT_DTYPES, read_model

__all__ = ["IODetails", "Latency", "TFLiteRunner", "dequantize", "describe_host", "quantize"]

_MIN_RUNS = 20
_WARM_UP_RUNS = 3
_WARM_UP_SECONDS = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class IODetails:
    """An input or output of a file, at the batch that it runs at.

    `scale` and `zero_point` are None where it is not quantised, `signature` (its name there) where the file has none.
    """

    name: str
    signature: str | None
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """Time of one invocation of `batch` images in microseconds, over `runs` invocations on `threads` threads."""

    median_us: float
    mean_us: float
    p90_us: float
    runs: int
    threads: int
    batch: int = 1


class TFLiteRunner:
    """A .tflite file, ready to run on this machine's processor.

    An open or other batch dimension is resized to `batch`, and images run so many at a time.

    Args:
        source: path of the file, or its content as bytes.
        threads: number of threads.
        output: index of the output that `output` and the predictions mean; needed where there are several.
        batch: images in one invocation.

    Raises:
        InputError: the file is not valid, or the runtime cannot run it.
    """

    def __init__(self, source, threads=1, output=None, batch=1):
        for name, value in (("threads", threads), ("batch", batch)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"Expected `{name}` to be a whole number of at least 1. Received: {value!r}")
        self.threads, self.batch = threads, batch
        self.source = (
            "the bytes given" if isinstance(source, (bytes, bytearray, memoryview)) else repr(os.fspath(source))
        )
        self.graph = read_model(source)
        self._interpreter = self._start()
        with self._runtime_errors():  # a name that is not UTF-8 ends in a ValueError here
            self.inputs = self._details(self._interpreter.get_input_details())
            self.outputs = self._details(self._interpreter.get_output_details())
        if output is not None and output not in range(len(self.outputs)):
            raise InputError(f"Expected `output` to be one of 0 to {len(self.outputs) - 1}. Received: {output!r}")
        self._output = output

    def _start(self):
        from ai_edge_litert.interpreter import Interpreter

        tensors = [self.graph.main.tensors[index] for index in self.graph.main.inputs]
        resized = [tensor for tensor in tensors if _resized_shape(self.batch, tensor) != tensor.shape]
        hint = ""
        if resized:
            hint = f" (its batch of {resized[0].shape[0]} was resized to {self.batch}; export it at batch {self.batch})"
        with self._runtime_errors(hint), capture_output() as log:
            interpreter = Interpreter(
                model_content=self.graph.content, num_threads=self.threads, **self._interpreter_options()
            )
            for tensor in resized:
                interpreter.resize_tensor_input(tensor.index, _resized_shape(self.batch, tensor))
            interpreter.allocate_tensors()
        warnings = [line for line in log.text.splitlines() if not line.startswith("INFO:")]
        if warnings:
            print(*warnings, sep="\n", file=sys.stderr)
        return interpreter

    def _interpreter_options(self):
        """Return further arguments of the interpreter, for kinds of runner that need them."""
        return {}

    @contextlib.contextmanager
    def _runtime_errors(self, hint=""):
        try:
            yield
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            problem = str(error).strip().split("\n")[0]
            raise InputError(
                f"Expected a file that the LiteRT runtime runs. Received: {self.source}: {problem}{hint}"
            ) from error

    def _details(self, entries):
        names = {index: name for each in self.graph.signatures for name, index in (*each.inputs, *each.outputs)}
        tensors = self.graph.main.tensors
        return tuple(
            _io_details(tensors[entry["index"]], names.get(entry["index"]), entry["shape"]) for entry in entries
        )

    @property
    def input(self):
        """The `IODetails` of the only input; `InputError` where there are several."""
        if len(self.inputs) != 1:
            names = ", ".join(repr(entry.name) for entry in self.inputs)
            raise InputError(
                f"Expected a file with one input. Received: {self.source} with {len(self.inputs)}: {names}"
            )
        return self.inputs[0]

    @property
    def output(self):
        """The `IODetails` of the chosen output; `InputError` where there are several and none was chosen."""
        return self.outputs[self._output_index()]

    def _output_index(self):
        if self._output is None and len(self.outputs) != 1:
            names = ", ".join(f"{index} {entry.name!r}" for index, entry in enumerate(self.outputs))
            raise InputError(
                f"Expected `output` to choose one of the outputs of {self.source}: {names}. Received: none"
            )
        return self._output or 0

    def predict(self, images):
        """Return the float32 outputs for preprocessed images; integers are quantised and dequantised.

        Args:
            images: array of shape ``(N, *input.shape[1:])``; for a file with several inputs a dictionary of such arrays
                by their names in the file's signature, or by the tensors' names where it has none.

        Returns:
            Array of shape ``(N, ...)``.

        Raises:
            InputError: wrong shape or names, NaN or infinity, or an integer input or output without a scale.
        """
        output = self.output
        raw = self.predict_raw(images)
        if output.dtype in FLOAT_DTYPES:
            return raw.astype(np.float32, copy=False)
        if output.scale is None:
            raise InputError(
                f"Expected a float or quantised output. Received: {output.dtype} without a scale; use predict_raw"
            )
        return dequantize(raw, output.scale, output.zero_point)

    def predict_raw(self, images):
        """Return the outputs as the file gives them; otherwise the same as `predict`."""
        arrays = self._encode_all(images)
        index = self._output_index()
        count = len(arrays[0])
        drop_batch = self.output.shape[:1] == (self.batch,)
        if not drop_batch and self.batch > 1:
            raise InputError(f"Expected an output for each of {self.batch} images. Received: {self.output.shape}")
        results = [self._invoke(self._part(arrays, start), index) for start in range(0, count, self.batch)]
        if not results:
            return np.zeros((0, *self.output.shape[drop_batch:]), self.output.dtype)
        return np.concatenate(results)[:count] if drop_batch else np.stack(results)

    def _part(self, arrays, start):
        """Return one batch of each array, the last one filled up by repetition."""
        parts = (array[start : start + self.batch] for array in arrays)
        return [part if len(part) == self.batch else np.resize(part, (self.batch, *part.shape[1:])) for part in parts]

    def _encode_all(self, images):
        """Return the array of each input in its dtype."""
        if not isinstance(images, dict):
            return [_quantize_batch(images, self.input)]
        names = [entry.signature or entry.name for entry in self.inputs]
        if set(images) != set(names):
            raise InputError(f"Expected arrays for the inputs {names}. Received: {list(images)}")
        arrays = [_quantize_batch(images[name], entry) for name, entry in zip(names, self.inputs, strict=True)]
        counts = {name: len(array) for name, array in zip(names, arrays, strict=True)}
        if len(set(counts.values())) > 1:
            raise InputError(f"Expected as many samples for each input. Received: {counts}")
        return arrays

    def _invoke(self, images, output):
        interpreter = self._interpreter
        with self._runtime_errors():
            for tensor, array in zip(self.graph.main.inputs, images, strict=True):
                interpreter.set_tensor(tensor, array)
            interpreter.invoke()
            return interpreter.get_tensor(self.graph.main.outputs[output])

    def latency(self, runs=None, seconds=0.3):
        """Return the `Latency` of one invocation; copying inputs and outputs is not in it.

        After a warm-up it runs exactly `runs` times, or else at least 20 times and for `seconds`.
        """
        if runs is not None and (not isinstance(runs, int) or runs < 1):
            raise InputError(f"Expected `runs` to be a whole number of at least 1. Received: {runs!r}")
        with self._runtime_errors():
            self._fill_inputs()
            self._times(_WARM_UP_RUNS, _WARM_UP_SECONDS)
            times = self._times(_MIN_RUNS, seconds) if runs is None else self._times(runs, 0)
        us = np.array(times) / 1000
        return Latency(
            float(np.median(us)), float(us.mean()), float(np.percentile(us, 90)), len(us), self.threads, self.batch
        )

    def _times(self, runs, seconds):
        """Return the nanoseconds of each of at least `runs` invocations, over at least `seconds`."""
        times = []
        end = time.perf_counter() + seconds
        while len(times) < runs or time.perf_counter() < end:
            start = time.perf_counter_ns()
            self._interpreter.invoke()
            times.append(time.perf_counter_ns() - start)
        return times

    def _fill_inputs(self):
        """Set every input to seeded noise; integers without a scale may be indexes and become 0."""
        rng = np.random.default_rng(0)
        for index, details in zip(self.graph.main.inputs, self.inputs, strict=True):
            noise = rng.random(details.shape, np.float32)
            if details.scale is not None:
                limits = np.iinfo(details.dtype)
                noise = limits.min + noise * (limits.max - limits.min)
            elif details.dtype not in FLOAT_DTYPES:
                noise = np.zeros(details.shape)
            self._interpreter.set_tensor(index, noise.astype(details.dtype))


def _quantize_batch(batch, details):
    """Return `batch` in the dtype of the input with these `IODetails`."""
    batch = np.asarray(batch)
    if batch.shape[1:] != details.shape[1:] or batch.ndim != len(details.shape):
        expected = ", ".join(str(size) for size in ("N", *details.shape[1:]))
        raise InputError(f"Expected a batch of shape ({expected}). Received: {batch.shape}")
    if batch.dtype.kind not in "fiub":
        raise InputError(f"Expected a batch of numbers. Received: dtype {batch.dtype}")
    with np.errstate(over="ignore"):
        batch = batch.astype(np.float32, copy=False)
    if not np.isfinite(batch).all():
        raise InputError("Expected a batch of finite numbers. Received: NaN or infinity")
    if details.dtype == "float32":
        return batch
    if details.scale is None:
        raise InputError(f"Expected a float32 or quantised input. Received: {details.dtype} without a scale")
    return quantize(batch, details.scale, details.zero_point, details.dtype)


def _resized_shape(batch, tensor):
    """Return the shape of an input with its batch dimension, open or fixed, set to `batch`."""
    if -1 in (tensor.shape_signature or ())[1:]:
        raise InputError(
            f"Expected an input whose shape is open in the batch alone. Received: {tensor.name!r} of shape "
            f"{tensor.shape_signature}; export it with a fixed input shape"
        )
    return (batch, *tensor.shape[1:]) if len(tensor.shape) > 1 else tensor.shape


def _io_details(tensor, signature, shape):
    """Return the `IODetails` of a tensor whose shape at the runner's batch is `shape`."""
    per_tensor = tensor.quantization if tensor.dtype not in FLOAT_DTYPES else None
    if per_tensor is not None and len(per_tensor.scales) > 1:
        raise InputError(
            f"Expected one scale for an input or output. Received: {tensor.name!r} with {len(per_tensor.scales)}"
        )
    return IODetails(
        name=tensor.name,
        signature=signature,
        shape=tuple(int(size) for size in shape),
        dtype=tensor.dtype,
        scale=per_tensor.scales[0] if per_tensor else None,
        zero_point=per_tensor.zero_points[0] if per_tensor else None,
    )


# MERGED What every operator of a .tflite file computes.


class IntermediateTensorRunner(TFLiteRunner):
    """A `Runner` that keeps the values of all tensors; it runs without the delegate, which keeps none."""

    def _interpreter_options(self):
        from ai_edge_litert.interpreter import OpResolverType

        return {
            "experimental_preserve_all_tensors": True,
            "experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }

    def values(self, image, tensors):
        """Run one image and return what some tensors then hold.

        Args:
            image: preprocessed, of shape ``input.shape[1:]``.
            tensors: `keras_nin.tflite.records.TFLiteTensor` records of the main subgraph.

        Returns:
            List of float32 arrays, integers dequantised.

        Raises:
            InputError: as `predict`.
        """
        self._invoke(self._encode_all(np.asarray(image)[None]), 0)
        return [self._value(tensor) for tensor in tensors]

    def _value(self, tensor):
        value = self._interpreter.get_tensor(tensor.index)
        if tensor.dtype in FLOAT_DTYPES or tensor.quantization is None:
            return value.astype(np.float32)
        return dequantize(value, tensor.quantization.scales[0], tensor.quantization.zero_points[0])
