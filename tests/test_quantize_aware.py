"""Quantization-aware training in Keras: a network computes what its int8 file computes, before and after training."""

import base64
import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from tiers import WIDE

from keras_nin import InputError, data
from keras_nin._compat import litert
from keras_nin.export import Tuning, convert_quantize_aware, quantize_network
from keras_nin.export.quantize_aware import _NetworkBuilder, _settle_quotients
from keras_nin.export.quantize_aware_file import _convert_here
from keras_nin.layers import LocalResponseNormalization, quantized
from keras_nin.tflite.quantization import quantize
from keras_nin.tflite.reader import expose_tensors
from keras_nin.tflite.runner import TFLiteRunner

ROOT = pathlib.Path(__file__).parents[1]
ZOO = ("inception_digits", "nin_cifar10", "squeezenet_cifar10", "nin_cifar10_bn", "googlenet_bn", "inception_v3")
LARGE = {"MobileNetV2": 96, "EfficientNetV2B0": 64, "ResNet50": 64}


@pytest.fixture(scope="module")
def digits():
    """Images of digits by split."""
    dataset = data.open_dataset("digits")
    parts = {split: dataset.select(split, 40) for split in ("train", "calibration", "test")}
    return {split: dataset.load(part, (8, 8), 1, dataset.preprocessing) for split, part in parts.items()} | {
        "labels": dataset.labels_of(parts["train"])
    }


@pytest.fixture(scope="module")
def files(build, digits):
    return _convert_here(build("nin_digits", weights="digits"), {"input": digits["calibration"][:8]}, Tuning())


@pytest.fixture
def network(files):
    return _NetworkBuilder(files, 8).build("nin_digits")


def differences(files, images):
    """Return the largest share of values that are off, and off by more than 1 LSB, over the operators."""
    builder = _NetworkBuilder(files, 8)
    network = builder.build("network")
    indexes = [index for operator in builder.main.operators for index in operator.outputs]
    interpreter = litert.interpreter(expose_tensors(builder.tflite, indexes).content)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    scale, zero_point = entry["quantization"]
    integers = quantize(images, scale, zero_point, "int8")
    expected = {index: [] for index in indexes}
    for image in integers:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        for index in indexes:
            expected[index].append(interpreter.get_tensor(index).copy())
    levels = keras.Model(network.inputs, [builder.levels[index] for index in indexes]).predict(images, verbose=0)
    worst = np.zeros(2)
    for index, received in zip(indexes, levels, strict=True):
        integers = np.concatenate(expected[index]).astype(np.float32)
        zero_point = builder.main.tensors[index].quantization.zero_points[0]
        off = np.abs(received.reshape(integers.shape) + zero_point - integers)
        worst = np.maximum(worst, [(off > 0).mean(), (off > 1).mean()])
    return worst


@pytest.mark.parametrize("divisor", [7, 127, 255])
def test_a_compiled_division_is_rounded_once(divisor):
    """Compilers multiply by the reciprocal instead, which often differs in the last bit."""
    values = np.random.default_rng(0).uniform(1e-3, 1e3, 10_000).astype(np.float32)
    divided = tf.function(lambda x: quantized._divide(x, divisor), jit_compile=True)(values)
    np.testing.assert_array_equal(divided, (values.astype(np.float64) / divisor).astype(np.float32))


def test_weights_on_the_end_of_their_grid_have_a_gradient():
    """Also where the weight over the step is more than 7 by the last bit."""
    random = np.random.default_rng(0)
    layer = quantized.QuantizedKernel("dense", (50, 40), False, {}, weight_bits=4)
    expected = random.choice([-7.0, -3.0, 7.0], (50, 40))
    step = random.uniform(1e-3, 1, 40).astype(np.float32)
    layer.step.assign(step)
    layer.kernel.assign(expected * step)
    with tf.GradientTape() as tape:
        integers, _ = layer.quantize_kernel()
    np.testing.assert_array_equal(integers, expected)
    gradient = tape.gradient(integers, layer.kernel.value)
    np.testing.assert_allclose(gradient, np.broadcast_to(1 / step, (50, 40)), rtol=1e-6)


