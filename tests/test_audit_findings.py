"""Findings: each rule where it holds, where it must be silent, and its savings against rebuilt networks."""

import dataclasses
import sys

import keras
import pytest

from keras_nin import layers
from keras_nin.audit import audit_model
from keras_nin.audit.findings import find_findings
from keras_nin.audit.graph import ActivationTensor, LayerGraph, LayerInfo

L = keras.layers
NONE = {"params": 0, "macs": 0, "bytes": 0}


@pytest.fixture(autouse=True)
def _fresh_names(structure_only):
    keras.backend.clear_session()


def network(shape, *parts):
    """A model of `parts`, functions on tensors, one after the other."""
    x = keras.Input(shape, name="image")
    y = x
    for part in parts:
        y = part(y)
    return keras.Model(x, y, name="network")


def found(model, rule):
    return [finding for finding in audit_model(model).findings if finding.rule == rule]


def the(model, rule):
    (finding,) = found(model, rule)
    return finding


def difference(before, after):
    """What `after` has less than `before`, by their totals."""
    rows = [audit_model(model) for model in (before, after)]
    totals = [(r.total.params, r.total.macs, sum(row.weight_bytes for row in r.rows)) for r in rows]
    return dict(zip(NONE, (a - b for a, b in zip(*totals, strict=True)), strict=True))


# a. 1x1 on one channel

ONE = "pointwise-on-one-channel"


@pytest.mark.parametrize("after", [(), (L.Conv2D,)])
def test_one_channel(after):
    rest = [layer(4, 3, use_bias=False, name="see") for layer in after]
    copies = [layer(4, 3, use_bias=False, name="see") for layer in after]
    before = network((8, 8, 1), L.Conv2D(16, 1, name="spread"), L.Dropout(0.1, name="drop"), *rest)
    finding = the(before, ONE)
    assert finding.layers == ("spread",)
    assert finding.saves == difference(before, network((8, 8, 1), L.Dropout(0.1, name="drop"), *copies))
    assert "all 16 outputs are that channel times a constant plus a bias (rank 1)" in finding.message


def test_one_channel_with_an_activation_says_before():
    finding = the(network((8, 8, 1), L.Conv2D(16, 1, activation="relu", name="spread")), ONE)
    assert "all 16 outputs, before the activation, are" in finding.message


def test_two_channels_and_3x3_are_not_one_channel():
    assert not found(network((8, 8, 2), L.Conv2D(16, 1)), ONE)
    assert not found(network((8, 8, 1), L.Conv2D(16, 3)), ONE)


# b. 1x1 layers with nothing non-linear between

PAIR = "collapsible-pointwise"


def test_a_pair_saves_what_the_one_layer_does_not_need():
    parts = [L.Conv2D(16, 1, use_bias=False, name="a"), L.BatchNormalization(name="bn"), L.Conv2D(8, 1, name="b")]
    before = network((8, 8, 12), *parts)
    finding = the(before, PAIR)
    assert finding.layers == ("a", "b")
    assert finding.saves == difference(before, network((8, 8, 12), L.Conv2D(8, 1, name="b")))
    assert finding.saves["params"] == (12 * 16 + 4 * 16 + 16 * 8 + 8) - (12 * 8 + 8)


def test_a_pair_with_strides():
    before = network((9, 9, 12), L.Conv2D(16, 1, strides=2, name="a"), L.Conv2D(8, 1, strides=2, name="b"))
    after = network((9, 9, 12), L.Conv2D(8, 1, strides=4, name="b"))
    assert before.output_shape == after.output_shape
    assert the(before, PAIR).saves == difference(before, after)


def test_a_low_rank_factorisation_is_no_pair_to_collapse():
    assert not found(network((8, 8, 64), L.Conv2D(8, 1), L.Conv2D(64, 1)), PAIR)
    # The norm's parameters would go, but the one layer has more MACs; before a stride it is the other way round.
    assert not found(network((8, 8, 8), L.Conv2D(3, 1), L.BatchNormalization(), L.Conv2D(7, 1)), PAIR)
    assert not found(network((8, 8, 64), L.Conv2D(16, 1), L.Conv2D(64, 1, strides=2)), PAIR)


