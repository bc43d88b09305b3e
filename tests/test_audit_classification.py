"""Kinds, roles, norms that fold, and blocks."""

import inspect

import keras
import numpy as np
import pytest
from keras.src.applications import convnext

from keras_nin import layers
from keras_nin.audit import audit_model
from keras_nin.audit.classification import find_blocks
from keras_nin.audit.graph import LayerGraph, LayerInfo
from keras_nin.audit.operations import PASS_THROUGH

L = keras.layers
pytestmark = pytest.mark.usefixtures("structure_only")


def rows(inputs, outputs):
    return {row.name: row for row in audit_model(keras.Model(inputs, outputs)).rows}


@pytest.mark.parametrize(
    ("layer", "input_shape", "kind"),
    [
        (L.Conv2D(4, 1), (5, 5, 6), "pointwise"),
        (L.Conv2D(4, 1, strides=2), (5, 5, 6), "pointwise"),
        (L.Conv2D(4, (1, 3)), (5, 5, 6), "spatial"),
        (L.Conv2D(6, 1, groups=2), (5, 5, 6), "other"),
        (L.Conv2D(6, 3, groups=2), (5, 5, 6), "spatial"),
        (L.Conv2D(12, 3, groups=6), (5, 5, 6), "depthwise"),
        (L.DepthwiseConv2D(3), (5, 5, 6), "depthwise"),
        (L.Conv2DTranspose(4, 2), (5, 5, 6), "spatial"),
        (L.Dense(4), (5, 5, 6), "pointwise"),
        (L.Dense(4), (5, 6), "dense"),
        (L.Dense(4), (6,), "dense"),
        (L.AveragePooling2D(2), (5, 5, 6), "pool"),
        (L.GlobalMaxPooling2D(), (5, 5, 6), "pool"),
        (L.BatchNormalization(), (5, 5, 6), "norm"),
        (L.LayerNormalization(), (5, 5, 6), "norm"),
        (L.ReLU(), (5, 5, 6), "activation"),
        (L.Flatten(), (5, 5, 6), "reshape"),
        (L.ZeroPadding2D(1), (5, 5, 6), "reshape"),
        (L.Dropout(0.5), (5, 5, 6), "other"),
    ],
)
def test_kind(layer, input_shape, kind):
    x = keras.Input(input_shape)
    (row,) = rows(x, layer(x)).values()
    assert row.kind == kind
    assert (row.role is not None) == (kind == "pointwise")


def test_merges_are_merges():
    x = keras.Input((4, 4, 3))
    merged = [L.Add()([x, x]), L.Multiply()([x, x]), L.Concatenate()([x, x]), x - 2 * x]
    # The fifth operation is 2 * x: it has one tensor to work on and merges nothing.
    kinds = [row.kind for row in audit_model(keras.Model(x, merged)).rows]
    assert kinds.count("merge") == 4
    assert kinds.count("other") == 1


def test_roles_of_a_fire_module_with_a_head():
    x = keras.Input((8, 8, 16))
    y = L.Conv2D(4, 1, activation="relu", name="squeeze")(x)
    y = L.Concatenate()([L.Conv2D(8, 1, name="expand1x1")(y), L.Conv2D(8, 3, padding="same", name="expand3x3")(y)])
    y = L.Conv2D(16, 1, name="mix")(y)
    y = L.Dropout(0.5)(L.MaxPooling2D(2)(y))
    y = L.Conv2D(10, 1, name="classes")(y)
    y = L.Softmax()(L.Reshape((10,))(L.GlobalAveragePooling2D(keepdims=True)(L.ReLU()(y))))
    found = rows(x, y)
    names = ["squeeze", "expand1x1", "expand3x3", "mix", "classes"]
    assert [found[name].role for name in names] == ["reduce", "expand", None, "mix", "head"]


def test_a_1x1_before_a_classifier_is_no_head():
    x = keras.Input((8, 8, 16))
    y = L.GlobalAveragePooling2D()(L.Conv2D(8, 1, name="last")(x))
    found = rows(x, L.Dense(10, name="classes")(y))
    assert found["last"].role == "reduce"
    assert found["classes"].role is None


def test_a_projection_ends_in_an_addition_through_norm_activation_and_dropout():
    x = keras.Input((8, 8, 16))
    y = L.Conv2D(64, 1, name="expand")(x)
    y = L.Conv2D(16, 1, name="project")(L.DepthwiseConv2D(3, padding="same")(y))
    y = L.Dropout(0.1)(L.ReLU()(L.BatchNormalization()(y)))
    found = rows(x, L.Conv2D(4, 3)(L.Add()([x, y])))
    assert (found["expand"].role, found["project"].role) == ("expand", "projection")


