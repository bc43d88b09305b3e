"""Random weights that behave numerically like trained ones: He initialization, scaled by what a forward pass shows."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.data import Preprocessing, get_preset
from keras_nin.keras_graph import GraphCall, GraphTrace, TensorSlot, trace_functional

if TYPE_CHECKING:
    import keras

_IMAGES = 16
_IMAGES_IF_LARGE, _LARGE = 8, 160  # so many where an image is wider or higher than `_LARGE` pixels
_LOGIT_DEVIATION = 2.5  # of each class over the images, as in trained classifiers
# A channel that is almost constant on these images counts as one with this share of its layer's size.
_LEAST_DEVIATION = 0.1
# A gamma of this size makes a block pass on its input alone (ConvNeXt begins with 1e-6), which no trained network does.
_SMALL_GAMMA = 1e-3
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
# Activation functions that cut or bend at 0, by the names of functions and layers.
_RECTIFIERS = frozenset(
    ("elu", "gelu", "hardsilu", "hardswish", "leakyrelu", "mish", "prelu", "relu", "relu6", "selu", "silu", "swish")
)
# What may stand between the layer that computes the classes and the output.
_HEAD_LAYERS = ("Activation", "Dropout", "Flatten", "GlobalAveragePooling2D", "ReLU", "Reshape", "Softmax")


def initialize_he(model: keras.Model, seed: int = 0, preprocessing: str | dict[str, Any] | None = None) -> None:
    """Give a model random weights with which its activations behave as those of a trained network, in place.

    Kernels are drawn from a normal distribution (He et al., arXiv:1502.01852). Then a forward pass over sample images
    gives every channel of a layer a standard deviation of 1 and a mean of 0, or of 1 before a ReLU or the like: with a
    mean of 0 there, rounding errors would grow from layer to layer (arXiv:1902.08129), which trained networks do not
    do. A BatchNormalization gets its statistics and this mean; a layer without one gets scale and bias (Salimans and
    Kingma, arXiv:1602.07868). The scores of the classes have a standard deviation of 2.5 over the images. Layers
    without a kernel of their own (recurrent, attention) keep what Keras draws.

    The images have the spectrum of photographs; other inputs are normal noise. The same seed gives the same weights.

    Args:
        model: Functional keras.Model, or Sequential with an Input; open sizes of an image become 224 pixels.
        seed: of weights and images.
        preprocessing: what the model expects: the name of a preset, or `Preprocessing.to_json`; None is [0, 1].

    Raises:
        InputError: a model that is no graph of layers.
    """
    import keras

    generator = np.random.default_rng(seed)
    trace = trace_functional(model)
    heads = _head_layers(trace)
    values: dict[TensorSlot, Any] = {
        slot: _sample_input(tuple(tensor.shape[1:]), str(tensor.dtype), generator, preprocessing)
        for slot, tensor in zip(trace.inputs, model.inputs, strict=True)
    }
    readers = {slot: len(calls) for slot, calls in trace.consumers.items()}
    seen: set[int] = set()
    for call in trace.calls:
        filled: Any = keras.tree.map_structure(
            lambda value: values[value] if isinstance(value, TensorSlot) else value, (call.args, call.kwargs)
        )
        if id(call.operation) not in seen:
            seen.add(id(call.operation))
            _initialize_layer(call, filled, generator, _Role.of(call, trace, heads))
        outputs = keras.tree.flatten(call.operation(*filled[0], **filled[1]))
        values.update(zip(call.outputs, outputs, strict=True))
        for slot in call.inputs:  # of a large network not all maps fit into memory
            readers[slot] -= 1
            if not readers[slot]:
                values.pop(slot, None)


@dataclasses.dataclass(frozen=True)
class _Role:
    """What the outputs of a layer should be: scores of classes, normalized by the next layer, and their mean."""

    is_head: bool
    is_normalized: bool
    mean: float

    @classmethod
    def of(cls, call: GraphCall, trace: GraphTrace, heads: set[int]) -> _Role:
        followers = [follower.operation for slot in call.outputs for follower in trace.consumers.get(slot, ())]
        # An activation layer behind it, not the function that the next convolution applies.
        applied = [operation for operation in followers[:1] if not _own_kernels(operation)]
        names = [_activation_name(operation) for operation in (call.operation, *applied)]
        is_normalized = any(type(operation).__name__ == "BatchNormalization" for operation in followers)
        return cls(id(call.operation) in heads, is_normalized, float(any(name in _RECTIFIERS for name in names)))


def _activation_name(operation: Any) -> str:
    """Return the name of the activation function that an operation is or applies, in lower case."""
    activation = getattr(operation, "activation", None)
    name = type(operation).__name__ if activation is None else getattr(activation, "__name__", "")
    return name.lower().replace("_", "")


def _own_kernels(operation: Any) -> list[Any]:
    """Return the kernels of a layer; a recurrent one or a wrapper has them in other layers, which see other inputs."""
    weights = [weight for weight in getattr(operation, "weights", ()) if weight.name in _KERNELS]
    return [weight for weight in weights if getattr(operation, weight.name, None) is weight]


def _initialize_layer(call: GraphCall, filled: Any, generator: np.random.Generator, role: _Role) -> None:
    layer: Any = call.operation
    if type(layer).__name__ == "BatchNormalization":
        _set_statistics(layer, np.asarray(filled[0][0], np.float64), role.mean)
    kernels = _own_kernels(layer)
    if kernels:
        for weight in kernels:
            _assign(weight, generator.standard_normal(weight.shape) / math.sqrt(math.prod(weight.shape[:-1])))
        _scale_outputs(layer, kernels[-1], filled, role)
    for weight in getattr(layer, "weights", ()):
        if weight.name == "gamma" and np.abs(weight.numpy()).max() < _SMALL_GAMMA:
            _assign(weight, np.ones(weight.shape))


def _scale_outputs(layer: Any, kernel: Any, filled: Any, role: _Role) -> None:
    """Scale the last kernel of a layer, and set its bias, so that its sums are as they should be on the inputs."""
    import keras

    activation, layer.activation = getattr(layer, "activation", None), keras.activations.linear
    bias = getattr(layer, "bias", None)
    if bias is not None:
        _assign(bias, np.zeros(bias.shape))
    sums = np.asarray(layer(*filled[0], **filled[1]), np.float64)
    if role.is_head:  # what differs from image to image
        sums = sums.reshape(len(sums), -1, sums.shape[-1]).mean(axis=1)
    sums = sums.reshape(-1, sums.shape[-1])
    rms, deviation = math.sqrt(float((sums**2).mean())) or 1.0, sums.std(axis=0)
    if bias is None or role.is_normalized or bias.shape != deviation.shape:
        factor, mean = np.float64(1 / rms), None
    elif role.is_head:
        factor = _LOGIT_DEVIATION / np.maximum(deviation, _LEAST_DEVIATION * rms).mean()
        mean = 0.0
    else:
        factor, mean = 1 / np.maximum(deviation, _LEAST_DEVIATION * rms), role.mean
    _assign(kernel, kernel.numpy() * _along_outputs(factor, kernel, type(layer).__name__))
    if mean is not None:
        _assign(bias, mean - sums.mean(axis=0) * factor)
    layer.activation = activation


def _along_outputs(factor: Any, kernel: Any, layer_type: str) -> np.ndarray:
    """Return a factor for each output of a layer in the shape that multiplies its kernel."""
    if factor.ndim and "Depthwise" in layer_type:  # (h, w, inputs, outputs of each)
        return factor.reshape(kernel.shape[-2:])
    return factor[:, None] if factor.ndim and "Transpose" in layer_type else factor


def _set_statistics(norm: Any, inputs: np.ndarray, mean: float) -> None:
    """Set the statistics of a BatchNormalization to those of its inputs, and its beta to the mean of its outputs."""
    axis = norm.axis % inputs.ndim
    others = tuple(position for position in range(inputs.ndim) if position != axis)
    variance = inputs.var(axis=others)
    _assign(norm.moving_mean, inputs.mean(axis=others))
    _assign(norm.moving_variance, np.maximum(variance, _LEAST_DEVIATION**2 * variance.mean()))
    if norm.center:
        _assign(norm.beta, np.full(norm.beta.shape, mean))


def _assign(variable: Any, values: np.ndarray) -> None:
    variable.assign(values.astype(np.float32))


def _head_layers(trace: GraphTrace) -> set[int]:
    """Return the ids of the layers with a kernel whose sums become outputs, but for an activation and a pooling."""
    heads = set()
    for slot in trace.outputs:
        call = trace.producers.get(slot)
        while call is not None and type(call.operation).__name__ in _HEAD_LAYERS:
            call = trace.producers.get(call.inputs[0])
        if call is not None:
            heads.add(id(call.operation))
    return heads


# Sample images


def _sample_input(
    shape: tuple[int | None, ...],
    dtype: str,
    generator: np.random.Generator,
    preprocessing: str | dict[str, Any] | None,
) -> np.ndarray:
    """Return samples (N, ...) for one input of a model."""
    known = tuple(224 if size is None else size for size in shape)
    count = _IMAGES if max(known, default=0) <= _LARGE else _IMAGES_IF_LARGE
    if "float" not in dtype:
        return generator.integers(0, 2, (count, *known)).astype(dtype)
    if len(known) != 3:
        return generator.standard_normal((count, *known)).astype(np.float32)
    pixels = sample_images(count, known, generator)
    record = get_preset(preprocessing or "unit") if not isinstance(preprocessing, dict) else None
    record = record or Preprocessing.from_json(preprocessing)
    if any(len(channels) not in (1, known[2]) for channels in (record.mean, record.std) if channels):
        record = get_preset("unit")
    return record.normalize(pixels)


def sample_images(count: int, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Return random images uint8 (count, H, W, C) with the 1/f amplitude spectrum of photographs.

    Brightness, contrast and color differ from image to image, as they do in photographs.
    """
    height, width, channels = shape
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(height, width))[..., None]
    # Most of what an image shows is in its brightness, which all channels share.
    noise = generator.standard_normal((count, height, width, 1)) + 0.4 * generator.standard_normal((count, *shape))
    images = np.fft.ifft2(np.fft.fft2(noise, axes=(1, 2)) / frequency, axes=(1, 2)).real
    images -= images.mean(axis=(1, 2, 3), keepdims=True)
    images /= images.std(axis=(1, 2, 3), keepdims=True) + 1e-9
    contrast = generator.uniform(25, 75, (count, 1, 1, 1))
    brightness = generator.uniform(60, 190, (count, 1, 1, 1)) + 20 * generator.standard_normal((count, 1, 1, channels))
    return (images * contrast + brightness).round().clip(0, 255).astype(np.uint8)