def test_a_row_of_linear_layers_is_one_finding_and_stops_where_it_would_cost():
    row = network((8, 8, 6), *(L.Conv2D(6, 1, name=name) for name in "abc"))
    assert the(row, PAIR).layers == ("a", "b", "c")
    assert the(row, PAIR).saves == difference(row, network((8, 8, 6), L.Conv2D(6, 1)))
    widths = {"a": 16, "b": 2, "c": 16}
    narrow = network((8, 8, 16), *(L.Conv2D(width, 1, name=name) for name, width in widths.items()))
    assert the(narrow, PAIR).layers == ("a", "b")


def test_the_half_of_a_separable_convolution_is_a_1x1_layer():
    model = network((8, 8, 6), L.SeparableConv2D(6, 3, name="sep"), L.Conv2D(6, 1, name="mix"))
    assert the(model, PAIR).layers == ("sep/pointwise", "mix")


# c. 1x1 before an average

AVERAGE = "pointwise-before-average-pool"


def test_before_a_global_average():
    before = network((7, 5, 12), L.Conv2D(10, 1, name="classes"), L.GlobalAveragePooling2D(name="pool"))
    after = network((7, 5, 12), L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(10, 1))
    finding = the(before, AVERAGE)
    assert finding.layers == ("classes", "pool")
    assert finding.saves == difference(before, after)
    assert finding.saves == {"params": 0, "macs": (35 - 1) * 12 * 10, "bytes": 0}


def test_before_the_average_of_a_window_as_in_densenet():
    before = network((8, 8, 12), L.Conv2D(6, 1), L.AveragePooling2D(2), L.ReLU())
    after = network((8, 8, 12), L.AveragePooling2D(2), L.Conv2D(6, 1), L.ReLU())
    assert the(before, AVERAGE).saves == difference(before, after)


@pytest.mark.parametrize(
    "parts",
    [
        lambda: (L.Conv2D(10, 1, activation="relu"), L.GlobalAveragePooling2D()),
        lambda: (L.Conv2D(10, 1), L.ReLU(), L.GlobalAveragePooling2D()),
        lambda: (L.Conv2D(10, 1), L.GlobalMaxPooling2D()),
        lambda: (L.Conv2D(10, 1, strides=2), L.GlobalAveragePooling2D()),
        lambda: (L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(10, 1), L.GlobalAveragePooling2D()),
    ],
)
def test_what_does_not_commute_or_saves_nothing(parts):
    assert not found(network((8, 8, 12), *parts()), AVERAGE)


# d. Dense in place of 1x1

DISGUISE = "dense-is-pointwise"


def test_dense_after_a_pooling_is_told_once():
    parts = [
        L.GlobalAveragePooling2D(),
        L.Dropout(0.1),
        L.Dense(9, name="hidden"),
        L.ReLU(),
        L.Dense(5, name="classes"),
    ]
    finding = the(network((8, 8, 6), *parts), DISGUISE)
    assert (finding.layers, finding.saves) == (("hidden", "classes"), NONE)


def test_dense_after_flatten_of_one_place():
    parts = [L.Conv2D(6, 8), L.Flatten(), L.Dense(5, name="classes")]
    assert the(network((8, 8, 6), *parts), DISGUISE).layers == ("classes",)
    same = [L.GlobalMaxPooling2D(keepdims=True), L.Conv2D(5, 1)]
    # The 1x1 layer that they are has the same weights and MACs.
    pooled = network((8, 8, 6), L.GlobalMaxPooling2D(), L.Dense(5))
    assert difference(pooled, network((8, 8, 6), *same)) == NONE


def test_dense_after_a_pooled_sequence_is_told_in_its_words():
    message = the(network((32, 6), L.GlobalAveragePooling1D(), L.Dense(5)), DISGUISE).message
    assert message.endswith("written as Conv1D the network takes longer sequences too.")


