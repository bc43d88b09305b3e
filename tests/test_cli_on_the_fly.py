"""A MODEL where a command reads files: one export, with the same options everywhere."""

import json
import pathlib
import types

import pytest
from tflite_writer import operator, tensor, write

from keras_nin import InputError
from keras_nin.cli import benchmark, edge, options
from keras_nin.edge.micro import measurement
from keras_nin.tflite.reader import read_model
from keras_nin.workflows import models as models_module
from keras_nin.workflows import temporary_export

COMMANDS = {each.command.name: each.command for each in (benchmark, edge, edge, edge)}
WORDS = {
    "weights": ("random",),
    "input_shape": ("8,8,3",),
    "settings": ("a=1",),
    "seed": ("1",),
    "calibration": ("random",),
    "calibration_count": ("2",),
    "io": ("uint8",),
    "allow_float": (),
}


def shared():
    @options.temporary_export_options
    def nothing():
        pass

    return {each.name: each.opts[0] for each in nothing.__click_params__}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_options_of_the_export(name):
    assert shared().items() <= {each.name: each.opts[0] for each in COMMANDS[name].params}.items()
    assert shared().keys() == WORDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", WORDS)
def test_none_of_them_goes_with_a_file(name, option, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "require_tflite_micro", lambda: None)
    monkeypatch.setattr(models_module, "start_keras", lambda: pytest.fail("Keras was started"))
    path = write(tmp_path / "net.tflite", [tensor(end, [1, 4]) for end in "ab"], [operator("RELU", [0], [1])])
    if (name, option) == ("micro", "seed"):
        pytest.skip("it draws the inputs too")
    ran = cli(name, path, shared()[option], *WORDS[option])
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert f"Expected no {shared()[option]} with a file, which is exported already. Received: '" in ran.err


def test_what_is_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("net.keras").touch()
    pathlib.Path("without_an_ending").touch()
    models = {"nin_digits": True, "keras:MobileNet": True, "net.keras": True, "without_an_ending": False}
    assert {text: temporary_export.is_model(text) for text in models} == models
    for text, problem in {
        "none.tflite": "which is no file",
        "none.h5": "an existing file",
        ".": "which is a folder",
        "nin_digit": "Did you mean nin_digits",
    }.items():
        with pytest.raises(InputError, match=problem):
            temporary_export.is_model(text)
    assert (temporary_export.file_stem("keras:MobileNet"), temporary_export.file_stem("a/b.net.keras")) == (
        "MobileNet",
        "b.net",
    )


def export(folder, model="conv1x1_3to2", schemes=("int8",), **given):
    defaults = {"settings": (), "seed": 0, "allow_float": False}
    values = dict.fromkeys(WORDS) | defaults | given
    return temporary_export.export_temporary(model, types.SimpleNamespace(**values), folder, schemes)


def test_without_weights_and_images_it_is_noise_and_says_so(tmp_path):
    float32, int8 = export(tmp_path, schemes=("float32", "int8"))
    assert (float32.notes, int8.notes) == (
        (temporary_export.RANDOM,),
        (temporary_export.RANDOM, temporary_export.NOISE),
    )
    assert (pathlib.Path(int8.path).name, int8.images) == ("conv1x1_3to2_int8.tflite", None)
    beside = json.loads(pathlib.Path(int8.path).with_suffix(".json").read_text())
    assert (beside["calibration"]["count"], beside["operators"][0]["layer"]) == (8, "conv1")


def test_the_options_reach_the_file(tmp_path):
    (made,) = export(tmp_path, io="uint8", calibration="random", calibration_count=3, input_shape=(4, 4, 3))
    graph = read_model(made.path)
    assert [graph.main.tensors[index].dtype for index in graph.main.inputs] == ["uint8"]
    assert graph.main.tensors[graph.main.inputs[0]].shape == (1, 4, 4, 3)
    assert json.loads(pathlib.Path(made.path).with_suffix(".json").read_text())["calibration"]["count"] == 3


@pytest.mark.slow
def test_weights_that_ship_are_calibrated_on_their_images(tmp_path):
    (made,) = export(tmp_path, "nin_digits")
    assert (made.notes, made.images) == ((), "digits")
    (made,) = export(tmp_path / "random", "nin_digits", weights="random")
    assert (made.notes, made.images) == ((temporary_export.RANDOM, temporary_export.NOISE), None)
    (made,) = export(tmp_path / "asked", "nin_digits", weights="random", calibration="digits", calibration_count=4)
    assert (made.notes, made.images) == ((temporary_export.RANDOM,), "digits")


def test_float_operators_are_allowed_where_asked_for(tmp_path, monkeypatch):
    asked = []

    def refuse(*arguments, allow_float, **others):
        asked.append(allow_float)
        raise InputError("Expected no float operators")

    monkeypatch.setattr("keras_nin.export.convert_schemes", refuse)
    for allow_float in (True, False):
        with pytest.raises(InputError, match="no float operators"):
            export(tmp_path, allow_float=allow_float)
    assert asked == [True, False]
