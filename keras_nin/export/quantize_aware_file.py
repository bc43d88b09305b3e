"""Between a Keras model and its quantize-aware network: the files that the network is built from, and its own file."""

import base64
import collections
import dataclasses
import json
import math
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import files
from keras_nin.archives import MAX_EXPANDED_BYTES
from keras_nin.errors import InputError, check_choice, input_error
from keras_nin.export.conversion import (
    ModelConverter,
    check_finite_weights,
    check_samples,
    configure_converter,
    quantize_calibrated,
)
from keras_nin.export.converted_model import (
    Calibration,
    ConvertedModel,
    check_integer_operators,
    describe_conversion,
)
from keras_nin.export.quantize_aware import ConvertedFiles, build_network, count_levels
from keras_nin.export.schemes import SCHEMES, Scheme, Tuning, get_scheme
from keras_nin.export.tuning import WEIGHT_LEVELS, tune_file
from keras_nin.export.weight_comparison import map_fused_layers
from keras_nin.keras_graph import input_specs, is_quantize_aware, output_specs, trace_functional
from keras_nin.output_capture import capture_output
from keras_nin.tflite.float_file import FloatFile
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.validation import ERROR, find_problems

if TYPE_CHECKING:
    import os

    import keras

    from keras_nin.export.conversion import Samples
    from keras_nin.layers.quantized import ActivationRanges, QuantizedKernel

_FILES = ("model.keras", "samples.npz", "float.tflite", "int8.tflite", "result.json")
_CONVERSION_SECONDS = 3600.0


def quantize_network(
    model: "keras.Model",
    calibration: "Calibration | Samples | None" = None,
    *,
    weight_bits: int = 8,
    tuning: Tuning | None = None,
    imports: "Sequence[str | os.PathLike[str]]" = (),
) -> "keras.Model":
    """Return a quantize-aware copy of a model: it computes what the model's int8 file computes, and can be trained.

    It has the model's inputs and outputs, in real numbers. BatchNormalization is folded with the statistics that it
    has, and Dropout is left out. On JAX and PyTorch the model is converted in a process of its own, on TensorFlow.

    Args:
        model: Functional keras.Model, or Sequential with an Input.
        calibration: `Calibration`, or float32 images (N, H, W, C) as the model takes them.
        weight_bits: bits of the weights, 2 to 8. With fewer than 8 the int8 file holds small integers.
        tuning: how ranges, weights and biases are chosen to begin with; None is `Tuning()`.
        imports: modules or .py files that define custom layers, for the process of its own.

    Raises:
        InputError: unfit calibration images, a network that does not convert to int8, or an operator without a rule.
    """
    import keras

    if is_quantize_aware(model):
        raise input_error("a model that is not quantize-aware yet", repr(model.name), argument="model")
    samples = calibration.images if isinstance(calibration, Calibration) else calibration
    arrays = check_samples(samples, input_specs(model))
    check_finite_weights(model)
    tuning, levels = tuning or Tuning(), count_levels(weight_bits)
    if keras.backend.backend() == "tensorflow":
        converted = _convert_here(model, arrays, tuning, levels)
    else:
        converted = _convert_in_process(model, arrays, tuning, levels, imports)
    return build_network(converted, model.name, weight_bits)


# The files of a model


def _convert_here(
    model: "keras.Model", arrays: dict[str, np.ndarray], tuning: Tuning, levels: int = WEIGHT_LEVELS
) -> ConvertedFiles:
    """Return the files of a model, with Keras on TensorFlow; the weights lie on grids of `levels` on each side of 0."""
    import keras

    scheme, kept = SCHEMES["int8"], {}
    calls = trace_functional(model).calls
    layers_called = {call.path: call.operation for call in calls if isinstance(call.operation, keras.Layer)}
    frozen = {path: layer for path, layer in layers_called.items() if not layer.trainable_weights}
    if any(hasattr(layer, "kernel") for layer in frozen.values()):
        levels = WEIGHT_LEVELS  # of layers that are not trained, which keep 8 bits

    def keep(content: bytes, samples: Any) -> bytes:
        kept["tuned"] = tune_file(content, samples, tuning, levels)
        return kept["tuned"]

    with ModelConverter(model) as converter:
        content, flags = converter.convert(scheme, arrays, tuning=keep)
    tflite = read_model(content)
    layers = map_fused_layers(model, tflite).layers
    check_integer_operators(tflite, layers, scheme)
    return ConvertedFiles(
        kept["tuned"],
        content,
        layers,
        frozenset(map("/".join, frozen)),
        tuple(spec.name for spec in input_specs(model)),
        tuple(spec.name for spec in output_specs(model)),
        flags,
    )


