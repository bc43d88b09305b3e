"""Peak activation memory, against the live tensors written out by hand."""

import dataclasses

import keras
import pytest

from keras_nin import models
from keras_nin.audit import arithmetic, audit_model, keras_reader

L = keras.layers


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


def quantised(graph, bits):
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
    graph = keras_reader.read_keras_graph(models.build_model("squeezenet_v1_1"))
    elements = 111 * 111 * 64 + 55 * 55 * 64
    assert arithmetic.compute_peak_bytes(graph) == 4 * elements
    assert arithmetic.compute_peak_bytes(graph, bits=8) == elements
    assert arithmetic.compute_peak_bytes(quantised(graph, 8)) == elements == 982_144
    assert arithmetic.compute_peak_bytes(quantised(graph, 16)) == 2 * elements
    assert arithmetic.count_moved_bytes(quantised(graph, 8)) < arithmetic.count_moved_bytes(graph)


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
