"""`keras-nin export --from SIDECAR`: the same file again, or one line that says why not."""

import contextlib
import json
import pathlib
import shutil

import click
import numpy as np
import pytest

from keras_nin import data, models
from keras_nin.cli import export, main
from keras_nin.workflows import reproduction

QUICK = ("--runs", 1)
SIDECAR = pathlib.Path("exported/nin_digits_int8.json")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A file of labelled images and one of weights, which exports name by their paths."""
    folder = tmp_path_factory.mktemp("things")
    digits = data.open_dataset("digits")
    chosen = digits.select("train", 60)
    np.savez(folder / "photos.npz", images=digits.images[chosen], labels=digits.labels[chosen])
    models.build_model("nin_digits", weights="digits").save_weights(folder / "own.weights.h5")
    return folder


@pytest.fixture(scope="module")
def exported(photographs):
    """The folder of `photographs`, with an export that has options of every kind and names them."""
    words = ("export", "nin_digits", "--scheme", "int8", "--weights", "own.weights.h5", "--data", "photos.npz")
    words += ("--calibration", "photos.npz", "--calibration-count", 7, "--seed", 3, "--test-count", 9, "--crop", 0.9)
    words += ("--input-shape", "8,8,1", "--set", "classes=10", "--min-top1-match", 0.1, "--max-drop", 90, *QUICK)
    with contextlib.chdir(photographs):
        assert main.run(list(map(str, words))) == 0
    return photographs


@pytest.fixture
def made(exported, tmp_path):
    """The document of the export, of which each test has a copy in its own folder."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    return json.loads((tmp_path / SIDECAR).read_text())


def contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def test_the_same_files_again(cli, made):
    ran = cli("export", "--from", SIDECAR, "--out", "again", *QUICK)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"Reproduced: nin_digits_int8.tflite has the bytes that {SIDECAR} records.\n")
    assert contents("again") == contents("exported")
    here = cli("export", "--from", SIDECAR, "--json", *QUICK)
    assert (here.status, here.json["reproduced"], here.json["files"][0]["state"]) == (0, True, "up to date")
    assert here.err.startswith("Reproduced: ")


def edit(**changes):
    document = json.loads(SIDECAR.read_text())
    SIDECAR.write_text(json.dumps(document | changes))


@pytest.mark.slow
def test_other_bytes(cli, made):
    edit(sha256="0" * 64)
    ran = cli("export", "--from", SIDECAR, "--out", "again", *QUICK)
    assert ran.status == 1
    assert ran.err.startswith(
        f"Not reproduced: nin_digits_int8.tflite has other bytes than {SIDECAR} records, although"
    )

    edit(versions=made["versions"] | {"tensorflow": "2.20.0", "bazel": "7"})
    ran = cli("export", "--from", SIDECAR, "--out", "again", "--json", *QUICK)
    assert (ran.status, ran.json["reproduced"]) == (0, False)
    assert "(tensorflow 2.20.0 then, 2.21.0 now; bazel 7 then, unknown now)" in ran.err

    edit(versions=made["versions"] | {"keras": "3.0.0"}, sha256=made["sha256"])
    ran = cli("export", "--from", SIDECAR, "--out", "again", *QUICK)
    assert (ran.status, ran.err) == (0, "")
    assert ", with other versions (keras 3.0.0 then, 3.15.1 now).\n" in ran.out


def refused(cli, *words):
    """Run a command that must end in one line and write nothing; return the line."""
    before = listing()
    ran = cli(*words)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert listing() == before
    return ran.err


def listing():
    return {path: path.read_bytes() for path in pathlib.Path(".").rglob("*") if path.is_file()}


def test_other_weights(cli, made):
    model = models.build_model("nin_digits", weights="digits")
    for weight in model.weights:
        weight.assign(weight * 1.5)
    model.save_weights("own.weights.h5")
    line = refused(cli, "export", "--from", SIDECAR, "--out", "again", *QUICK)
    assert f"Expected the weights that '{SIDECAR}' records (sha256 {made['weights_sha256'][:12]}...)" in line
    assert "Received: others from 'own.weights.h5' (sha256 " in line


def test_other_calibration_images(cli, made):
    with np.load("photos.npz") as file:
        images, labels = file["images"].copy(), file["labels"]
    images[::5] //= 2  # those that calibrate
    np.savez("photos.npz", images=images, labels=labels)
    line = refused(cli, "export", "--from", SIDECAR, "--out", "again", *QUICK)
    assert f"Expected the calibration images that '{SIDECAR}' records (sha256 " in line
    assert "Received: others from 'photos.npz'" in line


