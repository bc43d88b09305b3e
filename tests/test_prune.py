"""Channels that depend on one another, their removal, and what is selected for a target."""

import numpy as np
import pytest
from tiers import by_tier

from keras_nin.errors import InputError
from keras_nin.prune import (
    find_channels,
    measure_moments,
    pair_features,
    parse_target,
    rank_channels,
    remove_channels,
    scale_saliency,
)
from keras_nin.prune.selection import CountedCost, Selection, TimedOperator, Widths, measured_widths


def squeezenet(layers):
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(10, 3, padding="same", activation="relu")(x)
    squeezed = layers.Conv2D(5, 1, activation="relu")(x)
    left = layers.Conv2D(6, 1, activation="relu")(squeezed)
    right = layers.Conv2D(7, 3, padding="same", activation="relu")(squeezed)
    x = layers.Concatenate()([left, right])
    x = layers.MaxPooling2D()(layers.Dropout(0.5)(x))
    return inputs, layers.Softmax()(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(x)))


def residual(layers):
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(6, 3, padding="same")(y)
        y = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(y))
        x = layers.Add()([x, layers.Conv2D(8, 1)(y)])
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(5, 1, activation="silu")(gate))
    x = layers.Multiply()([x, gate])
    return inputs, layers.Dense(3)(layers.GlobalMaxPooling2D()(x))


def depthwise(layers):
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.Activation("relu6")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(layers.ZeroPadding2D()(x))
    x = layers.SeparableConv2D(9, 3, activation="elu")(x)
    return inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(layers.Conv2DTranspose(7, 2)(x)))


def flat(layers):
    x = inputs = layers.Input((6, 6, 2))
    x = layers.Conv2D(5, 3, activation="relu")(x)
    x = layers.Dense(9, activation="relu")(layers.BatchNormalization()(layers.Flatten()(layers.AveragePooling2D(2)(x))))
    x = layers.Reshape((1, 1, 9))(x)
    shared = layers.Dense(9, activation="tanh")
    x = shared(shared(x))
    return inputs, layers.Dense(3)(layers.Reshape((-1,))(x))


NETWORKS = (squeezenet, residual, depthwise, flat)


def build(network, seed=0):
    """A small network with weights, biases and statistics that are not zero."""
    import keras

    inputs, outputs = network(keras.layers)
    model = keras.Model(inputs, outputs)
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        # Biases above 0 keep channels behind a ReLU alive.
        center, spread = {"moving_variance": (1, 0.1), "bias": (0.4, 0.1), "beta": (0.4, 0.1)}.get(
            weight.name, (0, 0.4)
        )
        weight.assign(generator.normal(center, spread, weight.shape))
    return model


def images(model, count=16):
    return np.random.default_rng(1).random((count, *model.input_shape[1:]), np.float32)


def silence(graph, channels):
    """Set the weights that make some channels, and those of their normalization, to zero: they are zero everywhere."""
    for entry in graph.layers.values():
        made = entry.inputs if entry.outputs is None else entry.outputs
        dead = np.isin(made, channels)
        if entry.outputs is None:
            dead = np.tile(dead, entry.positions)
        values = []
        for variable in entry.layer.weights:
            value = np.asarray(variable).copy()
            if variable.name in ("beta", "moving_mean", "bias"):
                value[np.repeat(dead, entry.multiplier)] = 0
            elif variable.name in ("kernel", "pointwise_kernel") and entry.outputs is not None:
                axis = -2 if "Transpose" in entry.kind else -1
                np.moveaxis(value, axis, 0)[dead] = 0
            values.append(value)
        entry.layer.set_weights(values)


def outputs(model, batch):
    return np.asarray(model(batch, training=False))


