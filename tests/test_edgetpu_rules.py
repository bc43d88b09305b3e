"""Each rule of the Edge TPU's verdict, on the smallest file that breaks it and one beside it that does not."""

import pathlib

import pytest
from edge_networks import conv, quantized, unary
from tflite_writer import custom, generated, operator, tensor, write

from keras_nin.edge.edgetpu import Status, check_edgetpu
from keras_nin.edge.edgetpu.operators import bind_operators
from keras_nin.edge.edgetpu.rules import RULES, Origin, RuleSource
from keras_nin.report.edge import format_edgetpu_rules
from keras_nin.tflite.reader import read_model


def whole(*values):
    return tensor("axes", [len(values)], "INT32", list(values))


def pool(activation="NONE"):
    fused = getattr(generated.ActivationFunctionType, activation)
    return unary(
        "MAX_POOL_2D", [1, 8, 8, 4], [1, 4, 4, 4], "Pool2DOptions",
        strideW=2, strideH=2, filterWidth=2, filterHeight=2, fusedActivationFunction=fused,
    )  # fmt: skip


def concatenation(constant=None, count=2, activation="NONE", zero_point=0):
    fused = getattr(generated.ActivationFunctionType, activation)
    made = [quantized(f"in{i}", [1, 4, 4, 4]) for i in range(count)]
    if constant is not None:
        made[-1] = quantized("zeros", [1, 4, 4, 4], data=constant, zero_point=zero_point)
    made.append(quantized("out", [1, 4, 4, 4 * count]))
    options = {"axis": 3, "fusedActivationFunction": fused}
    return made, [operator("CONCATENATION", list(range(count)), [count], "ConcatenationOptions", **options)]


def pack(rank, axis=0):
    shape = [3] * (rank - 1)
    made = [quantized("a", shape), quantized("b", shape), quantized("out", [*shape[:axis], 2, *shape[axis:]])]
    return made, [operator("PACK", [0, 1], [2], "PackOptions", valuesCount=2, axis=axis)]