def test_dense_after_flatten_of_a_map_or_on_vectors_is_itself():
    assert not found(network((8, 8, 6), L.Flatten(), L.Dense(5)), DISGUISE)
    assert not found(network((6,), L.Dense(5)), DISGUISE)


# e. Dense on a flattened map

FLAT = "flatten-dense-head"


def test_a_flattened_head_against_a_1x1_layer_and_an_average():
    head = [
        L.Flatten(name="flat"),
        L.Dense(20, activation="relu", name="a"),
        L.BatchNormalization(),
        L.Dense(5, name="b"),
    ]
    before = network((8, 8, 3), L.Conv2D(16, 3, name="see"), *head)
    after = network((8, 8, 3), L.Conv2D(16, 3, name="see"), L.Conv2D(5, 1), L.GlobalAveragePooling2D())
    finding = the(before, FLAT)
    assert finding.layers == ("flat", "a", "b")
    assert finding.saves == difference(before, after)
    assert f"{6 * 6 * 16 * 20 + 20 + 80 + 20 * 5 + 5:,}" in finding.message
    assert f"{16 * 5 + 5}" in finding.message


def test_a_small_flattened_head_a_reshape_and_two_heads():
    big = L.Conv2D(512, 3)
    assert not found(network((4, 4, 32), big, L.Flatten(), L.Dense(2)), FLAT)
    assert the(network((8, 8, 3), L.Reshape((192,), name="flat"), L.Dense(5)), FLAT).layers[0] == "flat"
    x = keras.Input((8, 8, 3))
    flat = L.Flatten()(x)
    assert not found(keras.Model(x, [L.Dense(4)(flat), L.Dense(5)(flat)]), FLAT)
    assert not found(network((8, 8, 3), L.Flatten(), L.Reshape((8, 24))), FLAT)


# f. k x k without a reduction

UNREDUCED, MODULE = "unreduced-convolution", "inception-without-reductions"


@pytest.mark.parametrize("settings", [{}, {"strides": 2, "padding": "same"}, {"use_bias": False, "padding": "same"}])
def test_an_unreduced_convolution_against_the_reduced_one(settings):
    before = network((12, 12, 64), L.Conv2D(80, 3, name="see", **settings))
    reduction = L.Conv2D(16, 1, use_bias=settings.get("use_bias", True))
    finding = the(before, UNREDUCED)
    assert finding.layers == ("see",)
    assert finding.saves == difference(before, network((12, 12, 64), reduction, L.Conv2D(80, 3, **settings)))


@pytest.mark.parametrize(
    "parts",
    [
        lambda: (L.Conv2D(64, 1), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D(2), L.Conv2D(80, 3)),  # reduced
        lambda: (L.Conv2D(64, 1), L.ZeroPadding2D(1), L.Conv2D(80, 3)),
        lambda: (L.Conv2D(80, 3, groups=2),),
        lambda: (L.DepthwiseConv2D(3),),
        lambda: (L.Conv2D(80, 1),),
        lambda: (L.Conv2D(48, 1), L.ReLU(), L.Conv2D(80, 3)),  # too few channels to reduce
        lambda: (L.Conv2D(2, 3, strides=2),),  # the reduction would cost more than it saves
        lambda: (L.Conv2D(4, 3, strides=4), *(L.Conv2D(512, 1, activation="relu") for _ in range(20))),  # a small share
    ],
)
def test_convolutions_that_are_reduced_or_cheap(parts):
    assert not found(network((24, 24, 96), *parts()), UNREDUCED)


def naive_3a(**reductions):
    x = keras.Input((28, 28, 192))
    return keras.Model(x, layers.inception_module(x, 64, 128, 32, name="3a", **reductions))


def test_the_papers_reductions_of_module_3a():
    naive, paper = naive_3a(), naive_3a(reduce3x3=96, reduce5x5=16, pool_projection=32)
    finding = the(naive, MODULE)
    assert finding.layers == ("3a_1x1", "3a_3x3", "3a_5x5")
    assert "weights go from 387,072 to 163,328 and its MACs from 303,464,448 to 128,049,152" in finding.message
    assert finding.saves == difference(naive, paper)
    assert finding.saves["params"] == 387_072 - 163_328 - (96 + 16 + 32)  # their biases
    assert finding.saves["macs"] == 303_464_448 - 128_049_152
    assert [one.layers for one in found(naive, UNREDUCED)] == [("3a_3x3",), ("3a_5x5",)]
    assert not found(paper, MODULE)
    assert not found(paper, UNREDUCED)


