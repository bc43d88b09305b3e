"""Local response normalisation from operators that every integer runtime has: products, convolutions, ReLUs.

The factor is ``(k + alpha / size * S) ** -beta`` with S the sum of the squares around a channel. S spans five orders of
magnitude and the factor falls over all of them, so no one 8-bit range holds S. Here a bank of terms holds it, each with
a range of its own: with ``t = alpha / (size * k) * S``

    root(t) = k ** (-beta / 2) * (offset + sum of weight_i * max(0, 1 - t / limit_i) ** 4),    y = x * root * root

The limits are 4, 20, 100, 500 and about 2,500. A term needs the sum up to its limit only, where every square can be
clipped as well: each step of it lies in [-1, 1] or [0, 1], whatever the input. The root, and not the factor itself,
because it varies over half as many orders of magnitude, which suits an 8-bit range. docs/lrn.md has the figures.
"""

import dataclasses
import functools

import numpy as np

from keras_nin.errors import InputError

REACH = 1024.0  # the sum t up to which the fit holds
_FIRST_LIMIT = 4.0
_RATIO = 5.0
_TERMS = 5
_LEVELS = 127  # of the gains: a multiple of the largest over this is exact in 8 bits
_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class Bank:
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
def fit(size, alpha, beta, k):
    """Return the `Bank` of the constants of `LocalResponseNormalization`, by least squares of the relative error.

    Raises:
        InputError: `alpha`, `beta` or `k` is not positive.
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if not value > 0:
            raise InputError(f"Expected `{name}` to be positive for the integer form. Received: {value!r}")
    levels = np.round(_LEVELS * np.sqrt(_RATIO ** -np.arange(_TERMS)))
    limits = _FIRST_LIMIT * (_LEVELS / levels) ** 2
    t = np.concatenate([[0.0], np.geomspace(0.01, REACH, 512)])
    root = (1 + t) ** (-beta / 2)
    terms = np.column_stack([np.maximum(1 - t[:, None] / limits, 0) ** 4, np.ones_like(t)])
    *weights, offset = np.linalg.lstsq(terms / root[:, None], np.ones_like(t), rcond=None)[0]
    found = terms @ [*weights, offset]
    scale = k ** (-beta / 2)
    return Bank(
        gains=tuple(map(float, np.sqrt(alpha / (size * k * limits)))),
        weights=tuple(float(scale * weight) for weight in weights),
        offset=float(scale * offset),
        error=float(np.abs((found / root) ** 2 - 1).max()),
    )


def normalize(inputs, size, alpha, beta, k):
    """Return the normalised `inputs` (B, H, W, C); the other arguments are those of `LocalResponseNormalization`.

    Raises:
        InputError: `alpha`, `beta` or `k` is not positive.
    """
    from keras import ops

    bank = fit(size, alpha, beta, k)
    _, height, width, channels = ops.shape(inputs)
    terms, dtype = len(bank.gains), inputs.dtype
    x = ops.reshape(inputs, (-1, 1, height * width, channels))
    x = x * ops.convert_to_tensor(np.reshape(bank.gains, (1, terms, 1, 1)), dtype)  # (B, terms, H * W, C)
    x = ops.minimum(ops.maximum(x, -1.0), 1.0)  # this pair and no clip: TFLite fuses it as RELU_N1_TO_1
    left = _one_less_sum(x * x, size, height * width)
    left = left * left
    left = left * left  # a product and no power or square: TFLite has these in floating point alone
    kernel = np.tile(np.reshape(bank.weights, (terms, 1, 1, 1)), (1, 1, channels, 1))
    root = ops.depthwise_conv(left, ops.convert_to_tensor(kernel, dtype), data_format="channels_last")
    root = root + ops.convert_to_tensor(np.full(channels, bank.offset), dtype)
    root = ops.reshape(root, (-1, height, width, channels))
    return inputs * root * root


def _one_less_sum(squares, size, positions):
    """Return max(0, 1 - sum over the `size` channels around) of a (B, terms, positions, C)."""
    from keras import ops

    terms, channels = squares.shape[1], squares.shape[-1]
    block = _block(channels, size)
    blocks = 1 if block == channels else 3  # its own and the two beside it
    place = np.arange(blocks * block) - blocks // 2 * block
    band = np.abs(place[:, None] - np.arange(block)) <= size // 2
    kernel = ops.convert_to_tensor(-band.reshape(1, blocks, block, block).astype("float32"), squares.dtype)
    if blocks > 1:
        squares = ops.reshape(squares, (-1, terms * positions, channels // block, block))
    total = ops.conv(squares, kernel, padding="same", data_format="channels_last")
    left = ops.relu(total + ops.ones(block, squares.dtype))
    return ops.reshape(left, (-1, terms, positions, channels)) if blocks > 1 else left


def _block(channels, size):
    """Return how many channels share a kernel: blocks of 16 take 48 MACs a value, all at once as many as channels."""
    fits = channels % _BLOCK == 0 and size // 2 <= _BLOCK and channels > 3 * _BLOCK
    return _BLOCK if fits else channels