def split(axis, shape):
    half = [size // 2 if place == axis else size for place, size in enumerate(shape)]
    made = [quantized("in", shape), whole(axis), quantized("a", half), quantized("b", half)]
    made[1].shape = []
    return made, [operator("SPLIT", [1, 0], [2, 3], "SplitOptions", numSplits=2)]


def resize(before, after, op="RESIZE_BILINEAR"):
    shape = [1, *before, 4], [1, *after, 4]
    return unary(op, *shape, "ResizeBilinearOptions", (whole(*after),))


def reduce(op, shape, axes, after):
    return unary(op, shape, after, "ReducerOptions", (whole(*axes),), keepDims=False)


def softmax(*shape):
    return unary("SOFTMAX", shape, shape, "SoftmaxOptions", beta=1.0)


def fully_connected(rows=1, order="DEFAULT"):
    made = [quantized("in", [rows, 8]), quantized("w", [4, 8], data=1), quantized("out", [rows, 4])]
    order = getattr(generated.FullyConnectedOptionsWeightsFormat, order)
    return made, [operator("FULLY_CONNECTED", [0, 1, -1], [2], "FullyConnectedOptions", weightsFormat=order)]


def prelu(*alpha):
    return unary("PRELU", [1, 4, 4, 4], [1, 4, 4, 4], constants=(quantized("alpha", alpha, data=1),))


def strided_slice(stride=1, **masks):
    bounds = (whole(0, 0, 0, 0), whole(1, 4, 4, 4), whole(1, stride, 1, 1))
    return unary("STRIDED_SLICE", [1, 4, 4, 4], [1, 4, 4, 4], "StridedSliceOptions", bounds, **masks)


def squeeze(before, after):
    return unary("SQUEEZE", before, after, "SqueezeOptions", squeezeDims=[])


def expand(axis, before, after):
    return unary("EXPAND_DIMS", before, after, constants=(whole(axis),))


FLOAT = ("FLOAT32", "INT8")
CASES = {
    "float-boundary": (
        unary("QUANTIZE", [1, 4], [1, 4], dtypes=FLOAT),
        unary("QUANTIZE", [1, 4], [1, 4]),
    ),
    "data-type": (unary("DEQUANTIZE", [1, 4], [1, 4], dtypes=("INT8", "FLOAT32")), softmax(1, 4)),
    "unknown-operation": (unary("ELU", [1, 4], [1, 4]), unary("RELU", [1, 4], [1, 4])),
    "rank": (unary("TANH", [2, 4, 4, 4], [2, 4, 4, 4]), unary("TANH", [1, 1, 4, 4, 4], [1, 1, 4, 4, 4])),
    "dilation": (conv(dilation=2), conv()),
    "constant-weights": (conv(computed="weights"), conv()),
    "constant-bias": (conv(computed="bias"), conv()),
    "weights-format": (fully_connected(order="SHUFFLED4x16INT8"), fully_connected()),
    "pool-activation": (pool("RELU"), pool()),
    "concatenation-activation": (concatenation(activation="RELU"), concatenation()),
    "concatenation-constant": (concatenation(constant=1), concatenation(constant=-3, zero_point=-3)),
    "reduced-batch": (reduce("SUM", [1, 4, 4, 4], [0], [4, 4, 4]), reduce("SUM", [1, 4, 4, 4], [1, 2], [1, 4])),
    "mean-channels": (reduce("MEAN", [1, 4, 4, 6], [3], [1, 4, 4]), reduce("MEAN", [1, 4, 4, 8], [3], [1, 4, 4])),
    "mean-size": (reduce("MEAN", [1, 256, 128, 3], [1, 2], [1, 3]), reduce("MEAN", [1, 64, 128, 3], [1, 2], [1, 3])),
    "split-batch": (split(0, [4, 3, 2]), split(2, [4, 3, 2])),
    "expanded-batch": (expand(0, [4, 4, 4], [1, 4, 4, 4]), expand(0, [4, 4], [1, 4, 4])),
    "prelu-alpha": (prelu(4, 4, 4), prelu(1, 1, 4)),
    "resized-point": (resize((1, 1), (33, 33)), resize((2, 2), (33, 33))),
    "resized-size": (resize((512, 512), (1024, 1024)), resize((64, 64), (128, 128))),
    "softmax-rows": (softmax(2, 4), softmax(1, 4)),
    "softmax-mapped": (softmax(1, 16_385), softmax(1, 16_384)),
    "squeeze": (squeeze([1, 4, 1, 4], [1, 4, 4]), squeeze([1, 1, 4, 4], [1, 4, 4])),
    "stride": (strided_slice(stride=2), strided_slice()),
    "slice-mask": (strided_slice(newAxisMask=1), strided_slice(beginMask=1)),
}


@pytest.fixture
def verdict(tmp_path):
    """A function from (tensors, operators) to the verdict on that file; a LOGISTIC beside them keeps it quantised."""

    def of(made, **options):
        tensors, operators = made
        first = quantized("first", [1, 4]), quantized("first_out", [1, 4])
        count = len(tensors)
        whole_file = [*tensors, *first]
        more = operator("LOGISTIC", [count], [count + 1])
        ends = [*operators[-1].outputs, count + 1]
        path = write(tmp_path / "net.tflite", whole_file, [*operators, more], inputs=[0, count], outputs=ends)
        return check_edgetpu(path, multiple_subgraphs=True, **options)

    return of


@pytest.mark.parametrize("name", CASES)
def test_the_rule_refuses_what_breaks_it_alone(verdict, name):
    broken, fine = (verdict(made) for made in CASES[name])
    rule = next(rule for rule in RULES if rule.name == name)
    assert (broken.failure, fine.failure) == (None, None)
    first = broken.operators[0]
    assert first.rule == name
    assert not first.mapped
    assert first.why
    assert first.status == rule.status
    assert fine.operators[0].mapped, fine.operators[0]
    assert broken.operators[1].mapped


RED_A_X, LIBR = "R-e-d-a-X/EdgeTPU-and-NCS", "ricardodeazambuja/LibrEdgeTPU"
# Rules that files of a repository refute, which apply without these files.
REFUTED = {
    "vector-output": (RED_A_X, fully_connected(rows=3), fully_connected()),
    "reduced-first": (RED_A_X, reduce("SUM", [4, 2, 1], [0], [2, 1]), reduce("SUM", [4, 2, 1], [1], [4, 1])),
    "packed-first": (RED_A_X, pack(3), pack(3, axis=1)),
    "softmax-documented": (LIBR, softmax(1, 16_001), softmax(1, 16_000)),
}


@pytest.mark.parametrize("name", REFUTED)
def test_a_refuted_rule_applies_without_the_files_that_refute_it(verdict, name):
    repository, broken, fine = REFUTED[name]
    assert verdict(broken, without=repository).operators[0].rule == name
    assert verdict(fine, without=repository).operators[0].mapped
    assert verdict(broken).operators[0].mapped


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (reduce("MEAN", [1, 255, 128, 4], [1, 2], [1, 4]), None),
        (reduce("MEAN", [1, 256, 128, 4], [1], [1, 128, 4]), None),
        (reduce("MEAN", [1, 4, 4, 6], [1], [1, 4, 6]), None),
        (reduce("MEAN", [1, 4, 4, 6], [-1], [1, 4, 4]), "mean-channels"),
        (reduce("MEAN", [6], [0], [1]), None),
        (reduce("MEAN", [1, 6], [1], [1]), "mean-channels"),
        (resize((64, 64), (768, 1024)), "resized-size"),
        (resize((64, 64), (767, 1024)), None),
        (resize((1, 2), (33, 33)), None),
        (resize((2, 1), (33, 33)), None),
        (concatenation(constant=0, count=3), "concatenation-constant"),
        (concatenation(constant=1, zero_point=1), None),
        (expand(-4, [4, 4, 4], [1, 4, 4, 4]), "expanded-batch"),
        (expand(1, [4, 4, 4], [4, 1, 4, 4]), "rank"),
        (strided_slice(ellipsisMask=1), "slice-mask"),
        (squeeze([1, 4, 1], [4, 1]), None),
        (prelu(4), None),
        (prelu(1, 4, 1), "prelu-alpha"),
        (unary("TANH", [4], [4]), None),
    ],
)
def test_the_border_of_a_rule(verdict, made, rule):
    assert verdict(made).operators[0].rule == rule


