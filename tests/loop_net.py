"""A small float32 network with a loop, as a .tflite file: what an LSTM becomes, without Keras."""

import numpy as np
from tflite_writer import operator, tensor, write

STEPS, UNITS = 7, 64


def loop_net(path, steps=STEPS, units=UNITS):
    """Write the network to `path` and return it: relu, `steps` times (dense, tanh), dense.

    None for `steps` reads their number from a second input, so that it is not known before the file runs.
    """
    rng = np.random.default_rng(0)

    def value(name):
        return tensor(name, (1, units), "FLOAT32")

    def number(name, *data):
        return tensor(name, (), "INT32", data[0] if data else None)

    main = [value("in"), number("start", 0), number("steps", *([] if steps is None else [steps])), value("relu")]
    main += [
        number("last"),
        number("same_steps"),
        value("loop"),
        tensor("w", (10, units), "FLOAT32", rng.normal(size=(10, units))),
    ]
    main += [tensor("out", (1, 10), "FLOAT32")]
    condition = [number("step"), number("limit"), value("state"), tensor("more", (), "BOOL")]
    weights = tensor("cell/w", (units, units), "FLOAT32", rng.normal(size=(units, units)) / 8)
    body = [number("step"), number("limit"), value("state"), number("one", 1), weights, number("next")]
    body += [value("product"), value("new")]
    return write(
        path,
        main,
        [
            operator("RELU", [0], [3]),
            operator("WHILE", [1, 2, 3], [4, 5, 6], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2),
            operator("FULLY_CONNECTED", [6, 7, -1], [8], "FullyConnectedOptions"),
        ],
        inputs=(0,) if steps is not None else (0, 2),
        more=[
            (condition, [operator("LESS", [0, 1], [3], "LessOptions")], (0, 1, 2), (3,)),
            (
                body,
                [
                    operator("ADD", [0, 3], [5], "AddOptions"),
                    operator("FULLY_CONNECTED", [2, 4, -1], [6], "FullyConnectedOptions"),
                    operator("TANH", [6], [7]),
                ],
                (0, 1, 2),
                (5, 1, 7),
            ),
        ],
    )
