"""Users' own models and images: preprocessing, and which images calibrate and test."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

from keras_nin import InputError, data, models
from keras_nin.cli import main
from keras_nin.errors import DatasetUnavailableError
from keras_nin.export import SCHEMES
from keras_nin.workflows import export
from keras_nin.workflows.conversion import ExportOptions, export_temporarily

kl = keras.layers
FAST = ("--ranges", "minmax", "--rounding", "nearest", "--no-bias-correction", "--runs", 1, "--max-drop", 100,
        "--min-top1-match", 0)  # fmt: skip
FLOAT, INT8 = ("--scheme", "float32", *FAST), ("--scheme", "int8", *FAST)
CONSTANTS = ("--scale", "1/255", "--mean", "0.5,0.4,0.3", "--std", "0.2", "--channels", "bgr")
DESCRIBED = "custom, (x / 255 - (0.5, 0.4, 0.3)) / 0.2, BGR"


def network(*first, shape=(8, 8, 3), name="net"):
    """A classifier that distinguishes colors, whose first layers are given."""
    keras.utils.set_random_seed(0)
    rest = [kl.Conv2D(6, 3, activation="relu"), kl.GlobalAveragePooling2D(), kl.Dense(4, activation="softmax")]
    return keras.Sequential([keras.Input(shape), *first, *rest], name=name)


def write_images(path, count, seed=0):
    random = np.random.RandomState(seed)
    np.savez(path, images=random.randint(0, 256, (count, 8, 8, 3), dtype=np.uint8), labels=np.arange(count) % 4)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a model, 40 images in a.npz and 30 others in b.npz."""
    monkeypatch.chdir(tmp_path)
    network().save("net.keras")
    write_images("a.npz", 40)
    write_images("b.npz", 30, 1)


def record(path):
    return json.loads(pathlib.Path(path).read_text())


# which images calibrate and test


@pytest.mark.slow
def test_calibration_and_test_data_are_each_used_whole(cli, own):
    ran = cli("export", "net.keras", "--calibration", "a.npz", "--data", "b.npz", *INT8)
    assert "Compared on 30 test images of b.npz." in ran.out
    assert "Calibration: 40 images of a.npz, none of them among the test images." in ran.out
    assert "Split" not in ran.out
    assert "Compared on 30 test images of b.npz." in cli("verify", "net.keras", "exported/net_int8.tflite").out
    assert "on 30 images of b.npz" in cli("evaluate", "exported/net_int8.tflite").out
    again = cli("export", "--from", "exported/net_int8.json", "--out", "again", "--runs", 1)
    assert again.out.startswith("Reproduced: ")
    mixed = cli("verify", "net.keras", "exported/net_int8.tflite", "--data", "a.npz")
    assert (mixed.status, "Every test image of 'a.npz' was used for calibration" in mixed.err) == (2, True)


@pytest.mark.slow
def test_one_source_is_split_and_the_split_is_printed(cli, own):
    split = "Split: every fifth of the 40 images of a.npz is for calibration (8), the others test (32)."
    ran = cli("export", "net.keras", "--data", "./a.npz", "--calibration", "a.npz", *INT8)
    assert split in ran.out
    assert "Compared on 32 test images of a.npz." in ran.out
    verified = cli("verify", "net.keras", "exported/net_int8.tflite")
    assert split in verified.out
    assert "Compared on 32 test images of a.npz." in verified.out
    assert split in cli("evaluate", "exported/net_int8.tflite").out
    pathlib.Path("exported/net_int8.json").unlink()  # nothing says that the images calibrated it
    assert "on 40 images of a.npz" in cli("evaluate", "exported/net_int8.tflite", "--data", "a.npz").out


def test_calibration_images_test_too_where_the_models_own_dataset_is_not_available(own, monkeypatch):
    def refuse(name):
        raise DatasetUnavailableError(f"no network for {name}.")

    monkeypatch.setattr(data.named_datasets, "open_keras_dataset", refuse)
    monkeypatch.setattr(data.named_datasets, "is_at_hand", lambda name: False)
    loaded = models.LoadedModel(network(), "net", "mine", False, "unit", "cifar10")
    for options in (ExportOptions(calibration="a.npz"), ExportOptions(test="a.npz")):
        job, test, sources = export.open_inputs(loaded, [SCHEMES["int8"]], options)
        assert (job.calibration.count, len(test.indices), test.dataset.divided) == (8, 32, True)
        assert sources.notes == ("no network for cifar10. What was given serves for calibration and tests.",)
    _, test, sources = export.open_inputs(loaded, [SCHEMES["float32"]], ExportOptions(test="a.npz"))
    assert (len(test.indices), sources.notes) == (40, ())  # nothing is calibrated, so nothing was missed
    with pytest.raises(DatasetUnavailableError):
        export.open_inputs(loaded, [SCHEMES["int8"]], ExportOptions())


