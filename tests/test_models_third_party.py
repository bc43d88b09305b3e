"""Weights of others: every convention loads to the same outputs, what does not fit is listed, nothing is executed."""

import builtins
import functools
import json
import os
import pathlib
import pickle
import re
import struct
import zipfile

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import pytorch_networks
import third_party_writers as writers

from keras_nin import InputError, models
from keras_nin.errors import WeightsMismatchError
from keras_nin.models import registry, third_party, third_party_files, weight_files

INCEPTION_NAMES = models.get_spec("inception_v3").layer_names


def every_kind_of_layer():
    """Convolutions with and without a bias, a normalization, and dense layers on a map that is not square."""
    x = keras.Input((4, 6, 1))
    y = keras.layers.Conv2D(3, 3, padding="same", use_bias=False, name="conv1")(x)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm1")(y))
    y = keras.layers.Conv2D(4, (3, 1), padding="same", name="conv2")(y)
    y = keras.layers.Dense(5, name="dense1")(keras.layers.Flatten()(y))
    return keras.Model(x, keras.layers.Dense(3, name="dense2")(y), name="every_kind")


BUILDS = {
    "nin_digits": lambda: models.build_model("nin_digits"),
    "every_kind": every_kind_of_layer,
    "flattened": lambda: models.build_model("convnet_linear_head", input_shape=(12, 20, 1)),
}
WRITERS = {
    "Keras 2": lambda model, folder: writers.keras_2(model, folder / "w.h5"),
    "Keras 2 as .weights.h5": lambda model, folder: writers.keras_2(model, folder / "w.weights.h5"),
    "Keras 2, whole": lambda model, folder: writers.keras_2(model, folder / "w.h5", whole=True),
    "Keras 1": lambda model, folder: writers.keras_1(model, folder / "w.h5", "tf", "tensorflow"),
    "Keras 1 on TensorFlow": lambda model, folder: writers.keras_1(model, folder / "w.h5", "tf", suffix=":0"),
    "Keras 1, th": lambda model, folder: writers.keras_1(model, folder / "w.h5", "th", "tensorflow"),
    "Keras 1, th by its attributes": lambda m, folder: writers.keras_1(m, folder / "w.h5", "th", "tensorflow", True),
    "Keras 1, Theano": lambda model, folder: writers.keras_1(model, folder / "w.h5", "th", "theano"),
    "Keras 1, Theano, tf": lambda model, folder: writers.keras_1(model, folder / "w.h5", "tf", "theano"),
    "safetensors, Keras": lambda m, folder: writers.safetensors(folder / "w.safetensors", writers.keras_arrays(m)),
    "safetensors, Keras with dots": lambda m, folder: writers.safetensors(
        folder / "w.safetensors", writers.keras_arrays(m, ".")
    ),
    "safetensors, PyTorch": lambda m, folder: writers.safetensors(folder / "w.safetensors", writers.pytorch_arrays(m)),
    "PyTorch": lambda model, folder: writers.pytorch(folder / "w.pt", writers.pytorch_arrays(model)),
    "PyTorch, old": lambda m, folder: writers.pytorch(folder / "w.pth", writers.pytorch_arrays(m), legacy=True),
}


def disturb(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape).astype(np.float32) for weight in model.weights])
    return model


@functools.cache
def built(name, role):
    return BUILDS[name]()


def saved_and_other(name):
    """Two networks of the same layers and other weights; networks are built once."""
    return disturb(built(name, "saved")), disturb(built(name, "other"), seed=1)


def refused(model, path, *messages, **options):
    """Loading raises an `InputError` of one line with all messages, and changes nothing."""
    before = models.hash_weights(model)
    with pytest.raises(InputError) as caught:
        models.load_weights(model, path, **options)
    assert "\n" not in str(caught.value)
    for message in messages:
        assert re.search(message, str(caught.value)), str(caught.value)
    assert models.hash_weights(model) == before
    return caught.value


@pytest.mark.parametrize("writer", WRITERS)
def test_every_convention(writer, tmp_path):
    saved, other = saved_and_other("every_kind")
    made = models.load_weights(other, WRITERS[writer](saved, tmp_path))
    assert models.hash_weights(other) == models.hash_weights(saved)
    assert len(made.rows) == len(saved.weights)
    assert made.convention == next(name for name in ("Keras 1", "PyTorch", "Keras") if name in writer)


