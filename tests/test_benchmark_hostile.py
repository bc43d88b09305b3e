"""Files that are hostile, odd or damaged: a latency, or one clear line; no process is left."""

import fuzz_tflite as fuzz
import pytest
import tflite_writer as writer

from keras_nin.benchmark import measure_files
from keras_nin.errors import InputError

FLOAT = "FLOAT32"


def tensors(*shapes, dtype=FLOAT, **fields):
    return [writer.tensor(f"t{at}", shape, dtype, **fields) for at, shape in enumerate(shapes)]


def unary(op="ABS"):
    return [writer.operator(op, [0], [1])]


def measured(path):
    return measure_files([path], runs=3).profiles[0]


@pytest.fixture
def net(tmp_path):
    """A function that writes a file of these tensors and operators."""

    def write(*arguments, **options):
        return writer.write(tmp_path / "net.tflite", *arguments, **options)

    return write


def test_odd_files_run(tmp_path):
    """Without inputs, outputs, operators or anything; with an open batch, which runs as one; with a variable."""
    shapes = [1, 4], [1, 4]
    counter = [  # its first run makes the variable, each adds to it
        writer.operator("VAR_HANDLE", [], [3], "VarHandleOptions", container="", sharedName="v"),
        writer.operator("ASSIGN_VARIABLE", [3, 0], []),
        writer.operator("READ_VARIABLE", [3], [1]),
        writer.operator("ADD", [0, 1], [2], "AddOptions"),
    ]
    odd = {
        "no_inputs": ([writer.tensor("c", [1, 4], FLOAT, data=1), *tensors([1, 4])], unary(), {"inputs": ()}),
        "no_outputs": (tensors(*shapes), unary(), {"outputs": ()}),
        "no_operators": (tensors([1, 4]), [], {"outputs": [0]}),
        "nothing": ([], [], {"inputs": (), "outputs": []}),
        "open_batch": (tensors(*shapes, shapeSignature=[-1, 4]), unary(), {}),
        "variable": ([*tensors(*shapes, [1, 4]), writer.tensor("v", [1], "RESOURCE")], counter, {"outputs": [2]}),
    }
    paths = [writer.write(tmp_path / f"{name}.tflite", *content, **ends) for name, (*content, ends) in odd.items()]
    profiles = {profile.file: profile for profile in measure_files(paths, runs=3, interleave=True).profiles}
    assert {name: profile.runs for name, profile in profiles.items()} == {f"{name}.tflite": 3 for name in odd}
    assert profiles["no_operators.tflite"].layers == ()


def test_other_open_sizes_are_refused(net):
    path = net(tensors([1, 1, 4], [1, 1, 4], shapeSignature=[1, -1, 4]), unary())
    with pytest.raises(InputError, match=r"open in the batch alone.*'t0' has the shape \(1, -1, 4\).*Export it with"):
        measure_files([path])


def refusal(path):
    with pytest.raises(
        InputError, match="^Expected a file that the LiteRT runtime runs. Received: '.*net.tflite': "
    ) as caught:
        measured(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("net.tflite': ")[2]


def test_an_unknown_custom_operator_is_named(net):
    reason = refusal(net(tensors([1, 4], [1, 4]), [writer.custom("Own", [0], [1])]))
    assert "Encountered unresolved custom op: Own" in reason


def test_strings_are_refused(net):
    assert "for the input string (1,)" in refusal(net(tensors([1], [1], dtype="STRING"), unary("RESHAPE")))


def test_an_input_of_less_than_a_byte_is_refused(net):
    values = [writer.tensor("a", [1, 4], "INT4"), writer.tensor("b", [1, 4], FLOAT)]
    assert "of type int4, which cannot be filled" in refusal(net(values, unary("DEQUANTIZE")))


def test_an_empty_input_is_refused(net):
    assert "for the input float32 (0, 4)" in refusal(net(tensors([0, 4], [0, 4]), unary()))


def test_an_absurd_input_is_refused_at_once(net):
    refusal(net(tensors([1 << 18, 1 << 18], [1 << 18, 1 << 18]), unary()))
    size = (1 << 31) - 1
    with pytest.raises(InputError, match="is larger than any memory"):
        measured(net(tensors([size, size], [size, size]), unary()))


def test_an_absurd_intermediate_is_refused_at_once(net):
    """A column plus a row: inputs of a MiB, and 256 GiB of sums."""
    wide = 1 << 18
    add = [writer.operator("ADD", [0, 1], [2], "AddOptions")]
    refusal(net(tensors([wide, 1], [1, wide], [wide, wide]), add, inputs=(0, 1)))


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """A small int8 network: 1x1, 3x3, mean."""
    shapes = {"image": [1, 8, 8, 4], "a": [1, 8, 8, 8], "b": [1, 8, 8, 8], "out": [1, 8]}
    made = [writer.tensor(name, shape, quantization=scale()) for name, shape in shapes.items()]
    made += [
        writer.tensor("w1", [8, 1, 1, 4], data=3, quantization=scale()),
        writer.tensor("w3", [8, 3, 3, 8], data=2, quantization=scale()),
        writer.tensor("axes", [2], "INT32", data=[1, 2]),
        writer.tensor("bias", [8], "INT32", data=0, quantization=scale(0.25)),
    ]
    operators = [
        writer.operator("CONV_2D", [0, 4, 7], [1], "Conv2DOptions", strideW=1, strideH=1),
        writer.operator("CONV_2D", [1, 5, 7], [2], "Conv2DOptions", strideW=1, strideH=1),
        writer.operator("MEAN", [2, 6], [3], "ReducerOptions"),
    ]
    path = tmp_path_factory.mktemp("seed") / "seed.tflite"
    return writer.write(path, made, operators, outputs=[3]).read_bytes()


def scale(step=0.5):
    return writer._record("QuantizationParameters", scale=[step], zeroPoint=[0])


@pytest.mark.slow
def test_damaged_files_are_measured_or_refused(seed, tmp_path, monkeypatch):
    """Some of those that tools/fuzz_tflite.py makes by the hundred."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(fuzz.MARK, str(tmp_path))
    (tmp_path / "seed.tflite").write_bytes(seed)
    assert fuzz.run_command("benchmark", tmp_path / "seed.tflite", 0, as_json=True).kind == "done"
    outcomes = list(fuzz.survey(["benchmark"], {"seed": seed}, range(18)))
    assert [outcome for outcome in outcomes if outcome.failed] == []
    assert fuzz.survivors() == []
    assert {"done", "refused"} <= {outcome.kind for outcome in outcomes}
