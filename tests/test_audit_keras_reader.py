"""Reading Keras models: order, nesting, sharing, weights, and what is refused."""

import io

import keras
import numpy as np
import pytest

from keras_nin.audit import audit_model, keras_reader
from keras_nin.errors import InputError

L = keras.layers


class Squeeze(L.Layer):
    """A layer that holds its graph as `inner`, like the blocks of this package."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = None

    def build(self, input_shape):
        x = keras.Input((None, None, input_shape[-1]))
        y = L.Conv2D(4, 1, activation="relu", name="reduce")(x)
        self.inner = keras.Model(x, L.Conv2D(8, 3, padding="same", name="see")(y))

    def call(self, inputs):
        return self.inner(inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 8)


def residual_net():
    x = keras.Input((12, 12, 3))
    y = L.BatchNormalization(name="bn")(L.Conv2D(8, 3, padding="same", name="stem")(x))
    branch = L.Conv2D(8, 1, name="project")(
        L.Dropout(0.2, name="drop")(L.SeparableConv2D(16, 3, padding="same", name="sep")(y))
    )
    y = L.Add(name="sum")([y, branch])
    y = L.GlobalAveragePooling2D(name="pool")(y)
    return keras.Model(x, L.Dense(5, activation="softmax", name="classes")(y), name="residual")


def names(model):
    return [row.name for row in audit_model(model).rows]


def test_rows_are_in_execution_order_without_inputs():
    order = ["stem", "bn", "sep/depthwise", "sep/pointwise", "drop", "project", "sum", "pool", "classes"]
    assert names(residual_net()) == order


def test_params_are_the_models_own_before_and_after_training():
    model = residual_net()
    before = audit_model(model)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    after = audit_model(model)
    assert before == after
    assert sum(row.params for row in after.rows) == after.total.params == model.count_params()
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert after.total.trainable_params == sum(row.trainable_params for row in after.rows) == trainable
    assert after.total.non_trainable_params == model.count_params() - trainable == 2 * 8


def test_frozen_layers_are_not_trainable():
    model = residual_net()
    model.get_layer("stem").trainable = False
    total = audit_model(model).total
    assert total.non_trainable_params == 2 * 8 + (3 * 3 * 3 * 8 + 8)
    model.trainable = False
    assert audit_model(model).total.trainable_params == 0


def test_rows_agree_with_what_the_model_says_of_its_layers():
    model = residual_net()
    params, shapes = {}, {}
    for row in audit_model(model).rows:
        layer = row.name.split("/")[0]
        params[layer] = params.get(layer, 0) + row.params
        shapes[layer] = row.output_shape
    layers = model.layers[1:]  # without the input
    assert params == {layer.name: layer.count_params() for layer in layers}
    assert shapes == {layer.name: (1, *layer.output.shape[1:]) for layer in layers}


def test_nested_models_are_flattened_with_their_path():
    inner_input = keras.Input((8, 8, 3))
    inner = keras.Sequential([L.Conv2D(4, 1, name="a"), L.ReLU(name="b")], name="deep")
    outer = keras.Model(inner_input, L.Conv2D(6, 1, name="c")(inner(inner_input)), name="backbone")
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, L.GlobalAveragePooling2D(name="pool")(L.Conv2D(2, 1, name="head")(outer(x))))
    result = audit_model(model)
    assert [row.name for row in result.rows] == ["backbone/deep/a", "backbone/deep/b", "backbone/c", "head", "pool"]
    assert [row.block for row in result.rows] == ["backbone/deep", "backbone/deep", "backbone", None, None]
    assert result.total.macs == 8 * 8 * (3 * 4 + 4 * 6 + 6 * 2)
    assert result.total.params == model.count_params()
    # Roles look through the nesting: `c` is the last layer of its own model, not of the network.
    assert [row.role for row in result.rows] == ["expand", None, "expand", "head", None]


def test_a_nested_model_is_read_at_the_size_it_is_called_with():
    inner_input = keras.Input((None, None, 3))
    inner = keras.Model(inner_input, L.Conv2D(4, 3, name="a")(inner_input), name="open")
    x = keras.Input((8, 10, 3))
    row = audit_model(keras.Model(x, inner(x))).rows[0]
    assert (row.input_shape, row.output_shape) == ((1, 8, 10, 3), (1, 6, 8, 4))
    assert row.macs == 6 * 8 * 3 * 3 * 3 * 4


def test_a_layer_with_an_inner_model_is_opened():
    model = keras.Sequential([keras.Input((8, 8, 6)), Squeeze(name="fire1"), Squeeze(name="fire2")])
    result = audit_model(model)
    assert [row.name for row in result.rows] == ["fire1/reduce", "fire1/see", "fire2/reduce", "fire2/see"]
    assert [row.role for row in result.rows] == ["reduce", None, "reduce", None]
    assert result.total.macs == 8 * 8 * (6 * 4 + 9 * 4 * 8 + 8 * 4 + 9 * 4 * 8)
    assert result.total.params == model.count_params()


def test_a_shared_layer_has_a_row_per_use_and_its_weights_once():
    x = keras.Input((8, 8, 4))
    shared = L.Conv2D(4, 3, padding="same", name="conv")
    model = keras.Model(x, shared(shared(x)))
    first, second = audit_model(model).rows
    assert (first.name, second.name) == ("conv", "conv (2)")
    assert (first.params, second.params) == (3 * 3 * 4 * 4 + 4, 0)
    assert (first.weight_bytes, second.weight_bytes) == ((3 * 3 * 4 * 4 + 4) * 4, 0)
    assert first.macs == second.macs == 8 * 8 * 3 * 3 * 4 * 4


def test_a_shared_model_has_rows_per_use_and_its_weights_once():
    tower = keras.Sequential([keras.Input((8, 8, 4)), L.SeparableConv2D(2, 1, name="sep")], name="tower")
    left, right = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    model = keras.Model([left, right], L.Add(name="sum")([tower(left), tower(right)]))
    result = audit_model(model)
    uses = ["tower/sep/depthwise", "tower/sep/pointwise", "tower (2)/sep/depthwise", "tower (2)/sep/pointwise"]
    assert [row.name for row in result.rows] == [*uses, "sum"]
    assert [row.params for row in result.rows] == [4, 4 * 2 + 2, 0, 0, 0]
    assert result.total.macs == 2 * 8 * 8 * (4 + 4 * 2)
    assert result.rows[-1].input_shape == ((1, 8, 8, 2), (1, 8, 8, 2))


def test_weights_outside_the_graph_get_a_row_of_their_own():
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(2)(x))
    model.extra = L.Dense(3)
    model.extra.build((None, 5))
    result = audit_model(model)
    assert result.rows[-1].name == keras_reader.WEIGHTS_OUTSIDE_GRAPH
    assert result.rows[-1].params == 5 * 3 + 3
    assert result.unknown == (keras_reader.WEIGHTS_OUTSIDE_GRAPH,)
    assert result.total.params == model.count_params()


def test_a_models_name_can_be_replaced():
    assert audit_model(residual_net()).model == "residual"
    assert audit_model(residual_net(), name="mine").model == "mine"


def test_a_text_is_a_model_to_load():
    with pytest.raises(InputError, match="no_such_net"):
        audit_model("no_such_net")


def test_an_open_input_axis_is_named():
    x = keras.Input((None, 32, 3))
    with pytest.raises(InputError, match=r"\(None, None, 32, 3\), open at axis 1 \(height\)\."):
        audit_model(keras.Model(x, L.Conv2D(4, 3)(x)))


@pytest.mark.parametrize(
    ("model", "received"),
    [
        (keras.Sequential([L.Dense(3)], name="bare"), "a Sequential model that has no input shape yet"),
        (type("Own", (keras.Model,), {})(), "a model without a graph of layers of type .*Own"),
        (io.BytesIO(), "an object of type _io.BytesIO"),
        (None, "an object of type builtins.NoneType"),
    ],
)
def test_what_has_no_graph_is_refused(model, received):
    with pytest.raises(
        InputError, match=f"Expected a built Functional or Sequential keras.Model. Received: {received}"
    ):
        audit_model(model)


def test_channels_first_is_refused():
    x = keras.Input((3, 8, 8))
    model = keras.Model(x, L.MaxPooling2D(2, data_format="channels_first", name="pool")(x))
    with pytest.raises(InputError, match=r"channels last.*'pool'"):
        audit_model(model)
