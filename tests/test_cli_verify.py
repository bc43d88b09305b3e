"""`keras-nin verify` and `evaluate`: details, layers, records, and third-party files."""

import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import own_networks
import pytest
from PIL import Image
from tflite_edits import flipped

from keras_nin import data, metrics, models
from keras_nin.tflite.reader import read_model

writer = importlib.import_module("tflite_writer")


@pytest.fixture
def file(digits_export, tmp_path):
    """nin_digits in int8 and its record, where they may be changed."""
    for name in ("nin_digits_int8.tflite", "nin_digits_int8.json"):
        shutil.copy(digits_export / name, tmp_path)
    return tmp_path / "nin_digits_int8.tflite"


def edit(file, **keys):
    path = file.with_suffix(".json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | keys))
    return record


# verify


def test_verify_shows_everything_of_one_file_and_its_layers(cli, file):
    words = ("verify", "nin_digits", file.name, "--test-count", 30, "--per-layer")
    ran, document = cli(*words), cli(*words, "--json").json
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "nin_digits, weights: digits; preprocessing: unit, [0, 1]"
    assert "latency" not in lines[1]
    assert "Compared on 30 test images of digits." in lines
    assert document["schema"] == "keras_nin.verify/1"
    assert f"{document['worst_layer']} (CONV_2D)" in ran.out
    assert len(document["layers"]) == 13
    assert sum(" dB" in line and " 1x" in line for line in lines) == 13
    assert max(map(len, lines)) <= 150


def test_verify_gives_the_parity_that_export_gave(cli, digits_export):
    recorded = json.loads((digits_export / "nin_digits_int8.json").read_text())["parity"]
    document = cli("verify", "nin_digits", digits_export / "nin_digits_int8.tflite", "--json").json
    assert document["parity"] == recorded
    assert document["same_preprocessing"] is True


def test_limits(cli, digits_export):
    limits = {"--max-rms": 0.001, "--max-error": 0.5, "--max-closing": 0.01, "--max-weight": 0.1, "--min-snr": 300}
    words = [word for limit in limits.items() for word in limit]
    ran = cli("verify", "nin_digits", digits_export / "nin_digits_int8.tflite", "--test-count", 10, *words)
    assert ran.status == 1
    lines = ran.err.splitlines()
    assert len(lines) == len(limits)
    assert all(line.startswith("FAIL: ") for line in lines)
    for value in limits.values():
        assert sum(bool(re.search(rf"limit (at least |at most )?{value}\b", line)) for line in lines) == 1


def test_a_file_with_one_wrong_weight_or_another_models_weights(cli, file):
    content = file.read_bytes()
    main = read_model(content).main
    file.write_bytes(flipped(content, main.tensors[main.operators[5].inputs[1]], 1000))
    ran = cli("verify", "nin_digits", file, "--test-count", 10)
    assert ran.status == 1
    assert "Note: The file has changed since the record beside it was written." in ran.err
    # half the range, give or take what adaptive rounding did to it
    assert re.search(r"weight.* 1[23]\d\b.*limit 4", ran.err)
    ran = cli("verify", "nin_digits", file, "--weights", "random", "--test-count", 10)
    assert ran.status == 1
    assert "Note: The file was made from other weights (digits) than random (seed 0)." in ran.err


@pytest.mark.slow
def test_a_record_with_another_preprocessing(cli, file):
    edit(file, preprocessing={"mode": "raw", "mean": None, "std": None, "crop_fraction": 1.0})
    words = ("verify", "nin_digits", file, "--test-count", 10)
    ran = cli(*words, "--json")
    assert (ran.status, ran.json["same_preprocessing"]) == (1, False)
    assert "the file's record has the preprocessing raw, [0, 255]; the model takes unit, [0, 1]" in ran.err
    accepted = cli(*words, "--preprocessing", "unit")
    assert (accepted.status, accepted.err) == (0, "")


def test_images_that_calibrated_are_left_out(cli, file):
    source = data.open_dataset("digits")
    indices = np.concatenate([source.select("calibration", 100)[:10], source.select("test", 20)])
    arrays = {"images": source.images[indices], "labels": source.labels[indices]}
    np.savez("mixed.npz", x_train=arrays["images"][:1], y_train=arrays["labels"][:1],
             x_test=arrays["images"], y_test=arrays["labels"])  # fmt: skip
    words = ("verify", "nin_digits", file, "--data", "mixed.npz")
    assert "(10 more were used for calibration and left out)" in cli(*words).out
    record = edit(file)
    edit(file, options=record["options"] | {"calibration": "gone.npz"})
    lost = cli(*words)
    assert lost.status == 0
    assert "Note: The images that calibrated the file are not found" in lost.err
    assert "left out" not in lost.out


# evaluate


@pytest.mark.slow
def test_evaluate_loads_neither_keras_nor_tensorflow(digits_export):
    code = (
        "import sys; from keras_nin.cli import main\n"
        f"assert main.run(['evaluate', {str(digits_export / 'nin_digits_int8.tflite')!r}, '--test-count', '20']) == 0\n"
        "slow = {'keras', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_confusion_matrix(cli, digits_export):
    file = digits_export / "nin_digits_int8.tflite"
    ran, document = cli("evaluate", file), cli("evaluate", file, "--json").json
    confusion = np.array(document["confusion"]["matrix"])
    assert document["confusion"]["classes"] == list(range(10))
    assert confusion.sum() == document["images"] == 359
    assert confusion.trace() / 359 == document["top1"]
    for key, sums in (("recall", confusion.sum(1)), ("precision", confusion.sum(0))):
        assert [entry[key] for entry in document["per_class"]] == (confusion.diagonal() / sums).tolist()
    speed = document["speed"]
    assert speed["images_per_second"] > 0
    assert (speed["threads"], speed["runs"], speed["batch"]) == (1, 359, 1)
    first = ran.out.splitlines()[0]
    assert first.startswith(f"{file}: top-1 99.")
    assert first.endswith(" on 359 images of digits, preprocessing: unit, [0, 1]")


def test_a_model_and_its_float_file_have_the_same_scores(cli, digits_export):
    named = cli("evaluate", "nin_digits", "--json").json
    exported = cli("evaluate", digits_export / "nin_digits_float32.tflite", "--json").json
    assert named["confusion"] == exported["confusion"]
    assert (named["weights"], named["speed"]) == ("digits", None)
    raw = cli("evaluate", digits_export / "nin_digits_float32.tflite", "--preprocessing", "raw", "--json").json
    assert raw["top1"] < exported["top1"]


def test_random_weights_are_said(cli):
    ran = cli("evaluate", "nin_cifar10_bn", "--data", "digits", "--test-count", 4)
    first = ran.out.splitlines()[0]
    assert "on 4 images of digits, preprocessing: standardize" in first
    assert first.endswith("; weights: random (seed 0)")


def classifier(path, classes, outputs=1, batch=1, dense=None):
    """A file from 8x8 images to classes: the first output classes count pixels."""
    dense = np.random.default_rng(0).normal(0, 1, (classes, 64)) if dense is None else dense
    tensors = [
        writer.tensor("image", (batch, 8, 8, 1), "FLOAT32"),
        writer.tensor("weights", (classes, 64), "FLOAT32", dense),
        *(writer.tensor(f"scores{number}", (batch, classes), "FLOAT32") for number in range(outputs)),
    ]
    operators = [
        writer.operator("FULLY_CONNECTED", [0, 1, -1], [2 + number], "FullyConnectedOptions")
        for number in range(outputs)
    ]
    return writer.write(path, tensors, operators, outputs=[2 + number for number in range(outputs)])


def test_a_file_with_a_background_class(cli, tmp_path):
    file = classifier(tmp_path / "background.tflite", 11)
    ran = cli("evaluate", file, "--data", "digits")
    assert ran.status == 2
    assert "11 outputs, but labels up to 9 in 'digits'. Pass --label-offset: 1 where" in ran.err
    one = cli("evaluate", file, "--data", "digits", "--label-offset", 1, "--json")
    assert (one.status, one.err, one.json["label_offset"]) == (0, "", 1)
    assert {entry["class"] for entry in one.json["per_class"] if entry["images"]} == set(range(1, 11))
    assert {entry["class"]: entry["name"] for entry in one.json["per_class"]}[10] == "9"
    assert "labels from 0 to 10" in cli("evaluate", file, "--data", "digits", "--label-offset", 2).err
    wide = cli("evaluate", classifier(tmp_path / "wide.tflite", 99), "--data", "digits")
    assert wide.status == 0
    assert wide.err.startswith("Note: 99 outputs, but 10 classes in digits: ")


def test_several_outputs_and_a_batch(cli, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1), np.uint8)
    np.savez("set.npz", images=images, labels=np.arange(60) % 6)
    file = classifier(tmp_path / "two.tflite", 6, outputs=2, batch=4)
    ran = cli("evaluate", file, "--data", "set.npz")
    assert ran.status == 2
    assert "--output" in ran.err
    assert cli("evaluate", file, "--data", "set.npz", "--output", 1, "--json").json["images"] == 60
    assert cli("evaluate", file, "--data", "set.npz", "--output", 2).status == 2
    assert "--output chooses one of the outputs" in cli("evaluate", "nin_digits", "--output", 0).err


def test_scikit_learn_counts_the_same():
    sklearn = importlib.import_module("sklearn.metrics")
    labels, predicted = np.random.default_rng(0).integers(0, 9, (2, 400))
    expected = sklearn.confusion_matrix(labels, predicted, labels=range(9))
    assert np.array_equal(metrics.confusion_matrix(labels, predicted, 9), expected)


# other heads


@pytest.mark.slow
def test_a_network_with_several_outputs_from_its_file_to_its_scores(cli):
    """A mask and a number: every command scores each by what it is, and names it."""
    network = own_networks.unet()
    network.model.save("unet.keras")
    labels = {f"labels_{name}": values for name, values in network.labels.items()}
    np.savez("set.npz", images=np.round(network.test * 255).astype(np.uint8), **labels)
    np.savez("pixels.npz", images=np.round(network.calibration * 255).astype(np.uint8))
    words = ("--data", "set.npz", "--calibration", "pixels.npz", "--preprocessing", "unit")
    ran = cli("export", "unet.keras", *words, "--runs", 1, "--rounding", "nearest", "--max-drop", 25)
    assert (ran.status, "FAIL" in ran.err) == (0, False)
    assert "mean IoU 9" in ran.out
    verified = cli("verify", "unet.keras", "exported/unet_int8.tflite", *words[:2], "--json").json
    assert {check["output"] for check in verified["parity"]["checks"]} == {"mask", "age", None}
    assert [output["task"] for output in verified["parity"]["outputs"]] == ["segmentation", "regression"]
    text = cli("verify", "unet.keras", "exported/unet_int8.tflite", *words[:2]).out
    assert "output 'mask': match of pixels: " in text
    assert "output 'age': RMSE rise (% of the labels' standard deviation): " in text
    for source in ("exported/unet_int8.tflite", "unet.keras"):
        scored = cli("evaluate", source, *words[:2], *words[4:], "--json")
        assert (scored.status, scored.json["top1"]) == (0, None)
        scores = {output["output"]: output["scores"] for output in scored.json["outputs"]}
        assert scores["mask"]["mean_iou"] > 0.9
        assert scores["age"]["r2"] > 0.5
        recorded = verified["parity"]["outputs"][0]["scores"]["model" if source.endswith("keras") else "file"]
        assert scores["mask"] == pytest.approx(recorded, abs=1e-4)
    assert "output 'age' (regression): MAE 0." in cli("evaluate", source, *words[:2], *words[4:]).out
    pair = [f"exported/unet_{scheme}.tflite" for scheme in ("float32", "int8")]
    compared = {output["output"]: output for output in cli("compare", *pair, *words[:2], "--json").json["outputs"]}
    assert compared["mask"]["match"] > 0.9
    file = cli("evaluate", pair[1], *words[:2], *words[4:], "--json").json["outputs"]
    for output in file:
        assert compared[output["output"]]["scores"]["b"] == pytest.approx(output["scores"])
    assert (
        "Outputs of exported/unet_float32.tflite (a) and exported/unet_int8.tflite (b) on 24 images"
        in cli("compare", *pair, *words[:2]).out
    )
    refused = cli("compare", "unet.keras", pair[0], *words[:2])
    assert (refused.status, refused.out) == (2, "")
    assert "--data compares the outputs of two .tflite files" in refused.err
    wrong = cli("verify", "unet.keras", pair[1], "--data", "set.npz", "--task", "age=mask")
    assert (wrong.status, wrong.out) == (2, "")
    np.savez("wrong.npz", images=np.zeros((9, 16, 16, 3), np.uint8), labels_face=np.zeros(9))
    unknown = cli("verify", "unet.keras", pair[1], "--data", "wrong.npz")
    assert (unknown.status, unknown.err.count("labels of the outputs 'mask', 'age'. Received: 'face'")) == (2, 1)


@pytest.mark.slow
def test_a_network_that_ends_in_an_argmax(cli, tmp_path):
    """Class indices from the model to the scores, on a folder of images and masks."""
    keras.utils.set_random_seed(0)
    image = keras.Input((24, 24, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(image)
    scores = keras.layers.Conv2D(4, 1, name="scores")(x)
    model = keras.Model(image, keras.ops.argmax(scores, axis=-1), name="segment")
    model.save("segment.keras")
    colors = np.random.default_rng(0).integers(0, 256, (45, 24, 24, 3), np.uint8)
    truth = model.predict(colors.astype(np.float32) / 255, verbose=0)
    for kind, arrays in (("images", colors), ("masks", truth.astype(np.uint8))):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(tmp_path / "photos" / kind / f"{number:02}.png")
    words = ("--data", "photos", "--preprocessing", "unit", "--crop", 1)
    ran = cli("export", "segment.keras", *words, "--runs", 1, "--rounding", "nearest", "--max-drop", 10)
    assert (ran.status, "FAIL" in ran.err) == (0, False), ran.err
    files = [f"exported/segment_{scheme}.tflite" for scheme in ("float32", "int8")]
    for file in files:
        (output,) = json.loads(pathlib.Path(file).with_suffix(".json").read_text())["outputs"]
        assert (output["dtype"] in ("int32", "int64"), output["scale"]) == (True, None)
        verified = cli("verify", "segment.keras", file, "--data", "photos", "--per-layer", "--max-drop", 10, "--json")
        parity = verified.json["parity"]
        checks = {check["name"]: check["value"] for check in parity["checks"]}
        assert (verified.status, parity["task"], checks["argmax_match"]) == (0, "segmentation", 1)
        assert parity["match"] == checks["pixel_match"] > 0.9
        scored = cli("evaluate", file, *words, "--workers", 2, "--json").json["outputs"][0]["scores"]
        assert scored == pytest.approx(parity["scores"]["file"], abs=1e-4)
        assert scored["pixel_accuracy"] == pytest.approx(parity["match"], abs=1e-4)
    own = cli("evaluate", "segment.keras", *words, "--json").json["outputs"][0]
    assert (own["task"], own["scores"]) == ("segmentation", {"mean_iou": 1, "pixel_accuracy": 1})
    (pair,) = cli("compare", *files, *words[:2], "--json").json["outputs"]
    assert pair["match"] == pytest.approx(scored["pixel_accuracy"], abs=0.01)
    assert "ARG_MAX" in cli("edgetpu", files[1]).out
    audited = cli("audit", "segment.keras", "--json").json, cli("audit", files[1], "--json").json
    assert audited[0]["total"]["macs"] == audited[1]["total"]["macs"] == 24 * 24 * (27 * 8 + 8 * 4)
    assert cli("benchmark", *files, "--runs", 5).status == 0
    # Other weights in the model: the file's classes are no longer its own.
    model.layers[2].set_weights([weights[..., ::-1] for weights in model.layers[2].get_weights()])
    model.save("other.keras")
    other = cli("verify", "other.keras", files[0], *words, "--json")
    failed = {check["name"] for check in other.json["parity"]["checks"] if not check["passed"]}
    assert (other.status, failed) == (1, {"max_abs_diff_lsb", "pixel_match", "weight_diff_lsb"})
    (tmp_path / "photos/masks/07.png").unlink()
    refused = cli("evaluate", files[0], *words)
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)


def test_a_file_whose_outputs_are_nan_or_constant_has_no_scores(cli, tmp_path):
    values = np.full((6, 64), np.nan), np.zeros((6, 64))
    np.savez(
        "set.npz", images=np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), np.uint8), labels=np.arange(30) % 6
    )
    for kernel, reason in zip(values, ("NaN", "the same"), strict=True):
        file = classifier(tmp_path / "dead.tflite", 6, dense=kernel)
        ran = cli("evaluate", file, "--data", "set.npz")
        assert ran.status == 1
        assert "0.0%" not in ran.out
        assert f"NO VERDICT: {file}: the output carries no information: it is {reason} for all 30 images" in ran.err
        document = cli("evaluate", file, "--data", "set.npz", "--json").json
        assert (document["top1"], document["outputs"][0]["scores"]) == (None, {})
    compared = cli("compare", file, file, "--data", "set.npz")
    assert "No verdict on the output, which carries no information in a: it is the same for all" in compared.out


