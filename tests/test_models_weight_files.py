"""Weight files: what fits loads, what does not is refused by name and leaves the model as it was."""

import functools
import itertools
import os
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_nin import InputError, files, layers, models
from keras_nin.errors import WeightsMismatchError
from keras_nin.models import weight_files

KERAS_KINDS = (".weights.h5", ".keras")
KINDS = (*KERAS_KINDS, ".npz")


@functools.cache
def of_block_layers(units=3, role=""):
    """A network of blocks, built once for each role."""
    x = keras.Input((8, 8, 1))
    y = layers.Fire(2, 4, 4, name="f")(x)
    y = layers.MLPConv((4, 4), 3, batch_norm=True, name="m")(y)
    y = keras.layers.BatchNormalization(name="b")(y)
    y = keras.layers.Dense(units, name="d")(keras.layers.Flatten(name="flat")(y))
    return keras.Model(x, y, name="of_blocks")


@functools.cache
def chain(*widths, role=""):
    x = y = keras.Input((4, 4, 1))
    for number, width in enumerate(widths):
        y = keras.layers.Conv2D(width, 1, name=f"c{number}")(y)
    return keras.Model(x, y, name="chain")


@functools.cache
def digits(role=""):
    return models.build_model("nin_digits")


def save(model, path):
    if path.name.endswith(".npz"):
        np.savez(path, **{f"{layer.name}/{w.name}": w.numpy() for layer in model.layers for w in layer.weights})
    else:
        (model.save_weights if path.name.endswith(".h5") else model.save)(path)
    return path