def images(model, count=3):
    return np.random.default_rng(1).standard_normal((count, *model.input_shape[1:])).astype(np.float32)


def same_outputs(model, outputs, tolerance):
    ours = np.asarray(model(images(model)))
    assert np.abs(ours - outputs).max() <= tolerance * np.abs(outputs).max()
    assert np.ptp(outputs) > 0.01 * np.abs(outputs).max()


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_keras_2_wrote(whole, tmp_path):
    """tf_keras is Keras 2 and writes its layout."""
    import tf_keras

    network = tf_keras.Sequential(
        [
            tf_keras.layers.Input((12, 20, 1)),
            tf_keras.layers.Conv2D(3, 3, padding="same", name="conv1"),
            tf_keras.layers.MaxPooling2D(2),
            tf_keras.layers.ReLU(),
            tf_keras.layers.Conv2D(64, 3, padding="same", name="conv2"),
            tf_keras.layers.MaxPooling2D(2),
            tf_keras.layers.ReLU(),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(100, "relu", name="dense1"),
            tf_keras.layers.Dense(10, "softmax", name="dense2"),
        ]
    )
    network.compile("adam", "mse")
    path = tmp_path / "keras2.h5"
    (network.save if whole else network.save_weights)(path)
    model = models.build_model("convnet_linear_head", input_shape=(12, 20, 1), weights=path)
    same_outputs(model, np.asarray(network(images(model))), 1e-6)


def test_a_whole_model_that_keras_3_saved_as_h5(tmp_path):
    saved, other = saved_and_other("every_kind")
    saved.save(tmp_path / "model.h5")
    models.load_weights(other, tmp_path / "model.h5")
    assert models.hash_weights(other) == models.hash_weights(saved)


def test_weights_as_keras_3_stores_them_keep_their_ending(tmp_path):
    model = built("nin_digits", "saved")
    model.save_weights(tmp_path / "w.weights.h5")
    (tmp_path / "w.weights.h5").rename(tmp_path / "w.h5")
    refused(model, tmp_path / "w.h5", "have the ending .weights.h5")


