"""A stand-in for Vela: it answers with files that Vela 5.2.0 wrote for the int8 export of nin_digits."""

import pathlib
import sys

from tflite_writer import operator, tensor, write

from keras_nin.edge.ethosu import vela

RECORDED = pathlib.Path(__file__).parent / "vela_nin_digits"
COMPILED = b"the compiled file"
# The MACs of nin_digits' convolutions.
MACS = {
    "mlpconv1_conv3x3": 8 * 8 * 48 * 9,
    "mlpconv1_conv1x1a": 8 * 8 * 48 * 32,
    "mlpconv1_conv1x1b": 8 * 8 * 32 * 24,
    "mlpconv2_conv3x3": 4 * 4 * 24 * 48 * 9,
    "mlpconv2_conv1x1a": 4 * 4 * 48 * 48,
    "mlpconv2_conv1x1b": 4 * 4 * 48 * 48,
    "mlpconv3_conv3x3": 2 * 2 * 48 * 64 * 9,
    "mlpconv3_conv1x1a": 2 * 2 * 64 * 64,
    "mlpconv3_conv1x1b": 2 * 2 * 64 * 10,
}
_START = """
import json, os, pathlib, shutil, sys, time
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1:] == ["--version"]:
    print({version!r})
    sys.exit()
recorded = pathlib.Path({recorded!r})

def answer(database=None):
    shutil.copytree(recorded, "out")
    pathlib.Path("out/network_vela.tflite").write_bytes({compiled!r})
    if database is not None:
        pathlib.Path("out/network_debug.xml").write_text(database)
    print((recorded / "log.txt").read_text())

"""


def install(folder, monkeypatch, body="answer()", version="5.2.0"):
    """Make a script of Python code the Vela that is found; return the path of the JSON lines of its calls."""
    calls = folder / "calls"
    script = folder / "vela.py"
    known = {"calls": str(calls), "version": version, "recorded": str(RECORDED), "compiled": COMPILED}
    script.write_text(_START.format(**known) + body)
    monkeypatch.setattr(vela, "_vela_command", lambda: [sys.executable, str(script)])
    return calls


def network(folder):
    """Write the network of the recorded files, without weights of worth, and return its path."""
    tensors = [tensor("serving_default_input:0", (1, 8, 8, 1))]
    operators = []

    def add(op, layer, shape, constants, options=None, **values):
        inputs = [len(tensors) - 1]
        for each in constants:
            tensors.append(each)
            inputs.append(len(tensors) - 1)
        tensors.append(tensor(f"main_1/nin_digits_1/{layer}", shape))
        operators.append(operator(op, inputs, [len(tensors) - 1], options, **values))

    def mlpconv(block, size, channels, filters):
        kernels = {"conv3x3": 3, "conv1x1a": 1, "conv1x1b": 1}
        for (name, kernel), count in zip(kernels.items(), filters, strict=True):
            weights = tensor("weights", (count, kernel, kernel, channels), data=1)
            shape, layer = (1, size, size, count), f"{block}_{name}._1/convolution"
            add("CONV_2D", layer, shape, [weights], "Conv2DOptions", strideH=1, strideW=1)
            channels = count
        return channels

    def pool(op, layer, shape):
        add(op, layer, shape, [], "Pool2DOptions", filterHeight=3, filterWidth=3, strideH=2, strideW=2)

    channels = mlpconv("mlpconv1", 8, 1, (48, 32, 24))
    pool("MAX_POOL_2D", "pool1._1/MaxPool2d", (1, 4, 4, channels))
    channels = mlpconv("mlpconv2", 4, channels, (48, 48, 48))
    pool("AVERAGE_POOL_2D", "pool2._1/AvgPool", (1, 2, 2, channels))
    channels = mlpconv("mlpconv3", 2, channels, (64, 64, 10))
    axes = tensor("axes", (2,), "INT32", [1, 2])
    add("MEAN", "mlpconv3_conv1x1b_pool._1/Mean", (1, channels), [axes], "ReducerOptions")
    add("SOFTMAX", "mlpconv3_conv1x1b_softmax._1/Softmax", (1, channels), [], "SoftmaxOptions", beta=1.0)
    return write(folder / "nin_digits_int8.tflite", tensors, operators)
