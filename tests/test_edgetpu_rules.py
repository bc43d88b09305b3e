"""Each rule of the Edge TPU's verdict, on the smallest file that breaks it and one beside it that does not."""

import pathlib

import pytest
from edge_networks import conv, quantized, unary
from tflite_writer import custom, generated, operator, tensor, write

from keras_nin.edge.edgetpu import Status, check_edgetpu
from keras_nin.edge.edgetpu.evidence import Bound, Evidence, Observations, Support, fit_evidence
from keras_nin.edge.edgetpu.operators import bind_operators
from keras_nin.edge.edgetpu.records import Confidence
from keras_nin.edge.edgetpu.rules import NEVER_OBSERVED, RULES, Origin
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


def resize(before, after, op="BILINEAR"):
    options = {"BILINEAR": "ResizeBilinearOptions", "NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions"}[op]
    return unary(f"RESIZE_{op}", [1, *before, 4], [1, *after, 4], options, (whole(*after),))


def reshape(before, after):
    return unary("RESHAPE", before, after, constants=(whole(*after),))


def transpose(*shape):
    return unary("TRANSPOSE", [1, *shape], [1, *shape[::-1]], constants=(whole(0, 3, 2, 1),))


def slice_rows(width, channels):
    bounds = (whole(0, 0, 0), whole(1, width, channels // 2), whole(1, 1, 1))
    return unary("STRIDED_SLICE", [1, width, channels], [1, width, channels // 2], "StridedSliceOptions", bounds)


def reduce(op, shape, axes, after):
    return unary(op, shape, after, "ReducerOptions", (whole(*axes),), keepDims=False)


def softmax(*shape):
    return unary("SOFTMAX", shape, shape, "SoftmaxOptions", beta=1.0)


def fully_connected(rows=1, order="DEFAULT", constant="w"):
    made = [quantized("in", [rows, 8]), quantized("w", [4, 8]), quantized("out", [rows, 4])]
    made[["in", "w"].index(constant)] = quantized(constant, [rows if constant == "in" else 4, 8], data=1)
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
    "dilation": (conv(dilation=2, kernel=(3, 3)), conv(dilation=2, kernel=(1, 3))),
    "constant-weights": (conv(computed="weights"), conv()),
    "constant-bias": (conv(computed="bias"), conv()),
    "weights-format": (fully_connected(order="SHUFFLED4x16INT8"), fully_connected()),
    "constant-data": (fully_connected(16_384, constant="in"), fully_connected(5_227, constant="in")),
    "pool-activation": (pool("RELU"), pool()),
    "concatenation-activation": (concatenation(activation="RELU"), concatenation()),
    "concatenation-constant": (concatenation(constant=1), concatenation(constant=-3, zero_point=-3)),
    "row-size": (unary("LOGISTIC", [1, 8, 84, 3600], [1, 8, 84, 3600]), unary("LOGISTIC", [84, 2320], [84, 2320])),
    "reduced-batch": (reduce("SUM", [1, 4, 4, 4], [0], [4, 4, 4]), reduce("SUM", [1, 4, 4, 4], [1, 2], [1, 4])),
    "mean-channels": (reduce("MEAN", [1, 4, 4, 6], [3], [1, 4, 4]), reduce("MEAN", [1, 4, 4, 8], [3], [1, 4, 4])),
    "mean-size": (reduce("MEAN", [1, 256, 128, 3], [1, 2], [1, 3]), reduce("MEAN", [1, 64, 128, 3], [1, 2], [1, 3])),
    "split-batch": (split(0, [4, 3, 2]), split(2, [4, 3, 2])),
    "expanded-batch": (expand(0, [4, 4, 4], [1, 4, 4, 4]), expand(0, [4, 4], [1, 4, 4])),
    "prelu-alpha": (prelu(4, 4, 4), prelu(1, 1, 4)),
    "bilinear-size": (resize((512, 512), (1024, 1024)), resize((64, 64), (117, 117))),
    "nearest-size": (
        resize((512, 512), (1024, 1024), "NEAREST_NEIGHBOR"),
        resize((64, 64), (452, 452), "NEAREST_NEIGHBOR"),
    ),
    "resized-point": (resize((1, 1), (33, 33)), resize((2, 2), (33, 33))),
    "softmax-rows": (softmax(1, 128, 128, 2), softmax(1, 4, 8400, 16)),
    "softmax-size": (softmax(1, 32_769), softmax(1, 16_384)),
    "reshape-row": (reshape([1, 144, 40, 40], [1, 144, 1600]), reshape([1, 40, 40, 85], [1, 1600, 85])),
    "reshape-size": (reshape([1, 80, 80, 255], [1, 6400, 3, 85]), reshape([1, 40, 40, 255], [1, 1600, 3, 85])),
    "transpose-size": (transpose(40, 40, 65), transpose(32, 32, 84)),
    "slice-row": (slice_rows(84, 2320), slice_rows(4, 8400)),
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


def test_a_refuted_rule_applies_without_the_files_that_refute_it(verdict):
    made, authors = fully_connected(rows=3), ("R-e-d-a-X", "MRezqalla", "MaxwellHogan")
    (refused, _), (mapped, _) = verdict(made, without=authors).operators, verdict(made).operators
    assert (refused.rule, refused.confidence, refused.evidence) == (
        "vector-output", Confidence.DOCUMENTED, NEVER_OBSERVED,
    )  # fmt: skip
    assert (mapped.mapped, mapped.confidence) == (True, Confidence.OBSERVED)
    assert verdict(made, without=authors[:2]).operators[0].mapped
    assert verdict(split(0, [4, 3, 2]), without=("R-e-d-a-X/EdgeTPU-and-NCS",)).operators[0].mapped


@pytest.mark.parametrize(
    ("made", "mapped", "confidence", "words"),
    [
        (transpose(32, 32, 84), True, Confidence.OBSERVED, "mapped in "),
        (
            transpose(1, 1, 90_000),
            True,
            Confidence.BETWEEN,
            "90,000 elements: the largest known to be mapped is 86,016",
        ),
        (transpose(1, 1, 100_000), False, Confidence.BETWEEN, "the smallest known not to be 104,000"),
        (transpose(1, 1, 104_000), False, Confidence.OBSERVED, "on the CPU in 4 files by 3 authors, from 104,000"),
        (pool("RELU"), False, Confidence.DOCUMENTED, NEVER_OBSERVED),
        (unary("L2_NORMALIZATION", [1, 8], [1, 8]), True, Confidence.DOCUMENTED, NEVER_OBSERVED),
        (softmax(1, 20_000), True, Confidence.BETWEEN, "the largest known to be mapped is 16,384, no limit is known"),
        (unary("TILE", [1, 1, 1, 1], [1, 33, 33, 1]), True, Confidence.OBSERVED, "mapped in 1 file by 1 author"),
    ],
)
def test_every_verdict_says_what_it_rests_on(verdict, made, mapped, confidence, words):
    operator = verdict(made).operators[0]
    assert (operator.mapped, operator.confidence, operator.is_certain) == (
        mapped, confidence, confidence == Confidence.OBSERVED,
    )  # fmt: skip
    assert words in operator.evidence
    assert (operator.files is not None) == (operator.authors is not None) == operator.is_certain


def test_a_bound_is_a_guess_between_what_was_accepted_and_refused():
    bound = Bound(100, 400)
    assert [bound.is_known(size) for size in (100, 101, 399, 400)] == [True, False, False, True]
    assert [bound.refuses(size) for size in (100, 200, 201, 400)] == [False, False, True, True]
    one_side = Bound(100, 0)
    assert [one_side.refuses(size) for size in (200, 201)] == [False, True]
    assert not one_side.is_known(101)
    other_side = Bound(0, 100)
    assert [other_side.refuses(size) for size in (50, 51, 100)] == [False, True, True]
    contradicted = Bound(400, 100)  # 100 was refused, 400 accepted
    assert [contradicted.is_known(size) for size in (99, 100, 400, 401)] == [True, False, False, True]


def test_evidence_is_fitted_without_the_authors_that_are_left_out():
    mine = Observations("a", "a/one", {"ADD": 2}, {"size": (10, 50)}, {"rule": 2}, {"other": 1})
    yours = Observations("b", "b/two", {"ADD": 1}, {"size": (20, 0)}, {"rule": 1})
    both, alone = Evidence([mine, yours]), Evidence([yours])
    assert (both.mapped("ADD"), alone.mapped("ADD")) == (Support(3, 2), Support(1, 1))
    assert (both.bound("size"), alone.bound("size")) == (Bound(20, 50), Bound(20, 0))
    assert (both.confirmed("rule"), both.refuted("other")) == (Support(3, 2), Support(1, 1))
    assert (alone.refuted("other"), alone.mapped("SUB"), alone.bound("none")) == (Support(), Support(), Bound(0, 0))
    assert fit_evidence(frozenset(["elsewhere"])).mapped("TILE") == Support()
    assert fit_evidence(frozenset(["MRezqalla"])).bound("transpose-size") == Bound(86_016, 104_000)


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (reduce("MEAN", [1, 256, 128, 4], [1], [1, 128, 4]), None),
        (reduce("MEAN", [1, 4, 4, 6], [1], [1, 4, 6]), None),
        (reduce("MEAN", [1, 4, 4, 6], [-1], [1, 4, 4]), "mean-channels"),
        (reduce("MEAN", [6], [0], [1]), None),
        (reduce("MEAN", [1, 6], [1], [1]), "mean-channels"),
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
    evidence = fit_evidence()
    assert set(CASES) == {rule.name for rule in RULES if rule.applies(evidence)}
    assert {rule.name for rule in RULES if not rule.applies(evidence)} == {"vector-output"}


def test_the_documentation_lists_every_rule():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "concepts" / "edgetpu_evidence.md").read_text()
    assert format_edgetpu_rules(RULES, fit_evidence()) in text


def test_every_rule_says_where_it_is_from():
    for rule in RULES:
        assert rule.source.kind in Origin
        assert rule.source.text
        assert rule.limit
        assert rule.status in Status
        assert (rule.size is None) == (not rule.unit), rule.name
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_data_type_goes_before_the_unknown_operation(verdict):
    made = unary("GATHER", [1, 8], [1, 8], "GatherOptions", (tensor("i", [8], "INT32", 0),))
    assert verdict(made).operators[0].status == Status.NOT_SUPPORTED
    made[0][0].type = made[0][-1].type = generated.TensorType.INT32
    assert verdict(made).operators[0].status == Status.DATA_TYPE


def test_a_float16_weight_file_gets_a_table_with_the_rank_first(tmp_path):
    """As in both files with float16 weights: the compiler prints a table and not that the model is not quantized."""
    made = [tensor("in", [1, 8, 8, 4], "FLOAT32"), tensor("bias16", [4], "FLOAT16", 0), tensor("bias", [4], "FLOAT32")]
    made += [tensor("w16", [4, 1, 1, 4], "FLOAT16", 0), tensor("w", [4, 1, 1, 4], "FLOAT32")]
    made += [tensor("out", [1, 8, 8, 4], "FLOAT32")]
    options = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    operators = [operator("DEQUANTIZE", [1], [2]), operator("DEQUANTIZE", [3], [4])]
    operators += [operator("CONV_2D", [0, 4, 2], [5], "Conv2DOptions", **options)]
    found = check_edgetpu(write(tmp_path / "net.tflite", made, operators, inputs=[0]))
    assert (found.failure, found.mapped) == (None, 0)
    assert [each.status for each in found.operators] == [Status.DATA_TYPE, Status.RANK, Status.DATA_TYPE]


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
