"""MACs of int8 files as Arm's Vela counts them, layer by layer, against ours."""

import csv
import subprocess
import sys
from collections import defaultdict

import keras
import numpy as np
import pytest

from keras_nin import export, models
from keras_nin.audit import build, tflite_reader

pytest.importorskip("ethosu.vela", reason="Vela is not installed: pip install 'keras-nin[ethosu]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")]

# As Vela calls the operators whose products it counts as we do; it counts those of poolings and means too.
PRODUCTS = ("Conv2D", "DepthwiseConv2D", "FullyConnected")
OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def vela_macs(path, folder):
    """MACs of the convolutions and products, sorted, by the name of their output tensor."""
    words = ["--accelerator-config", "ethos-u55-128", "--output-dir", str(folder), "--verbose-performance"]
    program = "import sys; from ethosu.vela.vela import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, str(path), *words], check=True, capture_output=True)
    found = defaultdict(list)
    (table,) = folder.glob("*_per-layer.csv")
    with open(table, newline="") as lines:
        for row in csv.DictReader(lines):
            # A fused activation has a row of its own, without MACs.
            if row["Original Operator"].startswith(PRODUCTS) and int(row["MAC Count"]):
                found[row["Name"]].append(int(row["MAC Count"]))
    return {name: sorted(macs) for name, macs in found.items()}


def our_macs(path):
    """The same of ours. Vela has no concatenations: what feeds one writes to its output directly and bears its name."""
    file = tflite_reader.read_file(path)
    names = {layer.path: name for layer, name in zip(file.graph.layers, file.tensor_names, strict=True)}
    found = defaultdict(list)
    for layer, row in zip(file.graph.layers, build.audit_graph(file.graph).rows, strict=True):
        if row.type in OPERATORS:
            joined = [reader for reader in file.graph.readers(layer) if reader.type == "CONCATENATION"]
            found[names[(joined or [layer])[0].path]].append(row.macs)
    return {name: sorted(macs) for name, macs in found.items()}


@pytest.mark.parametrize(
    ("name", "shape", "layers"),
    [("nin_digits", None, 9), ("squeezenet_cifar10", None, 26), ("keras:MobileNet", (64, 64, 3), 28)],
)
def test_macs_of_every_layer_equal_those_of_vela(name, shape, layers, tmp_path):
    keras.backend.clear_session()
    model = models.load(name, weights="random", input_shape=shape).model
    images = np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)
    path = export.export(model, "int8", images, name="net").save(tmp_path)
    ours = our_macs(path)
    assert sum(map(len, ours.values())) == layers
    assert vela_macs(path, tmp_path) == ours