def disturb(model, seed=0):
    """Give every weight values of its own, so that one left out or swapped shows."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.random(weight.shape, np.float32) for weight in model.weights])
    return model


def refused(model, weights, message, **options):
    """Loading raises an `InputError` of one line and changes nothing."""
    before = models.hash_weights(model)
    with pytest.raises(InputError, match=message) as caught:
        models.load_weights(model, weights, **options)
    assert "\n" not in str(caught.value)
    assert models.hash_weights(model) == before
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [digits, lambda role: chain(*range(2, 15), role=role)])
def test_every_kind_loads_what_was_saved(kind, build, tmp_path):
    saved, other = disturb(build("saved")), disturb(build("other"), seed=1)
    models.load_weights(other, save(saved, tmp_path / f"w{kind}"))
    assert models.hash_weights(other) == models.hash_weights(saved)


@pytest.mark.parametrize("kind", KERAS_KINDS)
def test_models_of_our_layers(kind, tmp_path):
    saved, other = disturb(of_block_layers(role="saved")), disturb(of_block_layers(), seed=1)
    models.load_weights(other, save(saved, tmp_path / f"w{kind}"))
    assert models.hash_weights(other) == models.hash_weights(saved)


def test_npz_and_layers_in_layers(tmp_path):
    path = save(digits(), tmp_path / "w.npz")
    refused(of_block_layers(), path, "network of plain layers.*'f' holds layers. Use .weights.h5")


def test_shipped_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("a file of that name does not hide them")
    model = models.build_model("nin_digits", weights="digits")
    assert models.hash_weights(model) != models.hash_weights(digits())
    assert weight_files.list_bundled_weights("nin_digits") == ["digits"]
    assert weight_files.list_bundled_weights("nin_*") == weight_files.list_bundled_weights("nin") == []
    assert weight_files.read_bundled_metrics("nin_digits", "digits")["model"] == "nin_digits"
    with pytest.raises(InputError, match="ending in .weights.h5"):
        weight_files.find_weights("nin_digits", "./digits")


@pytest.mark.parametrize("kind", KERAS_KINDS)
def test_a_layer_of_another_shape(kind, tmp_path):
    path = save(chain(2, 3), tmp_path / f"w{kind}")
    message = re.escape("kernel of layer 'c1' with shape (1, 1, 2, 4). Received: shape (1, 1, 2, 3)")
    error = refused(chain(2, 4), path, message)
    assert isinstance(error, WeightsMismatchError)
    assert error.path == str(path)


@pytest.mark.parametrize("kind", KERAS_KINDS)
def test_fewer_layers_in_the_file(kind, tmp_path):
    # Of more than ten layers, since a file sorts c10 before c2.
    path = save(chain(*range(2, 10)), tmp_path / f"w{kind}")
    message = re.escape("kernel of layer 'c8' with shape (1, 1, 9, 10). Received: a file without")
    refused(chain(*range(2, 15)), path, message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (".weights.h5", "only the weights of chain. Received: 2 more, the first for 'c2"),
        (".keras", "only the weights of chain. Received: 2 more, the first for 'c2"),
        (".npz", r"2 without a layer: c2/kernel \(1, 1, 3, 4\), c2/bias \(4,\)"),
    ],
)
def test_more_layers_in_the_file(kind, message, tmp_path):
    path = save(disturb(chain(2, 3, 4)), tmp_path / f"w{kind}")
    refused(chain(2, 3), path, message)
    partial, whole = (disturb(chain(*widths, role="other"), seed=1) for widths in ((2, 3), (2, 3, 4)))
    models.load_weights(partial, path, partial=True)
    models.load_weights(whole, path)
    for ours, theirs in zip(partial.get_weights(), whole.get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_a_trunk_takes_its_part_of_the_whole(tmp_path):
    trunk, whole = (
        models.build_model("nin_digits", include_top=False),
        models.build_model("nin_digits", weights="digits"),
    )
    refused(trunk, weight_files.find_weights("nin_digits", "digits"), "2 more, the first for 'mlpconv3_conv1x1b'")
    models.load_weights(trunk, "digits", partial=True)
    for ours, theirs in zip(trunk.get_weights(), whole.get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_a_mismatch_inside_a_block_layer(tmp_path):
    path = save(chain(2), tmp_path / "w.keras")
    refused(
        of_block_layers(), path, r"kernel of layer 'f/inner/\w+' with shape \(1, 1, 1, 2\). Received: a file without"
    )
    path = save(of_block_layers(4), tmp_path / "x.weights.h5")
    refused(of_block_layers(), path, r"kernel of layer 'd' with shape \(256, 3\). Received: shape \(256, 4\)")


@pytest.mark.parametrize("kind", KERAS_KINDS)
def test_state_of_an_optimizer_is_no_surplus(kind, tmp_path):
    trained = chain(2, 3, role="trained")
    trained.compile("adam", loss="mse")
    trained.optimizer.build(trained.trainable_variables)
    other = disturb(chain(2, 3), seed=1)
    models.load_weights(other, save(trained, tmp_path / f"w{kind}"))
    assert models.hash_weights(other) == models.hash_weights(trained)


@pytest.mark.parametrize(
    ("damage", "kind"),
    # HDF5 has no checksum over its arrays.
    [
        *itertools.product(["empty", "text", "truncated"], KINDS),
        *itertools.product(["garbage inside"], [".keras", ".npz"]),
    ],
)
def test_damaged_files(damage, kind, tmp_path):
    path = save(chain(12, 13), tmp_path / f"w{kind}")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "empty": b"",
            "text": b"These are no weights.\n" * 100,
            "truncated": data[:middle],
            "garbage inside": data[: middle // 4] + b"\xff" * (middle // 2) + data[middle:],
        }[damage]
    )
    refused(chain(12, 13), path, re.escape(f"Expected {str(path)!r} to hold weights. Received: "))


@pytest.mark.parametrize("kind", [".keras", ".npz"])
def test_another_zip(kind, tmp_path):
    path = tmp_path / f"w{kind}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(chain(2), path, "Received")


def test_weights_as_keras_2_stored_them(tmp_path):
    saved, other = disturb(chain(2, role="saved")), disturb(chain(2), seed=1)
    saved.save(tmp_path / "legacy.h5")
    path = (tmp_path / "legacy.h5").rename(tmp_path / "legacy.weights.h5")
    models.load_weights(other, path)
    assert models.hash_weights(other) == models.hash_weights(saved)


def test_another_hdf5_file(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file["x"] = np.zeros(3)
    refused(chain(2), tmp_path / "x.weights.h5", "as Keras 3 stores them. Received: a file with none")


def test_first_layout_of_keras_3(tmp_path):
    """The first versions named the group otherwise and stored the random generators too."""
    saved = disturb(digits("saved"))
    path = save(saved, tmp_path / "w.weights.h5")
    with h5py.File(path, "a") as file:
        for place in list(file["layers"]):
            if place.startswith("dropout"):
                file[f"layers/{place}/seed_generator/vars/0"] = np.zeros(2, np.uint32)
            del file[f"layers/{place}/vars"].attrs["name"]
    other = disturb(digits("other"), seed=1)
    models.load_weights(other, path)
    assert models.hash_weights(other) == models.hash_weights(saved)


def test_objects_and_texts_in_an_npz(tmp_path):
    model = chain(2)
    kernel, bias = (weight.numpy() for weight in model.weights)
    np.savez(tmp_path / "o.npz", **{"c0/kernel": np.array([{}], object), "c0/bias": bias})
    refused(model, tmp_path / "o.npz", "Object arrays")
    np.savez(tmp_path / "t.npz", **{"c0/kernel": np.full(kernel.shape, "x"), "c0/bias": bias})
    refused(model, tmp_path / "t.npz", "c0/kernel for c0/kernel, expected floating point, received <U1")
    np.savez(tmp_path / "d.npz", **{"c0/kernel": kernel, "c0/weights": kernel, "c0/bias": bias})
    refused(model, tmp_path / "d.npz", "c0/weights, a second tensor for c0/kernel")
    np.savez(tmp_path / "m.npz", **{"c0/kernel": kernel[..., :1], "c1/bias": bias})
    refused(model, tmp_path / "m.npz", "1 missing: c0/bias .*1 mismatched: c0/kernel .*1 without a layer: c1/bias")


@pytest.mark.parametrize("kind", KINDS)
def test_nan_loads_as_it_is(kind, tmp_path):
    saved, other = chain(2, role="saved"), disturb(chain(2, role="other"))
    saved.set_weights([np.full(weight.shape, np.nan) for weight in saved.weights])
    models.load_weights(other, save(saved, tmp_path / f"w{kind}"))
    assert all(np.isnan(weight).all() for weight in other.get_weights())


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("nin_digits", "digit", "Did you mean digits?"),
        ("nin_digits", "missing.npz", "an existing file .*Received: 'missing.npz'"),
        ("nin_digits", "no/such/file", "an existing file"),
        ("nin_digits", "folder", "an existing file .*Received: 'folder', a folder"),
        ("nin_digits", "model.bin", "a weight file ending in .weights.h5, .keras, .npz, .*Received: 'model.bin'"),
        ("nin_cifar100", "digits", "nin_cifar100 has no bundled weights. Received: 'digits'"),
        ("nin_digits", 5, "a name or a path. Received: 5"),
    ],
)
def test_no_such_weights(model, weights, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        weight_files.find_weights(model, weights)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("squeezenet_cifar10", "fire2/squeeze1x1", marks=pytest.mark.slow),
        ("nin_digits", "nin1/cccp1/conv"),
    ],
)
def test_third_party_names_in_an_npz(name, expected, tmp_path):
    saved = disturb(models.build_model(name))
    theirs = {ours: name for name, ours in models.get_spec(name).layer_names.items()}
    assert set(theirs) <= {layer.name for layer in saved.layers}
    variables = {"kernel": "weights", "bias": "biases"} if name.startswith("nin") else {}
    arrays = {
        f"{theirs.get(layer.name, layer.name)}/{variables.get(weight.name, weight.name)}": weight.numpy()
        for layer in saved.layers
        for weight in layer.weights
    }
    assert any(key.startswith(expected) for key in arrays)
    np.savez(tmp_path / "theirs.npz", **arrays)
    loaded = models.build_model(name, weights=tmp_path / "theirs.npz")
    assert models.hash_weights(loaded) == models.hash_weights(saved)


@pytest.mark.parametrize("build", [digits, lambda role: of_block_layers(role=role)])
def test_digest_is_of_the_values_alone(build, tmp_path):
    model, again = build("saved"), build("other")  # whose inner layers Keras numbers on
    digest = models.hash_weights(disturb(model))
    model.save(tmp_path / "m.keras")
    again.set_weights(model.get_weights())
    assert models.hash_weights(again) == digest
    assert models.hash_weights(models.load_model(tmp_path / "m.keras").model) == digest


def test_digest_sees_one_ulp():
    model = digits()
    digests = {models.hash_weights(model)}
    for weight, sign in itertools.product((model.weights[0], model.weights[-1]), (1, -1)):
        array = weight.numpy()
        array.flat[-1] = np.nextafter(array.flat[-1], np.float32(sign * np.inf))
        before = weight.numpy()
        weight.assign(array)
        digests.add(models.hash_weights(model))
        weight.assign(before)
    assert len(digests) == 5


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot tell whether a disk has room")
def test_weights_are_not_started_on_a_disk_without_room(tmp_path):
    """HDF5 crashes the process where the disk fills up while it writes."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        problem = "net.weights.h5' to be writable. Received: File too large"
        with pytest.raises(InputError, match=problem), files.replace_file(tmp_path / "net.weights.h5") as path:
            models.save_weights(chain(200, 200), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []
