"""Audits of .tflite files: operators written by hand, and files of the zoo against the Keras audit."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl
from tflite_writer import custom, operator, tensor, write

from keras_nin import InputError
from keras_nin.audit import audit_model, tflite_reader

# The converter's and the runtime's own remarks.
pytestmark = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs", "ignore:Warning. Enabling")


def only_row(path):
    (row,) = audit_model(path).rows
    return row


def figures(row):
    return row.type, row.kind, row.kernel, row.params, row.weight_bytes, row.macs


@pytest.fixture
def file(tmp_path):
    """Write operators and tensors to a file and return its path."""
    return lambda *content, **fields: write(tmp_path / "net.tflite", *content, **fields)


# Operators


def conv(
    file, inputs=3, filters=(4, 3, 3, 3), out=(1, 4, 4, 4), image=(1, 8, 8, 3), op="CONV_2D", options="Conv2DOptions"
):
    tensors = [tensor("x", image), tensor("w", filters, data=1), tensor("b", [4], "INT32", data=4), tensor("y", out)]
    operands = [0, 1, 2][:inputs]
    return file(tensors, [operator(op, operands, [3], options, strideW=2, strideH=2, fusedActivationFunction=3)])


def test_a_convolution(file):
    row = only_row(conv(file))
    assert figures(row) == ("CONV_2D", "spatial", (3, 3), 4 * 27 + 4, 4 * 27 + 4 * 4, 4 * 4 * 4 * 27)
    assert (row.input_shape, row.output_shape, row.activation_bytes) == ((1, 8, 8, 3), (1, 4, 4, 4), 64)
    assert (row.trainable_params, row.activation_evaluations, row.receptive_field) == (0, 64, (3, 3))


def test_a_convolution_in_groups(file):
    row = only_row(conv(file, inputs=2, image=(1, 8, 8, 6)))
    assert (row.params, row.macs) == (4 * 27, 4 * 4 * 4 * 27)
    layer = tflite_reader.read_tflite_graph(conv(file, inputs=2, image=(1, 8, 8, 6))).layers[0]
    assert (layer.op, layer.groups, layer.use_bias, layer.padding) == ("Conv2D", 2, False, "same")
    assert (layer.strides, layer.activation) == ((2, 2), "relu6")


def test_a_depthwise_convolution(file):
    path = conv(file, 2, (1, 3, 3, 6), (1, 4, 4, 6), op="DEPTHWISE_CONV_2D", options="DepthwiseConv2DOptions")
    assert figures(only_row(path)) == ("DEPTHWISE_CONV_2D", "depthwise", (3, 3), 54, 54, 4 * 4 * 6 * 9)


def test_a_transposed_convolution_counts_its_input_positions(file):
    tensors = [
        *(tensor("shape", [4], "INT32", data=4), tensor("w", [5, 3, 3, 3], data=1), tensor("x", [1, 8, 8, 3])),
        tensor("y", [1, 16, 16, 5]),
    ]
    made = operator("TRANSPOSE_CONV", [0, 1, 2], [3], "TransposeConvOptions", strideW=2, strideH=2)
    row = only_row(file(tensors, [made], inputs=[2]))
    assert figures(row) == ("TRANSPOSE_CONV", "spatial", (3, 3), 5 * 27, 5 * 27, 8 * 8 * 3 * 9 * 5)


@pytest.mark.parametrize(
    ("image", "out", "keep", "expected"),
    [
        ((1, 6), (1, 5), False, ("dense", 30, (1, 6))),
        ((1, 2, 2, 6), (4, 5), False, ("dense", 4 * 30, (4, 6))),
        ((1, 1, 2, 3), (1, 5), False, ("dense", 30, (1, 6))),
        ((1, 2, 2, 6), (1, 2, 2, 5), True, ("pointwise", 4 * 30, (1, 2, 2, 6))),
    ],
)
def test_a_fully_connected_operator(file, image, out, keep, expected):
    tensors = [tensor("x", image), tensor("w", [5, 6], data=1), tensor("y", out)]
    row = only_row(file(tensors, [operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions", keepNumDims=keep)]))
    assert (row.kind, row.macs, row.input_shape) == expected
    assert row.params == 30


def test_constant_rows_times_computed_weights(file):
    tensors = [tensor("rows", [2, 6], data=1), tensor("x", [5, 6]), tensor("y", [2, 5])]
    row = only_row(file(tensors, [operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions")], inputs=[1]))
    assert (row.kind, row.params, row.macs) == ("dense", 12, 2 * 6 * 5)


@pytest.mark.parametrize(
    ("x", "w", "out", "adj", "kind", "macs"),
    [
        ((1, 7, 6), (6, 5), (1, 7, 5), (False, False), "dense", 7 * 30),
        ((1, 7, 6), (5, 6), (1, 7, 5), (False, True), "dense", 7 * 30),
        ((1, 6, 7), (6, 5), (1, 7, 5), (True, False), "dense", 7 * 30),
        ((1, 2, 2, 6), (6, 5), (1, 2, 2, 5), (False, False), "pointwise", 4 * 30),
        ((3, 7, 6), (3, 6, 5), (3, 7, 5), (False, False), "dense", 7 * 30),  # of one of three samples
    ],
)
def test_a_product_with_a_constant(file, x, w, out, adj, kind, macs):
    tensors = [tensor("x", x), tensor("w", w, data=1), tensor("y", out)]
    row = only_row(
        file(tensors, [operator("BATCH_MATMUL", [0, 1], [2], "BatchMatMulOptions", adjX=adj[0], adjY=adj[1])])
    )
    assert (row.kind, row.params, row.macs) == (kind, np.prod(w), macs)


def test_a_constant_times_a_map(file):
    tensors = [tensor("w", [5, 6], data=1), tensor("x", [6, 7]), tensor("y", [5, 7])]
    row = only_row(file(tensors, [operator("BATCH_MATMUL", [0, 1], [2], "BatchMatMulOptions")], inputs=[1]))
    assert (row.params, row.macs) == (30, 5 * 6 * 7)


def test_a_mean_over_all_positions_is_a_global_pooling(file):
    for axes, rank_kind in (((1, 2), "pool"), ((-3, -2), "pool"), ((3,), "other")):
        tensors = [tensor("x", [1, 4, 4, 6]), tensor("axes", [len(axes)], "INT32", data=axes), tensor("y", [1, 6])]
        row = only_row(file(tensors, [operator("MEAN", [0, 1], [2], "ReducerOptions")]))
        assert (row.kind, row.params) == (rank_kind, 0)


def test_padding_of_positions_alone_is_zero_padding(file):
    for paddings, op in (((0, 0, 1, 1, 2, 2, 0, 0), "ZeroPadding2D"), ((0, 0, 0, 0, 0, 0, 1, 1), "Pad")):
        tensors = [tensor("x", [1, 4, 4, 6]), tensor("p", [4, 2], "INT32", data=paddings), tensor("y", [1, 6, 8, 6])]
        assert tflite_reader.read_tflite_graph(file(tensors, [operator("PAD", [0, 1], [2])])).layers[0].op == op


@pytest.mark.parametrize(("out", "op"), [((1, 8, 12, 6), "UpSampling2D"), ((1, 9, 9, 6), "Resizing")])
def test_resizing_by_whole_factors_is_an_upsampling(file, out, op):
    tensors = [tensor("x", [1, 4, 4, 6]), tensor("size", [2], "INT32", data=2), tensor("y", out)]
    made = operator("RESIZE_BILINEAR", [0, 1], [2], "ResizeBilinearOptions")
    layer = tflite_reader.read_tflite_graph(file(tensors, [made])).layers[0]
    assert (layer.op, layer.params) == (op, 0)
    assert op == "Resizing" or (layer.strides, layer.interpolation) == ((2, 3), "bilinear")


@pytest.mark.parametrize(
    ("op", "count", "kind"),
    [("ADD", 2, "merge"), ("MUL", 2, "merge"), ("MUL", 1, "other"), ("CONCATENATION", 2, "merge")]
    + [("LOGISTIC", 1, "activation"), ("RESHAPE", 1, "reshape"), ("QUANTIZE", 1, "other"), ("MAXIMUM", 2, "merge")],
)
def test_what_computes_no_products_is_free(file, op, count, kind):
    tensors = [*(tensor(f"x{each}", [1, 4]) for each in range(count)), tensor("y", [1, 4])]
    row = only_row(file(tensors, [operator(op, list(range(count)), [count])], inputs=list(range(count))))
    assert (row.type, row.kind, row.macs) == (op, kind, 0)


def test_custom_and_unknown_operators_are_not_guessed(file):
    tensors = [tensor("x", [1, 4]), tensor("w", [3], data=1), tensor("y", [1, 4]), tensor("z", [1, 4])]
    result = audit_model(file(tensors, [custom("CONV_2D", [0, 1], [2]), operator("SVDF", [2], [3])]))
    assert [(row.type, row.kind, row.macs, row.params) for row in result.rows] == [
        ("CONV_2D", "other", None, 3),
        ("SVDF", "other", None, 0),
    ]
    assert len(result.unknown) == 2


def test_weights_of_a_subgraph_count_once_and_its_macs_are_not_known(file):
    inner = (
        [tensor("in", [1, 4]), tensor("w", [4, 4], data=1), tensor("out", [1, 4])],
        [operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions")],
    )
    tensors = [tensor("x", [1, 4]), tensor("y", [1, 4]), tensor("z", [1, 4])]
    loops = [
        operator("WHILE", [at], [at + 1], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=1) for at in (0, 1)
    ]
    result = audit_model(file(tensors, loops, more=[inner]))
    assert [(row.macs, row.params) for row in result.rows] == [(None, 16), (None, 0)]


def test_an_open_size_is_no_reason_to_guess(file):
    image = tensor("x", [1, 8, 8, 3], shapeSignature=[-1, 8, 8, 3])
    mid = tensor("mid", [1, 1, 8, 3], shapeSignature=[-1, -1, 8, 3])
    tensors = [image, mid, tensor("w", [4, 1, 1, 3], data=1), tensor("y", [1, 1, 8, 4])]
    made = operator("CONV_2D", [1, 2], [3], "Conv2DOptions", strideW=1, strideH=1)
    assert [row.macs for row in audit_model(file(tensors, [custom("Cut", [0], [1]), made])).rows] == [None, None]
    tensors[0] = tensor("x", [1, 1, 8, 3], shapeSignature=[1, -1, 8, 3])
    with pytest.raises(InputError, match="whose input 'x' is open at axis 1. Convert the model for one input size"):
        audit_model(file(tensors, [custom("Cut", [0], [1]), made]))


def test_macs_are_those_of_one_sample_of_the_batch(file):
    def audit_batch(first, last):
        tensors = [tensor("x", [first, 6]), tensor("w", [5, 6], data=1), tensor("y", [last, 5])]
        if first != last:
            tensors += [tensor("r", [last, 1, 5])]
        made = [operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions")]
        return audit_model(file(tensors, made + [operator("RESHAPE", [2], [3])] * (first != last)))

    sixteen, one = audit_batch(16, 16), audit_batch(1, 1)
    assert (sixteen.batch, one.batch) == (16, 1)
    assert sixteen.total.macs == sixteen.rows[0].macs == one.total.macs == 30
    assert (sixteen.total.peak_activation_bytes, one.total.peak_activation_bytes) == (16 * 11, 11)
    assert sixteen.rows[0].arithmetic_intensity == 16 * 30 / (16 * 11 + 30)
    assert "30 MACs per sample (batch 16)" in str(sixteen)
    assert "A run takes 16 samples at once" in str(sixteen)
    assert "per sample" not in str(one)
    assert sixteen.to_json()["batch"] == 16


# Layers of several products, and products of volumes


def test_volumes(file):
    shapes = {"x": [1, 6, 7, 8, 4], "w": [2, 3, 3, 4, 5], "y": [1, 5, 5, 6, 5]}
    tensors = [*(tensor(name, shapes[name], data=1 if name == "w" else None) for name in ("x", "w", "y"))]
    row = only_row(file(tensors, [operator("CONV_3D", [0, 1], [2], "Conv3DOptions", strideD=1, strideW=1, strideH=1)]))
    assert (row.kind, row.kernel, row.macs) == ("spatial", (2, 3, 3), 5 * 5 * 6 * 5 * 18 * 4)
    shapes = {"size": [5], "w": [2, 2, 2, 5, 4], "x": [1, 3, 3, 3, 4], "y": [1, 6, 6, 6, 5]}
    tensors = [
        tensor("size", [5], "INT32", data=[1, 6, 6, 6, 5]), tensor("w", shapes["w"], data=1),
        tensor("x", shapes["x"]), tensor("y", shapes["y"]),
    ]  # fmt: skip
    made = operator("CONV_3D_TRANSPOSE", [0, 1, 2], [3], "Conv3DOptions", strideD=2, strideW=2, strideH=2)
    row = only_row(file(tensors, [made], inputs=(2,)))
    assert (row.kind, row.macs, row.params) == ("spatial", 27 * 4 * 8 * 5, 160)


def test_a_recurrent_operator_multiplies_every_step_with_all_its_matrices(file):
    steps, width, units = 7, 3, 5
    weights = [tensor(f"w{gate}", [units, width], data=1) for gate in range(4)]
    weights += [tensor(f"r{gate}", [units, units], data=1) for gate in range(4)]
    biases = [tensor(f"b{gate}", [units], "INT32", data=1) for gate in range(4)]
    states = [tensor(name, [1, units], isVariable=True) for name in ("output", "cell")]
    tensors = [tensor("x", [1, steps, width]), *weights, *biases, *states, tensor("y", [1, steps, units])]
    inputs = [*range(9), -1, -1, -1, *range(9, 13), -1, -1, 13, 14]
    row = only_row(file(tensors, [operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [15])]))
    assert row.macs == steps * 4 * units * (width + units)


def loop(file, limit=6, step=2, start=1, condition="LESS", kept=True):
    """A WHILE that counts from `start` to `limit` in steps and computes a product of 4 x 4 each time."""
    scalars = [tensor("start", [], "INT32", data=start), tensor("limit", [], "INT32", data=limit)]
    main = [*scalars, tensor("x", [1, 4]), tensor("n", [], "INT32"), tensor("m", [], "INT32"), tensor("y", [1, 4])]
    test = [*(tensor(name, [], "INT32") for name in "ij"), tensor("v", [1, 4]), tensor("go", [], "INT32")]
    body = [
        *(tensor(name, [], "INT32") for name in "ij"), tensor("v", [1, 4]), tensor("one", [], "INT32", data=step),
        tensor("w", [4, 4], data=1), tensor("next", [], "INT32"), tensor("out", [1, 4]), tensor("k", [], "INT32"),
    ]  # fmt: skip
    body_operators = [
        *(operator("ADD", [0, 3], [5]), operator("FULLY_CONNECTED", [2, 4], [6], "FullyConnectedOptions")),
        operator("ABS", [1], [7]),
    ]
    made = operator("WHILE", [0, 1, 2], [3, 4, 5], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
    more = [
        (test, [operator(condition, [0, 1], [3])], [0, 1, 2], [3]),
        (body, body_operators, [0, 1, 2], [5, 1 if kept else 7, 6]),
    ]
    return audit_model(file(main, [made], inputs=[2], outputs=[5], more=more))


def test_a_loop_of_a_fixed_number_of_steps_is_counted(file):
    result = loop(file)
    assert (result.total.macs, result.total.params, result.unknown) == (3 * 16, 16, ())  # at 1, 3 and 5


@pytest.mark.parametrize("change", [{"condition": "GREATER"}, {"step": 0}, {"kept": False}])
def test_a_loop_that_may_end_at_any_step_is_not(file, change):
    result = loop(file, **change)
    assert result.unknown == (result.rows[0].name,)
    assert result.total.macs_unknown == 1


# Weights


def test_a_shared_buffer_counts_at_its_first_use(file):
    tensors = [tensor("x", [1, 4]), tensor("w", [4, 4], data=1), *(tensor(name, [1, 4]) for name in "abc")]
    made = [operator("FULLY_CONNECTED", [at, 1], [to], "FullyConnectedOptions") for at, to in ((0, 2), (2, 3), (3, 4))]
    assert [row.params for row in audit_model(file(tensors, made)).rows] == [16, 0, 0]


@pytest.mark.parametrize(("dtype", "size"), [("FLOAT16", 2), ("INT8", 1)])
def test_weights_behind_dequantize_belong_to_what_computes_with_them(file, dtype, size):
    tensors = [
        *(tensor("x", [1, 4, 4, 3], "FLOAT32"), tensor("w16", [5, 1, 1, 3], dtype, data=1)),
        *(tensor("w", [5, 1, 1, 3], "FLOAT32"), tensor("y", [1, 4, 4, 5], "FLOAT32")),
    ]
    made = [operator("DEQUANTIZE", [1], [2]), operator("CONV_2D", [0, 2], [3], "Conv2DOptions", strideW=1, strideH=1)]
    widen, row = audit_model(file(tensors, made)).rows
    assert (widen.params, widen.weight_bytes, widen.macs, widen.activation_bytes, widen.output_shape) == (
        0,
        0,
        0,
        0,
        None,
    )
    assert (row.kind, row.params, row.weight_bytes, row.macs) == ("pointwise", 15, 15 * size, 16 * 15)
    assert row.receptive_field == (1, 1)


# What contradicts itself


def dense_file(file, **changes):
    parts = {"w": [5, 6], "x": [1, 6], "y": [1, 5]} | changes
    tensors = [tensor("x", parts["x"]), tensor("w", parts["w"], data=1), tensor("y", parts["y"])]
    return file(tensors, [operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions")])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: conv(file, out=(1, 4, 4, 5)), "do not lead from 3 to 5 channels"),
        (lambda file: conv(file, image=(1, 8, 8, 4)), "do not lead from 4 to 4 channels"),
        (lambda file: conv(file, image=(1, 8, 3)), "input 0 should have 4 dimensions"),
        (lambda file: conv(file, image=(1, 8, 8, 0)), "do not lead from 0 to 4 channels"),
        (lambda file: conv(file, inputs=1), "input 1 should have 4 dimensions, its shape is none"),
        (lambda file: dense_file(file, x=[1, 7]), "weights of shape (5, 6) do not lead from (1, 7) to (1, 5)"),
        (lambda file: dense_file(file, w=[6]), "weights of 2 dimensions"),
        (lambda file: dense_file(file, x=[1] * 4 + [2**31 - 1] * 3), "is larger than any memory"),
        (lambda file: dense_file(file, x=[1] * 300), "has 300 dimensions, more than 254"),
        (
            lambda file: file([tensor("x", [4]), tensor("y", [4]), tensor("z", [4])], [operator("ADD", [0, 2], [1])]),
            "operator 0 (ADD) reads tensor 2, which nothing before it computes",
        ),
        (
            lambda file: file([tensor("x", [4]), tensor("y", [4])], [operator("ABS", [0], [1])] * 2),
            "tensor 1 is computed twice",
        ),
        (
            lambda file: file([tensor("x", [4]), tensor("y", [4])], [operator("ABS", [0], [0])]),
            "tensor 0 is computed twice",
        ),
        (
            lambda file: file([tensor("x", [4]), tensor("y", [4])], []),
            "the network reads tensor 1, which nothing before it computes",
        ),
    ],
)
def test_contradictions_are_refused_in_one_line(file, make, message):
    path = make(file)
    with pytest.raises(InputError) as caught:
        audit_model(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Names


def convolutions(file, names, ops=None):
    """Return the names of convolutions whose outputs and kernels are called `names`."""
    tensors = [tensor("x", [1, 4, 4, 4])]
    made = []
    for (output, kernel), op in zip(names, ops or ["CONV_2D"] * len(names), strict=True):
        before = len(tensors) - 1
        tensors += [tensor(kernel, [1, 1, 1, 4] if "DEPTH" in op else [4, 1, 1, 4], data=len(tensors) % 8)]
        tensors += [tensor(output, [1, 4, 4, 4])]
        options = {
            "options": "DepthwiseConv2DOptions" if "DEPTH" in op else "Conv2DOptions",
            "strideW": 1,
            "strideH": 1,
        }
        made.append(operator(op, [before, before + 1], [before + 2], **options))
    return [row.name for row in audit_model(file(tensors, made)).rows]


def test_a_constant_that_operators_share_does_not_name_them(file):
    """As in DeepLab and MobileNet of TensorFlow 1: the zeros of one layer's bias stand in the names of all others."""
    names = [
        (
            "net/Conv/Relu6;net/Conv/add_fold;net/block_5/project/Conv2D_Fold;net/Conv/Conv2D_Fold",
            "net/Conv/Conv2D_Fold",
        ),
        ("net/block/depthwise/Relu6;net/block_5/project/Conv2D_Fold;net/block/depthwise/depthwise_Fold", "w"),
        ("net/block_5/project/add_fold;net/block_5/project/Conv2D_Fold", "net/block_5/project/Conv2D_Fold;quant"),
    ]
    ops = ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert convolutions(file, names, ops) == ["Conv", "block/depthwise", "block_5/project"]
    norm = "BatchNorm/batchnorm_1/add_1"
    names = [
        (f"net/conv_0/Relu6;net/conv_0/{norm};net/last/{norm}/conv;net/conv_0/{norm}/conv", f"net/conv_0/{norm}/conv"),
        (f"net/last/{norm};net/last/{norm}/conv", f"net/last/{norm}/conv"),
    ]
    assert convolutions(file, names) == ["conv_0", "last"]
    names = [("StatefulPartitionedCall:0", "net/size_1/Conv2D"), ("net/dense/Tensordot/MatMul1", "w")]
    assert convolutions(file, names) == ["size_1", "dense"]
    names = [("net/act/Relu", "net/conv/Conv2D/ReadVariableOp"), ("net/act_1/Relu", "net/Conv/weights_quant/FakeQuant")]
    assert convolutions(file, names) == ["conv", "Conv"]


def test_casts_and_activations_are_named_for_what_they_follow(file):
    tensors = [tensor("x", [1, 6]), tensor("w", [5, 6], data=1), *(tensor(name, [1, 5]) for name in (
        "net/classes/MatMul1", "StatefulPartitionedCall:0", "StatefulPartitionedCall:01"))]  # fmt: skip
    made = [
        operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions"),
        *(operator("SOFTMAX", [2], [3]), operator("QUANTIZE", [3], [4])),
    ]
    rows = audit_model(file(tensors, made)).rows
    assert [row.name for row in rows] == ["classes", "classes/SOFTMAX", "classes/QUANTIZE"]


def named(file, names, layers=None):
    tensors = [tensor("x", [1, 4]), *(tensor(name, [1, 4]) for name in names)]
    path = file(tensors, [operator("ABS", [at], [at + 1]) for at in range(len(names))])
    return [row.name for row in audit_model(path).rows]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["net/conv1/Relu;net/conv1/BiasAdd", "net/pool/MaxPool"], ["conv1", "pool"]),
        (["m_1/net/conv1._1/Relu", "m_1/net/conv1_1._1/BiasAdd"], ["conv1", "conv1_1"]),
        (["net/act/Relu;net/bn/add;net/c/Conv2D;net/b", "StatefulPartitionedCall:0"], ["c", "abs"]),
        (["net/block/conv/Relu", "net/block/conv_2/Relu"], ["conv", "conv_2"]),
        (["net/a/conv/Relu", "net/b/conv/Relu"], ["a/conv", "b/conv"]),
        (["same", "same", "same"], ["same", "same (2)", "same (3)"]),
        (["", "\x1b[31mred\nblue"], ["abs", "\\x1b[31mred\\nblue"]),
    ],
)
def test_names_are_read_off_the_tensors(file, names, expected):
    assert named(file, names) == expected


