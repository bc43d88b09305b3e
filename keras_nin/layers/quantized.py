"""Layers of a quantize-aware network: each computes what one operator of an int8 .tflite file computes.

Between the layers flow *levels*: float32 tensors of the integers of the file minus their zero point, so that 0 stands
for 0.0. Sums of products of levels are whole numbers, which float32 adds without error up to 2**24, and which stay
exact where an accelerator multiplies in TF32 or bfloat16. Rounding has the gradient of the identity (straight-through).

All layers compute in float32 under every dtype policy. `keras_nin.quantize_aware` builds networks of them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_nin.layers.quantized_operators import (
    OPERATORS,
    Quantization,
    clip_levels,
    clip_range,
    requantize,
    round_levels,
)

ops: Any = keras.ops  # whose annotations allow None everywhere
_LOWEST, _STEPS = -128, 255  # of int8
_TIE = 1e-6  # relative: rounding may put weights at the end of their grid this far beyond it


class _Float32Layer(keras.layers.Layer):
    """A layer that computes in float32, whatever the dtype policy."""

    def __init__(self, **kwargs: Any) -> None:
        options: dict[str, Any] = kwargs | {"dtype": "float32", "autocast": False}
        super().__init__(**options)
        self.built = True  # the weights have fixed shapes

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Return a weight that stays float32."""
        return super().add_weight(*args, **(kwargs | {"autocast": False, "dtype": "float32"}))

    def build(self, input_shape: Any = None) -> None:
        """Do nothing: the weights are there already."""


