"""`keras-nin verify` and `evaluate` as a user runs them: details, layers, files of others."""

import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tflite_edits import flipped

from keras_nin import data, export, metrics, models
from keras_nin.report.accuracy import format_scores, score_outputs
from keras_nin.tflite import reader as tflite_graph

writer = importlib.import_module("tflite_writer")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with an exported int8 nin_digits and its record, as the command writes it."""
    from keras_nin.cli import main

    folder = tmp_path_factory.mktemp("exported")
    words = ["export", "nin_digits", "--scheme", "int8", "--runs", "1", "--out", str(folder), "--test-count", "50"]
    assert main.run(words) == 0
    return folder


@pytest.fixture
def file(exported, tmp_path):
    """The file and its record, where they may be changed."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    return tmp_path / "nin_digits_int8.tflite"


def changed(file, **keys):
    path = file.with_suffix(".json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | keys))
    return record


# verify


def test_verify_says_everything_of_one_file(cli, file):
    ran = cli("verify", "nin_digits", file.name, "--test-count", 60)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "latency" not in lines[1]
    starts = ("Difference of the outputs in steps of 0.003906: ", "Signal to noise: ", "The model's class", "Top-5: ")
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1
    assert sum(line.startswith("Judged: ") for line in lines) == 5
    assert max(map(len, lines)) <= 120


def test_verify_per_layer(cli, file):
    words = ("verify", "nin_digits", file.name, "--test-count", 30, "--per-layer")
    ran, document = cli(*words), cli(*words, "--json").json
    assert ran.status == 0
    assert f"\n{document['worst_layer']} (CONV_2D) hurts most: " in ran.out
    assert len(document["layers"]) == 13
    assert document["layers"][0].keys() == {
        "index", "op", "layer", "shape", "reason", "snr_db", "snr_change_db", "added_noise", "max_abs_diff_lsb"}  # fmt: skip
    shown = [line for line in ran.out.splitlines() if " dB" in line and " 1x" in line]
    assert len(shown) == 13
    assert max(map(len, ran.out.splitlines())) <= 120


def test_verify_gives_the_parity_that_export_gave(cli, exported):
    recorded = json.loads((exported / "nin_digits_int8.json").read_text())["parity"]
    document = cli("verify", "nin_digits", exported / "nin_digits_int8.tflite", "--test-count", 50, "--json").json
    assert document["parity"] == recorded
    assert document["same_preprocessing"] is True


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--max-rms", 0.001, "rms difference of the worst class"),
        ("--max-error", 0.5, "largest difference"),
        ("--max-closing", 0.01, "error of the closing"),
        ("--max-weight", 0.1, "difference of a weight"),
        ("--min-snr", 300, "signal to noise"),
    ],
)
def test_limits_on_the_command_line(cli, exported, option, value, name):
    words = ("verify", "nin_digits", exported / "nin_digits_int8.tflite", "--test-count", 20, option, value)
    ran = cli(*words)
    assert ran.status == 1
    (line,) = ran.err.splitlines()
    assert line.startswith("Parity does not hold: ")
    assert name in line


def test_verify_of_a_file_with_one_wrong_weight(cli, file):
    content = file.read_bytes()
    main = tflite_graph.read_model(content).main
    file.write_bytes(flipped(content, main.tensors[main.operators[5].inputs[1]], 1000))
    ran = cli("verify", "nin_digits", file, "--test-count", 30)
    assert ran.status == 1
    assert "Note: the file is not the one that the JSON file beside it describes" in ran.err
    # half the range, give or take what adaptive rounding did to it
    assert re.search(r"difference of a weight from the model's in steps 1[23]\d, limit 4", ran.err)


def test_verify_of_a_record_that_prepares_images_otherwise(cli, file):
    changed(file, preprocessing={"mode": "raw", "mean": None, "std": None, "crop_fraction": 1.0})
    words = ("verify", "nin_digits", file, "--test-count", 30)
    ran = cli(*words)
    assert ran.status == 1
    assert "the file's record prepares images as raw (crop_fraction 1.0), the model takes unit" in ran.err
    assert cli(*words, "--json").json["same_preprocessing"] is False
    accepted = cli(*words, "--preprocessing", "unit")
    assert (accepted.status, accepted.err) == (0, "")


