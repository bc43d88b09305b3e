"""Local response normalisation from operators that every integer runtime has: products, convolutions, ReLUs.

The factor is ``(k + alpha / size * S) ** -beta`` with S the sum of the squares around a channel. S spans five orders of
magnitude and the factor falls over all of them, so no one 8-bit range holds S. Here a bank of terms holds it, each with
a range of its own: with ``t = alpha / (size * k) * S``

    root(t) = k ** (-beta / 2) * (offset + sum of weight_i * max(0, 1 - t / limit_i) ** 4),    y = x * root * root

The limits are 4, 20, 100, 500 and about 2,500. A term needs the sum up to its limit only, where every square can be
clipped as well: each step of it lies in [-1, 1] or [0, 1], whatever the input. The root, and not the factor itself,
because it varies over half as many orders of magnitude, which suits an 8-bit range. docs/concepts/integer_lrn.md has the figures.
"""

import contextlib
import contextvars
import dataclasses
import functools

import keras
import numpy as np

from keras_nin.errors import InputError
from keras_nin.layers.blocks import check_positive

MAX_FITTED_SUM = 1024.0  # the sum t up to which the fit holds
_FIRST_LIMIT = 4.0
_RATIO = 5.0
_TERMS = 5
_LEVELS = 127  # of the gains: a multiple of the largest over this is exact in 8 bits
_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class IntegerForm:
    """The constants of the form for one set of `size`, `alpha`, `beta` and `k`.

    Attributes:
        gains: what the input is multiplied by in each term: its square is then t / limit of the term.
        weights: of each term in the root of the factor.
        offset: the root beyond all limits.
        error: largest relative error of the factor for a t from 0 to `REACH`.
    """

    gains: tuple[float, ...]
    weights: tuple[float, ...]
    offset: float
    error: float

    def factor(self, squares):
        """Return the factor for sums of squares of any shape, float64."""
        squares = np.asarray(squares, np.float64)[..., None]
        left = np.maximum(1 - squares * np.square(self.gains), 0)
        return (self.offset + left**4 @ np.array(self.weights)) ** 2


