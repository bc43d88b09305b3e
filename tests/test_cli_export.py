"""`keras-nin export`, from its options to its files."""

import json
import pathlib

import numpy as np
import pytest

from keras_nin import data, models
from keras_nin.export import converted_model
from keras_nin.models import weight_files

PLAIN = ("--ranges", "minmax", "--rounding", "nearest", "--no-bias-correction")  # what is not about tuning goes without


@pytest.fixture(scope="module")
def digits():
    """Images and labels of some digits, for .npz files."""
    source = data.open_dataset("digits")
    chosen = source.select("train", 60)
    return source.images[chosen], source.labels[chosen]


def export_record(path):
    return json.loads(pathlib.Path(path).read_text())


def names(folder="exported"):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def beside(*stems, labels=True, script=True):
    """The names of the files of each export."""
    ends = [".json", ".tflite", *([".py"] if script else []), *(["_labels.txt"] if labels else [])]
    return sorted(f"{stem}{end}" for stem in stems for end in ends)


def test_the_main_job(cli):
    ran = cli("export", "nin_digits", "--runs", 20)
    assert (ran.status, ran.err) == (0, "")
    assert names() == beside("nin_digits_float32", "nin_digits_int8")
    assert pathlib.Path("exported/nin_digits_int8_labels.txt").read_text() == "".join(
        f"{digit}\n" for digit in range(10)
    )
    lines = ran.out.splitlines()
    assert lines[0] == "nin_digits, weights: digits; input prepared as unit"
    assert [line.split()[0] for line in lines[3:6]] == ["(Keras", "nin_digits_float32.tflite", "nin_digits_int8.tflite"]
    assert all(line.endswith("holds") for line in lines[4:6])
    assert lines[6] == "Compared on 359 test images of digits."
    assert "median of 20, 20 runs on 1 thread, batch 1; " in lines[7]
    assert lines[8] == "Calibration: 100 images of digits, none of them among those."
    others = ", ".join(f"nin_digits_float32{end}" for end in ("_labels.txt", ".py", ".json"))
    assert lines[9] == f"written: exported/nin_digits_float32.tflite, {others}"

    before = {path: path.stat().st_mtime_ns for path in pathlib.Path("exported").iterdir()}
    again = cli("export", "nin_digits", "--json", "--runs", 20)
    assert (again.status, again.err) == (0, "")
    assert before == {path: path.stat().st_mtime_ns for path in pathlib.Path("exported").iterdir()}
    float32, int8 = again.json["files"]
    assert again.json["schema"] == "keras_nin.export/1"
    assert again.json["host"].keys() >= {"cpu", "cores"}
    assert (float32["state"], float32["path"]) == ("up to date", "exported/nin_digits_float32.tflite")
    assert int8["latency"]["runs"] == 20
    assert {key: int8[key] for key in export_record("exported/nin_digits_int8.json")} == export_record(
        "exported/nin_digits_int8.json"
    )
    assert float32["parity"]["top1_match"] == 1
    assert int8["parity"]["top1_match"] >= 0.98
    assert int8["parity"]["model_top1"] - int8["parity"]["file_top1"] <= 0.01
    assert None not in [operator["layer"] for operator in int8["operators"]]
    assert int8["options"] == {
        "model": "nin_digits",
        "weights": None,
        "input_shape": None,
        "set": [],
        "seed": 0,
        "data": "digits",
        "labels": None,
        "test_count": None,
        "preprocessing": None,
        "crop": None,
        "min_top1_match": 0.9,
        "max_drop": 2.5,
        "max_rms": None,
        "max_error": None,
        "max_closing": None,
        "max_weight": 4.0,
        "min_snr": None,
        "ranges": "mse",
        "rounding": "adaptive",
        "bias_correction": True,
        "calibration": "digits",
        "calibration_count": 100,
        "allow_float": False,
        "batch": 1,
        "io": None,
    }

    verified = cli("verify", "nin_digits", "exported/nin_digits_int8.tflite")
    assert verified.status == 0
    evaluated = cli("evaluate", "exported/nin_digits_int8.tflite", "--json").json
    assert evaluated["top1"] == pytest.approx(int8["parity"]["file_top1"], rel=1e-4)


