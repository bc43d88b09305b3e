"""`keras-nin export`: from its options to its files, and the same files again from a record."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import re
import shutil

import click
import keras
import numpy as np
import pytest
import tracing
from keras import layers as kl

from keras_nin import data, models
from keras_nin.cli import export, main
from keras_nin.cli.export import export_command
from keras_nin.export.converted_model import package_versions
from keras_nin.schemas import EXPORT_FILE
from keras_nin.workflows import reproduction

PLAIN = ("--ranges", "minmax", "--rounding", "nearest", "--no-bias-correction")  # what is not about tuning is faster
QUICK = ("--runs", 1, *PLAIN)
RECORD = pathlib.Path("exported/nin_digits_int8.json")


def record(path):
    return json.loads(pathlib.Path(path).read_text())


def names(folder="exported"):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def listing():
    return {path: path.read_bytes() for path in pathlib.Path(".").rglob("*") if path.is_file()}


def refused(cli, *words):
    """Run an export that must end in one line and change nothing; return the line."""
    before = listing()
    ran = cli("export", *words)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert listing() == before
    return ran.err


def write_digits(path, start=0, count=60):
    """Write an .npz of labeled digits."""
    source = data.open_dataset("digits")
    chosen = source.select("train", 60)[start : start + count]
    np.savez(path, images=source.images[chosen], labels=source.labels[chosen])


# the main job

# What other commands share with this one: loading a model and its images, and the benchmark that measures the latency.
SHARED = (
    "_compat/.*|benchmark/.*|child_process|data/.*|heads|keras_graph|layers/.*|metrics|models/.*|output_capture|"
    "workflows/inputs"
)


@pytest.mark.slow  # tracing slows Python down
def test_an_export_passes_through_twelve_files_from_command_to_table(cli, tmp_path):
    with tracing.traced(tmp_path / "trace"):
        assert cli("export", "nin_digits", "--runs", 20).status == 0
    path = tracing.files(tmp_path / "trace", f"{tracing.INFRASTRUCTURE}|{SHARED}")
    assert {"keras_nin/cli/export.py", "keras_nin/export/conversion.py", "keras_nin/report/accuracy.py"} <= set(path)
    assert len(path) <= 12, "\n".join(path)


def test_the_main_job(digits_export):
    stems = ("nin_digits_float32", "nin_digits_int8")
    assert names(digits_export) == sorted(
        f"{stem}{end}" for stem in stems for end in (".json", ".py", ".tflite", "_labels.txt")
    )
    assert (digits_export / "nin_digits_int8_labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    printed = record(digits_export / "../printed.json")
    assert printed["schema"] == "keras_nin.export/1"
    float32, int8 = printed["files"]
    assert {entry["state"] for entry in (float32, int8)} == {"written"}
    assert int8["path"].endswith("/files/nin_digits_int8.tflite")
    assert (int8["latency"]["runs"], int8["latency"]["threads"]) == (20, 1)
    recorded = record(digits_export / "nin_digits_int8.json")
    assert {key: int8[key] for key in recorded} == recorded
    assert float32["parity"]["top1_match"] == 1
    assert int8["parity"]["top1_match"] >= 0.98
    assert int8["parity"]["model_top1"] - int8["parity"]["file_top1"] <= 0.01
    assert None not in [operator["layer"] for operator in int8["operators"]]
    assert (recorded["options"]["test"], recorded["options"]["calibration"]) == ("digits", "digits")
    assert recorded["tuning"] == {"ranges": "mse", "rounding": "adaptive", "bias_correction": True}


def test_the_table_and_the_same_file_from_one_scheme(cli):
    ran = cli("export", "conv1x1_3to2", *QUICK, "--test-count", 5)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "conv1x1_3to2, weights: random (seed 0); preprocessing: unit, [0, 1]"
    assert [line.split()[0] for line in lines[3:6]] == [
        "(Keras",
        "conv1x1_3to2_float32.tflite",
        "conv1x1_3to2_int8.tflite",
    ]
    assert "Compared on 5 test images of random." in lines
    assert any(line.startswith("Latency: median of 1, 1 runs on 1 thread; ") for line in lines)
    assert any(line.startswith("Calibration: noise.") for line in lines)
    assert lines[-1] == "written: exported/conv1x1_3to2_int8.tflite, conv1x1_3to2_int8.json"
    assert max(map(len, lines)) <= 120
    words = ("--test-count", 5, "--scheme", "int8", "--out", "alone")
    assert cli("export", "conv1x1_3to2", *QUICK, *words).status == 0
    assert names("alone") == ["conv1x1_3to2_int8.json", "conv1x1_3to2_int8.tflite"]
    for name in names("alone"):
        assert pathlib.Path("alone", name).read_bytes() == pathlib.Path("exported", name).read_bytes()


@pytest.mark.slow
def test_images_that_calibrate_never_test(repeatable):
    printed = (repeatable / "printed.txt").read_text()
    assert "Compared on 22 test images of shifted.npz (2 more were used for calibration and left out)." in printed
    assert "Calibration: 12 images of photos.npz, none of them among the test images." in printed


@pytest.mark.slow
def test_float32_of_a_name_and_of_a_saved_model(cli, monkeypatch):
    monkeypatch.delattr("keras_nin.export.conversion.load_calibration")  # float32 needs none
    write_digits("test.npz")
    other = models.build_model("nin_digits", classes=10)
    other.save_weights("other.weights.h5")
    other.save("my net.keras")
    words = ("--scheme", "float32", "--runs", 1, "--min-top1-match", 0)
    options = ("--set", "classes=10", "--weights", "other.weights.h5", "--data", "test.npz")
    named = cli("export", "nin_digits", *options, *words)
    saved = cli("export", "my net.keras", "--data", "digits", "--test-count", 5, *words, "--json")
    assert (named.status, saved.status) == (0, 0)
    assert re.fullmatch(r"(Note: The model's own top-1 is [\d.]+%, no better than guessing: .*\n)?", named.err)
    assert "Calibration" not in named.out
    recorded, (saved,) = record("exported/nin_digits_float32.json"), saved.json["files"]
    assert (recorded["weights"], saved["weights"]) == ("other.weights.h5", "my net.keras")
    assert (recorded["options"]["builder_arguments"], recorded["options"]["test"]) == ({"classes": 10}, "test.npz")
    assert recorded["weights_sha256"] == saved["weights_sha256"]
    assert recorded["sha256"] == saved["sha256"]
    # Later commands find the images again.
    assert "on 60 images of test.npz" in cli("evaluate", "exported/nin_digits_float32.tflite").out


def test_a_file_that_fails(cli):
    words = ("--scheme", "float32", "--max-drop", -100, "--test-count", 20, "--runs", 1)
    ran = cli("export", "nin_digits", *words)
    assert ran.status == 1
    assert ran.err.startswith("FAIL: nin_digits_float32.tflite: top-1 drop")
    assert "limit -100" in ran.err
    assert "FAIL" in ran.out
    assert record("exported/nin_digits_float32.json")["parity"]["passed"] is False


@pytest.mark.slow
def test_other_files_stay_without_force(cli, monkeypatch):
    words = ("conv1x1_3to2", "--scheme", "float32", "--runs", 1, "--test-count", 5)
    pathlib.Path("exported").mkdir()
    pathlib.Path("exported/conv1x1_3to2_float32.json").write_text("{}")
    assert "exported/conv1x1_3to2_float32.json" in refused(cli, *words)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("keras_nin.files.os.fsync", full)
        assert "No space left on device" in refused(cli, *words, "--seed", 1, "--force")
    ran = cli("export", *words, "--force")
    assert ran.status == 0
    assert "written: exported/conv1x1_3to2_float32.tflite, conv1x1_3to2_float32.json" in ran.out
    assert record("exported/conv1x1_3to2_float32.json")["schema"] == EXPORT_FILE


@pytest.mark.slow
def test_a_network_of_keras_applications(cli):
    ran = cli(
        "export",
        "keras:MobileNet",
        "--weights",
        "he",
        "--input-shape",
        "32,32,3",
        "--set",
        "alpha=0.25",
        "--scheme",
        "float32",
        "--calibration",
        "random",
        "--test-count",
        2,
        "--runs",
        1,
        "--json",
    )
    (entry,) = ran.json["files"]
    assert (ran.status, ran.err) == (0, "")
    assert entry["path"] == "exported/mobilenet_float32.tflite"
    assert (entry["input"]["shape"], entry["preprocessing"]["mode"]) == ([1, 32, 32, 3], "symmetric")
    layers = [operator["layer"] for operator in entry["operators"] if "CONV" in operator["op"]]
    pairs = [f"conv_{kind}_{number}" for number in range(1, 14) for kind in ("dw", "pw")]
    assert layers == ["conv1", *pairs, "conv_preds"]


@pytest.mark.slow
def test_files_calibrated_on_noise_are_for_latency_only(cli):
    words = ("--calibration", "random", "--test-count", 40, *QUICK)
    ran = cli("export", "nin_digits", *words, "--json")
    float32, int8 = ran.json["files"]
    assert (ran.status, ran.err) == (0, "")
    assert int8["calibration"]["latency_only"]
    assert (len(int8["calibration"]["images"]), int8["parity"]["checks"]) == (8, [])
    for key in ("top1_match", "file_top1", "file_top5"):
        assert int8["parity"][key] is None
        assert float32["parity"][key] is not None
    table = cli("export", "nin_digits", "--scheme", "int8", *words).out
    row = next(line for line in table.splitlines() if "int8.tflite" in line)
    assert row.endswith("latency only")


# several inputs and outputs, and a batch


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with a model of two inputs and two outputs, and samples for it."""
    folder = tmp_path_factory.mktemp("two")
    keras.utils.set_random_seed(0)
    picture, history = keras.Input((8, 8, 3), name="picture"), keras.Input((5,), name="history")
    pooled = kl.GlobalAveragePooling2D(name="pool")(kl.Conv2D(16, 3, activation="relu", name="conv")(picture))
    joined = kl.Concatenate(name="join")([pooled, history])
    outputs = [kl.Dense(3, activation="softmax", name="classes")(joined), kl.Dense(1, name="amount")(joined)]
    model = keras.Model([picture, history], outputs, name="two")
    model.save(folder / "two.keras")
    amount = model.get_layer("amount")
    amount.set_weights([-weights for weights in amount.get_weights()])
    model.save(folder / "other.keras")
    rng = np.random.default_rng(0)
    np.savez(folder / "samples.npz", picture=rng.random((40, 8, 8, 3)), history=rng.random((40, 5)))
    np.savez(folder / "images.npz", images=np.zeros((10, 8, 8, 3), np.uint8))
    return folder