def _convert_in_process(
    model: "keras.Model",
    arrays: dict[str, np.ndarray],
    tuning: Tuning,
    levels: int,
    imports: "Sequence[str | os.PathLike[str]]",
) -> ConvertedFiles:
    """Return the files of a model, converted in a process with Keras on TensorFlow."""
    from keras_nin.child_process import describe_status, python_command, run_process

    with files.temporary_folder() as folder:
        network, samples, *results = (folder / name for name in _FILES)
        model.save(network)
        np.savez(samples, **arrays)  # type: ignore[arg-type]
        command, environment = python_command(__name__)
        job = {"folder": str(folder), "tuning": tuning.to_json(), "levels": levels}
        job |= {"imports": [str(source) for source in imports]}
        environment = environment | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        ended = run_process(command, timeout=_CONVERSION_SECONDS, job=job, environment=environment)
        if not results[-1].exists():
            status = "timed out" if ended.status is None else describe_status(ended.status)
            raise InputError(f"Expected a model that TensorFlow converts. Received: a conversion that {status}")
        document = json.loads(results[-1].read_text())
        if "error" in document:
            raise InputError(document["error"])
        float_content, int8_content = (path.read_bytes() for path in results[:2])
    return ConvertedFiles(
        float_content,
        int8_content,
        tuple(document["layers"]),
        frozenset(document["frozen"]),
        tuple(document["inputs"]),
        tuple(document["outputs"]),
        document["flags"],
    )


def _run_job(folder: pathlib.Path, tuning: Tuning, levels: int, imports: Sequence[str]) -> None:
    """Convert what `_convert_in_process` wrote to a folder."""
    from keras_nin.models import load_model

    network, samples, *results = (folder / name for name in _FILES)
    try:
        with np.load(samples) as arrays:
            converted = _convert_here(load_model(str(network), imports=imports).model, dict(arrays), tuning, levels)
    except InputError as error:
        results[-1].write_text(json.dumps({"error": str(error)}))
        return
    for path, content in zip(results, (converted.float_content, converted.int8_content), strict=False):
        path.write_bytes(content)
    names = ("layers", "inputs", "outputs", "flags")
    document = {name: getattr(converted, name) for name in names} | {"frozen": sorted(converted.frozen)}
    results[-1].write_text(json.dumps(document))


# The file of a network


def convert_quantize_aware(
    network: "keras.Model",
    schemes: Sequence[str | Scheme] = ("int8",),
    *,
    original: "keras.Model | None" = None,
    **details: Any,
) -> list[ConvertedModel]:
    """Convert a quantize-aware network to int8, with the weights and ranges that it has.

    Args:
        network: what `keras_nin.quantize_aware` returned, trained or not, on any backend of Keras.
        schemes: those with int8 weights and activations.
        original: the keras.Model it was made from, whose hash goes into the record; None records the network's own.
        **details: `weights`, `preprocessing`, `name`, `options`, `classes`, as in `keras_nin.export.convert_schemes`.

    Raises:
        InputError: another scheme or batch, or weights that are not finite.
    """
    from keras_nin.models import hash_weights

    check_finite_weights(network)
    source, _ = _read_source(network)
    if details.get("batch", 1) != 1:
        raise input_error("batch 1, with which a quantize-aware model is built", details["batch"], argument="batch")
    converted = []
    for scheme in map(get_scheme, schemes):
        if (scheme.weights, scheme.activations, scheme.per_channel, scheme.mixed) != ("int8", "int8", True, False):
            check_choice("scheme of a quantize-aware model", scheme.name, ("int8",))
        content, flags = _convert_float_file(_float_content(network), scheme)
        content = _set_small_weights(content, network)
        tflite = read_model(content)
        if len(source["layers"]) != len(tflite.main.operators):
            raise _damaged_source()
        kept = {
            name: source["flags"][name] for name in ("integer_form", "rewritten", "unrolled") if name in source["flags"]
        }
        record = describe_conversion(network, scheme, tflite, flags | kept, tuple(source["layers"]), **details)
        digest = hash_weights(original or network)
        converted.append(dataclasses.replace(record, weights_sha256=digest))
    return converted


