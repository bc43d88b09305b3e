"""`keras-nin edgetpu`: what it prints, what it requires, and what it refuses."""

import pathlib
import random
import subprocess
import sys

import pytest
from edge_networks import chain, unary
from tflite_writer import write

from keras_nin.edge.edgetpu import Status


@pytest.fixture
def halves(tmp_path):
    """A file of which two operators of four are mapped."""
    return chain(tmp_path / "net.tflite", "RELU", "TANH", "ELU", "RELU6")


def test_every_operator_has_a_line_in_order(cli, halves):
    ran = cli("edgetpu", halves)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split()[2] for line in lines[2:6]] == ["RELU", "TANH", "ELU", "RELU6"]
    assert ["Edge TPU" in line.split("Mapped")[0] for line in lines[2:6]] == [True, True, False, False]
    assert lines[4].endswith(Status.NOT_SUPPORTED)
    assert lines[5].endswith(Status.SECOND_SUBGRAPH)
    assert "Operator 2 (ELU): " in ran.out
    assert "Fix: use ReLU" in ran.out
    assert "2 of 4 operators on the Edge TPU (50.0%), 2 on the CPU" in ran.out


def test_many_operators_are_a_range_or_a_number(cli, tmp_path):
    assert "Operators 0 to 6 (ELU): " in cli("edgetpu", chain(tmp_path / "net.tflite", *["ELU"] * 7)).out
    mixed = chain(tmp_path / "net.tflite", *["ELU"] * 4, "EXP", *["ELU"] * 3)
    assert "7 operators from 0 to 7 (ELU): " in cli("edgetpu", mixed).out


def test_as_json(cli, halves):
    document = cli("edgetpu", halves, "--json").json
    assert document["schema"] == "keras_nin.edgetpu/1"
    assert document["model"] == str(halves)
    assert document["compiles"] is True
    assert [entry["mapped"] for entry in document["operators"]] == [True, True, False, False]
    assert document["total"]["share"] == 0.5
    several = cli("edgetpu", halves, "--json", "--multiple-subgraphs").json
    assert (several["total"]["share"], several["total"]["subgraphs"]) == (0.75, 2)


@pytest.mark.parametrize(
    ("require", "code"), [("full", 1), ("50%", 0), ("50.1%", 1), ("0%", 0), ("101%", 2), ("half", 2), ("0.6", 1)]
)
def test_require(cli, halves, require, code):
    ran = cli("edgetpu", halves, "--require", require)
    assert ran.status == code
    if code == 1:
        assert "edgetpu 50" in ran.out
        assert ran.out.rstrip().endswith("FAIL, not reached")


def test_full_is_met_where_all_is_mapped(cli, tmp_path):
    assert cli("edgetpu", chain(tmp_path / "all.tflite", "RELU"), "--require", "full").status == 0


def test_a_float_file_gets_the_verdict_and_meets_no_requirement(cli, tmp_path):
    made, operators = unary("TANH", [1, 4], [1, 4], dtypes=("FLOAT32", "FLOAT32"))
    path = write(tmp_path / "float.tflite", made, operators)
    ran = cli("edgetpu", path)
    assert (ran.status, ran.err) == (0, "")
    assert "does not compile: Model not quantized" in ran.out
    assert cli("edgetpu", path, "--require", "1%").status == 1


@pytest.mark.parametrize("option", [("--seed", "1"), ("--io", "uint8"), ("--weights", "x"), ("--set", "a=1")])
def test_options_of_an_export_do_not_go_with_a_file(cli, halves, option):
    ran = cli("edgetpu", halves, *option)
    assert (ran.status, ran.out) == (2, "")
    assert f"is exported already, so {option[0]} cannot apply to it" in ran.err


@pytest.mark.parametrize("name", ["missing.tflite", "no_model"])
def test_what_is_no_model_is_one_line(cli, name):
    ran = cli("edgetpu", name)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1


def test_a_damaged_file_is_judged_or_refused_with_one_line(cli, halves):
    content = bytearray(halves.read_bytes())
    chance = random.Random(7)
    found = set()
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        halves.write_bytes(damaged[: chance.randint(1, len(damaged))] if chance.random() < 0.2 else damaged)
        ran = cli("edgetpu", halves, "--json")
        assert ran.status in (0, 2)
        assert "Traceback" not in ran.err
        assert ran.status == 0 or ran.err.count("\n") == 1
        found.add(ran.status)
    assert found == {0, 2}


def test_a_file_is_judged_without_keras_or_tensorflow(halves):
    code = (
        "import sys; from keras_nin.cli import main\n"
        f"assert main.run(['edgetpu', {str(halves)!r}]) == 0\n"
        "slow = {'keras', 'tensorflow', 'sklearn', 'ai_edge_litert', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_a_model_is_exported_first_and_nothing_is_left(cli):
    options = ("--calibration-count", "8", "--io", "float32", "--require", "86%")
    ran = cli("edgetpu", "nin_digits", *options, "--json")
    assert ran.status == 0
    document = ran.json
    assert document["model"] == "nin_digits_int8.tflite"
    assert (document["total"]["mapped"], document["total"]["operators"]) == (13, 15)
    assert document["operators"][1]["layer"] == "mlpconv1_conv3x3"
    refused = [(entry["op"], entry["status"]) for entry in document["operators"] if not entry["mapped"]]
    assert refused == [("QUANTIZE", Status.UNSPECIFIED), ("DEQUANTIZE", Status.DATA_TYPE)]
    assert list(pathlib.Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_an_export_with_integer_ends_is_mapped_whole(cli, exported):
    total = cli("edgetpu", exported("nin_digits"), "--require", "full", "--json").json["total"]
    assert total["mapped"] == total["operators"] == 13
