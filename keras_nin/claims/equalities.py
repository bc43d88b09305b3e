"""Claims that two computations are equal, held against what the built layers give."""

import numpy as np

from keras_nin.claims.networks import network, noise, randomize, relative_difference, run
from keras_nin.claims.records import AtMost, Claim, Declared
from keras_nin.claims.sources import LECUN, PAPERSPACE, TRANSWIKIA

# Sums of up to 3,136 float32 products in another order.
EQUAL = AtMost(1e-5)


def _weighting():
    from keras_nin import layers

    image = noise(1, 28, 28, 1)
    figures = {}
    for factor in (4.0, 0.1):
        model = network(
            lambda x: layers.conv1x1(x, 1, activation=None, use_bias=False, name="conv1"), (28, 28, 1), "weighting"
        )
        model.set_weights([np.full((1, 1, 1, 1), factor, np.float32)])
        different = run(model, image) != np.float32(factor) * image
        figures[f"filter {factor:g}: pixels that are not {factor:g} x input"] = int(different.sum())
    return figures


def _fully_connected():
    from keras_nin import models

    net = randomize(models.build("convnet_linear_head"))
    turned = models.dense_to_conv(net)
    images = noise(4, 28, 28, 1)
    figures = {
        "kernel of the dense layer after Flatten": turned.get_layer("dense1").kernel_size,
        "kernel of the dense layer after it": turned.get_layer("dense2").kernel_size,
        "28x28 images, largest relative difference": relative_difference(
            run(turned, images)[:, 0, 0], run(net, images)
        ),
        "60x44 image: output": run(turned, noise(1, 60, 44, 1)).shape[1:],
    }
    return figures | {"9x10 map: head at its 3x4 places, largest relative difference": _every_place()}


def _every_place():
    """Run the turned head on a map larger than 7x7 and compare each place with the dense head on that 7x7 crop."""
    from keras import layers as kl

    from keras_nin import models

    def graph(x):
        x = kl.Dense(100, activation="relu", name="dense1")(kl.Flatten(name="flatten")(x))
        return kl.Dense(10, name="dense2")(x)

    head = randomize(network(graph, (7, 7, 64), "head"))
    larger = noise(1, 9, 10, 64)
    crops = [larger[0, top : top + 7, left : left + 7] for top in range(3) for left in range(4)]
    scores = run(models.dense_to_conv(head), larger)
    return relative_difference(scores.reshape(-1, 10), run(head, np.stack(crops)))


def _one_channel():
    from keras_nin import models
    from keras_nin.audit import audit

    image = noise(1, 28, 28, 1)
    ranks = {}
    for side in (1, 3):
        model = randomize(models.build(f"conv{side}x{side}_1to16"))
        outputs = run(model, image).reshape(-1, 16)
        _, bias = model.get_weights()
        ranks[side] = int(np.linalg.matrix_rank(outputs - bias))
        if side == 1:
            after_relu = int(np.linalg.matrix_rank(np.maximum(outputs, 0)))
    findings = audit(models.build("conv1x1_1to16")).findings
    return {
        "1x1 layer, rank of the 16 outputs without bias": ranks[1],
        "3x3 layer, rank of the 16 outputs without bias": ranks[3],
        "1x1 layer with its biases and a ReLU, rank above 1": after_relu > 1,
        "finding of the audit": " ".join(found.rule for found in findings if "conv1" in found.layers),
    }


CLAIMS = (
    Claim(
        id="paperspace-weighting",
        source=PAPERSPACE,
        text="A 1x1 filter of value 4 on one channel multiplies every pixel by 4.",
        figures=(
            Declared("filter 4: pixels that are not 4 x input", 0),
            Declared("filter 0.1: pixels that are not 0.1 x input", None, 0),
        ),
        measure=_weighting,
        why="It holds to the last bit, without a bias: one product in float32, rounded once. That is as true of a "
        "factor which float32 cannot hold exactly, such as 0.1, once it is rounded to float32.",
    ),
    Claim(
        id="lecun-fc",
        source=LECUN,
        text="A fully connected layer is a convolution with 1x1 kernels and a full connection table.",
        figures=(
            Declared("kernel of the dense layer after Flatten", (1, 1), (7, 7)),
            Declared("kernel of the dense layer after it", (1, 1)),
            Declared("28x28 images, largest relative difference", EQUAL),
            Declared("60x44 image: output", None, (60 // 4 - 7 + 1, 44 // 4 - 7 + 1, 10)),
            Declared("9x10 map: head at its 3x4 places, largest relative difference", None, EQUAL),
        ),
        measure=_fully_connected,
        why="The outputs are equal, and the convolution also runs on larger images, where it gives a map of scores: at "
        "each place those of the dense head on that part of the map. But only a dense layer on a vector has a 1x1 "
        "kernel; one after Flatten covers its whole map and becomes a 7x7 kernel.",
    ),
    Claim(
        id="transwikia-one-channel",
        source=TRANSWIKIA,
        text="Behind 28x28x1, every output channel of a 1x1 layer is the input times a constant.",
        figures=(
            Declared("1x1 layer, rank of the 16 outputs without bias", 1),
            Declared("3x3 layer, rank of the 16 outputs without bias", None, 9),
            Declared("1x1 layer with its biases and a ReLU, rank above 1", None, True),
            Declared("finding of the audit", None, "pointwise-on-one-channel"),
        ),
        measure=_one_channel,
        why="It holds for the layer itself: without their biases the 16 channels have rank 1. A ReLU behind different "
        "biases cuts each channel at another brightness, so what follows it is more than multiples of the input.",
    ),
)
