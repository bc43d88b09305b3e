"""`--converter litert`: conversion without TensorFlow, and what is refused."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from keras import layers as kl

from keras_nin.errors import InputError
from keras_nin.export import SCHEMES, convert_model, litert_conversion
from keras_nin.export.litert_conversion import check_litert_converter, check_operators
from keras_nin.export.weight_comparison import map_fused_layers
from keras_nin.tflite.reader import read_model

ROOT = pathlib.Path(__file__).parents[1]
# Exports with TensorFlow blocked, then repeats the export from its record.
SCRIPT = """
import json, sys
class Blocked:
    def find_spec(self, name, *others):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from keras_nin import export_model
from keras_nin.cli import main
for model in sys.argv[1].split(","):
    result = export_model(model, "float32", test=sys.argv[2], converter="litert", runs=1, out="out")
    (file,) = result.files
    record = file.to_json()
    statuses = [main.run(["export", "--from", str(file.path.with_suffix(".json")), "--runs", "1", "--out", "again"])]
    print(json.dumps({"passed": result.passed, "path": str(file.path), "record": record, "statuses": statuses}))
    assert main.run(["export", "nin_digits", "--converter", "litert"]) == 2
    assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
"""


def test_what_the_converter_litert_needs_is_said_in_one_line(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_converter", None)  # as where it is not installed
    ran = cli("export", "nin_digits", "--converter", "litert")
    assert ran.status == 2
    assert ran.err.endswith("Run: pip install 'keras-nin[litert]'\n")
    assert ran.err.count("\n") == 1
    ran = cli("export", "nin_digits", "--converter", "litert", "--scheme", "float32,int8")
    assert (ran.status, "Received: int8, for which the converter tensorflow is needed" in ran.err) == (2, True)
    monkeypatch.setattr(litert_conversion, "_PACKAGES", ())
    with pytest.raises(InputError, match="Received: 'tensorflow'. Set KERAS_BACKEND=jax"):
        check_litert_converter([SCHEMES["float32"]])


@pytest.mark.slow
def test_an_operator_of_no_layer_is_named(build, exported):
    """The rule takes the files of TensorFlow's converter, and of another network none."""
    digits, file = build("nin_digits"), read_model(exported("nin_digits", "float32"))
    check_operators(digits, file, map_fused_layers(digits, file).layers)
    image = keras.Input((8, 8, 1))
    y = kl.Conv2D(3, 3, strides=2, padding="same", activation="relu", name="conv")(image)
    net = keras.Model(image, kl.GlobalAveragePooling2D()(y))
    nets = [net]
    for zeros in ((0, 1), (1, 0)):  # the first are those of SAME, which are fused
        y = kl.Conv2D(3, 3, strides=2, name="conv")(kl.ZeroPadding2D((zeros, zeros), name="zeros")(image))
        nets.append(keras.Model(image, kl.GlobalAveragePooling2D()(kl.ReLU()(y))))
    converted = [convert_model(model, "float32") for model in nets]
    for model, file in zip(nets, converted, strict=True):
        check_operators(model, file.tflite, file.layers)
    assert "PAD" in {operator.op for operator in converted[2].tflite.main.operators}
    for model in nets[:2]:
        with pytest.raises(InputError, match=r"Received: PAD \(1x9x9x1\).* from litert-converter"):
            check_operators(model, converted[2].tflite, converted[2].layers)
    longer = keras.Model(image, kl.Dense(2, name="head")(net(image)))
    with pytest.raises(InputError, match=r"Received: no FULLY_CONNECTED \(1x2\) for layer 'head'"):
        check_operators(longer, converted[0].tflite, converted[0].layers)


@pytest.mark.slow
@pytest.mark.wide
def test_networks_are_converted_without_tensorflow(build, exported, tmp_path):
    """Same operators as from TensorFlow's converter, and verified; the record repeats the export."""
    pytest.importorskip("litert_converter")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, "nin_cifar10_bn,conv3x3_3to2", "random"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    # Of one channel the converter makes a DEPTHWISE_CONV_2D of a convolution.
    assert "Received: DEPTHWISE_CONV_2D (1x8x8x1 -> 1x8x8x48) of layer 'mlpconv1_conv3x3'" in done.stderr
    for line in filter(lambda line: line.startswith("{"), done.stdout.splitlines()):
        result = json.loads(line)
        record = result["record"]
        assert (result["passed"], result["statuses"], record["converter"]) == (True, [0], "litert")
        assert {"jax", "litert-converter"} <= record["versions"].keys()
        own, other = read_model(tmp_path / result["path"]), read_model(exported(record["model"], "float32"))
        kinds = [
            [(operator.op, [file.main.tensors[i].shape for i in operator.outputs]) for operator in file.main.operators]
            for file in (own, other)
        ]
        assert kinds[0] == kinds[1]