def test_large_biases_keep_their_integers():
    random = np.random.default_rng(0)
    integers = random.integers(-(2**22), 2**22, 10_000).astype(np.float64)
    scales = random.uniform(1e-6, 1e-3, 10_000).astype(np.float32)
    values = (integers + random.uniform(-0.45, 0.45, 10_000)) * scales
    settled = _settle_quotients(values, scales, integers)
    assert settled.dtype == np.float32
    np.testing.assert_array_equal(np.rint(settled / scales), integers)


@pytest.mark.slow
def test_the_network_and_its_file_compute_the_same(files, network, digits):
    """Every operator, and untrained the bytes of the post-training file."""
    assert tuple(differences(files, digits["test"][:8])) == (0, 0)
    (made,) = convert_quantize_aware(network)
    assert made.data == files.int8_content
    assert made.layers == files.layers
    assert made.float_operators == ()


@pytest.mark.parametrize("name", [pytest.param(name, marks=WIDE) for name in ZOO])
def test_every_operator_of_a_network_of_the_zoo(name, build):
    model = build(name, **({"weights": "digits"} if name == "inception_digits" else {}))
    images = np.random.default_rng(0).random((4, *model.input_shape[1:]), np.float32)
    files = _convert_here(model, {model.inputs[0].name: images}, Tuning.plain())
    off, far = differences(files, images[:2])
    assert off <= 0.001
    assert far == 0


