"""Two linear layers in a row as the one layer that they are: the composition that shows what a ReLU between is for."""

import numpy as np


def compose_convolutions(first, second):
    """Return (kernel, bias) of the convolution equal to `first` followed by the 1x1 convolution `second`.

    W = W1 . W2 at every position of the kernel, b = b1 . W2 + b2. Exact where nothing stands between the two.

    Args:
        first: (kernel (h, w, Cin, C), bias (C,)).
        second: (kernel (1, 1, C, Cout), bias (Cout,)).
    """
    (kernel1, bias1), (kernel2, bias2) = _wide(first), _wide(second)
    matrix = kernel2[0, 0]
    return kernel1 @ matrix, bias1 @ matrix + bias2


def compose_with_dense(first, dense, positions):
    """Return (kernel, bias) of the dense layer equal to a 1x1 convolution, Flatten, and a dense layer.

    Args:
        first: (kernel (1, 1, C, C'), bias (C',)).
        dense: (kernel (positions * C', units), bias (units,)).
        positions: of the map.
    """
    (kernel1, bias1), (kernel2, bias2) = _wide(first), _wide(dense)
    matrix = kernel1[0, 0]
    places = kernel2.reshape(positions, matrix.shape[1], -1)
    kernel = (matrix @ places).reshape(positions * matrix.shape[0], -1)
    return kernel, np.einsum("c,pcu->u", bias1, places) + bias2


def _wide(weights):
    return [np.asarray(weight, np.float64) for weight in weights]