def test_images_that_calibrated_are_left_out(cli, file):
    source = data.open_dataset("digits")
    indices = np.concatenate([source.select("calibration", 100)[:10], source.select("test", 20)])
    arrays = {"images": source.images[indices], "labels": source.labels[indices]}
    np.savez("mixed.npz", x_train=arrays["images"][:1], y_train=arrays["labels"][:1],
             x_test=arrays["images"], y_test=arrays["labels"])  # fmt: skip
    words = ("verify", "nin_digits", file, "--data", "mixed.npz")
    ran = cli(*words)
    assert "(10 more served to calibrate and were left out)" in ran.out
    record = changed(file)
    changed(file, calibration=record["calibration"] | {"source": "gone.npz"})
    lost = cli(*words)
    assert lost.status == 0
    assert "Note: the images that calibrated the file are not found" in lost.err
    assert "left out" not in lost.out


# evaluate


def test_evaluate_loads_neither_keras_nor_tensorflow(exported):
    code = (
        "import sys; from keras_nin.cli import main\n"
        f"assert main.run(['evaluate', {str(exported / 'nin_digits_int8.tflite')!r}, '--test-count', '20']) == 0\n"
        "slow = {'keras', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_evaluate_says_what_is_taken_for_what(cli, exported):
    ran = cli("evaluate", exported / "nin_digits_int8.tflite")
    document = cli("evaluate", exported / "nin_digits_int8.tflite", "--json").json
    confusion = np.array(document["confusion"]["matrix"])
    assert document["confusion"]["classes"] == list(range(10))
    assert confusion.sum() == document["images"] == 359
    assert confusion.trace() / 359 == document["top1"]
    assert [each["images"] for each in document["per_class"]] == confusion.sum(1).tolist()
    assert [each["recall"] for each in document["per_class"]] == (confusion.diagonal() / confusion.sum(1)).tolist()
    assert [each["precision"] for each in document["per_class"]] == (confusion.diagonal() / confusion.sum(0)).tolist()
    assert document["speed"]["images_per_second"] > 0
    assert (document["speed"]["threads"], document["speed"]["runs"], document["speed"]["batch"]) == (1, 359, 1)
    lines = ran.out.splitlines()
    assert lines[1] == "Images of a class (row) by the answer (column):"
    assert lines[4].split()[0] == "0"
    assert "images per second, inference alone: 359 runs on 1 thread, batch 1; " in lines[-1]


def test_evaluate_of_a_keras_model_has_no_speed(cli):
    ran = cli("evaluate", "nin_digits", "--test-count", 20)
    assert "images per second" not in ran.out
    assert cli("evaluate", "nin_digits", "--test-count", 20, "--json").json["speed"] is None


def classifier(path, classes, outputs=1, batch=1):
    """A file from 8x8 images to classes: the first output classes count pixels."""
    generator = np.random.default_rng(0)
    dense = generator.normal(0, 1, (classes, 64))
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


@pytest.fixture
def labelled(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "set.npz"
    np.savez(path, images=generator.integers(0, 255, (60, 8, 8, 1), np.uint8), labels=np.arange(60) % 6)
    return path


def test_evaluate_of_a_file_with_a_background_class(cli, labelled, tmp_path):
    file = classifier(tmp_path / "background.tflite", 11)
    ran = cli("evaluate", file, "--data", "digits")
    assert ran.status == 2
    assert "Expected --label-offset for 11 outputs and labels up to 9 in 'digits'" in ran.err
    assert ran.err.count("\n") == 1
    one = cli("evaluate", file, "--data", "digits", "--label-offset", 1, "--json")
    assert (one.status, one.err, one.json["label_offset"]) == (0, "", 1)
    assert {each["class"] for each in one.json["per_class"] if each["images"]} == set(range(1, 11))
    assert {each["class"]: each["name"] for each in one.json["per_class"]}[10] == "9"
    beyond = cli("evaluate", file, "--data", "digits", "--label-offset", 2)
    assert "Expected labels from 0 to 10" in beyond.err


def test_evaluate_of_more_outputs_than_classes(cli, tmp_path):
    ran = cli("evaluate", classifier(tmp_path / "wide.tflite", 99), "--data", "digits")
    assert ran.status == 0
    assert ran.err == "Note: 99 outputs, but 10 classes in digits: the numbers of both must agree.\n"
    assert "Commonest confusions:" in ran.out


def test_evaluate_of_several_outputs_and_a_batch(cli, labelled, tmp_path):
    file = classifier(tmp_path / "two.tflite", 6, outputs=2, batch=4)
    ran = cli("evaluate", file, "--data", labelled)
    assert ran.status == 2
    assert "Expected --output N to choose one of the outputs" in ran.err
    assert cli("evaluate", file, "--data", labelled, "--output", 1, "--json").json["images"] == 48
    assert cli("evaluate", file, "--data", labelled, "--output", 2).status == 2
    assert "Expected --output with a .tflite file" in cli("evaluate", "nin_digits", "--output", 0).err


# records and text


def test_a_matrix_holds_only_classes_that_occur():
    outputs = np.eye(50, dtype=np.float32)[[3, 3, 7, 9, 9]]
    outputs[4] = np.nan
    found = score_outputs(outputs, np.array([3, 7, 7, 9, 9]), ("a",) * 8)
    assert found.classes == (3, 7, 9)
    assert found.names == ("a", "a", "9")
    assert found.matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found.top1 == 3 / 5  # what is not a number answers nothing
    assert [each["recall"] for each in found.to_json()["per_class"]] == [1, 0.5, 0.5]
    assert [each["precision"] for each in found.to_json()["per_class"]] == [0.5, 1, 1]
    json.dumps(found.to_json(), allow_nan=False)


def test_the_commonest_confusions_come_first():
    labels = np.arange(30).repeat(3)
    predicted = labels.copy()
    predicted[[0, 1, 6]] = [5, 5, 9]
    found = score_outputs(np.eye(30, dtype=np.float32)[predicted], labels)
    lines = format_scores(found).splitlines()
    assert lines[0] == "Of 30 classes 28 are recognised every time and 0 never."
    assert [line.split() for line in lines[4:]] == [["0", "5", "2", "3"], ["2", "9", "1", "3"]]
    perfect = score_outputs(np.eye(30, dtype=np.float32), np.arange(30))
    assert format_scores(perfect) == "Of 30 classes 30 are recognised every time and 0 never."


def test_scikit_learn_counts_the_same():
    sklearn = importlib.import_module("sklearn.metrics")
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 9, (2, 400))
    expected = sklearn.confusion_matrix(labels, predicted, labels=range(9))
    assert np.array_equal(metrics.confusion_matrix(labels, predicted, 9), expected)


@pytest.mark.external
@pytest.mark.parametrize(
    ("name", "dtype", "images", "options", "least"),
    [
        ("b51e4c317029", "float32", "mnist_test.npz", (), 0.9),
        ("17bed12f01fa", "uint8", "imagenet_samples", ("--label-offset", 1, "--preprocessing", "symmetric"), 0.2),
    ],
)
def test_files_of_others(cli, external_data, name, dtype, images, options, least):
    file = external_data / "edgetpu" / f"{name}.tflite"
    graph = tflite_graph.read_model(str(file))
    assert graph.main.tensors[graph.main.inputs[0]].dtype == dtype
    source = external_data / "images" / images
    ran = cli("evaluate", file, "--data", source, "--test-count", 100, *options, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.json["top1"] > least


@pytest.mark.external
def test_every_file_of_others_gives_scores_or_one_clear_line(cli, external_data):
    paths = sorted(pathlib.Path(external_data / "edgetpu").glob("*.tflite"))
    for path in paths[::4]:
        ran = cli("evaluate", path, "--data", external_data / "images" / "imagenet_samples", "--test-count", 1)
        assert ran.status in (0, 2), path
        if ran.status == 2:
            assert ran.err.splitlines()[-1].startswith("Error: Expected "), path


def test_models_and_files_read_the_same(cli, exported):
    model = models.build_model("nin_digits", weights="digits")
    export.convert_model(model, "float32").save(exported / "same.tflite")
    one = cli("evaluate", exported / "same.tflite", "--data", "digits", "--json").json
    two = cli("evaluate", "nin_digits", "--json").json
    assert one["confusion"] == two["confusion"]