def pieces():
    """A network with a nested model, a shared layer, local response normalization and what else has a rule."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    x = kl.LeakyReLU(0.1, name="leaky")(kl.Conv2D(8, 3, strides=2, padding="same", name="stem")(image))
    shared = kl.Conv2D(8, 1, activation="relu", name="shared")
    first = shared(x)
    x = LocalResponseNormalization(name="lrn")(kl.Add(name="sum")([first, shared(first)]))
    inner = keras.Sequential(
        [keras.Input((8, 8, 8)), kl.DepthwiseConv2D(3, padding="same"), kl.BatchNormalization(), kl.ReLU(6.0)],
        name="inner",
    )
    x = inner(x)
    up = kl.Conv2DTranspose(8, 2, strides=2, activation="relu", name="transposed")(x)
    x = kl.Concatenate(name="joined")([up, kl.UpSampling2D(2, name="repeated")(x)])
    x = kl.AveragePooling2D(3, strides=2, padding="same", name="average")(kl.Activation("silu", name="silu")(x))
    x = kl.GlobalAveragePooling2D(name="pool")(kl.ZeroPadding2D(1, name="pad")(x))
    return keras.Model(image, kl.Dense(10, activation="softmax", name="classes")(x), name="pieces")


@pytest.mark.slow
def test_every_operator_of_what_has_a_rule():
    images = np.random.default_rng(0).random((8, 16, 16, 3), np.float32)
    model = pieces()
    files = _convert_here(model, {"image": images}, Tuning())
    off, far = differences(files, images)
    assert off <= 0.001
    assert far == 0
    network = _NetworkBuilder(files, 8).build("pieces")
    assert convert_quantize_aware(network)[0].data == files.int8_content
    kernels = {layer.name: layer.trainable for layer in network.layers if type(layer).__name__ == "QuantizedKernel"}
    assert [name for name in kernels if name.startswith("shared")] == ["shared"]
    assert {name for name, is_trained in kernels.items() if not is_trained} == {
        name for name in kernels if name.startswith("lrn")
    }


@pytest.mark.parametrize("name", [pytest.param(name, marks=WIDE) for name in LARGE])
def test_every_operator_of_a_network_of_keras(name):
    from keras_nin import models

    model = models.load_model(f"keras:{name}", weights="he", input_shape=(LARGE[name], LARGE[name], 3)).model
    images = np.random.default_rng(0).random((4, LARGE[name], LARGE[name], 3), np.float32)
    files = _convert_here(model, {model.inputs[0].name: images}, Tuning("mse", "nearest", False))
    off, far = differences(files, images[:2])
    assert off <= 0.001
    assert far == 0


@pytest.mark.slow
def test_training_moves_every_weight_and_the_file_follows(files, digits, tmp_path):
    """With 4 bits: the trained network is that of its file, also after it was saved and loaded."""
    network = _NetworkBuilder(files, 4).build("nin_digits")
    network.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    before = [weight.numpy() for weight in network.trainable_weights]
    first, *_, last = network.fit(digits["train"], digits["labels"], epochs=4, verbose=0).history["loss"]
    assert last < first
    names = [
        weight.path
        for weight, old in zip(network.trainable_weights, before, strict=True)
        if (weight.numpy() == old).all()
    ]
    assert set(names) <= {"activation_ranges/log_minimum"}  # all of them are 0 to some maximum
    (made,) = convert_quantize_aware(network)
    expected = network.predict(digits["test"], verbose=0)
    np.testing.assert_array_equal(TFLiteRunner(made.data).predict(digits["test"]), expected)
    assert len(made.data) <= len(files.int8_content)
    main = made.tflite.main
    for operator in main.operators:
        if operator.op == "CONV_2D":
            assert np.abs(made.tflite.data(main.tensors[operator.inputs[1]])).max() <= 7
    network.save(tmp_path / "qat.keras")
    again = keras.saving.load_model(tmp_path / "qat.keras")
    np.testing.assert_array_equal(again.predict(digits["test"], verbose=0), expected)
    assert convert_quantize_aware(again)[0].data == made.data


@pytest.mark.slow
def test_a_quantize_aware_file_is_exported_as_it_is(network, tmp_path):
    from keras_nin.cli.main import run

    network.save(tmp_path / "qat.keras")
    options = ["--data", "digits", "--out", str(tmp_path), "--runs", "1"]
    assert run(["export", str(tmp_path / "qat.keras"), *options]) == 0
    record = json.loads((tmp_path / "qat_int8.json").read_text())
    assert record["calibration"] is None
    assert record["parity"]["max_abs_diff_lsb"] == 0
    assert all(check["passed"] for check in record["parity"]["checks"])
    assert {operator["layer"] for operator in record["operators"]} >= {"mlpconv1_conv3x3", "pool1"}


@pytest.mark.slow
def test_mixed_precision_and_other_backends_change_no_value(network, digits, tmp_path):
    from keras_nin.train.training_model import mixed_precision

    expected = network.predict(digits["test"], verbose=0)
    with mixed_precision(network, "mixed_bfloat16"):
        np.testing.assert_array_equal(np.asarray(network(digits["test"])), expected)
    network.save(tmp_path / "qat.keras")
    np.savez(tmp_path / "images.npz", images=digits["test"], expected=expected)
    script = (
        "import keras, numpy as np, keras_nin.layers.quantized\n"
        "arrays = np.load('images.npz')\n"
        "network = keras.saving.load_model('qat.keras')\n"
        "np.testing.assert_array_equal(network.predict(arrays['images'], verbose=0), arrays['expected'])\n"
    )
    for backend in filter(importlib.util.find_spec, ("jax", "torch")):
        environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=120)


# Converts nin_digits, trains it, and exports it; then the scheme that does all of that.
ON_A_BACKEND = """
import json, pathlib
import keras
import keras_nin
from keras_nin import data
from keras_nin.export import convert_quantize_aware

