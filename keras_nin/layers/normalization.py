"""Local response normalization, which Keras does not have: by its formula, and from operators that quantize to 8 bits.

With ``t = alpha / (size * k) * (sum of squares)``, the integer form is ``y = x * root * root`` and

    root(t) = k ** (-beta / 2) * (offset + sum of weight_i * max(0, 1 - t / limit_i) ** 4)

Each term has an 8-bit range of its own; docs/concepts/integer_lrn.md says why.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nin.errors import check_whole_number, expected_error

MAX_FITTED_SUM = 1024.0  # the t up to which the fit holds
_FIRST_LIMIT = 4.0
_RATIO = 5.0
_TERMS = 5
_LEVELS = 127  # of the gains: a multiple of the largest over this is exact in 8 bits
_CHANNEL_BLOCK = 16

_USE_INTEGER_FORM = contextvars.ContextVar("use_integer_form", default=False)


@contextlib.contextmanager
def use_integer_form(used: bool = True) -> Iterator[None]:
    """Let every `LocalResponseNormalization` that is called inside compute in its integer form, if `used`.

    Its values are those of the formula to a few percent, from operators that quantize to 8 bits; the layer, its name
    and its configuration stay what they are.
    """
    token = _USE_INTEGER_FORM.set(used)
    try:
        yield
    finally:
        _USE_INTEGER_FORM.reset(token)


@keras.saving.register_keras_serializable(package="keras_nin")
class LocalResponseNormalization(keras.layers.Layer):
    """Divide every value by a power of the squares of its neighbors in the channels.

    ``y = x / (k + alpha / size * sum of x**2 over the `size` channels around) ** beta``: Krizhevsky et al., "ImageNet
    classification with deep convolutional neural networks", section 3.3, with alpha divided by `size` as in Caffe.
    Input and output (B, H, W, C). TFLite has it as one operator, in floating point only; see `use_integer_form`.

    Args:
        size: number of channels that take part, odd.
        alpha, beta, k: constants of the formula.

    Raises:
        InputError: `size` is not an odd positive integer.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if check_whole_number("size", size) % 2 == 0:
            raise expected_error("size", "to be odd", size)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def call(self, inputs: Any) -> Any:
        """Return the normalized (B, H, W, C)."""
        if _USE_INTEGER_FORM.get():
            return _normalize_in_integer_form(inputs, self.size, self.alpha, self.beta, self.k)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # whose operation the converter keeps as one operator

            return tf.nn.local_response_normalization(
                inputs, depth_radius=self.size // 2, bias=self.k, alpha=self.alpha / self.size, beta=self.beta
            )
        radius, channels = self.size // 2, inputs.shape[-1]
        squares: Any = ops.pad(ops.square(inputs), ((0, 0), (0, 0), (0, 0), (radius, radius)))
        total = sum(squares[..., shift : shift + channels] for shift in range(self.size))
        return inputs / ops.power(self.k + self.alpha / self.size * total, self.beta)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's own shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constants of the formula."""
        return {**super().get_config(), "size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}


def local_response_normalization(
    x: keras.KerasTensor,
    size: int = 5,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    name: str | None = None,
) -> keras.KerasTensor:
    """Return `x` (B, H, W, C) after a `LocalResponseNormalization`, which documents the arguments."""
    return LocalResponseNormalization(size, alpha, beta, k, name=name)(x)


@dataclasses.dataclass(frozen=True)
class IntegerForm:
    """The constants of the integer form for one set of `size`, `alpha`, `beta` and `k`.

    The square of the input times a term's gain is t / limit of the term. `offset` is the root beyond all limits, and
    `error` the largest relative error of the factor for a t from 0 to `MAX_FITTED_SUM`.
    """

    gains: tuple[float, ...]
    weights: tuple[float, ...]
    offset: float
    error: float


@functools.cache
def fit_integer_form(size: int, alpha: float, beta: float, k: float) -> IntegerForm:
    """Return the `IntegerForm` of a `LocalResponseNormalization`, by least squares of relative errors."""
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if not value > 0:
            raise expected_error(name, "to be positive for the integer form", value)
    levels = np.round(_LEVELS * np.sqrt(_RATIO ** -np.arange(_TERMS)))
    limits = _FIRST_LIMIT * (_LEVELS / levels) ** 2
    t = np.concatenate([[0.0], np.geomspace(0.01, MAX_FITTED_SUM, 512)])
    root = (1 + t) ** (-beta / 2)
    terms = np.column_stack([np.maximum(1 - t[:, None] / limits, 0) ** 4, np.ones_like(t)])
    *weights, offset = np.linalg.lstsq(terms / root[:, None], np.ones_like(t), rcond=None)[0]
    fitted = terms @ [*weights, offset]
    scale = k ** (-beta / 2)
    return IntegerForm(
        gains=tuple(map(float, np.sqrt(alpha / (size * k * limits)))),
        weights=tuple(float(scale * weight) for weight in weights),
        offset=float(scale * offset),
        error=float(np.abs((fitted / root) ** 2 - 1).max()),
    )


def _normalize_in_integer_form(inputs: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    form = fit_integer_form(size, alpha, beta, k)
    shape: Any = ops.shape(inputs)
    _, height, width, channels = shape
    terms, dtype = len(form.gains), inputs.dtype
    x: Any = ops.reshape(inputs, (-1, 1, height * width, channels))
    x = x * ops.convert_to_tensor(np.reshape(form.gains, (1, terms, 1, 1)), dtype)  # (B, terms, H * W, C)
    x = ops.minimum(ops.maximum(x, -1.0), 1.0)  # this pair and no clip: TFLite fuses it as RELU_N1_TO_1
    term: Any = _one_minus_channel_sum(x * x, size, height * width)
    term = term * term
    term = term * term  # a product and no power or square: TFLite has these only in floating point
    kernel = np.tile(np.reshape(form.weights, (terms, 1, 1, 1)), (1, 1, channels, 1))
    root: Any = ops.depthwise_conv(term, ops.convert_to_tensor(kernel, dtype), data_format="channels_last")
    root = root + ops.convert_to_tensor(np.full(channels, form.offset), dtype)
    root = ops.reshape(root, (-1, height, width, channels))
    return inputs * root * root


def _one_minus_channel_sum(squares: Any, size: int, positions: int) -> Any:
    """Return max(0, 1 - sum over the `size` channels around) of a (B, terms, positions, C)."""
    terms, channels = squares.shape[1], squares.shape[-1]
    # Blocks of 16 channels share a kernel, at 48 MACs a value; all channels at once take as many as there are channels.
    blocked = channels % _CHANNEL_BLOCK == 0 and size // 2 <= _CHANNEL_BLOCK and channels > 3 * _CHANNEL_BLOCK
    block = _CHANNEL_BLOCK if blocked else channels
    blocks = 3 if blocked else 1  # its own and the two beside it
    offsets = np.arange(blocks * block) - blocks // 2 * block
    band = np.abs(offsets[:, None] - np.arange(block)) <= size // 2
    kernel = ops.convert_to_tensor(-band.reshape(1, blocks, block, block).astype("float32"), squares.dtype)
    if blocked:
        squares = ops.reshape(squares, (-1, terms * positions, channels // block, block))
    total = ops.conv(squares, kernel, padding="same", data_format="channels_last")
    rest = ops.relu(total + ops.ones(block, squares.dtype))
    return ops.reshape(rest, (-1, terms, positions, channels)) if blocked else rest
