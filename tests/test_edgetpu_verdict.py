"""The Edge TPU's verdict on whole files: the cut, what fails to compile, parameters, and the truth of 119 files."""

import importlib.util
import json
import pathlib

import pytest
from edge_networks import chain, conv, quantized, unary
from tflite_writer import custom, operator, tensor, write

from keras_nin.edge.edgetpu import FailureMessage, Status, check_edgetpu
from keras_nin.edge.edgetpu import verdict as memory_module
from keras_nin.edge.edgetpu.operators import bind_operators
from keras_nin.edge.edgetpu.records import Confidence
from keras_nin.edge.edgetpu.verdict import drop_repeats, partition_graph
from keras_nin.errors import InputError
from keras_nin.tflite import reader as tflite_graph

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "edgetpu_verdicts.py"


def statuses(verdict):
    return [each.status for each in verdict.operators]


def test_all_is_mapped_where_nothing_is_in_the_way(tmp_path):
    verdict = check_edgetpu(chain(tmp_path / "net.tflite", "RELU", "TANH"))
    assert statuses(verdict) == [Status.MAPPED] * 2
    assert (verdict.fully_mapped, verdict.share, verdict.subgraphs, verdict.compiles) == (True, 1.0, 1, True)


def test_one_part_is_mapped_and_what_depends_on_the_first_refusal_is_not(tmp_path):
    path = chain(tmp_path / "net.tflite", "RELU", "ELU", "TANH", "ELU", "RELU6")
    verdict = check_edgetpu(path)
    refused, after = Status.NOT_SUPPORTED, Status.SECOND_SUBGRAPH
    assert statuses(verdict) == [Status.MAPPED, refused, after, refused, after]
    assert verdict.operators[2].why.endswith("after the cut at operator 1")
    assert (verdict.fully_mapped, verdict.share, verdict.subgraphs) == (False, 0.2, 1)


def test_several_parts_are_mapped_where_that_is_allowed(tmp_path):
    path = chain(tmp_path / "net.tflite", "RELU", "ELU", "TANH", "ELU", "RELU6")
    verdict = check_edgetpu(path, multiple_subgraphs=True)
    assert statuses(verdict) == [Status.MAPPED, Status.NOT_SUPPORTED] * 2 + [Status.MAPPED]
    assert (verdict.subgraphs, verdict.share) == (3, 0.6)


def test_a_refusal_at_the_start_does_not_end_the_mapped_part(tmp_path):
    tensors = [tensor("in", [1, 4], "FLOAT32"), quantized("a", [1, 4]), quantized("b", [1, 4])]
    path = write(tmp_path / "net.tflite", tensors, [operator("QUANTIZE", [0], [1]), operator("TANH", [1], [2])])
    assert statuses(check_edgetpu(path)) == [Status.UNSPECIFIED, Status.MAPPED]


def test_a_branch_beside_the_refusal_is_mapped(tmp_path):
    """0 is read by 1 (refused) and by 2; 3 reads both."""
    tensors = [quantized(f"t{index}", [1, 4]) for index in range(5)]
    operators = [
        operator("RELU", [0], [1]),
        operator("ELU", [1], [2]),
        operator("TANH", [1], [3]),
        operator("ADD", [2, 3], [4], "AddOptions"),
    ]
    verdict = check_edgetpu(write(tmp_path / "net.tflite", tensors, operators))
    assert statuses(verdict) == [Status.MAPPED, Status.NOT_SUPPORTED, Status.MAPPED, Status.SECOND_SUBGRAPH]


def test_a_part_takes_what_is_ready_before_the_other_side_has_its_turn(tmp_path):
    """Two inputs: a mapped chain of two, and a refused operator whose reader joins the chain's part only after it."""
    tensors = [quantized(f"t{index}", [1, 4]) for index in range(6)]
    operators = [
        operator("RELU", [0], [2]),
        operator("ELU", [1], [3]),
        operator("TANH", [2], [4]),
        operator("ADD", [3, 4], [5], "AddOptions"),
    ]
    path = write(tmp_path / "net.tflite", tensors, operators, inputs=[0, 1])
    found = bind_operators(tflite_graph.read_model(path))
    assert partition_graph(found, {0, 2, 3}) == [[0, 2], [3]]
    assert partition_graph(found, {0, 1, 2, 3}) == [[0, 1, 2, 3]]
    assert partition_graph(found, set()) == []


