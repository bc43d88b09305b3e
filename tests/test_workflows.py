"""The entry points of the library: typed functions that return records, without the command line."""

import inspect
import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nin
from keras_nin import InputError, Tuning, data
from keras_nin.export import SCHEMES
from keras_nin.workflows import conversion, export, inputs
from keras_nin.workflows.conversion import ExportOptions, export_temporarily, open_tflite
from keras_nin.workflows.inputs import is_model, model_stem, open_model

FUNCTIONS = sorted(name for name in keras_nin.__all__ if inspect.isfunction(getattr(keras_nin, name)))
FAST = {"tuning": Tuning.plain(), "runs": 1}


@pytest.fixture(scope="module")
def digits():
    """uint8 images (40, 8, 8, 1) and their labels."""
    source = data.open_dataset("digits")
    chosen = source.select("train", 40)
    return source.images[chosen], source.labels[chosen]


@pytest.fixture(scope="module")
def small():
    """A keras.Model that is not in the zoo: (8, 8, 1) to 10 classes."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(features))
    return keras.Model(image, outputs, name="small")


def test_the_package_loads_no_framework():
    code = (
        "import sys, keras_nin; [getattr(keras_nin, name) for name in keras_nin.__all__]; keras_nin.list_models()\n"
        "sys.exit(' '.join({'keras', 'tensorflow', 'ai_edge_litert', 'matplotlib', 'pandas'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_entry_point_is_typed_and_documented(name):
    function = getattr(keras_nin, name)
    parameters = inspect.signature(function).parameters
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters.values())
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    described = inspect.getdoc(function)
    for parameter in parameters:
        assert re.search(rf"\b{parameter}\b", described), parameter


def sources(images, labels):
    """What may be given for calibration and test, and the name that the result has for it."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            part = slice(10 * index, 10 * index + 10)
            return images[part], labels[part]

    np.savez("set.npz", images=images, labels=labels)
    return {
        "array": (images, (images, labels)),
        "tf.data.Dataset": (tf.data.Dataset.from_tensor_slices(images).batch(8),
                            tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)),
        "PyDataset": (Batches(), Batches()),
        "set.npz": ("set.npz", "set.npz"),
    }  # fmt: skip