def test_very_long_names_are_shortened(file):
    (name,) = named(file, ["n" * 100_000])
    assert len(name) < 200


@pytest.fixture
def digits(exported):
    """The exports of nin_digits by scheme, each with the record beside it."""
    return {scheme: exported("nin_digits", scheme, weights="digits") for scheme in ("float32", "int8")}


def copied(path, folder, change=None):
    """Copy a file, and its record as `change` leaves it."""
    to = folder / path.name
    to.write_bytes(path.read_bytes())
    document = json.loads(path.with_suffix(".json").read_text())
    to.with_suffix(".json").write_text(json.dumps(change(document) if change else document))
    return to


def renamed(document):
    return document | {"operators": [each | {"layer": f"own/{each['index']}"} for each in document["operators"]]}


def test_the_record_beside_a_file_names_its_layers(digits, tmp_path):
    path = copied(digits["int8"], tmp_path, renamed)
    assert [row.name for row in audit_model(path).rows] == [f"own/{index}" for index in range(13)]
    assert audit_model(path).rows[0].block == "own"


@pytest.mark.parametrize(
    "change",
    [
        lambda document: renamed(document) | {"sha256": "0" * 64},
        lambda document: renamed(document) | {"bytes": 1},
        lambda document: renamed(document) | {"schema": "another/1"},
        lambda document: renamed(document) | {"operators": renamed(document)["operators"][1:]},
        lambda document: renamed(document) | {"operators": [{"op": 1}] * 13},
        lambda document: [document],
    ],
)
def test_a_record_of_another_file_names_nothing(digits, tmp_path, change):
    path = copied(digits["int8"], tmp_path, change)
    assert audit_model(path).rows[0].name == "mlpconv1_conv3x3"
    assert tflite_reader.read_tflite_network(path).recorded_layers is None


