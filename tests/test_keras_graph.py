"""The walker of Keras graphs, against Keras's own way of running a model."""

import numpy as np
import pytest

from keras_nin import keras_graph
from keras_nin.keras_graph import TensorSlot, trace_model

keras = pytest.importorskip("keras")
layers = keras.layers


def replay(trace, values):
    """Run the calls of a trace on the values of its inputs; return the values of its outputs."""
    slots = dict(zip(trace.inputs, values, strict=True))

    def fill(value):
        return slots[value] if isinstance(value, TensorSlot) else value

    for call in trace.calls:
        args, kwargs = keras.tree.map_structure(fill, (call.args, call.kwargs))
        slots.update(zip(call.outputs, keras.tree.flatten(call.operation(*args, **kwargs)), strict=True))
    return [slots[slot] for slot in trace.outputs]


def nested_model():
    """A layer called twice, a model called twice, operations of keras.ops and a branch that joins."""
    inner_input = keras.Input((None, None, 4))
    inner = keras.Model(inner_input, layers.Conv2D(4, 1, name="conv")(inner_input), name="inner")
    sequential = keras.Sequential([keras.Input((8, 8, 4)), layers.ReLU(name="relu")], name="sequence")
    image = keras.Input((8, 8, 4))
    twice = layers.Conv2D(4, 3, padding="same", name="twice")
    x = twice(twice(image))
    x = layers.Add(name="add")([inner(x), inner(sequential(image)) * 2.0])
    return keras.Model(image, [layers.Dropout(0.5, name="drop")(x), keras.ops.mean(x, axis=(1, 2))], name="outer")


def test_a_trace_computes_what_the_model_computes():
    model = nested_model()
    image = np.random.default_rng(0).random((2, 8, 8, 4), np.float32)
    for value, expected in zip(replay(trace_model(model), [image]), model(image), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_paths_and_uses():
    paths = ["/".join(call.unique_path) for call in trace_model(nested_model()).calls]
    assert {"twice", "twice (2)", "inner/conv", "inner (2)/conv", "sequence/relu", "add", "drop"} <= set(paths)


def test_producers_and_consumers():
    trace = trace_model(nested_model())
    first = next(call for call in trace.calls if call.unique_path == ("twice",))
    (second,) = trace.consumers[first.outputs[0]]
    assert second.unique_path == ("twice (2)",)
    assert trace.producers[second.inputs[0]] is first
    assert trace.inputs[0] not in trace.producers
    assert {call.path[-1] for call in trace.consumers[trace.inputs[0]]} == {"twice", "relu"}


def test_the_scope_of_a_block_has_its_inner_model():
    from keras_nin.layers import Fire

    image = keras.Input((8, 8, 4))
    model = keras.Model(image, Fire(2, 4, 4, name="fire")(image))
    call = trace_model(model).calls[0]
    assert (call.path[0], len(call.path)) == ("fire", 2)
    assert len(call.scope) == 3
    assert (call.scope[0], call.scope[-1]) == (call.path[0], call.path[-1])


def test_what_has_no_graph():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    assert trace_model(Subclassed()) is None
    assert trace_model(keras.Sequential([layers.ReLU()])) is None
    assert keras_graph.graph_of(layers.ReLU()) is None


def test_layers_of_layers():
    model = nested_model()
    assert {layer.name for layer in keras_graph.iterate_layers(model)} >= {"outer", "inner", "conv", "sequence", "relu"}
    assert {layer.name for layer in keras_graph.child_layers(model)} >= {"twice", "inner", "add"}
    assert keras_graph.producer_of(model.outputs[0]).name == "drop"
    assert keras_graph.count_uses(model.get_layer("twice")) == 2