@pytest.mark.parametrize("name", ["torch.pt", "torch_legacy.pth"])
def test_files_that_pytorch_wrote(name):
    """torch.save wrote them, from `pytorch_networks.checkpoint`."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / np.float32(7)
    with third_party_files.open_pytorch(pytorch_networks.FILES / name) as source:
        tensors = {tensor.layer: (tensor.dtype, tensor.read()) for tensor in source.tensors}
    expected = {
        "plain": ("float32", values),
        "permuted": ("float32", values.transpose(2, 0, 1)),
        "part": ("float32", values[1]),
        "parameter": ("float32", values[0, 0]),
        "half": ("float16", values.astype(np.float16)),
        "bfloat16": ("bfloat16", values.astype(ml_dtypes.bfloat16)),
        "double": ("float64", values),
        "counter": ("int64", np.array(7)),
        "empty": ("float32", np.zeros((0, 3))),
    }
    assert tensors.keys() == expected.keys()
    for layer, (dtype, array) in expected.items():
        assert tensors[layer][0] == dtype
        np.testing.assert_array_equal(tensors[layer][1], array.astype(np.float32))


def test_the_function_of_pytorch_0_3(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = writers.pytorch(tmp_path / "w.pth", {"a.weight": array}, legacy=True, function="_rebuild_tensor")
    with third_party_files.open_pytorch(path) as source:
        np.testing.assert_array_equal(source.tensors[0].read(), array)


def gives_pytorchs_outputs(model, name, key=None):
    with np.load(pytorch_networks.OUTPUTS) as stored:
        outputs = stored[key or name]
    ours = np.asarray(model(pytorch_networks.images(name).transpose(0, 2, 3, 1)))
    outputs = outputs.transpose(0, 2, 3, 1) if outputs.ndim == 4 else outputs
    assert np.abs(ours - outputs).max() <= 1e-4 * np.abs(outputs).max()
    assert np.ptp(outputs) > 0.01 * np.abs(outputs).max()


def test_squeezenet_1_1_gives_pytorchs_outputs(tmp_path):
    path = writers.pytorch(tmp_path / "s.pth", pytorch_networks.state("squeezenet"))
    model = models.SqueezeNet1_1(
        weights=path, input_shape=(79, 63, 3), classes=7, classifier_activation=None, pool_rounding="ceil"
    )
    gives_pytorchs_outputs(model, "squeezenet")


def test_a_flattened_map_gives_pytorchs_outputs(tmp_path):
    path = writers.pytorch(tmp_path / "c.pt", pytorch_networks.state("flattened"))
    model = models.build_model("convnet_linear_head", input_shape=(12, 20, 1), weights=path, classifier_activation=None)
    gives_pytorchs_outputs(model, "flattened")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [True, False])
def test_a_normalized_mlpconv_gives_pytorchs_outputs(scale, bias, tmp_path):
    """A bias or a gamma that the network has no variable for is taken up by those that it has."""
    from keras_nin import layers

    path = writers.pytorch(tmp_path / "n.pt", pytorch_networks.state("mlpconv", bias))
    x = y = keras.Input((5, 5, 3))
    for number, (filters, size) in enumerate([(8, 5), (6, 1), (4, 1)]):
        y = layers.conv2d(y, filters, size, batch_norm=True, scale=scale, name=f"c{number}")
    model = keras.Model(x, y)
    placed = models.load_weights(model, path, layer_names={f"n{n}": f"c{n}_bn" for n in range(3)})
    gives_pytorchs_outputs(model, "mlpconv", f"mlpconv_{'bias' if bias else 'nobias'}")
    changes = {row.tensor: row.change for row in placed.rows}
    assert changes["n0.num_batches_tracked"] == "left out: a counter of training steps"
    assert changes.get("c0.bias", "subtracted from the moving_mean") == "subtracted from the moving_mean"
    assert changes["n0.weight"] == ("unchanged" if scale else "multiplied into kernel and moving_mean")


@pytest.mark.parametrize("change", ["two readers", "activation", "bias"])
def test_a_gamma_is_taken_up_only_where_that_is_exact(change, tmp_path):
    x = keras.Input((9, 9, 3))
    y = keras.layers.Conv2D(
        8, 1, use_bias=change == "bias", activation="relu" if change == "activation" else None, name="c"
    )(x)
    z = keras.layers.BatchNormalization(scale=False, name="n")(y)
    model = keras.Model(x, [z, keras.layers.ReLU()(y)] if change == "two readers" else z)
    arrays = writers.keras_arrays(model) | {"n/gamma": np.ones(8, np.float32)}
    refused(model, writers.safetensors(tmp_path / "w.safetensors", arrays), r"1 without a layer: n/gamma \(8,\)$")


def test_a_checkpoint_of_a_wrapped_network_in_halves(tmp_path):
    saved, other = saved_and_other("every_kind")
    types = [np.float16, ml_dtypes.bfloat16, np.float64]
    state = {
        f"module.{name}": array.astype(types[number % 3])
        for number, (name, array) in enumerate(writers.pytorch_arrays(saved).items())
    }
    path = writers.pytorch(tmp_path / "c.pt", {"epoch": 3, "best": 0.5, "state_dict": state})
    made = models.load_weights(other, path)
    for ours, theirs in zip(other.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2**-8)
    assert "the prefix 'module.' of every name is removed" in made.notes
    assert any("epsilon: 0.001 here, by default 1e-05 there" in note for note in made.notes)
    changes = {row.change for row in made.rows}
    for dtype in ("float16", "bfloat16", "float64"):
        assert any(change.endswith(f"from {dtype}") for change in changes)


def test_safetensors_in_bfloat16(tmp_path):
    saved, other = saved_and_other("nin_digits")
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in writers.keras_arrays(saved).items()}
    models.load_weights(other, writers.safetensors(tmp_path / "w.safetensors", arrays))
    for ours, theirs in zip(other.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(ml_dtypes.bfloat16).astype(np.float32))


# The other GoogLeNets share its table, and have fewer of its layers.
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("nin_digits", "squeezenet_cifar10") else pytest.param(name, marks=pytest.mark.slow)
        for name, row in registry.REGISTRY.items()
        if row.layer_names and not name.startswith("googlenet_")
    ],
)
def test_a_models_table_names_layers_that_it_has(name):
    row = models.get_spec(name)
    variants = [{"auxiliary": True}, {"normalization": "batch"}] if name == "googlenet" else [{}]
    built = [inception()] if name == "inception_v3" else [row.build(**arguments) for arguments in variants]
    targets = [ours for ours in row.layer_names.values() if ours is not None]
    targets = {layer for ours in targets for layer in ([ours] if isinstance(ours, str) else ours)}
    own = {layer.name for model in built for layer in model.layers if layer.weights}
    assert targets <= own
    if name.startswith(("nin_imagenet", "inception")):
        assert targets >= own


@pytest.mark.parametrize("variant", [pytest.param("squeezenet_v1_0", marks=pytest.mark.slow), "squeezenet_v1_1"])
def test_torchvisions_squeezenet_is_complete(variant, tmp_path):
    table = {ours: theirs for theirs, ours in models.get_spec(variant).layer_names.items() if "." in theirs}
    saved = disturb(models.build_model(variant, classes=3))
    arrays = writers.pytorch_arrays(saved, table)
    assert all(name.startswith(("features.", "classifier.1.")) for name in arrays)
    path = writers.safetensors(tmp_path / "w.safetensors", arrays)
    loaded = models.build_model(variant, classes=3, weights=path)
    assert models.hash_weights(loaded) == models.hash_weights(saved)


@pytest.mark.slow
def test_rcmallis_squeezenet(tmp_path):
    names = {ours: theirs for theirs, ours in models.get_spec("squeezenet_v1_1").layer_names.items() if "/" in theirs}
    saved = disturb(models.build_model("squeezenet_v1_1", classes=3))
    path = writers.keras_2(saved, tmp_path / "w.h5", names)
    with h5py.File(path) as file:
        assert file["fire2/squeeze1x1/fire2/squeeze1x1/kernel:0"].shape == (1, 1, 64, 16)
    loaded = models.build_model("squeezenet_v1_1", classes=3, weights=path)
    assert models.hash_weights(loaded) == models.hash_weights(saved)


@functools.cache
def inception():
    return models.build_model("inception_v3", input_shape=(75, 75, 3), classes=5)


def test_numbers_that_contradict_the_order_of_the_file(tmp_path):
    saved, other = saved_and_other("nin_digits")
    layers = [layer.name for layer in saved.layers if layer.weights]
    table = {"conv2d": tuple(layers)}
    names = {layer: f"conv2d_{number}" for number, layer in enumerate(layers)}
    models.load_weights(other, writers.keras_2(saved, tmp_path / "w.h5", names), layer_names=table)
    assert models.hash_weights(other) == models.hash_weights(saved)
    same_shape = "mlpconv2_conv1x1a", "mlpconv2_conv1x1b"
    names |= dict(zip(same_shape, [names[layer] for layer in reversed(same_shape)], strict=True))
    path = writers.keras_2(saved, tmp_path / "swapped.h5", names)
    with pytest.raises(WeightsMismatchError, match="'swapped.h5' to list its numbered layers in the order of the net"):
        models.load_weights(other, path, layer_names=table)


@pytest.mark.parametrize("first", [0, 1, 95])
def test_numbered_names_start_anywhere(first):
    theirs = [f"conv2d_{n}" if n else "conv2d" for n in range(first, first + 94)]
    names = third_party.match_layers(INCEPTION_NAMES, theirs[::-1], own=())
    assert [names[name] for name in theirs] == list(INCEPTION_NAMES["conv2d"])
    assert third_party.match_layers(INCEPTION_NAMES, theirs[1:], own=()) == {}


@pytest.mark.slow
def test_torchvisions_inception_v3_is_complete(tmp_path):
    """Every layer by torchvision's names, a gamma that is 1, and the auxiliary classifier that has no place."""
    table = {ours: theirs for theirs, ours in INCEPTION_NAMES.items() if isinstance(ours, str)}
    table["classifier"] = "fc"
    loaded = disturb(inception())
    saved = loaded.get_weights()
    arrays = writers.pytorch_arrays(loaded, table)
    for name in [name for name in arrays if name.endswith(".running_mean")]:
        arrays[name.replace("running_mean", "weight")] = np.full(arrays[name].shape, 2, np.float32)
        arrays[name.replace("running_mean", "num_batches_tracked")] = np.array(7)
    arrays["AuxLogits.conv0.conv.weight"] = np.zeros((128, 768, 1, 1), np.float32)
    arrays["AuxLogits.fc.bias"] = np.zeros(5, np.float32)
    path = writers.safetensors(tmp_path / "w.safetensors", arrays)
    disturb(loaded, seed=1)
    made = models.load_weights(loaded, path, layer_names=INCEPTION_NAMES)
    for ours, theirs in zip(loaded.weights, saved, strict=True):
        doubled = ours.name == "moving_mean" or (ours.name == "kernel" and theirs.ndim == 4)
        np.testing.assert_array_equal(ours.numpy(), theirs * (2 if doubled else 1))
    assert {row.change for row in made.rows if row.tensor.startswith("Aux")} == {"left out: used only in training"}


