"""The one wrapper of the LiteRT interpreter: predictions, with quantized input and output, and values of tensors."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np

from keras_nin._compat import litert
from keras_nin.errors import InputError, check_whole_number, expected_error, first_line, input_error
from keras_nin.formatting import escape_unprintable
from keras_nin.output_capture import capture_output
from keras_nin.tflite.quantization import dequantize, quantize
from keras_nin.tflite.reader import ModelSource, read_model
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteTensor
from keras_nin.tflite.runtime_support import check_not_compiled, check_scales

TensorEntry: TypeAlias = tuple[int, list[int]]  # index and shape of an input or output


def open_interpreter(
    content: bytes, threads: int, shapes: Mapping[int, tuple[int, ...]], *, keep_tensors: bool, reference: bool
) -> tuple[Any, list[TensorEntry], list[TensorEntry], list[str]]:
    """Return LiteRT's interpreter of a file, ready to run, its inputs and outputs, and the lines of its warnings.

    Arguments are those of `keras_nin._compat.litert.interpreter`, and other `shapes` of some inputs by tensor index.
    """
    with capture_output() as log:
        interpreter = litert.interpreter(content, threads=threads, keep_tensors=keep_tensors, reference=reference)
        for tensor, shape in shapes.items():
            interpreter.resize_tensor_input(tensor, shape)
        interpreter.allocate_tensors()
    inputs, outputs = (  # a name that is not UTF-8 ends in a ValueError here
        [(int(entry["index"]), [int(size) for size in entry["shape"]]) for entry in details]
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    return interpreter, inputs, outputs, [line for line in log.text.splitlines() if not line.startswith("INFO:")]


@dataclasses.dataclass(frozen=True, slots=True)
class IODetails:
    """An input or output of a file at the runner's batch; `signature` is its name in the file's signature, if any."""

    name: str
    signature: str | None
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


class TFLiteRunner:
    """A .tflite file, ready to run on this machine's processor.

    A dynamic or other batch dimension is resized to `batch`, and images run so many at a time. What the file keeps in
    variable tensors is reset before each run, so that an output depends on its own images alone.

    Args:
        source, threads: path of the file, its content, or the `TFLiteModel` that was read of it; number of threads.
        output: index of the output that `output` and the predictions mean; needed where there are several.
        batch: images in one invocation; None for as many as the file has.
        keep_tensors: whether `tensor_values` can be asked; the file then runs without the delegate, which keeps none.
        reference_kernels: whether to run TFLite's reference kernels, whose integer arithmetic TFLite Micro shares.

    Attributes:
        model: the file.
        inputs, outputs: `IODetails` of each, in the file's order.

    Raises:
        InputError: the file is not valid, or the runtime cannot run it.
    """

    def __init__(
        self,
        source: ModelSource,
        threads: int = 1,
        output: int | None = None,
        batch: int | None = 1,
        *,
        keep_tensors: bool = False,
        reference_kernels: bool = False,
    ) -> None:
        self.threads = check_whole_number("threads", threads)
        self.model = read_model(source)
        check_not_compiled(self.model)
        check_scales(self.model)
        if batch is None:
            shapes = [self.model.main.tensors[index].shape for index in self.model.main.inputs]
            batch = max((shape[0] for shape in shapes if len(shape) > 1 and shape[0] > 0), default=1)
        self.batch = check_whole_number("batch", batch)
        inputs, outputs = self._prepare(keep_tensors, reference_kernels)
        self.inputs, self.outputs = self._describe(inputs), self._describe(outputs)
        if output is not None and output not in range(len(self.outputs)):
            raise expected_error("output", f"to be one of 0 to {len(self.outputs) - 1}", output)
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def _prepare(self, keep_tensors: bool, reference_kernels: bool) -> tuple[list[TensorEntry], list[TensorEntry]]:
        """Open the file at the runner's batch, print the runtime's warnings, and return its inputs and outputs."""
        tensors = [self.model.main.tensors[index] for index in self.model.main.inputs]
        resized = [tensor for tensor in tensors if _resized_shape(self.batch, tensor) != tensor.shape]
        shapes = {tensor.index: _resized_shape(self.batch, tensor) for tensor in resized}
        hint = ""
        if resized:
            hint = f" (its batch of {resized[0].shape[0]} was resized to {self.batch}; export it at batch {self.batch})"
        with self._runtime_errors(hint):
            inputs, outputs, log = self._start(shapes, keep_tensors, reference_kernels)
        if log:
            print(*map(escape_unprintable, log), sep="\n", file=sys.stderr)
        return inputs, outputs

    def _start(
        self, shapes: dict[int, tuple[int, ...]], keep_tensors: bool, reference_kernels: bool
    ) -> tuple[list[TensorEntry], list[TensorEntry], list[str]]:
        """Open the file, with other shapes of some inputs; a subclass may do so elsewhere."""
        flags = {"keep_tensors": keep_tensors, "reference": reference_kernels}
        self._interpreter, inputs, outputs, log = open_interpreter(self.model.content, self.threads, shapes, **flags)
        return inputs, outputs, log

    @contextlib.contextmanager
    def _runtime_errors(self, hint: str = "") -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            received = f"{self.model.source}: {first_line(error)}{hint}"
            raise input_error("a file that the LiteRT runtime runs", received, path=self.model.path) from error

    def _describe(self, entries: Sequence[TensorEntry]) -> tuple[IODetails, ...]:
        """Return the details of what the interpreter lists."""
        pairs = [pair for signature in self.model.signatures for pair in (*signature.inputs, *signature.outputs)]
        names = {index: name for name, index in pairs}
        located = ((self.model.main.tensors[index], shape) for index, shape in entries)
        return tuple(io_details(tensor, names.get(tensor.index), shape) for tensor, shape in located)

    @property
    def input(self) -> IODetails:
        """The only input; `InputError` where there are several."""
        if len(self.inputs) != 1:
            names = ", ".join(repr(entry.name) for entry in self.inputs)
            received = f"{self.model.source} with {len(self.inputs)}: {names}"
            raise input_error("a file with one input", received, path=self.model.path)
        return self.inputs[0]

    @property
    def output(self) -> IODetails:
        """The chosen output; `InputError` where there are several and none was chosen."""
        return self.outputs[self._output_index()]

    def _output_index(self) -> int:
        if self._output is None and len(self.outputs) != 1:
            names = ", ".join(f"{index} {entry.name!r}" for index, entry in enumerate(self.outputs))
            expected = f"`output` to choose one of the outputs of {self.model.source}: {names}"
            raise input_error(expected, "none", argument="output", path=self.model.path)
        return self._output or 0

    def sample_shapes(self) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
        """Return (height, width, channels) of the only input, otherwise the shape of a sample for each by its name."""
        if len(self.inputs) == 1 and len(self.input.shape) == 4:
            return self.input.shape[1:]
        return {entry.signature or entry.name: entry.shape[1:] for entry in self.inputs}

    def describe_outputs(self) -> tuple[tuple[str, tuple[int | None, ...], str | None], ...]:
        """Return name, shape without the batch and activation of each output, as `keras_nin.heads` takes them."""
        return tuple(
            (details.signature or details.name, *self.model.describe_output(index, details.shape[1:]))
            for index, details in zip(self.model.main.outputs, self.outputs, strict=True)
        )

    def predict(self, images: "np.ndarray | dict[str, np.ndarray]") -> np.ndarray:
        """Return the float32 outputs (N, ...) for preprocessed images; integers are quantized and dequantized.

        An output of integers without a scale, such as the classes behind an argmax, stays as it is.

        Args:
            images: array of shape ``(N, *input.shape[1:])``; for a file with several inputs a dictionary of such arrays
                by their names in the file's signature, or by the tensors' names where it has none.

        Raises:
            InputError: wrong shape or names, NaN or infinity, or an integer input without a scale.
        """
        return self.dequantize(self.predict_raw(images), self.output)

    def predict_outputs(self, images: "np.ndarray | dict[str, np.ndarray]") -> list[np.ndarray]:
        """Return the float32 values of every output, in the file's order; otherwise the same as `predict`."""
        raw = self._run_batches(images, range(len(self.outputs)))
        return [self.dequantize(values, details) for values, details in zip(raw, self.outputs, strict=True)]

    def predict_raw(self, images: "np.ndarray | dict[str, np.ndarray]") -> np.ndarray:
        """Return the outputs in the file's own type; otherwise the same as `predict`."""
        return self._run_batches(images, [self._output_index()])[0]

    def dequantize(self, raw: np.ndarray, output: IODetails) -> np.ndarray:
        """Return the float32 values of an output; integers without a scale stay as they are."""
        if output.dtype in FLOAT_DTYPES:
            return raw.astype(np.float32, copy=False)
        if output.scale is None or output.zero_point is None:
            return raw
        return dequantize(raw, output.scale, output.zero_point)

    def _run_batches(self, images: "np.ndarray | dict[str, np.ndarray]", indexes: Sequence[int]) -> list[np.ndarray]:
        """Return the raw values (N, ...) of the outputs with these indexes."""
        arrays = self.quantize_inputs(images)
        drop_batch = [self.outputs[index].shape[:1] == (self.batch,) for index in indexes]
        if self.batch > 1 and not all(drop_batch):
            shapes = [self.outputs[index].shape for index in indexes]
            raise InputError(
                f"Expected an output for each of {self.batch} images. Received: {shapes[drop_batch.index(False)]}"
            )
        results: list[list[np.ndarray]] = [[] for _ in indexes]
        batches = []
        for start in range(0, len(arrays[0]), self.batch):
            parts = [array[start : start + self.batch] for array in arrays]
            if len(parts[0]) < self.batch:  # fill up the last batch by repetition
                parts = [np.resize(part, (self.batch, *part.shape[1:])) for part in parts]
            batches.append(parts)
        for values in self.run_all(batches):
            for position, index in enumerate(indexes):
                results[position].append(values[index])
        if not results[0]:
            details = [self.outputs[index] for index in indexes]
            return [
                np.zeros((0, *entry.shape[drop:]), entry.dtype) for entry, drop in zip(details, drop_batch, strict=True)
            ]
        return [
            np.concatenate(values)[: len(arrays[0])] if drop else np.stack(values)
            for values, drop in zip(results, drop_batch, strict=True)
        ]

    def run_all(self, batches: Sequence[Sequence[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        """Yield the outputs of `run_raw` on each batch; a subclass may run them elsewhere."""
        return map(self.run_raw, batches)

    def run_raw(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once on one array for each input, in the file's own types; return all outputs."""
        return self._run(arrays, self.model.main.outputs)

    def _run(self, arrays: Sequence[np.ndarray], tensors: Sequence[int]) -> list[np.ndarray]:
        """Run once and return what some tensors then hold."""
        with self._runtime_errors():
            for tensor, array in zip(self.model.main.inputs, arrays, strict=True):
                self._interpreter.set_tensor(tensor, array)
            if self.model.variables:
                self._interpreter.reset_all_variables()
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in tensors]

    def tensor_values(
        self, image: "np.ndarray | dict[str, np.ndarray]", tensors: Sequence[TFLiteTensor]
    ) -> list[np.ndarray]:
        """Run one image and return what some tensors of the main subgraph then hold, float32, integers dequantized.

        The image is preprocessed, of shape ``(1, *input.shape[1:])``, for several inputs a dictionary as in `predict`;
        the runner has to keep the tensors (`keep_tensors`).
        """
        received = self._run(self.quantize_inputs(image), [tensor.index for tensor in tensors])
        values = []
        for tensor, value in zip(tensors, received, strict=True):
            quantization = tensor.quantization
            if tensor.dtype in FLOAT_DTYPES or quantization is None:
                values.append(value.astype(np.float32))
            else:
                values.append(dequantize(value, quantization.scales[0], quantization.zero_points[0]))
        return values

    def quantize_inputs(self, images: "np.ndarray | dict[str, np.ndarray]") -> list[np.ndarray]:
        """Return the array (N, ...) of each input in its dtype; arguments and errors as in `predict`."""
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


def _quantize_batch(images: Any, details: IODetails) -> np.ndarray:
    batch = np.asarray(images)
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
    if details.scale is None or details.zero_point is None:
        raise InputError(f"Expected a float32 or quantized input. Received: {details.dtype} without a scale")
    return quantize(batch, details.scale, details.zero_point, details.dtype)


def _resized_shape(batch: int, tensor: TFLiteTensor) -> tuple[int, ...]:
    """Return the shape of an input with its batch dimension, dynamic or fixed, set to `batch`."""
    if -1 in (tensor.shape_signature or ())[1:]:
        received = f"{tensor.name!r} of shape {tensor.shape_signature}; export it with a fixed input shape"
        raise input_error("an input whose only dynamic dimension is the batch", received)
    return (batch, *tensor.shape[1:]) if len(tensor.shape) > 1 else tensor.shape


def io_details(tensor: TFLiteTensor, signature: str | None, shape: Sequence[int]) -> IODetails:
    """Return the details of an input or output whose shape at a runner's batch is `shape`."""
    scale = zero_point = None
    if tensor.quantization is not None and tensor.dtype not in FLOAT_DTYPES:
        (scale, *others), (zero_point, *_) = tensor.quantization.scales, tensor.quantization.zero_points
        if others:
            raise input_error("one scale for an input or output", f"{tensor.name!r} with {1 + len(others)}")
    return IODetails(tensor.name, signature, tuple(int(size) for size in shape), tensor.dtype, scale, zero_point)