def test_a_repeated_custom_operator_is_left_out_and_its_readers_read_the_first(tmp_path):
    tensors = [quantized(f"t{index}", [1, 4]) for index in range(2)]
    tensors += [tensor("float", [1, 4], "FLOAT32"), *(quantized(f"d{index}", [1, 4]) for index in range(3))]
    operators = [
        operator("RELU", [0], [1]),
        operator("DEQUANTIZE", [1], [2]),
        custom("Decoder", [2], [3]),
        custom("Decoder", [1], [4]),
        operator("TANH", [4], [5]),
    ]
    path = write(tmp_path / "net.tflite", tensors, operators)
    verdict = check_edgetpu(path)
    assert [each.rule for each in verdict.operators] == [None, "data-type", "data-type", "repeated", "one-part"]
    assert (verdict.operators[3].status, verdict.kept, verdict.mapped) == (None, 4, 1)
    assert verdict.count_cpu_operators() == {"DEQUANTIZE": 1, "Decoder": 1, "TANH": 1}
    assert verdict.to_json()["total"]["dropped"] == 1
    kept, repeats = drop_repeats(bind_operators(tflite_graph.read_model(path)))
    assert (repeats, kept[-1].record.inputs) == ({3: 2}, (3,))


def test_a_repeated_builtin_is_kept(tmp_path):
    tensors = [quantized(f"t{index}", [1, 4]) for index in range(3)]
    operators = [operator("RELU", [0], [1]), operator("RELU", [0], [2])]
    assert check_edgetpu(write(tmp_path / "net.tflite", tensors, operators, outputs=[1, 2])).kept == 2


# what the compiler refuses whole


def test_a_float_file_is_not_quantized(tmp_path):
    made, operators = unary("TANH", [1, 4], [1, 4], dtypes=("FLOAT32", "FLOAT32"))
    verdict = check_edgetpu(write(tmp_path / "net.tflite", made, operators))
    assert verdict.failure.message == "Model not quantized"
    assert (verdict.compiles, verdict.share, verdict.mapped, verdict.fully_mapped) == (False, 0.0, 0, False)
    assert statuses(verdict) == ["Model not quantized"]
    assert verdict.to_json()["compiles"] is False


def test_integers_without_a_scale_are_not_quantized(tmp_path):
    made = [tensor("in", [1, 4]), tensor("out", [1, 4])]
    verdict = check_edgetpu(write(tmp_path / "net.tflite", made, [operator("TANH", [0], [1])]))
    assert verdict.failure.rule == "not-quantized"


def test_a_version_that_the_compiler_does_not_know(tmp_path):
    from tflite_edits import edited

    made, operators = conv()
    path = write(tmp_path / "net.tflite", made, operators)
    content = path.read_bytes()
    for version, compiles in ((5, True), (6, False)):
        path.write_bytes(edited(content, lambda model, _, version=version: _set_version(model, version)))
        assert check_edgetpu(path).compiles == compiles
    assert check_edgetpu(path).failure.message == "Didn't find op for builtin opcode 'CONV_2D' version '6'"


@pytest.mark.parametrize(
    ("scheme", "fix"),
    [
        ("dynamic", "export with full-integer quantization (scheme int8)"),
        ("int8", "the activation that is fused into it raised the version: use UpSampling2D and a convolution, or "
                    "PReLU, which is not fused"),
    ],
)  # fmt: skip
def test_the_fix_names_what_is_wrong(scheme, fix):
    """A fused activation raises the version of TRANSPOSE_CONV; a dynamic-range file lacks integers."""
    import keras
    import numpy as np
    from keras import layers as kl

    from keras_nin.export import Tuning, convert_model

    keras.utils.set_random_seed(0)
    up = kl.Conv2DTranspose(4, 2, strides=2, activation="relu", bias_initializer="normal")
    model = keras.Sequential([keras.Input((8, 8, 3)), up, kl.Conv2D(2, 1)], name="up")
    images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    file = convert_model(model, scheme, images if scheme == "int8" else None, tuning=Tuning.plain())
    failure = check_edgetpu(file.tflite).failure
    assert failure.fix == fix