def _ranges_layer(network: "keras.Model") -> "ActivationRanges":
    return next(layer for layer in network.layers if type(layer).__name__ == "ActivationRanges")  # type: ignore[return-value]


def _read_source(network: "keras.Model") -> tuple[dict[str, Any], FloatFile]:
    """Return the description of the file that a network was built from, and its float file without weights.

    A saved model may say anything there, so that all of it is checked: `InputError` where it does not fit the network.
    """
    ranges_layer = _ranges_layer(network)
    source, decoder = ranges_layer.source, zlib.decompressobj()
    try:
        content = decoder.decompress(base64.b64decode(source["file"], validate=True), MAX_EXPANDED_BYTES)
        file = FloatFile(content)
        ranges, groups = file.ranges(), ranges_layer.trained + ranges_layer.fixed
        fits = decoder.eof and len(source["ranges"]) == ranges_layer.trained
        fits = fits and all(index in ranges for indexes in source["ranges"] for index in indexes)
        fits = fits and isinstance(source["flags"], dict) and _are_layers(source["layers"])
        for name, entry in source["kernels"].items():
            layer: Any = network.get_layer(name)
            fits = fits and _holds(file, entry["weights"], layer.kernel.shape)
            fits = fits and (_holds(file, entry["bias"], layer.bias.shape) if layer.bias is not None else True)
            fits = fits and (layer.bias is None) == (entry["bias"] == -1) and len(entry["calls"]) > 0
            fits = fits and all(isinstance(name, str) and 0 <= group < groups for name, group in entry["calls"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise _damaged_source() from error
    if not fits or any(problem.severity == ERROR for problem in find_problems(file.model)):
        raise _damaged_source()
    return source, file


def _are_layers(names: Any) -> bool:
    return isinstance(names, list) and all(name is None or isinstance(name, str) for name in names)


def _holds(file: FloatFile, index: int, shape: Sequence[int]) -> bool:
    """Whether a tensor of a file is a float32 constant of as many values as a shape has."""
    tensor = file.model.main.tensors[index]
    size = math.prod(shape)
    is_float = tensor.is_constant and tensor.dtype == "float32" and tensor.elements == size
    return index >= 0 and is_float and file.model.buffer_spans[tensor.buffer][1] == 4 * size


def _damaged_source() -> InputError:
    return input_error("a model that `keras_nin.quantize_aware` built", "one whose own file is damaged")


def _numpy(tensor: Any) -> np.ndarray:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor))


