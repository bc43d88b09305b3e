"""`keras-nin compare`: what it prints, what it leaves with, and that two files need no Keras."""

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_nin import export, models
from keras_nin.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = main.run(["compare", *map(str, words)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The exports of nin_digits by scheme."""
    folder = tmp_path_factory.mktemp("files")
    model = models.build_model("nin_digits", weights="digits")
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    made = {scheme: export.convert_model(model, scheme, images, name="nin_digits") for scheme in ("float32", "int8")}
    return {scheme: each.save(folder) for scheme, each in made.items()}


def test_a_model_and_its_file(cli, files):
    status, out, err = cli("nin_digits", files["int8"])
    assert (status, err) == (0, "")
    assert out.startswith("nin_digits as nin_digits_int8")
    assert "MACs are equal" in out
    assert "544,256" in out
    assert max(map(len, out.splitlines())) <= 110


def test_another_models_file_leaves_with_1_and_says_where(cli, files):
    status, out, err = cli("conv1x1_3to2", files["int8"])
    assert status == 1
    assert "FAIL: MACs in total: 216 in conv1x1_3to2, 544,256 in nin_digits_int8" in err
    assert "on one side, nothing on the other" in err + out


def test_two_models_as_json(cli):
    status, out, _ = cli("conv1x1_512to32", "conv3x3_512to32", "--json")
    document = json.loads(out)
    assert status == 0
    assert (document["schema"], document["kind"]) == ("keras_nin.compare/1", "networks")
    assert document["totals"]["macs"] == [2_359_296, 21_233_664]


def test_options_are_for_the_first_model(cli):
    _, out, _ = cli("nin_digits", "nin_digits", "--set", "classes=5", "--weights", "random", "--json")
    document = json.loads(out)
    assert [row["status"] for row in document["rows"] if row["a"] == "mlpconv3_conv1x1b"] == ["changed"]
    assert document["totals"]["params"][1] == 50_482


def test_two_files_without_keras(files):
    program = (
        "import sys; from keras_nin.cli import main; "
        f"status = main.run(['compare', {str(files['float32'])!r}, {str(files['int8'])!r}]); "
        "print(status, [name for name in ('keras', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0 []\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nin_digitz", "nin_digits"), "Did you mean nin_digits"),
        (("nin_digits", "missing.tflite"), "Expected a readable file. Received: 'missing.tflite'"),
        (("missing.tflite", "other.tflite"), "Expected a readable file. Received: 'missing.tflite'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(cli, words, message):
    status, out, err = cli(*words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
