"""An export as files: the export record that reproduces it, and files that are written whole or not at all."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_nin
from keras_nin import InputError, data, export, files
from keras_nin.export import ExportRecord, load_calibration
from keras_nin.export.parity import compare_outputs


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    head = [kl.GlobalAveragePooling2D(name="pool"), kl.Softmax(name="classes")]
    return keras.Sequential([keras.Input((8, 8, 1)), kl.Conv2D(4, 3, name="conv1"), *head], name="small")


@pytest.fixture(scope="module")
def made(model):
    digits = data.open_dataset("digits")
    calibration = load_calibration(digits, (8, 8, 1), count=20, seed=3)
    reference = np.eye(4, dtype=np.float32)
    parity = compare_outputs(reference, reference, np.arange(4), source="digits")
    details = {"weights": "mine", "preprocessing": data.get_preset("unit"), "options": {"seed": 3}}
    converted = export.convert_schemes(model, ["float32", "int8"], calibration, **details)
    return {each.scheme.name: dataclasses.replace(each, parity=parity) for each in converted}


def test_many_calibration_images_lie_in_a_file(monkeypatch):
    digits = data.open_dataset("digits")
    calibration = load_calibration(digits, (8, 8, 1), count=70)
    monkeypatch.setattr("keras_nin.export.conversion._MAX_CALIBRATION_BYTES", 1)
    mapped = load_calibration(digits, (8, 8, 1), count=70)
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, calibration.images)
    assert mapped.sha256 == calibration.sha256


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_record_says_everything_that_made_the_file(made, model):
    export_record = made["int8"].export_record()
    assert set(export_record) == {
        "schema", "file", "sha256", "bytes", "model", "weights", "weights_sha256", "scheme", "flags",
        "float_operators", "options", "preprocessing", "calibration", "batch", "tuning", "training",
        "versions", "input", "output", "inputs", "outputs", "parity", "compression", "operators", "converter",
    }  # fmt: skip
    assert (export_record["schema"], export_record["file"]) == ("keras_nin.export_file/1", "small_int8.tflite")
    assert (export_record["model"], export_record["weights"], export_record["scheme"]) == ("small", "mine", "int8")
    assert export_record["sha256"] == files.sha256(made["int8"].data)
    assert export_record["bytes"] == len(made["int8"].data)
    assert export_record["weights_sha256"] == keras_nin.models.hash_weights(model)
    assert export_record["preprocessing"] == data.get_preset("unit").to_json()
    assert export_record["flags"] == {
        "optimizations": ["DEFAULT"],
        "supported_ops": ["TFLITE_BUILTINS_INT8"],
        "inference_input_type": "int8",
        "inference_output_type": "int8",
    }
    assert export_record["versions"].keys() == {"keras-nin", "python", "tensorflow", "keras", "numpy", "ai-edge-litert"}
    assert export_record["outputs"] == [export_record["output"]]
    assert export_record["output"] == {
        "name": "StatefulPartitionedCall_1:0",
        "signature": "classes",
        "shape": [1, 4],
        "dtype": "int8",
        "scale": 1 / 256,
        "zero_point": -128,
    }
    assert export_record["operators"] == [
        {"index": 0, "op": "CONV_2D", "layer": "conv1", "output_layer": "conv1"},
        {"index": 1, "op": "MEAN", "layer": "pool", "output_layer": "pool"},
        {"index": 2, "op": "SOFTMAX", "layer": "classes", "output_layer": "classes"},
    ]
    assert export_record["parity"]["model_top1"] == export_record["parity"]["file_top1"] == 1
    assert export_record["parity"]["passed"] is True


def test_the_record_names_the_calibration_images(made):
    digits = data.open_dataset("digits")
    assert made["int8"].export_record()["calibration"] == {
        "source": "digits",
        "count": 20,
        "sha256": digits.digest(digits.select("calibration", 20, 3)),
        "seed": 3,
        "preprocessing": data.get_preset("unit").to_json(),
        "latency_only": False,
        "images": digits.select("calibration", 20, 3).tolist(),
    }
    assert digits.digest(digits.select("calibration", 20, 4)) != made["int8"].calibration.sha256


def test_a_float_file_has_no_calibration_and_no_scales(made):
    export_record = made["float32"].export_record()
    assert export_record["calibration"] is None
    assert export_record["flags"] == {}
    assert export_record["input"]["scale"] is export_record["input"]["zero_point"] is None


def test_the_record_is_the_same_in_a_second_run(made, model):
    again = export.convert_model(
        model,
        "int8",
        load_calibration(data.open_dataset("digits"), (8, 8, 1), count=20, seed=3),
        weights="mine",
        preprocessing=data.get_preset("unit"),
        options={"seed": 3},
    )
    again = dataclasses.replace(again, parity=made["int8"].parity)
    assert again.contents("out") == made["int8"].contents("out")


def test_images_as_an_array(model):
    images = np.random.default_rng(0).random((3, 8, 8, 1))
    export_record = export.convert_model(model, "int8", images, name="other").export_record()
    assert (export_record["file"], export_record["weights"]) == ("other_int8.tflite", "as given")
    assert (export_record["calibration"]["source"], export_record["calibration"]["count"]) == ("array", 3)
    assert export_record["parity"] is export_record["preprocessing"] is export_record["options"] is None


def test_an_export_does_not_print_its_bytes(made):
    assert len(repr(made["int8"])) < 3000


def test_save_into_a_folder(made, tmp_path):
    path = made["int8"].save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "small_int8.tflite"
    assert listing(tmp_path).keys() == {f"small_int8{end}" for end in (".tflite", ".json", ".py", "_labels.txt")}
    assert path.read_bytes() == made["int8"].data
    assert json.loads(path.with_suffix(".json").read_text()) == made["int8"].export_record()


def test_save_under_a_name(made, tmp_path):
    assert made["int8"].save(tmp_path / "net.v2.tflite") == tmp_path / "net.v2.tflite"
    assert listing(tmp_path).keys() == {"net.v2.tflite", "net.v2.json"}


def test_what_is_there_already_is_kept(made, tmp_path):
    path = made["int8"].save(tmp_path)
    before = path.stat().st_mtime_ns
    assert made["int8"].save(tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert files.write_files(made["int8"].contents(tmp_path)) == []


@pytest.mark.parametrize("name", ["small_int8.tflite", "small_int8.json"])
def test_other_content_is_replaced_only_with_force(made, tmp_path, name):
    made["int8"].save(tmp_path)
    (tmp_path / name).write_bytes(b"mine")
    before = listing(tmp_path)
    with pytest.raises(InputError, match=rf"{name} exists with different content. Pass `force`"):
        made["int8"].save(tmp_path)
    assert listing(tmp_path) == before
    made["int8"].save(tmp_path, force=True)
    assert listing(tmp_path)["small_int8.tflite"] == made["int8"].data
    assert files.write_files(made["int8"].contents(tmp_path)) == []


def test_of_several_files_all_or_none_are_written(made, tmp_path):
    (tmp_path / "small_int8.json").write_text("mine")
    with pytest.raises(InputError, match="exists with different content"):
        files.write_files(made["float32"].contents(tmp_path) | made["int8"].contents(tmp_path))
    assert listing(tmp_path) == {"small_int8.json": b"mine"}


def test_a_folder_in_the_place_of_a_file(made, tmp_path):
    (tmp_path / "small_int8.tflite").mkdir()
    with pytest.raises(InputError, match="is a folder. Pass another `out` folder"):
        made["int8"].save(tmp_path, force=True)
    assert listing(tmp_path) == {}


def test_a_folder_that_cannot_be_made(made, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="folder that can be written to"):
        made["int8"].save(tmp_path / "file" / "below")
    assert listing(tmp_path) == {"file": b"mine"}


def test_nothing_is_left_of_a_write_that_fails(made, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras_nin.files.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        made["int8"].save(tmp_path)
    assert listing(tmp_path) == {}


def test_the_record_is_typed_and_reads_itself(made):
    names = {field.name for field in dataclasses.fields(ExportRecord)}
    for converted in made.values():
        assert set(converted.export_record()) == (names | {"schema", "input", "output"}) - {"mixed"}


def test_calibration_needs_images():
    with pytest.raises(InputError, match="at least 1. Received: 0"):
        load_calibration(data.open_dataset("digits"), (8, 8, 1), count=0)
    digits = data.open_dataset("digits")
    empty = dataclasses.replace(digits, splits={"test": digits.splits["test"]})
    with pytest.raises(InputError, match="images in the calibration split of 'digits'. Received: test 359"):
        load_calibration(empty, (8, 8, 1))


def test_calibration_takes_all_there_are():
    calibration = load_calibration(data.open_dataset("digits"), (8, 8, 1), count=10_000)
    assert calibration.images.shape == (100, 8, 8, 1)
    assert calibration.images.dtype == np.float32
    assert "images=" not in repr(calibration)