def test_a_naive_module_with_a_pool_projection():
    naive, paper = naive_3a(pool_projection=32), naive_3a(reduce3x3=96, reduce5x5=16, pool_projection=32)
    assert the(naive, MODULE).saves == difference(naive, paper)
    assert "from 393,216 to 163,328 and its MACs from 308,281,344" in the(naive, MODULE).message


# g. heavy heads

HEAVY = "heavy-head"


def test_a_heavy_head_of_1x1_and_of_dense_layers():
    pointwise = [L.Conv2D(8, 3), L.Conv2D(1000, 1, name="classes"), L.ReLU(), L.GlobalAveragePooling2D(), L.Softmax()]
    finding = the(network((8, 8, 3), *pointwise), HEAVY)
    assert finding.layers == ("classes",)
    assert finding.saves == {"params": 9000, "macs": 36 * 8000, "bytes": 36000}
    assert f"9,000 of {9000 + 3 * 3 * 3 * 8 + 8:,} params (97.6%)" in finding.message
    dense = [L.Conv2D(8, 3), L.Flatten(), L.Dense(30, name="a"), L.ReLU(), L.Dense(9, name="b")]
    assert the(network((8, 8, 3), *dense), HEAVY).layers == ("a", "b")


@pytest.mark.parametrize(
    "parts",
    [
        lambda: (L.Conv2D(64, 3), L.GlobalAveragePooling2D(), L.Dense(5)),  # light
        lambda: (L.Conv2D(8, 3), L.Conv2D(1000, 1)),  # ends in a map
        lambda: (L.Conv2D(8, 3), L.Conv2D(512, 1), L.GlobalAveragePooling2D(), L.Dense(2)),  # 1x1 before the head
        lambda: (L.Flatten(), L.Dense(10)),  # nothing but a head
    ],
)
def test_heads_that_are_not_heavy(parts):
    assert not found(network((8, 8, 3), *parts()), HEAVY)


# h. widths

WIDTHS = "unaligned-channels"


def test_widths_that_are_no_multiple_of_8_or_4():
    parts = [L.Conv2D(12, 3, name="four"), L.Conv2D(16, 1), L.Conv2D(7, 1, name="odd"), L.Conv2D(10, 1, name="classes")]
    finding = the(network((8, 8, 3), *parts), WIDTHS)
    assert finding.layers == ("four", "odd")
    assert "(1 not even of 4; four, odd)" in finding.message
    params, macs = 4 * (27 + 1) + 1 * (16 + 1), 36 * (4 * 27 + 16)
    assert finding.saves == {"params": -params, "macs": -macs, "bytes": -4 * params}


def test_padding_costs_what_wider_layers_cost():
    before = network((8, 8, 3), L.Conv2D(13, 3), L.GlobalAveragePooling2D(), L.LayerNormalization(), L.Dense(8))
    first = network((8, 8, 3), L.Conv2D(13, 3)), network((8, 8, 3), L.Conv2D(16, 3))
    assert the(before, WIDTHS).saves == difference(*first)


def test_classes_masks_and_single_places_are_no_fault():
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, padding="same")(x)
    squeezed = L.Conv2D(16, 1)(L.Conv2D(6, 1, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(y)))
    mask = L.Activation("sigmoid")(L.Conv2D(1, 1)(y))
    classes = L.Softmax()(L.GlobalAveragePooling2D()(L.ReLU()(L.Conv2D(10, 1)(L.Multiply()([y, squeezed])))))
    assert not found(keras.Model(x, [mask, classes]), WIDTHS)


# i. BatchNormalization

NORM = "unfoldable-batch-norm"


def bn(**settings):
    return L.BatchNormalization(name="bn", **settings)