@pytest.mark.slow
def test_two_inputs_and_two_outputs(cli, two):
    model, samples = two / "two.keras", two / "samples.npz"
    ran = cli("export", model, "--data", samples, "--scheme", "int8,int16x8", *QUICK)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == f"two, weights: {model}; preprocessing: none, arrays as they are"
    entry = record("exported/two_int8.json")
    assert {port["signature"] for port in entry["inputs"]} == {"picture", "history"}
    assert {port["signature"] for port in entry["outputs"]} == {"classes", "amount"}
    checks = [check["name"] for check in entry["parity"]["checks"]]
    assert (checks.count("channel_rms_lsb"), checks.count("closing_error_lsb")) == (2, 1)
    again = cli("verify", model, "exported/two_int8.tflite", "--data", samples)
    assert (again.status, again.err) == (0, "")
    swapped = cli("verify", two / "other.keras", "exported/two_int8.tflite", "--data", samples)
    assert (swapped.status, "FAIL: " in swapped.err) == (1, True)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--data", "digits"], "an array for each input (picture (N, 8, 8, 3), history (N, 5)), or 'random'"),
        (["--data", "images.npz"], "to hold picture (N, 8, 8, 3). Received: images"),
        (["--data", "samples.npz", "--preprocessing", "unit"], "--preprocessing and --crop apply to images"),
        ([], "Pass --data: a dataset name, a folder"),
    ],
)
def test_samples_that_do_not_fit(cli, two, options, fragment):
    words = [two / word if word.endswith(".npz") else word for word in options]
    assert fragment in refused(cli, two / "two.keras", *words)


