"""What both runtimes run on: raw arrays, as the file's inputs take them."""

import dataclasses

import numpy as np

from keras_nin.errors import InputError
from keras_nin.tflite.graph import FLOAT_DTYPES
from keras_nin.tflite.quantization import quantize

_MOST_BYTES = 2**28  # of all samples of noise


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Samples for each input of a file.

    Attributes:
        source: what they are.
        noise: whether they are random numbers.
        arrays: for each input an array (samples, *shape in the file) of its dtype.
    """

    source: str
    noise: bool
    arrays: tuple[np.ndarray, ...]


def noise(graph, samples, seed=0):
    """Return `Inputs` of seeded noise: the whole range of quantised integers, reals from 0 to 1, else zeros.

    Raises:
        InputError: an input is not of numbers, or samples would fill the memory.
    """
    rng = np.random.default_rng(seed)
    tensors = _tensors(graph)
    size = samples * sum(tensor.nbytes or 0 for tensor in tensors)
    if size > _MOST_BYTES:
        raise InputError(f"Expected inputs of at most {_MOST_BYTES:,} bytes in all. Received: {size:,}")
    return Inputs("noise", True, tuple(_noise(tensor, samples, rng) for tensor in tensors))


def of_images(graph, images, source):
    """Return `Inputs` of preprocessed images.

    Args:
        graph: `keras_nin.tflite.graph.Graph` with one input, of shape (B, H, W, C).
        images: float32 (N, H, W, C), N a multiple of B.
        source: what they are.

    Raises:
        InputError: another number of inputs, or another shape.
    """
    tensors = _tensors(graph)
    if len(tensors) != 1 or tensors[0].shape[1:] != images.shape[1:] or len(images) % tensors[0].shape[0]:
        shapes = [tensor.shape for tensor in tensors]
        raise InputError(f"Expected images for inputs of shapes {shapes}. Received: {images.shape}")
    (tensor,) = tensors
    images = images.reshape(-1, *tensor.shape)
    if tensor.dtype in FLOAT_DTYPES:
        return Inputs(source, False, (images.astype(tensor.dtype),))
    if tensor.quantization is None:
        raise InputError(f"Expected a float or quantised input. Received: {tensor.dtype} without a scale")
    scale, zero_point = tensor.quantization.scales[0], tensor.quantization.zero_points[0]
    return Inputs(source, False, (quantize(images, scale, zero_point, tensor.dtype),))


def _tensors(graph):
    tensors = [graph.main.tensors[index] for index in graph.main.inputs]
    for tensor in tensors:
        if tensor.nbytes is None or tensor.dtype in ("int2", "int4", "uint4", "bfloat16"):
            raise InputError(f"Expected inputs of numbers. Received: {tensor.name!r} of type {tensor.dtype}")
    return tensors


def _noise(tensor, samples, rng):
    shape = (samples, *tensor.shape)
    if tensor.dtype in FLOAT_DTYPES:
        return rng.random(shape, np.float32).astype(tensor.dtype)
    if tensor.quantization is None:  # integers without a scale may be indexes
        return np.zeros(shape, tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    return rng.integers(limits.min, limits.max, shape, tensor.dtype, endpoint=True)