@pytest.mark.slow
def test_a_file_on_16_bit_values_is_scored_on_a_sample(cli, digits_export, monkeypatch):
    from keras_nin.workflows import inputs

    monkeypatch.setattr(inputs, "count_slow_macs", lambda file: 10**9)
    file = digits_export / "nin_digits_int8.tflite"
    ran = cli("verify", "nin_digits", file)
    assert (ran.status, ran.err) == (0, "")
    assert "Compared on 100 of 359 test images of digits." in ran.out
    assert "--test-count all takes all images." in ran.out
    assert "Compared on 359 test images of digits." in cli("verify", "nin_digits", file, "--test-count", "all").out
    scored = cli("evaluate", file)
    assert "on 100 images of digits" in scored.out
    assert "Note: int16 operators run in slow kernels: scored on 100 of 359 test images; --test-count all" in scored.err
    assert cli("evaluate", file, "--test-count", "some").status == 2


# train


def write_digits(path, count):
    """Write an .npz of so many digits to train on and as many to test with."""
    source = data.open_dataset("digits")
    train, test = source.select("train", count), source.select("test", count)
    np.savez(path, x_train=source.images[train], y_train=source.labels[train],
             x_test=source.images[test], y_test=source.labels[test])  # fmt: skip


@pytest.mark.slow
def test_train_then_evaluate(cli):
    write_digits("set.npz", 80)
    words = ("train", "nin_digits", "--data", "set.npz", "--epochs", 2, "--batch-size", 32, "--out", "run")
    ran = cli(*words)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("nin_digits on set.npz: 2 epochs, best ")
    assert "written: run/nin_digits.weights.h5, .keras and .json, and history.json" in ran.out
    record = json.loads(pathlib.Path("run/nin_digits.json").read_text())
    evaluated = cli("evaluate", "run/nin_digits.keras", "--data", "set.npz", "--json").json
    assert evaluated["top1"] == pytest.approx(record["test_top1"])
    assert evaluated["preprocessing"] == record["preprocessing"]
    again = cli(*words)
    assert again.status == 2
    assert "Use --force to start again, or another folder" in again.err
    with np.load("set.npz") as images:
        np.savez("set.npz", images=images["x_train"], labels=images["y_train"])
    document = cli(*words, "--force", "--json", "--ema", 0.9, "--cutout", 2).json
    assert (document["schema"], len(document["history"])) == ("keras_nin.train/1", 2)
    assert (document["recipe"]["ema"], document["recipe"]["cutout"]) == (0.9, 2)
    assert (document["test_images"], document["test_top1"]) == (0, None)
    once = cli(*words[:4], "--epochs", 1, "--out", "once")
    assert once.out.startswith("nin_digits on set.npz: 1 epoch, best 1 with ")
    assert "on validation images; not tested, because there is no test split\n" in once.out