def test_int8_alone_gives_the_same_file(cli):
    both = cli("export", "conv1x1_3to2", "--json", "--runs", 1).json["files"]
    alone = cli("export", "conv1x1_3to2", "--scheme", "int8", "--json", "--runs", 1, "--out", "alone").json["files"]
    assert names("alone") == beside("conv1x1_3to2_int8", labels=False, script=False)
    assert alone[0]["sha256"] == both[1]["sha256"]
    assert (
        pathlib.Path("alone/conv1x1_3to2_int8.json").read_bytes()
        == pathlib.Path("exported/conv1x1_3to2_int8.json").read_bytes()
    )


def test_float32_needs_no_calibration(cli, digits, monkeypatch):
    monkeypatch.delattr("keras_nin.export.calibration.load_calibration")
    images, labels = digits
    np.savez("test.npz", images=images, labels=labels)
    ran = cli("export", "nin_digits", "--scheme", "float32", "--data", "test.npz", "--runs", 1)
    assert (ran.status, ran.err) == (0, "")
    assert names() == beside("nin_digits_float32")
    assert "Calibration" not in ran.out
    assert export_record("exported/nin_digits_float32.json")["options"]["data"] == "test.npz"
    # Later commands find the images again.
    assert "on 48 images of test.npz" in cli("evaluate", "exported/nin_digits_float32.tflite").out


def test_noise_calibrates_and_tests_where_nothing_else_is_said(cli):
    ran = cli("export", "convnet_pointwise_head", "--scheme", "float32", "--calibration", "random", "--data", "random",
              "--test-count", 3, "--runs", 1)  # fmt: skip
    assert (ran.status, ran.err) == (0, "")
    assert "weights: random (seed 0)" in ran.out
    assert "The weights are random: agreement and accuracy say nothing and are not judged." in ran.out
    assert "Compared on 3 test images of random." in ran.out
    assert [
        check["name"] for check in export_record("exported/convnet_pointwise_head_float32.json")["parity"]["checks"]
    ] == [
        "max_abs_diff_lsb",
        "weight_diff_lsb",
    ]


def test_images_that_calibrate_never_test(cli, digits):
    images, labels = digits
    np.savez("calibrate.npz", images=images)  # 0, 5, ..., 55 calibrate
    np.savez("test.npz", images=images[:31], labels=labels[:31])  # all but 0, 5, ..., 30 test
    common = ("export", "nin_digits", "--scheme", "int8", "--runs", 1, *PLAIN)
    same = cli(*common, "--calibration", "calibrate.npz", "--data", "test.npz")
    assert "Compared on 24 test images of test.npz." in same.out
    np.savez("shifted.npz", images=images[1:31], labels=labels[1:31])  # 4, 9, ..., 29 of these are 5, 10, ..., 30
    ran = cli(*common, "--calibration", "calibrate.npz", "--data", "shifted.npz", "--out", "shifted")
    assert ran.status == 0
    assert "Compared on 18 test images of shifted.npz (6 more served to calibrate and were left out)." in ran.out
    assert "Calibration: 12 images of calibrate.npz, none of them among those." in ran.out
    assert export_record("shifted/nin_digits_int8.json")["parity"]["images"] == 18


def test_a_count_of_test_images(cli):
    ran = cli("export", "nin_digits", "--scheme", "float32", "--test-count", 7, "--seed", 2, "--runs", 1)
    assert "Compared on 7 test images of digits." in ran.out
    assert export_record("exported/nin_digits_float32.json")["options"]["test_count"] == 7