def test_everything_that_does_not_fit_is_listed(tmp_path):
    arrays = writers.pytorch_arrays(built("nin_digits", "saved"))
    kernel = arrays.pop("mlpconv1_conv3x3.weight")
    arrays["mlpconv1_conv3x3.weights"] = kernel
    arrays["mlpconv2_conv1x1a.weight"] = arrays["mlpconv2_conv1x1a.weight"][:5]
    arrays["mlpconv2_conv3x3.weight"] = arrays["mlpconv2_conv3x3.weight"].transpose(2, 3, 1, 0).copy()
    arrays["mlpconv2_conv1x1b.bias"] = np.arange(48)
    del arrays["mlpconv3_conv1x1a.bias"]
    arrays["fc.weight"] = np.zeros((3, 4), np.float32)
    del arrays["mlpconv1_conv3x3.weights"]
    arrays["stem.weight"] = kernel
    error = refused(
        built("nin_digits", "saved"),
        writers.safetensors(tmp_path / "w.safetensors", arrays),
        r"2 missing: mlpconv1_conv3x3/kernel \(3, 3, 1, 48\), mlpconv3_conv1x1a/bias \(64,\);",
        r"3 mismatched: ",
        r"mlpconv2_conv1x1a.weight for mlpconv2_conv1x1a/kernel, expected \(48, 48, 1, 1\), received \(5, 48, 1, 1\)",
        r"mlpconv2_conv3x3/kernel, expected \(48, 24, 3, 3\), received \(3, 3, 24, 48\), looks like HWIO",
        r"mlpconv2_conv1x1b/bias, expected floating point, received I64",
        r"2 without a layer: fc.weight \(3, 4\), stem.weight \(48, 1, 3, 3\)$",
    )
    assert isinstance(error, WeightsMismatchError)


