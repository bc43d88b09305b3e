"""Exact rewrites: equal outputs, the promised savings, and every site that must stay as it is."""

import keras
import numpy as np
import pytest

from keras_nin import InputError, export, models, rewrite
from keras_nin.audit import audit_model
from keras_nin.rewrite import convert_dense_to_conv, simplify_model
from keras_nin.tflite.reader import read_model

L = keras.layers


@pytest.fixture(autouse=True)
def _fresh_names():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def randomized(model):
    """The model with random weights everywhere, moving statistics and biases included."""
    generator = np.random.default_rng(1)
    model.set_weights([generator.uniform(0.2, 1.0, weight.shape).astype("float32") for weight in model.get_weights()])
    return model


def chain(*layers, shape=(9, 9, 6)):
    x = keras.Input(shape, name="image")
    y = x
    for layer in layers:
        y = layer(y)
    return randomized(keras.Model(x, y, name="chain"))


def check(model, *, names, rules):
    """Simplify `model`; hold the result to the model's outputs, to `names` of its layers, to the savings promised."""
    given = [weight.copy() for weight in model.get_weights()]
    result = simplify_model(model)
    image = np.random.default_rng(2).standard_normal((3, *model.input_shape[1:])).astype("float32")
    expected = np.asarray(model(image, training=False))
    np.testing.assert_allclose(result.model(image, training=False), expected, atol=1e-5 * np.abs(expected).max())
    assert result.max_rel_diff <= 1e-5
    assert [layer.name for layer in result.model.layers[1:]] == names
    assert [step.rule for step in result.steps] == rules
    before, after = audit_model(model).total, audit_model(result.model).total
    assert (result.params, result.macs) == ((before.params, after.params), (before.macs, after.macs))
    assert before.params - after.params == sum(step.saves["params"] for step in result.steps)
    assert before.macs - after.macs == sum(step.saves["macs"] for step in result.steps)
    assert all(np.array_equal(*pair) for pair in zip(given, model.get_weights(), strict=True))
    return result


COLLAPSE, COMMUTE = "collapsible-pointwise", "pointwise-before-average-pool"


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
def test_collapse_with_and_without_biases(biases):
    first, second = biases
    model = chain(L.Conv2D(8, 1, use_bias=first, name="a"), L.Conv2D(5, 1, use_bias=second, name="b"))
    result = check(model, names=["b"], rules=[COLLAPSE])
    use_bias = first or second
    assert result.params[1] == 6 * 5 + use_bias * 5
    # W = W1 W2, b = b1 W2 + b2
    weights = [layer.get_weights() for layer in model.layers[1:]]
    (w1, *b1), (w2, *b2) = weights
    product = result.model.get_layer("b").get_weights()
    np.testing.assert_allclose(product[0][0, 0], w1[0, 0] @ w2[0, 0], rtol=1e-6)
    if use_bias:
        expected = (b1[0] @ w2[0, 0] if b1 else 0) + (b2[0] if b2 else 0)
        np.testing.assert_allclose(product[1], expected, rtol=1e-6)


def test_collapse_takes_in_what_is_linear_between():
    between = [L.BatchNormalization(name="bn"), L.Dropout(0.5, name="drop"), L.Activation("linear", name="same")]
    model = chain(L.Conv2D(8, 1, name="a"), *between, L.Conv2D(5, 1, activation="relu", name="b"))
    result = check(model, names=["b"], rules=[COLLAPSE])
    assert result.params == (6 * 8 + 8 + 4 * 8 + 8 * 5 + 5, 6 * 5 + 5)
    assert result.model.get_layer("b").activation is keras.activations.relu


@pytest.mark.parametrize("norm", [{"scale": False}, {"center": False}])
def test_collapse_takes_in_a_norm_without_gamma_or_beta(norm):
    check(
        chain(L.Conv2D(8, 1, name="a"), L.BatchNormalization(name="bn", **norm), L.Conv2D(5, 1, name="b")),
        names=["b"],
        rules=[COLLAPSE],
    )