@pytest.mark.slow
@pytest.mark.wide  # tests/test_export_optimization.py trains for every scheme
def test_a_model_trained_for_a_scheme(cli):
    write_digits("set.npz", 80)
    words = ("--data", "set.npz", "--epochs", 1, "--runs", 1, "--max-drop", 100, "--min-top1-match", 0)
    ran = cli("export", "nin_digits", "--scheme", "pruned", *words)
    assert ran.status in (0, 1)
    assert "(trained: pruned)" in ran.out
    training = json.loads(pathlib.Path("exported/nin_digits_pruned.json").read_text())["training"]
    assert training["original_top1"] > 0.9
    assert pathlib.Path("exported/nin_digits_pruned.weights.h5").exists()


# third-party files


@pytest.mark.external
@pytest.mark.parametrize(
    ("name", "dtype", "images", "options", "least"),
    [
        ("b51e4c317029", "float32", "mnist_test.npz", (), 0.9),
        ("17bed12f01fa", "uint8", "imagenet_samples", ("--label-offset", 1, "--preprocessing", "symmetric"), 0.2),
    ],
)
def test_third_party_files(cli, external_data, name, dtype, images, options, least):
    file = external_data / "edgetpu" / f"{name}.tflite"
    model = read_model(str(file))
    assert model.main.tensors[model.main.inputs[0]].dtype == dtype
    source = external_data / "images" / images
    ran = cli("evaluate", file, "--data", source, "--test-count", 100, *options, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.json["top1"] > least


@pytest.mark.external
def test_every_third_party_file_gives_scores_or_one_clear_line(cli, external_data):
    paths = sorted(pathlib.Path(external_data / "edgetpu").glob("*.tflite"))
    for path in paths[::4]:
        ran = cli("evaluate", path, "--data", external_data / "images" / "imagenet_samples", "--test-count", 1)
        assert ran.status in (0, 2), path
        assert ran.status == 0 or ran.err.splitlines()[-1].startswith("Error: "), path


def test_list(cli):
    ran = cli("list")
    assert (ran.status, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()[2:]] == models.list_models()
    document = cli("list", "--json").json
    by_name = {entry["name"]: entry for entry in document["models"]}
    assert (document["schema"], list(by_name)) == ("keras_nin.list/1", models.list_models())
    assert by_name["squeezenet_v1_1"]["params"] == 1_235_496
    assert by_name["nin_digits"]["weights"] == ["digits"]
