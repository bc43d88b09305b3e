"""A small float32 network with two branches, one operator of which TensorFlow Lite runs itself, as a .tflite file."""

import numpy as np
from tflite_writer import operator, tensor, write

SIZE, CHANNELS = 16, 8
# What ran for it: recorded with LiteRT 2.3. The third operator runs before the second, and RESHAPE is one of XNNPACK's.
KERNELS = (
    ("delegate", "Fully Connected (NC, F32) GEMM", 0),
    ("delegate", "Fully Connected (NC, F32) GEMM", 1),
    ("operator", "LOCAL_RESPONSE_NORMALIZATION", 1),
    ("delegate", "Convolution (NHWC, F32) IGEMM", 0),
    ("delegate", "Copy (NC, X32)", 1),
    ("delegate", "Static Reshape (NC)", 2),
    ("delegate", "Static Reshape (NC)", 3),
    ("delegate", "Fully Connected (NC, F32) GEMM", 4),
)


def branched_net(path):
    """Write the network to `path` and return it: conv, LRN, conv, padded conv 3x3, concat, reshape, dense."""
    rng = np.random.default_rng(0)

    def weights(name, *shape):
        return tensor(name, shape, "FLOAT32", rng.normal(size=shape))

    def activation(name, *shape):
        return tensor(name, shape, "FLOAT32")

    image = (1, SIZE, SIZE, CHANNELS)
    tensors = [
        activation("image", *image),
        weights("first/w", CHANNELS, 1, 1, CHANNELS),
        weights("bias", CHANNELS),
        activation("first", *image),
        activation("normal", *image),
        weights("second/w", CHANNELS, 1, 1, CHANNELS),
        activation("second", *image),
        tensor("paddings", (4, 2), "INT32", [[0, 0], [1, 1], [1, 1], [0, 0]]),
        activation("padded", 1, SIZE + 2, SIZE + 2, CHANNELS),
        weights("third/w", CHANNELS, 3, 3, CHANNELS),
        activation("third", *image),
        activation("both", 1, SIZE, SIZE, 2 * CHANNELS),
        tensor("flat_shape", (2,), "INT32", [1, SIZE * SIZE * 2 * CHANNELS]),
        activation("flat", 1, SIZE * SIZE * 2 * CHANNELS),
        weights("dense/w", 10, SIZE * SIZE * 2 * CHANNELS),
        activation("dense", 1, 10),
    ]
    one = {"strideW": 1, "strideH": 1}
    return write(
        path,
        tensors,
        [
            operator("CONV_2D", [0, 1, 2], [3], "Conv2DOptions", **one),
            operator(
                "LOCAL_RESPONSE_NORMALIZATION", [3], [4], "LocalResponseNormalizationOptions", radius=2, bias=1, alpha=1
            ),
            operator("CONV_2D", [3, 5, 2], [6], "Conv2DOptions", **one),
            operator("PAD", [4, 7], [8], "PadOptions"),
            operator("CONV_2D", [8, 9, 2], [10], "Conv2DOptions", padding=1, **one),
            operator("CONCATENATION", [6, 10], [11], "ConcatenationOptions", axis=3),
            operator("RESHAPE", [11, 12], [13], "ReshapeOptions"),
            operator("FULLY_CONNECTED", [13, 14, -1], [15], "FullyConnectedOptions"),
        ],
    )


def recorded(us=2.0):
    """Return `KERNELS` as the runner tells them, each of so many microseconds."""
    times = {"median": us, "mean": us, "p90": us, "typical": us}
    return [{"kind": kind, "name": name, "index": index, "us": times} for kind, name, index in KERNELS]