@pytest.mark.parametrize(("strides", "padding"), [((1, 2), "valid"), ((3, 2), "same"), ((2, (1, 3)), "valid")])
def test_collapse_multiplies_strides(strides, padding):
    first, second = strides
    convolutions = [
        L.Conv2D(8, 1, strides=first, padding=padding, name="a"),
        L.Conv2D(5, 1, strides=second, padding="same", name="b"),
    ]
    # Narrow at the end, so that the one layer is no dearer at any stride.
    check(chain(*convolutions, shape=(13, 11, 6)), names=["b"], rules=[COLLAPSE])


def test_collapse_of_dense_layers_on_a_map_and_of_a_sequence():
    check(chain(L.Dense(8, name="a"), L.Dense(5, activation="tanh", name="b")), names=["b"], rules=[COLLAPSE])
    model = chain(L.Conv1D(8, 1, strides=2, name="a"), L.Conv1D(5, 1, name="b"), shape=(11, 6))
    check(model, names=["b"], rules=[COLLAPSE])


def test_three_in_a_row_become_one():
    model = chain(*(L.Conv2D(6, 1, name=name) for name in "abc"))
    assert check(model, names=["c"], rules=[COLLAPSE]).params == (3 * (36 + 6), 36 + 6)


def test_a_sequential_model_keeps_its_name_and_what_is_around():
    layers = [L.Conv2D(6, 3, name="see"), L.Conv2D(8, 1, name="a"), L.Conv2D(5, 1, name="b"), L.ReLU(name="relu")]
    model = randomized(keras.Sequential([keras.Input((9, 9, 3)), *layers], name="row"))
    result = check(model, names=["see", "b", "relu"], rules=[COLLAPSE])
    assert result.model.name == "row"


@pytest.mark.parametrize("keepdims", [False, True])
def test_commute_with_a_global_average(keepdims):
    pool = L.GlobalAveragePooling2D(keepdims=keepdims, name="pool")
    model = chain(L.Conv2D(10, 1, name="classes"), L.BatchNormalization(name="bn"), pool, L.Softmax(name="softmax"))
    flatten = [] if keepdims else ["pool_flatten"]
    result = check(model, names=["pool", "classes", "bn", *flatten, "softmax"], rules=[COMMUTE])
    assert result.macs == (81 * 6 * 10, 6 * 10)
    assert result.model.output_shape == model.output_shape


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_commute_with_a_window(padding):
    model = chain(L.Conv2D(4, 1, name="a"), L.AveragePooling2D(2, padding=padding, name="pool"))
    side = 5 if padding == "same" else 4
    assert check(model, names=["pool", "a"], rules=[COMMUTE]).macs == (81 * 6 * 4, side * side * 6 * 4)


def test_both_in_one_network():
    convolutions = [L.Conv2D(8, 1, name="a"), L.Conv2D(5, 1, name="b")]
    model = chain(*convolutions, L.GlobalAveragePooling2D(name="pool"), L.Dense(3, name="classes"))
    check(model, names=["pool", "b", "pool_flatten", "classes"], rules=[COLLAPSE, COMMUTE])


def read_twice(x):
    y = L.Conv2D(6, 1, name="a")(x)
    return L.Add(name="sum")([y, L.Conv2D(6, 1, name="b")(y)])


def intermediate_output(x):
    y = L.Conv2D(6, 1, name="a")(x)
    return [y, L.Conv2D(6, 1, name="b")(y)]


def shared(x):
    layer = L.Conv2D(6, 1, name="a")
    return layer(L.Conv2D(6, 1, name="b")(layer(x)))


def nested(x):
    inner = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(6, 1), L.Conv2D(6, 1)], name="inner")
    return inner(x)


class Own(L.Conv2D):
    """Called a convolution, but may compute anything."""


