"""Builders and main job held to real weights and images of others (in the folder that KERAS_NIN_DATA names)."""

import json

import keras
import numpy as np
import pytest
import third_party_writers as writers

from keras_nin import data, models
from keras_nin.cli import main

pytestmark = pytest.mark.external

# Layers of the Caffe release by their names there, where ours differ.
ACTIVATIONS = {"pool10": "conv10_pool", "prob": "conv10_softmax"}


def test_squeezenet_1_1_gives_the_stored_outputs(external_data):
    weights = external_data / "weights" / "squeezenet_v1_1_imagenet.npz"
    model = models.SqueezeNet1_1(weights=weights, classifier_activation=None)
    with np.load(external_data / "weights" / "squeezenet_v1_1_golden.npz") as golden:
        for index in range(3):
            outputs = model.predict(golden[f"input_{index}"], verbose=0)
            np.testing.assert_allclose(outputs, golden[f"output_{index}"], rtol=0, atol=1e-3)


def test_downloaded_squeezenet_1_1_gives_the_stored_outputs(external_data, publisher, tmp_path):
    """The same weights in torchvision's layout, from a server on this machine."""
    saved = models.SqueezeNet1_1(weights=external_data / "weights" / "squeezenet_v1_1_imagenet.npz")
    publisher.offer("squeezenet_v1_1", writers.torchvision(tmp_path / "w.pth", saved).read_bytes())
    model = models.SqueezeNet1_1(weights="imagenet", classifier_activation=None)
    with np.load(external_data / "weights" / "squeezenet_v1_1_golden.npz") as golden:
        outputs = model.predict(golden["input_0"], verbose=0)
        np.testing.assert_allclose(outputs, golden["output_0"], rtol=0, atol=1e-3)
    _recognizes_photographs("squeezenet_v1_1", external_data)


def _recognizes_photographs(name, external_data):
    """Downloaded weights, with their publisher's preprocessing, name what is on photographs."""
    loaded = models.load_model(name, weights="imagenet")
    photos = data.open_dataset(external_data / "images" / "imagenet_samples")
    indices = np.arange(0, 500, 5)
    preprocessing = data.Preprocessing.from_json(loaded.preprocessing)
    images = photos.load(indices, loaded.model.input_shape[1:3], 3, preprocessing)
    top1 = np.mean(loaded.model.predict(images, verbose=0).argmax(1) == photos.labels[indices])
    assert top1 >= 0.5  # of 1,000 classes


@pytest.mark.parametrize("downloaded", [False, True])
def test_squeezenet_1_0_gives_the_stored_activations(downloaded, external_data, publisher, tmp_path):
    weights = external_data / "weights" / "squeezenet_v1_0_imagenet.npz"
    arguments = {"input_shape": (227, 227, 3), "padded_head": True}
    model = models.SqueezeNet1_0(weights=weights, pool_rounding="ceil", **arguments)
    if downloaded:  # in torchvision's layout, with Caffe's border of the last layer
        publisher.offer("squeezenet_v1_0", writers.torchvision(tmp_path / "w.pth", model).read_bytes())
        model = models.SqueezeNet1_0(weights="imagenet", **arguments)
    with np.load(external_data / "weights" / "squeezenet_v1_0_activations.npz") as stored:
        names = [name for name in stored.files if name != "data"]
        layers = [model.get_layer(ACTIVATIONS.get(name, name)) for name in names]
        outputs = keras.Model(model.input, [layer.output for layer in layers]).predict(stored["data"], verbose=0)
        assert len(names) == 8
        for name, output in zip(names, outputs, strict=True):
            np.testing.assert_allclose(output, stored[name], rtol=0, atol=1e-4 * np.abs(stored[name]).max())


# The stored activations of GoogLeNet by their names there, where ours are no "<module>_concat".
GOOGLENET = {
    "conv1_7x7_s2": "conv1",
    "pool1_norm1": "norm1",
    "conv2_norm2": "norm2",
    "pool2_3x3_s2": "pool2",
    "pool5_7x7_s1": "pool5",
    "prob": "classifier",
}


def test_googlenet_gives_the_stored_activations(external_data):
    weights = external_data / "weights" / "googlenet_imagenet.npz"
    model = models.GoogLeNet(weights=weights, input_shape=(227, 227, 3))
    scores = models.GoogLeNet(weights=weights, input_shape=(227, 227, 3), classifier_activation=None)
    with np.load(external_data / "weights" / "googlenet_activations.npz") as stored:
        names = [name for name in stored.files if name not in ("data", "loss3_classifier")]
        layers = [model.get_layer(GOOGLENET.get(name, name.replace("_output", "_concat"))) for name in names]
        outputs = keras.Model(model.input, [layer.output for layer in layers]).predict(stored["data"], verbose=0)
        found = dict(zip(names, outputs, strict=True))
        found["loss3_classifier"] = scores.predict(stored["data"], verbose=0)
        assert len(found) == len(stored.files) - 1 == 16
        for name, output in found.items():
            np.testing.assert_allclose(output, stored[name], rtol=0, atol=1e-4 * np.abs(stored[name]).max())
        assert found["prob"].argmax() == 967
        assert found["prob"].max() == pytest.approx(0.995, abs=5e-4)


