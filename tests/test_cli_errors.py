"""Bad input to the command line: one line on stderr, exit status 2, nothing on stdout and nothing written."""

import numpy as np
import pytest
from PIL import Image

from keras_nin import models
from keras_nin.cli import main


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Files that are wrong in one way each, and a good export to damage."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    for index in range(10):
        (folder / "broken" / f"{index % 10:04}_x.jpg").write_bytes(b"not a photograph")
    (folder / "unlabelled").mkdir()
    for index in range(10):
        Image.new("L", (8, 8), 20 * index).save(folder / "unlabelled" / f"{'abcdefghij'[index]}.png")
    np.savez(folder / "one.npz", images=np.zeros((1, 8, 8, 1), np.uint8), labels=[0])
    np.savez(folder / "labels.npz", images=np.zeros((10, 8, 8, 1), np.uint8), labels=np.arange(10) + 90)
    (folder / "text.npz").write_text("no archive")
    models.build("nin_digits", classes=7).save_weights(folder / "seven.weights.h5")
    good = models.weight_files.find("nin_digits", "digits").read_bytes()
    (folder / "truncated.weights.h5").write_bytes(good[: len(good) // 2])
    (folder / "model.keras").write_bytes(b"PK\x03\x04 half a model")
    (folder / "folder.keras").mkdir()
    assert main.run(["export", "--scheme", "int8", "--out", str(folder / "good")]) == 0
    tflite = (folder / "good" / "nin_digits_int8.tflite").read_bytes()
    for name, content in {"half": tflite[: len(tflite) // 2], "empty": b"", "text": b"text"}.items():
        (folder / f"{name}.tflite").write_bytes(content)
    (folder / "sidecar.tflite").write_bytes(tflite)
    (folder / "sidecar.json").write_text("{")
    (folder / "other").mkdir()
    (folder / "other" / "nin_digits_int8.tflite").write_bytes(b"another file")
    (folder / "afile").write_text("a file")
    return folder


CASES = {
    "unknown model": ("export nin_digts", "Did you mean nin_digits"),
    "unknown keras model": ("audit keras:MobileNett", "Did you mean keras:MobileNet"),
    "missing model file": ("audit {m}/none.keras", "no file"),
    "broken model file": ("audit {m}/model.keras", "Expected"),
    "folder as model file": ("audit {m}/folder.keras", "a folder"),
    "weights of another network": (
        "export --weights {m}/seven.weights.h5",
        "'mlpconv3_conv1x1b' with shape (1, 1, 64, 10). Received: shape (1, 1, 64, 7)",
    ),
    "truncated weights": ("export --weights {m}/truncated.weights.h5", "to hold weights"),
    "missing weights": ("export --weights {m}/none.npz", "existing file"),
    "unknown weights": ("export --weights digit", "Did you mean digits"),
    "input too small": ("export squeezenet_v1_1 --input-shape 8,8,3 --calibration random", "squeezenet_v1_1"),
    "malformed input shape": ("export --input-shape 8,8", "--input-shape"),
    "empty image folder": ("export --calibration {m}/empty", "{m}/empty"),
    "missing image folder": ("export --calibration {m}/none", "{m}/none"),
    "unreadable images": ("export --calibration {m}/broken", "0000_x.jpg"),
    "text as npz": ("export --calibration {m}/text.npz", "text.npz"),
    "no images to test": ("export --calibration {m}/one.npz --data {m}/one.npz", "test split"),
    "calibration count 0": ("export --calibration-count 0", "--calibration-count"),
    "calibration count below 0": ("export --calibration-count=-3", "--calibration-count"),
    "test count 0": ("export --test-count 0", "--test-count"),
    "another file is there": ("export --scheme int8 --out {m}/other", "--force"),
    "output below a file": ("export --out {m}/afile/out", "afile"),
    "output is a file": ("export --out {m}/afile", "afile"),
    "unknown scheme": ("export --scheme int4", "float32, int8"),
    "scheme twice": ("export --scheme int8,int8", "once"),
    "unknown preset": ("export --preprocessing torhc", "torch"),
    "crop of 0": ("export --crop 0", "--crop"),
    "setting without value": ("export --set classes", "KEY=VALUE"),
    "unknown setting": ("export --set depth=3", "'depth'"),
    "setting that is an option": ("export --set weights=digits", "weights"),
    "unknown option": ("export --quantise", "--quantise"),
    "missing argument": ("audit", "MODEL"),
    "seed below 0": ("export --seed=-1", "seed"),
    "no dataset": ("export squeezenet_v1_1", "--data"),
    "truncated tflite": ("evaluate {m}/half.tflite --data digits", "half.tflite"),
    "empty tflite": ("evaluate {m}/empty.tflite --data digits", "empty.tflite"),
    "text as tflite": ("verify nin_digits {m}/text.tflite", "text.tflite"),
    "missing tflite": ("verify nin_digits {m}/none.tflite", "none.tflite"),
    "sidecar that is no JSON": ("evaluate {m}/sidecar.tflite", "sidecar.json"),
    "no labels": ("evaluate {m}/good/nin_digits_int8.tflite --data {m}/unlabelled", "labelled images"),
    "labels beyond the classes": ("evaluate {m}/good/nin_digits_int8.tflite --data {m}/labels.npz", "labels"),
    "another input": ("verify convnet_linear_head {m}/good/nin_digits_int8.tflite --data digits", "(8, 8, 1)"),
    "no classes": ("evaluate conv1x1_3to2", "classes"),
    "nothing to train on": ("train nin_digits --data {m}/labels.npz", "train"),
    "epochs 0": ("train nin_digits --epochs 0", "epochs"),
    "shelf below a file": ("cards --out {m}/afile/shelf", "afile"),
}


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_written(case, material, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words, expected = (text.replace("{m}", str(material)) for text in CASES[case])
    before = tree(material)
    capfd.readouterr()
    status = main.run(words.split())
    out, err = capfd.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert expected in err
    assert tree(material) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_datasets_that_are_not_there(name, tmp_path, monkeypatch, capfd):

    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
    monkeypatch.chdir(tmp_path)
    assert main.run(["train", "nin_digits", "--data", name, "--out", "runs"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pass a folder of images or an .npz instead" in err
    assert not (tmp_path / "runs").exists()