def test_no_projection_where_something_else_reads_the_output_too():
    x = keras.Input((8, 8, 16))
    y = L.Conv2D(4, 1, name="reduce")(x)
    other = L.Conv2D(4, 3, padding="same")(y)
    assert rows(x, L.Conv2D(4, 3)(L.Add()([y, other])))["reduce"].role == "reduce"


def test_no_projection_where_a_constant_is_added():
    x = keras.Input((8, 8, 16))
    y = L.Conv2D(4, 1, name="reduce")(x) + 3.0
    assert rows(x, L.Conv2D(4, 3)(y))["reduce"].role == "reduce"


def test_a_network_that_ends_in_a_map_has_no_head():
    x = keras.Input((12, 12, 512))
    assert rows(x, L.ReLU()(L.Conv2D(32, 1, name="last")(x)))["last"].role == "reduce"


def test_the_head_comes_before_every_other_role():
    x = keras.Input((8, 8, 10))
    found = rows(x, L.GlobalAveragePooling2D()(L.Conv2D(10, 1, name="classes")(x)))
    assert found["classes"].role == "head"


def test_no_projection_where_the_output_leaves_the_network_too():
    x = keras.Input((8, 8, 16))
    y = L.Conv2D(4, 1, name="reduce")(x)
    added = L.Add()([y, L.Conv2D(4, 3, padding="same")(x)])
    assert rows(x, L.Conv2D(4, 3)(added))["reduce"].role == "projection"
    assert rows(x, [y, L.Conv2D(4, 3)(added)])["reduce"].role == "reduce"


def test_a_dense_on_a_vector_is_not_in_the_1x1_share():
    x = keras.Input((8, 8, 16))
    y = L.Flatten()(L.Dense(4)(x))
    total = audit_model(keras.Model(x, L.Dense(10)(y))).total
    assert (total.pointwise_params, total.pointwise_macs) == (16 * 4 + 4, 8 * 8 * 16 * 4)


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(6, 3),
        L.Conv2D(6, 3, groups=2),
        L.DepthwiseConv2D(3),
        L.SeparableConv2D(6, 3),
        L.Conv2DTranspose(6, 3),
        L.Dense(6),
    ],
)
def test_a_batch_normalization_folds_into_what_alone_feeds_it(layer):
    x = keras.Input((8, 8, 6))
    *before, norm = audit_model(keras.Model(x, L.BatchNormalization()(layer(x)))).rows
    assert norm.folds is True
    assert {row.folds for row in before} == {None}


@pytest.mark.parametrize(
    "network",
    [
        L.BatchNormalization(name="norm"),
        [L.Conv2D(6, 3, activation="relu"), L.BatchNormalization(name="norm")],
        [L.Conv2D(6, 3), L.ReLU(), L.BatchNormalization(name="norm")],
        [L.Conv2D(6, 3), L.MaxPooling2D(2), L.BatchNormalization(name="norm")],
        # By the rows of the map: the convolution's weights are the same for all of them.
        [L.Conv2D(6, 3), L.BatchNormalization(axis=1, name="norm")],
    ],
)
def test_a_batch_normalization_that_does_not_fold(network):
    x = y = keras.Input((8, 8, 6))
    for layer in network if isinstance(network, list) else [network]:
        y = layer(y)
    assert rows(x, y)["norm"].folds is False


def test_a_batch_normalization_does_not_fold_where_its_input_is_read_elsewhere():
    x = keras.Input((8, 8, 6))
    y = L.Conv2D(6, 1)(x)
    norm = L.BatchNormalization(name="norm")(y)
    assert rows(x, norm)["norm"].folds is True
    assert rows(x, [norm, y])["norm"].folds is False
    assert rows(x, L.Add()([norm, y]))["norm"].folds is False


def test_norms_and_dropout_may_lie_between():
    x = keras.Input((8, 8, 6))
    y = L.BatchNormalization(name="first")(L.Conv2D(6, 1)(x))
    found = rows(x, L.BatchNormalization(name="second")(L.Dropout(0.1)(y)))
    assert (found["first"].folds, found["second"].folds) == (True, True)


def test_a_projection_may_be_scaled_before_its_addition():
    x = keras.Input((8, 8, 6))
    scaled = convnext.LayerScale(1e-6, 6)(L.Conv2D(6, 1, name="project")(x))
    assert rows(x, L.Conv2D(4, 3)(L.Add()([x, scaled])))["project"].role == "projection"


# Blocks


def block_names(x, *names):
    """The blocks of a chain of 1x1 layers with these names."""
    y = x
    for name in names:
        y = L.Conv2D(4, 1, name=name)(y)
    return {row.name: row.block for row in audit_model(keras.Model(x, y)).rows}