@pytest.mark.slow
def test_a_temporary_export_has_the_bytes_of_an_export(cli, own, tmp_path):
    for calibration, test in (("a.npz", None), ("a.npz", "b.npz")):
        words = ("--calibration", calibration, *(("--data", test) if test else ()), "--force")
        assert cli("export", "net.keras", *words, "--scheme", "int8", "--runs", 1, *FAST[-4:]).status == 0
        (source,) = export_temporarily("net.keras", tmp_path / "new", ExportOptions(calibration=calibration, test=test))
        assert pathlib.Path(source.path).read_bytes() == pathlib.Path("exported/net_int8.tflite").read_bytes()
        shutil.rmtree("new")


@pytest.mark.slow
def test_a_temporary_export_takes_the_preprocessing_of_an_export(cli, own, monkeypatch):
    from keras_nin.edge.edgetpu import verdict

    words = ("net.keras", "--calibration", "a.npz", *CONSTANTS, "--crop", 0.8)
    ran = cli("export", *words, "--scheme", "int8", "--runs", 1, *FAST[-4:])
    exported = pathlib.Path("exported/net_int8.tflite").read_bytes()
    check, seen = verdict.check_edgetpu, []

    def keep(path, **options):
        seen.append(pathlib.Path(path).read_bytes())
        return check(path, **options)

    monkeypatch.setattr(verdict, "check_edgetpu", keep)
    assert cli("edgetpu", *words).status == 0
    assert seen == [exported]
    assert f"{DESCRIBED}, crop 0.8" in ran.out
    with np.load("a.npz") as file:
        np.savez("float.npz", images=file["images"] / np.float32(255))
    arrays = ("--calibration", "float.npz", "--preprocessing", "none", "--targets", "micro", "--json")
    assert (
        cli("fit", "net.keras", *arrays).json["results"][0]["micro"]["compared_on"] == "32 x test images of float.npz"
    )


@pytest.mark.parametrize("command", ["benchmark", "edgetpu", "ethosu", "fit"])
def test_preprocessing_does_not_go_with_a_file(cli, exported, command):
    for words in (("--scale", "1/255"), ("--channels", "bgr"), ("--preprocessing", "torch")):
        ran = cli(command, exported("conv1x1_3to2"), *words)
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert "is exported already, so --preprocessing cannot apply to it" in ran.err


# preprocessing


@pytest.mark.slow
def test_constants_go_into_the_record_the_script_and_later_commands(cli, own):
    ran = cli("export", "net.keras", "--data", "b.npz", *CONSTANTS, *INT8)
    assert ran.out.splitlines()[0] == f"net, weights: net.keras; preprocessing: {DESCRIBED}"
    recorded = record("exported/net_int8.json")
    assert data.Preprocessing.from_json(recorded["preprocessing"]) == data.Preprocessing(
        "affine", (0.5, 0.4, 0.3), (0.2,), 1.0, 1 / 255, "bgr"
    )
    script = pathlib.Path("exported/net_int8.py").read_text()
    assert "MEAN = (0.5, 0.4, 0.3)" in script
    assert "pixels[..., ::-1]" in script
    again = cli("export", "--from", "exported/net_int8.json", "--out", "again", "--runs", 1)
    assert again.out.startswith("Reproduced: ")
    assert record("again/net_int8.json") == recorded
    top1 = [recorded["parity"]["file_top1"]]
    for words in ((), CONSTANTS, ("--preprocessing", "exported/net_int8.json")):
        evaluated = cli("evaluate", "exported/net_int8.tflite", *words)
        assert f"preprocessing: {DESCRIBED}" in evaluated.out
        top1.append(cli("evaluate", "exported/net_int8.tflite", *words, "--json").json["top1"])
    assert top1[1:] == [pytest.approx(top1[0], abs=1e-4)] * 3
    assert f"preprocessing: {DESCRIBED}" in cli("verify", "net.keras", "exported/net_int8.tflite").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mean", "a"], "'--mean': expected a number, or one per channel such as 0.485,0.456,0.406, received 'a'"),
        (["--scale", "1/0"], "'--scale': expected a factor such as 1/255 or 0.0078, received '1/0'"),
        (["--mean", "0.5"], "Expected --mean for pixels from 0 to 255, which --scale changes: 1/255 gives 0 to 1"),
        (["--scale", "1", "--mean", "1,2"], "Expected --mean to have 3 number(s), one per channel"),
        (
            ["--preprocessing", "none", "--std", "2"],
            "no constants for arrays that are fed as they are. Received: --std",
        ),
        (["--preprocessing", "none.json"], "'none.json' (No such file or directory)"),
        (["--preprocessing", "a.json"], "'a.json': Expected preprocessing as an object with the keys channels"),
        (["--preprocessing", "torhc"], "Did you mean torch"),
    ],
)
def test_preprocessing_that_makes_no_sense(cli, own, words, message):
    pathlib.Path("a.json").write_text('{"offset": 1}')
    ran = cli("export", "net.keras", "--data", "a.npz", *words, *FLOAT)
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert message in ran.err
    assert not pathlib.Path("exported").exists()


