"""`keras-nin compare`: what it prints, what it leaves with, and that two files need no Keras."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def files(exported):
    """The exports of nin_digits by scheme."""
    return {scheme: exported("nin_digits", scheme, weights="digits") for scheme in ("float32", "int8")}


def test_a_model_and_its_file(cli, files):
    ran = cli("compare", "nin_digits", files["int8"])
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("nin_digits as nin_digits_int8")
    assert "MACs are equal" in ran.out
    assert "544,256" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 110


def test_another_models_file_leaves_with_1_and_says_where(cli, files):
    ran = cli("compare", "conv1x1_3to2", files["int8"])
    assert ran.status == 1
    assert "FAIL: MACs in total: 216 in conv1x1_3to2, 544,256 in nin_digits_int8" in ran.err
    assert "on one side, nothing on the other" in ran.err + ran.out


def test_two_models_as_json(cli):
    ran = cli("compare", "conv1x1_512to32", "conv3x3_512to32", "--json")
    assert ran.status == 0
    assert (ran.json["schema"], ran.json["kind"]) == ("keras_nin.compare/1", "networks")
    assert ran.json["totals"]["macs"] == [2_359_296, 21_233_664]


def test_options_are_for_the_first_model(cli):
    document = cli("compare", "nin_digits", "nin_digits", "--set", "classes=5", "--weights", "random", "--json").json
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
    ran = cli("compare", *words)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert ran.err.count("\n") == 1