REFUSED = {
    "activation in the layer": lambda x: L.Conv2D(5, 1)(L.Conv2D(8, 1, activation="relu")(x)),
    "activation between": lambda x: L.Conv2D(5, 1)(L.ReLU()(L.Conv2D(8, 1)(x))),
    "other norm between": lambda x: L.Conv2D(5, 1)(L.LayerNormalization()(L.Conv2D(8, 1)(x))),
    "norm over another axis": lambda x: L.Conv2D(5, 1)(L.BatchNormalization(axis=1)(L.Conv2D(8, 1)(x))),
    "padding between": lambda x: L.Conv2D(5, 1)(L.ZeroPadding2D(1)(L.Conv2D(8, 1)(x))),
    "3x3 after": lambda x: L.Conv2D(5, 3)(L.Conv2D(8, 1)(x)),
    "groups": lambda x: L.Conv2D(6, 1, groups=2)(L.Conv2D(8, 1)(x)),
    "low rank": lambda x: L.Conv2D(6, 1)(L.Conv2D(1, 1)(x)),
    "read twice": read_twice,
    "intermediate output": intermediate_output,
    "shared": shared,
    "nested": nested,
    "own class": lambda x: L.Conv2D(5, 1)(Own(8, 1)(x)),
    "half of a separable": lambda x: L.Conv2D(6, 1)(L.SeparableConv2D(6, 3)(x)),
    "half precision": lambda x: L.Conv2D(5, 1, dtype="float16")(L.Conv2D(8, 1, dtype="float16")(x)),
    "activation before the average": lambda x: L.GlobalAveragePooling2D()(L.Conv2D(5, 1, activation="relu")(x)),
    "maximum": lambda x: L.GlobalMaxPooling2D()(L.Conv2D(5, 1)(x)),
    "stride before the average": lambda x: L.GlobalAveragePooling2D()(L.Conv2D(5, 1, strides=2)(x)),
    "3x3 before the average": lambda x: L.GlobalAveragePooling2D()(L.Conv2D(5, 3)(x)),
    "average that saves nothing": lambda x: L.AveragePooling2D(3, 1, padding="same")(L.Conv2D(5, 1)(x)),
    "average of padding": lambda x: L.GlobalAveragePooling2D()(L.ZeroPadding2D(1)(L.Conv2D(5, 1)(x))),
}


@pytest.mark.usefixtures("structure_only")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_stays_as_it_is(case):
    x = keras.Input((8, 8, 6))
    model = keras.Model(x, REFUSED[case](x))
    result = simplify_model(model)
    assert result.model is model
    assert (result.steps, result.max_rel_diff) == ((), 0.0)
    assert (result.params[0], result.macs[0]) == (result.params[1], result.macs[1])


def test_shared_layers_elsewhere_stay_shared():
    x = keras.Input((8, 8, 6), name="image")
    see = L.Conv2D(6, 3, padding="same", name="see")
    y = L.Conv2D(5, 1, name="b")(L.Conv2D(6, 1, name="a")(see(see(x))))
    check(randomized(keras.Model(x, y)), names=["see", "b"], rules=[COLLAPSE])


def test_several_inputs_and_outputs_keep_their_structure():
    x = {"left": keras.Input((8, 8, 6), name="left"), "right": keras.Input((8, 8, 6), name="right")}
    y = L.Conv2D(5, 1, name="b")(L.Conv2D(6, 1, name="a")(x["left"] + 2 * x["right"]))
    result = simplify_model(randomized(keras.Model(x, {"map": y, "sum": L.GlobalAveragePooling2D(name="mean")(y)})))
    assert len(result.steps) == 1
    assert set(result.model.output) == {"map", "sum"}
    assert set(result.model.input) == {"left", "right"}


def test_a_wrong_rewrite_is_noticed(monkeypatch):
    # What the collapse would give if it left out the second layer's bias.
    exact = rewrite._multiply_layers

    def without_bias(parts):
        kernel, bias = exact(parts)
        return kernel, bias - parts[-1][1].get_weights()[1]

    monkeypatch.setattr(rewrite, "_multiply_layers", without_bias)
    with pytest.raises(RuntimeError, match="differs from the model by"):
        simplify_model(chain(L.Conv2D(8, 1, name="a"), L.Conv2D(5, 1, name="b")))


def test_what_has_no_graph_is_refused():
    with pytest.raises(InputError, match="Expected a built"):
        simplify_model(keras.Sequential([L.Dense(3)]))


# Dense to convolution


def sequential():
    stack = [L.Conv2D(3, 3), L.Flatten(), L.Dense(5), L.BatchNormalization(), L.ReLU(), L.Dense(4)]
    return keras.Sequential([keras.Input((8, 8, 2)), *stack])


def pooled():
    x = keras.Input((8, 8, 2))
    y = L.GlobalMaxPooling2D()(L.Conv2D(6, 3, padding="same")(x))
    y = L.Add()([L.Dense(7, activation="tanh")(y), L.Dense(7, use_bias=False)(y)])
    return keras.Model(x, L.Softmax()(L.Dense(3)(L.Dropout(0.5)(y))))


