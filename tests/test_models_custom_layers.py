"""Custom layers and subclassed models: imported, traced, audited and exported, or refused with the reason."""

import contextlib
import io
import json
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nin
from keras_nin import InputError
from keras_nin.models import custom_layers
from keras_nin.workflows.inputs import open_model

kl = keras.layers
CODE = """
import keras
from keras import layers, ops

print("training on 8 GPUs")


@keras.saving.register_keras_serializable(package="mine")
class Block(layers.Layer):
    def __init__(self, filters, **options):
        super().__init__(**options)
        self.filters = filters
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")
        self.skip = layers.Conv2D(filters, 1, name="skip")

    def call(self, inputs, training=False):
        return ops.relu(self.norm(self.conv(inputs), training=training) + self.skip(inputs))

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


class Gain(layers.Layer):
    def build(self, input_shape):
        self.gain = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="gain")

    def call(self, inputs):
        return inputs * self.gain


class Stage(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = [Block(4, name="first"), Block(6, name="second")]

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


@keras.saving.register_keras_serializable(package="mine")
class Net(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.stem = layers.Conv2D(4, 3, strides=2, name="stem")
        self.stage = Stage(name="stage")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(3, name="head")

    def call(self, inputs, training=False):
        features = self.pool(self.stage(self.stem(inputs)))
        if training:
            features = self.drop(features)
        return self.head(features)
"""
QUICK = ("--calibration", "random", "--scheme", "int8", "--runs", 1, "--ranges", "minmax", "--rounding", "nearest")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """my_layers.py in the working folder, imported; forgotten before the models of the test are loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    pathlib.Path("my_layers.py").write_text(CODE)
    with contextlib.redirect_stdout(io.StringIO()):
        module = custom_layers._import_file(pathlib.Path("my_layers.py"))
    yield module
    forget()


def forget():
    """Do what a new process would: no imported code, no registered classes, automatic names from the start."""
    keras.utils.clear_session()
    sys.modules.pop("my_layers", None)
    sys.path[:] = [folder for folder in sys.path if "test_" not in pathlib.Path(folder).name]
    objects = keras.saving.get_custom_objects()
    for name in [name for name in objects if name.startswith("mine>")]:
        del objects[name]


def save_networks(module):
    keras.utils.set_random_seed(0)
    net = module.Net(name="net")
    net(np.zeros((1, 9, 9, 3), np.float32))
    net.save("net.keras")
    image = keras.Input((9, 9, 3))
    features = kl.GlobalAveragePooling2D()(module.Gain(name="gain")(module.Block(4, name="block")(image)))
    keras.Model(image, kl.Dense(2, name="head")(features), name="mixed").save("mixed.h5")
    forget()
    return net


@pytest.mark.slow
def test_a_subclassed_model_is_exported_and_audited_layer_by_layer(cli, mine):
    net = save_networks(mine)
    missing = cli("export", "net.keras", *QUICK)
    assert (missing.status, missing.out, missing.err.count("\n")) == (2, "", 1)
    assert "Received: the custom class 'Net'" in missing.err
    assert "Pass the module or .py file of the class as --import" in missing.err
    audit = cli("audit", "net.keras", "--import", "my_layers.py", "--json")
    assert (audit.status, audit.err) == (0, "training on 8 GPUs\n")
    rows = {row["name"].rpartition("/")[2]: row for row in audit.json["rows"]}
    assert [row["name"].rpartition("/")[2] for row in audit.json["rows"] if row["params"]] == [
        "stem", "conv", "norm", "skip", "conv", "norm", "skip", "head",
    ]  # fmt: skip
    assert rows["skip"]["kind"] == "pointwise"
    assert audit.json["total"]["params"] == net.count_params()
    convolutions = 16 * 4 * 27 + 16 * (4 * 4 * 9 + 4 * 4) + 16 * (4 * 6 * 9 + 4 * 6)
    assert audit.json["total"]["macs"] == convolutions + 6 * 3
    forget()
    ran = cli("export", "net.keras", "--import", "my_layers", *QUICK)  # the module in the working folder
    assert ran.status == 0, ran.err
    record = json.loads(pathlib.Path("exported/net_int8.json").read_text())
    layers = {operator["layer"] for operator in record["operators"]}
    assert {"stem", "stage/first/conv", "stage/second/skip", "head"} <= layers
    assert record["options"]["imports"] == ["my_layers"]
    forget()
    words = ["export", "--from", "exported/net_int8.json", "--out", "again", "--runs", 1]
    refused = cli(*words)
    assert (refused.status, "names Python code to run: 'my_layers'" in refused.err) == (2, True)
    again = cli(*words, "--import", "my_layers")
    assert again.out.startswith("Reproduced: ")
    verified = cli("verify", "net.keras", "exported/net_int8.tflite", "--import", "my_layers.py", "--data", "random")
    assert verified.status == 0


def test_custom_layers_in_a_legacy_file(cli, mine):
    save_networks(mine)
    missing = cli("audit", "mixed.h5")
    assert (missing.status, "the custom class 'Block'" in missing.err) == (2, True)
    pathlib.Path("others.py").write_text("class Other: pass")
    missing = cli("audit", "mixed.h5", "--import", "others.py")
    assert (missing.status, "which the imported code does not define" in missing.err) == (2, True)
    audit = cli("audit", "mixed.h5", "--import", "my_layers.py", "--json")
    rows = {row["name"].rpartition("/")[2]: row for row in audit.json["rows"]}
    assert rows["conv"]["macs"] == 81 * 27 * 4
    assert (rows["gain"]["params"], rows["gain"]["macs"]) == (4, None)  # a layer with weights of its own stays closed


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("gone.py", None, "'gone.py' (FileNotFoundError"),
        ("no_such_module", None, "'no_such_module' (ModuleNotFoundError: No module named 'no_such_module')"),
        ("bad.py", "import keras\nraise RuntimeError('no GPU')", "'bad.py' (RuntimeError: no GPU)"),
        ("exits.py", "import sys; sys.exit(0)", "'exits.py' (SystemExit: 0)"),
        ("wrong.py", "def", "'wrong.py' (SyntaxError"),
    ],
)
def test_code_that_cannot_be_imported(cli, source, text, message):
    if text is not None:
        pathlib.Path(source).write_text(text)
    keras.Sequential([keras.Input((4,)), kl.Dense(2)]).save("net.keras")
    ran = cli("audit", "net.keras", "--import", source)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert f"Expected --import to name Python code that can be imported. Received: {message}" in ran.err


def test_a_file_with_the_name_of_a_module_does_not_replace_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    pathlib.Path("keras.py").write_text("class Mine: pass")
    assert set(custom_layers.import_objects(["keras.py"])) == {"Mine"}
    assert sys.modules["keras"] is keras


@pytest.mark.slow
def test_subclassed_models_in_python(mine):
    image = np.random.default_rng(0).random((2, 9, 9, 3), np.float32)
    net = mine.Net(name="net")
    with pytest.raises(InputError, match=r"a subclassed model \(Net\) that is not built. Pass `input_shape`"):
        open_model(net)
    graph = open_model(net, input_shape=(9, 9, 3)).model
    np.testing.assert_allclose(graph.predict(image, verbose=0), net.predict(image, verbose=0), atol=1e-6)
    assert keras_nin.audit_model(net).total.params == net.count_params()
    assert {id(weight) for weight in graph.weights} == {id(weight) for weight in net.weights}
    assert open_model(graph).model is graph
    stack = keras.Sequential([keras.Input((9, 9, 3)), mine.Block(4), kl.Flatten(), kl.Dense(2)])
    assert [row.type for row in keras_nin.audit_model(stack).rows][:2] == ["Conv2D", "BatchNormalization"]
    nested = keras.Sequential([keras.Input((9, 9, 3)), keras.Sequential([mine.Stage()]), kl.Flatten(), kl.Dense(2)])
    assert sum(row.type == "Conv2D" for row in keras_nin.audit_model(nested).rows) == 4
    with pytest.raises(InputError, match="which is built"):
        open_model(stack, input_shape=(8, 8, 3))


class Untraceable(keras.Model):
    def __init__(self, how):
        super().__init__(name="untraceable")
        self.how, self.dense = how, kl.Dense(2)
        self.gain = self.add_weight(shape=(2,), name="gain") if how == "weight" else None

    def call(self, inputs):
        outputs = self.dense(inputs)
        if self.how == "tensorflow":
            return tf.nn.softmax(outputs)
        if self.how == "data" and float(outputs[0, 0]) > 0:
            return outputs
        if self.how == "kind":
            return outputs if isinstance(inputs, keras.KerasTensor) else outputs * 2
        return outputs if self.gain is None else outputs * self.gain


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("tensorflow", "whose call fails on symbolic tensors .*Use keras.ops in place of TensorFlow"),
        ("data", "whose call fails on symbolic tensors"),
        ("weight", r"with a weight that belongs to no layer \('untraceable/gain'\)"),
        ("kind", "whose graph computes other outputs"),
    ],
)
def test_models_that_cannot_be_traced(how, message):
    model = Untraceable(how)
    if how != "data":
        model(np.ones((1, 3), np.float32))
    with pytest.raises(InputError, match=f"Expected a Functional model.*{message}.*Make it Functional: inputs = "):
        open_model(model, input_shape=(3,))