@pytest.mark.slow
@pytest.mark.wide  # tests/test_export_conversion.py converts for a batch
def test_a_batch_that_the_file_is_made_for(cli, tmp_path):
    stack = [keras.Input((4, 4, 1)), kl.Conv2D(3, 1, activation="relu"), kl.Flatten(), kl.Dense(3)]
    keras.Sequential(stack, name="flat").save(tmp_path / "flat.keras")
    options = ["--calibration", "random", "--scheme", "float32", "--test-count", 6, "--batch", 4, "--runs", 1]
    assert cli("export", tmp_path / "flat.keras", *options).status == 0
    assert record("exported/flat_float32.json")["input"]["shape"] == [4, 4, 4, 1]
    verified = cli("verify", tmp_path / "flat.keras", "exported/flat_float32.tflite", "--data", "random")
    assert (verified.status, verified.err) == (0, "")


# models that cannot be exported


def save(layers, shape=(8, 8, 3), dtype=None):
    """Write net.keras of these layers and a classifier behind them."""
    pool = [kl.GlobalAveragePooling2D(name="pool"), kl.Softmax(name="classes")] if len(shape) == 3 else []
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers, *pool], name="net")
    model.save("net.keras")
    return model


@pytest.mark.parametrize(
    ("shape", "dtype", "layers", "fragment"),
    [
        ((None, None, 3), None, lambda: [kl.Conv2D(3, 1)], "--input-shape"),
        ((7,), "int32", lambda: [kl.Embedding(4, 2)], "floating-point"),
    ],
)
def test_models_that_cannot_be_exported(cli, shape, dtype, layers, fragment):
    save(layers(), shape, dtype)
    assert fragment in refused(cli, "net.keras", "--calibration", "random")