def parallel(merge, *, activation=None):
    def part(x):
        return bn()(merge([L.Conv2D(6, 1)(x), L.Conv2D(6, 1, activation=activation)(x)]))

    return part


FOLDS = {
    "after a convolution": lambda: (L.Conv2D(6, 3), bn()),
    "after dropout": lambda: (L.Conv2D(6, 3), L.Dropout(0.1), bn()),
    "after a depthwise one": lambda: (L.DepthwiseConv2D(3), bn()),
    "after a transposed one": lambda: (L.Conv2DTranspose(6, 3), bn()),
    "after a dense": lambda: (L.Flatten(), L.Dense(6), bn()),
    "after an average": lambda: (L.Conv2D(6, 1), L.AveragePooling2D(2), bn()),
    "after a concatenation of convolutions": lambda: (parallel(L.Concatenate()),),
    "after their sum": lambda: (parallel(L.Add()),),
    "before 1x1": lambda: (L.ReLU(), bn(), L.Conv2D(6, 1, padding="same", strides=2)),
    "before 3x3 without padding": lambda: (bn(), L.Conv2D(6, 3)),
    "before 2x2 that fits": lambda: (bn(), L.Conv2D(6, 2, strides=2, padding="same")),
    "before a dense": lambda: (L.ReLU(), bn(), L.GlobalAveragePooling2D(), L.Dense(4)),
    "before a flattened dense": lambda: (bn(), L.Flatten(), L.Dense(4)),
    "before a transposed one that tiles": lambda: (bn(), L.Conv2DTranspose(6, 2, strides=2)),
}
STAYS = {
    "before an activation": lambda: (L.ReLU(), bn(), L.ReLU(), L.Conv2D(6, 1)),
    "before padding": lambda: (bn(), L.Conv2D(6, 3, padding="same")),
    "before a padding layer": lambda: (bn(), L.ZeroPadding2D(1), L.Conv2D(6, 3)),
    "before an overlapping transposed one": lambda: (bn(), L.Conv2DTranspose(6, 3, strides=2)),
    "after a fused activation": lambda: (L.Conv2D(6, 3, activation="relu"), bn()),
    "after a maximum": lambda: (L.Conv2D(6, 3), L.MaxPooling2D(2), bn()),
    "after a padding layer": lambda: (L.Conv2D(6, 3), L.ZeroPadding2D(1), bn()),
    "one branch is not linear": lambda: (parallel(L.Concatenate(), activation="relu"),),
    "a product": lambda: (parallel(L.Multiply()),),
    "another axis": lambda: (L.Conv2D(7, 3), bn(axis=1)),
    "alone": lambda: (bn(),),
}


@pytest.mark.parametrize("case", FOLDS)
def test_norms_that_fold(case):
    assert not found(network((8, 8, 6), *FOLDS[case]()), NORM)


@pytest.mark.parametrize("case", STAYS)
def test_norms_that_stay(case):
    assert the(network((8, 8, 6), *STAYS[case]()), NORM).layers == ("bn",)


def test_a_norm_on_what_others_read_stays_and_costs_more_than_a_bias():
    x = keras.Input((8, 8, 6))
    y = L.Conv2D(6, 3, padding="same")(x)
    model = keras.Model(x, L.Add()([y, L.ReLU()(bn()(y))]))
    finding = the(model, NORM)
    # gamma, beta and two statistics, less the bias that is left of them.
    assert finding.saves == {"params": 4 * 6 - 6, "macs": 0, "bytes": 4 * (4 * 6 - 6)}
    assert f"{8 * 8 * 6} scalings" in finding.message


# Any graph


def test_findings_are_in_the_order_of_the_layers():
    parts = [bn(), L.ReLU(), L.Conv2D(12, 1, name="a"), L.Conv2D(6, 1, name="b"), L.GlobalAveragePooling2D()]
    order = [
        finding.layers[0] for finding in audit_model(network((8, 8, 6), *parts, L.Dense(3, name="classes"))).findings
    ]
    assert order == ["bn", "a", "a", "b", "classes"]