def test_names_that_keras_made_say_nothing():
    keras.backend.clear_session()
    x = keras.Input((8, 8, 4))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 1)(x)))
    for _ in range(2):
        y = L.Add()([L.ReLU()(L.Conv2D(4, 1)(y)), L.SeparableConv2D(4, 3, padding="same")(y)])
    assert {row.block for row in audit_model(keras.Model(x, y)).rows} == {None}


def test_a_chain_of_one_convolution_each_is_one_block_by_its_number():
    x = keras.Input((8, 8, 4))
    assert block_names(x, "stage1_conv1", "stage1_conv2", "stage2_conv1", "stage2_conv2") == {
        "stage1_conv1": "stage1",
        "stage1_conv2": "stage1",
        "stage2_conv1": "stage2",
        "stage2_conv2": "stage2",
    }


def test_names_without_a_number_make_a_block_where_they_follow_one_another():
    x = keras.Input((8, 8, 4))
    assert set(block_names(x, "stem_a", "stem_b", "c").values()) == {"stem", None}
    assert set(block_names(x, "stem_a", "c", "stem_b").values()) == {None}
    found = block_names(x, "conv_up_a", "conv_up_b", "middle", "conv_down_a", "conv_down_b")
    assert list(dict.fromkeys(found.values())) == ["conv_up", None, "conv_down"]
    found = block_names(x, "conv_up_a_one", "conv_up_b_two", "middle", "conv_down_a_one", "conv_down_b_two")
    assert list(dict.fromkeys(found.values())) == ["conv_up", None, "conv_down"]


def test_two_uses_and_two_halves_of_one_layer_are_no_block():
    x = keras.Input((8, 8, 4))
    shared = L.SeparableConv2D(4, 3, padding="same", name="part_1")
    assert [row.block for row in audit_model(keras.Model(x, shared(shared(x)))).rows] == [None] * 4


def test_blocks_inside_a_nested_model_carry_its_path():
    x = keras.Input((16, 16, 4))
    y = layers.fire(layers.fire(x, 2, 4, 4, name="fire2"), 2, 4, 4, name="fire3")
    backbone = keras.Model(x, L.ReLU(name="last")(y), name="backbone")
    model = keras.Sequential([keras.Input((16, 16, 4)), backbone, layers.Fire(2, 4, 4, name="fire4")])
    assert [(block.name, block.layers) for block in audit_model(model).blocks] == [
        ("backbone/fire2", 4),
        ("backbone/fire3", 4),
        ("backbone", 1),
        ("fire4", 4),
    ]


def test_a_block_that_is_the_whole_of_a_nested_model_goes_by_its_path():
    x = keras.Input((16, 16, 4))
    backbone = keras.Model(x, layers.fire(x, 2, 4, 4, name="fire2"), name="backbone")
    image = keras.Input((16, 16, 4))
    blocks = audit_model(keras.Model(image, backbone(image))).blocks
    assert [(block.name, block.layers) for block in blocks] == [("backbone", 4)]


def test_a_softmax_over_the_channels_of_a_map_makes_a_head():
    x = keras.Input((8, 8, 16))
    segmented = L.Conv2D(3, 1, activation="softmax", name="mask")(x)
    assert rows(x, segmented)["mask"].role == "head"
    assert rows(x, L.Softmax()(L.Conv2D(3, 1, name="mask")(x)))["mask"].role == "head"
    assert rows(x, keras.ops.argmax(L.Conv2D(3, 1, name="mask")(x), -1))["mask"].role == "head"
    attention = L.Conv2D(16, 1, activation="sigmoid", name="mask")(x)
    assert rows(x, attention)["mask"].role == "mix"


def test_names_that_keras_made_are_no_block_in_a_file_either():
    operators = [("conv2d", "CONV_2D", "Conv2D"), ("conv2d_1", "CONV_2D", "Conv2D"), ("re_lu_3", "CONV_2D", "Conv2D")]
    operators += [("conv1d_1", "CONV_2D", "Conv2D"), ("stem_a", "CONV_2D", "Conv2D"), ("stem_b", "CONV_2D", "Conv2D")]
    graph = LayerGraph("net", (), (), tuple(LayerInfo(*operator) for operator in operators))
    assert find_blocks(graph) == (None, None, None, None, "stem", "stem")


@pytest.mark.parametrize(
    "name", sorted(name for name in PASS_THROUGH if name.startswith("Random") and hasattr(L, name))
)
def test_augmentation_returns_its_input_at_inference(name):
    parameters = inspect.signature(getattr(L, name)).parameters.values()
    required = {parameter.name: 1 for parameter in parameters if parameter.default is parameter.empty}
    required = {key: value for key, value in required.items() if key != "kwargs"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(getattr(L, name)(**required)(images, training=False), images)