@pytest.mark.parametrize(("key", "name"), [("data", "photos.npz"), ("weights", "own.weights.h5")])
def test_a_file_that_is_gone(cli, made, key, name):
    pathlib.Path(name).unlink()
    line = refused(cli, "export", "--from", SIDECAR, "--out", "again")
    assert f"Expected '{name}', which '{SIDECAR}' names as `{key}`" in line
    assert "Received: no such file or folder in '" in line


DOCUMENT = {
    "schema": "keras_nin.export_file/1",
    "scheme": "float32",
    "sha256": "0",
    "weights_sha256": "0",
    "versions": {},
    "calibration": None,
    "options": dict.fromkeys(reproduction._OPTIONS)
    | {"model": "nin_digits", "set": [], "seed": 0, "data": "digits", "min_top1_match": 0.9, "max_drop": 2.5},
}


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"schema": "keras_nin.audit/1"}, "schema 'keras_nin.audit/1' instead of 'keras_nin.export_file/1'"),
        ({"schema": None}, "schema None instead of"),
        ({"sha256": 5}, "5 as `sha256`"),
        ({"weights_sha256": ...}, "nothing as `weights_sha256`"),
        ({"versions": []}, "[] as `versions`"),
        ({"scheme": "int4"}, "'int4' as `scheme`"),
        ({"scheme": "float32,int8"}, "'float32,int8' as `scheme`"),
        ({"scheme": "int8"}, "None as `calibration`"),
        ({"calibration": {"sha256": "0"}}, "options without `calibration`"),
        ({"options": None}, "an export from Python, which no command repeats"),
        ({"options": "x" * 100}, "... as `options`"),
        ({"options": {}}, "options without `model`"),
        ({"options": DOCUMENT["options"] | {"model": 5}}, "5 as option `model`"),
        ({"options": DOCUMENT["options"] | {"out": "x"}}, "'x' as option `out`"),
        ({"options": DOCUMENT["options"] | {"from": "x"}}, "'x' as option `from`"),
        ({"options": DOCUMENT["options"] | {"colour": None}}, "None as option `colour`"),
        ({"options": DOCUMENT["options"] | {"seed": True}}, "True as option `seed`"),
        ({"options": DOCUMENT["options"] | {"seed": {}}}, "{} as option `seed`"),
        ({"options": DOCUMENT["options"] | {"seed": -1}}, "Invalid value for '--seed': -1 is not in the range"),
        ({"options": DOCUMENT["options"] | {"input_shape": [8, 8]}}, "Invalid value for '--input-shape'"),
        ({"options": DOCUMENT["options"] | {"allow_float": "yes"}}, "'yes' as option `allow_float`"),
        ({"options": DOCUMENT["options"] | {"model": "--help"}}, "Expected '--help', which 's.json' names as `model`"),
        ({"options": DOCUMENT["options"] | {"data": "gone"}}, "Expected 'gone', which 's.json' names as `data`"),
        ({"options": DOCUMENT["options"] | {"labels": "gone.csv"}}, "names as `labels`"),
    ],
)
def test_no_sidecar(cli, changes, fragment):
    document = {key: value for key, value in (DOCUMENT | changes).items() if value is not ...}
    pathlib.Path("s.json").write_text(json.dumps(document))
    assert fragment in refused(cli, "export", "--from", "s.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"schema": '])
def test_no_document(cli, text):
    pathlib.Path("s.json").write_text(text)
    assert "'s.json'" in refused(cli, "export", "--from", "s.json")


def test_no_file(cli):
    assert "'s.json' (No such file or directory)" in refused(cli, "export", "--from", "s.json")


@pytest.mark.parametrize(
    ("words", "received"),
    [
        (("--seed", 0), "--seed"),
        (("--scheme", "int8"), "--scheme"),
        (("--set", "classes=3"), "--set"),
        (("--allow-float",), "--allow-float"),
        (("nin_digits",), "MODEL"),
    ],
)
def test_options_that_the_sidecar_decides(cli, words, received):
    pathlib.Path("s.json").write_text(json.dumps(DOCUMENT))
    line = refused(cli, "export", "--from", "s.json", *words)
    assert f"Expected beside --from only --out, --force, --threads, --runs, --json. Received: {received}\n" in line


def test_what_an_export_records_can_be_given_again(cli, made):
    """Every option that is recorded is one of the command, and every other one is known to decide nothing."""
    names = {
        each.opts[-1][2:].replace("-", "_") for each in export.export_command.params if isinstance(each, click.Option)
    }
    recorded = set(made["options"]) - {"model"}
    assert recorded <= names
    alongside = {name[2:] for name in reproduction.ALONGSIDE.values()}
    trained = {"epochs", "learning_rate", "sparsity", "clusters"}
    assert names - recorded == alongside | trained | {"scheme"}
    assert set(reproduction._OPTIONS + reproduction._CALIBRATION_OPTIONS) <= set(made["options"])
