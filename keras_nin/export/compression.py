"""How well a .tflite file packs: zeros and distinct values among its weights, and its size after gzip."""

import dataclasses
import gzip
import pathlib

from keras_nin import files
from keras_nin.tflite import reader as tflite_graph

COMPRESSION_SCHEMA = "keras_nin.compression/1"
# The operators with a kernel, and which of their inputs it is.
_KERNEL_INPUTS = dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "CONV_3D"), 1)


@dataclasses.dataclass(frozen=True)
class KernelCompression:
    """The weights of one convolution or dense layer; an operator that shares them with an earlier one has none.

    Attributes:
        index, op: of the operator.
        layer: the Keras layer, or the tensor's name where nothing says it.
        dtype: of the stored weights.
        weights: how many.
        zeros: how many of them are 0.
        distinct: number of different stored values.
    """

    index: int
    op: str
    layer: str
    dtype: str
    weights: int
    zeros: int
    distinct: int

    @property
    def sparsity(self):
        """Share of zeros."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class Compression:
    """A whole file; `gzip_bytes` is its size after gzip at its highest level."""

    bytes: int
    gzip_bytes: int
    kernels: tuple[KernelCompression, ...]

    @property
    def sparsity(self):
        """Share of zeros among the weights of all convolutions and dense layers; None without such layers."""
        weights = sum(kernel.weights for kernel in self.kernels)
        return sum(kernel.zeros for kernel in self.kernels) / weights if weights else None

    def to_json(self):
        """Return the record as a dictionary."""
        kernels = [dataclasses.asdict(kernel) | {"sparsity": kernel.sparsity} for kernel in self.kernels]
        sizes = {"bytes": self.bytes, "gzip_bytes": self.gzip_bytes, "sparsity": self.sparsity}
        return {"schema": COMPRESSION_SCHEMA, **sizes, "kernels": kernels}


def measure_compression(file, layers=None):
    """Return the `Compression` of a .tflite file.

    Args:
        file: path, or the file's bytes.
        layers: for each operator of the main graph the layer that it computes, or None, as `Export.layers`.

    Raises:
        InputError: the file cannot be read, or its weights are of a type without a NumPy counterpart.
    """
    data = file if isinstance(file, bytes) else files.read_bytes(pathlib.Path(file))
    graph = tflite_graph.read_model(data)
    return Compression(len(data), len(gzip.compress(data, 9, mtime=0)), tuple(_kernels(graph, layers)))


def _kernels(graph, layers):
    main, seen = graph.main, set()
    producers = {tensor: operator for operator in main.operators for tensor in operator.outputs}
    for operator in main.operators:
        if operator.op not in _KERNEL_INPUTS:
            continue
        tensor = _stored_kernel(main, producers, operator.inputs[_KERNEL_INPUTS[operator.op]])
        if tensor is None or tensor.buffer in seen:
            continue
        seen.add(tensor.buffer)
        yield _kernel_compression(graph, operator, tensor, layers[operator.index] if layers else None)


def _stored_kernel(main, producers, index):
    """Return the tensor in the file that a kernel comes from, None where it is computed."""
    tensor = main.tensors[index]
    if not tensor.is_constant and index in producers and producers[index].op == "DEQUANTIZE":
        tensor = main.tensors[producers[index].inputs[0]]  # float16 and some int8 weights
    return tensor if tensor.is_constant else None


def _kernel_compression(graph, operator, tensor, layer):
    import numpy as np

    values = graph.data(tensor)
    points = tensor.quantization.zero_points if tensor.quantization else (0,)
    if len(points) > 1:
        shape = [1] * values.ndim
        shape[tensor.quantization.axis] = -1
        zeros = values == np.reshape(points, shape)
    else:
        zeros = values == points[0]
    return KernelCompression(
        index=operator.index,
        op=operator.op,
        layer=layer or tensor.name,
        dtype=tensor.dtype,
        weights=values.size,
        zeros=int(zeros.sum()),
        distinct=len(np.unique(values)),
    )