def test_a_model_that_starts_with_rescaling_gets_raw_pixels(cli, own):
    augmentation = keras.Sequential([kl.RandomFlip(), kl.RandomRotation(0.1)], name="augment")
    network(augmentation, kl.Rescaling(1 / 127.5, offset=-1, name="scaled"), name="scaling").save("scaling.keras")
    ran = cli("evaluate", "scaling.keras", "--data", "a.npz")
    assert "preprocessing: raw, [0, 255]" in ran.out
    assert ran.err.splitlines() == [
        "Note: The model starts with Rescaling 'scaled', so it gets pixels as raw, [0, 255].",
        "Note: The top-1 is 25.0%, no better than guessing: check --preprocessing and the labels.",
    ]
    job, test, _ = export.open_inputs("scaling.keras", [SCHEMES["int8"]], ExportOptions(test="a.npz"))
    assert job.calibration.images.max() == 255
    assert test.preprocessing == data.get_preset("raw")
    ran = cli("evaluate", "scaling.keras", "--data", "a.npz", "--preprocessing", "unit")
    assert "which expects pixels as raw, [0, 255]. Received: unit, [0, 1]." in ran.err
    assert "preprocessing: unit, [0, 1]" in ran.out


@pytest.mark.parametrize(
    ("first", "preset"),
    [
        (lambda: kl.Rescaling(1 / 255), "raw"),
        (lambda: kl.Rescaling([1 / 255, 1 / 250, 1 / 240]), "raw"),
        (lambda: kl.Rescaling(2.0, offset=-1), "unit"),
        (lambda: kl.Normalization(mean=[120.0, 110.0, 100.0], variance=[3000.0] * 3), "raw"),
        (lambda: kl.Normalization(mean=[0.48, 0.45, 0.4], variance=[0.05] * 3), "unit"),
        (lambda: network(kl.Resizing(8, 8), kl.Rescaling(1 / 64)).layers[0], None),
        (lambda: keras.Sequential([kl.CenterCrop(8, 8), kl.Rescaling(1 / 255)]), "raw"),
        (lambda: kl.Rescaling(1.0), None),
        (lambda: kl.BatchNormalization(), None),
    ],
)
def test_which_pixels_a_first_layer_expects(first, preset):
    scaling = keras_nin_scaling(network(first()))
    assert (scaling and scaling.preset) == preset


def keras_nin_scaling(model):
    from keras_nin.keras_graph import find_input_scaling

    return find_input_scaling(model)


def test_pixels_that_are_divided_in_the_graph():
    image = keras.Input((8, 8, 3))
    for scaled in (image / 255.0 - 0.5, keras.ops.cast(image, "float32") * (1 / 255)):
        assert keras_nin_scaling(keras.Model(image, kl.Conv2D(3, 1)(scaled))).preset == "raw"