def test_weights_that_are_no_numbers_and_channels_that_no_image_has(cli):
    model = save([kl.Conv2D(3, 1, name="conv")], (8, 8, 5))
    np.savez("photos.npz", images=np.zeros((10, 8, 8, 3), np.uint8))
    assert "(8, 8, 5)" in refused(cli, "net.keras", "--calibration", "photos.npz")
    model.get_layer("conv").bias.assign([0, np.nan, 0])
    model.save("net.keras")
    line = refused(cli, "net.keras", "--calibration", "random")
    assert "NaN or infinity" in line
    assert "bias" in line


# --from


@pytest.fixture(scope="module")
def repeatable(build, tmp_path_factory):
    """A folder with an export that has options of every kind, and the files that it names."""
    folder = tmp_path_factory.mktemp("things")
    words = (
        "export",
        "nin_digits",
        "--scheme",
        "int8",
        "--weights",
        "own.weights.h5",
        "--data",
        "shifted.npz",
        "--calibration",
        "photos.npz",
        "--calibration-count",
        12,
        "--seed",
        2,
        "--test-count",
        24,
        "--crop",
        0.9,
        "--input-shape",
        "8,8,1",
        "--set",
        "classes=10",
        "--min-top1-match",
        0.1,
        "--max-drop",
        90,
        *QUICK,
    )
    with contextlib.chdir(folder):
        write_digits("photos.npz")
        write_digits("shifted.npz", 1, 30)  # images 1 to 30 of the others; the draws have two in common
        build("nin_digits", weights="digits").save_weights("own.weights.h5")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main.run(list(map(str, words))) == 0
        pathlib.Path("printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def copied(repeatable, tmp_path):
    """The record of the export, of which each test has a copy in its own folder."""
    shutil.copytree(repeatable, tmp_path, dirs_exist_ok=True)
    return record(tmp_path / RECORD)


def edit(**changes):
    RECORD.write_text(json.dumps(record(RECORD) | changes))


def test_the_same_files_again(cli, copied, monkeypatch):
    results, export_again = [], reproduction.run_export

    def keep_result(*arguments, **options):
        results.append(export_again(*arguments, **options))
        return results[0]

    monkeypatch.setattr(reproduction, "run_export", keep_result)
    ran = cli("export", "--from", RECORD, "--out", "again", "--runs", 1)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"Reproduced: nin_digits_int8.tflite has the bytes that {RECORD} records.\n")
    contents = [
        {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()} for folder in ("again", "exported")
    ]
    assert contents[0] == contents[1]

    def compare_only(*_, original, **options):
        return dataclasses.replace(results[0], reproduction=original.compare(results[0].files[0].data))

    monkeypatch.setattr(reproduction, "run_export", compare_only)
    edit(sha256="0" * 64, versions=copied["versions"] | {"bazel": "7"})
    ran = cli("export", "--from", RECORD, "--out", "again", "--json", "--runs", 1)
    assert (ran.status, ran.json["reproduced"]) == (0, False)
    assert "(bazel 7 then, unknown now)" in ran.err
    edit(versions=package_versions())
    ran = cli("export", "--from", RECORD, "--out", "again", "--runs", 1)
    assert ran.status == 1
    assert ran.err.startswith(f"Not reproduced: nin_digits_int8.tflite has other bytes than {RECORD} records, although")