def assert_equal_outputs(pruned, model, batch):
    expected = outputs(model, batch)
    np.testing.assert_allclose(outputs(pruned, batch), expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("network", by_tier(NETWORKS, default=(flat,)))
def test_zero_filters_are_removed_exactly(network):
    model = build(network)
    graph = find_channels(model)
    assert graph.groups
    zero = np.concatenate([group.channels[1:3] for group in graph.groups])
    silence(graph, zero)
    batch = images(model)
    moments = measure_moments(graph, [(batch, None)])
    ranked = [rank_channels(graph, group, moments) for group in graph.groups]
    for entry in ranked:
        assert set(entry.order[:2]) == set(entry.group.channels[1:3]), str(entry.group)
    pruned = remove_channels(graph, zero, moments, batch)
    assert_equal_outputs(pruned, model, batch)
    assert pruned.count_params() < model.count_params()
    makers = [entry for entry in graph.layers.values() if entry.outputs is not None]
    kept = {entry.name: np.flatnonzero(~np.isin(entry.outputs, zero)) for entry in makers}
    features = [[np.asarray(value) for value in side(batch)] for side in pair_features(graph, kept, pruned)]
    assert len(features[0]) == 1 + sum(len(entry.slots) == 1 for entry in makers)
    for expected, feature in zip(*features, strict=True):
        np.testing.assert_allclose(feature, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.slow
def test_groups_follow_the_graph():
    graph = find_channels(build(squeezenet))
    sizes = {str(group): len(group.channels) for group in graph.groups}
    assert list(sizes.values()) == [10, 5, 6, 7]
    assert list(graph.blocked.values()) == ["Softmax 'softmax' mixes channels"] or len(graph.blocked) == 1
    graph = find_channels(build(residual))
    trunk = max(graph.groups, key=lambda group: len(group.layers))
    # The stem, two branches and the gate.
    assert len(trunk.layers) == 4
    assert len(trunk.channels) == 8
    graph = find_channels(build(flat))
    shared = max(graph.groups, key=lambda group: len(group.channels))
    # What a layer takes and gives is tied, when it is called twice.
    assert len(shared.layers) == 2
    assert len(shared.channels) == 9
    dense = next(entry for entry in graph.layers.values() if entry.positions > 1 and entry.outputs is not None)
    assert (dense.positions, len(dense.inputs)) == (4, 5)


@pytest.mark.parametrize("network", by_tier(NETWORKS, wide=(squeezenet, residual)))
@pytest.mark.parametrize("item", ["params", "macs"])
def test_counted_costs_are_those_of_the_audit(network, item):
    from keras_nin.audit.api import audit_model

    model = build(network)
    graph = find_channels(model)
    batch = images(model)
    moments = measure_moments(graph, [(batch, np.zeros(len(batch), int))])
    ranked = [rank_channels(graph, group, moments) for group in graph.groups]
    audit = audit_model(model)
    cost = CountedCost(Widths(graph, ranked), audit, item)
    selection = Selection(ranked, cost, 2)
    original = cost(selection.kept)
    assert original == getattr(audit.total, item)
    assert selection.reach(0.6 * original)
    for number, widths in enumerate(selection.widths):  # as much is left as the limit allows
        for wider in [width for width in widths if width > selection.kept[number]][-1:]:
            counts = selection.kept.copy()
            counts[number] = wider
            assert cost(counts) > 0.6 * original
    pruned = remove_channels(graph, selection.removed, moments)
    total = audit_model(pruned).total
    assert getattr(total, item) == pytest.approx(cost(selection.kept), abs=1e-6)
    assert getattr(total, item) <= 0.6 * original
    assert not selection.reach(1.0)  # the last channels of a layer stay


def test_operators_are_measured_at_eighths():
    assert measured_widths(192, 8) == [48, 96, 120, 144, 168, 192]
    assert measured_widths(16, 8, smallest=10) == [16]


@pytest.mark.slow
def test_a_copy_of_a_channel_takes_the_place_of_the_removed_one():
    model = build(squeezenet)
    graph = find_channels(model)
    layer = next(entry.layer for entry in graph.layers.values() if len(entry.inputs) == 3)
    kernel, bias = layer.get_weights()
    kernel[..., 4], bias[4] = kernel[..., 2], bias[2]
    layer.set_weights([kernel, bias])
    batch = images(model)
    moments = measure_moments(graph, [(batch, None)])
    copied = graph.groups[0].channels[2:3]
    folded = outputs(remove_channels(graph, copied, moments), batch)
    sliced = outputs(remove_channels(graph, copied), batch)
    expected = outputs(model, batch)
    assert np.abs(folded - expected).max() < 1e-2 * np.abs(sliced - expected).max()


@pytest.mark.parametrize("network", by_tier(NETWORKS, wide=(squeezenet, flat)))
def test_layers_are_fitted_to_what_they_got(network):
    model = build(network)
    graph = find_channels(model)
    batch = images(model, 64)
    moments = measure_moments(graph, [(batch, None)])
    removed = np.concatenate([rank_channels(graph, group, moments).order[:2] for group in graph.groups])
    expected = outputs(model, batch)
    errors = [
        np.square(outputs(remove_channels(graph, removed, *extra), batch) - expected).mean()
        for extra in ((), (moments,), (moments, batch))
    ]
    assert errors[2] < errors[1] < errors[0]


def test_saliency_is_scaled_to_the_measured_divergence():
    import keras

    model = build(squeezenet)
    graph = find_channels(model)
    first, second, *_ = graph.groups
    silence(graph, second.channels[:2])
    fitted, compared = np.split(images(model, 48), [32])
    moments = measure_moments(graph, [(fitted, None)])
    ranked = [rank_channels(graph, group, moments) for group in graph.groups]
    scaled = scale_saliency(graph, ranked, moments, (fitted, compared), 1)
    scales = []
    for before, after in zip(ranked, scaled, strict=True):
        assert np.array_equal(before.order, after.order)
        scales.append(after.saliency[-2] / before.saliency[-2])
        np.testing.assert_allclose(after.saliency[:-1], scales[-1] * before.saliency[:-1], rtol=1e-9)
    narrowed = remove_channels(graph, ranked[0].order[:5], moments, fitted)
    softened = [keras.ops.softmax(np.log(outputs(network, compared)) / 2) for network in (model, narrowed)]
    assert scaled[0].saliency[5] == pytest.approx(4 * float(keras.losses.KLDivergence()(*softened)), rel=1e-3)
    assert first.layers == ranked[0].group.layers
    # Removing what is always zero changes nothing: that says nothing of the other channels of the group.
    assert scales[1] == pytest.approx(np.median([*scales[:1], *scales[2:]]))


@pytest.mark.parametrize("error", [-0.08, 0.0, 0.08])
def test_selection_follows_what_the_file_measures(monkeypatch, error):
    """The operators say so much less, or more, than the file takes: as much stays as the target allows."""
    from keras_nin.workflows import SILENT, pruning

    model = build(squeezenet)
    graph = find_channels(model)
    moments = measure_moments(graph, [(images(model), None)])
    ranked = [rank_channels(graph, group, moments) for group in graph.groups]
    calls = [call for call in graph.trace.calls if "Conv2D" in type(call.operation).__name__]
    operators = [TimedOperator(call, 100.0, {(0, 0): 0.0, (0, call.shapes[0][-1]): 100.0}) for call in calls]
    process = pruning._Pruning(None, parse_target("latency=-30%"), "int8", 1, 1, None, SILENT)
    process.graph, process.ranked = graph, ranked
    measured = []

    def measure(selection, wanted):
        kept = sum(selection.kept) / sum(len(entry.order) for entry in ranked)
        measured.append(kept + error)
        return measured[-1], ""

    monkeypatch.setattr(process, "time_operators", lambda widths: operators)
    monkeypatch.setattr(process, "measure", measure)
    monkeypatch.setattr(process, "rebuild", lambda selection: None)
    _, selection = process.reach_latency(Widths(graph, ranked))
    kept = sum(selection.kept) / sum(len(entry.order) for entry in ranked)
    assert kept + error <= 0.7
    assert kept + error == max(share for share in measured if share <= 0.7)
    assert kept + error > 0.55


def test_layers_without_a_rule_keep_their_channels():
    import keras

    @keras.saving.register_keras_serializable(package="test_prune")
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    def network(layers):
        x = inputs = layers.Input((8, 8, 3))
        x = layers.Conv2D(8, 3, name="before")(x)
        x = Twice(name="own")(x)
        x = layers.Conv2D(8, 3, name="after")(x)
        x = layers.LayerNormalization(name="norm")(x)
        x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
        x = layers.Conv2D(8, 1, name="free")(x)
        return inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))

    graph = find_channels(build(network))
    assert [str(group) for group in graph.groups] == ["free"]
    assert graph.blocked["before"] == "Twice 'own' has no rule"
    assert graph.blocked["after"] == "LayerNormalization 'norm' has no rule"


