"""MACs, parameters and activation evaluations of single layers, against arithmetic by hand."""

import keras
import pytest

from keras_nin import models
from keras_nin.audit import audit_model

L = keras.layers


def audited(layer, *input_shape):
    x = keras.Input(input_shape)
    return audit_model(keras.Model(x, layer(x)))


@pytest.mark.parametrize(
    ("layer", "input_shape", "params", "macs"),
    [
        (L.Conv2D(16, 3, padding="same"), (10, 12, 8), 3 * 3 * 8 * 16 + 16, 10 * 12 * 3 * 3 * 8 * 16),
        (L.Conv2D(16, (1, 7), use_bias=False), (10, 12, 8), 1 * 7 * 8 * 16, 10 * 6 * 1 * 7 * 8 * 16),
        (L.Conv2D(16, 3, strides=2), (11, 11, 8), 3 * 3 * 8 * 16 + 16, 5 * 5 * 3 * 3 * 8 * 16),
        (L.Conv2D(16, 3, strides=2, padding="same"), (11, 11, 8), 3 * 3 * 8 * 16 + 16, 6 * 6 * 3 * 3 * 8 * 16),
        (L.Conv2D(16, 3, dilation_rate=2), (11, 11, 8), 3 * 3 * 8 * 16 + 16, 7 * 7 * 3 * 3 * 8 * 16),
        (L.Conv2D(16, 3, groups=4), (5, 5, 8), 3 * 3 * (8 // 4) * 16 + 16, 3 * 3 * 3 * 3 * (8 // 4) * 16),
        (L.Conv1D(6, 5, padding="same"), (20, 3), 5 * 3 * 6 + 6, 20 * 5 * 3 * 6),
        (L.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 5), 3 * 3 * 5 * 2 + 10, 4 * 4 * 3 * 3 * 5 * 2),
        # Input positions: 7 x 7, whatever the size of the output.
        (L.Conv2DTranspose(4, 3, strides=2), (7, 7, 8), 3 * 3 * 4 * 8 + 4, 7 * 7 * 3 * 3 * 8 * 4),
        (L.Dense(10), (64,), 64 * 10 + 10, 64 * 10),
        (L.Dense(10), (7, 7, 64), 64 * 10 + 10, 7 * 7 * 64 * 10),
        (L.Dense(10), (7, 64), 64 * 10 + 10, 7 * 64 * 10),
        (L.SeparableConv2D(9, 3, depth_multiplier=2), (6, 6, 5), 90 + 90 + 9, 4 * 4 * 3 * 3 * 10 + 4 * 4 * 10 * 9),
        (L.BatchNormalization(), (4, 4, 6), 4 * 6, 0),
        (L.LayerNormalization(), (4, 4, 6), 2 * 6, 0),
        (L.GroupNormalization(3), (4, 4, 6), 2 * 6, 0),
        (L.EinsumDense("...c,cnd->...nd", (3, 5), bias_axes="nd"), (7, 64), 64 * 15 + 15, 7 * 64 * 15),
        (L.PReLU(shared_axes=[1, 2]), (4, 4, 6), 6, 0),
        (L.MaxPooling2D(3), (9, 9, 6), 0, 0),
        (L.GlobalAveragePooling2D(), (9, 9, 6), 0, 0),
        (L.UpSampling2D(2), (9, 9, 6), 0, 0),
        (L.Rescaling(1 / 255), (9, 9, 6), 0, 0),
        (L.ZeroPadding2D(1), (9, 9, 6), 0, 0),
        (L.Flatten(), (9, 9, 6), 0, 0),
    ],
)
def test_parameters_and_macs(layer, input_shape, params, macs):
    result = audited(layer, *input_shape)
    assert result.total.params == params == layer.count_params()
    assert result.total.macs == macs
    assert result.unknown == ()


def test_a_separable_convolution_is_two_rows_and_its_second_half_counts_as_1x1():
    result = audited(L.SeparableConv2D(9, 3, depth_multiplier=2, activation="relu", name="sep"), 6, 6, 5)
    depthwise, pointwise = result.rows
    assert (depthwise.name, depthwise.kind, depthwise.kernel) == ("sep/depthwise", "depthwise", (3, 3))
    assert (pointwise.name, pointwise.kind, pointwise.kernel) == ("sep/pointwise", "pointwise", (1, 1))
    assert depthwise.output_shape == pointwise.input_shape == (1, 4, 4, 5 * 2)
    assert (depthwise.params, pointwise.params) == (3 * 3 * 5 * 2, 5 * 2 * 9 + 9)
    assert (depthwise.macs, pointwise.macs) == (4 * 4 * 10 * 9, 4 * 4 * 10 * 9)
    assert (depthwise.activation_evaluations, pointwise.activation_evaluations) == (0, 4 * 4 * 9)
    assert result.total.pointwise_params == pointwise.params
    assert result.total.pointwise_macs == pointwise.macs


@pytest.mark.parametrize(
    ("layer", "evaluations"),
    [
        (L.Conv2D(8, 1), 0),
        (L.Conv2D(8, 1, activation="relu"), 4 * 4 * 8),
        (L.Conv2D(8, 1, activation=L.LeakyReLU()), 4 * 4 * 8),
        (L.Activation("linear"), 0),
        (L.Activation("tanh"), 4 * 4 * 6),
        (L.ReLU(), 4 * 4 * 6),
        (L.Softmax(), 4 * 4 * 6),
        (L.MaxPooling2D(2), 0),
        (L.Dropout(0.5), 0),
    ],
)
def test_activation_evaluations_are_counted_where_the_non_linearity_is_applied(layer, evaluations):
    assert audited(layer, 4, 4, 6).rows[0].activation_evaluations == evaluations


def test_the_articles_1x1_layer_applies_its_relu_more_often_than_the_3x3_layer():
    x = keras.Input((6, 6, 3))
    outputs = [L.Conv2D(2, size, activation="relu", name=f"conv{size}")(x) for size in (1, 3)]
    result = audit_model(keras.Model(x, outputs))
    found = {row.name: row.activation_evaluations for row in result.rows}
    assert found == {"conv3": 4 * 4 * 2, "conv1": 6 * 6 * 2}
    assert result.total.activation_evaluations == 4 * 4 * 2 + 6 * 6 * 2
    for name, evaluations in (("conv3x3_3to2", 4 * 4 * 2), ("conv1x1_3to2", 6 * 6 * 2)):
        assert audit_model(models.build_model(name)).total.activation_evaluations == evaluations


def test_arithmetic_intensity_is_macs_per_byte_moved():
    x = keras.Input((5, 5, 4))
    y = L.Conv2D(8, 3, name="conv")(x)
    result = audit_model(keras.Model(x, L.GlobalAveragePooling2D()(L.Dropout(0.5)(L.ReLU()(y)))))
    macs, weights = 3 * 3 * 3 * 3 * 4 * 8, 4 * (3 * 3 * 4 * 8 + 8)
    moved = 4 * (5 * 5 * 4 + 3 * 3 * 8) + weights
    assert [row.arithmetic_intensity for row in result.rows] == [macs / moved, 0, 0, 0]
    # The activation and the dropout are fused and move nothing; the pooling reads the map and writes eight numbers.
    assert result.total.arithmetic_intensity == macs / (moved + 4 * (3 * 3 * 8 + 8))


def test_a_tensor_that_is_added_to_itself_is_read_once():
    x = keras.Input((5, 5, 4))
    y = L.Conv2D(8, 1)(x)
    total = audit_model(keras.Model(x, L.Add()([y, y]))).total
    assert total.arithmetic_intensity == 25 * 32 / (4 * 25 * (4 + 8) + 4 * (4 * 8 + 8) + 4 * 25 * (8 + 8))


def test_arithmetic_intensity_is_not_known_where_macs_are_not():
    result = audited(L.Lambda(lambda x: x), 4, 4, 6)
    assert result.rows[0].arithmetic_intensity is None
    assert result.total.arithmetic_intensity is None


def test_einsums_are_products_over_all_their_indices():
    left, right = keras.Input((4, 5, 6)), keras.Input((6, 7))
    product = keras.ops.einsum("bhwc,bcd->bhwd", left, right)
    assert audit_model(keras.Model([left, right], product)).rows[0].macs == 4 * 5 * 6 * 7
    assert audited(L.EinsumDense("bhwc,cd->bhwd", (4, 5, 7)), 4, 5, 6).rows[0].macs == 4 * 5 * 6 * 7


def test_a_product_with_a_constant_is_not_counted_by_guesswork():
    x = keras.Input((4, 6), batch_size=1)
    constant = keras.ops.ones((1, 4, 4))
    products = [keras.ops.matmul(constant, x), keras.ops.einsum("bij,bjk->bik", constant, x)]
    assert [row.macs for row in audit_model(keras.Model(x, products)).rows] == [None, None]


def test_bytes_follow_the_weights_own_type_and_activations_are_float32():
    row = audited(L.Conv2D(8, 3, dtype="bfloat16"), 5, 5, 4).rows[0]
    assert row.weight_bytes == (3 * 3 * 4 * 8 + 8) * 2
    assert row.activation_elements == 3 * 3 * 8
    assert row.activation_bytes == 3 * 3 * 8 * 4
    assert audited(L.Conv2D(8, 3), 5, 5, 4).rows[0].weight_bytes == (3 * 3 * 4 * 8 + 8) * 4


@pytest.mark.parametrize("batch", [None, 8])
def test_counts_are_for_one_input_whatever_batch_the_model_states(batch):
    x = keras.Input((5, 5, 4), batch_size=batch)
    row = audit_model(keras.Model(x, L.Conv2D(8, 3)(x))).rows[0]
    assert (row.input_shape, row.output_shape, row.macs) == ((1, 5, 5, 4), (1, 3, 3, 8), 3 * 3 * 3 * 3 * 4 * 8)


@pytest.mark.parametrize(
    "layer",
    [
        L.Lambda(lambda x: x, name="odd"),
        L.MultiHeadAttention(1, 2, name="odd"),
        L.TimeDistributed(L.Dense(3), name="odd"),
    ],
)
def test_what_the_table_does_not_hold_is_null_and_never_zero(layer):
    x = keras.Input((4, 4, 6))
    y = L.Conv2D(6, 1, name="known")(x)
    model = keras.Model(x, layer(y, y) if isinstance(layer, L.MultiHeadAttention) else layer(y))
    result = audit_model(model)
    assert result.unknown == ("odd",)
    assert result.rows[1].macs is None
    assert result.to_json()["rows"][1]["macs"] is None
    assert result.rows[1].params == layer.count_params()
    assert result.total.macs == 4 * 4 * 6 * 6
    assert result.total.params == model.count_params()


def test_a_users_own_class_is_not_counted_by_its_name():
    class Conv2D(L.Conv2D):
        def call(self, inputs):
            return super().call(inputs) * super().call(inputs)

    row = audited(Conv2D(8, 3), 5, 5, 4).rows[0]
    assert (row.type, row.kind, row.macs, row.params) == ("Conv2D", "other", None, 3 * 3 * 4 * 8 + 8)


def test_arithmetic_on_tensors_is_known_and_free():
    x = keras.Input((4, 4, 6))
    y = L.Conv2D(6, 1)(x)
    result = audit_model(keras.Model(x, keras.ops.relu(y / 127.5 - 1.0) * y))
    assert [row.kind for row in result.rows] == ["pointwise", "other", "other", "activation", "merge"]
    assert [row.macs for row in result.rows] == [4 * 4 * 6 * 6, 0, 0, 0, 0]
