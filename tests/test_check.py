"""`keras-nin check`: what is wrong with a file, found without running it; and no false alarms."""

import json
import pathlib

import pytest
from edge_networks import chain, quantized
from tflite_edits import edited
from tflite_writer import custom, generated, operator, tensor, write

import keras_nin
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_checked_model
from keras_nin.tflite.validation import ERROR, WARNING


@pytest.fixture(scope="module")
def looped(tmp_path_factory):
    """A loop over two subgraphs, a branch, and a custom operator, with a signature."""
    tensors = [quantized(f"t{index}", [1, 4]) for index in range(4)]
    operators = [
        operator("WHILE", [0], [1], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2),
        custom("own", [1], [2]),
        operator("RELU", [2], [3]),
    ]
    condition = [quantized("a", [1, 4]), tensor("go", [1], "BOOL")], [custom("more", [0], [1])], [0], [1]
    body = [quantized("a", [1, 4]), quantized("b", [1, 4])], [operator("RELU", [0], [1])], [0], [1]
    path = tmp_path_factory.mktemp("check") / "looped.tflite"
    return write(path, tensors, operators, more=(condition, body))


def problems(path, tmp_path, change):
    """Return (severity, rule, message) of the problems of a changed file."""
    changed = tmp_path / "changed.tflite"
    changed.write_bytes(edited(pathlib.Path(path).read_bytes(), change))
    result = keras_nin.check_file(changed)
    assert result.passed == (not result.errors)
    if result.errors:
        with pytest.raises(InputError, match=r"^Expected a valid .tflite file. Received: .*, where "):
            read_checked_model(changed)
    return [(problem.severity, problem.rule, problem.message) for problem in result.problems]


def named(name, index):
    entry = generated.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def signature(inputs, outputs, key="serve"):
    made = generated.SignatureDefT()
    made.signatureKey, made.subgraphIndex = key, 0
    made.inputs, made.outputs = ([named(*pair) for pair in pairs] for pairs in (inputs, outputs))
    return made


def nested(model, _):
    model.subgraphs[2].operators[0] = model.subgraphs[0].operators[0]


WRONG = {
    "operator 2 of subgraph 0 (RELU) has 2 inputs, but takes 1": lambda m, s: setattr(s.operators[2], "inputs", [2, 0]),
    "operator 2 of subgraph 0 (RELU) has 0 outputs, but takes 1": lambda m, s: setattr(s.operators[2], "outputs", []),
    "operator 2 of subgraph 0 (RELU) lacks input 0": lambda m, s: setattr(s.operators[2], "inputs", [-1]),
    "operator 0 of subgraph 0 (WHILE) runs subgraph 1 with 2 inputs and 1 outputs, which has 1 and 1": lambda m, s: (
        setattr(s.operators[0], "inputs", [0, 0])
    ),
    "operator 0 of subgraph 2 (WHILE) runs subgraph 2, by which it is run itself": nested,
    "operator 1 of subgraph 0 (own) reads tensor 1, which nothing before it computes": lambda m, s: (
        s.operators.reverse()
    ),
    "tensor 3 is computed twice, by operator 2": lambda m, s: setattr(s.operators[1], "outputs", [2, 3]),
    "tensor 2, an output of subgraph 0, is never computed": lambda m, s: (
        setattr(s, "outputs", [2]) or setattr(s, "operators", s.operators[:1])
    ),
    "tensor 1 has the scale nan": lambda m, s: setattr(s.tensors[1].quantization, "scale", [float("nan")]),
    "tensor 1 has the scale -0.5": lambda m, s: setattr(s.tensors[1].quantization, "scale", [-0.5]),
    "tensor 1 has the scale 0": lambda m, s: setattr(s.tensors[1].quantization, "scale", [0.0]),
    "tensor 1 of int8 has the zero point 128": lambda m, s: setattr(s.tensors[1].quantization, "zeroPoint", [128]),
    "tensor 1 of shape (2147483647, 2147483647, 2147483647) is larger": lambda m, s: setattr(
        s.tensors[1], "shape", [2**31 - 1] * 3
    ),
    "'x' of signature 'serve' is tensor 1, no input": lambda m, s: setattr(
        m, "signatureDefs", [signature([("x", 1)], [("y", 3)])]
    ),
    "signature 'serve' exists twice": lambda m, s: setattr(m, "signatureDefs", [signature([("x", 0)], [("y", 3)])] * 2),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_found(message, looped, tmp_path):
    found = problems(looped, tmp_path, WRONG[message])
    assert any(message in text for _, _, text in found), found
    severity = WARNING if "signature" in message else ERROR
    assert {severity} == {entry[0] for entry in found}


def test_what_is_right_is_right(looped, tmp_path):
    def change(model, subgraph):
        model.signatureDefs = [signature([("x", 0)], [("y", 3)])]

    assert problems(looped, tmp_path, change) == []
    assert repr(keras_nin.check_file(looped)).endswith("looped.tflite: no problems>")


def test_what_no_reader_reads_is_checked_too(tmp_path):
    """An offset in a part of the file that only runtimes follow, such as the options of another operator."""
    path = write(
        tmp_path / "net.tflite",
        [tensor("in", [1, 4], "FLOAT32"), tensor("out", [1, 4], "INT32")],
        [operator("BUCKETIZE", [0], [1], "BucketizeOptions", boundaries=[0.0, 10.0, 100.0])],
    )
    content, marker = path.read_bytes(), b"\x03\0\0\0\0\0\0\0\0\0\x20\x41\0\0\xc8\x42"
    assert content.count(marker) == 1
    assert keras_nin.check_file(path).passed
    path.write_bytes(content.replace(marker, b"\xff\xff\xff\0" + marker[4:]))
    (problem,) = keras_nin.check_file(path).problems
    assert (problem.rule, "reaches past the end" in problem.message) == ("structure", True)
    with pytest.raises(InputError, match="a vector's content at byte"):
        read_checked_model(path)


def test_a_string_without_its_end(tmp_path):
    path = chain(tmp_path / "net.tflite", "own_operator")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"own_operator\0", b"own_operator!"))
    assert "has no end" in keras_nin.check_file(path).problems[0].message