def _set_version(model, version):
    model.operatorCodes[0].version = version


def test_a_computed_shape_is_dynamic(tmp_path):
    tensors = [quantized("in", [1, 4]), tensor("shape", [2], "INT32"), quantized("out", [4, 1])]
    path = write(tmp_path / "net.tflite", tensors, [operator("RESHAPE", [0, 1], [2])], inputs=[0, 1])
    verdict = check_edgetpu(path)
    assert verdict.failure.message == FailureMessage.DYNAMIC
    assert verdict.failure.fix == "export with a static batch and static shapes"


def test_an_open_batch_is_taken_as_one_and_other_open_sizes_are_noted(tmp_path):
    for signature, notes in ([-1, 4], 0), ([-1, -1], 1):
        made, operators = unary("TANH", [1, 4], [1, 4])
        made[0].shapeSignature = signature
        verdict = check_edgetpu(write(tmp_path / "net.tflite", made, operators))
        assert (verdict.fully_mapped, len(verdict.doubts)) == (True, notes)


def test_what_depends_on_an_uncertain_operator_is_uncertain(tmp_path):
    """90,000 lies between the bounds of TRANSPOSE: it is mapped, or it and TANH are on the CPU."""
    tensors = [quantized("in", [1, 300, 300]), quantized("a", [1, 300, 300]), tensor("axes", [3], "INT32", [0, 2, 1])]
    tensors += [quantized("b", [1, 300, 300]), quantized("c", [1, 300, 300]), quantized("d", [1, 300, 300])]
    operators = [
        operator("LOGISTIC", [0], [1]),
        operator("TRANSPOSE", [1, 2], [3]),
        operator("LOGISTIC", [3], [4]),
        operator("ELU", [4], [5]),
    ]
    path = write(tmp_path / "net.tflite", tensors, operators)
    verdict = check_edgetpu(path)
    expected = [Confidence.OBSERVED, Confidence.BETWEEN, Confidence.DEPENDENT, Confidence.OBSERVED]
    assert [each.confidence for each in verdict.operators] == expected
    assert [each.mapped for each in verdict.operators] == [True, True, True, False]
    assert (verdict.uncertain, verdict.count_uncertain()) == (2, {"between bounds": 1, "depends on others": 1})
    several = check_edgetpu(path, multiple_subgraphs=True).operators
    assert [each.is_certain for each in several] == [True, False, True, True]


def test_what_comes_after_an_uncertain_cut_is_uncertain(tmp_path):
    """The documentation excludes the squeeze of an inner dimension; no file shows it."""
    tensors = [quantized("in", [1, 4, 1, 4]), quantized("a", [1, 4, 4]), quantized("b", [1, 4, 4])]
    operators = [
        operator("LOGISTIC", [0], [3]),
        operator("SQUEEZE", [3], [1], "SqueezeOptions", squeezeDims=[]),
        operator("LOGISTIC", [1], [2]),
    ]
    tensors += [quantized("c", [1, 4, 1, 4])]
    verdict = check_edgetpu(write(tmp_path / "net.tflite", tensors, operators))
    assert [each.rule for each in verdict.operators] == [None, "squeeze", "one-part"]
    confidence = [each.confidence for each in verdict.operators]
    assert confidence == [Confidence.OBSERVED, Confidence.DOCUMENTED, Confidence.DEPENDENT]


def test_what_one_author_knows_may_be_left_out(tmp_path):
    path = write(tmp_path / "net.tflite", *unary("TILE", [1, 1, 1, 1], [1, 33, 33, 1]))
    assert [check_edgetpu(path, without=names).mapped for names in ((), ["elsewhere"], "elsewhere")] == [1, 0, 0]


def test_a_large_map_is_a_doubt(tmp_path):
    """One of 16,777,216 elements did not compile, one of 25,165,824 did."""
    for elements, certain in ((1 << 24, False), ((1 << 24) - 1, True)):
        made, operators = unary("LOGISTIC", [1, elements, 1, 1], [1, elements, 1, 1])
        path = write(tmp_path / "net.tflite", made, operators)
        verdict = check_edgetpu(path)
        assert (verdict.compiles, verdict.mapped) == (True, 1)
        assert ("a map of" in verdict.operators[0].evidence) != certain