def test_operators_of_one_layer_have_their_type_behind_its_name(tmp_path):
    names = ("net/classes/MatMul", "net/classes/Softmax", "net/other/Relu")
    tensors = [tensor("x", [1, 6]), tensor("w", [5, 6], data=1), *(tensor(name, [1, 5]) for name in names)]
    made = [
        operator("FULLY_CONNECTED", [0, 1], [2], "FullyConnectedOptions"),
        *(operator("SOFTMAX", [2], [3]), operator("RELU", [3], [4])),
    ]
    path = write(tmp_path / "net.tflite", tensors, made)
    assert [row.name for row in audit_model(path).rows] == ["classes", "classes/SOFTMAX", "other"]


# Whole networks


@pytest.mark.slow
def test_peak_memory_of_squeezenet_is_in_the_files_own_type(build, exported):
    file = audit_model(exported("squeezenet_v1_1", "float32"))
    assert file.total.peak_activation_bytes == audit_model(build("squeezenet_v1_1")).total.peak_activation_bytes
    assert file.total.peak_activation_bytes == 4 * 982_144


def test_weight_bytes_are_those_of_the_file(digits):
    sizes = {scheme: sum(row.weight_bytes for row in audit_model(path).rows) for scheme, path in digits.items()}
    assert sizes["float32"] == 4 * 50_482
    biases = 3 * 48 + 32 + 24 + 2 * 64 + 48 + 10
    assert sizes["int8"] == 50_482 - biases + 4 * biases