def test_the_command(cli, tmp_path):
    good, bad = chain(tmp_path / "good.tflite", "RELU"), chain(tmp_path / "bad.tflite", "ADD", "MUL")
    ran = cli("check", good)
    assert (ran.status, ran.out, ran.err) == (0, f"{good}: no problems\n", "")
    ran = cli("check", good, bad)
    assert ran.status == 1
    assert "operator 1 of subgraph 0 (MUL) has 1 input, but takes 2" in ran.out
    ran = cli("check", good, bad, "--json")
    assert (ran.status, ran.json["schema"]) == (1, "keras_nin.check/1")
    assert [(entry["valid"], entry["errors"]) for entry in ran.json["files"]] == [(True, 0), (False, 2)]
    assert ran.json["files"][1]["problems"][1]["operator"] == 1
    bad.write_bytes(good.read_bytes()[:-4])
    ran = cli("check", bad, "--quiet")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"{bad}: error: ")
    bad.write_bytes(b"<html></html>")
    ran = cli("check", bad)
    assert (ran.status, ran.out) == (2, "")
    assert "lacks the mark 'TFL3'" in ran.err


@pytest.mark.parametrize("command", ["audit", "edgetpu", "fit", "benchmark", "evaluate"])
def test_other_commands_check_first(command, cli, tmp_path):
    bad = chain(tmp_path / "bad.tflite", "ADD", "MUL")
    ran = cli(command, bad, *(("--data", "digits") if command == "evaluate" else ()))
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert "operator 0 of subgraph 0 (ADD) has 1 input, but takes 2 (1 more error; keras-nin check" in ran.err


def test_a_subgraph_is_looked_at_once(tmp_path):
    """Both branches of an IF run the next subgraph, sixty times nested: 2^60 ways to the last."""

    def subgraph(called):
        tensors = [tensor("go", [1], "BOOL"), *(quantized(name, [1, 4]) for name in "ab")]
        branches = {"thenSubgraphIndex": called, "elseSubgraphIndex": called}
        operators = [custom("decide", [1], [0]), operator("IF", [0, 1], [2], "IfOptions", **branches)]
        return tensors, operators, [1], [2]

    tensors, operators, inputs, outputs = subgraph(1)
    last = [quantized("a", [1, 4]), quantized("b", [1, 4])], [operator("RELU", [0], [1])], [0], [1]
    more = [*map(subgraph, range(2, 61)), last]
    path = write(tmp_path / "net.tflite", tensors, operators, inputs=inputs, outputs=outputs, more=more)
    assert keras_nin.check_file(path).problems == ()


@pytest.mark.slow
def test_exports_raise_no_alarm(exported):
    for scheme in ("float32", "int8", "int16x8", "dynamic"):
        assert keras_nin.check_file(exported("nin_digits", scheme)).problems == ()


@pytest.mark.external
def test_third_party_files_raise_no_alarm(external_data):
    paths = [*(external_data / "edgetpu").glob("*.tflite"), *(external_data / "edgetpu_more").glob("*.tflite")]
    assert len(paths) >= 103
    for path in paths:
        assert keras_nin.check_file(path).problems == (), path
        json.dumps(keras_nin.check_file(path).to_json())