def test_other_weights_or_calibration_images(cli, copied):
    with np.load("photos.npz") as file:
        images, labels = file["images"].copy(), file["labels"]
    images[::5] //= 2  # those that calibrate
    np.savez("photos.npz", images=images, labels=labels)
    line = refused(cli, "--from", RECORD, "--out", "again")
    assert f"Expected the calibration images that '{RECORD}' records (sha256 " in line
    assert "Received: others from 'photos.npz'" in line
    models.build_model("nin_digits").save_weights("own.weights.h5")
    line = refused(cli, "--from", RECORD, "--out", "again")
    assert f"Expected the weights that '{RECORD}' records (sha256 {copied['weights_sha256'][:12]}...)" in line
    pathlib.Path("own.weights.h5").unlink()
    line = refused(cli, "--from", RECORD, "--out", "again")
    assert f"'{RECORD}' names 'own.weights.h5' as --weights, relative to the folder" in line


OPTIONS = dict.fromkeys(reproduction._REQUIRED) | {
    "model": "nin_digits",
    "builder_arguments": {},
    "seed": 0,
    "test": "digits",
    "min_top1_match": 0.9,
    "max_drop": 2.5,
}
DOCUMENT = {
    "schema": EXPORT_FILE,
    "scheme": "float32",
    "sha256": "0",
    "weights_sha256": "0",
    "versions": {},
    "calibration": None,
    "options": OPTIONS,
}


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"schema": "keras_nin.audit/1"}, f"schema 'keras_nin.audit/1' instead of {EXPORT_FILE!r}"),
        ({"schema": None}, "schema None instead of"),
        ({"sha256": 5}, "5 as `sha256`"),
        ({"weights_sha256": ...}, "nothing as `weights_sha256`"),
        ({"versions": []}, "[] as `versions`"),
        ({"scheme": "int4"}, "'int4' as --scheme"),
        ({"scheme": "float32,int8"}, "'float32,int8' as --scheme"),
        ({"scheme": "int8"}, "None as --calibration"),
        ({"calibration": {"sha256": "0"}}, "options without --calibration"),
        ({"options": None}, "a model or images in memory"),
        ({"options": "x" * 300}, "xx…xx"),
        ({"options": {}}, "options without MODEL"),
        ({"options": OPTIONS | {"model": 5}}, "5 as option MODEL"),
        ({"options": OPTIONS | {"model": None}}, "None as option MODEL"),
        ({"options": OPTIONS | {"out": "x"}}, "'x' as option --out"),
        ({"options": OPTIONS | {"color": None}}, "None as option `color`"),
        ({"options": OPTIONS | {"seed": True}}, "True as option --seed"),
        ({"options": OPTIONS | {"seed": {}}}, "{} as option --seed"),
        ({"options": OPTIONS | {"input_shape": [8, 8]}}, "[8, 8] as option --input-shape"),
        ({"options": OPTIONS | {"allow_float": "yes"}}, "'yes' as option --allow-float"),
        ({"options": OPTIONS | {"ranges": "all"}}, "to be one of minmax, mse"),
        ({"options": OPTIONS | {"model": "--help"}}, "'s.json' names '--help' as MODEL"),
        ({"options": OPTIONS | {"test": "gone"}}, "'s.json' names 'gone' as --data"),
        ({"options": OPTIONS | {"labels": "gone.csv"}}, "as --labels"),
    ],
)
def test_no_record_of_an_export(cli, changes, fragment):
    document = {key: value for key, value in (DOCUMENT | changes).items() if value is not ...}
    pathlib.Path("s.json").write_text(json.dumps(document))
    assert fragment in refused(cli, "--from", "s.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"schema": ', None])
def test_no_document(cli, text):
    if text is not None:
        pathlib.Path("s.json").write_text(text)
    assert "'s.json'" in refused(cli, "--from", "s.json")


@pytest.mark.parametrize(
    ("words", "received"),
    [
        (("--seed", 0), "--seed"),
        (("--set", "classes=3"), "--set"),
        (("--allow-float",), "--allow-float"),
    ],
)
def test_options_that_the_record_decides(cli, words, received):
    pathlib.Path("s.json").write_text(json.dumps(DOCUMENT))
    line = refused(cli, "--from", "s.json", *words)
    assert f"{received} cannot be combined with --from. Allowed: --out, --force, --threads, --runs, MODEL, --we" in line


def test_a_record_names_no_path_elsewhere_and_no_code(cli, copied):
    """What a record may not decide is taken from the command line, and still has to be what was recorded."""
    own = str(pathlib.Path("own.weights.h5").resolve())
    for path in (own, f"../{pathlib.Path.cwd().name}/own.weights.h5", "C:\\own.weights.h5"):
        edit(options=copied["options"] | {"weights": path})
        line = refused(cli, "--from", RECORD, "--out", "again")
        assert "as --weights, which leads out of the working directory. Pass --weights too" in line
    edit(weights_sha256="0" * 64, options=copied["options"] | {"weights": own})
    assert "Expected the weights that" in refused(cli, "--from", RECORD, "--out", "again", "--weights", own)
    edit(options=copied["options"] | {"preprocessing": "/etc/passwd"})
    assert "'/etc/passwd' as option --preprocessing" in refused(cli, "--from", RECORD)
    pathlib.Path("evil.py").write_text("open('was-run', 'w')")
    edit(options=copied["options"] | {"imports": ["evil.py"]})
    line = refused(cli, "--from", RECORD, "--out", "again")
    assert "names Python code to run: 'evil.py'. A record alone runs none. Expected --import to name the same" in line
    assert not pathlib.Path("was-run").exists()
    cli("export", "--from", RECORD, "--out", "again", "--import", "evil.py")  # refused later, for other weights
    assert pathlib.Path("was-run").exists()


def test_what_is_recorded_can_be_repeated(copied):
    """Every recorded option is one of the command, and every other one decides nothing."""
    options = {param.name for param in export_command.params if isinstance(param, click.Option)}
    recorded = set(copied["options"]) - {"model"}
    assert recorded <= options
    trained = {"epochs", "learning_rate", "sparsity", "clusters", "weight_bits", "target"}  # the last one of mixed
    assert options - recorded == {*export.BESIDE_RECORD, "record", "as_json", "debug", "quiet", "require"} | trained | {
        *("scheme", "scale", "mean", "std", "channels")  # constants of the preprocessing
    }
    assert set(reproduction._REQUIRED + reproduction._REQUIRED_CALIBRATED) <= set(copied["options"])
    assert set(copied["options"]) | trained | {"float_operators"} == set(reproduction._OPTION_TYPES)
