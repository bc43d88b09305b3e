"""How well a .tflite file compresses: zeros and distinct values among its weights, and its size after gzip."""

import dataclasses
import gzip
import os
from collections.abc import Iterator, Sequence
from typing import Any

from keras_nin import schemas
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import TFLiteModel

_OPERATORS_WITH_KERNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "CONV_3D")


@dataclasses.dataclass(frozen=True)
class KernelCompression:
    """The weights of a convolution or dense layer; an operator that shares those of an earlier one is left out.

    `layer` is the Keras layer, or the tensor's name where nothing says it; `distinct` the number of different values.
    """

    index: int
    op: str
    layer: str
    dtype: str
    weights: int
    zeros: int
    distinct: int

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class Compression:
    """The kernels of a whole file, its size in bytes, and its size after gzip at its highest level."""

    bytes: int
    gzip_bytes: int
    kernels: tuple[KernelCompression, ...]

    @property
    def sparsity(self) -> float | None:
        """Share of zeros among the weights of all convolutions and dense layers; None without such layers."""
        weights = sum(kernel.weights for kernel in self.kernels)
        return sum(kernel.zeros for kernel in self.kernels) / weights if weights else None

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary."""
        kernels = [dataclasses.asdict(kernel) | {"sparsity": kernel.sparsity} for kernel in self.kernels]
        sizes = {"bytes": self.bytes, "gzip_bytes": self.gzip_bytes, "sparsity": self.sparsity}
        return {"schema": schemas.COMPRESSION, **sizes, "kernels": kernels}


def measure_compression(
    source: TFLiteModel | bytes | str | os.PathLike[str], layers: Sequence[str | None] | None = None
) -> Compression:
    """Return the `Compression` of a .tflite file.

    Args:
        source: the file as a record, its bytes, or its path.
        layers: for each operator of the main subgraph the Keras layer that it computes, or None.

    Raises:
        InputError: the file cannot be read, or its weights are of a type without a NumPy counterpart.
    """
    tflite = source if isinstance(source, TFLiteModel) else read_model(source)
    compressed = gzip.compress(tflite.content, 9, mtime=0)
    return Compression(len(tflite.content), len(compressed), tuple(_kernels(tflite, layers)))


def _kernels(tflite: TFLiteModel, layers: Sequence[str | None] | None) -> Iterator[KernelCompression]:
    import numpy as np

    from keras_nin.tflite.quantization import per_channel_parameters

    seen = set()
    for operator in tflite.main.operators:
        tensor = tflite.main.stored_constant(operator.inputs[1]) if operator.op in _OPERATORS_WITH_KERNEL else None
        if tensor is None or tensor.buffer in seen:
            continue
        seen.add(tensor.buffer)
        layer, values = layers[operator.index] if layers else None, tflite.data(tensor)
        zeros = int((values == per_channel_parameters(tensor)[1]).sum())
        counts = values.size, zeros, len(np.unique(values))
        yield KernelCompression(operator.index, operator.op, layer or tensor.name, tensor.dtype, *counts)
