"""Local response normalisation, which Keras does not have."""

import contextlib
import contextvars

import keras

from keras_nin.errors import InputError
from keras_nin.layers import lrn_integer
from keras_nin.layers.blocks import check_positive

_INTEGER_FORM = contextvars.ContextVar("integer_form", default=False)


@contextlib.contextmanager
def integer_form(used=True):
    """Let every `LocalResponseNormalization` that is called inside compute by `keras_nin.layers.lrn_integer.normalize`.

    Its values are those of the formula to a few per cent, from operators that quantise to 8 bits; the layer, its name
    and its configuration stay what they are.

    Args:
        used: False for the formula itself, as outside.
    """
    token = _INTEGER_FORM.set(used)
    try:
        yield
    finally:
        _INTEGER_FORM.reset(token)


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
        if _INTEGER_FORM.get():
            return lrn_integer.normalize(inputs, self.size, self.alpha, self.beta, self.k)
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
