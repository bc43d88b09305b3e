"""MACs, parameters, memory and receptive fields, against arithmetic by hand and against what networks really do."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from keras.src.applications import convnext

from keras_nin.audit import arithmetic, audit_model, keras_reader
from keras_nin.audit.graph import ActivationTensor, LayerInfo

L = keras.layers
ONES = {"kernel_initializer": "ones", "use_bias": False}


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
        (L.Conv3D(6, (2, 3, 3)), (5, 6, 7, 4), 18 * 4 * 6 + 6, 4 * 4 * 5 * 18 * 4 * 6),
        (L.Conv3DTranspose(6, 2, strides=2), (3, 4, 5, 4), 8 * 4 * 6 + 6, 3 * 4 * 5 * 8 * 4 * 6),
        (L.MaxPooling3D(2), (4, 4, 4, 3), 0, 0),
        # Steps, gates, and products of the input and of the state.
        (L.LSTM(5), (7, 3), 4 * 5 * (3 + 5 + 1), 7 * 4 * 5 * (3 + 5)),
        (L.GRU(5, return_sequences=True), (7, 3), 3 * 5 * (3 + 5 + 2), 7 * 3 * 5 * (3 + 5)),
        (L.SimpleRNN(5), (7, 3), 5 * (3 + 5 + 1), 7 * 5 * (3 + 5)),
        (L.Bidirectional(L.LSTM(5)), (7, 3), 2 * 4 * 5 * (3 + 5 + 1), 2 * 7 * 4 * 5 * (3 + 5)),
        (L.RNN([L.SimpleRNNCell(4), L.SimpleRNNCell(3)]), (7, 2), 4 * 7 + 3 * 8, 7 * (4 * 6 + 3 * 7)),
        (L.ConvLSTM2D(4, 3, padding="same"), (3, 5, 5, 2), 9 * 16 * (2 + 4) + 16, 3 * 25 * 9 * 16 * (2 + 4)),
        (L.TimeDistributed(L.Conv2D(6, 3)), (3, 5, 5, 2), 9 * 12 + 6, 3 * 9 * 9 * 12),
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


def test_an_attention_projects_scores_and_sums():
    query, source = keras.Input((6, 8)), keras.Input((9, 7))
    layer = L.MultiHeadAttention(2, 3, value_dim=5)
    projections = 6 * 8 * 2 * 3 + 9 * 7 * 2 * 3 + 9 * 7 * 2 * 5 + 6 * 2 * 5 * 8
    result = audit_model(keras.Model([query, source], layer(query, value=source)))
    assert (result.total.macs, result.total.params) == (projections + 2 * 6 * 9 * (3 + 5), layer.count_params())
    image = keras.Input((4, 5, 8))
    rows = L.MultiHeadAttention(2, 3, attention_axes=(2,))  # each position attends to the five of its row
    projections = 4 * 20 * 8 * 2 * 3
    assert audit_model(keras.Model(image, rows(image, image))).total.macs == projections + 2 * 20 * 5 * (3 + 3)
    sequence = keras.Input((6, 8))
    grouped = L.GroupQueryAttention(3, 4, 2)
    projections = 6 * 8 * 3 * (4 + 4) + 2 * 6 * 8 * 2 * 3
    assert audit_model(keras.Model(sequence, grouped(sequence, sequence))).total.macs == projections + 4 * 36 * (3 + 3)


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


@pytest.mark.parametrize("equation", ["ab,bc->ac", "abcd,bc->ac", "a...b,bc->...ac", "ab->a", "ab,bc,cd->ad", None])
def test_an_einsum_that_does_not_fit_its_tensors_is_unknown(equation):
    tensors = [ActivationTensor(index, (1, 4, 5)) for index in range(3)]
    layer = LayerInfo("einsum", "Einsum", "Einsum", inputs=tensors[:2], outputs=tensors[2:], equation=equation)
    assert arithmetic.count_macs(layer) is None


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
        L.AdditiveAttention(name="odd"),
        L.TimeDistributed(L.Lambda(lambda x: x), name="odd"),
    ],
)
def test_what_the_table_does_not_hold_is_null_and_never_zero(layer):
    x = keras.Input((4, 4, 6))
    y = L.Conv2D(6, 1, name="known")(x)
    model = keras.Model(x, layer([y, y]) if isinstance(layer, L.AdditiveAttention) else layer(y))
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


# Memory


def peak(inputs, outputs):
    """Elements at the peak."""
    total = audit_model(keras.Model(inputs, outputs)).total
    assert total.peak_activation_bytes == 4 * total.peak_activation_bytes_int8
    return total.peak_activation_bytes_int8


def test_the_start_of_squeezenet_1_1_in_int8_bytes():
    x = keras.Input((224, 224, 3))
    y = L.MaxPooling2D(3, 2)(L.Conv2D(64, 3, 2, activation="relu")(x))
    squeeze = L.Conv2D(16, 1)(y)
    y = L.Concatenate()([L.Conv2D(64, 1)(squeeze), L.Conv2D(64, 3, padding="same")(squeeze)])
    assert peak(x, L.GlobalAveragePooling2D()(y)) == 111 * 111 * 64 + 55 * 55 * 64 == 982_144


def quantized(graph, bits):
    """The graph with elements of other sizes: what a reader of int8 files gives."""

    def resized(tensors):
        return tuple(dataclasses.replace(tensor, bits=bits) for tensor in tensors)

    layers = tuple(
        dataclasses.replace(layer, inputs=resized(layer.inputs), outputs=resized(layer.outputs))
        for layer in graph.layers
    )
    inputs, outputs = resized(graph.inputs), resized(graph.outputs)
    return dataclasses.replace(graph, layers=layers, inputs=inputs, outputs=outputs)


def test_the_peak_is_in_bytes_of_the_tensors_own_types():
    # The first layers of squeezenet_v1_1.
    x = keras.Input((224, 224, 3))
    y = L.Conv2D(16, 1)(L.MaxPooling2D(3, 2)(L.Conv2D(64, 3, 2, activation="relu")(x)))
    graph = keras_reader.read_keras_graph(keras.Model(x, y))
    elements = 111 * 111 * 64 + 55 * 55 * 64
    assert arithmetic.compute_peak_bytes(graph) == 4 * elements
    assert arithmetic.compute_peak_bytes(graph, bits=8) == elements
    assert arithmetic.compute_peak_bytes(quantized(graph, 8)) == elements == 982_144
    assert arithmetic.compute_peak_bytes(quantized(graph, 16)) == 2 * elements
    assert arithmetic.count_moved_bytes(quantized(graph, 8)) < arithmetic.count_moved_bytes(graph)


def test_a_concatenation_holds_its_branches_and_its_output():
    x = keras.Input((10, 10, 2))
    left, right = L.Conv2D(8, 1)(x), L.Conv2D(6, 3, padding="same")(x)
    assert peak(x, L.GlobalAveragePooling2D()(L.Concatenate()([left, right]))) == 10 * 10 * (8 + 6 + 14)


def test_a_bypass_keeps_its_tensor_until_the_addition():
    x = keras.Input((10, 10, 2))
    y = L.Conv2D(8, 1)(x)
    branch = L.Conv2D(8, 1)(L.Conv2D(4, 1)(y))
    assert peak(x, L.GlobalAveragePooling2D()(L.Add()([y, branch]))) == 10 * 10 * (8 + 8 + 8)


@pytest.mark.parametrize("after", [[L.BatchNormalization(), L.ReLU()], [L.Dropout(0.5), L.Activation("tanh")]])
def test_what_follows_a_convolution_directly_has_no_tensor_of_its_own(after):
    x = keras.Input((10, 10, 2))
    y = L.Conv2D(8, 3, padding="same")(x)
    for layer in after:
        y = layer(y)
    assert peak(x, y) == 10 * 10 * (2 + 8)


def test_flatten_and_reshape_share_their_inputs_memory():
    x = keras.Input((10, 10, 2))
    y = L.Flatten()(L.Reshape((5, 20, 8))(L.Conv2D(8, 1)(x)))
    assert peak(x, L.Dense(3)(y)) == 10 * 10 * (2 + 8)


def test_an_activation_on_what_others_still_read_has_its_own_tensor():
    x = keras.Input((10, 10, 2))
    y = L.Conv2D(8, 1)(x)
    assert peak(x, L.Add()([y, L.ReLU()(y)])) == 10 * 10 * (8 + 8 + 8)
    y = L.Conv2D(8, 1)(x)
    assert peak(x, L.Add()([y, L.ReLU()(L.Dropout(0.5)(y))])) == 10 * 10 * (8 + 8 + 8)


def test_an_activation_on_the_networks_input_or_output_has_its_own_tensor():
    x = keras.Input((10, 10, 2))
    assert peak(x, L.ReLU()(x)) == 10 * 10 * (2 + 2)
    y = L.Conv2D(8, 1)(x)
    assert peak(x, [y, L.ReLU()(y)]) == 10 * 10 * (8 + 8)


def test_zero_padding_writes_a_tensor_and_padding_inside_a_convolution_does_not():
    x = keras.Input((10, 10, 8))
    assert peak(x, L.Conv2D(1, 3)(L.ZeroPadding2D(1)(x))) == 10 * 10 * 8 + 12 * 12 * 8
    assert peak(x, L.Conv2D(1, 3, padding="same")(x)) == 10 * 10 * 8 + 10 * 10 * 1


def test_an_output_stays_live_to_the_end():
    x = keras.Input((10, 10, 2))
    y = L.Conv2D(8, 1)(x)
    late = L.Conv2D(10, 1)(L.Conv2D(1, 1)(y))
    assert peak(x, late) == 10 * 10 * (1 + 10)
    assert peak(x, [y, late]) == 10 * 10 * (8 + 1 + 10)


def test_an_input_is_live_from_the_start_until_its_last_reader():
    first, second = keras.Input((10, 10, 4)), keras.Input((10, 10, 3))
    y = L.Conv2D(1, 1)(L.Conv2D(7, 1)(first))
    assert peak([first, second], L.Concatenate()([y, second])) == 10 * 10 * (4 + 3 + 7)


# Receptive fields


def fields(inputs, outputs):
    return [row.receptive_field for row in audit_model(keras.Model(inputs, outputs)).rows]


def measured(model):
    """(height, width) of the input positions that the output position with the widest view responds to."""
    height, width = model.input_shape[1:3]
    impulses = np.eye(height * width, dtype="float32").reshape(height * width, height, width, 1)
    seen = np.asarray(model(impulses))[..., 0] != 0
    extents = []
    for row, column in itertools.product(*map(range, seen.shape[1:])):
        positions = np.argwhere(seen[:, row, column].reshape(height, width))
        if len(positions):
            extents.append(np.ptp(positions, axis=0) + 1)
    return tuple(int(extent) for extent in np.max(extents, axis=0))


@pytest.mark.parametrize(
    "layers",
    [
        [L.Conv2D(1, 3, **ONES), L.Conv2D(1, 3, **ONES)],
        [L.Conv2D(1, (3, 5), strides=(1, 2), **ONES), L.AveragePooling2D(2), L.Conv2D(1, 2, **ONES)],
        [L.Conv2D(1, 3, dilation_rate=2, **ONES), L.Conv2D(1, 1, strides=2, **ONES), L.Conv2D(1, 2, **ONES)],
        [L.Conv2D(1, 2, strides=2, **ONES), L.Conv2DTranspose(1, 3, strides=2, **ONES)],
        [L.Conv2D(1, 3, **ONES), L.Conv2DTranspose(1, 2, strides=2, **ONES)],
        [L.AveragePooling2D(2), L.UpSampling2D(2), L.Conv2D(1, 3, **ONES)],
        [L.AveragePooling2D(2), L.UpSampling2D(2, interpolation="bilinear")],
        [L.DepthwiseConv2D(3, depthwise_initializer="ones", use_bias=False), L.MaxPooling2D(3, 1)],
    ],
)
def test_the_field_is_what_an_all_ones_network_responds_to(layers):
    model = keras.Sequential([keras.Input((15, 15, 1)), *layers])
    assert audit_model(model).rows[-1].receptive_field == measured(model)


def test_growth_is_kernel_minus_one_times_the_strides_before():
    x = keras.Input((224, 224, 3))
    y = L.MaxPooling2D(3, 2)(L.Conv2D(64, 3, 2)(x))
    y = L.Conv2D(64, 3, padding="same")(L.ReLU()(L.Conv2D(16, 1)(y)))
    conv, pool = 3, 3 + (3 - 1) * 2
    assert fields(x, y) == [(conv, conv), (pool, pool), (pool, pool), (pool, pool), (pool + (3 - 1) * 4,) * 2]


def test_the_widest_branch_counts():
    x = keras.Input((20, 20, 4))
    y = L.Concatenate()([L.Conv2D(4, (5, 1), padding="same")(x), L.Conv2D(4, (1, 3), padding="same")(x)])
    assert fields(x, y)[-1] == (5, 3)


@pytest.mark.parametrize("collect", [L.Flatten(), L.GlobalAveragePooling2D()])
def test_what_collects_all_positions_sees_the_whole_input(collect):
    x = keras.Input((20, 30, 4))
    assert fields(x, L.Dense(3)(collect(L.Conv2D(4, 3)(x)))) == [(3, 3), (20, 30), (20, 30)]


def test_a_sequence_has_one_axis():
    x = keras.Input((30, 4))
    assert fields(x, L.Conv1D(4, 3)(L.MaxPooling1D(2)(x))) == [(1, 2), (1, 2 + (3 - 1) * 2)]


@pytest.mark.parametrize(
    ("layer", "field"),
    [
        (L.BatchNormalization(), (3, 3)),
        (L.BatchNormalization(axis=1), (3, 3)),
        (L.LayerNormalization(), (3, 3)),
        (L.LayerNormalization(axis=[1, 2, 3]), None),
        (L.RMSNormalization(), (3, 3)),
        (L.UnitNormalization(), (3, 3)),
        (convnext.LayerScale(1e-6, 4), (3, 3)),
        (L.Rescaling(2.0), (3, 3)),
        (L.Dense(4), (3, 3)),
        (L.Dropout(0.5), (3, 3)),
        (L.Cropping2D(1), (3, 3)),
        (L.ZeroPadding2D(1), (3, 3)),
        (L.Permute((2, 1, 3)), None),
        (L.Reshape((18, 18, 4)), (3, 3)),
        (L.Reshape((9, 36, 4)), None),
        (L.GroupNormalization(2), (20, 20)),
    ],
)
def test_a_layer_sees_what_its_statistics_are_taken_over(layer, field):
    x = keras.Input((20, 20, 4))
    assert fields(x, layer(L.Conv2D(4, 3)(x)))[-1] == field


def test_a_field_that_covers_the_input_survives_a_move_of_its_positions():
    x = keras.Input((8, 6, 4))
    y = L.Conv2D(4, (15, 11), padding="same")(x)
    assert fields(x, L.Permute((2, 1, 3))(y)) == [(15, 11), (15, 11)]


def test_after_a_layer_that_is_not_known_the_field_is_not_known():
    x = keras.Input((20, 20, 4))
    y = L.Conv2D(4, 3)(L.Lambda(lambda y: y)(x))
    assert fields(x, L.GlobalMaxPooling2D()(y)) == [None, None, (20, 20)]


def test_a_vector_has_no_field():
    x = keras.Input((20,))
    assert fields(x, L.Dense(4)(x)) == [None]