def test_images_of_every_kind(small, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, (calibration, test) in sources(*digits).items():
        options = ExportOptions(test=test, preprocessing="unit")
        job, tested, _ = export.open_inputs(small, [SCHEMES["int8"]], options)
        assert (tested.dataset.name, len(tested.indices), tested.excluded) == (kind, 32, 0)
        assert job.calibration.count == 8  # one source for both: every fifth calibrates
        (images, labels), *_ = tested.batches("")
        assert images.dtype == np.float32
        assert images.max() <= 1
        assert labels is not None
        options = ExportOptions(calibration=calibration, calibration_count=30, preprocessing="unit")
        job, tested, _ = export.open_inputs(small, [SCHEMES["int8"]], options)
        assert (job.calibration.count, len(tested.indices)) == (8, 32)


def test_calibration_and_test_images_are_disjoint(small, digits):
    pictures, labels = digits
    result = keras_nin.export_model(small, "int8", pictures[:25], (pictures[20:], labels[20:]), **FAST)
    assert result["int8"].converted.calibration.count == 25
    assert (result["int8"].parity.images, result.test.excluded) == (15, 5)
    with pytest.raises(InputError, match="used for calibration") as caught:
        keras_nin.export_model(small, "int8", pictures, (pictures, labels), **FAST)
    assert caught.value.argument == "test"


@pytest.mark.slow
def test_a_result_in_a_notebook(small, digits, tmp_path):
    pictures = digits[0] / np.float32(255)
    result = keras_nin.export_model(small, ["float32", "int8"], pictures[9:], pictures[:9],
                                    **FAST)  # fmt: skip
    assert result.passed
    assert repr(result) == "<ExportResult: small (as given): 2 files, parity pass>"
    assert result._repr_html_().count("<tr>") == 3
    assert list(result.to_dataframe()["file"]) == ["small_float32.tflite", "small_int8.tflite"]
    assert result["int8"].path is None
    saved = result.save(tmp_path)
    assert {file.state for file in saved} == {"written"}
    assert saved["int8"].path.read_bytes() == result["int8"].data
    assert saved.save(tmp_path)["int8"].state == "up to date"
    document = json.loads(json.dumps(saved.to_json(), allow_nan=False))
    assert [entry["state"] for entry in document["files"]] == ["written"] * 2
    assert document["files"][1]["options"] is None  # images in memory cannot be named
    with pytest.raises(KeyError):
        result["int4"]


@pytest.mark.slow
def test_every_way_to_export_gives_the_same_bytes(tmp_path):
    options = {"weights": "random", "calibration": "digits", "calibration_count": 12}
    exported = keras_nin.export_model("convnet_pointwise_head", "int8", test="digits", test_count=2, runs=1, **options)
    (source,) = export_temporarily("convnet_pointwise_head", tmp_path, ExportOptions(**options))
    assert pathlib.Path(source.path).read_bytes() == exported["int8"].data
    assert exported["int8"].converted.tuning == Tuning() != Tuning.plain()


# temporary exports


def test_without_weights_and_images_it_is_noise_and_says_so(tmp_path):
    float32, int8 = export_temporarily("conv1x1_3to2", tmp_path, schemes="float32,int8")
    assert (float32.notes, int8.notes) == (("random weights",), ("random weights", "calibrated on noise"))
    (he,) = export_temporarily("conv1x1_3to2", tmp_path / "he", ExportOptions(weights="he"), schemes="float32")
    assert he.notes == ("he weights",)
    assert (pathlib.Path(int8.path).name, int8.images) == ("conv1x1_3to2_int8.tflite", None)
    record = inputs.read_export_record(int8.path)
    assert (record["calibration"]["count"], record["operators"][0]["layer"]) == (conversion.NOISE_COUNT, "conv1")


def test_options_reach_the_file(tmp_path):
    options = ExportOptions(io="uint8", calibration="random", calibration_count=3, input_shape=(4, 4, 3))
    with open_tflite("conv1x1_3to2", options) as source:
        record = inputs.read_export_record(source.path)
    assert (record["input"]["dtype"], record["input"]["shape"]) == ("uint8", [1, 4, 4, 3])
    assert record["calibration"]["count"] == 3
    assert not pathlib.Path(source.path).exists()


def test_options_of_an_export_do_not_apply_to_a_file(exported):
    path = exported("conv1x1_3to2")
    with pytest.raises(InputError, match="exported already, so `io`, `batch` cannot") as caught, \
            open_tflite(path, ExportOptions(io="uint8", batch=2)):  # fmt: skip
        pass
    assert caught.value.argument == "io"
    with open_tflite(path, ExportOptions(seed=3), ignored=("seed",)) as source:
        assert source.notes == ()


def test_schemes_that_train_are_no_temporary_export(tmp_path):
    with pytest.raises(InputError, match="Expected post-training schemes. Received: qat"):
        export_temporarily("nin_digits", tmp_path, schemes="int8,qat")


# models


def test_what_is_a_model(tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("net.keras").touch()
    pathlib.Path("without_an_ending").touch()
    models = {"nin_digits": True, "keras:MobileNet": True, "net.keras": True, "without_an_ending": False}
    assert {text: is_model(text) for text in models} == models
    assert is_model(small)
    for text, problem in {
        "none.tflite": "which does not exist",
        "none.h5": "an existing file",
        ".": "which is a folder",
        "nin_digit": "Did you mean nin_digits",
    }.items():
        with pytest.raises(InputError, match=problem):
            is_model(text)
    assert [model_stem(model) for model in ("keras:MobileNet", "a/b.net.keras", small)] == [
        "MobileNet",
        "b.net",
        "small",
    ]


def test_a_model_in_memory_takes_no_arguments_of_a_builder(small):
    assert open_model(small).weights == "as given"
    with pytest.raises(InputError, match="for a keras.Model, which is built"):
        open_model(small, weights="digits")


# other entry points


@pytest.mark.slow
def test_benchmark_of_one_model(exported, small, digits):
    result = keras_nin.benchmark_model(exported("conv1x1_3to2"), runs=3, layers=False)
    assert result.profiles[0].runs == 3
    options = ExportOptions(calibration=digits[0], tuning=Tuning.plain())
    result = keras_nin.benchmark_model(small, scheme="int8", export=options, runs=3)
    assert [profile.file for profile in result.profiles] == ["small_int8.tflite"]
    assert any(layer.name == "conv" for layer in result.profiles[0].layers)
    with pytest.raises(InputError):
        keras_nin.benchmark_model("missing.tflite")


def test_simplify_and_audit_a_model_by_name():
    result = keras_nin.simplify_model("conv1x1_3to2")
    assert result.steps == ()
    assert keras_nin.audit_model("conv1x1_3to2").total.macs == 216