@functools.cache
def fit_integer_form(size, alpha, beta, k):
    """Return the `Bank` of the constants of `LocalResponseNormalization`, by least squares of the relative error.

    Raises:
        InputError: `alpha`, `beta` or `k` is not positive.
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if not value > 0:
            raise InputError(f"Expected `{name}` to be positive for the integer form. Received: {value!r}")
    levels = np.round(_LEVELS * np.sqrt(_RATIO ** -np.arange(_TERMS)))
    limits = _FIRST_LIMIT * (_LEVELS / levels) ** 2
    t = np.concatenate([[0.0], np.geomspace(0.01, MAX_FITTED_SUM, 512)])
    root = (1 + t) ** (-beta / 2)
    terms = np.column_stack([np.maximum(1 - t[:, None] / limits, 0) ** 4, np.ones_like(t)])
    *weights, offset = np.linalg.lstsq(terms / root[:, None], np.ones_like(t), rcond=None)[0]
    found = terms @ [*weights, offset]
    scale = k ** (-beta / 2)
    return IntegerForm(
        gains=tuple(map(float, np.sqrt(alpha / (size * k * limits)))),
        weights=tuple(float(scale * weight) for weight in weights),
        offset=float(scale * offset),
        error=float(np.abs((found / root) ** 2 - 1).max()),
    )


def apply_integer_form(inputs, size, alpha, beta, k):
    """Return the normalised `inputs` (B, H, W, C); the other arguments are those of `LocalResponseNormalization`.

    Raises:
        InputError: `alpha`, `beta` or `k` is not positive.
    """
    from keras import ops

    bank = fit_integer_form(size, alpha, beta, k)
    _, height, width, channels = ops.shape(inputs)
    terms, dtype = len(bank.gains), inputs.dtype
    x = ops.reshape(inputs, (-1, 1, height * width, channels))
    x = x * ops.convert_to_tensor(np.reshape(bank.gains, (1, terms, 1, 1)), dtype)  # (B, terms, H * W, C)
    x = ops.minimum(ops.maximum(x, -1.0), 1.0)  # this pair and no clip: TFLite fuses it as RELU_N1_TO_1
    left = _one_minus_channel_sum(x * x, size, height * width)
    left = left * left
    left = left * left  # a product and no power or square: TFLite has these in floating point alone
    kernel = np.tile(np.reshape(bank.weights, (terms, 1, 1, 1)), (1, 1, channels, 1))
    root = ops.depthwise_conv(left, ops.convert_to_tensor(kernel, dtype), data_format="channels_last")
    root = root + ops.convert_to_tensor(np.full(channels, bank.offset), dtype)
    root = ops.reshape(root, (-1, height, width, channels))
    return inputs * root * root


def _one_minus_channel_sum(squares, size, positions):
    """Return max(0, 1 - sum over the `size` channels around) of a (B, terms, positions, C)."""
    from keras import ops

    terms, channels = squares.shape[1], squares.shape[-1]
    block = _block_size(channels, size)
    blocks = 1 if block == channels else 3  # its own and the two beside it
    place = np.arange(blocks * block) - blocks // 2 * block
    band = np.abs(place[:, None] - np.arange(block)) <= size // 2
    kernel = ops.convert_to_tensor(-band.reshape(1, blocks, block, block).astype("float32"), squares.dtype)
    if blocks > 1:
        squares = ops.reshape(squares, (-1, terms * positions, channels // block, block))
    total = ops.conv(squares, kernel, padding="same", data_format="channels_last")
    left = ops.relu(total + ops.ones(block, squares.dtype))
    return ops.reshape(left, (-1, terms, positions, channels)) if blocks > 1 else left


def _block_size(channels, size):
    """Return how many channels share a kernel: blocks of 16 take 48 MACs a value, all at once as many as channels."""
    fits = channels % _BLOCK == 0 and size // 2 <= _BLOCK and channels > 3 * _BLOCK
    return _BLOCK if fits else channels


# MERGED Local response normalisation, which Keras does not have.

_USE_INTEGER_FORM = contextvars.ContextVar("integer_form", default=False)


@contextlib.contextmanager
def use_integer_form(used=True):
    """Let every `LocalResponseNormalization` that is called inside compute by `keras_nin.layers.normalization.apply_integer_form`.

    Its values are those of the formula to a few per cent, from operators that quantise to 8 bits; the layer, its name
    and its configuration stay what they are.

    Args:
        used: False for the formula itself, as outside.
    """
    token = _USE_INTEGER_FORM.set(used)
    try:
        yield
    finally:
        _USE_INTEGER_FORM.reset(token)


@keras.saving.register_keras_serializable(package="keras_nin")
class LocalResponseNormalization(keras.layers.Layer):
    """Divide every value by a power of the squares of its neighbours in the channels.

    ``y = x / (k + alpha / size * sum of x**2 over the `size` channels around) ** beta``: Krizhevsky et al., "ImageNet
    classification with deep convolutional neural networks", section 3.3, with alpha divided by `size` as in Caffe.
    Input and output (B, H, W, C). TFLite has it as one operator, in floating point only; see `integer_form`.

    Args:
        size: number of channels that take part, odd.
        alpha, beta, k: constants of the formula.

    Raises:
        InputError: `size` is no odd positive integer.
    """

    def __init__(self, size=5, alpha=1e-4, beta=0.75, k=1.0, **kwargs):
        super().__init__(**kwargs)
        if check_positive("size", size) % 2 == 0:
            raise InputError(f"Expected `size` to be odd. Received: {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def call(self, inputs):
        """Return the normalised (B, H, W, C)."""
        if _USE_INTEGER_FORM.get():
            return apply_integer_form(inputs, self.size, self.alpha, self.beta, self.k)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # whose operation the converter keeps as one operator

            return tf.nn.local_response_normalization(
                inputs, depth_radius=self.size // 2, bias=self.k, alpha=self.alpha / self.size, beta=self.beta
            )
        reach, channels = self.size // 2, inputs.shape[-1]
        squares = keras.ops.pad(keras.ops.square(inputs), ((0, 0), (0, 0), (0, 0), (reach, reach)))
        total = sum(squares[..., shift : shift + channels] for shift in range(self.size))
        return inputs / keras.ops.power(self.k + self.alpha / self.size * total, self.beta)

    def compute_output_shape(self, input_shape):
        """Return the input's own shape."""
        return input_shape

    def get_config(self):
        """Return the constants of the formula."""
        return {**super().get_config(), "size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}


def local_response_normalization(x, size=5, *, alpha=1e-4, beta=0.75, k=1.0, name=None):
    """Divide every value by a power of the squares of its neighbours in the channels.

    Args:
        x: tensor (B, H, W, C).
        size, alpha, beta, k: as in `LocalResponseNormalization`, which gives the formula and its source.
        name: name of the layer.

    Returns:
        Tensor (B, H, W, C).

    Raises:
        InputError: `size` is no odd positive integer.
    """
    return LocalResponseNormalization(size, alpha, beta, k, name=name)(x)