def test_arguments_of_the_builder_and_weights_from_a_file(cli):
    models.build_model("nin_digits", classes=10).save_weights("other.weights.h5")
    ran = cli("export", "nin_digits", "--scheme", "float32", "--set", "classes=10", "--weights", "other.weights.h5",
              "--json", "--runs", 1, "--min-top1-match", 0)  # fmt: skip
    (entry,) = ran.json["files"]
    assert ran.status == 0
    assert entry["weights"] == "other.weights.h5"
    assert entry["options"]["set"] == ["classes=10"]
    assert entry["parity"]["model_top1"] < 0.5


def test_floor_pooling_makes_another_network(cli):
    common = ("export", "nin_digits", "--scheme", "float32", "--test-count", 1, "--runs", 1, "--min-top1-match", 0)
    ceil, floor = (
        cli(*common, "--set", f"pool_rounding={rounding}", "--out", rounding, "--json").json["files"][0]
        for rounding in ("ceil", "floor")
    )
    assert floor["sha256"] != ceil["sha256"]
    assert floor["weights_sha256"] == ceil["weights_sha256"]


def test_a_saved_model(cli):
    models.build_model("nin_digits", weights="digits").save("my net.keras")
    ran = cli("export", "my net.keras", "--scheme", "int8", "--data", "digits", "--test-count", 20, "--runs", 1,
              *PLAIN)  # fmt: skip
    assert (ran.status, ran.err) == (0, "")
    assert names() == beside("my net_int8")
    record = export_record("exported/my net_int8.json")
    assert record["weights"] == "my net.keras"
    assert record["weights_sha256"] == weight_files.hash_weights(models.build_model("nin_digits", weights="digits"))


@pytest.mark.slow
def test_a_network_of_keras_applications(cli):
    ran = cli("export", "keras:MobileNet", "--input-shape", "32,32,3", "--scheme", "float32", "--calibration", "random",
              "--test-count", 2, "--runs", 1, "--json")  # fmt: skip
    (entry,) = ran.json["files"]
    assert (ran.status, ran.err) == (0, "")
    assert entry["path"] == "exported/mobilenet_float32.tflite"
    assert entry["input"]["shape"] == [1, 32, 32, 3]
    assert entry["preprocessing"]["mode"] == "symmetric"
    layers = [operator["layer"] for operator in entry["operators"] if "CONV" in operator["op"]]
    pairs = [f"conv_{kind}_{number}" for number in range(1, 14) for kind in ("dw", "pw")]
    assert layers == ["conv1", *pairs, "conv_preds"]


def test_parity_that_does_not_hold(cli):
    words = ("export", "nin_digits", "--scheme", "float32", "--max-drop", -100, "--test-count", 20, "--runs", 1)
    ran = cli(*words)
    assert ran.status == 1
    assert ran.err == ("Parity does not hold: nin_digits_float32.tflite: loss of top-1 in points 0, limit -100\n")
    assert "FAILS" in ran.out
    assert names() == beside("nin_digits_float32")
    assert export_record("exported/nin_digits_float32.json")["parity"]["passed"] is False
    again = cli(*words, "--json")
    assert (again.status, again.err) == (1, ran.err)
    assert again.json["files"][0]["state"] == "up to date"


def test_force_replaces_other_files(cli):
    words = ("export", "conv1x1_3to2", "--scheme", "float32", "--runs", 1, "--test-count", 5)
    assert cli(*words).status == 0
    pathlib.Path("exported/conv1x1_3to2_float32.json").write_text("{}")
    refused = cli(*words)
    assert refused.status == 2
    assert refused.err.startswith("Error: Expected no other file at 'exported/conv1x1_3to2_float32.json'")
    ran = cli(*words, "--force")
    assert ran.status == 0
    assert "written: exported/conv1x1_3to2_float32.tflite, conv1x1_3to2_float32.json" in ran.out
    assert export_record("exported/conv1x1_3to2_float32.json")["schema"] == converted_model.SCHEMA