FIRST, SECOND = (
    "SPLIT FILL TRANSPOSE_CONV",
    (
        "RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR PAD PADV2 MIRROR_PAD EXPAND_DIMS TILE BROADCAST_TO TRANSPOSE "
        "SPLIT_V MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD REDUCE_ANY REDUCE_ALL"
    ),
)


@pytest.mark.parametrize(
    ("names", "shapes"),
    [
        (FIRST, [0]),
        (SECOND, [1]),
        ("SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND SLICE", [1, 2]),
        ("STRIDED_SLICE", [1, 2, 3]),
        ("ADD CONV_2D", []),
    ],
)
def test_which_inputs_are_data_and_which_are_shapes(tmp_path, names, shapes):
    """As the kernels of TensorFlow Lite read them."""
    tensors = [*(quantized(str(index), [1, 4]) for index in range(4)), quantized("out", [1, 4])]
    windows = {"CONV_2D": "Conv2DOptions", "TRANSPOSE_CONV": "TransposeConvOptions"}
    for op in names.split():
        strides = {"options": windows[op], "strideH": 1, "strideW": 1} if op in windows else {}
        path = write(tmp_path / "net.tflite", tensors, [operator(op, [0, 1, 2, 3], [4], **strides)], inputs=range(4))
        (bound,) = bind_operators(read_model(path))
        assert (bound.data.name, bound.output.name) == ({"SPLIT": "1", "TRANSPOSE_CONV": "2"}.get(op, "0"), "out")
        assert [each.name for each in bound.shape_operands] == list(map(str, shapes)), op
        assert (bound.input(4), bound.constant_values(0), bound.axes(0)) == (None, None, None)


