"""`keras-nin list`, `audit`, `evaluate`, `verify` and `train`, what `--help` says, and how a command ends early."""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys

import click
import numpy as np
import pytest

from keras_nin import data, export, models
from keras_nin.cli import main
from keras_nin.workflows import models as models_module

COMMANDS = sorted(main.cli.commands)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with nin_digits as a saved model and, with its sidecar, as a file."""
    folder = tmp_path_factory.mktemp("exported")
    model = models.build_model("nin_digits", weights="digits")
    model.save(folder / "digits.keras")
    made = export.convert_model(model, "float32", weights="digits", preprocessing=data.get_preset("unit"))
    made.save(folder, force=True)
    export_record = folder / "nin_digits_float32.json"
    document = json.loads(export_record.read_text()) | {"parity": {"source": "digits"}}
    export_record.write_text(json.dumps(document))
    return folder


def digits_npz(path, count=60):
    source = data.open_dataset("digits")
    train, test = source.select("train", count), source.select("test", count)
    np.savez(
        path,
        x_train=source.images[train],
        y_train=source.labels[train],
        x_test=source.images[test],
        y_test=source.labels[test],
    )


# list and audit


def test_list(cli):
    ran = cli("list")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == models.list_models()
    assert len(lines[0].split()) >= 7


def test_list_as_json(cli):
    document = cli("list", "--json").json
    assert document["schema"] == "keras_nin.list/1"
    by_name = {entry["name"]: entry for entry in document["models"]}
    assert list(by_name) == models.list_models()
    assert by_name["squeezenet_v1_1"]["params"] == 1_235_496
    assert by_name["nin_digits"]["weights"] == ["digits"]


def test_audit(cli):
    ran = cli("audit", "squeezenet_v1_1")
    assert (ran.status, ran.err) == (0, "")
    assert "fire2_squeeze1x1" in ran.out
    assert "349,151,936" in ran.out


@pytest.mark.parametrize("words", [("--json",), ("--format", "json")])
def test_audit_as_json(cli, words):
    document = cli("audit", "squeezenet_v1_1", *words).json
    assert document["schema"] == "keras_nin.audit/1"
    assert document["total"]["macs"] == sum(row["macs"] for row in document["rows"]) == 349_151_936


def test_audit_as_csv(cli):
    ran = cli("audit", "nin_digits", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert sum(int(row["params"]) for row in rows) == models.get_spec("nin_digits").params


def test_audit_as_markdown(cli):
    lines = cli("audit", "nin_digits", "--format", "markdown").out.splitlines()
    assert any(line.startswith("| ---") for line in lines)


def test_audit_takes_arguments_of_the_builder(cli):
    document = cli("audit", "squeezenet_v1_0", "--set", "pool_rounding=ceil", "--json").json
    assert document["total"]["macs"] == 818_924_576
    document = cli("audit", "nin_cifar10", "--set", "classes=7", "--input-shape", "48x48x3", "--json").json
    assert document["rows"][0]["output_shape"][1:3] == [48, 48]
    assert document["rows"][-1]["output_shape"][-1] == 7


def test_audit_of_a_saved_model(cli, exported):
    document = cli("audit", exported / "digits.keras", "--json").json
    assert document["total"]["params"] == models.get_spec("nin_digits").params


# evaluate and verify


def test_evaluate_takes_images_and_preprocessing_from_the_sidecar(cli, exported):
    file = exported / "nin_digits_float32.tflite"
    ran = cli("evaluate", file)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"{file}: top-1 99.")
    assert ran.out.splitlines()[0].endswith(" on 359 images of digits, prepared as unit")
    document = cli("evaluate", file, "--data", "digits", "--json", "--test-count", 50).json
    assert document.keys() >= {"schema", "file", "images", "top1", "top5", "data", "preprocessing", "weights"}
    assert (document["schema"], document["images"], document["data"]) == ("keras_nin.evaluate/1", 50, "digits")
    assert 0.9 < document["top1"] <= document["top5"] <= 1


def test_evaluate_prepares_as_it_is_told(cli, exported):
    words = ("evaluate", exported / "nin_digits_float32.tflite", "--json")
    raw = cli(*words, "--preprocessing", "raw").json
    assert raw["preprocessing"]["mode"] == "raw"
    assert raw["top1"] < cli(*words).json["top1"]


def test_evaluate_of_models(cli, exported):
    saved = cli("evaluate", exported / "digits.keras", "--data", "digits", "--json").json
    named = cli("evaluate", "nin_digits", "--json").json
    assert saved["top1"] == named["top1"] > 0.95
    assert (saved["weights"], named["weights"]) == (str(exported / "digits.keras"), "digits")


def test_evaluate_says_that_weights_are_random(cli):
    ran = cli("evaluate", "convnet_pointwise_head", "--data", "digits", "--test-count", 20)
    first = ran.out.splitlines()[0]
    assert first.endswith("on 20 images of digits, prepared as unit; weights: random (seed 0)")


def test_evaluate_of_an_npz(cli, exported):
    digits_npz("set.npz")
    document = cli("evaluate", exported / "nin_digits_float32.tflite", "--data", "set.npz", "--json").json
    assert (document["images"], document["data"]) == (60, "set.npz")


def test_verify(cli, exported):
    file = exported / "nin_digits_float32.tflite"
    ran = cli("verify", "nin_digits", file)
    assert (ran.status, ran.err) == (0, "")
    assert "Compared on 359 test images of digits." in ran.out
    saved = cli("verify", exported / "digits.keras", file, "--json", "--test-count", 30)
    assert (saved.status, saved.err) == (0, "")
    assert saved.json["schema"] == "keras_nin.verify/1"
    assert (saved.json["parity"]["images"], saved.json["parity"]["passed"]) == (30, True)


def test_verify_finds_other_weights(cli, exported):
    words = ("verify", "nin_digits", exported / "nin_digits_float32.tflite", "--weights", "random", "--test-count", 20)
    ran = cli(*words)
    note, failure, weights = ran.err.splitlines()
    assert ran.status == 1
    assert note == "Note: the file was made from other weights (digits) than random (seed 0)."
    assert failure.startswith("Parity does not hold: ")
    assert "largest difference in steps" in failure
    assert "difference of a weight from the model's in steps" in weights
    as_json = cli(*words, "--json")
    assert (as_json.status, as_json.err) == (1, ran.err)
    assert as_json.json["parity"]["passed"] is False


# train


@pytest.mark.slow
def test_train_then_evaluate(cli):
    digits_npz("set.npz", 80)
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
    assert "Use --force" in again.err


@pytest.mark.slow
def test_train_as_json(cli):
    digits_npz("set.npz", 40)
    document = cli("train", "nin_digits", "--data", "set.npz", "--epochs", 1, "--out", "run", "--json").json
    assert document["schema"] == "keras_nin.train/1"
    assert [epoch["epoch"] for epoch in document["history"]] == [1]


# help, and commands that end early


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_the_command_accepts(cli, name):
    ran = cli(name, "--help")
    assert ran.status == 0
    command = main.cli.commands[name]
    example = command.epilog.removeprefix("Example: ").split()
    assert f"Example: {' '.join(example)}" in " ".join(ran.out.split())  # long ones are wrapped
    assert example[:2] == ["keras-nin", name]
    command.make_context(name, example[2:])


def test_no_command_shows_the_help(cli):
    ran = cli()
    assert ran.status == 2
    assert "Usage: keras-nin" in ran.out
    assert all(f"\n  {name} " in ran.out for name in COMMANDS)


def test_help_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys; from keras_nin.cli import main\n"
        f"for name in {COMMANDS!r}: assert main.run([name, '--help']) == 0\n"
        "assert main.run(['list']) == 0 and main.run(['audit', 'nope']) == 2\n"
        "slow = {'keras', 'tensorflow', 'sklearn', 'ai_edge_litert'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
def test_a_reader_that_stops_early():
    code = "from keras_nin.cli import main; main.main(['list'])"
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ran.stderr == ""
    assert ran.returncode == 141


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort])
def test_ctrl_c(cli, monkeypatch, stop):
    def interrupted(*_):
        raise stop

    monkeypatch.setattr(models_module, "start_keras", interrupted)
    ran = cli("export", "nin_digits")
    assert (ran.status, ran.out, ran.err.strip()) == (130, "", "Error: interrupted")
    assert list(pathlib.Path().iterdir()) == []


def test_version(cli):
    ran = cli("--version")
    assert ran.status == 0
    assert ran.out.startswith("keras-nin, version ")


def test_progress_is_shown_on_a_terminal_alone(capsys, monkeypatch):
    assert list(models_module.track(range(3), "Counting", 3)) == [0, 1, 2]
    with models_module.working("Working"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(models_module.track(range(3), "Counting", 3)) == [0, 1, 2]
    with models_module.working("Working"):
        pass
    assert capsys.readouterr().out == ""