def test_shared_layers_are_never_to_be_changed_in_one_place():
    x = keras.Input((8, 8, 8))
    shared = L.Conv2D(8, 1, name="shared")
    y = L.GlobalAveragePooling2D()(shared(L.Conv2D(8, 1, name="a")(shared(x))))
    assert audit_model(keras.Model(x, y)).findings == ()


def int8_convolution(name, source, target, side=1):
    channels, width = source.shape[-1], target.shape[-1]
    weights = side * side * channels * width
    sizes = {"params": weights + width, "weight_bytes": weights + 4 * width}  # int8, bias int32
    ends = {"inputs": (source,), "outputs": (target,), "kernel": (side, side), "padding": "same", "use_bias": True}
    return LayerInfo(name=name, type="CONV_2D", op="Conv2D", activation="linear", **ends, **sizes)


def int8_map(index, channels):
    return ActivationTensor(index, (1, 8, 8, channels), 8)


def test_a_quantised_file_counts_bytes_of_its_own_types():
    image, last = int8_map(0, 64), int8_map(1, 80)
    (finding,) = find_findings(LayerGraph("file", (image,), (last,), (int8_convolution("see", image, last, side=3),)))
    spent, needed = 9 * 64 * 80 + 4 * 80, (64 * 16 + 4 * 16) + (9 * 16 * 80 + 4 * 80)
    assert (finding.rule, finding.saves["bytes"]) == (UNREDUCED, spent - needed)


def test_an_activation_fused_in_a_file_is_between():
    image, middle, last = (int8_map(index, width) for index, width in enumerate((16, 24, 8)))
    first, second = int8_convolution("first", image, middle), int8_convolution("second", middle, last)
    (finding,) = find_findings(LayerGraph("file", (image,), (last,), (first, second)))
    assert (finding.rule, finding.layers) == (PAIR, ("first", "second"))
    fused = dataclasses.replace(first, activation="relu")
    assert find_findings(LayerGraph("file", (image,), (last,), (fused, second))) == ()


def wide_graph(branches, length):
    """`branches` rows of `length` layers on one tensor: 1x1, norm, and what looks through long rows."""
    tensors = iter(range(10**9))
    image = ActivationTensor(next(tensors), (1, 4, 4, 8))
    rows, ends = [], []
    kinds = [("Conv2D", 8 * 8), ("BatchNormalization", 4 * 8), ("Dropout", 0), ("Add", 0), ("ReLU", 0)]
    for branch in range(branches):
        current = image
        for step in range(length):
            op, params = kinds[step % len(kinds) if branch % 2 else step % 3]
            inputs = (current, image) if op == "Add" else (current,)
            current = ActivationTensor(next(tensors), (1, 4, 4, 8))
            facts = {"kernel": (1, 1), "padding": "valid"} if op == "Conv2D" else {}
            name = f"layer{branch}_{step}"
            facts |= {"inputs": inputs, "outputs": (current,), "params": params, "weight_bytes": 4 * params}
            rows.append(LayerInfo(name=name, type=op, op=op, **facts))
        ends.append(current)
    return LayerGraph("wide", (image,), tuple(ends), tuple(rows))


def steps(graph):
    """How many calls the rules make: a measure of their work that no other load on the machine changes."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        assert find_findings(graph)
    finally:
        sys.setprofile(None)
    return calls


def test_work_is_linear_in_the_layers():
    short, long = (steps(wide_graph(20, length)) for length in (10, 100))
    assert long < 12 * short


def test_operators_that_give_a_scalar_stop_no_rule():
    x, y, end = ActivationTensor(0, (1, 4, 4, 8)), ActivationTensor(1, (1, 4, 4, 8)), ActivationTensor(2, ())
    layers = (
        LayerInfo("conv", "CONV_2D", "Conv2D", inputs=(x,), outputs=(y,), kernel=(1, 1), params=64, weight_bytes=64),
        LayerInfo("count", "MyDecoder", None, inputs=(y,), outputs=(end,)),
    )
    assert find_findings(LayerGraph("net", (x,), (end,), layers)) == ()
