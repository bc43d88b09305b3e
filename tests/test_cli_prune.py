"""`keras-nin prune`: what it refuses, and a network that is pruned, written and read again."""

import json

import numpy as np
import pytest

from keras_nin.cli.main import run
from keras_nin.workflows import backends, pruning


def fails(capsys, *words):
    """The one line with which a command ends, with status 2."""
    assert run(["prune", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nin_digits", "--target", "latency=-200%"], "Expected --target to be latency=-1% to latency=-99%"),
        (["nin_digits", "--target", "speed=-30%"], "Expected --target to be a known name"),
        (["nin_digits", "--target", "macs=1M..2M"], "Expected --target to be one macs at most"),
        (["no_such_model", "--target", "macs=-30%"], "Expected"),
        (["nin_digits"], "Missing option '--target'"),
        (["nin_digits", "--target", "macs=-30%", "--keep", "no.json"], "no.json"),
    ],
)
def test_refused_before_keras(capsys, words, message):
    assert message in fails(capsys, *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "macs=-30%", "--multiple", "500"], "whose widest group has 64. Pass a smaller --multiple"),
        (["--target", "macs=-99%"], "'macs=-99%'; the best is"),
        (["--target", "macs=5M"], "Expected --target to be less than the"),
        (["--target", "macs=-30%", "--train", "unlabeled.npz"], "Expected labeled images"),
        (["--target", "macs=-30%", "--train", "labeled.npz", "--data", "labeled.npz"], "'labeled.npz' for both"),
    ],
)
def test_refused_by_the_network(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    images = np.arange(640, dtype=np.uint8).reshape(10, 8, 8, 1)
    np.savez("unlabeled.npz", images=images)
    np.savez("labeled.npz", images=images, labels=np.arange(10))
    assert message in fails(capsys, "nin_digits", "--calibration-count", "16", *words)


def test_another_backend(capsys, monkeypatch):
    monkeypatch.setattr(backends, "find_backend", lambda: "jax")
    assert "Received: KERAS_BACKEND=jax" in fails(capsys, "nin_digits", "--target", "macs=-30%")


@pytest.mark.slow
def test_pruned_network_is_written_and_read(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "_FILE_SECONDS", 0.3)
    words = ["nin_digits", "--target", "macs=-30%", "--epochs", "1", "--train-count", "200", "--test-count", "100"]
    words += ["--calibration-count", "64"]
    assert run(["prune", *words, "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    before, after = (document["totals"][side] for side in ("before", "after"))
    assert after["macs"] <= 0.7 * before["macs"]
    assert after["params"] < before["params"]
    assert all(group["after"] % 8 == 0 for group in document["groups"])
    assert document["scores"]["images"] == 100
    assert document["scores"]["file"][1] > 0.9
    assert document["training"]["teacher"] == "nin_digits"
    assert document["training"]["train_images"] == 200
    path = tmp_path / "nin_digits_pruned.keras"
    assert json.loads(path.with_suffix(".json").read_text()) == document
    assert "exists with different content" in fails(capsys, *words, "--out", str(tmp_path))
    # the record gives the same network again, and other commands read it
    again = ["--keep", str(path.with_suffix(".json")), "--out", str(tmp_path / "again")]
    assert run(["prune", *words, *again]) == 0
    text = capsys.readouterr().out
    assert "target: macs=-30%" in text
    assert "1x1 mix" in text
    import keras

    first, second = (keras.models.load_model(file) for file in (path, tmp_path / "again" / path.name))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert run(["audit", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["macs"] == after["macs"]
    assert run(["compare", "nin_digits", str(path)]) == 0
    assert run(["evaluate", str(path)]) == 0  # the dataset and the preprocessing are in the record
    assert "digits" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.wide
def test_latency_target(capsys, tmp_path):
    assert (
        run(["prune", "nin_digits", "--target", "latency=-20%", "--epochs", "0", "--out", str(tmp_path), "--json"]) == 0
    )
    document = json.loads(capsys.readouterr().out)
    # Measured again: not exactly 0.8.
    assert document["latency"]["ratio"] < 0.9
    assert document["training"] is None