def test_nin_reaches_its_accuracy_on_lossless_images(external_data):
    """The release is a variant: maximum pooling twice, a 24x24 crop, each image standardised."""
    model = models.NiNCIFAR10(
        weights=external_data / "weights" / "nin_cifar10_raw.npz", input_shape=(24, 24, 3), pools=("max", "max")
    )
    dataset = data.open_dataset(external_data / "images" / "cifar10_test_lossless_200.npz")
    preprocessing = data.Preprocessing("standardize", crop_fraction=0.75)
    every = np.arange(200)
    outputs = model.predict(dataset.load(every, (24, 24), 3, preprocessing), verbose=0)
    assert np.mean(outputs.argmax(1) == dataset.labels) >= 0.89


@pytest.mark.wide  # minutes
@pytest.mark.parametrize("allow_float", [False, True])
def test_googlenet_agrees_in_int8_with_its_normalisation_in_integers_or_float(
    external_data, tmp_path, capsys, allow_float
):
    command = [
        "export",
        "googlenet",
        f"--weights={external_data}/weights/googlenet_imagenet.npz",
        f"--calibration={external_data}/images/imagenet_samples",
        "--scheme=int8",
        f"--out={tmp_path}",
        "--runs=1",
        "--json",
    ]
    # The integer form is what ships; the other is checked in short.
    words = ["--allow-float", "--rounding=nearest", "--test-count=50"] if allow_float else ["--test-count=200"]
    images = 50 if allow_float else 200
    assert main.run([*command, *words]) == 0
    (int8,) = json.loads(capsys.readouterr().out)["files"]
    assert int8["parity"]["images"] == images
    assert int8["parity"]["top1_match"] >= 0.95
    named = [f"LOCAL_RESPONSE_NORMALIZATION of layer 'norm{n}'" for n in (1, 2)]
    assert int8["float_operators"] == (named if allow_float else [])
    norm2 = {operator["op"] for operator in int8["operators"] if operator["layer"] == "norm2"}
    if allow_float:
        assert "LOCAL_RESPONSE_NORMALIZATION" in norm2
    else:
        assert norm2 == {"RESHAPE", "MUL", "CONV_2D", "DEPTHWISE_CONV_2D"}


def test_an_export_on_photographs(external_data, tmp_path, capsys):
    words = (f"--weights={external_data}/weights/squeezenet_v1_1_imagenet.npz", f"--out={tmp_path}", "--runs=1")
    images = (f"--calibration={external_data}/images/imagenet_samples", "--calibration-count=32", "--test-count=60")
    quick = ("--scheme=int8", "--rounding=nearest", "--json")
    assert main.run(["export", "squeezenet_v1_1", *words, *images, *quick]) == 0
    (int8,) = json.loads(capsys.readouterr().out)["files"]
    assert (int8["parity"]["images"], int8["calibration"]["count"]) == (60, 32)
    assert int8["parity"]["top1_match"] >= 0.9
    assert int8["parity"]["model_top1"] == pytest.approx(0.59, abs=0.15)  # of the 400 photographs


@pytest.mark.wide  # minutes
def test_the_main_job_on_photographs(external_data, tmp_path, capsys):
    status = main.run(
        [
            "export",
            "squeezenet_v1_1",
            f"--weights={external_data}/weights/squeezenet_v1_1_imagenet.npz",
            f"--calibration={external_data}/images/imagenet_samples",
            f"--out={tmp_path}",
            "--json",
        ]
    )
    document = json.loads(capsys.readouterr().out)
    float32, int8 = (entry["parity"] for entry in document["files"])
    assert status == 0
    assert float32["images"] == int8["images"] == 400
    assert 100 * float32["model_top1"] == pytest.approx(59.0, abs=0.3)
    assert 100 * float32["file_top1"] == pytest.approx(59.0, abs=0.3)
    assert 100 * (int8["model_top1"] - int8["file_top1"]) <= 2.5
    assert int8["top1_match"] >= 0.92
    assert document["files"][1]["calibration"]["count"] == 100


@pytest.mark.parametrize(("name", "top1"), [("nin_cifar10", 0.89), ("squeezenet_cifar10", 0.86)])
def test_bundled_weights_recognize_lossless_images(external_data, name, top1):
    loaded = models.load_model(name)
    assert (loaded.weights, loaded.dataset, loaded.preprocessing) == ("cifar10", "cifar10", "standardize")
    dataset = data.open_dataset(external_data / "images" / "cifar10_test_lossless_200.npz")
    images = dataset.load(range(200), (32, 32), 3, data.get_preset(loaded.preprocessing))
    outputs = loaded.model.predict(images, verbose=0)
    assert np.mean(outputs.argmax(1) == dataset.labels) == pytest.approx(top1, abs=0.006)


@pytest.mark.wide  # minutes
def test_a_bundled_network_keeps_its_accuracy_in_int8(external_data, tmp_path, capsys):
    """docs/commands/export.md has the figures of all 10,000 images."""
    images = external_data / "images"
    words = ["export", "squeezenet_cifar10", f"--data={images}/cifar10_test_jpeg.npz", "--test-count=400", "--runs=1"]
    words += [f"--calibration={images}/cifar10_train_jpeg.npz", f"--out={tmp_path}", "--json"]
    assert main.run(words) == 0
    float32, int8 = (file["parity"] for file in json.loads(capsys.readouterr().out)["files"])
    assert float32["images"] == int8["images"] == 400
    assert float32["file_top1"] == float32["model_top1"] == pytest.approx(0.864, abs=0.05)
    assert int8["file_top1"] == pytest.approx(float32["file_top1"], abs=0.015)
    assert int8["top1_match"] >= 0.97