def test_an_operator_of_tensorflow_does_not_compile(tmp_path):
    tensors = [quantized(f"t{index}", [1, 4]) for index in range(3)]
    operators = [operator("RELU", [0], [1]), custom("FlexErf", [1], [2])]
    assert check_edgetpu(write(tmp_path / "net.tflite", tensors, operators)).failure.message == FailureMessage.FLEX


def test_what_is_no_source_file_is_refused_with_one_line(tmp_path):
    tensors = [quantized("in", [1, 4]), quantized("out", [1, 4])]
    compiled = write(tmp_path / "compiled.tflite", tensors, [custom("edgetpu-custom-op", [0], [1])])
    empty = write(tmp_path / "empty.tflite", tensors, [], outputs=[0])
    (tmp_path / "text.tflite").write_text("no file")
    for path, words in (
        (compiled, "compiled for the Edge TPU: 1 custom operator"),
        (empty, "has no operators"),
        ("text.tflite", "Expected"),
    ):
        with pytest.raises(InputError, match=words):
            check_edgetpu(tmp_path / path)


@pytest.mark.parametrize(
    ("size", "state", "streamed"),
    [(11, "on-chip", 0), (69, "usually on-chip", 0), (70, "usually streamed", 0), (182, "streamed", 100)],
)
def test_parameters_lie_on_the_chip_as_far_as_they_fit(tmp_path, monkeypatch, size, state, streamed):
    for name, limit in (("MIN", 11), ("USUAL", 69), ("MAX", 82)):
        monkeypatch.setattr(memory_module, f"{name}_PARAMETER_MEMORY", limit)
    made = [quantized("in", [1, 4]), quantized("w", [size], data=1), quantized("out", [1, 4])]
    path = write(tmp_path / "net.tflite", made, [operator("MUL", [0, 1], [2], "MulOptions")])
    memory = check_edgetpu(path).memory
    assert (memory.parameter_bytes, memory.state, memory.streamed_bytes) == (size, state, streamed)


def test_shapes_and_what_is_not_mapped_are_no_parameters(tmp_path):
    tensors = [quantized("in", [1, 4]), tensor("shape", [2], "INT32", [4, 1]), quantized("out", [4, 1])]
    path = write(tmp_path / "net.tflite", tensors, [operator("RESHAPE", [0, 1], [2])])
    assert check_edgetpu(path).memory.parameter_bytes == 0


def test_the_document_names_every_operator(tmp_path):
    document = check_edgetpu(chain(tmp_path / "net.tflite", "RELU", "ELU")).to_json()
    assert document["schema"] == "keras_nin.edgetpu/1"
    assert [entry["index"] for entry in document["operators"]] == [0, 1]
    keys = {"index", "op", "layer", "mapped", "status", "why", "fix", "confidence", "evidence", "files", "authors"}
    assert keys <= set(document["operators"][0])
    assert (document["total"]["uncertain"], document["operators"][1]["confidence"]) == (1, "observed")
    total = document["total"]
    assert total["mapped"] + total["cpu"] + total["dropped"] == total["operators"] == 2


# the truth of others' files


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("edgetpu_verdicts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def truths(script, external_data):
    return script.read(external_data / "edgetpu", external_data / "edgetpu_more")


@pytest.mark.external
def test_all_evidence_explains_all_files(script, truths):
    by_author, disagreements, _ = script.evaluate(truths)
    assert disagreements == []
    assert script.total(by_author).cells() == ["119/119", "8310/8310", "78/78", "500/500", "113/113"]
    assert script.collect(truths) == json.loads(script.EVIDENCE.read_text())


@pytest.mark.external
def test_each_author_left_out(script, truths):
    """The estimate that the docs state; 99.5% of the certain verdicts have to be right."""
    by_author, _, verdicts = script.evaluate(truths, lambda truth: (truth.author,))
    assert script.total(by_author).cells() == ["102/119", "8192/8310", "65/78", "487/500", "113/113"]
    certain, wrong = 0, 0
    for truth, verdict in zip(truths, verdicts, strict=True):
        mistakes = script.find_wrong(truth, verdict)
        certain += sum(each.is_certain for each in verdict.operators)
        wrong += sum(each.is_certain and each.index in mistakes for each in verdict.operators)
    assert (certain, wrong) == (7996, 0)