def with_converter(model, **settings):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    for name, value in settings.items():
        setattr(converter.target_spec, name, value)
    return converter.convert()


@pytest.mark.parametrize("scheme", ["float16", "dynamic"])
def test_files_with_weights_in_another_type(scheme, tmp_path):
    """As others convert: an open batch, weights behind DEQUANTIZE or int8 beside float32."""
    import tensorflow as tf

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    stack = [kl.Conv2D(64, 3, name="conv"), kl.ReLU(name="relu"), kl.Conv2D(64, 1, name="mix"), kl.Flatten(name="flat")]
    model = keras.Sequential([keras.Input((8, 8, 16)), *stack, kl.Dense(10, name="classes")], name="net")
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape))
    path = tmp_path / "net.tflite"
    path.write_bytes(with_converter(model, **({"supported_types": [tf.float16]} if scheme == "float16" else {})))
    ours, theirs = audit_model(model), audit_model(path)
    assert (theirs.total.params, theirs.total.macs) == (ours.total.params, ours.total.macs)
    products = [row for row in theirs.rows if row.macs]
    assert [row.params for row in products] == [row.params for row in ours.rows if row.params]
    stored = sum(row.weight_bytes for row in theirs.rows)
    assert stored == (2 * ours.total.params if scheme == "float16" else ours.total.params + 3 * (64 + 64 + 10))