@pytest.mark.slow
def test_nested_models_and_blocks_are_opened():
    import keras

    from keras_nin.layers import Fire

    def network(layers):
        inner = keras.Sequential([layers.Input((8, 8, 8)), layers.Conv2D(6, 1, name="conv"), layers.ReLU()], name="a")
        x = inputs = layers.Input((8, 8, 3))
        x = layers.Conv2D(8, 3, padding="same", name="conv")(x)
        x = Fire(4, 6, 6, name="fire")(inner(x))
        return inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))

    model = build(network)
    graph = find_channels(model)
    removed = np.concatenate([group.channels[:2] for group in graph.groups])
    pruned = remove_channels(graph, removed)
    assert {"conv", "a_conv"} <= {layer.name for layer in pruned.layers}
    makers = [entry for entry in graph.layers.values() if entry.outputs is not None]
    kept = {entry.name: np.flatnonzero(~np.isin(entry.outputs, removed)) for entry in makers}
    shapes = [[output.shape for output in side.outputs] for side in pair_features(graph, kept, pruned)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 1 + len(makers)
    assert [group.channels.size for group in find_channels(pruned).groups] == [6, 4, 2, 4, 4]
    loaded = keras.models.model_from_json(pruned.to_json())
    assert loaded.count_params() == pruned.count_params()


def random_network(seed):
    """A function of `keras.layers` that builds a small graph: branches that are added or concatenated, in any order."""
    generator = np.random.default_rng(seed)
    kinds = ["conv", "depthwise", "norm", "pool", "add", "concat", "dense"]
    steps = generator.choice(kinds, generator.integers(1, 8)).tolist()
    first, *widths = generator.integers(2, 7, len(steps) + 1).tolist()

    def network(layers):
        x = inputs = layers.Input((8, 8, 2))
        x = layers.Conv2D(first, 3, padding="same", activation="relu")(x)
        for step, width in zip(steps, widths, strict=True):
            if step == "conv":
                x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
            elif step == "depthwise":
                x = layers.DepthwiseConv2D(3, padding="same")(x)
            elif step == "norm":
                x = layers.LeakyReLU()(layers.BatchNormalization()(x))
            elif step == "pool":
                x = layers.AveragePooling2D(2, strides=1, padding="same")(x)
            elif step == "add":
                x = layers.Add()([x, layers.Conv2D(x.shape[-1], 1)(x)])
            elif step == "concat":
                x = layers.Concatenate()([layers.Conv2D(width, 1)(x), x, layers.MaxPooling2D(3, 1, "same")(x)])
            else:
                x = layers.Dense(width, activation="sigmoid")(x)
        x = layers.Flatten()(x) if seed % 2 else layers.GlobalAveragePooling2D()(x)
        return inputs, layers.Dense(3)(x)

    return network


@pytest.mark.parametrize("seed", by_tier(range(24), wide=range(3, 24)))
def test_unread_channels_of_random_networks_are_removed_exactly(seed):
    """Channels whose weights in all later layers are zero: whatever they hold, and whatever carries them there."""
    model = build(random_network(seed), seed)
    graph = find_channels(model)
    unread = np.concatenate([group.channels[seed % 2 : seed % 2 + 1] for group in graph.groups])
    for entry in graph.layers.values():
        if entry.outputs is not None:
            kernel, *rest = entry.layer.get_weights()
            rows = np.tile(np.isin(entry.inputs, unread), entry.positions)
            np.moveaxis(kernel, -2, 0)[rows] = 0
            entry.layer.set_weights([kernel, *rest])
    batch = images(model, 4)
    moments = measure_moments(graph, [(batch, None)])
    for group in graph.groups:
        assert rank_channels(graph, group, moments).order[0] in unread
    pruned = remove_channels(graph, unread, moments)
    assert_equal_outputs(pruned, model, batch)


@pytest.mark.parametrize(
    ("text", "item", "share", "most"),
    [
        ("latency=-30%", "latency", 0.7, None),
        ("macs=50M", "macs", None, 50e6),
        ("latency=2.5ms", "latency", None, 2500),
    ],
)
def test_targets(text, item, share, most):
    target = parse_target(text)
    assert (target.item, target.most) == (item, most)
    assert target.share == (share and pytest.approx(share))
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text", ["latency=-200%", "latency=30%", "macs=-0%", "speed=-30%", "latency=5", "params=5..", ""]
)
def test_bad_targets(text):
    with pytest.raises(InputError):
        parse_target(text)
