"""Bad input on the command line: exit status 2, one clear line on stderr, and no file touched."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_nin import data
from keras_nin.cli import main


@pytest.fixture(scope="module")
def things(build, exported, tmp_path_factory):
    """A folder of files that do not fit, beside some that do."""
    folder = tmp_path_factory.mktemp("things")
    source = data.open_dataset("digits")
    chosen = source.select("train", 20)
    np.savez(folder / "labelled.npz", images=source.images[chosen], labels=source.labels[chosen])
    np.savez(folder / "unlabelled.npz", images=source.images[chosen])
    np.savez(folder / "others.npz", images=source.images[chosen], labels=source.labels[chosen] + 500)
    np.savez(folder / "one.npz", images=source.images[chosen][:1], labels=source.labels[chosen][:1])
    np.savez(folder / "train.npz", **dict.fromkeys(("x_train", "x_test"), source.images[chosen]),
             **dict.fromkeys(("y_train", "y_test"), source.labels[chosen] + 500))  # fmt: skip
    digits = build("nin_digits", weights="digits")
    digits.save(folder / "digits.keras")
    digits.save_weights(folder / "digits.weights.h5")
    build("nin_digits", classes=7).save_weights(folder / "seven.weights.h5")
    whole = (folder / "digits.weights.h5").read_bytes()
    (folder / "cut.weights.h5").write_bytes(whole[: len(whole) // 2])
    saved = (folder / "digits.keras").read_bytes()
    (folder / "cut.keras").write_bytes(saved[: len(saved) // 2])
    shutil.copy(exported("nin_digits", "float32"), folder / "digits.tflite")
    shutil.copy(exported("conv1x1_3to2", "float32"), folder / "other.tflite")
    content = (folder / "digits.tflite").read_bytes()
    (folder / "cut.tflite").write_bytes(content[: len(content) // 2])
    (folder / "empty.tflite").write_bytes(b"")
    (folder / "text.tflite").write_text("not a network, but long enough to be one")
    for name, text in (("nojson", "{"), ("list", "[]"), ("badpre", '{"preprocessing": 5}')):
        (folder / f"{name}.tflite").write_bytes(content)
        (folder / f"{name}.json").write_text(text)
    (folder / "nothing").mkdir()
    (folder / "broken").mkdir()
    for number in range(6):
        (folder / "broken" / f"{number:04}_x.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (folder / "folder.keras").mkdir()
    (folder / "folder.tflite").mkdir()
    (folder / "file").write_text("in the way")
    (folder / "labels.csv").write_text("nobody.png,1\n")
    return folder


@pytest.fixture(autouse=True)
def folder_with_things(cli, things, monkeypatch):
    """The folder that `cli` runs in: shared, because no command may change it."""
    monkeypatch.chdir(things)


def listing():
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in pathlib.Path().rglob("*")}


def check(cli, words, *fragments):
    """Run a command that must end in one line that holds all of `fragments`."""
    before = listing()
    ran = cli(*words.split())
    assert ran.status == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
    assert ran.err.endswith("\n")
    for fragment in fragments:
        assert fragment in ran.err
    assert listing() == before


CASES = {
    # MODEL
    "audit squeezenet": ("Received: 'squeezenet'. Did you mean squeezenet_",),
    "audit nin_digit": ("Did you mean nin_digits",),
    "export qqq": ("Received: 'qqq'. Known: ",),
    "train nin_digitz": ("Did you mean nin_digits",),
    "verify nin_digitz digits.tflite": ("Did you mean nin_digits",),
    "evaluate nin_digitz": ("Did you mean nin_digits",),
    "audit keras:MobileNe": ("Received: 'keras:MobileNe'. Did you mean keras:MobileNet",),
    "audit missing.keras": ("missing.keras",),
    "audit folder.keras": ("folder.keras",),
    "export nothing": ("nothing",),
    "audit cut.keras": ("'cut.keras' to be a saved Keras model",),
    "audit text.tflite": ("Expected a valid .tflite file. Received: 'text.tflite', where the mark 'TFL3'",),
    "audit digits.weights.h5": ("holds only weights. Pass the name of a model, and the file as --weights",),
    # weights, input shape, builder's arguments
    "export nin_digits --weights missing.weights.h5": ("existing file", "'missing.weights.h5'"),
    "export nin_digits --weights digit": ("Did you mean digits?",),
    "export nin_imagenet --weights imagenet": ("to be a file: nin_imagenet has no bundled weights",),
    "export squeezenet_cifar10 --weights imagenet": ("Received: 'imagenet'. Known: cifar10",),
    "export squeezenet_v1_1 --weights imagnet": ("Did you mean imagenet?",),
    "export inception_v3 --weights imagenet --set classes=10": ("`classes` to be 1000", "Received: 10"),
    "export nin_digits --weights seven.weights.h5": ("of layer", "with shape"),
    "export nin_digits --weights cut.weights.h5": ("cut.weights.h5",),
    "export digits.keras --weights digits.weights.h5": ("which has its own",),
    "audit nin_imagenet --input-shape 8,8,3": ("nin_imagenet", "8x8x3"),
    "audit nin_digits --input-shape 8,8": ("'--input-shape'", "224,224,3, received '8,8'"),
    "audit nin_digits --input-shape a,b": ("received 'a,b'",),
    "audit nin_digits --input-shape 0,8,1": ("received '0,8,1'",),
    "audit nin_digits --input-shape 8,8,-1": ("received '8,8,-1'",),
    "audit keras:MobileNet --input-shape 8,8,3": ("keras:MobileNet",),
    "audit nin_digits --set depth": ("expected KEY=VALUE, received 'depth'",),
    "audit nin_digits --set =3": ("expected KEY=VALUE, received '=3'",),
    "audit nin_digits --set depth=3": ("Expected an argument of nin_digits", "Received: 'depth'"),
    "audit nin_cifar10 --set pool_rounding=up": ("to be one of", "Received: 'up'"),
    "audit nin_digits --set classes=0": ("Received: 0",),
    "audit nin_digits --set weights=digits": ("use --weights instead of 'weights=digits'",),
    "cards --out file/below": ("'file/below' is not writable",),
    "cards nin_digit": ("Did you mean nin_digits",),
    "cards nin_digits --measure --check": ("--measure writes and --check does not",),
    "cards nin_digits --scheme int8": ("add --measure or --check",),
    "cards conv1x1_3to2 --measure --weights missing.weights.h5 --out made": ("'missing.weights.h5'",),
    # schemes and images
    "export nin_digits --scheme int4": ("pruned, clustered, all. Received: 'int4'",),
    "export nin_digits --scheme int8,int8": ("each scheme once", "Received: 'int8,int8'"),
    "export nin_digits --scheme int8,all": ("each scheme once",),
    "export nin_digits --scheme ,": ("each scheme once",),
    "export nin_digits --calibration nothing": ("Expected images (", "'nothing'"),
    "export nin_digits --calibration broken": ("broken/0000_x.png",),
    "export nin_digits --calibration digit": ("Did you mean digits?",),
    "export nin_digits --data missing.npz": ("'missing.npz' (No such file",),
    "export nin_digits --data text.tflite": ("Received: 'text.tflite'",),
    "export nin_digits --calibration-count 0": ("'--calibration-count': 0 is not in the range x>=1",),
    "export nin_digits --calibration-count -5": ("'--calibration-count': -5",),
    "export nin_digits --calibration one.npz --data one.npz": ("test split of 'one.npz'",),
    "export nin_digits --data others.npz": ("labels from 0 to 9", "in 'others.npz'"),
    "export squeezenet_v1_1": ("Pass --data: a dataset name, a folder", "'random' for noise"),
    "export nin_digits --test-count 0": ("'--test-count': expected a positive number, or all, received '0'",),
    "export nin_digits --preprocessing cafe": ("Received: 'cafe'. Did you mean caffe",),
    "export nin_digits --crop 0": ("'--crop': 0",),
    "export nin_digits --crop nan": ("'--crop': 'nan' is not a number.",),
    "export nin_digits --crop 1.5": ("'--crop': 1.5",),
    "export nin_digits --preprocessing torch": ("--mean to have 1 number",),
    "export nin_digits --labels labels.csv --data nothing": ("'nothing'",),
    "evaluate digits.tflite --data broken --labels labels.csv": ("one line in 'labels.csv' for every image",),
    "evaluate digits.tflite --data labelled.npz --labels labels.csv": ("labels file only with a folder",),
    # output
    "export nin_digits --out file": ("'file' is not writable",),
    "export nin_digits --out file/below": ("'file/below' is not writable",),
    "train nin_digits --out file/below": ("'file/below' is not writable",),
    # numbers and usage
    "export nin_digits --seed -1": ("'--seed': -1 is not in the range",),
    "export nin_digits --seed 4294967296": ("'--seed'",),
    "evaluate digits.tflite --seed -1 --data digits": ("'--seed'",),
    "export nin_digits --min-top1-match 1.01": ("'--min-top1-match': 1.01 is not in the range 0<=x<=1.",),
    "export nin_digits --max-drop nan": ("'--max-drop': 'nan' is not a number.",),
    "export nin_digits --threads 0": ("'--threads': 0",),
    "export nin_digits --runs 0": ("'--runs': 0",),
    "export nin_digits --colour": ("No such option", "(see keras-nin export --help)"),
    "export nin_digits squeezenet_v1_1": ("unexpected extra argument",),
    "verify nin_digits": ("Missing argument 'FILE'. (see keras-nin verify --help)",),
    "evaluate": ("Missing argument 'FILE.tflite|MODEL'.",),
    "audit nin_digits --format xml": ("'xml' is not one of",),
    "frobnicate": ("No such command 'frobnicate'. (see keras-nin --help)",),
    # files to evaluate and verify
    **{
        f"{command} {name}.tflite --data digits": (f"'{name}.tflite'",)
        for command in ("evaluate", "verify nin_digits")
        for name in ("cut", "empty", "text", "missing", "folder")
    },
    "evaluate nojson.tflite": ("Expected a JSON file. Received: 'nojson.json'",),
    "evaluate list.tflite": ("the record of an export beside 'list.tflite'", "with a list"),
    "evaluate badpre.tflite --data digits": ("Expected preprocessing as an object", "Received: 5"),
    "verify nin_digits nojson.tflite": ("Expected a JSON file. Received: 'nojson.json'",),
    "evaluate digits.tflite": ("Pass --data: a dataset name, a folder",),
    "evaluate digits.tflite --data unlabelled.npz": ("Expected labeled images", "'unlabelled.npz'"),
    "evaluate digits.tflite --data others.npz": ("labels from 0 to 9", "in 'others.npz'"),
    "evaluate digits.tflite --data nothing": ("Expected images (",),
    "evaluate conv1x1_3to2": ("Expected labeled images. Received: 'random', which has no labels",),
    "evaluate other.tflite --data random": ("Expected labeled images. Received: 'random', which has no labels",),
    "verify nin_digits other.tflite --data digits": (
        "input (8, 8, 1) of 'nin_digits'",
        "'other.tflite' with (6, 6, 3)",
    ),
    # training
    "train nin_digits --data train.npz": ("labels from 0 to 9", "'train.npz'"),
    "train conv1x1_3to2": ("Expected ",),
    "train nin_digits --epochs 0": ("--epochs",),
    "train nin_digits --ema 1": ("--ema", "0 or above and below 1"),
    "train nin_digits --devices 0": ("--devices", "neither a number from 1 nor all"),
    "train nin_digits --devices 99": ("--devices", "at most"),
}


@pytest.mark.parametrize("words", CASES)
def test_one_line_says_what_is_wrong(words, cli):
    check(cli, words, *CASES[words])


def test_an_operator_without_a_counterpart(cli, things):
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.ops.erf(kl.Conv2D(3, 1)(image))).save(things / "odd.keras")
    check(
        cli,
        "export odd.keras --calibration random",
        "converts to float32. Received: TensorFlow operators that have no counterpart in TFLite (Erf)",
    )


@pytest.mark.parametrize("command", ["export nin_cifar10", "evaluate nin_cifar10", "train nin_cifar10"])
def test_cifar10_without_a_network(cli, tmp_path, monkeypatch, command):
    def refused():
        raise Exception("URL fetch failure: no network")  # as Keras does it

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", refused)
    check(cli, command, "Expected dataset 'cifar10' in Keras's cache or a network", "no network")


def test_a_message_of_several_lines_becomes_one(capsys):
    assert main._fail(ValueError(), "Expected this.\n  Received: that.", 2) == 2
    assert capsys.readouterr().err == "Error: Expected this. Received: that.\n"


def test_a_record_with_other_things_in_it_is_no_obstacle(cli, things):
    document = {"parity": [1], "options": "x", "weights": None, "preprocessing": None}
    (things / "digits.json").write_text(json.dumps(document))
    ran = cli("evaluate", "digits.tflite", "--data", "labelled.npz")
    (things / "digits.json").unlink()
    assert ran.status == 0
    assert "no better than guessing" in ran.err  # the labels are random
    assert ran.err.count("\n") == 1