@pytest.mark.slow
def test_arrays_as_they_are(cli, own):
    with np.load("a.npz") as file:
        floats, labels = file["images"] / np.float32(255), file["labels"]
    np.savez("float.npz", images=floats, labels=labels)
    np.savez("train.npz", x_train=floats[:30], y_train=labels[:30], x_test=floats[30:], y_test=labels[30:])
    refused = cli("export", "net.keras", "--data", "float.npz", *FLOAT)
    assert (refused.status, "pass --preprocessing none to feed other numbers as they are" in refused.err) == (2, True)
    ran = cli("export", "net.keras", "--data", "float.npz", "--preprocessing", "none", *INT8)
    assert ran.out.splitlines()[0].endswith("preprocessing: none, arrays as they are")
    assert "Compared on 32 test images of float.npz." in ran.out
    recorded = record("exported/net_int8.json")
    assert (recorded["preprocessing"], recorded["options"]["preprocessing"]) == (None, "none")
    assert cli("export", "--from", "exported/net_int8.json", "--out", "new", "--runs", 1).out.startswith("Reproduced: ")
    assert "Compared on 32 test images" in cli("verify", "net.keras", "exported/net_int8.tflite").out
    shutil.copy("exported/net_int8.tflite", "bare.tflite")  # without a record
    for other in ("new/net_int8.tflite", "bare.tflite"):
        compared = cli("compare", "exported/net_int8.tflite", other, "--data", "float.npz", "--json")
        assert (compared.status, compared.err) == (0, "")
        (output,) = compared.json["outputs"]
        assert (output["images"], output["max_abs_diff"]) == (40, 0)
    trained = cli("evaluate", "exported/net_int8.tflite", "--data", "train.npz", "--preprocessing", "none")
    assert "on 10 images of train.npz, preprocessing: none, arrays as they are" in trained.out
    pixels = cli("evaluate", "exported/net_int8.tflite", "--data", "digits", "--preprocessing", "none")
    assert (pixels.status, "an .npz file with an array for each input" in pixels.err) == (2, True)


@pytest.mark.slow
def test_audio_without_its_last_axis(cli, own):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((64, 1), name="audio"), kl.Conv1D(4, 5, strides=2, activation="relu")]
    keras.Sequential([*stack, kl.GlobalAveragePooling1D(), kl.Dense(3)], name="sound").save("sound.keras")
    sound = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    for name in ("audio", "inputs", "x"):
        np.savez("sound.npz", **{name: sound, "labels" if name == "audio" else "y": np.arange(20) % 3})
        job, test, _ = export.open_inputs("sound.keras", [SCHEMES["int8"]], ExportOptions(test="sound.npz"))
        np.testing.assert_array_equal(job.calibration.images, sound[::5, :, np.newaxis])
        assert test.dataset.labels.tolist() == (np.arange(20) % 3).tolist()
    ran = cli("export", "sound.keras", "--data", "sound.npz", *FLOAT)
    assert (ran.status, ran.err) == (0, "")
    assert "Compared on 16 test images of sound.npz." in ran.out
    np.savez("sound.npz", x=sound[:, :60])
    assert (
        "to be numbers (N, 64, 1). Received: float32 (20, 60)"
        in cli("export", "sound.keras", "--data", "sound.npz").err
    )


def test_presets_records_and_constants_in_python(own):
    with np.load("a.npz") as file:
        images = file["images"]
    model, torch = network(), data.get_preset("torch")
    constants = {"scale": 1 / 255, "mean": torch.mean, "std": torch.std, "crop_fraction": 0.875}
    arrays = []
    for preprocessing in ("torch", torch, constants):
        options = ExportOptions(test=images, preprocessing=preprocessing)
        job, test, _ = export.open_inputs(model, [SCHEMES["int8"]], options)
        assert job.preprocessing.preset == test.preprocessing.preset == "torch"
        arrays.append(job.calibration.images)
    for other in arrays[1:]:
        np.testing.assert_allclose(other, arrays[0], atol=1e-5)
    options = ExportOptions(test=images, preprocessing={"channels": "bgr"})
    job, _, _ = export.open_inputs(model, [SCHEMES["int8"]], options)
    assert str(job.preprocessing) == "unit, [0, 1], BGR"
    options = ExportOptions(test=images, preprocessing="none")
    job, test, _ = export.open_inputs(model, [SCHEMES["int8"]], options)
    np.testing.assert_array_equal(job.calibration.images, images[::5])
    with pytest.raises(InputError, match="`preprocessing` to be a known name"):
        ExportOptions(preprocessing="torhc")
    assert main.run(["evaluate", "nin_digits", "--preprocessing", "x"]) == 2
