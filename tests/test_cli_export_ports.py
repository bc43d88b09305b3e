"""`keras-nin export` and `verify` of models with several inputs and outputs, and at a batch of several."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers as kl


@pytest.fixture
def files(tmp_path):
    """A model with two inputs and two outputs, and samples for it."""
    keras.utils.set_random_seed(0)
    picture, history = keras.Input((8, 8, 3), name="picture"), keras.Input((5,), name="history")
    pooled = kl.GlobalAveragePooling2D(name="pool")(kl.Conv2D(16, 3, activation="relu", name="conv")(picture))
    joined = kl.Concatenate(name="join")([pooled, history])
    outputs = [kl.Dense(3, activation="softmax", name="classes")(joined), kl.Dense(1, name="amount")(joined)]
    keras.Model([picture, history], outputs, name="two").save(tmp_path / "two.keras")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", picture=rng.random((40, 8, 8, 3)), history=rng.random((40, 5)))
    return tmp_path / "two.keras", tmp_path / "samples.npz"


def test_two_inputs_and_two_outputs(cli, files):
    model, samples = files
    ran = cli("export", model, "--data", samples, "--runs", 1, "--scheme", "float32,int8,int16x8")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == f"two, weights: {model}"
    assert "Calibration: 8 images of samples.npz, none of them among those." in ran.out
    record = json.loads(pathlib.Path("exported/two_int8.json").read_text())
    assert {each["signature"] for each in record["inputs"]} == {"picture", "history"}
    assert {each["signature"] for each in record["outputs"]} == {"classes", "amount"}
    assert record["parity"]["output"] in ("classes", "amount")
    names = [check["name"] for check in record["parity"]["checks"]]
    assert names.count("channel_rms_lsb") == 2
    assert names.count("closing_error_lsb") == 1

    again = cli("verify", model, "exported/two_int8.tflite", "--data", samples)
    assert (again.status, again.err) == (0, "")
    reproduced = cli("export", "--from", "exported/two_int8.json", "--runs", 1)
    assert (reproduced.status, reproduced.err) == (0, "")
    assert "Reproduced: two_int8.tflite" in reproduced.out


def test_a_file_with_swapped_outputs_does_not_pass(cli, files, tmp_path):
    model, samples = files
    loaded = keras.models.load_model(model)
    first = loaded.get_layer("amount")
    first.set_weights([-weights for weights in first.get_weights()])
    loaded.save(tmp_path / "other.keras")
    assert cli("export", model, "--data", samples, "--runs", 1, "--scheme", "int8").status == 0
    ran = cli("verify", tmp_path / "other.keras", "exported/two_int8.tflite", "--data", samples)
    assert ran.status == 1
    assert "Parity does not hold" in ran.err


def test_noise_for_several_inputs(cli, files):
    ran = cli("export", files[0], "--calibration", "random", "--runs", 1, "--scheme", "int8")
    assert (ran.status, ran.err) == (0, "")
    assert "Calibration: noise." in ran.out
    assert "latency only" in ran.out


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--data", "digits"], "an array for each input (picture (N, 8, 8, 3), history (N, 5)), or 'random'"),
        (["--data", "images.npz"], "to hold picture (N, 8, 8, 3). Received: images"),
        (["--data", "samples.npz", "--preprocessing", "unit"], "--preprocessing and --crop for images"),
        ([], "Expected --data"),
    ],
)
def test_samples_that_do_not_fit(cli, files, tmp_path, monkeypatch, options, fragment):
    np.savez(tmp_path / "images.npz", images=np.zeros((10, 8, 8, 3), np.uint8))
    words = [str(tmp_path / word) if word.endswith(".npz") else word for word in options]
    ran = cli("export", files[0], *words)
    assert ran.status == 2
    assert fragment in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.slow
def test_a_batch_of_four(cli):
    ran = cli("export", "nin_digits", "--batch", 4, "--runs", 3, "--test-count", 30, "--scheme", "int8")
    assert (ran.status, ran.err) == (0, "")
    assert " on 1 thread, batch 4; " in ran.out
    record = json.loads(pathlib.Path("exported/nin_digits_int8.json").read_text())
    assert record["input"]["shape"] == [4, 8, 8, 1]
    assert (record["batch"], record["options"]["batch"]) == (4, 4)


def test_a_batch_that_the_file_is_made_for(cli, tmp_path):
    stack = [keras.Input((4, 4, 1)), kl.Conv2D(3, 1, activation="relu"), kl.Flatten(), kl.Dense(3)]
    keras.Sequential(stack, name="flat").save(tmp_path / "flat.keras")
    options = ["--calibration", "random", "--scheme", "float32", "--test-count", 6]
    assert cli("export", tmp_path / "flat.keras", *options, "--batch", 4, "--runs", 1).status == 0
    verified = cli("verify", tmp_path / "flat.keras", "exported/flat_float32.tflite", "--data", "random")
    assert (verified.status, verified.err) == (0, "")
