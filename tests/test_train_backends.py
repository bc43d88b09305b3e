"""Training on other backends of Keras, on two devices and in two processes: the losses are those of one device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from keras_nin import InputError
from keras_nin.train import devices

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]
# Trains a network on noise on as many devices as it is told, or on each of several numbers of them in turn. It has
# neither dropout nor BatchNormalization, for which each replica of TensorFlow draws its own numbers and takes the
# statistics of its part of the batch.
SCRIPT = """
import json, pathlib, sys
import keras
import numpy as np
from keras_nin import data, train
from keras_nin.train.devices import prepared_backend, share_batches

folder, stop, results = pathlib.Path(sys.argv[1]), int(sys.argv[3]), []
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
labels = np.arange(81) % 3
images = np.random.default_rng(0).integers(0, 200, (81, 8, 8, 1), np.uint8)
images += (25 * labels).astype(np.uint8)[:, None, None, None]
splits = {"train": np.arange(60), "test": np.arange(60, 81)}
dataset = data.Dataset("noise", images, labels, (), data.get_preset("standardize"), splits)
recipe = train.Recipe(3, 16, 3e-2, shift=2, flip=True, cutout=3, mixup=0.3, ema=0.9, clip_norm=0.1, label_smoothing=0.1)

def end_epoch(epoch, entry):
    if epoch == stop:
        raise KeyboardInterrupt

for devices in sys.argv[2].split(","):
    with prepared_backend(), share_batches(devices if devices == "all" else int(devices)) as count:
        keras.utils.set_random_seed(0)
        x = keras.Input((8, 8, 1))
        y = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
        y = keras.layers.GlobalAveragePooling2D()(y)
        model = keras.Model(x, keras.layers.Dense(3, activation="softmax")(y), name="net")
        rng = np.random.default_rng(3)
        kernels = [rng.normal(0, 0.3, w.shape) for w in model.trainable_variables]
        for variable, value in zip(model.trainable_variables, kernels):
            variable.assign(value)
        run = train.fit_model(model, dataset, recipe, folder / devices, name="net",
                              preprocessing=dataset.preprocessing, devices=count, on_epoch=end_epoch)
    others = [name for name in ("tensorflow", "jax", "torch") if name in sys.modules]
    results.append({"record": run.record, "history": run.history, "resumed": run.resumed_epochs, "imported": others})
print(json.dumps(results))
"""


def start(folder, backend, devices=1, stop=0, **variables):
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(devices), str(stop)]
    return subprocess.Popen(
        command, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """Return the result of a process, or one for each number of devices."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]
    results = json.loads(out.splitlines()[-1])
    return results if len(results) > 1 else results[0]


def losses(result):
    return np.array([[entry["loss"], entry["val_loss"]] for entry in result["history"]])


@pytest.fixture(scope="module")
def tensorflow_runs(tmp_path_factory):
    """The runs on one and on two devices with TensorFlow."""
    return finish(start(tmp_path_factory.mktemp("reference") / "run", "tensorflow", devices="1,2"))


@pytest.fixture(scope="module")
def reference(tensorflow_runs):
    """The run on one device with TensorFlow."""
    return tensorflow_runs[0]


@pytest.mark.wide
def test_two_replicas_of_tensorflow(reference, tensorflow_runs):
    result = tensorflow_runs[1]
    assert (reference["record"]["devices"], result["record"]["devices"]) == (1, 2)
    np.testing.assert_allclose(losses(result), losses(reference), atol=1e-3)


@pytest.mark.wide
def test_two_devices_of_jax(reference, tmp_path):
    pytest.importorskip("jax")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    result = finish(start(tmp_path / "run", "jax", devices="all", **flags))
    assert (result["record"]["backend"], result["record"]["devices"]) == ("jax", 2)
    assert result["imported"] == ["jax"]
    np.testing.assert_allclose(losses(result), losses(reference), atol=1e-3)
    assert result["record"]["test_top1"] == reference["record"]["test_top1"]


def join_jax(ports, number):
    """Return what tells a process of JAX which of two it is."""
    variables = {
        "JOB_ADDRESSES": f"127.0.0.1:{ports[0]}",
        "NUM_PROCESSES": "2",
        "PROCESS_ID": str(number),
    }
    return {f"KERAS_DISTRIBUTION_{name}": value for name, value in variables.items()}


def join_tensorflow(ports, number):
    """Return what tells a process of TensorFlow which of two it is."""
    workers = [f"127.0.0.1:{port}" for port in ports]
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": number}})}


@pytest.mark.wide
@pytest.mark.parametrize(("backend", "join"), [("jax", join_jax), ("tensorflow", join_tensorflow)])
def test_two_processes_which_are_stopped(backend, join, reference, tmp_path):
    pytest.importorskip(backend)

    def run(stop):
        with socket.socket() as first, socket.socket() as second:
            for server in (first, second):
                server.bind(("127.0.0.1", 0))
            ports = [server.getsockname()[1] for server in (first, second)]
        return [start(tmp_path / "run", backend, "all", stop, **join(ports, number)) for number in (0, 1)]

    for process in run(stop=2):
        _, error = process.communicate(timeout=300)
        assert error.rstrip().endswith("KeyboardInterrupt"), error[-3000:]
    results = [finish(process) for process in run(stop=0)]
    for result in results:
        assert (result["resumed"], result["record"]["devices"]) == (2, 2)
        np.testing.assert_allclose(losses(result), losses(reference), atol=1e-3)
        assert result["record"]["test_top1"] == reference["record"]["test_top1"]


@pytest.mark.wide
def test_torch(reference, tmp_path):
    pytest.importorskip("torch")
    result = finish(start(tmp_path / "run", "torch"))
    assert result["imported"][-1] == "torch"
    np.testing.assert_allclose(losses(result), losses(reference), atol=1e-3)


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        (None, 1),
        ("{}", 1),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}', 1),
        ('{"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": "1"}}', 3),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}', None),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', None),
        ('{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}', None),
        ("worker", None),
        ("[]", None),
    ],
)
def test_tasks_of_tf_config(config, tasks):
    if tasks:
        assert devices._count_tasks(config) == tasks
        return
    with pytest.raises(InputError, match="in TF_CONFIG. Received: ") as error:
        devices._count_tasks(config)
    assert "\n" not in str(error.value)
