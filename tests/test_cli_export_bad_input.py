"""Models, images and disks that an export cannot use: exit status 2, one clear line, and no file touched."""

import errno
import os
import pathlib

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import InputError, export, models


@keras.saving.register_keras_serializable("test")
class Subclassed(keras.Model):
    """A network that is Python code and no graph of layers."""

    def __init__(self, **config):
        super().__init__(**config)
        self.scores = kl.Dense(3, name="scores")

    def call(self, images):
        return self.scores(keras.ops.mean(images, axis=(1, 2)))


def listing():
    return {path: path.read_bytes() for path in pathlib.Path(".").rglob("*") if path.is_file()}


def refused(cli, *words):
    """Run an export that must end in one line and change nothing; return the line."""
    before = listing()
    ran = cli("export", *words, "--runs", 1)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert listing() == before
    return ran.err


def saved(layers, shape=(8, 8, 3)):
    """Write net.keras of these layers and the classes behind them."""
    pool = [kl.GlobalAveragePooling2D(name="pool"), kl.Softmax(name="classes")]
    model = keras.Sequential([keras.Input(shape), *layers, *pool], name="net")
    model.save("net.keras")
    return model


def test_images_that_cannot_get_the_channels_of_the_network(cli):
    saved([kl.Conv2D(3, 1, name="conv")], (8, 8, 5))
    np.savez("photos.npz", images=np.zeros((10, 8, 8, 3), np.uint8))
    line = refused(cli, "net.keras", "--calibration", "photos.npz")
    assert "Expected arrays of uint8 (8, 8, 5): photographs have no 5 channels. Received: uint8 (8, 8, 3)" in line


@pytest.mark.parametrize(
    ("images", "fragment"),
    [
        (np.zeros((10, 8, 8, 5), np.uint8), "channels 1, 3 or 4). Received: (10, 8, 8, 5)"),
        (np.zeros((0, 8, 8, 1), np.uint8), "Received: (0, 8, 8, 1)"),
        (np.zeros((10, 8, 8, 1), np.float32), "uint8, 0 to 255"),
    ],
)
def test_calibration_images_that_are_none(cli, images, fragment):
    np.savez("photos.npz", images=images)
    assert fragment in refused(cli, "nin_digits", "--calibration", "photos.npz")


@pytest.mark.parametrize("shape", [(4, 9, 9, 1), (4, 8, 8, 3), (4, 8, 8), (0, 8, 8, 1)])
def test_calibration_arrays_of_another_shape(shape):
    model = models.build_model("nin_digits", weights="digits")
    with pytest.raises(InputError, match=r"calibration images \(N, 8, 8, 1\). Received: shape \("):
        export.convert_model(model, "int8", np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(cli, value):
    model = saved([kl.Conv2D(3, 1, name="conv")])
    model.get_layer("conv").bias.assign([0, value, 0])
    model.save("net.keras")
    line = refused(cli, "net.keras", "--calibration", "random")
    assert "Expected finite weights. Received: NaN or infinity in" in line
    assert "bias" in line


def test_a_subclassed_model(cli):
    model = Subclassed(name="code")
    model(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(
        InputError,
        match="Received: 'code', a subclassed model. Make it functional: inputs = keras.In",
    ):
        export.convert_model(model, "float32")
    model.save("net.keras")
    assert "Functional" in refused(cli, "net.keras", "--calibration", "random")


def test_a_folder_that_is_not_to_be_written(cli):
    line = refused(cli, "conv1x1_3to2", "--scheme", "float32", "--out", "/proc/none")
    assert "Expected a folder that can be written to. Received: '/proc/none'" in line


def test_a_disk_that_is_full_keeps_what_was_there(cli, monkeypatch):
    words = ("conv1x1_3to2", "--test-count", 2)
    assert cli("export", *words, "--runs", 1).status == 0

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("keras_nin.files.os.fsync", full)
    line = refused(cli, *words, "--seed", 1, "--force")
    assert line == (
        "Error: Expected 'exported/conv1x1_3to2_float32.tflite' to be writable. Received: No space left on device\n"
    )


def test_a_temporary_disk_that_is_full(cli, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("keras_nin.export.conversion._write_saved_model", full)
    line = refused(cli, "conv1x1_3to2", "--scheme", "float32", "--test-count", 2)
    assert "No space left on device" in line


@pytest.mark.slow
def test_what_calibrates_on_noise_is_for_latency_only(cli):
    words = ("--calibration", "random", "--test-count", 40, "--runs", 1, "--ranges", "minmax", "--rounding", "nearest")
    ran = cli("export", "nin_digits", *words, "--json")
    float32, int8 = ran.json["files"]
    assert (ran.status, ran.err) == (0, "")
    assert int8["calibration"]["latency_only"]
    assert len(int8["calibration"]["images"]) == 100
    assert int8["parity"]["checks"] == []
    for key in ("top1_match", "file_top1", "file_top5"):
        assert int8["parity"][key] is None
        assert float32["parity"][key] is not None
    printed = cli("export", "nin_digits", *words, "--scheme", "int8").out.splitlines()
    row = next(line for line in printed if "nin_digits_int8.tflite" in line)
    assert row.endswith("latency only")
    assert row.split()[2:4] == ["-", "-"]
    assert "Calibration: noise. What it calibrated is good to measure latency, and for nothing else." in printed
