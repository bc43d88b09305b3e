"""Receptive fields: by hand, and against what an all-ones network really responds to."""

import itertools

import keras
import numpy as np
import pytest

from keras_nin.audit import audit_model

L = keras.layers
ONES = {"kernel_initializer": "ones", "use_bias": False}


def fields(inputs, outputs):
    return [row.receptive_field for row in audit_model(keras.Model(inputs, outputs)).rows]


def measured(model):
    """(height, width) of the input positions that the output position with the widest view responds to."""
    height, width = model.input_shape[1:3]
    impulses = np.eye(height * width, dtype="float32").reshape(height * width, height, width, 1)
    seen = model.predict(impulses, verbose=0)[..., 0] != 0
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
    y = L.Conv2D(64, 3, padding="same")(L.Conv2D(16, 1)(y))
    conv, pool = 3, 3 + (3 - 1) * 2
    assert fields(x, y) == [(conv, conv), (pool, pool), (pool, pool), (pool + (3 - 1) * 4,) * 2]


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
    ("norm", "field"),
    [
        (L.BatchNormalization(), (3, 3)),
        (L.BatchNormalization(axis=1), (3, 3)),
        (L.LayerNormalization(), (3, 3)),
        (L.LayerNormalization(axis=[1, 2, 3]), None),
        (L.RMSNormalization(), (3, 3)),
        (L.GroupNormalization(2), (20, 20)),
    ],
)
def test_a_norm_sees_what_its_statistics_are_taken_over(norm, field):
    x = keras.Input((20, 20, 4))
    assert fields(x, norm(L.Conv2D(4, 3)(x)))[-1] == field


def test_after_a_layer_that_is_not_known_the_field_is_not_known():
    x = keras.Input((20, 20, 4))
    y = L.Conv2D(4, 3)(L.Lambda(lambda y: y)(x))
    assert fields(x, L.GlobalMaxPooling2D()(y)) == [None, None, (20, 20)]


def test_a_vector_has_no_field():
    x = keras.Input((20,))
    assert fields(x, L.Dense(4)(x)) == [None]
