"""Weights that a publisher offers: declared, fetched from a server on this machine, verified, and built into."""

import inspect

import keras
import numpy as np
import pytest
import pytorch_networks
import third_party_writers as writers

from keras_nin import InputError, data, models
from keras_nin.models import downloads, googlenet, squeezenet

ROWS = [pytest.param(*key, id=" ".join(key)) for key in downloads.DOWNLOADS]


def disturb(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight.numpy() + rng.uniform(0, 0.1, weight.shape))
    return model


@pytest.mark.parametrize(("model", "weights"), ROWS)
def test_a_declared_file_is_the_publishers(model, weights):
    row, spec = downloads.DOWNLOADS[model, weights], models.get_spec(model)
    assert set(row.arguments) <= spec.arguments
    assert 0 < row.top1 < row.top5 < 100
    assert data.Preprocessing.from_json(row.preprocessing).preset in ("torch", "symmetric")
    if row.publisher == "torchvision":
        assert row.file_name.endswith(f"-{row.hash}.pth")
        assert len(row.hash) == 8
        return
    source = keras.src.applications.inception_v3
    assert row.url == source.WEIGHTS_PATH
    assert f'"{row.file_name}"' in inspect.getsource(source)
    assert f'file_hash="{row.hash}"' in inspect.getsource(source)


@pytest.mark.slow  # of torchvision's documentation
@pytest.mark.parametrize(
    ("name", "params"), [("squeezenet_v1_0", 1_248_424), ("squeezenet_v1_1", 1_235_496), ("googlenet_bn", 6_624_904)]
)
def test_the_parameters_are_torchvisions(name, params, structure_only):
    model = models.get_spec(name).family(models.get_spec(name), **downloads.DOWNLOADS[name, "imagenet"].arguments)
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == params