@dataclasses.dataclass(frozen=True, eq=False)
class _Kernel:
    """The weights of a layer as integers in the file's layout, and the size of a step of each output channel."""

    layer: "QuantizedKernel"
    integers: np.ndarray
    scale: np.ndarray

    @classmethod
    def read(cls, layer: Any) -> "_Kernel":
        integers, scale = map(_numpy, layer.quantize_kernel())
        if layer.kind == "dense":
            integers = integers.T
        else:
            integers = integers[None, ..., 0] if layer.kind == "depthwise" else integers.transpose(3, 0, 1, 2)
        return cls(layer, integers, scale)

    def weights(self) -> np.ndarray:
        """Return the reals that the integers stand for; at 8 bits the largest ones are the weights themselves."""
        scale = self.scale.astype(np.float64)
        if self.layer.step is None:
            kernel = np.abs(_numpy(self.layer.kernel)).reshape(-1, self.layer.outputs)
            scale = kernel.max(axis=0).astype(np.float64) * _numpy(self.layer.unit) / self.layer.levels
        shape = [1] * self.integers.ndim
        shape[-1 if self.layer.kind == "depthwise" else 0] = -1
        return self.integers * scale.reshape(shape)

    def bias(self, input_scale: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the integers of the bias, and the size of a step of each, for the scale of an input."""
        scale = input_scale * self.scale
        return np.round(_numpy(self.layer.bias) * _numpy(self.layer.unit) / scale), scale


def _float_content(network: "keras.Model") -> bytes:
    """Return the calibrated float file of a network: weights on their grids, and ranges."""
    source, file = _read_source(network)
    scales, tensors = _input_scales(network), file.model.main.tensors
    for name, entry in source["kernels"].items():
        kernel = _Kernel.read(network.get_layer(name))
        file.set_values(tensors[entry["weights"]], kernel.weights())
        if entry["bias"] >= 0:
            integers, scale = kernel.bias(scales[entry["calls"][0][1]])
            file.set_values(tensors[entry["bias"]], integers * scale.astype(np.float64))
    for indexes, *limits in zip(source["ranges"], *map(_numpy, _ranges_layer(network).ranges()), strict=True):
        for index in indexes:
            file.set_range(index, *map(float, limits))
    return file.content()


def _input_scales(network: "keras.Model") -> np.ndarray:
    """Return the scale of each group of tensors."""
    return _numpy(_ranges_layer(network)(np.zeros((1, 1), np.float32)))[0]


def _convert_float_file(content: bytes, scheme: Scheme) -> tuple[bytes, dict[str, Any]]:
    """Return the integer file that TensorFlow's converter makes of a calibrated float file, and its flags."""
    import tensorflow as tf

    from keras_nin._compat.tensorflow import replace_quantize_step

    class Nothing(tf.Module):
        """A network that the converter reads, and whose float file is then replaced."""

        @tf.function(input_signature=[tf.TensorSpec((1, 1), tf.float32)])
        def serve(self, x: "tf.Tensor") -> "dict[str, tf.Tensor]":
            return {"y": x + 1.0}

    module = Nothing()
    with files.temporary_folder() as folder, capture_output():
        tf.saved_model.save(module, str(folder), signatures=module.serve)
        converter, flags = configure_converter(str(folder), scheme, allow_float=False)
        converter.representative_dataset = lambda: iter(())
        replace_quantize_step(
            converter, lambda _, *arguments: quantize_calibrated(scheme, content, arguments=arguments)
        )
        return bytes(converter.convert()), flags


def _set_small_weights(content: bytes, network: "keras.Model") -> bytes:
    """Return an int8 file with the integers and scales of the layers of fewer than 8 bits, and their biases."""
    source, scales = _ranges_layer(network).source, _input_scales(network)
    small = {name: layer for name in source["kernels"] if (layer := network.get_layer(name)).weight_bits < 8}  # type: ignore[attr-defined]
    if not small:
        return content
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    by_output = {graph.tensors[operator.outputs[0]].name.decode(): operator for operator in graph.operators}

    users = collections.Counter(tensor.buffer for tensor in graph.tensors)

    def write(index: int, values: np.ndarray, scale: np.ndarray) -> None:
        tensor = graph.tensors[index]
        if users[tensor.buffer] > 1:  # equal values share a buffer
            users[tensor.buffer] -= 1
            model.buffers.append(schema.BufferT())
            tensor.buffer = len(model.buffers) - 1
        model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        tensor.quantization.scale = scale.astype(np.float32)

    for name, layer in small.items():
        kernel = _Kernel.read(layer)
        for output, group in source["kernels"][name]["calls"]:
            inputs = by_output[output].inputs
            write(inputs[1], kernel.integers.astype(np.int8), kernel.scale)
            if layer.bias is not None:
                integers, scale = kernel.bias(scales[group])
                write(inputs[-1], integers.astype("<i4"), scale)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


if __name__ == "__main__":
    _job = json.loads(sys.stdin.readline())
    _run_job(pathlib.Path(_job["folder"]), Tuning(**_job["tuning"]), _job["levels"], _job["imports"])