network = keras_nin.quantize_aware("nin_digits")
pathlib.Path("untrained.tflite").write_bytes(convert_quantize_aware(network)[0].data)
digits = data.open_dataset("digits")
part = digits.select("train", 64)
network.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
network.fit(digits.load(part, (8, 8), 1, digits.preprocessing), digits.labels_of(part), verbose=0)
network.save("qat.keras")
options = {"scheme": "qat_keras", "epochs": 1, "weight_bits": 4}
files = [
    keras_nin.export_model(model, test="digits", out="out", **settings).files[0]
    for model, settings in (("qat.keras", {}), ("nin_digits", options))
]
print(json.dumps([keras.backend.backend(), *(file.parity.max_abs_diff_lsb for file in files)]))
"""


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_conversion_and_export_on_other_backends(backend, tmp_path):
    """The conversion runs on TensorFlow, in a process of its own, and gives the bytes that it gives here."""
    import keras_nin

    pytest.importorskip(backend)
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ON_A_BACKEND]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == [backend, 0, 0]
    (expected,) = convert_quantize_aware(keras_nin.quantize_aware("nin_digits"))
    assert (tmp_path / "untrained.tflite").read_bytes() == expected.data
    assert (tmp_path / "out" / "qat_int8.tflite").read_bytes() != expected.data


# The gradients of a saved network, as an .npz file.
GRADIENTS = """
import keras
import numpy as np
from keras_nin import models

network = models.load_model("qat.keras").model
random = np.random.default_rng(0)
images, labels = random.random((32, 8, 8, 1), np.float32), random.integers(0, 10, 32)
loss, backend = keras.losses.SparseCategoricalCrossentropy(), keras.backend.backend()
weights = [variable.value for variable in network.trainable_variables]
if backend == "jax":
    import jax

    others = [variable.value for variable in network.non_trainable_variables]
    run = lambda values: loss(labels, network.stateless_call(values, others, images, training=True)[0])
    gradients = jax.grad(run)(weights)
elif backend == "torch":
    loss(labels, network(images, training=True)).backward()
    gradients = [weight.grad.detach().cpu() for weight in weights]
else:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss(labels, network(images, training=True))
    gradients = tape.gradient(value, weights)
names = [variable.path for variable in network.trainable_variables]
np.savez(f"{backend}.npz", **dict(zip(names, map(np.asarray, gradients))))
"""


@pytest.mark.slow
@pytest.mark.wide
def test_gradients_are_the_same_on_every_backend(files, tmp_path):
    """On the limits of a clipping too, where JAX's own is halved; at 4 bits many weights are there."""
    _NetworkBuilder(files, 4).build("nin_digits").save(tmp_path / "qat.keras")
    gradients = {}
    for backend in ("tensorflow", "jax", "torch"):
        pytest.importorskip(backend)
        environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", GRADIENTS], cwd=tmp_path, env=environment, check=True, timeout=300)
        with np.load(tmp_path / f"{backend}.npz") as arrays:
            gradients[backend] = dict(arrays)
    for backend, name in itertools.product(("jax", "torch"), gradients["tensorflow"]):
        expected, received = gradients["tensorflow"][name], gradients[backend][name]
        # That of a step is next to nothing where all weights are on its grid: what is left is rounding.
        atol = 1e-4 if name.endswith(("log_step", "log_minimum", "log_maximum")) else 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=atol, err_msg=f"{backend} {name}")


# Trains a saved network on one and on two devices, the second time with mixed precision.
ON_DEVICES = """
import json
import keras
import keras_nin

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
losses = []
for devices, precision in ((1, "float32"), (2, "mixed_bfloat16")):
    options = {"devices": devices, "recipe": {"precision": precision}, "out": f"run{devices}"}
    run = keras_nin.train_model("qat.keras", "digits", epochs=1, batch_size=64, learning_rate=1e-4, **options)
    losses.append([run.history[0][name] for name in ("loss", "val_loss")])
print(json.dumps([run.record["devices"], losses]))
"""


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_training_on_two_devices_with_mixed_precision(backend, network, tmp_path):
    """The layers compute in float32 whatever the precision, so that the losses stay, and the file is the network's."""
    import keras_nin

    pytest.importorskip(backend)
    network.save(tmp_path / "qat.keras")
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"} if backend == "jax" else {}
    command = [sys.executable, "-c", ON_DEVICES]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-3000:]
    devices, losses = json.loads(ran.stdout.splitlines()[-1])
    assert devices == 2
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-3)
    result = keras_nin.export_model(tmp_path / "run2" / "qat.keras", test="digits", out=tmp_path / "out")
    assert result.files[0].parity.max_abs_diff_lsb == 0


@pytest.mark.slow
def test_what_cannot_be_quantize_aware_is_named(network, digits):
    inputs = keras.Input((8, 8, 1), name="image")
    x = kl.Conv2D(2, 3, activation="elu", name="own")(inputs)
    model = keras.Model(inputs, kl.Dense(10, activation="softmax")(kl.Flatten()(x)), name="net")
    with pytest.raises(InputError, match="ELU of layer 'own'"):
        quantize_network(model, digits["calibration"])
    with pytest.raises(InputError, match="calibration"):
        quantize_network(model)
    with pytest.raises(InputError, match="not quantize-aware yet"):
        quantize_network(network, digits["calibration"])
    with pytest.raises(InputError, match="one of int8"):
        convert_quantize_aware(network, ["float16"])
    with pytest.raises(InputError, match="batch 1"):
        convert_quantize_aware(network, batch=2)


@pytest.mark.slow
@pytest.mark.wide
def test_four_bits_start_from_adaptive_rounding(build, digits):
    model = build("nin_digits", weights="digits")
    expected, errors = model.predict(digits["test"], verbose=0), {}
    for tuning in (Tuning(bias_correction=False, rounding="nearest"), Tuning()):
        network = quantize_network(model, digits["calibration"], weight_bits=4, tuning=tuning)
        errors[tuning.rounding] = ((network.predict(digits["test"], verbose=0) - expected) ** 2).mean()
    assert errors["adaptive"] < errors["nearest"] / 2
    for layer in network.layers:
        if hasattr(layer, "quantize_kernel"):  # no weight is left to round
            levels = layer.kernel.numpy() / layer.step.numpy()
            np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
            assert np.abs(levels).reshape(-1, layer.outputs).max(axis=0) == pytest.approx(7, abs=1e-3)


@pytest.mark.parametrize("bits", [1, 9, 4.5])
def test_numbers_of_bits_that_make_no_sense(files, bits):
    from keras_nin.export.quantize_aware import build_network

    with pytest.raises(InputError, match="weight_bits"):
        build_network(files, "net", bits)


def damaged_sources(source):
    """Yield what a damaged or hostile .keras file may say in the place of the file that a network was built from."""
    packed = base64.b64decode(source["file"])
    yield {}
    for content in (b"", packed[: len(packed) // 2], zlib.compress(bytes(100)), packed[:-1] + b"?"):
        yield source | {"file": base64.b64encode(content).decode()}
    yield source | {"file": "no base64"}
    yield source | {"layers": source["layers"][1:]}
    yield source | {"flags": None}
    yield source | {"ranges": [[10**6]] * len(source["ranges"])}
    name, entry = next(iter(source["kernels"].items()))
    for change in ({"weights": 0}, {"weights": -1}, {"bias": 10**6}, {"calls": []}, {"calls": [["x", 10**6]]}):
        yield source | {"kernels": source["kernels"] | {name: entry | change}}
    yield source | {"kernels": {"another": entry}}


def test_a_damaged_source_is_one_line(network):
    """What a saved model says of its own file is checked before it is used."""
    layer = network.get_layer("activation_ranges")
    for source in damaged_sources(layer.source):
        layer.source = source
        with pytest.raises(InputError, match="whose own file is damaged"):
            convert_quantize_aware(network)