def test_a_file_is_audited_without_numpy_or_the_frameworks(digits):
    slow = ("numpy", "keras", "tensorflow", "flatbuffers", "ai_edge_litert", "sklearn")
    program = (
        f"import sys; from keras_nin.audit import audit_model; str(audit_model({str(digits['int8'])!r})); "
        f"print([name for name in {slow} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_name_can_be_given(digits):
    assert audit_model(digits["int8"], name="mine").model == "mine"
    assert audit_model(pathlib.Path(digits["int8"])).model == "nin_digits_int8"


@pytest.mark.external
def test_third_party_files(external_data):
    """Every file is audited, and the MACs of all its convolutions and products are known."""
    paths = sorted((external_data / "edgetpu").glob("*.tflite"))
    assert len(paths) == 103
    counted = 0
    for path in paths:
        result = audit_model(path)
        assert str(result)
        products = [row for row in result.rows if row.type in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
        assert all(row.macs for row in products), path
        counted += len(products)
    assert counted == 544 + 317 + 1875


@pytest.mark.external
def test_layers_of_a_third_party_file_have_their_own_names(external_data):
    """DeepLab, where the zeros of one layer's bias stand in the names of others."""
    rows = audit_model(external_data / "edgetpu" / "0470d2a782aa.tflite").rows
    kernels = [row.name for row in rows if row.kind in ("pointwise", "spatial", "depthwise")]
    assert kernels[:4] == [
        *("MobilenetV2/Conv", "MobilenetV2/expanded_conv/depthwise", "MobilenetV2/expanded_conv/project"),
        "MobilenetV2/expanded_conv_1/expand",
    ]
    assert len([name for name in kernels if name.endswith("/depthwise")]) == 17
    assert not [name for name in kernels if "(2)" in name]
