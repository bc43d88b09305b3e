"""`keras-nin import-weights` as a user runs it, in this process."""

import json

import numpy as np
import pytest
import third_party_writers as writers

from keras_nin import models
from keras_nin.cli import main


def run(capsys, *words):
    status = main.run(["import-weights", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def digits(build):
    return build("nin_digits", weights="digits")


def test_from_a_foreign_file_to_weights_that_load(digits, tmp_path, capsys):
    file = writers.keras_1(digits, tmp_path / "theirs.h5", "th", "theano")
    out = tmp_path / "new" / "ours.weights.h5"
    status, text, _ = run(capsys, "nin_digits", file, "-o", out)
    assert status == 0
    assert "Keras 1 names, 18 tensors, 18 placed\n" in text
    row = next(line for line in text.splitlines() if "conv3x3_W" in line)
    assert row.split()[1:4] == ["48x1x3x3", "mlpconv1_conv3x3", "kernel"]
    assert row.endswith("OIHW to HWIO, flipped")
    assert text.endswith(f"written: {out}\n")
    assert models.hash_weights(models.build_model("nin_digits", weights=out)) == models.hash_weights(digits)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_what_is_there_stays_without_force(digits, tmp_path, capsys):
    file, out = writers.keras_2(digits, tmp_path / "theirs.h5"), tmp_path / "ours.weights.h5"
    out.write_bytes(b"something else")
    status, _, error = run(capsys, "nin_digits", file, "-o", out)
    assert status == 2
    assert "exists with different content" in error
    assert out.read_bytes() == b"something else"
    assert run(capsys, "nin_digits", file, "-o", out, "--force")[0] == 0
    assert run(capsys, "nin_digits", file, "-o", out)[1].endswith(f"up to date: {out}\n")


def test_json(tmp_path, capsys):
    arrays = writers.pytorch_arrays(models.build_model("nin_digits", classes=3))
    arrays = {f"module.{name.replace('mlpconv1_conv3x3', 'conv1')}": array for name, array in arrays.items()}
    file = writers.safetensors(tmp_path / "s.safetensors", arrays)
    out = tmp_path / "s.weights.h5"
    words = ("nin_digits", file, "-o", out, "--set", "classes=3", "--input-shape", "16,16,1", "--json")
    status, text, error = run(capsys, *words)
    document = json.loads(text)
    assert status == 0
    assert document["schema"] == "keras_nin.import_weights/1"
    assert document["convention"] == "PyTorch"
    assert (document["path"], document["state"]) == (str(out), "written")
    assert len(document["tensors"]) == 18
    assert document["tensors"][0] == {
        "tensor": min(arrays),
        "shape": list(arrays[min(arrays)].shape),
        "layer": "mlpconv1_conv3x3",
        "variable": "bias",
        "change": document["tensors"][0]["change"],
    }
    assert error.startswith("Note: ")
    assert "'module.'" in error


def test_what_does_not_fit_is_one_line_and_nothing_is_written(digits, tmp_path, capsys):
    file = writers.safetensors(tmp_path / "s.safetensors", {"stem.weight": np.zeros((4, 3, 3, 3), np.float32)})
    out = tmp_path / "folder" / "ours.weights.h5"
    status, text, error = run(capsys, "nin_digits", file, "-o", out)
    assert (status, text, error.count("\n")) == (2, "", 1)
    assert "18 missing: mlpconv1_conv3x3/kernel" in error
    assert "stem.weight (4, 3, 3, 3)" in error
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nin_digits", "missing.pt", "-o", "o.weights.h5"), "'missing.pt', which does not exist"),
        (("nin_digits", "folder", "-o", "o.weights.h5"), "'folder', which is a folder"),
        (("nin_digits", "w.npz", "-o", "o.weights.h5"), "need no import"),
        (("nin_digits", "w.pt", "-o", "o.h5"), "Expected --out to end in .weights.h5. Received: 'o.h5'"),
        (("nin_digit", "w.pt", "-o", "o.weights.h5"), "Did you mean nin_digits"),
        (("nin_digits", "w.pt"), "Missing option '-o'"),
        (("nin_digits", "k.weights.h5", "-o", "o.weights.h5"), "need no import"),
    ],
)
def test_wrong_words(words, message, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "w.npz").write_bytes(b"x")
    (tmp_path / "w.pt").write_bytes(b"x")
    digits.save_weights("k.weights.h5")
    status, text, error = run(capsys, *words)
    assert (status, text, error.count("\n")) == (2, "", 1)
    assert message in error
    assert not (tmp_path / "o.weights.h5").exists()


@pytest.mark.slow
def test_a_network_of_keras_applications(tmp_path, capsys):
    """A model without a table takes its own layers' names."""
    import keras

    saved = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), include_top=False)
    file = writers.keras_2(saved, tmp_path / "vgg.h5")
    words = ("keras:VGG16", file, "-o", tmp_path / "v.weights.h5", "--input-shape", "32,32,3")
    status, text, _ = run(capsys, *words, "--set", "include_top=false")
    assert status == 0
    assert "Keras names, 26 tensors, 26 placed" in text