@keras.saving.register_keras_serializable(package="keras_nin")
class ActivationRanges(_Float32Layer):
    """The scale and zero point of every set of tensors that share them: (2, groups), whatever the input.

    A range is the one it began with, its ends multiplied by the exponentials of two trained numbers each: 0 stays 0,
    and a learning rate means the same for wide and narrow ranges. Constants and operators with a fixed scale come last.

    Args:
        trained, fixed: number of ranges that are trained, and of scales that are not.
        source: JSON-ready description of the file that the network was built from.
    """

    def __init__(self, trained: int, fixed: int, source: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trained, self.fixed, self.source = trained, fixed, source or {}
        frozen: Any = {"shape": (trained,), "trainable": False, "initializer": "zeros"}
        self.minimum = self.add_weight(name="minimum", **frozen)
        self.maximum = self.add_weight(name="maximum", **frozen)
        self.log_minimum = self.add_weight(name="log_minimum", shape=(trained,), initializer="zeros")
        self.log_maximum = self.add_weight(name="log_maximum", shape=(trained,), initializer="zeros")
        self.fixed_values = self.add_weight(name="fixed_values", shape=(2, fixed), trainable=False, initializer="ones")

    def ranges(self) -> tuple[Any, Any]:
        """Return the smallest and the largest value of each trained range."""
        return self.minimum * ops.exp(self.log_minimum), self.maximum * ops.exp(self.log_maximum)

    def call(self, inputs: Any) -> Any:
        """Return the scales and the zero points."""
        minimum, maximum = self.ranges()
        scale = _divide_range(minimum, maximum)
        zero_point = round_levels(_LOWEST - minimum / scale)
        return ops.concatenate([ops.stack([scale, zero_point]), ops.convert_to_tensor(self.fixed_values)], axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {"trained": self.trained, "fixed": self.fixed, "source": self.source}


def _divide_range(minimum: Any, maximum: Any) -> Any:
    """Return (maximum - minimum) / 255 rounded once, as TensorFlow's converter has it, which divides in float64."""
    width = maximum - minimum
    back = width - maximum
    lost = (maximum - (width - back)) - (minimum + back)
    return _divide(width, _STEPS, lost)


def _divide(x: Any, divisor: int, lost: Any = 0.0) -> Any:
    """Return (x + lost) / divisor, a power of two less one, rounded once: compilers multiply by 1 / divisor."""
    quotient = x / divisor
    remainder = (x - (divisor + 1) * quotient) + quotient + lost  # the product is exact
    return quotient + ops.stop_gradient(remainder) / divisor


def _quantization(ranges: Any, group: str) -> Quantization:
    """Return the quantization of a group: "3" is its number in `ActivationRanges`, "3:-128" has a fixed zero point.

    It is text because Keras on JAX traces the numbers in a list that a layer is called with.
    """
    number, _, zero_point = group.partition(":")
    index = int(number)
    return Quantization(ranges[0, index], float(zero_point) if zero_point else ranges[1, index])


@keras.saving.register_keras_serializable(package="keras_nin")
class QuantizeInput(_Float32Layer):
    """From real numbers to levels; takes [values, ranges] and the group."""

    def call(self, inputs: Any, target: str) -> Any:
        """Return levels, rounded half away from zero as `keras_nin.tflite.quantization.quantize` does it."""
        values, ranges = inputs
        output = _quantization(ranges, target)
        levels = ops.cast(values, "float32") / output.scale
        clipped = clip_levels(levels, *clip_range(output))
        rounded = ops.sign(clipped) * ops.floor(ops.abs(clipped) + 0.5)
        return clipped + ops.stop_gradient(rounded - clipped)


@keras.saving.register_keras_serializable(package="keras_nin")
class DequantizeOutput(_Float32Layer):
    """From levels to real numbers; takes [levels, ranges] and the group.

    `activation` is the name of the one that closes the network, for those who read it; it is not computed here.
    """

    def __init__(self, activation: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def call(self, inputs: Any, source: str) -> Any:
        """Return the values that the levels stand for."""
        levels, ranges = inputs
        return levels * _quantization(ranges, source).scale

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {"activation": self.activation.__name__}


@keras.saving.register_keras_serializable(package="keras_nin")
class QuantizedKernel(_Float32Layer):
    """A convolution or dense layer on int8 levels; takes [levels, ranges] and the groups of its input and output.

    Weights are symmetric with one scale per output channel. At 8 bits the largest weight of a channel is 127 steps, as
    in the file; at fewer bits the steps are trained.

    The weights are stored over a power of two per channel, `unit`, that brings them near the size at which kernels are
    initialized: folding a BatchNormalization leaves channels of all sizes, and an optimizer takes steps of one size.

    Args:
        kind: "conv" or "transposed" (h, w, I, O), "depthwise" (h, w, I, M) or "dense" (I, O).
        kernel_shape: shape of the kernel.
        use_bias: whether there is one.
        options: of the operator in the file: strides, dilations, padding, fused activation.
        weight_bits: 8, or fewer for weights that an int8 file holds as small numbers.
    """

    def __init__(
        self,
        kind: str,
        kernel_shape: tuple[int, ...],
        use_bias: bool,
        options: dict[str, Any],
        weight_bits: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind, self.kernel_shape, self.use_bias = kind, tuple(kernel_shape), use_bias
        self.options, self.weight_bits = dict(options), weight_bits
        outputs = (self.outputs,)
        self.kernel = self.add_weight(name="kernel", shape=self.kernel_shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=outputs, initializer="zeros") if use_bias else None
        self.unit = self.add_weight(name="unit", shape=outputs, initializer="ones", trainable=False)
        self.step = self.log_step = None
        if weight_bits < 8:
            self.step = self.add_weight(name="step", shape=outputs, initializer="ones", trainable=False)
            self.log_step = self.add_weight(name="log_step", shape=outputs, initializer="zeros")

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(np.prod(self.kernel_shape[2:])) if self.kind == "depthwise" else self.kernel_shape[-1]

    @property
    def levels(self) -> int:
        """The largest integer that a weight may be."""
        return 2 ** (self.weight_bits - 1) - 1

    def quantize_kernel(self) -> tuple[Any, Any]:
        """Return the kernel's integers, in its shape, and the scale of each output channel."""
        rows = ops.reshape(self.kernel, (-1, self.outputs)) if self.kind != "depthwise" else None
        kernel = ops.reshape(self.kernel, (*self.kernel_shape[:2], self.outputs)) if rows is None else rows
        if self.step is None:
            largest = ops.max(ops.abs(kernel), axis=tuple(range(len(kernel.shape) - 1)))
            step = ops.stop_gradient(_divide(ops.where(largest > 0, largest, 1.0), self.levels))
            integers = round_levels(kernel / step)
        else:
            step = self.step * ops.exp(self.log_step)
            limit = self.levels * (1 + _TIE)
            integers = round_levels(clip_levels(kernel / step, -limit, limit))
        return ops.reshape(integers, self.kernel_shape), step * self.unit

    def call(self, inputs: Any, source: str, target: str) -> Any:
        """Return the levels of the output."""
        x, ranges = inputs
        kernel, scale = self.quantize_kernel()
        first, output = _quantization(ranges, source), _quantization(ranges, target)
        scale = first.scale * scale
        total = self._multiply(x, kernel)
        if self.bias is not None:
            total = total + round_levels(self.bias * self.unit / scale)
        multiplier = scale / output.scale
        if self.step is None:
            # The gradient of one number is cheaper than those of all channels, whose scales have none.
            ratio = first.scale / output.scale
            multiplier = ops.stop_gradient(multiplier)
            total = total * (ratio / ops.stop_gradient(ratio))
        return requantize(total, multiplier, *clip_range(output, self.options["fused_activation"]))

    def _multiply(self, x: Any, kernel: Any) -> Any:
        options = self.options
        if self.kind == "dense":
            if not options.get("keep_num_dims"):
                x = ops.reshape(x, (-1, self.kernel_shape[0]))
            return ops.matmul(x, kernel)
        strides, padding = (options["stride_h"], options["stride_w"]), options["padding"].lower()
        if self.kind == "transposed":
            kernel = ops.transpose(kernel, (0, 1, 3, 2))
            return ops.conv_transpose(x, kernel, strides, padding=padding, data_format="channels_last")
        return (ops.conv if self.kind == "conv" else ops.depthwise_conv)(
            x,
            kernel,
            strides=strides,
            padding=padding,
            data_format="channels_last",
            dilation_rate=(options["dilation_h"], options["dilation_w"]),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        names = ("kind", "kernel_shape", "use_bias", "options", "weight_bits")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_nin")
class QuantizedOperator(_Float32Layer):
    """An operator without trained weights; takes [levels, ..., ranges] and their groups, with commas between them.

    Args:
        op: TFLite's name, one of `OPERATORS`.
        options: of the operator, and what its rule needs besides.
        constant: shape of a constant operand, or None; its levels are the weight ``constant``.
        position: of the constant among the operands.
        smooth: whether the output is left unrounded in training: the probabilities at the end of a network, where 0
            would have no logarithm.
    """

    def __init__(
        self,
        op: str,
        options: dict[str, Any],
        constant: tuple[int, ...] | None = None,
        position: int = 1,
        smooth: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.op, self.options, self.position, self.smooth = op, dict(options), position, smooth
        self.constant_shape = None if constant is None else tuple(constant)
        self.constant = None
        if self.constant_shape is not None:
            self.constant = self.add_weight(
                name="constant", shape=self.constant_shape, initializer="zeros", trainable=False
            )

    def call(self, inputs: Any, sources: str, targets: str, training: bool = False) -> Any:
        """Return the levels of the output, or of each where there are several."""
        *values, ranges = inputs
        if self.constant is not None:
            values.insert(self.position, ops.convert_to_tensor(self.constant))
        first, last = ([_quantization(ranges, group) for group in groups.split(",")] for groups in (sources, targets))
        options = self.options | {"exact": not (training and self.smooth)}
        return OPERATORS[self.op](values, first, last, options)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        names = ("op", "options", "position", "smooth")
        return super().get_config() | {name: getattr(self, name) for name in names} | {"constant": self.constant_shape}