CLASSIFIERS = {
    "sequential": sequential,
    "pooled": pooled,
    "convnet_linear_head": lambda: models.build_model("convnet_linear_head"),
    "convnet_pointwise_head": lambda: models.build_model("convnet_pointwise_head"),
    "googlenet_cifar10": lambda: models.build_model("googlenet_cifar10"),
    "nin_digits": lambda: models.build_model("nin_digits", weights="digits"),
    "vgg16": lambda: keras.applications.VGG16(weights=None, input_shape=(64, 64, 3)),
}
QUICK = ("sequential", "pooled", "convnet_linear_head")


def images(shape, count=2):
    return np.random.default_rng(0).random((count, *shape), np.float32)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CLASSIFIERS]
)
def test_equal_on_the_training_size_and_a_map_on_a_larger_image(name):
    model = CLASSIFIERS[name]()
    weights = [weight.copy() for weight in model.get_weights()]
    converted = convert_dense_to_conv(model)
    shape = model.input_shape[1:]
    expected = np.asarray(model(images(shape)))
    np.testing.assert_allclose(np.asarray(converted(images(shape)))[:, 0, 0], expected, rtol=0, atol=1e-5)
    scores = converted(images((shape[0] + 32, shape[1] + 64, shape[2]), 1))
    assert scores.shape[1] >= 2
    assert scores.shape[2] >= 3
    assert scores.shape[3] == expected.shape[1]
    assert not any(isinstance(layer, L.Dense) for layer in converted.layers)
    assert converted.count_params() == model.count_params()
    converted.set_weights([0 * weight for weight in converted.get_weights()])
    assert all(np.array_equal(*pair) for pair in zip(weights, model.get_weights(), strict=True))


def test_the_map_has_the_score_of_every_window():
    """Where padding plays no part, a score of the map is that of the model on the window alone."""
    model = sequential()
    larger = images((11, 13, 2), 1)
    scores = np.asarray(convert_dense_to_conv(model)(larger))
    assert scores.shape == (1, 4, 6, 4)
    for row, column in ((0, 0), (3, 5), (1, 2)):
        window = larger[:, row : row + 8, column : column + 8]
        np.testing.assert_allclose(scores[:, row, column], np.asarray(model(window)), atol=1e-5)


@pytest.mark.slow
def test_a_fixed_size_exports_without_dense_layers():
    converted = convert_dense_to_conv(sequential(), input_shape=(10, 8, 2))
    assert converted.output_shape == (None, 3, 1, 4)
    exported = export.convert_model(converted, "float32")
    assert "FULLY_CONNECTED" not in {operator.op for operator in read_model(exported.data).main.operators}


def vector_input():
    x = keras.Input((8, 8, 2))
    return keras.Model(x, L.Dense(3, name="late")(L.Reshape((128,), name="reshape")(x)))


def nested_backbone():
    y = keras.Input((8, 8, 3))
    inner = keras.Model(y, L.GlobalAveragePooling2D()(y), name="inner")
    x = keras.Input((8, 8, 3))
    return keras.Model(x, L.Dense(3, name="late")(inner(x)))


def normalized():
    x = keras.Input((8, 8, 2))
    return keras.Model(x, L.Dense(3, name="late")(L.LayerNormalization(name="norm")(L.Flatten()(x))))


def two_inputs():
    x, y = keras.Input((8, 8, 2)), keras.Input((8, 8, 2))
    return keras.Model([x, y], L.Dense(2)(L.Flatten()(L.Add()([x, y]))))


@pytest.mark.usefixtures("structure_only")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (vector_input, "Received: layer 'late', which reads the output of Reshape 'reshape'"),
        (nested_backbone, "Received: layer 'late', which reads the output of Functional 'inner'"),
        (normalized, "Received: LayerNormalization 'norm'"),
        (two_inputs, "one input"),
        (lambda: models.build_model("conv1x1_3to2"), "Flatten, Dense or global pooling head"),
        (lambda: keras.Sequential([keras.Input((None, None, 3)), L.GlobalMaxPooling2D()]), "a known size"),
        (lambda: "nin_digits", "Expected a built keras.Model"),
    ],
)
def test_what_cannot_be_converted_is_named(make, message):
    with pytest.raises(InputError, match=message):
        convert_dense_to_conv(make())