@pytest.mark.parametrize("dtype", ["INT8", "INT32", "FLOAT32"])
def test_constants_are_read_in_every_type(tmp_path, dtype):
    tensors = [quantized("in", [1, 4, 4]), tensor("c", [3], dtype, [-1, 0, 2]), quantized("out", [1, 4])]
    path = write(tmp_path / "net.tflite", tensors, [operator("MEAN", [0, 1], [2])])
    (bound,) = bind_operators(read_model(path))
    assert bound.constant_values(1) == [-1, 0, 2]
    assert bound.axes(1) == [0, 2]


def test_every_rule_that_holds_has_a_case():
    assert set(CASES) == {rule.name for rule in RULES if rule.source.applies()}
    assert set(REFUTED) == {rule.name for rule in RULES if not rule.source.applies()}


def test_the_documentation_lists_every_rule():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "concepts" / "edgetpu_evidence.md").read_text()
    assert format_edgetpu_rules(RULES) in text


def test_every_rule_says_where_it_is_from():
    for rule in RULES:
        assert rule.source.kind in Origin
        assert rule.source.text
        assert rule.limit
        assert rule.status in Status
        assert bool(rule.source.learned_from) == (rule.source.kind is Origin.DATA), rule.name
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_what_one_repository_taught_is_forgotten_without_it():
    learned = RuleSource(Origin.DATA, "seen", learned_from=("a",))
    assert (learned.applies(), learned.applies("a"), learned.applies("b")) == (True, False, True)
    twice = RuleSource(Origin.DATA, "seen", learned_from=("a", "b"))
    assert (twice.applies("a"), twice.applies("b")) == (True, True)
    refuted = RuleSource(Origin.DOCUMENT, "page", refuted_by=("a",))
    assert (refuted.applies(), refuted.applies("a"), refuted.applies("b")) == (False, True, False)


def test_the_data_type_goes_before_the_unknown_operation(verdict):
    made = unary("GATHER", [1, 8], [1, 8], "GatherOptions", (tensor("i", [8], "INT32", 0),))
    assert verdict(made).operators[0].status == Status.NOT_SUPPORTED
    made[0][0].type = made[0][-1].type = generated.TensorType.INT32
    assert verdict(made).operators[0].status == Status.DATA_TYPE


def test_a_custom_operator_is_custom_in_the_table(verdict):
    made = [quantized("in", [1, 4]), tensor("out", [1, 4], "FLOAT32")], [custom("Decoder", [0], [1])]
    found = verdict(made)
    assert found.operators[0].op == "Decoder"
    assert found.count_rows()["CUSTOM", Status.DATA_TYPE] == 1
    assert found.count_cpu_operators() == {"Decoder": 1}


@pytest.mark.parametrize(
    ("op", "words"), [("LEAKY_RELU", "ReLU"), ("LOCAL_RESPONSE_NORMALIZATION", "BatchNormalization")]
)
def test_the_fix_names_what_may_stand_for_an_operation(verdict, op, words):
    assert words in verdict(unary(op, [1, 4], [1, 4])).operators[0].fix


def test_a_float_operator_inside_is_to_be_quantized(verdict):
    ends = [tensor("in", [1, 4], "FLOAT32"), tensor("mid", [1, 4], "FLOAT32"), quantized("out", [1, 4])]
    found = verdict((ends, [operator("TANH", [0], [1]), operator("QUANTIZE", [1], [2])]))
    assert found.operators[1].fix == "quantize the floating-point operator beside it"
    ends = [quantized("in", [1, 4]), tensor("mid", [1, 4], "FLOAT32"), tensor("out", [1, 4], "FLOAT32")]
    found = verdict((ends, [operator("DEQUANTIZE", [0], [1]), operator("TANH", [1], [2])]))
    assert found.operators[0].fix == "quantize the floating-point operator beside it"


@pytest.mark.parametrize("made", [pack(4), unary("PAD", [1, 4, 4, 4], [3, 4, 4, 4], constants=(whole(1, 1),))])
def test_a_batch_that_comes_of_packing_or_padding_is_an_unsupported_rank(verdict, made):
    assert verdict(made).operators[0].status == Status.RANK