def test_torchvisions_transform_input_is_the_symmetric_preprocessing():
    """torchvision normalizes for its other networks, and GoogLeNet and Inception v3 take that back."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    transformed = (pixels / 255 - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
    ours = googlenet.preprocess_input(pixels, "googlenet_bn", weights="imagenet")
    np.testing.assert_allclose(ours, transformed, atol=1e-6)


def test_preprocessing_goes_by_the_weights():
    pixels = np.full((1, 2, 2, 3), 255, np.float32)
    caffe, torch = (squeezenet.preprocess_input(pixels, "squeezenet_v1_0", weights=w) for w in (None, "imagenet"))
    np.testing.assert_allclose(caffe[0, 0, 0], [151, 138, 132])
    np.testing.assert_allclose(torch[0, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-5)
    np.testing.assert_array_equal(squeezenet.preprocess_input(pixels, weights="imagenet"), torch)
    with pytest.raises(InputError, match="`weights` to be downloadable weights of squeezenet_cifar10. Received: 'im"):
        squeezenet.preprocess_input(pixels, "squeezenet_cifar10", weights="imagenet")


def test_a_familys_weights_of_one_name_have_one_preprocessing():
    kinds = {}
    for (model, weights), row in downloads.DOWNLOADS.items():
        kinds.setdefault((models.get_spec(model).family, weights), []).append(row.preprocessing)
    assert all(rows.count(rows[0]) == len(rows) for rows in kinds.values())


def test_squeezenet_is_fetched_once_and_built_as_torchvision_has_it(publisher, tmp_path, capfd):
    saved = disturb(models.build_model("squeezenet_v1_0", input_shape=(39, 39, 3)))
    row = publisher.offer("squeezenet_v1_0", writers.torchvision(tmp_path / "w.pth", saved).read_bytes())
    model = models.SqueezeNet1_0(weights="imagenet", input_shape=(39, 39, 3))
    assert models.hash_weights(model) == models.hash_weights(saved)
    assert model.get_layer("pool4").padding == "same"  # rounds up
    assert [path.name for path in publisher.cache.iterdir()] == [row.file_name]
    loaded = models.load_model("squeezenet_v1_0", weights="imagenet", input_shape=(21, 21, 3), include_top=False)
    assert publisher.requests == [row.file_name]
    assert (loaded.weights, loaded.random, loaded.preprocessing) == ("imagenet", False, row.preprocessing)
    own = models.build_model("squeezenet_v1_0", weights="imagenet", input_shape=(39, 39, 3), pool_rounding="floor")
    assert own.get_layer("pool4").padding == "valid"
    assert capfd.readouterr().out == ""


def test_a_damaged_file_in_the_cache_is_fetched_anew(publisher):
    row = publisher.offer("squeezenet_v1_1", b"the weights")
    publisher.cache.mkdir()
    (publisher.cache / row.file_name).write_bytes(b"the wei")
    assert downloads.fetch_weights(row).read_bytes() == b"the weights"
    (publisher.cache / row.file_name).write_bytes(b"the wei")
    publisher.files.clear()
    refused(publisher, row, "in the cache, a file of 7 bytes with SHA-256 .* URL fetch failure .*404", left=b"the wei")


PAGE = b"\n<!DOCTYPE html><html><body>Sign in to this network</body></html>"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"other weights", "from http.*, a file of 13 bytes with SHA-256 [0-9a-f]{8} instead of [0-9a-f]{8}"),
        (PAGE, f"from http.*, an HTML page of {len(PAGE)} bytes"),
        (b"", "a file of 0 bytes"),
        (None, "URL fetch failure on http.*404"),
        ("half", "URL fetch failure on http.*retrieval incomplete: got only 5 out of 11 bytes"),
        ("stopped", "URL fetch failure on http.*Connection refused"),
    ],
)
def test_what_is_not_the_publishers_file_is_refused(content, problem, publisher):
    row = publisher.offer("squeezenet_v1_1", b"the weights")
    if content == "half":
        publisher.cut.add(row.file_name)
    elif content == "stopped":
        publisher.close()
    else:
        publisher.files[row.file_name] = content
    refused(publisher, row, problem)


def refused(publisher, row, problem, left=None):
    """The error is one line that says where the file goes, and the cache is as it was."""
    with pytest.raises(InputError, match=problem) as caught:
        downloads.fetch_weights(row)
    path = publisher.cache / row.file_name
    assert str(caught.value).endswith(f". Save {row.url} as {str(path)!r}")
    assert "\n" not in str(caught.value)
    assert caught.value.argument == "weights"
    assert [file.read_bytes() for file in publisher.cache.iterdir()] == ([] if left is None else [left])


@pytest.mark.parametrize("what", ["file", "read-only"])
def test_a_cache_that_cannot_be_written_to(what, publisher, monkeypatch):
    row = publisher.offer("squeezenet_v1_1", b"the weights")
    if what == "file":
        publisher.cache.write_bytes(b"")
    else:

        def no_file(**_):  # a superuser's test may write anywhere
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", no_file)
    with pytest.raises(InputError, match=r"a folder that can be written to.*models'.*Set KERAS_HOME") as caught:
        downloads.fetch_weights(row)
    assert "\n" not in str(caught.value)
    assert publisher.requests == []


def test_the_command_line_says_where_to_put_the_file(publisher, cli):
    row = publisher.offer("squeezenet_v1_1", b"the weights")
    publisher.close()
    ran = cli("export", "squeezenet_v1_1", "--weights", "imagenet", "--data", "random")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert f"Save {row.url} as '{publisher.cache / row.file_name}'" in ran.err


def test_another_number_of_classes_needs_no_download():
    with pytest.raises(InputError, match="`classes` to be 1000, as in squeezenet1_1.*Received: 10"):
        models.SqueezeNet1_1(weights="imagenet", classes=10)


def test_weights_to_download_are_listed(cli):
    rows = {row["name"]: row for row in cli("list", "--json").json["models"]}
    keras_file, torchvision_file = rows["inception_v3"]["downloads"]
    assert (keras_file["name"], torchvision_file["name"]) == ("imagenet", "imagenet_torchvision")
    assert torchvision_file["url"] == "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
    assert torchvision_file["top1"] == 77.294
    assert rows["nin_digits"]["downloads"] == []
    assert "imagenet (download), imagenet_torchvision (download)" in cli("list").out


@pytest.mark.slow
def test_googlenet_gives_pytorchs_outputs(publisher, tmp_path):
    """torchvision's network, written in PyTorch: BatchNormalization, 3x3 for 5x5, a 2x2 pooling, rounding up."""
    path = writers.pytorch(tmp_path / "w.pth", pytorch_networks.state("googlenet"), legacy=True)
    publisher.offer("googlenet_bn", path.read_bytes())
    images = pytorch_networks.images("googlenet").transpose(0, 2, 3, 1)
    model = models.GoogLeNetBN(weights="imagenet", input_shape=images.shape[1:], classifier_activation=None)
    with np.load(pytorch_networks.OUTPUTS) as stored:
        outputs = stored["googlenet"]
    assert np.abs(np.asarray(model(images)) - outputs).max() <= 1e-4 * np.abs(outputs).max()
    assert np.ptp(outputs, axis=1).min() > 0.1 * np.abs(outputs).max()