def test_the_wrong_orientation(tmp_path):
    model = built("flattened", "saved")
    arrays = writers.keras_arrays(model)
    arrays["conv2/kernel"] = arrays["conv2/kernel"].transpose(3, 2, 0, 1).copy()
    arrays["dense2/kernel"] = arrays["dense2/kernel"].T.copy()
    path = writers.safetensors(tmp_path / "w.safetensors", arrays)
    refused(
        model,
        path,
        r"conv2/kernel, expected \(3, 3, 3, 64\), received \(64, 3, 3, 3\), looks like OIHW",
        r"dense2/kernel, expected \(100, 10\), received \(10, 100\), looks like \(out, in\)",
    )


@pytest.mark.parametrize("writer", ["Keras 2", "Keras 1, Theano", "safetensors, PyTorch", "PyTorch"])
def test_another_models_weights(writer, tmp_path):
    path = WRITERS[writer](built("flattened", "saved"), tmp_path)
    refused(built("nin_digits", "saved"), path, "18 missing: mlpconv1_conv3x3/kernel.*8 without a layer: ")


def test_a_trunk_takes_its_part_of_the_whole(tmp_path):
    whole = disturb(models.build_model("nin_digits"))
    path = WRITERS["Keras 2"](whole, tmp_path)
    trunk = models.build_model("nin_digits", include_top=False)
    refused(trunk, path, "2 without a layer: mlpconv3_conv1x1b/mlpconv3_conv1x1b/kernel:0")
    models.load_weights(trunk, path, partial=True)
    for ours, theirs in zip(trunk.get_weights(), whole.get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_names_of_no_kind_and_of_both(tmp_path):
    model = built("nin_digits", "saved")
    both = {"a.weight": np.zeros(2, np.float32), "b.kernel": np.zeros(2, np.float32)}
    refused(model, writers.safetensors(tmp_path / "b.safetensors", both), "Received: both")
    neither = {"a.w": np.zeros(2, np.float32)}
    refused(model, writers.safetensors(tmp_path / "n.safetensors", neither), "Received: neither, a.w")


def test_two_tensors_for_one_weight(tmp_path):
    model = built("every_kind", "saved")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["conv1", "conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = ["conv1/kernel:0"]
        group["conv1/kernel:0"] = model.weights[0].numpy()
    refused(model, tmp_path / "w.h5", "conv1/conv1/kernel:0, a second tensor for conv1/kernel")


def test_channels_first_of_keras_2(tmp_path):
    """Its kernels are as with channels last; how it flattened a map is not said."""
    config = {"model_config": json.dumps({"config": {"data_format": "channels_first"}})}
    saved, other = saved_and_other("nin_digits")
    models.load_weights(other, writers.keras_2(saved, tmp_path / "a.h5", attributes=config))
    assert models.hash_weights(other) == models.hash_weights(saved)
    path = writers.keras_2(built("flattened", "saved"), tmp_path / "b.h5", attributes=config)
    refused(built("flattened", "saved"), path, "1 mismatched: dense1/dense1/kernel:0 .* says how it flattens a map")


def test_a_file_of_keras_1_without_its_backend_is_noted(tmp_path):
    model = built("nin_digits", "saved")
    made = models.load_weights(model, writers.keras_1(model, tmp_path / "w.h5", "th"))
    assert made.notes == ("the file does not name its backend: if Theano wrote it, its kernels are flipped",)


def test_layers_in_layers(tmp_path):
    from keras_nin import layers

    x = keras.Input((8, 8, 1))
    model = keras.Model(x, layers.Fire(2, 4, 4, name="f")(x))
    path = WRITERS["Keras 2"](built("nin_digits", "saved"), tmp_path)
    refused(model, path, "plain layers .*'f' holds layers")


# Hostile and damaged files.


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "garbage"])
@pytest.mark.parametrize("writer", ["Keras 2", "safetensors, Keras", "PyTorch", "PyTorch, old"])
def test_damaged_files(writer, damage, tmp_path):
    path = WRITERS[writer](built("nin_digits", "saved"), tmp_path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"These are no weights.\n" * 100,
            "truncated": data[: len(data) // 2],
            "garbage": b"\xff" * len(data),
        }[damage]
    )
    refused(built("nin_digits", "saved"), path, "^Expected .*Received: ")


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 99_999_999) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 70) + b'{"a.weight":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}',
        struct.pack("<Q", 66) + b'{"a.weight":{"dtype":"F32","shape":[4],"data_offsets":[0,999999]}}',
        struct.pack("<Q", 60_000) + b"[" * 60_000,
    ],
)
def test_hostile_headers(header, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(header)
    refused(built("nin_digits", "saved"), tmp_path / "w.safetensors", "to hold weights. Received: ")


class Touch:
    """Unpickled by pickle, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


class Evaluate(Touch):
    def __reduce__(self):
        return (builtins.eval, (f"__import__('os').mkdir({str(self.path)!r})",))


@pytest.mark.parametrize("attack", [Touch, Evaluate])
@pytest.mark.parametrize("kind", ["pickle", "torch", "legacy", "nested"])
def test_a_pickle_that_would_execute_code(attack, kind, tmp_path):
    executed, path = tmp_path / "executed", tmp_path / "w.pth"
    attack = attack(executed)
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": attack}))
    else:
        state = {"conv1.weight": np.zeros(3, np.float32), "extra": attack}
        writers.pytorch(path, {"state_dict": state} if kind == "nested" else state, legacy=kind == "legacy")
    refused(built("nin_digits", "saved"), path, "could execute code; none was")
    assert not executed.exists()
    pickle.loads(pickle.dumps(attack))
    assert executed.exists()


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("


@pytest.mark.parametrize(
    "program",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\nN}Vx\nVy\nsb.",  # sets an attribute of a function
        b"ccollections\nOrderedDict\n}Vx\nVy\nsb.",  # of a class
        b"ctorch\nFloatStorage\n}Vx\nVy\nsb.",
        b"ckeras_nin.models.pytorch_files\n_Tensor\n.",
        b"cbuiltins\ngetattr\n.",
        b"I1\nr\xff\xff\xff\x7f.",  # 2**31 entries of the unpickler's memory
        b"\x8d" + b"\xff" * 8 + b"x.",  # a string longer than the file
        b"(" * 100_000 + b"l" * 100_000 + b".",
        TENSOR + b"Nltp0\n0tR.",
        b"\x80\x02}Vw.weight\n" + TENSOR + b"NI0\n(I9\nt(I-1\ntI00\n}tRs.",
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_hostile_pickles(program, archived, tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(program)
    if archived:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", program)
    refused(built("nin_digits", "saved"), path, "^Expected .*Received: ")


def test_a_state_dictionary_of_more_than_tensors(tmp_path):
    path, zeros = tmp_path / "w.pt", np.zeros(3, np.float32)
    writers.pytorch(path, {"conv1.weight": zeros, "lr": 0.1, "name": "x"})
    refused(built("nin_digits", "saved"), path, r"only tensors. Received: lr \(float\), name \(str\)")
    writers.pytorch(path, [zeros])
    refused(built("nin_digits", "saved"), path, "dictionary of named tensors. Received: list")
    writers.pytorch(path, {"conv1.weight": zeros}, function="_rebuild_sparse_tensor")
    refused(built("nin_digits", "saved"), path, "plain tensors .*conv1.weight")


def test_sizes_that_only_claim_to_be_large(tmp_path):
    path = tmp_path / "w.pt"
    repeated = np.ndarray((1 << 40,), np.float32, np.zeros(1, np.float32), 0, (0,))
    writers.pytorch(path, {"mlpconv1_conv3x3.weight": repeated})
    refused(built("nin_digits", "saved"), path, r"received \(1099511627776,\)")
    bias = np.ndarray((48,), np.float32, np.zeros(1, np.float32), 0, (0,))
    writers.pytorch(path, writers.pytorch_arrays(built("nin_digits", "saved")) | {"mlpconv1_conv3x3.bias": bias})
    refused(built("nin_digits", "saved"), path, "all values of mlpconv1_conv3x3.bias")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\0" * 1_000_000)
    refused(built("nin_digits", "saved"), path, "a compressed archive")
    path = writers.keras_2(built("nin_digits", "saved"), tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        group = file["mlpconv1_conv3x3/mlpconv1_conv3x3"]
        del group["bias:0"]
        group.create_dataset("bias:0", (1 << 40,), "f4", chunks=(1 << 20,))
    refused(built("nin_digits", "saved"), path, "to expand to at most 1,073,741,824 bytes")


def with_nothing(file, group, tmp_path):
    pass


def with_group(file, group, tmp_path):
    group.create_group("bias:0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nothing, "nothing there"),
        (with_group, "something else there"),
    ],
)
def test_arrays_that_are_not_in_the_file(change, message, tmp_path):
    path = writers.keras_2(built("nin_digits", "saved"), tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        group = file["mlpconv1_conv3x3/mlpconv1_conv3x3"]
        del group["bias:0"]
        change(file, group, tmp_path)
    refused(built("nin_digits", "saved"), path, message)


def test_groups_in_a_circle_and_arrays_that_no_list_names(tmp_path):
    saved, other = saved_and_other("nin_digits")
    path = writers.keras_2(saved, tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        file["mlpconv1_conv3x3"]["again"] = file["/"]
    models.load_weights(other, path)
    assert models.hash_weights(other) == models.hash_weights(saved)
    with h5py.File(path, "a") as file:
        file["extra/deep"] = np.zeros(3)
    refused(other, path, r"1 without a layer: extra/deep \(3,\)")


def test_a_huge_attribute(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["layer_names"] = np.zeros(2_000_000, "S9")
    refused(
        built("nin_digits", "saved"), path, "attribute 'layer_names' of at most 16,777,216 bytes. Received: 18,000,000"
    )


def test_long_lists_of_names_are_stored_in_parts(tmp_path):
    saved, other = saved_and_other("nin_digits")
    path = writers.keras_2(saved, tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:5], names[5:]
    models.load_weights(other, path)
    assert models.hash_weights(other) == models.hash_weights(saved)


def test_what_is_legacy(tmp_path):
    model = built("nin_digits", "saved")
    model.save_weights(tmp_path / "w.weights.h5")
    assert not third_party_files.is_legacy_h5(tmp_path / "w.weights.h5")
    assert not third_party_files.is_legacy_h5(pathlib.Path(__file__))
    assert third_party_files.is_legacy_h5(writers.keras_2(model, tmp_path / "a.h5"))
    assert third_party_files.is_legacy_h5(writers.keras_2(model, tmp_path / "b.h5", whole=True))
    assert set(third_party_files.READERS) == {".npz", *weight_files.THIRD_PARTY_SUFFIXES}
